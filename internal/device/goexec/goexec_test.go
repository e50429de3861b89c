//go:build amd64 && goexperiment.simd

package goexec

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors/images"
	"github.com/gomlx/gomlx/ml/layers/activation"
	"github.com/gomlx/gomlx/ml/nn"

	"github.com/evatool/evatool/internal/device/kernels"
)

// open opens a stock backend.
func open(t testing.TB) compute.Backend {
	t.Helper()
	if !kernels.Fast {
		t.Skip("this processor has no AVX2")
	}
	b, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Finalize)
	return b
}

// TestTwins runs graphs on two backends of one process, a stock one and one
// with these executors, and compares. The stock one runs none of them: what it
// gives is what it gave in a process without this package.
func TestTwins(t *testing.T) {
	stock, fast := open(t), open(t)
	if !Use(fast, 0) {
		t.Fatal("the executors do not fit this version of compute")
	}
	defer Release(fast)
	r := rand.New(rand.NewPCG(1, 2))
	random := func(dims ...int) any {
		n := 1
		for _, d := range dims {
			n *= d
		}
		flat := make([]float32, n)
		for i := range flat {
			flat[i] = r.Float32()*4 - 2
		}
		if len(dims) == 1 {
			return flat
		}
		return slices.Collect(slices.Chunk(flat, dims[1]))
	}
	x, y, v := random(37, 65), random(65, 41), random(65)
	type n = *graph.Node
	cases := map[string]func(x, y, v n) n{
		"a·b":  func(x, y, v n) n { return graph.Dot(x, y).Product() },
		"a·bᵀ": func(x, y, v n) n { return graph.Dot(x, graph.Neg(x)).General([]int{1}, nil, []int{1}, nil) },
		"aᵀ·b": func(x, y, v n) n { return graph.Dot(x, x).General([]int{0}, nil, []int{0}, nil) },
		"batch": func(x, y, v n) n {
			return graph.Dot(split(x), split(x)).General([]int{2}, []int{1}, []int{2}, []int{1})
		},
		"broadcast": func(x, y, v n) n {
			return graph.Div(graph.Sub(graph.Mul(x, graph.ExpandLeftToRank(v, 2)), graph.AddScalar(x, 2)), graph.ReduceAllSum(v))
		},
		"one element and a scalar": func(x, y, v n) n {
			one, scalar := graph.Slice(x, graph.AxisElem(3), graph.AxisElem(5)), graph.ReduceAllSum(v)
			return graph.Concatenate([]n{graph.Mul(one, scalar), graph.Sub(scalar, one), graph.Div(one, scalar)}, 0)
		},
		"depthwise convolutions": func(x, y, v n) n {
			var all []n
			for _, c := range []struct{ height, width, channels, high, wide, stride, top, bottom, left, right int }{
				{5, 13, 37, 7, 7, 1, 3, 3, 3, 3}, {37, 5, 13, 5, 3, 2, 2, 2, 1, 1}, {65, 37, 1, 3, 7, 1, 0, 1, 6, 2}, {13, 37, 5, 1, 2, 3, 0, 0, 0, 0},
			} {
				w := graph.Slice(graph.Reshape(y, -1), graph.AxisRange(0, c.high*c.wide*c.channels))
				all = append(all, graph.Reshape(graph.Convolve(graph.Reshape(x, 1, c.height, c.width, c.channels), graph.Reshape(w, c.high, c.wide, 1, c.channels)).
					ChannelsAxis(images.ChannelsLast).ChannelGroupCount(c.channels).StridePerAxis(c.stride, c.stride).
					PaddingPerDim([][2]int{{c.top, c.bottom}, {c.left, c.right}}).Done(), -1))
			}
			return graph.Concatenate(all, 0)
		},
		"other convolutions": func(x, y, v n) n {
			conv := func(w n) *graph.ConvolutionBuilder {
				return graph.Convolve(graph.Reshape(x, 1, 37, 13, 5), w).ChannelsAxis(images.ChannelsLast)
			}
			w := graph.Reshape(graph.Slice(graph.Reshape(y, -1), graph.AxisRange(0, 180)), 3, 3, 1, 20)
			return graph.Concatenate([]n{
				graph.Reshape(conv(w).ChannelGroupCount(5).Done(), -1), // four outputs for each channel
				graph.Reshape(conv(graph.Reshape(w, 3, 3, 5, 4)).Done(), -1),
				graph.Reshape(conv(graph.Slice(w, graph.AxisRange(), graph.AxisRange(), graph.AxisRange(), graph.AxisRange(0, 5))).ChannelGroupCount(5).Dilations(2).Done(), -1),
			}, 0)
		},
		"exp":                          func(x, y, v n) n { return graph.Exp(x) },
		"erf":                          func(x, y, v n) n { return graph.Erf(x) },
		"logistic":                     func(x, y, v n) n { return graph.Sigmoid(x) },
		"gelu":                         func(x, y, v n) n { return activation.Gelu(x) },
		"layer norm":                   func(x, y, v n) n { return nn.LayerNorm(x, []int{1}, 1e-5, v, graph.Sin(v), nil) },
		"layer norm of the first axis": func(x, y, v n) n { return nn.LayerNorm(x, []int{0}, 1e-5, nil, nil, nil) },
		"layer norm of two axes":       func(x, y, v n) n { return nn.LayerNorm(split(x), []int{1, 2}, 1e-5, nil, nil, nil) },
		"softmax":                      func(x, y, v n) n { return graph.Softmax(x, -1) },
		"softmax first":                func(x, y, v n) n { return graph.Softmax(x, 0) },
		"sums": func(x, y, v n) n {
			return graph.Add(graph.Mul(graph.ReduceSum(x, 0), v), graph.ReduceSum(graph.ReduceSum(split(x), 0, 2), 0))
		},
		"sums of all sets of axes": func(x, y, v n) n {
			var all []n
			for _, dims := range [][]int{{37, 65}, {37, 5, 13}, {37, 1, 65}, {37, 5, 1, 13}, {1, 37, 13, 5}, {37, 13, 5, 1}} {
				for set := 1; set < 1<<len(dims); set++ {
					var axes []int
					for i := range dims {
						if set>>i&1 == 1 {
							axes = append(axes, i)
						}
					}
					all = append(all, graph.Reshape(graph.ReduceSum(graph.Reshape(x, dims...), axes...), -1))
				}
			}
			return graph.Concatenate(all, 0)
		},
		"slice": func(x, y, v n) n {
			return graph.Slice(split(x), graph.AxisRange(2, 9), graph.AxisRange(1, 4), graph.AxisRange(3))
		},
		"strided slice": func(x, y, v n) n { return graph.Slice(x, graph.AxisRange(), graph.AxisRange().Stride(2)) },
		"transpose":     func(x, y, v n) n { return graph.TransposeAllAxes(split(x), 2, 0, 1) },
		"gradient": func(x, y, v n) n {
			return graph.Gradient(graph.ReduceAllSum(graph.Sin(graph.Softmax(graph.Dot(x, y).Product(), -1))), x)[0]
		},
	}
	run := func(b compute.Backend, f func(x, y, v n) n) []float32 {
		e, err := graph.NewExec(b, f)
		if err != nil {
			t.Fatal(err)
		}
		out, err := e.Call(x, y, v)
		if err != nil {
			t.Fatal(err)
		}
		defer out[0].MustFinalizeAll()
		var flat []float32
		out[0].MustConstFlatData(func(a any) { flat = append(flat, a.([]float32)...) })
		return flat
	}
	var used [compute.OpTypeLast]int
	for op, run := range executors {
		if run == nil {
			continue
		}
		defer func() { executors[op] = run }()
		executors[op] = func(c *call) bool {
			ok := run(c)
			if ok {
				used[op]++
			}
			return ok
		}
	}
	want := map[string][]float32{}
	for name, f := range cases {
		want[name] = run(stock, f)
	}
	if used != [compute.OpTypeLast]int{} {
		t.Error("the stock backend ran executors of this package")
	}
	for name, f := range cases {
		for i, got := range run(fast, f) {
			want := float64(want[name][i])
			if math.Abs(float64(got)-want) > 2e-5*(1+math.Abs(want)) {
				t.Fatalf("%s: [%d] is %g, want %g", name, i, got, want)
			}
		}
	}
	for op, run := range executors {
		if run != nil && used[op] == 0 {
			t.Errorf("%s: the executor was not used", compute.OpType(op))
		}
	}
	// A backend that is released is a stock one again.
	Release(fast)
	used = [compute.OpTypeLast]int{}
	for name, f := range cases {
		if !slices.Equal(run(fast, f), want[name]) {
			t.Errorf("%s: other bits after Release", name)
		}
	}
	if used != [compute.OpTypeLast]int{} {
		t.Error("a released backend ran executors of this package")
	}
}

