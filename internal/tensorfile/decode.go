package tensorfile

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/evatool/evatool/internal/fault"
)

var le = binary.LittleEndian

// floats decode consecutive elements of a float type.
var floats = map[DType]func(dst []float32, src []byte){
	F64: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(math.Float64frombits(le.Uint64(src[8*i:])))
		}
	},
	F32: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = math.Float32frombits(le.Uint32(src[4*i:]))
		}
	},
	F16: func(dst []float32, src []byte) {
		table := f16Values()
		for i := range dst {
			dst[i] = table[le.Uint16(src[2*i:])]
		}
	},
	BF16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = BF16toF32(le.Uint16(src[2*i:]))
		}
	},
	F8_E4M3: eight(F8_E4M3), F8_E5M2: eight(F8_E5M2),
	F8_E4M3FNUZ: eight(F8_E4M3FNUZ), F8_E5M2FNUZ: eight(F8_E5M2FNUZ), F8_E8M0: eight(F8_E8M0),
}

// f16Values holds the value of every F16.
var f16Values = sync.OnceValue(func() *[1 << 16]float32 {
	t := new([1 << 16]float32)
	for i := range t {
		t[i] = F16toF32(uint16(i))
	}
	return t
})

func eight(d DType) func(dst []float32, src []byte) {
	values := codes8[d]
	return func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = values[src[i]]
		}
	}
}

// FloatDecoder returns a function that decodes len(dst) consecutive elements of a
// float type: exactly, NaN included, except that F64 is rounded to nearest even.
// It is nil for other types.
func FloatDecoder(d DType) func(dst []float32, src []byte) { return floats[d] }

// Float32s reads a tensor of any float type as float32, as FloatDecoder does.
func Float32s(src Source, name string) ([]float32, error) {
	t, err := find(src, name)
	if err != nil {
		return nil, err
	}
	decode := floats[t.DType]
	if decode == nil {
		return nil, fault.Inputf("tensor %q is %s; want a float type", name, t.DType)
	}
	raw, err := ReadAll(src, name)
	if err != nil {
		return nil, err
	}
	out := make([]float32, t.Elems())
	decode(out, raw)
	return out, nil
}

// EncodeFloat32s returns the bytes of F32 elements.
func EncodeFloat32s(values []float32) []byte {
	b := make([]byte, 4*len(values))
	for i, v := range values {
		le.PutUint32(b[4*i:], math.Float32bits(v))
	}
	return b
}

// EncodeFloat64s returns the bytes of F64 elements.
func EncodeFloat64s(values []float64) []byte {
	b := make([]byte, 8*len(values))
	for i, v := range values {
		le.PutUint64(b[8*i:], math.Float64bits(v))
	}
	return b
}

// DecodeFloat64s reads len(b)/8 F64 elements.
func DecodeFloat64s(b []byte) []float64 {
	out := make([]float64, len(b)/8)
	for i := range out {
		out[i] = math.Float64frombits(le.Uint64(b[8*i:]))
	}
	return out
}

// EncodeInt64s returns the bytes of I64 elements.
func EncodeInt64s(values []int64) []byte {
	b := make([]byte, 8*len(values))
	for i, v := range values {
		le.PutUint64(b[8*i:], uint64(v))
	}
	return b
}

// Int64s reads an I64 or I32 tensor.
func Int64s(src Source, name string) ([]int64, error) {
	t, err := find(src, name)
	if err != nil {
		return nil, err
	}
	if t.DType != I64 && t.DType != I32 {
		return nil, fault.Inputf("tensor %q is %s; want I64 or I32", name, t.DType)
	}
	raw, err := ReadAll(src, name)
	if err != nil {
		return nil, err
	}
	out := make([]int64, t.Elems())
	for i := range out {
		if t.DType == I64 {
			out[i] = int64(le.Uint64(raw[8*i:]))
		} else {
			out[i] = int64(int32(le.Uint32(raw[4*i:])))
		}
	}
	return out, nil
}

// numbers widen one element of any type but the complex ones to float64.
var numbers = map[DType]func([]byte) float64{
	F64:     func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) },
	F32:     func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) },
	F16:     func(b []byte) float64 { return float64(F16toF32(le.Uint16(b))) },
	BF16:    func(b []byte) float64 { return float64(BF16toF32(le.Uint16(b))) },
	F8_E4M3: code(F8_E4M3), F8_E5M2: code(F8_E5M2),
	F8_E4M3FNUZ: code(F8_E4M3FNUZ), F8_E5M2FNUZ: code(F8_E5M2FNUZ), F8_E8M0: code(F8_E8M0),
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

func code(d DType) func([]byte) float64 {
	values := codes8[d]
	return func(b []byte) float64 { return float64(values[b[0]]) }
}

// NumberDecoder returns a function that widens the element of type d at the start
// of the bytes to float64: exactly, except for integers beyond 2^53. It is nil for
// an unknown or complex type.
func NumberDecoder(d DType) func([]byte) float64 { return numbers[d] }
