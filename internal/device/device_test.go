package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// cpuPlugin is the CPU plugin of this machine; without one the test is skipped.
func cpuPlugin(t testing.TB) string {
	t.Helper()
	path := ifCPUPlugin()
	if path == "" {
		t.Skip("no CPU plugin here: run `evatool backend install cpu`")
	}
	return path
}

// ifCPUPlugin is the CPU plugin of this machine, or "".
func ifCPUPlugin() string {
	for _, p := range plugins.Find() {
		if p.Kind == KindCPU {
			return p.Path
		}
	}
	return ""
}

// open1 opens a backend for a test: "go", or "cpu" with n devices.
func open1(t testing.TB, backend string, n int) *Device {
	t.Helper()
	o := Options{Backend: backend, DeviceCount: n, CompileCache: "off"}
	if backend == "cpu" {
		o.Backend = "xla:" + cpuPlugin(t)
	}
	d, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// everywhere runs f on the Go backend and on one and four devices of the CPU plugin.
func everywhere(t *testing.T, f func(t *testing.T, d *Device)) {
	for _, c := range []struct {
		backend string
		n       int
	}{{"go", 1}, {"cpu", 1}, {"cpu", 4}} {
		t.Run(fmt.Sprintf("%s%d", c.backend, c.n), func(t *testing.T) { f(t, open1(t, c.backend, c.n)) })
	}
}

func iota32(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i)
	}
	return x
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestPutFetch: what is put comes back, in any layout.
func TestPutFetch(t *testing.T) {
	everywhere(t, func(t *testing.T, d *Device) {
		want := iota32(4 * 8 * 3)
		for _, s := range []Sharding{Replicated, SplitRows, SplitAxis(1)} {
			a := must[*Array](t)(d.PutF32(s, want, 4, 8, 3))
			if got := must[[]float32](t)(a.Float32s()); !slices.Equal(got, want) {
				t.Errorf("%s: got %v", s, got)
			}
			a.Free()
			if _, err := a.Fetch(); err == nil {
				t.Errorf("%s: a freed array was fetched", s)
			}
		}
		a := must[*Array](t)(d.Put(Replicated, tensors.FromScalar(int64(7))))
		if got := must[*tensors.Tensor](t)(a.Fetch()); tensors.ToScalar[int64](got) != 7 || a.DType() != dtypes.Int64 {
			t.Errorf("scalar: got %v", got)
		}
		if _, err := d.PutF32(Replicated, want, 5); err == nil {
			t.Error("96 values were put as 5")
		}
		if _, err := d.PutF32(SplitRows, want[:30], 10, 3); d.N() > 1 && fault.Code(err) != 2 {
			t.Errorf("10 rows over 4 devices: %v", err)
		}
	})
}

// TestProgram: a product over the batch is the same everywhere, gradients too.
func TestProgram(t *testing.T) {
	want := []float32{} // of the first backend
	everywhere(t, func(t *testing.T, d *Device) {
		p := d.Program("product", func(in []*graph.Node) []*graph.Node {
			y := graph.Dot(in[0], in[1]).General([]int{1}, nil, []int{0}, nil)
			return []*graph.Node{y, graph.Gradient(graph.ReduceAllSum(graph.Square(y)), in[1])[0]}
		}, In(SplitRows, Replicated), Out(SplitRows, Replicated))
		x := must[*Array](t)(d.PutF32(SplitRows, iota32(24), 8, 3))
		w := must[*Array](t)(d.PutF32(Replicated, iota32(6), 3, 2))
		out := must[[]*Array](t)(p.Call(t.Context(), x, w))
		got := must[[]float32](t)(out[0].Float32s())
		got = append(got, must[[]float32](t)(out[1].Float32s())...)
		if len(want) == 0 {
			want = got
		}
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-6*math.Abs(float64(want[i])) {
				t.Fatalf("value %d is %v, not %v", i, got[i], want[i])
			}
		}
		if d.N() > 1 {
			if _, err := p.Call(t.Context(), w, w); err == nil {
				t.Error("a replicated array was taken for a split one")
			}
		}
	})
}

