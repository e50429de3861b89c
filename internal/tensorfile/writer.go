package tensorfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/nlpodyssey/safetensors"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// Layout puts tensors in the order that a Writer requires: by falling element size,
// so that every tensor starts at a multiple of its element size, as readers that
// map the file need. Within a size, the given order is kept.
func Layout(tensors []Info) []Info {
	out := slices.Clone(tensors)
	slices.SortStableFunc(out, func(a, b Info) int { return b.DType.Size() - a.DType.Size() })
	return out
}

// Writer writes a safetensors file as a stream.
type Writer struct {
	w    io.Writer
	todo []Info
	buf  []byte
}

// NewWriter writes the header for tensors; call Next with each of them in the same
// order. A tensor that is not aligned to its element size is an error: order them
// with Layout.
func NewWriter(w io.Writer, tensors []Info, metadata map[string]string) (*Writer, error) {
	head, err := encodeHeader(tensors, metadata)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	return &Writer{w: w, todo: slices.Clone(tensors), buf: make([]byte, 1<<20)}, nil
}

// encodeHeader returns the length prefix and the header, padded with spaces to a
// multiple of 8 bytes.
func encodeHeader(tensors []Info, metadata map[string]string) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 8))
	sep := byte('{')
	item := func(key string, value any) error {
		b.WriteByte(sep)
		sep = ','
		if err := writeJSON(b, key); err != nil {
			return err
		}
		b.WriteByte(':')
		return writeJSON(b, value)
	}
	if len(metadata) > 0 {
		if err := item(metadataKey, metadata); err != nil {
			return nil, err
		}
	}
	seen := make(map[string]bool, len(tensors))
	var pos int64
	for _, t := range tensors {
		n, ok := CheckedBytes(t)
		size := int64(t.DType.Size())
		switch {
		case size == 0:
			return nil, fault.Inputf("tensor %q: the safetensors format has no element type %q", t.Name, t.DType)
		case !ok || pos+n < pos:
			return nil, fault.Inputf("tensor %q: shape %v is too large", t.Name, t.Shape)
		case seen[t.Name] || t.Name == metadataKey:
			return nil, fault.Inputf("tensor %q: the name is already taken", t.Name)
		case pos%size != 0:
			return nil, fmt.Errorf("tensor %q: byte %d is not a multiple of %d; order the tensors with Layout", t.Name, pos, size)
		}
		seen[t.Name] = true
		shape := t.Shape
		if shape == nil {
			shape = []int64{}
		}
		err := item(t.Name, struct {
			DType   DType    `json:"dtype"`
			Shape   []int64  `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}{t.DType, shape, [2]int64{pos, pos + n}})
		if err != nil {
			return nil, err
		}
		pos += n
	}
	if sep == '{' {
		b.WriteByte('{')
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len()-8 > maxHeader {
		return nil, fault.Inputf("the header would have %d bytes, but the format allows %d", b.Len()-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(b.Len()-8))
	return b.Bytes(), nil
}

func writeJSON(b *bytes.Buffer, v any) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the encoder's newline
	return nil
}

// Next copies the bytes of the next tensor from r, which must have exactly
// info.NumBytes of them.
func (w *Writer) Next(info Info, r io.Reader) error {
	if len(w.todo) == 0 {
		return fmt.Errorf("tensor %q: all tensors are already written", info.Name)
	}
	want := w.todo[0]
	if info.Name != want.Name || info.DType != want.DType || !slices.Equal(info.Shape, want.Shape) {
		return fmt.Errorf("tensor %q %s %v: the header has %q %s %v here", info.Name, info.DType, info.Shape, want.Name, want.DType, want.Shape)
	}
	n := want.NumBytes()
	// Reader and writer are hidden so that the copy goes through buf.
	got, err := io.CopyBuffer(struct{ io.Writer }{w.w}, struct{ io.Reader }{io.LimitReader(r, n)}, w.buf)
	if err != nil {
		return err
	}
	if got < n {
		return fault.Inputf("tensor %q: the source ends after %d of %d bytes", info.Name, got, n)
	}
	// One more read finds extra bytes, or the source's checksum error.
	switch more, err := io.ReadFull(r, w.buf[:1]); {
	case more > 0:
		return fault.Inputf("tensor %q: the source has more than %d bytes", info.Name, n)
	case err != io.EOF:
		return err
	}
	w.todo = w.todo[1:]
	return nil
}

// Close checks that all tensors have been written. It does not close the io.Writer.
func (w *Writer) Close() error {
	if len(w.todo) > 0 {
		return fmt.Errorf("tensor %q and %d more are not written", w.todo[0].Name, len(w.todo)-1)
	}
	return nil
}

// Tensor is a tensor with its bytes.
type Tensor struct {
	Info
	Data []byte // contiguous, row-major, little-endian
}

// WriteFile writes a small safetensors file, which appears at path complete or not
// at all. Tensors are in the order of the safetensors library: by element type,
// then by name.
func WriteFile(path string, tensors []Tensor, metadata map[string]string) error {
	views := make(map[string]view, len(tensors))
	for _, t := range tensors {
		if n, ok := CheckedBytes(t.Info); !ok || n != int64(len(t.Data)) {
			return fmt.Errorf("tensor %q: %d bytes do not fit %s %v", t.Name, len(t.Data), t.DType, t.Shape)
		}
		views[t.Name] = view{t}
	}
	// This checks names and element types as the stream writer does.
	infos := make([]Info, len(tensors))
	for i, t := range tensors {
		infos[i] = t.Info
	}
	if _, err := encodeHeader(Layout(infos), metadata); err != nil {
		return err
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return err
	}
	defer f.Discard()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := writeAll(w, tensors, views, metadata); err != nil {
		return atomicfile.Explain(path, err)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Commit()
}

// writeAll uses the safetensors library, which does not have every type.
func writeAll(w io.Writer, tensors []Tensor, views map[string]view, metadata map[string]string) error {
	if !slices.ContainsFunc(tensors, func(t Tensor) bool { _, err := safetensors.ParseDType(string(t.DType)); return err != nil }) {
		return safetensors.SerializeToWriter(views, metadata, w)
	}
	infos := make([]Info, 0, len(tensors))
	for _, name := range slices.Sorted(maps.Keys(views)) {
		infos = append(infos, views[name].t.Info)
	}
	infos = Layout(infos)
	sw, err := NewWriter(w, infos, metadata)
	if err != nil {
		return err
	}
	for _, t := range infos {
		if err := sw.Next(t, bytes.NewReader(views[t.Name].t.Data)); err != nil {
			return err
		}
	}
	return sw.Close()
}

// view presents a Tensor, scalars included, to the safetensors library.
type view struct{ t Tensor }

func (v view) DType() safetensors.DType {
	d, _ := safetensors.ParseDType(string(v.t.DType))
	return d
}

func (v view) Shape() []uint64 {
	out := make([]uint64, len(v.t.Shape))
	for i, d := range v.t.Shape {
		out[i] = uint64(d)
	}
	return out
}

func (v view) Data() []byte    { return v.t.Data }
func (v view) DataLen() uint64 { return uint64(len(v.t.Data)) }
