package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Open streams the bytes of an output tensor from its sources, in constant memory
// except for tensors that are transposed or resized (some megabytes). saturate
// clamps values that overflow instead of failing.
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
		rows, cols := int(it.Out.Shape[1]), int(it.Out.Shape[0]) // in the source
		r = io.NopCloser(bytes.NewReader(transposed(b, rows, cols, from.Size())))
	}
	if it.Out.DType == from {
		return r, nil
	}
	if !from.IsFloat() {
		return nil, fault.Inputf("%s cannot be cast from %s to %s", it.Out.Name, from, it.Out.DType)
	}
	c := caster{name: it.Out.Name, from: from, to: it.Out.DType, saturate: saturate}
	return struct {
		io.Reader
		io.Closer
	}{newCastReader(r, c), r}, nil
}

// Direct reads the bytes of an output tensor from the source's files, without
// checksums, if they lie there as they will be written.
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

// Extent returns where the item's bytes lie as one run in a file of the source, if
// they lie there as they will be written.
func (it *Item) Extent() (f *os.File, at int64, ok bool) {
	if !it.raw() || len(it.parts) != 1 {
		return nil, 0, false
	}
	return it.Begins()
}

// Begins returns where in a file of the source reading the item begins, if the
// source knows.
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

// openResized reads the source as float32, whatever its type, and interpolates.
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

// partsReader streams runs of source tensors one after another. Every tensor is
// read to its end, where the source verifies its checksum.
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

var le = binary.LittleEndian

// encoders round to nearest even; overflow reports an infinite result. largest is
// what saturation clamps to.
var encoders = map[tensorfile.DType]struct {
	largest float64
	encode  func(b []byte, v float64) (overflow bool)
}{
	tensorfile.F32: {math.MaxFloat32, func(b []byte, v float64) bool {
		f := float32(v)
		le.PutUint32(b, math.Float32bits(f))
		return math.IsInf(float64(f), 0)
	}},
	tensorfile.F16: {65504, func(b []byte, v float64) bool {
		h := tensorfile.F32toF16(toOdd(v))
		le.PutUint16(b, h)
		return h&0x7fff == 0x7c00
	}},
	tensorfile.BF16: {0x1.fep127, func(b []byte, v float64) bool {
		h := tensorfile.F32toBF16(toOdd(v))
		le.PutUint16(b, h)
		return h&0x7fff == 0x7f80
	}},
}

// toOdd narrows to float32 by rounding inexact values to the neighbour with an
// odd mantissa, so that a second rounding to 16 bits is the correct one.
func toOdd(v float64) float32 {
	f := float32(v)
	if float64(f) == v || v != v {
		return f
	}
	bits := math.Float32bits(f)
	if math.IsInf(float64(f), 0) || math.Abs(float64(f)) > math.Abs(v) {
		bits-- // toward zero
	}
	return math.Float32frombits(bits | 1)
}

// caster converts elements between float types.
type caster struct {
	name     string // for messages
	from, to tensorfile.DType
	saturate bool
	done     int64 // elements so far
}

// convert writes len(src)/size elements to dst and returns their bytes.
func (c *caster) convert(dst, src []byte) (int, error) {
	in, out := c.from.Size(), c.to.Size()
	n := len(src) / in
	if done, ok := c.fast(dst, src, n); ok {
		c.done += int64(n)
		return done, nil
	}
	dec, enc := tensorfile.NumberDecoder(c.from), encoders[c.to]
	for i := range n {
		v := dec(src[i*in:])
		if enc.encode(dst[i*out:], v) && !math.IsInf(v, 0) {
			if !c.saturate {
				return 0, fault.Inputf("%s: element %d is %g, which overflows %s; use Options.DType bf16 or fp32, or Options.Saturate to clamp", c.name, c.done+int64(i), v, c.to)
			}
			enc.encode(dst[i*out:], math.Copysign(enc.largest, v))
		}
	}
	c.done += int64(n)
	return n * out, nil
}

// fast covers the common casts without going through float64. It refuses a block
// with an overflow, which the general path then reports or clamps.
func (c *caster) fast(dst, src []byte, n int) (int, bool) {
	switch {
	case c.from == tensorfile.F16 && c.to == tensorfile.F32:
		for i := range n {
			le.PutUint32(dst[4*i:], math.Float32bits(tensorfile.F16toF32(le.Uint16(src[2*i:]))))
		}
		return 4 * n, true
	case c.from == tensorfile.BF16 && c.to == tensorfile.F32:
		for i := range n {
			le.PutUint32(dst[4*i:], uint32(le.Uint16(src[2*i:]))<<16)
		}
		return 4 * n, true
	case c.from == tensorfile.F32 && (c.to == tensorfile.F16 || c.to == tensorfile.BF16):
		round, inf := tensorfile.F32toF16, uint16(0x7c00)
		if c.to == tensorfile.BF16 {
			round, inf = tensorfile.F32toBF16, 0x7f80
		}
		for i := range n {
			h := round(math.Float32frombits(le.Uint32(src[4*i:])))
			if h&0x7fff == inf {
				return 0, false
			}
			le.PutUint16(dst[2*i:], h)
		}
		return 2 * n, true
	}
	return 0, false
}

// castReader casts a stream.
type castReader struct {
	r   io.Reader
	c   caster
	in  []byte
	out []byte // converted, not yet read
	buf []byte
	err error
}

const castBlock = 1 << 18 // bytes of source per block

func newCastReader(r io.Reader, c caster) *castReader {
	return &castReader{r: r, c: c, in: make([]byte, castBlock), buf: make([]byte, castBlock/c.from.Size()*c.to.Size())}
}

func (r *castReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		n, err := io.ReadFull(r.r, r.in)
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		m, cerr := r.c.convert(r.buf, r.in[:n])
		r.out, r.err = r.buf[:m], err
		if cerr != nil {
			r.out, r.err = nil, cerr
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}
