package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// chunk is the size of the read buffer in bytes.
const chunk = 1 << 17

// encoders turn float32 values into 16-bit elements.
var encoders = map[dtypes.DType]func(dst []byte, src []float32){
	dtypes.Float16: func(dst []byte, src []float32) {
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], tensorfile.F32toF16(v))
		}
	},
	dtypes.BFloat16: func(dst []byte, src []float32) {
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], tensorfile.F32toBF16(v))
		}
	},
}

// inFile is the file's name for a type of the device.
var inFile = map[dtypes.DType]tensorfile.DType{
	dtypes.Float32: tensorfile.F32, dtypes.Float16: tensorfile.F16, dtypes.BFloat16: tensorfile.BF16,
}

// loader uploads tensors through one buffer.
type loader struct {
	dev  *device.Device
	src  tensorfile.Source
	buf  [chunk]byte
	vals [chunk / 2]float32 // of the buffer, when the device wants 16 bits
}

// upload streams one tensor to the device as to.
func (l *loader) upload(t tensorfile.Info, to dtypes.DType) (*device.Array, error) {
	shape := shapes.Make(to)
	for _, d := range t.Shape {
		shape.Dimensions = append(shape.Dimensions, int(d))
	}
	a, err := l.dev.PutFunc(device.Replicated, shape, func(flat any) error {
		r, err := l.src.Open(t.Name)
		if err != nil {
			return err
		}
		return errors.Join(l.fill(flat, to, t.DType, r), r.Close())
	})
	if err != nil {
		return nil, fault.As(fault.Input, fmt.Errorf("tensor %s: %w", t.Name, err))
	}
	return a, nil
}

// fill reads elements of type from into flat, a slice of elements of type to.
func (l *loader) fill(flat any, to dtypes.DType, from tensorfile.DType, r io.Reader) error {
	raw := dtypes.UnsafeByteSliceFromAny(flat)
	if from == inFile[to] {
		_, err := io.ReadFull(r, raw)
		return err
	}
	decode, most := tensorfile.FloatDecoder(from), chunk/from.Size()
	for n := len(raw) / to.Size(); n > 0; {
		k := min(n, most)
		src := l.buf[:k*from.Size()]
		if _, err := io.ReadFull(r, src); err != nil {
			return err
		}
		if to == dtypes.Float32 {
			dst := flat.([]float32)
			decode(dst[:k], src)
			flat = dst[k:]
		} else {
			decode(l.vals[:k], src)
			encoders[to](raw, l.vals[:k])
			raw = raw[2*k:]
		}
		n -= k
	}
	return nil
}
