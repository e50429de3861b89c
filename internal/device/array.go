package device

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
)

// meshAxis is the name of the one axis along which devices are arranged.
const meshAxis = "data"

// Sharding says how an array lies on the devices: Replicated, or cut along an axis.
type Sharding int

// Replicated arrays are whole on every device; SplitRows arrays are cut along axis 0.
const (
	Replicated Sharding = 0
	SplitRows  Sharding = 1
)

// SplitAxis cuts along an axis; the number of devices must divide its length.
func SplitAxis(axis int) Sharding { return Sharding(axis + 1) }

func (s Sharding) axis() int { return int(s) - 1 }

func (s Sharding) String() string {
	if s == Replicated {
		return "replicated"
	}
	return fmt.Sprintf("split along axis %d", s.axis())
}

// SplitEvenly is the ZeRO-1 choice for an optimiser moment of dimensions
// dims: cut along the first axis that the number of devices divides, else
// replicated.
func (d *Device) SplitEvenly(dims ...int) Sharding {
	if d.N() > 1 {
		for axis, n := range dims {
			if n >= d.N() && n%d.N() == 0 {
				return SplitAxis(axis)
			}
		}
	}
	return Replicated
}

func (d *Device) spec(s Sharding) (*distributed.ShardingSpec, error) {
	if s == Replicated {
		return distributed.NewReplicatedShardingSpec(d.mesh), nil
	}
	b := distributed.BuildSpec(d.mesh)
	for range s.axis() {
		b = b.R()
	}
	return b.S(meshAxis).Done()
}

// check says whether a shape can be laid out as s.
func (d *Device) check(s Sharding, shape shapes.Shape) error {
	if s == Replicated || d.N() == 1 {
		return nil
	}
	if s.axis() >= shape.Rank() || shape.Dimensions[s.axis()]%d.N() != 0 {
		return fault.Usagef("array %s: cannot be %s over %d devices; make the axis a multiple of the device count", shape, s, d.N())
	}
	return nil
}

// Array is one logical tensor on the device(s).
type Array struct {
	d        *Device
	shape    shapes.Shape
	sharding Sharding
	buffers  []compute.Buffer // one per device; nil once donated or freed
}

// Dims are the logical dimensions.
func (a *Array) Dims() []int { return slices.Clone(a.shape.Dimensions) }

// Size is the number of elements.
func (a *Array) Size() int { return a.shape.Size() }

// DType is the element type.
func (a *Array) DType() dtypes.DType { return a.shape.DType }

// Sharding is how the array lies on the devices.
func (a *Array) Sharding() Sharding { return a.sharding }

// Put copies t to the device(s) and returns once t may be changed again.
func (d *Device) Put(s Sharding, t *tensors.Tensor) (*Array, error) {
	var a *Array
	err := catch("copy to the device", func() error {
		return t.ConstFlatData(func(flat any) {
			var e error
			if a, e = d.PutFlat(s, flat, t.Shape()); e != nil {
				panic(e)
			}
		})
	})
	return a, err
}

// PutF32 copies flat values as a float32 array of dimensions dims.
func (d *Device) PutF32(s Sharding, flat []float32, dims ...int) (*Array, error) {
	return d.PutFlat(s, flat, shapes.Make(dtypes.Float32, dims...))
}

// PutI32 copies flat values as an int32 array of dimensions dims.
func (d *Device) PutI32(s Sharding, flat []int32, dims ...int) (*Array, error) {
	return d.PutFlat(s, flat, shapes.Make(dtypes.Int32, dims...))
}

// PutFlat copies flat, a slice of the shape's element type, to the device(s).
func (d *Device) PutFlat(s Sharding, flat any, shape shapes.Shape) (*Array, error) {
	if d.N() == 1 {
		s = Replicated
	}
	if err := d.check(s, shape); err != nil {
		return nil, err
	}
	a := &Array{d: d, shape: shape, sharding: s}
	err := catch("copy to the device", func() error {
		if n := len(dtypes.UnsafeByteSliceFromAny(flat)); n != int(shape.ByteSize()) {
			return fmt.Errorf("%d bytes given for an array %s", n, shape)
		}
		for i := range d.N() {
			part, partShape := flat, shape
			if s != Replicated {
				part, partShape = d.cut(flat, shape, s.axis(), i)
			}
			b, err := d.backend.BufferFromFlatData(compute.DeviceNum(i), part, partShape)
			if err != nil {
				return err
			}
			a.buffers = append(a.buffers, b)
			d.traffic.to.Add(partShape.ByteSize())
		}
		return nil
	})
	if err != nil {
		a.Free()
		return nil, pjrt.Explain(err)
	}
	d.traffic.puts.Add(1)
	return a, nil
}

