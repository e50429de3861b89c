package device

import (
	"runtime"
	"sync"
	"unsafe"

	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// directBytes is the size from which PutFunc avoids the copy on the CPU plugin.
const directBytes = 1 << 20

// hostPool keeps PutFunc's host slice for the next tensor: hundreds of new ones
// would be garbage before the collector sees them.
var hostPool = sync.Pool{New: func() any { return new([]uint64) }}

// PutFunc makes an array from what fill writes into flat, a slice of the
// shape's element type that holds anything before. On one device of a CPU
// backend fill writes straight into the device's memory, so that no copy of a
// big tensor exists; elsewhere flat is a host slice that is then copied. fill's
// error is returned as it is.
func (d *Device) PutFunc(s Sharding, shape shapes.Shape, fill func(flat any) error) (*Array, error) {
	direct := d.info.Kind == KindGo || d.info.Kind == KindCPU && d.N() == 1 && shape.ByteSize() >= directBytes
	if !direct || shape.Size() == 0 {
		buf := hostPool.Get().(*[]uint64)
		defer hostPool.Put(buf)
		if n := (int(shape.ByteSize()) + 7) / 8; cap(*buf) < n {
			*buf = make([]uint64, n)
		}
		flat := dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(unsafe.SliceData(*buf)), shape.DType, shape.Size())
		if err := fill(flat); err != nil {
			return nil, err
		}
		return d.PutFlat(s, flat, shape)
	}
	a, err := d.alloc(shape)
	if err != nil {
		return nil, err
	}
	var flat any
	err = catch("device memory", func() (err error) {
		flat, err = a.buffers[0].Data()
		return err
	})
	if err == nil {
		err = fill(flat)
		runtime.KeepAlive(a)
	}
	if err != nil {
		a.Free()
		return nil, err
	}
	d.traffic.puts.Add(1)
	d.traffic.to.Add(shape.ByteSize())
	return a, nil
}

// alloc makes an array on the one device of a CPU backend.
func (d *Device) alloc(shape shapes.Shape) (*Array, error) {
	a := &Array{d: d, shape: shape}
	return a, pjrt.Explain(catch("allocate", func() error {
		var b compute.Buffer
		var err error
		if d.client != nil {
			b, err = d.client.Zeros(shape)
		} else {
			b, _, err = d.backend.NewSharedBuffer(0, shape)
		}
		a.buffers = []compute.Buffer{b}
		return err
	}))
}
