package device

import (
	"context"
	"fmt"

	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Group is the devices of all ranks of a job, with the same number D on every
// one of the N ranks. Its exchanges are collective, as comm's are. An array that
// is exchanged whole has the ranks as axis 0 and the devices as axis 1, so that
// each device deals only with its own 1/D of it.
type Group struct {
	d         *Device
	c         comm.Comm
	transport transport
	sum       *Program
}

// transport moves the bytes of an exchange. Each function takes and gives the
// buffers of device i: src of the given shape, and a buffer that has the ranks
// as its new, or same, axis 0.
type transport interface {
	// gather gives [N, shape…]: what every rank's device i has.
	gather(i int, src buffer) (buffer, error)
	// alltoall takes [N, …] and gives the same shape: row r is what rank r has
	// for this one.
	alltoall(i int, src buffer) (buffer, error)
}

// Join makes a group of this device and those of the other ranks of c.
func (d *Device) Join(c comm.Comm) *Group {
	g := &Group{d: d, c: c, transport: staged{d, c}}
	g.sum = d.Program("sum-ranks", func(in []*graph.Node) []*graph.Node {
		row := func(r int) *graph.Node {
			x := graph.Squeeze(graph.SliceAxis(in[0], 0, graph.AxisElem(r)), 0)
			return graph.ConvertDType(x, dtypes.Float32)
		}
		sum := row(0)
		for r := 1; r < c.Size(); r++ {
			sum = graph.Add(sum, row(r))
		}
		return []*graph.Node{sum}
	}, In(SplitAxis(1)), Out(SplitRows))
	return g
}

// N is the number of ranks.
func (g *Group) N() int { return g.c.Size() }

// split is the sharding that cuts an axis over the devices; a single device has
// all of it.
func (g *Group) split(axis int) Sharding {
	if g.d.N() == 1 {
		return Replicated
	}
	return SplitAxis(axis)
}

func (g *Group) want(what string, a *Array, s Sharding) error {
	if a.buffers == nil {
		return fault.Envf("%s: %w", what, errConsumed)
	}
	if a.sharding != s {
		return fault.Envf("%s of an array %s that is %s, not %s", what, a.shape, a.sharding, s)
	}
	return nil
}

// GatherRows joins the rows [n, …] of all ranks, which are whole on every device
// or cut over them along axis 0, to [N·n, …] on every device, in rank order.
func (g *Group) GatherRows(a *Array) (*Array, error) {
	if a.sharding != Replicated {
		if err := g.want("gather rows", a, g.split(0)); err != nil {
			return nil, err
		}
	}
	t, err := a.Fetch() // whole: the rows of all devices go to all devices
	if err != nil {
		return nil, err
	}
	shape := a.shape.Clone()
	shape.Dimensions[0] *= g.N()
	flat := dtypes.MakeAnySlice(shape.DType, shape.Size())
	var exchanged error
	if err := t.ConstBytes(func(b []byte) {
		exchanged = g.c.Allgather(dtypes.UnsafeByteSliceFromAny(flat), b)
	}); err != nil {
		return nil, fault.As(fault.Environment, err)
	}
	if exchanged != nil {
		return nil, exchanged
	}
	return g.d.PutFlat(Replicated, flat, shape)
}

// ReduceScatter adds the arrays [N, D·k, …] of all ranks, cut over the devices
// along axis 1, and leaves row r of the sum with rank r: [D·k, …], float32, cut
// along axis 0. The terms are added in rank order: the result has the same bits
// on every transport.
func (g *Group) ReduceScatter(ctx context.Context, a *Array) (*Array, error) {
	if err := g.want("reduce-scatter", a, g.split(1)); err != nil {
		return nil, err
	}
	if a.shape.Rank() < 2 || a.shape.Dimensions[0] != g.N() {
		return nil, fault.Envf("reduce-scatter of an array %s over %d ranks", a.shape, g.N())
	}
	got := &Array{d: g.d, shape: a.shape, sharding: a.sharding}
	defer got.Free()
	for i, b := range a.buffers {
		moved, err := g.transport.alltoall(i, buffer{b, g.part(a)})
		if err != nil {
			return nil, err
		}
		got.buffers = append(got.buffers, moved.Buffer)
	}
	out, err := g.sum.Call(ctx, got)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// Gather joins the arrays [D·k, …] of all ranks, cut over the devices along
// axis 0, to [N, D·k, …], cut along axis 1, in rank order.
func (g *Group) Gather(a *Array) (*Array, error) {
	if err := g.want("gather", a, g.split(0)); err != nil {
		return nil, err
	}
	shape := shapes.Make(a.shape.DType, append([]int{g.N()}, a.shape.Dimensions...)...)
	out := &Array{d: g.d, shape: shape, sharding: g.split(1)}
	for i, b := range a.buffers {
		moved, err := g.transport.gather(i, buffer{b, g.part(a)})
		if err != nil {
			out.Free()
			return nil, err
		}
		out.buffers = append(out.buffers, moved.Buffer)
	}
	return out, nil
}

// part is the shape of one device's buffer of a.
func (g *Group) part(a *Array) shapes.Shape {
	if a.sharding == Replicated {
		return a.shape
	}
	return g.d.partShape(a.shape, a.sharding.axis())
}

// String says how a group exchanges, for logs.
func (g *Group) String() string {
	return fmt.Sprintf("%d ranks × %d devices, through the host", g.N(), g.d.N())
}
