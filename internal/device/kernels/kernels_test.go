//go:build amd64 && goexperiment.simd

package kernels

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
)

// near fails where got is further than tol, absolute and relative, from want.
func near(t *testing.T, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	for i, g := range got {
		d := math.Abs(float64(g) - want[i])
		if !(d <= tol*(1+math.Abs(want[i]))) && !(math.IsNaN(float64(g)) && math.IsNaN(want[i])) && float64(g) != want[i] {
			t.Fatalf("%s: [%d] is %g, want %g", what, i, g, want[i])
		}
	}
}

// size is the number of elements of dims.
func size(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

func TestMap(t *testing.T) {
	needFast(t)
	inf := float32(math.Inf(1))
	x := []float32{0, 1e-30, inf, -inf, float32(math.NaN()), 88.7, -87.5, -100, 1e30, -1e30, 89, 0.5}
	for i := range 20000 {
		x = append(x, float32(i-10000)/500)
	}
	for _, c := range []struct {
		name string
		f    Function
		want func(float64) float64
		tol  float64
	}{
		{"exp", Exp, math.Exp, 2e-7},
		{"erf", Erf, math.Erf, 3e-7},
		{"logistic", Logistic, func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, 2e-7},
		{"gelu", Gelu, func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) }, 1e-6},
	} {
		got, want := make([]float32, len(x)), make([]float64, len(x))
		for i, v := range x {
			want[i] = c.want(float64(v))
			if float64(float32(want[i])) == math.Inf(1) {
				want[i] = math.Inf(1)
			}
		}
		Map(got, x, c.f)
		near(t, c.name, got, want, c.tol)
	}
}

func TestRows(t *testing.T) {
	needFast(t)
	for _, n := range []int{1, 3, 8, 13, 64, 197} {
		const rows = 301
		x, gamma, beta := randoms(rows*n), randoms(n), randoms(n)
		x[0] = float32(math.Inf(-1)) // a masked value
		if n == 1 {
			x[0] = 2
		}
		soft, norm := make([]float32, len(x)), make([]float32, len(x))
		Softmax(soft, x, n)
		wantSoft, wantNorm := make([]float64, len(x)), make([]float64, len(x))
		for r := range rows {
			row := x[r*n : (r+1)*n]
			var sum, mean, squares float64
			for _, v := range row {
				sum += math.Exp(float64(v))
			}
			for i, v := range row {
				wantSoft[r*n+i] = math.Exp(float64(v)) / sum
			}
			if r == 0 {
				row[0] = 1
			}
			for _, v := range row {
				mean += float64(v) / float64(n)
			}
			for _, v := range row {
				squares += (float64(v) - mean) * (float64(v) - mean)
			}
			for i, v := range row {
				wantNorm[r*n+i] = (float64(v)-mean)/math.Sqrt(squares/float64(n)+1e-5)*float64(gamma[i]) + float64(beta[i])
			}
		}
		LayerNorm(norm, x, gamma, beta, n, 1e-5)
		near(t, fmt.Sprint("softmax ", n), soft, wantSoft, 3e-7)
		near(t, fmt.Sprint("layer norm ", n), norm, wantNorm, 2e-6)
	}
}

func TestReduceSum(t *testing.T) {
	needFast(t)
	for _, s := range [][3]int{{1, 1, 1}, {1, 20000, 1}, {1000, 7, 1}, {3, 500, 70}, {1, 1000, 300}, {5, 9, 2}} {
		x := randoms(s[0] * s[1] * s[2])
		out, want := make([]float32, s[0]*s[2]), make([]float64, s[0]*s[2])
		for i, v := range x {
			want[i/(s[1]*s[2])*s[2]+i%s[2]] += float64(v)
		}
		ReduceSum(out, x, s[0], s[1], s[2])
		near(t, fmt.Sprint(s), out, want, 1e-5)
	}
}

