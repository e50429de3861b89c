//go:build cgo

package pjrt

import (
	"log/slog"
	"testing"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// cpuPlugin is the CPU plugin of this machine; without one the test is skipped.
func cpuPlugin(t testing.TB) string {
	t.Helper()
	for _, p := range plugins.Find() {
		if p.Kind == plugins.CPU {
			return p.Path
		}
	}
	t.Skip("no CPU plugin here: run `evatool backend install cpu`")
	return ""
}

// open opens the CPU plugin with a folder of compiled programs, or "off".
func open(t testing.TB, cache string) *Client {
	t.Helper()
	p := must[*Plugin](t)(Load(cpuPlugin(t), plugins.CPU))
	c := must[*Client](t)(p.NewClient(Options{Cache: cache, Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(c.Close)
	return c
}

// compiled compiles a program of one float32 input.
func compiled(t testing.TB, c *Client, saveMemory bool, fn func(x *graph.Node) *graph.Node, dims ...int) (compute.Executable, Compiled, error) {
	t.Helper()
	g := graph.NewGraph(c.Backend, "test")
	y := fn(graph.Parameter(g, "x", shapes.Make(dtypes.Float32, dims...)))
	what, err := c.Compile(saveMemory, func() error { return g.CompileWithSharding([]*graph.Node{y}, nil) })
	if err != nil {
		return nil, what, err
	}
	return g.Executable(), what, nil
}

// result runs a program on the numbers from 0 and returns its output.
func result(t testing.TB, c *Client, e compute.Executable, dims ...int) []float32 {
	t.Helper()
	shape := shapes.Make(dtypes.Float32, dims...)
	flat := make([]float32, shape.Size())
	for i := range flat {
		flat[i] = float32(i)
	}
	in := must[compute.Buffer](t)(c.Backend.BufferFromFlatData(0, flat, shape))
	out := must[[]compute.Buffer](t)(e.Execute([]compute.Buffer{in}, []bool{false}, 0))
	got := make([]float32, must[shapes.Shape](t)(out[0].Shape()).Size())
	if err := out[0].ToFlatData(got); err != nil {
		t.Fatal(err)
	}
	return got
}
