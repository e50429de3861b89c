package tensorfile

import (
	"cmp"
	"encoding/binary"
	"io"
	"math"

	"github.com/evatool/evatool/internal/fault"
)

// find looks a tensor up by name.
func find(src Source, name string) (Info, error) {
	for _, t := range src.Tensors() {
		if t.Name == name {
			return t, nil
		}
	}
	return Info{}, fault.Inputf("no tensor %q; `evatool inspect` lists them", name)
}

// ReadAll reads a tensor's bytes: contiguous, row-major, little-endian.
func ReadAll(src Source, name string) ([]byte, error) {
	t, err := find(src, name)
	if err != nil {
		return nil, err
	}
	r, err := src.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := make([]byte, t.NumBytes())
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, err
	}
	// The read past the end is what reports a wrong checksum.
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 || err != io.EOF {
		return nil, cmp.Or(err, fault.Inputf("tensor %q: more than %d bytes", name, len(out)))
	}
	return out, nil
}

var le = binary.LittleEndian

// decode32 says how an element of a float type becomes a float32: exactly, NaN
// included, but for F64.
var decode32 = map[DType]func([]byte) float32{
	F32:  func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) },
	F16:  func(b []byte) float32 { return F16toF32(le.Uint16(b)) },
	BF16: func(b []byte) float32 { return BF16toF32(le.Uint16(b)) },
	F64:  func(b []byte) float32 { return float32(math.Float64frombits(le.Uint64(b))) },

	F8_E4M3: eight(F8_E4M3), F8_E5M2: eight(F8_E5M2),
	F8_E4M3FNUZ: eight(F8_E4M3FNUZ), F8_E5M2FNUZ: eight(F8_E5M2FNUZ), F8_E8M0: eight(F8_E8M0),
}

func eight(d DType) func([]byte) float32 {
	values := codes8[d]
	return func(b []byte) float32 { return values[b[0]] }
}

func wide(d DType) func([]byte) float64 {
	values := codes8[d]
	return func(b []byte) float64 { return float64(values[b[0]]) }
}

// decoders widen an element of any type to float64.
var decoders = map[DType]func([]byte) float64{
	F64:     func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) },
	F32:     func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) },
	F16:     func(b []byte) float64 { return float64(F16toF32(le.Uint16(b))) },
	BF16:    func(b []byte) float64 { return float64(BF16toF32(le.Uint16(b))) },
	F8_E4M3: wide(F8_E4M3), F8_E5M2: wide(F8_E5M2),
	F8_E4M3FNUZ: wide(F8_E4M3FNUZ), F8_E5M2FNUZ: wide(F8_E5M2FNUZ), F8_E8M0: wide(F8_E8M0),
	BOOL: func(b []byte) float64 { return float64(b[0]) },
	U8:   func(b []byte) float64 { return float64(b[0]) },
	I8:   func(b []byte) float64 { return float64(int8(b[0])) },
	I16:  func(b []byte) float64 { return float64(int16(le.Uint16(b))) },
	U16:  func(b []byte) float64 { return float64(le.Uint16(b)) },
	I32:  func(b []byte) float64 { return float64(int32(le.Uint32(b))) },
	U32:  func(b []byte) float64 { return float64(le.Uint32(b)) },
	I64:  func(b []byte) float64 { return float64(int64(le.Uint64(b))) },
	U64:  func(b []byte) float64 { return float64(le.Uint64(b)) },
}

// Decoder widens an element of type d, at the start of the bytes, to float64:
// exactly, but for integers beyond 2^53. It is nil for an
// unknown or complex type.
func Decoder(d DType) func([]byte) float64 { return decoders[d] }

// Float32s reads a tensor of any float type as float32: 16-bit and 8-bit types
// exactly, F64 rounded to nearest even.
func Float32s(src Source, name string) ([]float32, error) {
	t, err := find(src, name)
	if err != nil {
		return nil, err
	}
	dec := decode32[t.DType]
	if dec == nil {
		return nil, fault.Inputf("tensor %q: element type %s where a float type is needed", name, t.DType)
	}
	raw, err := ReadAll(src, name)
	if err != nil {
		return nil, err
	}
	size := t.DType.Size()
	out := make([]float32, t.Elems())
	for i := range out {
		out[i] = dec(raw[i*size:])
	}
	return out, nil
}