func TestBinary(t *testing.T) {
	needFast(t)
	for _, c := range []struct{ dims, a, b []int }{
		{[]int{}, []int{}, []int{}},
		{[]int{1, 1}, []int{1, 1}, []int{1, 1}},
		{[]int{30000}, []int{30000}, []int{30000}},
		{[]int{30000}, []int{1}, []int{30000}},
		{[]int{30000}, []int{30000}, []int{1}},
		{[]int{4, 50, 70}, []int{4, 50, 70}, []int{1, 1, 70}},
		{[]int{4, 50, 70}, []int{4, 50, 1}, []int{4, 50, 70}},
		{[]int{4, 50, 70}, []int{4, 1, 1}, []int{1, 50, 70}},
		{[]int{3, 20, 5, 64}, []int{3, 20, 5, 64}, []int{1, 20, 1, 64}},
		{[]int{2, 3, 4}, []int{1, 1, 1}, []int{1, 1, 1}},
	} {
		for op := Add; op <= Div; op++ {
			a, b, out := randoms(size(c.a)), randoms(size(c.b) + 1)[1:], make([]float32, size(c.dims))
			Binary(op, out, a, b, c.dims, c.a, c.b)
			for i, got := range out {
				at, bt, rest, as, bs := 0, 0, i, 1, 1
				for k := len(c.dims) - 1; k >= 0; k-- {
					p := rest % c.dims[k]
					at, bt = at+p%c.a[k]*as, bt+p%c.b[k]*bs
					as, bs, rest = as*c.a[k], bs*c.b[k], rest/c.dims[k]
				}
				want := map[Operator]float32{Add: a[at] + b[bt], Sub: a[at] - b[bt], Mul: a[at] * b[bt], Div: a[at] / b[bt]}[op]
				if got != want {
					t.Fatalf("%v op %d: [%d] is %g, want %g", c, op, i, got, want)
				}
			}
		}
	}
}

func TestTranspose(t *testing.T) {
	needFast(t)
	for _, c := range [][2][]int{
		{{}, {}},
		{{7}, {0}},
		{{5, 9}, {1, 0}},
		{{300, 200}, {1, 0}},
		{{4, 50, 12, 64}, {0, 2, 1, 3}},
		{{4, 50, 12, 64}, {0, 2, 3, 1}},
		{{2, 3, 6, 4, 6, 4}, {0, 2, 4, 1, 3, 5}},
		{{1, 17, 1, 19}, {3, 0, 1, 2}},
		{{3, 17, 10, 19}, {3, 2, 1, 0}},
		{{3, 8, 16, 2}, {2, 0, 3, 1}},
	} {
		dims, perm := c[0], c[1]
		x, out := randoms(size(dims)), make([]float32, size(dims))
		Transpose(out, x, dims, perm)
		strides := make([]int, len(dims))
		for i, s := len(dims)-1, 1; i >= 0; i-- {
			strides[i], s = s, s*dims[i]
		}
		for i, got := range out {
			at, rest := 0, i
			for k := len(dims) - 1; k >= 0; k-- {
				at, rest = at+rest%dims[perm[k]]*strides[perm[k]], rest/dims[perm[k]]
			}
			if got != x[at] {
				t.Fatalf("%v: [%d] is %g, want %g", c, i, got, x[at])
			}
		}
	}
}

func TestSlice(t *testing.T) {
	needFast(t)
	for _, c := range [][3][]int{
		{{4, 50, 30}, {4, 50, 90}, {0, 0, 60}},
		{{7, 5}, {20, 5}, {3, 0}},
		{{3000}, {9000}, {17}},
		{{2, 3, 4, 5}, {3, 5, 7, 9}, {1, 2, 3, 4}},
	} {
		dims, xDims, starts := c[0], c[1], c[2]
		x, out := randoms(size(xDims)), make([]float32, size(dims))
		Slice(out, x, dims, xDims, starts)
		for i, got := range out {
			at, rest, stride := 0, i, 1
			for k := len(dims) - 1; k >= 0; k-- {
				at, rest, stride = at+(starts[k]+rest%dims[k])*stride, rest/dims[k], stride*xDims[k]
			}
			if got != x[at] {
				t.Fatalf("%v: [%d] is %g, want %g", c, i, got, x[at])
			}
		}
	}
}

// TestExp checks the relative error, also of small results.
func TestExp(t *testing.T) {
	needFast(t)
	var x []float32
	for v := float32(-87); v < 88.7; v += 0.01 {
		x = append(x, v)
	}
	out := make([]float32, len(x))
	Map(out, x, Exp)
	for i, v := range x {
		if want := math.Exp(float64(v)); math.Abs(float64(out[i])/want-1) > 2.4e-7 {
			t.Fatalf("exp %g is %g, want %g", v, out[i], want)
		}
	}
}

func TestThreads(t *testing.T) {
	needFast(t)
	x, y := randoms(300*2000), randoms(700*300)
	run := func(threads int) [][]float32 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
		var all [][]float32
		out := func(n int) []float32 {
			all = append(all, make([]float32, n))
			return all[len(all)-1]
		}
		MatMul(out(2000*700), x, y, Product{1, 2000, 700, 300, false})
		Softmax(out(len(x)), x, 300)
		LayerNorm(out(len(x)), x, nil, nil, 300, 1e-5)
		ReduceSum(out(1), x, 1, len(x), 1)
		ReduceSum(out(300), x, 1, 2000, 300)
		Map(out(len(x)), x, Gelu)
		return all
	}
	want := run(1)
	for _, n := range []int{2, 5} {
		for i, got := range run(n) {
			if !slices.Equal(got, want[i]) {
				t.Errorf("result %d differs with %d threads", i, n)
			}
		}
	}
}