// TestErrors: a graph that cannot be built, a cancelled context, donated twice.
func TestErrors(t *testing.T) {
	everywhere(t, func(t *testing.T, d *Device) {
		x := must[*Array](t)(d.PutF32(Replicated, iota32(4), 4))
		bad := d.Program("bad", func(in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.Reshape(in[0], 3)}
		})
		if _, err := bad.Call(t.Context(), x); err == nil || !strings.Contains(err.Error(), "compile bad") {
			t.Errorf("a panic while building gave %v", err)
		}
		wild := d.Program("wild", func(in []*graph.Node) []*graph.Node { panic("wild") })
		if _, err := wild.Call(t.Context(), x); err == nil || fault.Code(err) != 4 {
			t.Errorf("a panic gave %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := bad.Call(ctx, x); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// TestDonate: donated state is consumed and, on XLA, updated in place.
func TestDonate(t *testing.T) {
	everywhere(t, func(t *testing.T, d *Device) {
		p := d.Program("step", func(in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.ReduceAllSum(in[0]), graph.AddScalar(in[0], 1)}
		}, In(SplitRows), Out(Replicated, SplitRows), Donate(map[int]int{0: 1}))
		state := must[*Array](t)(d.PutF32(SplitRows, make([]float32, 4096), 4096))
		for i := range 3 {
			before := addresses(t, state)
			out := must[[]*Array](t)(p.Call(t.Context(), state))
			if _, err := state.Fetch(); err == nil {
				t.Error("a donated array was fetched")
			}
			if _, err := p.Call(t.Context(), state); err == nil {
				t.Error("a donated array was used again")
			}
			state = out[1]
			if d.Info().Kind == KindCPU && !slices.Equal(before, addresses(t, state)) {
				t.Errorf("step %d: the state moved", i)
			}
			out[0].Free()
		}
		if got := must[[]float32](t)(state.Float32s()); got[0] != 3 || got[4095] != 3 {
			t.Errorf("state %v … %v, not 3", got[0], got[4095])
		}
		wrong := d.Program("wrong", func(in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.ReduceAllSum(in[0])}
		}, Donate(map[int]int{0: 0}))
		if _, err := wrong.Call(t.Context(), state); err == nil {
			t.Error("a vector was donated to a scalar")
		}
	})
}

func addresses(t *testing.T, a *Array) []string {
	if a.d.info.Kind != KindCPU {
		return nil
	}
	var at []string
	for _, b := range a.buffers {
		at = append(at, fmt.Sprintf("%p", must[any](t)(b.Data())))
	}
	return at
}

// towers is a graph with many independent matrix products and a gradient.
func towers(in []*graph.Node) []*graph.Node {
	loss := graph.ScalarZero(in[0].Graph(), dtypes.Float32)
	for i := range 24 {
		x := graph.MulScalar(in[0], 1/float64(i+1))
		for range 4 {
			x = graph.Tanh(graph.Dot(x, in[1]).General([]int{1}, nil, []int{0}, nil))
		}
		loss = graph.Add(loss, graph.ReduceAllMean(graph.Square(x)))
	}
	return append([]*graph.Node{loss}, graph.Gradient(loss, in[1])...)
}

// TestGoBackendEnds: a graph with many independent matrix products, like a
// training step, ends. The Go backend's default worker limit hangs in it.
func TestGoBackendEnds(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestGoBackendEnds$")
		cmd.Env = append(os.Environ(), "EVATOOL_TEST_CHILD=1")
		cmd.WaitDelay = time.Second
		timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		defer timer.Stop()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v (killed after a minute?)\n%s", err, out)
		}
		return
	}
	d := open1(t, "go", 0)
	p := d.Program("towers", towers)
	x := must[*Array](t)(d.PutF32(Replicated, iota32(64*64), 64, 64))
	for range 3 {
		must[[]*Array](t)(p.Call(t.Context(), x, x))
	}
}

// TestOpen: names, and what cannot be had.
func TestOpen(t *testing.T) {
	for _, c := range []struct {
		o    Options
		code int
	}{
		{Options{Backend: "go"}, 0},
		{Options{Backend: "tpu"}, 4},
		{Options{Backend: "go:x"}, 4},
		{Options{Backend: "go", DeviceCount: 2}, 4},
		{Options{Backend: "go", DeviceCount: -1}, 2},
		{Options{Backend: "xla:/nonexistent/cpu.so"}, 4},
		{Options{Backend: "xla:" + os.Args[0]}, 4}, // not a plugin
	} {
		var log strings.Builder
		c.o.Log = slog.New(slog.NewTextHandler(&log, nil))
		d, err := Open(t.Context(), c.o)
		if fault.Code(err) != c.code {
			t.Errorf("%+v: exit status %d (%v), not %d", c.o, fault.Code(err), err, c.code)
		}
		if err != nil {
			continue
		}
		if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "asked for") {
			t.Errorf("%+v: logged %q", c.o, &log)
		}
		d.Close()
	}
}

