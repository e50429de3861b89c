package device

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// zeroShapes are the parameters of two small towers; the second is one that
// four devices cannot share.
var zeroShapes = [][]int{{16, 24}, {24}, {24, 8}, {7, 24}, {24}, {24, 6}}

func tower(x, w1, b1, w2 *graph.Node) *graph.Node {
	dot := func(a, b *graph.Node) *graph.Node { return graph.Dot(a, b).General([]int{1}, nil, []int{0}, nil) }
	y := dot(graph.Tanh(graph.Add(dot(x, w1), graph.ExpandLeftToRank(b1, 2))), w2)
	return graph.Div(y, graph.Sqrt(graph.ReduceAndKeep(graph.Square(y), graph.ReduceSum, -1)))
}

// zeroStep is one optimiser step of a contrastive loss over the global batch:
// in are images, texts, the step number, parameters and two moments; out are
// the loss, parameters, moments.
func zeroStep(lamb bool) func(in []*graph.Node) []*graph.Node {
	return func(in []*graph.Node) []*graph.Node {
		g, n := in[0].Graph(), len(zeroShapes)
		t, p, m, v := in[2], in[3:3+n], in[3+n:3+2*n], in[3+2*n:]
		a := tower(in[0], p[0], p[1], p[2])
		b := tower(in[1], p[3], p[4], p[5])
		k := min(a.Shape().Dimensions[1], b.Shape().Dimensions[1])
		logits := graph.MulScalar(graph.Dot(graph.Slice(a, graph.AxisRange(), graph.AxisRange(0, k)),
			graph.Slice(b, graph.AxisRange(), graph.AxisRange(0, k))).General([]int{1}, nil, []int{1}, nil), 20)
		eye := graph.ConvertDType(graph.Diagonal(g, logits.Shape().Dimensions[0]), dtypes.Float32)
		loss := graph.Neg(graph.ReduceAllMean(graph.ReduceSum(graph.Mul(graph.Add(graph.LogSoftmax(logits, 1), graph.LogSoftmax(logits, 0)), eye), -1)))
		grads := graph.Gradient(loss, p...)
		const b1, b2, lr, eps, decay = 0.9, 0.98, 1e-2, 1e-6, 0.01
		correct := func(b float64) *graph.Node {
			return graph.OneMinus(graph.Pow(graph.Scalar(g, dtypes.Float32, b), t))
		}
		out := []*graph.Node{loss}
		var ms, vs []*graph.Node
		for i := range p {
			mi := graph.Add(graph.MulScalar(m[i], b1), graph.MulScalar(grads[i], 1-b1))
			vi := graph.Add(graph.MulScalar(v[i], b2), graph.MulScalar(graph.Square(grads[i]), 1-b2))
			u := graph.Div(graph.Div(mi, correct(b1)), graph.AddScalar(graph.Sqrt(graph.Div(vi, correct(b2))), eps))
			u = graph.Add(u, graph.MulScalar(p[i], decay))
			if lamb {
				norm := func(x *graph.Node) *graph.Node {
					return graph.Sqrt(graph.AddScalar(graph.ReduceAllSum(graph.Square(x)), 1e-12))
				}
				u = graph.Mul(u, graph.Div(norm(p[i]), norm(u)))
			}
			out = append(out, graph.Sub(p[i], graph.MulScalar(u, lr)))
			ms, vs = append(ms, mi), append(vs, vi)
		}
		return append(append(out, ms...), vs...)
	}
}

// runZero trains five steps and returns losses and the final state.
func runZero(t *testing.T, d *Device, lamb bool) (all []float32) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(std float64, dims ...int) []float32 {
		n := 1
		for _, k := range dims {
			n *= k
		}
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * std)
		}
		return x
	}
	n := len(zeroShapes)
	in, out := []Sharding{SplitRows, SplitRows, Replicated}, []Sharding{Replicated}
	donate := map[int]int{}
	var state []*Array
	for i := range 3 * n {
		dims, s := zeroShapes[i%n], Replicated
		values := random(0.3, dims...)
		if i >= n { // the moments
			s = d.SplitEvenly(dims...)
			clear(values)
		}
		in, out = append(in, s), append(out, s)
		donate[3+i] = 1 + i
		state = append(state, must[*Array](t)(d.PutF32(s, values, dims...)))
	}
	p := d.Program(fmt.Sprintf("zero_%v", lamb), zeroStep(lamb), In(in...), Out(out...), Donate(donate))
	for step := range 5 {
		args := []*Array{
			must[*Array](t)(d.PutF32(SplitRows, random(1, 32, 16), 32, 16)),
			must[*Array](t)(d.PutF32(SplitRows, random(1, 32, 7), 32, 7)),
			must[*Array](t)(d.PutF32(Replicated, []float32{float32(step + 1)})),
		}
		results := must[[]*Array](t)(p.Call(t.Context(), append(args, state...)...))
		all = append(all, must[[]float32](t)(results[0].Float32s())...)
		state = results[1:]
	}
	for i, a := range state {
		shape, err := a.buffers[0].Shape()
		if err != nil {
			t.Fatal(err)
		}
		share := 1
		if i >= n && a.Sharding() != Replicated {
			share = d.N()
		}
		if shape.Size()*share != a.shape.Size() {
			t.Errorf("state %d: a device holds %s of %s", i, shape, a.shape)
		}
		all = append(all, must[[]float32](t)(a.Float32s())...)
	}
	return all
}

// TestZero: parameters replicated and moments shared out, four devices give
// what one gives, for LAMB (whose trust ratio needs whole norms) and AdamW.
// Tolerance: 1e-5 of the largest value; sums run in another order.
func TestZero(t *testing.T) {
	for _, lamb := range []bool{false, true} {
		t.Run(fmt.Sprintf("lamb=%v", lamb), func(t *testing.T) {
			one := runZero(t, open1(t, "cpu", 1), lamb)
			four := runZero(t, open1(t, "cpu", 4), lamb)
			worst, largest := 0.0, 0.0
			for i := range one {
				worst = max(worst, math.Abs(float64(one[i]-four[i])))
				largest = max(largest, math.Abs(float64(one[i])))
			}
			if !(worst <= 1e-5*largest) {
				t.Errorf("differs by %g of %g", worst, largest)
			}
			t.Logf("largest difference %.2g of %.2g", worst, largest)
		})
	}
	d := open1(t, "cpu", 4)
	for _, c := range []struct {
		dims []int
		want Sharding
	}{{[]int{8, 3}, SplitRows}, {[]int{3, 8}, SplitAxis(1)}, {[]int{3, 5}, Replicated}, {nil, Replicated}, {[]int{0, 4}, SplitAxis(1)}} {
		if got := d.SplitEvenly(c.dims...); got != c.want {
			t.Errorf("%v: %s, not %s", c.dims, got, c.want)
		}
	}
}
