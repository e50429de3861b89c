package tensorfile

import (
	"io"
	"os"
)

// DType is a tensor element type as the safetensors format spells it.
type DType string

// The element types of the safetensors format.
const (
	BOOL    DType = "BOOL"
	U8      DType = "U8"
	I8      DType = "I8"
	I16     DType = "I16"
	U16     DType = "U16"
	I32     DType = "I32"
	U32     DType = "U32"
	I64     DType = "I64"
	U64     DType = "U64"
	F8_E4M3 DType = "F8_E4M3"
	F8_E5M2 DType = "F8_E5M2"

	F8_E4M3FNUZ DType = "F8_E4M3FNUZ"
	F8_E5M2FNUZ DType = "F8_E5M2FNUZ"
	F8_E8M0     DType = "F8_E8M0" // powers of two, for scales
	C64         DType = "C64"     // complex, two F32

	F16  DType = "F16"
	BF16 DType = "BF16"
	F32  DType = "F32"
	F64  DType = "F64"
)

// Size is the number of bytes of one element, 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case BOOL, U8, I8, F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ, F8_E8M0:
		return 1
	case I16, U16, F16, BF16:
		return 2
	case I32, U32, F32:
		return 4
	case I64, U64, F64, C64:
		return 8
	}
	return 0
}

// packed are the format's element types of less than a byte, which this package
// does not read.
var packed = []DType{"F4", "F6_E2M3", "F6_E3M2"}

// IsFloat reports whether elements of d are real floating-point numbers.
func (d DType) IsFloat() bool { return floats[d] != nil }

// Info describes a tensor without its bytes.
type Info struct {
	Name  string
	DType DType
	Shape []int64 // empty: a scalar
}

// Elems is the number of elements. It does not overflow for an Info from an opened
// Source, whose shape has been checked against the file.
func (t Info) Elems() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// NumBytes is the number of bytes of the contiguous tensor.
func (t Info) NumBytes() int64 { return t.Elems() * int64(t.DType.Size()) }

// Source is an opened container of named tensors: a safetensors file, a
// PyTorch file, several shards, or any of these through a key mapping. Opening a
// Source reads no tensor bytes.
type Source interface {
	// Tensors lists the tensors in file order.
	Tensors() []Info
	// Open streams a tensor's elements: contiguous, row-major, little-endian,
	// exactly NumBytes of them, in constant memory. A wrong checksum or a
	// shrunken file is a read error.
	Open(name string) (io.ReadCloser, error)
	// Extent returns where these bytes lie as one run in a file, if they do.
	Extent(name string) (f *os.File, offset int64, ok bool)
	// Metadata is the container's string map (safetensors __metadata__), or nil.
	Metadata() map[string]string
	Close() error
}