// TestAsync: on XLA, Call returns before the work is done, and Fetch waits. The
// CPU plugin does so where its memory is left to malloc, in a process of its own.
func TestAsync(t *testing.T) {
	const child = "EVATOOL_TEST_ASYNC"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAsync$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		switch {
		case err != nil:
			t.Errorf("%v\n%s", err, out)
		case bytes.Contains(out, []byte("--- SKIP")):
			t.Skipf("%s", out)
		}
		return
	}
	PlainMemory()
	d := open1(t, "cpu", 1)
	p := d.Program("long", func(in []*graph.Node) []*graph.Node {
		x := in[0]
		for range 20 {
			x = graph.Tanh(graph.Dot(x, in[0]).General([]int{1}, nil, []int{0}, nil))
		}
		return []*graph.Node{graph.ReduceAllSum(x)}
	})
	a := must[*Array](t)(d.PutF32(Replicated, iota32(768*768), 768, 768))
	must[[]*Array](t)(p.Call(t.Context(), a)) // compiles
	start := time.Now()
	out := must[[]*Array](t)(p.Call(t.Context(), a))
	called := time.Since(start)
	a.Free() // still in use by the run
	must[[]float32](t)(out[0].Float32s())
	if all := time.Since(start); called > all/2 {
		t.Errorf("Call took %v of %v", called, all)
	}
}

// TestTraffic: a step with its state on the device moves the batch and the loss, nothing else.
func TestTraffic(t *testing.T) {
	everywhere(t, func(t *testing.T, d *Device) {
		p := d.Program("step", func(in []*graph.Node) []*graph.Node {
			loss := graph.ReduceAllSum(graph.Mul(in[0], in[1]))
			return []*graph.Node{loss, graph.Sub(in[1], graph.Gradient(loss, in[1])[0])}
		}, In(SplitRows, Replicated), Donate(map[int]int{1: 1}))
		w := must[*Array](t)(d.PutF32(Replicated, make([]float32, 8*100), 8, 100))
		for range 3 {
			before := d.Traffic()
			x := must[*Array](t)(d.PutF32(SplitRows, make([]float32, 8*100), 8, 100))
			out := must[[]*Array](t)(p.Call(t.Context(), x, w))
			must[[]float32](t)(out[0].Float32s())
			w = out[1]
			if got, want := d.Traffic().Sub(before), (Traffic{1, 1, 1, 3200, 4}); got != want {
				t.Errorf("traffic %+v, not %+v", got, want)
			}
		}
	})
}

// TestSaveMemory: the option reaches the compiler. (Package pjrt tests more.)
func TestSaveMemory(t *testing.T) {
	d := open1(t, "cpu", 1)
	a := must[*Array](t)(d.PutF32(Replicated, make([]float32, 64*64), 64, 64))
	chains := func(in []*graph.Node) []*graph.Node {
		sum := graph.ScalarZero(in[0].Graph(), dtypes.Float32)
		for i := range 6 {
			x := graph.MulScalar(in[0], float64(i+1))
			for range 2 {
				x = graph.Sort(graph.Dot(x, in[0]).Product(), 0, true)
			}
			sum = graph.Add(sum, graph.ReduceAllSum(x))
		}
		return []*graph.Node{sum}
	}
	plain := must[MemoryUse](t)(d.Program("plain", chains).Memory(a))
	saving := must[MemoryUse](t)(d.Program("saving", chains, SaveMemory()).Memory(a))
	if saving.Temporary >= plain.Temporary {
		t.Errorf("%d bytes of temporary memory, %d without saving", saving.Temporary, plain.Temporary)
	}
}

// TestMemory: donated state needs its memory once, not twice.
func TestMemory(t *testing.T) {
	for _, n := range []int{1, 4} {
		d := open1(t, "cpu", n)
		var use [2]MemoryUse
		for i, opts := range [][]ProgramOption{nil, {Donate(map[int]int{0: 1})}} {
			p := d.Program("step", func(in []*graph.Node) []*graph.Node {
				next := graph.AddScalar(in[0], 1)
				return []*graph.Node{graph.ReduceAllSum(next), next}
			}, append(opts, In(SplitRows), Out(Replicated, SplitRows))...)
			a := must[*Array](t)(d.PutF32(SplitRows, iota32(1<<20), 1<<20))
			use[i] = must[MemoryUse](t)(p.Memory(a))
		}
		if size := int64(4 << 20 / n); use[0].Aliased != 0 || use[1].Aliased != size || use[0].Peak()-use[1].Peak() < size*9/10 {
			t.Errorf("%d devices: kept %+v, donated %+v", n, use[0], use[1])
		}
	}
}

