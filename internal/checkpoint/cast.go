package checkpoint

import (
	"encoding/binary"
	"io"
	"math"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

var le = binary.LittleEndian

// encoders round to nearest even; the result says whether a finite value
// became infinite. largest is what saturation clamps to.
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

// fast covers the common casts without a detour through float64. It refuses a
// block with an overflow, which the general path then reports or clamps.
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