// rows are the pieces of a tensor cut along an axis: for each of outer
// positions, n bytes per device.
func rows(shape shapes.Shape, axis, devices int) (outer, n int) {
	outer = 1
	for _, d := range shape.Dimensions[:axis] {
		outer *= d
	}
	if outer == 0 {
		return 0, 0
	}
	return outer, int(shape.ByteSize()) / outer / devices
}

func (d *Device) partShape(shape shapes.Shape, axis int) shapes.Shape {
	shape = shape.Clone()
	shape.Dimensions[axis] /= d.N()
	return shape
}

// cut is the part of device i of flat, a copy unless it lies there as one run.
func (d *Device) cut(flat any, shape shapes.Shape, axis, i int) (any, shapes.Shape) {
	ps := d.partShape(shape, axis)
	src := dtypes.UnsafeByteSliceFromAny(flat)
	outer, n := rows(shape, axis, d.N())
	if outer == 1 && n > 0 {
		return dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(&src[i*n]), shape.DType, ps.Size()), ps
	}
	part := dtypes.MakeAnySlice(shape.DType, ps.Size())
	dst := dtypes.UnsafeByteSliceFromAny(part)
	for o := range outer {
		copy(dst[o*n:(o+1)*n], src[(o*d.N()+i)*n:])
	}
	return part, ps
}

// Fetch waits for the array and copies it to the host, shards merged.
func (a *Array) Fetch() (*tensors.Tensor, error) {
	if a.buffers == nil {
		return nil, fault.As(fault.Environment, errConsumed)
	}
	t := tensors.FromShape(a.shape)
	err := catch("copy from the device", func() error {
		var inner error
		err := t.MutableFlatData(func(flat any) { inner = a.fetch(flat) })
		if err == nil {
			err = inner
		}
		return err
	})
	if err != nil {
		return nil, pjrt.Explain(err)
	}
	return t, nil
}

func (a *Array) fetch(flat any) error {
	a.d.traffic.fetches.Add(1)
	a.d.traffic.from.Add(a.shape.ByteSize())
	if a.sharding == Replicated {
		return a.buffers[0].ToFlatData(flat)
	}
	ps := a.d.partShape(a.shape, a.sharding.axis())
	part := dtypes.MakeAnySlice(a.shape.DType, ps.Size())
	dst, src := dtypes.UnsafeByteSliceFromAny(flat), dtypes.UnsafeByteSliceFromAny(part)
	outer, n := rows(a.shape, a.sharding.axis(), a.d.N())
	for i, b := range a.buffers {
		if err := b.ToFlatData(part); err != nil {
			return err
		}
		for o := range outer {
			copy(dst[(o*a.d.N()+i)*n:], src[o*n:(o+1)*n])
		}
	}
	return nil
}

// Wait returns once the array is there. It reads the array, so use a small one:
// it shows as well as any other that a run has finished.
func (a *Array) Wait() error {
	if a.buffers == nil {
		return fault.As(fault.Environment, errConsumed)
	}
	if a.d.info.Kind == KindGo { // its runs are over when Call returns
		return nil
	}
	buf := hostPool.Get().(*[]uint64)
	defer hostPool.Put(buf)
	shape := a.shape
	if a.sharding != Replicated {
		shape = a.d.partShape(a.shape, a.sharding.axis())
	}
	if n := (int(shape.ByteSize()) + 7) / 8; cap(*buf) < max(1, n) {
		*buf = make([]uint64, max(1, n))
	}
	flat := dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(unsafe.SliceData(*buf)), shape.DType, shape.Size())
	return pjrt.Explain(catch("wait for a result", func() error {
		for _, b := range a.buffers {
			if err := b.ToFlatData(flat); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Float32s is Fetch for a float32 array.
func (a *Array) Float32s() ([]float32, error) {
	if a.shape.DType != dtypes.Float32 {
		return nil, fault.Envf("array %s: not float32", a.shape)
	}
	flat := make([]float32, a.shape.Size())
	if a.buffers == nil {
		return nil, fault.As(fault.Environment, errConsumed)
	}
	err := catch("copy from the device", func() error { return a.fetch(flat) })
	return flat, pjrt.Explain(err)
}

// Free releases the device memory. The array cannot be used afterwards.
func (a *Array) Free() {
	if a == nil {
		return
	}
	for _, b := range a.buffers {
		_ = catch("free", b.Finalize) // nothing can be done about it
	}
	a.buffers = nil
}
