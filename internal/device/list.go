package device

import (
	"context"
	"time"

	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Listed is a backend of this machine, or one that it could have.
type Listed struct {
	Info
	From   string  `json:"from,omitempty"`   // where a plugin was found
	Error  string  `json:"error,omitempty"`  // why it does not work
	GFLOPS float64 `json:"gflops,omitempty"` // of a float32 matrix product, both sides 1024
}

// List opens every backend of this machine and measures it. The one that
// Open takes by itself is chosen, an index; each says why.
func List(ctx context.Context, o Options) (list []Listed, chosen int, err error) {
	o.Backend = ""
	best, err := Open(ctx, o)
	if err != nil {
		return nil, 0, err
	}
	want := best.Info()
	if err := best.Close(); err != nil {
		return nil, 0, err
	}
	chosen = -1
	add := func(l Listed, open func() (*Device, error)) error {
		d, err := open()
		if err != nil {
			l.Error = fault.Line(err)
			list = append(list, l)
			return nil
		}
		defer d.Close()
		l.Info = d.Info()
		if l.GFLOPS, err = d.speed(ctx); err != nil {
			return err
		}
		if l.Backend == want.Backend && chosen < 0 {
			chosen = len(list)
			l.Why = want.Why
		}
		list = append(list, l)
		return nil
	}
	for _, p := range FindPlugins() {
		l := Listed{Info: Info{Backend: "xla:" + p.Path, Kind: p.Kind, Plugin: p.Path, SIMD: SIMD()}, From: p.From}
		err := add(l, func() (*Device, error) {
			return openPlugin(p, "", "", o)
		})
		if err != nil {
			return nil, 0, err
		}
	}
	err = add(Listed{}, func() (*Device, error) { return openGo("") })
	return list, chosen, err
}

// speed measures a float32 matrix product, in GFLOP/s.
func (d *Device) speed(ctx context.Context) (float64, error) {
	const n = 1024
	p := d.Program("speed", func(in []*graph.Node) []*graph.Node {
		y := graph.Dot(in[0], in[0]).General([]int{1}, nil, []int{0}, nil)
		return []*graph.Node{graph.ReduceAllMax(y)}
	})
	a, err := d.PutFlat(Replicated, make([]float32, n*n), shapes.Make(dtypes.Float32, n, n))
	if err != nil {
		return 0, err
	}
	defer a.Free()
	best := time.Duration(1 << 62)
	for i, begin := 0, time.Now(); i < 2 || i < 20 && time.Since(begin) < time.Second/2; i++ {
		start := time.Now()
		out, err := p.Call(ctx, a)
		if err != nil {
			return 0, err
		}
		if _, err := out[0].Fetch(); err != nil {
			return 0, err
		}
		best = min(best, time.Since(start))
		out[0].Free()
	}
	return 2 * n * n * n / best.Seconds() / 1e9, nil
}