// TestTogether: two users with other threads and a stock backend run at the
// same time, while others come and go.
func TestTogether(t *testing.T) {
	x := make([][]float32, 64)
	for i := range x {
		x[i] = make([]float32, 64)
		for k := range x[i] {
			x[i][k] = float32((i*37+k*k*11)%64)/32 - 1
		}
	}
	run := func(b compute.Backend) (flat []float32) {
		e, err := graph.NewExec(b, func(x *graph.Node) *graph.Node {
			y := x
			for range 5 {
				y = graph.Erf(graph.Add(x, graph.MulScalar(graph.Dot(y, x).Product(), 0.02)))
			}
			return graph.Softmax(y, -1)
		})
		if err != nil {
			t.Error(err)
			return nil
		}
		out, err := e.Call(x)
		if err != nil {
			t.Error(err)
			return nil
		}
		defer out[0].MustFinalizeAll()
		out[0].MustConstFlatData(func(a any) { flat = append(flat, a.([]float32)...) })
		return flat
	}
	backends := []compute.Backend{open(t), open(t), open(t)}
	for i, b := range backends[:2] {
		if !Use(b, i+1) {
			t.Fatal("not used")
		}
		defer Release(b)
	}
	want := [][]float32{run(backends[0]), run(backends[1]), run(backends[2])}
	if !slices.Equal(want[0], want[1]) {
		t.Error("results depend on the threads")
	}
	if slices.Equal(want[0], want[2]) {
		t.Error("the stock backend gives this package's bits: the test proves nothing")
	}
	var wg sync.WaitGroup
	for i, b := range backends {
		wg.Go(func() {
			for range 20 {
				if !slices.Equal(run(b), want[i]) {
					t.Errorf("backend %d: other bits", i)
				}
			}
		})
	}
	for range 50 {
		b := open(t)
		Use(b, 1)
		Release(b)
	}
	wg.Wait()
}

// split is x [a,65] as [a,5,13].
func split(x *graph.Node) *graph.Node { return graph.Reshape(x, -1, 5, 13) }

// BenchmarkOperations: many operations on little data, so that what finds an
// executor weighs most; on a backend with these executors and on a stock one.
func BenchmarkOperations(b *testing.B) {
	fast, stock := open(b), open(b)
	Use(fast, 0)
	defer Release(fast)
	x := [][]float32{{1, 2, 3, 4}, {5, 6, 7, 8}}
	for name, backend := range map[string]compute.Backend{"fast": fast, "stock": stock} {
		b.Run(name, func(b *testing.B) {
			e, err := graph.NewExec(backend, func(x *graph.Node) *graph.Node {
				for range 100 {
					x = graph.Mul(graph.Add(x, x), x)
				}
				return x
			})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				out, err := e.Call(x)
				if err != nil {
					b.Fatal(err)
				}
				out[0].MustFinalizeAll()
			}
		})
	}
}
