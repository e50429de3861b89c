package device

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Listed is a backend that this machine has or could have.
type Listed struct {
	Info
	From   string        `json:"from,omitempty"`   // where a plugin was found
	Name   string        `json:"name,omitempty"`   // of an installed plugin, for its removal
	SHA256 string        `json:"sha256,omitempty"` // of a plugin's file
	Trust  plugins.Trust `json:"trust,omitempty"`  // what is known about that hash
	Error  string        `json:"error,omitempty"`  // why it does not work
	GFLOPS float64       `json:"gflops,omitempty"` // of a float32 matrix product, both sides 1024
}

// List opens every backend of this machine and measures it. chosen is the index
// of the one that Open takes by itself; each says why.
func List(ctx context.Context, o Options) (list []Listed, chosen int, err error) {
	o.Backend = ""
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
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
		if err == nil {
			err = d.ready(o)
		}
		if err != nil {
			l.Error = fault.Line(err)
			list = append(list, l)
			return nil
		}
		defer d.Close()
		l.Info = d.Info()
		if l.GFLOPS, err = d.MatMul(ctx, dtypes.Float32, 1024); err != nil {
			return err
		}
		if l.Backend == want.Backend && chosen < 0 {
			chosen = len(list)
			l.Why = want.Why
		}
		list = append(list, l)
		return nil
	}
	for _, p := range plugins.Find() {
		l := Listed{Info: Info{Backend: "xla:" + p.Path, Kind: p.Kind, Plugin: p.Path, SIMD: SIMD()}, From: p.From}
		if p.Installed() {
			l.Name = p.Name()
		}
		if l.SHA256, l.Trust, err = p.Trust(); err != nil {
			l.Error = fault.Line(err)
			list = append(list, l)
			continue
		}
		err := add(l, func() (*Device, error) {
			return openPlugin(p, "", "", o)
		})
		if err != nil {
			return nil, 0, err
		}
	}
	err = add(Listed{}, func() (*Device, error) { return openGo("", o.Threads) })
	if err == nil && chosen < 0 {
		err = fault.Envf("%s: opened once but not a second time; try again", want.Backend)
	}
	return list, chosen, err
}

// MatMul measures products of square matrices of side n, eight in a row, in
// GFLOP/s: the best of up to 20 runs in about half a second.
func (d *Device) MatMul(ctx context.Context, dtype dtypes.DType, n int) (float64, error) {
	const chain = 8
	p := d.Program("speed", func(in []*graph.Node) []*graph.Node {
		x := graph.ConvertDType(in[0], dtype)
		y := x
		for range chain {
			y = graph.Dot(y, x).WithAccumulatorDType(dtypes.InvalidDType).General([]int{1}, nil, []int{0}, nil)
		}
		return []*graph.Node{graph.ReduceAllMax(y)}
	})
	values := make([]float32, n*n)
	rng := rand.New(rand.NewPCG(1, 2)) // zeros would be faster on a GPU
	for i := range values {
		values[i] = (rng.Float32() - 0.5) / float32(math.Sqrt(float64(n)))
	}
	a, err := d.PutF32(Replicated, values, n, n)
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
	return chain * 2 * math.Pow(float64(n), 3) / best.Seconds() / 1e9, nil
}
