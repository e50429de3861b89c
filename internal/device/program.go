package device

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// ProgramOption configures a Program.
type ProgramOption func(*Program)

// In fixes the sharding of the inputs; the last one repeats. Without it any
// sharding is taken as it comes. Ignored on one device.
func In(specs ...Sharding) ProgramOption { return func(p *Program) { p.in = specs } }

// Out gives the sharding of the outputs; the last one repeats. Without it
// outputs are replicated. Ignored on one device.
func Out(specs ...Sharding) ProgramOption { return func(p *Program) { p.out = specs } }

// Donate hands the memory of inputs over to outputs of the same shape and
// sharding: input → output. Call consumes the donated arrays.
func Donate(pairs map[int]int) ProgramOption { return func(p *Program) { p.donate = pairs } }

// SaveMemory makes the CPU plugin order a program's operations so that little
// memory is live at a time, not so that many can run side by side. The default is
// right where results count at once; a training step keeps all cores busy anyway.
func SaveMemory() ProgramOption { return func(p *Program) { p.saveMemory = true } }

// Program is a graph, compiled at the first Call for each set of input shapes.
type Program struct {
	d       *Device
	name    string
	fn      func(in []*graph.Node) []*graph.Node
	in, out []Sharding
	donate  map[int]int

	saveMemory bool

	mu    sync.Mutex // held while compiling
	built map[string]*executable
}

type executable struct {
	exec   compute.Executable
	shapes []shapes.Shape // logical, of the outputs
	out    []Sharding
	donate []bool // device-major
	fused  int    // fused attention operations
}

// Program makes a program from a graph function, which sees logical (global) shapes.
func (d *Device) Program(name string, fn func(in []*graph.Node) []*graph.Node, opts ...ProgramOption) *Program {
	p := &Program{d: d, name: name, fn: fn, built: map[string]*executable{}}
	for _, o := range opts {
		o(p)
	}
	return p
}

// pick returns specs[i], the last one repeating, or def when there is none.
func pick(specs []Sharding, i int, def Sharding) Sharding {
	if len(specs) == 0 {
		return def
	}
	return specs[min(i, len(specs)-1)]
}

// Call runs the program; donated arguments are consumed. Results may not be
// ready when it returns: Fetch waits for them.
func (p *Program) Call(ctx context.Context, args ...*Array) ([]*Array, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e, err := p.executable(args)
	if err != nil {
		return nil, err
	}
	inputs := make([]compute.Buffer, 0, len(args)*p.d.N())
	for i := range p.d.N() {
		for _, a := range args {
			inputs = append(inputs, a.buffers[i])
		}
	}
	var outputs []compute.Buffer
	err = catch("run "+p.name, func() (err error) {
		outputs, err = e.exec.Execute(inputs, e.donate, 0)
		return err
	})
	if err != nil {
		return nil, pjrt.Explain(err)
	}
	p.d.traffic.runs.Add(1)
	for i := range p.donate {
		args[i].buffers = nil
	}
	results := make([]*Array, len(e.shapes))
	for i := range results {
		a := &Array{d: p.d, shape: e.shapes[i], sharding: e.out[i]}
		for k := range p.d.N() {
			a.buffers = append(a.buffers, outputs[k*len(results)+i])
		}
		results[i] = a
	}
	return results, nil
}