// TestPassThrough: an output may be an input or be given twice; arrays stay
// independent of each other.
func TestPassThrough(t *testing.T) {
	everywhere(t, func(t *testing.T, d *Device) {
		p := d.Program("pass", func(in []*graph.Node) []*graph.Node {
			y := graph.AddScalar(in[0], 1)
			return []*graph.Node{in[0], y, y, in[1]}
		}, Donate(map[int]int{1: 3}))
		x := must[*Array](t)(d.PutF32(Replicated, iota32(4), 4))
		s := must[*Array](t)(d.PutF32(Replicated, iota32(3), 3))
		out := must[[]*Array](t)(p.Call(t.Context(), x, s))
		x.Free()
		out[1].Free()
		for i, want := range map[int][]float32{0: {0, 1, 2, 3}, 2: {1, 2, 3, 4}, 3: {0, 1, 2}} {
			if got := must[[]float32](t)(out[i].Float32s()); !slices.Equal(got, want) {
				t.Errorf("output %d is %v", i, got)
			}
		}
	})
}

// TestPutFunc: what is written is there, can be donated, and an error leaves nothing.
func TestPutFunc(t *testing.T) {
	everywhere(t, func(t *testing.T, d *Device) {
		for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Int64, dtypes.Bool} {
			for _, dims := range [][]int{{}, {3, 0}, {12, 1000}, {directBytes / dtype.Size(), 1}} {
				shape := shapes.Make(dtype, dims...)
				n := int(shape.ByteSize())
				a, err := d.PutFunc(Replicated, shape, func(flat any) error {
					raw := dtypes.UnsafeByteSliceFromAny(flat)
					if len(raw) != n {
						t.Fatalf("%s: %d bytes", shape, len(raw))
					}
					for i := range raw {
						raw[i] = byte(i % 2)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				got := must[*tensors.Tensor](t)(a.Fetch())
				got.ConstBytes(func(raw []byte) {
					for i := range raw {
						if raw[i] != byte(i%2) {
							t.Fatalf("%s: byte %d is %d", shape, i, raw[i])
						}
					}
				})
			}
		}
		shape := shapes.Make(dtypes.Float32, directBytes/4)
		a := must[*Array](t)(d.PutFunc(Replicated, shape, func(flat any) error { copy(flat.([]float32), iota32(directBytes/4)); return nil }))
		p := d.Program("next", func(in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.AddScalar(in[0], 1)}
		}, Donate(map[int]int{0: 0}))
		out := must[[]*Array](t)(p.Call(t.Context(), a))
		runtime.GC()
		if got := must[[]float32](t)(out[0].Float32s()); got[0] != 1 || got[4095] != 4096 {
			t.Errorf("donated: %v … %v", got[0], got[4095])
		}
		if _, err := d.PutFunc(Replicated, shape, func(any) error { return os.ErrNotExist }); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error of fill: %v", err)
		}
	})
}

// TestTooBig: a program that needs more memory than there is says so.
func TestTooBig(t *testing.T) {
	d := open1(t, "cpu", 1)
	p := d.Program("big", func(in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.BroadcastToDims(graph.Reshape(in[0]), 1<<20, 1<<24)}
	})
	a := must[*Array](t)(d.PutF32(Replicated, []float32{1}, 1))
	out, err := p.Call(t.Context(), a)
	if err == nil {
		out[0].shape = shapes.Make(dtypes.Float32, 1) // this host has no room for it either
		_, err = out[0].Float32s()
	}
	if fault.Code(err) != 4 || !strings.Contains(err.Error(), "not enough memory") {
		t.Errorf("exit status %d: %v", fault.Code(err), err)
	}
}

// TestCompileCache: a second start on several devices compiles nothing and
// gives the same bits.
func TestCompileCache(t *testing.T) {
	o := Options{Backend: "xla:" + cpuPlugin(t), DeviceCount: 4, CompileCache: t.TempDir()}
	var first []float32
	for start, want := range [][2]int64{{0, 1}, {1, 0}} {
		d := must[*Device](t)(Open(t.Context(), o))
		defer d.Close()
		p := d.Program("cached", func(in []*graph.Node) []*graph.Node {
			loss := graph.ReduceAllSum(graph.Square(graph.Tanh(graph.Dot(in[0], in[1]).Product())))
			return []*graph.Node{loss, graph.Sub(in[1], graph.Gradient(loss, in[1])[0])}
		}, In(SplitRows, Replicated), Donate(map[int]int{1: 1}))
		x := must[*Array](t)(d.PutF32(SplitRows, iota32(64), 8, 8))
		w := must[*Array](t)(d.PutF32(Replicated, iota32(64), 8, 8))
		out := must[[]*Array](t)(p.Call(t.Context(), x, w))
		got := must[[]float32](t)(out[1].Float32s())
		if start == 0 {
			first = got
		} else if !slices.Equal(got, first) {
			t.Error("other bits")
		}
		if h, m := d.client.CacheUse(); h != want[0] || m != want[1] {
			t.Errorf("start %d: %d hits, %d misses", start, h, m)
		}
	}
}
