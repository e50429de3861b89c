package device

import (
	"context"
	"runtime"

	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// directBytes is the size from which PutFunc avoids the copy on the CPU plugin:
// each shape costs some 50 ms of compilation there.
const directBytes = 16 << 20

// PutFunc makes an array from what fill writes into flat, a slice of the
// shape's element type that holds anything before. On one device of a CPU
// backend fill writes straight into the device's memory, so that no copy of a
// big tensor exists; elsewhere flat is a host slice that is then copied.
// An error of fill comes back as it is.
func (d *Device) PutFunc(s Sharding, shape shapes.Shape, fill func(flat any) error) (*Array, error) {
	direct := d.info.Kind == KindGo || d.info.Kind == KindCPU && d.N() == 1 && shape.ByteSize() >= directBytes
	if !direct || shape.Size() == 0 {
		flat := dtypes.MakeAnySlice(shape.DType, shape.Size())
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
	if d.info.Kind == KindGo {
		a := &Array{d: d, shape: shape}
		return a, catch("allocate", func() error {
			b, _, err := d.backend.NewSharedBuffer(0, shape)
			a.buffers = []compute.Buffer{b}
			return err
		})
	}
	// go-xla's shared buffers are freed under a run that is not over, and
	// cannot be donated; the result of a program has neither fault.
	d.allocMu.Lock()
	p := d.allocs[shape.String()]
	if p == nil {
		p = d.Program("alloc", func(in []*graph.Node) []*graph.Node {
			zero := graph.ConvertDType(graph.Reshape(in[0]), shape.DType)
			return []*graph.Node{graph.BroadcastToShape(zero, shape), graph.Identity(in[0])}
		})
		d.allocs[shape.String()] = p
	}
	d.allocMu.Unlock()
	zero, err := d.PutF32(Replicated, []float32{0})
	if err != nil {
		return nil, err
	}
	defer zero.Free()
	out, err := p.Call(context.Background(), zero)
	if err != nil {
		return nil, err
	}
	defer out[1].Free()
	if _, err := out[1].Float32s(); err != nil { // the run is over: the memory is ours
		return nil, fault.As(fault.Environment, err)
	}
	return out[0], nil
}
