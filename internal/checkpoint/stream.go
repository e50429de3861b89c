package checkpoint

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Open streams the bytes of an output tensor from its sources: in constant
// memory, except for what is transposed or resized (some megabytes).
func (it *Item) Open(saturate bool) (io.ReadCloser, error) {
	var r io.ReadCloser = &partsReader{src: it.from, todo: it.parts}
	from := it.parts[0].src.DType
	switch {
	case it.resize != nil:
		return it.openResized(r, saturate)
	case it.transpose:
		b, err := readAll(r, it.bytesIn())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", it.Out.Name, err)
		}
		rows, cols := int(it.Out.Shape[1]), int(it.Out.Shape[0]) // of the source
		r = io.NopCloser(bytes.NewReader(transposed(b, rows, cols, from.Size())))
	}
	if it.Out.DType == from {
		return r, nil
	}
	if !from.IsFloat() {
		return nil, fault.Inputf("%s: no cast from %s to %s", it.Out.Name, from, it.Out.DType)
	}
	c := caster{name: it.Out.Name, from: from, to: it.Out.DType, saturate: saturate}
	return struct {
		io.Reader
		io.Closer
	}{newCastReader(r, c), r}, nil
}

// Direct reads the bytes of an output tensor where they lie in the source's
// files, without their checksums, if they lie there.
func (it *Item) Direct() (io.ReadCloser, bool) {
	if !it.raw() {
		return nil, false
	}
	var runs []io.Reader
	for _, p := range it.parts {
		f, at, ok := it.from.Extent(p.src.Name)
		if !ok {
			return nil, false
		}
		runs = append(runs, io.NewSectionReader(f, at+p.start, p.end-p.start))
	}
	return io.NopCloser(io.MultiReader(runs...)), true
}

// Extent says where the item's bytes lie as one run in a file of the source,
// when they lie there as they are written.
func (it *Item) Extent() (f *os.File, at int64, ok bool) {
	if !it.raw() || len(it.parts) != 1 {
		return nil, 0, false
	}
	return it.Begins()
}

// Begins says where in a file of the source reading the item begins, where the
// source knows it.
func (it *Item) Begins() (f *os.File, at int64, ok bool) {
	first := it.parts[0]
	f, at, ok = it.from.Extent(first.src.Name)
	return f, at + first.start, ok
}

func (it *Item) bytesIn() int64 {
	n := int64(0)
	for _, p := range it.parts {
		n += p.end - p.start
	}
	return n
}

// openResized reads in float32, whatever the source's type, and interpolates.
func (it *Item) openResized(r io.ReadCloser, saturate bool) (io.ReadCloser, error) {
	b, err := readAll(r, it.bytesIn())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", it.Out.Name, err)
	}
	from := it.parts[0].src.DType
	x := make([]float32, len(b)/from.Size())
	tensorfile.FloatDecoder(from)(x, b)
	b = tensorfile.EncodeFloat32s(it.resize.apply(x))
	if it.Out.DType == tensorfile.F32 {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	c := caster{name: it.Out.Name, from: tensorfile.F32, to: it.Out.DType, saturate: saturate}
	return io.NopCloser(newCastReader(bytes.NewReader(b), c)), nil
}

func readAll(r io.ReadCloser, n int64) ([]byte, error) {
	defer r.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	// The read past the end reports a wrong checksum.
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		return nil, err
	}
	return b, nil
}

// transposed swaps the axes of a matrix of elements of the given size.
func transposed(b []byte, rows, cols, size int) []byte {
	out := make([]byte, len(b))
	for r := range rows {
		for c := range cols {
			copy(out[(c*rows+r)*size:][:size], b[(r*cols+c)*size:])
		}
	}
	return out
}

// partsReader streams runs of source tensors one after the other. Every tensor is
// read to its end, where the source checks it.
type partsReader struct {
	src  tensorfile.Source
	todo []part
	r    io.ReadCloser
	left int64 // bytes of the current part
}

func (p *partsReader) Read(b []byte) (int, error) {
	for {
		if p.r == nil {
			if len(p.todo) == 0 {
				return 0, io.EOF
			}
			if err := p.next(); err != nil {
				return 0, err
			}
		}
		if p.left == 0 {
			if err := p.drain(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := p.r.Read(b[:min(int64(len(b)), p.left)])
		p.left -= int64(n)
		if err == io.EOF && p.left > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return n, p.named(err)
		}
		if n > 0 || len(b) == 0 {
			return n, nil
		}
	}
}

func (p *partsReader) next() error {
	t := p.todo[0]
	r, err := p.src.Open(t.src.Name)
	if err != nil {
		return p.named(err)
	}
	p.r, p.left = r, t.end-t.start
	if _, err := io.CopyN(io.Discard, r, t.start); err != nil {
		return p.named(err)
	}
	return nil
}

// drain reads to the tensor's end and closes it.
func (p *partsReader) drain() error {
	_, err := io.Copy(io.Discard, p.r)
	if cerr := p.r.Close(); err == nil {
		err = cerr
	}
	p.r = nil
	if err != nil {
		err = p.named(err)
	}
	p.todo = p.todo[1:]
	return err
}

func (p *partsReader) named(err error) error {
	return fault.As(fault.Input, fmt.Errorf("tensor %s: %w", p.todo[0].src.Name, err))
}

func (p *partsReader) Close() error {
	if p.r == nil {
		return nil
	}
	return p.r.Close()
}