// executable returns the compiled graph for the arguments' shapes.
func (p *Program) executable(args []*Array) (*executable, error) {
	var key strings.Builder
	for i, a := range args {
		if a == nil || a.buffers == nil {
			return nil, fault.Envf("%s: argument %d: %w", p.name, i, errConsumed)
		}
		if a.d != p.d {
			return nil, fault.Envf("%s: argument %d is on another device", p.name, i)
		}
		if p.d.N() > 1 && len(p.in) > 0 && pick(p.in, i, Replicated) != a.sharding {
			return nil, fault.Envf("%s: argument %d is %s, not %s", p.name, i, a.sharding, pick(p.in, i, Replicated))
		}
		fmt.Fprintf(&key, "%s %d;", a.shape, a.sharding)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.built[key.String()]; e != nil {
		return e, nil
	}
	var e *executable
	err := catch("compile "+p.name, func() (err error) {
		e, err = p.build(args)
		return err
	})
	if err != nil {
		return nil, pjrt.Explain(err)
	}
	p.built[key.String()] = e
	return e, nil
}

func (p *Program) build(args []*Array) (*executable, error) {
	g := graph.NewGraph(p.d.backend, p.name)
	if p.d.mesh != nil {
		if err := g.SetAutoSharding(p.d.mesh); err != nil {
			return nil, err
		}
	}
	in := make([]*graph.Node, len(args))
	for i, a := range args {
		var spec *distributed.ShardingSpec
		if p.d.mesh != nil {
			var err error
			if spec, err = p.d.spec(a.sharding); err != nil {
				return nil, err
			}
		}
		in[i] = graph.ShardedParameter(g, fmt.Sprintf("arg%d", i), a.shape, spec)
	}
	start := time.Now()
	nodes := p.fn(in)
	e := &executable{donate: make([]bool, len(args)*p.d.N())}
	var specs []*distributed.ShardingSpec
	for i, n := range nodes {
		s := Replicated
		if p.d.mesh != nil {
			s = pick(p.out, i, Replicated)
			if err := p.d.check(s, n.Shape()); err != nil {
				return nil, err
			}
			spec, err := p.d.spec(s)
			if err != nil {
				return nil, err
			}
			specs = append(specs, spec)
		}
		e.shapes = append(e.shapes, n.Shape())
		e.out = append(e.out, s)
	}
	if err := p.alias(g, args, e); err != nil {
		return nil, err
	}
	var c pjrt.Compiled
	compile := func() error { return g.CompileWithSharding(nodes, specs) }
	var err error
	if p.d.client != nil {
		c, err = p.d.client.Compile(p.saveMemory, compile)
	} else {
		err = compile()
	}
	if err != nil {
		return nil, err
	}
	e.exec, e.fused = g.Executable(), c.Fused
	p.d.log.Debug("compiled", "program", p.name, "seconds", time.Since(start).Seconds())
	if c.Refused != "" {
		reason, _, _ := strings.Cut(c.Refused, "\n")
		p.d.log.Info("compiled at the second attempt, with other options", "program", p.name, "reason", reason)
	}
	if p.d.info.Kind == KindCUDA {
		p.d.log.Info("attention", "program", p.name, "fused_operations", e.fused)
	}
	return e, nil
}

// alias marks the donated inputs.
func (p *Program) alias(g *graph.Graph, args []*Array, e *executable) error {
	for i, o := range p.donate {
		if i < 0 || i >= len(args) || o < 0 || o >= len(e.shapes) {
			return fmt.Errorf("donates input %d to output %d of %d inputs and %d outputs", i, o, len(args), len(e.shapes))
		}
		if !args[i].shape.Equal(e.shapes[o]) || args[i].sharding != e.out[o] {
			return fmt.Errorf("donates input %d (%s, %s) to output %d (%s, %s): they must be the same",
				i, args[i].shape, args[i].sharding, o, e.shapes[o], e.out[o])
		}
		for k := range p.d.N() {
			e.donate[k*len(args)+i] = true
		}
		if p.d.info.Kind != KindGo {
			pjrt.Alias(g, i, o)
		}
	}
	return nil
}

// Without is the same program with nothing donated.
func (p *Program) Without() *Program {
	return &Program{d: p.d, name: p.name, fn: p.fn, in: p.in, out: p.out, saveMemory: p.saveMemory, built: map[string]*executable{}}
}

// Memory is what the compiler says the program needs for these arguments; it
// compiles the program if need be and runs nothing. It is zero on the Go backend.
func (p *Program) Memory(args ...*Array) (MemoryUse, error) {
	e, err := p.executable(args)
	if err != nil || p.d.info.Kind == KindGo {
		return MemoryUse{}, err
	}
	return pjrt.MemoryOf(e.exec), nil
}

// Form is the shape of an array, and how it lies on the devices.
type Form struct {
	Shape    shapes.Shape
	Sharding Sharding
}

// Plan is Memory for arguments that do not exist: for a program larger than
// this machine, for instance.
func (p *Program) Plan(args ...Form) (MemoryUse, error) {
	list := make([]*Array, len(args))
	for i, f := range args {
		if p.d.N() == 1 {
			f.Sharding = Replicated
		}
		if err := p.d.check(f.Sharding, f.Shape); err != nil {
			return MemoryUse{}, err
		}
		list[i] = &Array{d: p.d, shape: f.Shape, sharding: f.Sharding, buffers: []compute.Buffer{}}
	}
	return p.Memory(list...)
}

// MemoryUse is the memory of a compiled program on one device, in bytes.
type MemoryUse = pjrt.MemoryUse

// FusedAttention is how many attention operations of the program, forward and
// backward, run as one cuDNN operation (flash attention). It compiles the
// program if need be and runs nothing. Only the CUDA plugin has them.
func (p *Program) FusedAttention(args ...*Array) (int, error) {
	e, err := p.executable(args)
	if err != nil {
		return 0, err
	}
	return e.fused, nil
}

// Memory is what the plugin says about the memory of the first device, in
// bytes; ok is false when it does not say (CPU) or nothing was compiled yet.
func (d *Device) Memory() (inUse, peak, limit int64, ok bool) {
	if d.client == nil {
		return 0, 0, 0, false
	}
	return d.client.Memory()
}

// MemoryLimit is how many bytes programs may take of a GPU; 0 where the plugin
// does not say.
func (d *Device) MemoryLimit() int64 {
	if _, _, limit, ok := d.Memory(); ok {
		return limit
	}
	// A plugin says so from its first compilation on.
	p := d.Program("nothing", func(in []*graph.Node) []*graph.Node { return in })
	if _, err := p.Plan(Form{Shape: shapes.Make(dtypes.Float32), Sharding: Replicated}); err != nil {
		return 0
	}
	_, _, limit, _ := d.Memory()
	return limit
}
