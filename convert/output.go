package convert

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// output is a safetensors file in the making.
type output struct {
	*atomicfile.File
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
	if o.File, err = atomicfile.Create(path); err != nil {
		return nil, err
	}
	if err := o.Reserve(o.size); err != nil {
		o.Discard()
		return nil, tooLarge(err)
	}
	if _, err := o.WriteAt(head, 0); err != nil {
		o.Discard()
		return nil, err
	}
	return o, nil
}

// tooLarge adds to an error what makes smaller files.
func tooLarge(err error) error {
	if errors.Is(err, syscall.EFBIG) {
		return fault.As(fault.Environment, fmt.Errorf("%w, or use Options.ShardSize", err))
	}
	return err
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
		return fmt.Errorf("%s: the header has changed its length", o.Path())
	}
	_, err = o.WriteAt(head, 0)
	return err
}
