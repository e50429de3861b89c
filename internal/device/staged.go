package device

import (
	"slices"

	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// buffer is one device's part of an array.
type buffer struct {
	compute.Buffer
	shape shapes.Shape
}

// staged is the transport through the host's memory: device → host, bytes over
// the network, host → device. It works everywhere; on the host it takes the
// memory of one device's part, twice.
type staged struct {
	d *Device
	c comm.Comm
}

func (s staged) gather(i int, src buffer) (buffer, error) {
	shape := shapes.Make(src.shape.DType, slices.Concat([]int{s.c.Size()}, src.shape.Dimensions)...)
	return s.exchange(i, src, shape, s.c.Allgather)
}

func (s staged) alltoall(i int, src buffer) (buffer, error) {
	return s.exchange(i, src, src.shape, s.c.Alltoall)
}

func (s staged) exchange(i int, src buffer, shape shapes.Shape, move func(dst, src []byte) error) (out buffer, err error) {
	flat, got := dtypes.MakeAnySlice(src.shape.DType, src.shape.Size()), dtypes.MakeAnySlice(shape.DType, shape.Size())
	if err = catch("copy from the device", func() error { return src.ToFlatData(flat) }); err != nil {
		return out, pjrt.Explain(err)
	}
	if err = move(dtypes.UnsafeByteSliceFromAny(got), dtypes.UnsafeByteSliceFromAny(flat)); err != nil {
		return out, err
	}
	out.shape = shape
	err = catch("copy to the device", func() error {
		out.Buffer, err = s.d.backend.BufferFromFlatData(compute.DeviceNum(i), got, shape)
		return err
	})
	s.d.traffic.from.Add(src.shape.ByteSize())
	s.d.traffic.to.Add(shape.ByteSize())
	return out, pjrt.Explain(err)
}
