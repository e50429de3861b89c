package convert

import (
	"bytes"
	"fmt"

	"github.com/evatool/evatool/internal/tensorfile"
)

// output is a safetensors file in the making.
type output struct {
	*pending
	tensors []tensorfile.Info
	head    int64   // bytes of the header
	at      []int64 // where tensor i starts in the file
	size    int64
}

// newOutput creates the temporary file at its full size and writes the header.
func newOutput(path string, tensors []tensorfile.Info, metadata map[string]string) (*output, error) {
	head, err := header(tensors, metadata)
	if err != nil {
		return nil, err
	}
	o := &output{tensors: tensors, head: int64(len(head)), size: int64(len(head))}
	for _, t := range tensors {
		o.at = append(o.at, o.size)
		o.size += t.NumBytes()
	}
	if o.pending, err = newPending(path); err != nil {
		return nil, err
	}
	if err := o.reserve(o.size); err != nil {
		o.discard()
		return nil, err
	}
	if _, err := o.f.WriteAt(head, 0); err != nil {
		o.discard()
		return nil, o.fail(err)
	}
	return o, nil
}

// header is the start of a safetensors file.
func header(tensors []tensorfile.Info, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	if _, err := tensorfile.NewWriter(&b, tensors, metadata); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// rewriteHeader changes metadata values; the new header has the old length.
func (o *output) rewriteHeader(metadata map[string]string) error {
	head, err := header(o.tensors, metadata)
	if err != nil {
		return err
	}
	if int64(len(head)) != o.head {
		return fmt.Errorf("%s: the header has changed its length", o.path)
	}
	if _, err := o.f.WriteAt(head, 0); err != nil {
		return o.fail(err)
	}
	return nil
}
