//go:build amd64 && goexperiment.simd

package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// every is all threads.
const every Threads = 0

// near fails where got is further than tol, absolute and relative, from want.
func near(t testing.TB, what string, got []float32, want []float64, tol float64) {
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
		every.Map(got, x, c.f)
		near(t, c.name, got, want, c.tol)
	}
}

// odd is randoms with the values that arithmetic treats in its own way.
func odd(n int) []float32 {
	x := randoms(n)
	special := []float64{math.NaN(), math.Inf(1), math.Copysign(0, -1), math.Inf(-1), 0, 1e-42, -3e38}
	for i := range x {
		if i%11 == 3 {
			x[i] = float32(special[i/11%len(special)])
		}
	}
	return x
}

// same fails where got is not want, NaN, infinities and the sign of zero included.
func same(t testing.TB, what any, i int, got, want float32) {
	if math.Float32bits(got) != math.Float32bits(want) && (got == got || want == want) {
		t.Helper()
		t.Fatalf("%v: [%d] is %g, want %g", what, i, got, want)
	}
}

func TestRows(t *testing.T) {
	needFast(t)
	for _, n := range []int{1, 3, 7, 8, 9, 13, 64, 197} {
		checkRows(t, 301, n)
	}
	checkRows(t, 1, 20000)
}

func checkRows(t testing.TB, rows, n int) {
	t.Helper()
	x, gamma, beta := randoms(rows*n), randoms(n), randoms(n + 1)[1:]
	x[0] = float32(math.Inf(-1)) // a masked value
	if n == 1 {
		x[0] = 2
	}
	soft, norm, plain := make([]float32, len(x)), make([]float32, len(x)), make([]float32, len(x))
	every.Softmax(soft, x, n)
	wantSoft, wantNorm, wantPlain := make([]float64, len(x)), make([]float64, len(x)), make([]float64, len(x))
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
			wantPlain[r*n+i] = (float64(v) - mean) / math.Sqrt(squares/float64(n)+1e-5)
			wantNorm[r*n+i] = wantPlain[r*n+i]*float64(gamma[i]) + float64(beta[i])
		}
	}
	// Where a row is far from zero, its largest value must be taken off first.
	far, farther := make([]float32, n), make([]float32, n)
	for i := range far {
		far[i] = x[len(x)-n+i]*2 + 1000
	}
	every.Softmax(farther, far, n)
	total, wantFar := 0.0, make([]float64, n)
	for i, v := range far {
		wantFar[i] = math.Exp(float64(v) - 1000)
		total += wantFar[i]
	}
	for i := range wantFar {
		wantFar[i] /= total
	}
	every.LayerNorm(norm, x, gamma, beta, n, 1e-5)
	every.LayerNorm(plain, x, nil, nil, n, 1e-5)
	near(t, fmt.Sprint("softmax ", rows, n), soft, wantSoft, 3e-7)
	near(t, fmt.Sprint("softmax of large values ", n), farther, wantFar, 3e-7)
	near(t, fmt.Sprint("layer norm ", rows, n), norm, wantNorm, 2e-6)
	near(t, fmt.Sprint("layer norm without gamma ", rows, n), plain, wantPlain, 2e-6)
}

// TestRowsOfSpecialValues: one NaN or +Inf makes the whole row NaN, and no other.
func TestRowsOfSpecialValues(t *testing.T) {
	needFast(t)
	const n, rows = 13, 7
	for at := range n {
		for _, v := range []float64{math.NaN(), math.Inf(1)} {
			x, out := randoms(rows*n), make([]float32, rows*n)
			x[3*n+at] = float32(v)
			for name, run := range map[string]func(){
				"softmax":    func() { every.Softmax(out, x, n) },
				"layer norm": func() { every.LayerNorm(out, x, nil, nil, n, 1e-5) },
			} {
				run()
				for i, y := range out {
					if got := y != y; got != (i/n == 3) {
						t.Fatalf("%s with %g in row 3, column %d: [%d] is %g", name, v, at, i, y)
					}
				}
			}
		}
	}
}

func TestReduceSum(t *testing.T) {
	needFast(t)
	for _, s := range [][3]int{{1, 1, 1}, {1, 20000, 1}, {1, 8192, 1}, {1, 8193, 1}, {1000, 7, 1}, {3, 500, 70}, {1, 1000, 300}, {5, 9, 2}} {
		checkReduceSum(t, s[0], s[1], s[2])
	}
	for _, outer := range []int{1, 2, 65} {
		for _, n := range []int{1, 2, 63, 64, 65, 127, 128, 129} {
			for _, inner := range []int{1, 2, 7, 63, 64, 65, 129} {
				checkReduceSum(t, outer, n, inner)
			}
		}
	}
}

func checkReduceSum(t testing.TB, outer, n, inner int) {
	t.Helper()
	for name, x := range map[string][]float32{"": randoms(outer * n * inner), " with NaN and infinities": odd(outer * n * inner)} {
		out, want, size := odd(outer*inner), make([]float64, outer*inner), make([]float64, outer*inner)
		for i, v := range x {
			at := i/(n*inner)*inner + i%inner
			want[at] += float64(v)
			size[at] += math.Abs(float64(v))
		}
		every.ReduceSum(out, x, outer, n, inner)
		for i, got := range out {
			w := want[i]
			if math.IsNaN(float64(got)) && math.IsNaN(w) || float64(got) == w {
				continue
			}
			if size[i] > math.MaxFloat32 { // some order overflows
				continue
			}
			if !(math.Abs(float64(got)-w) <= 1e-6*size[i]) {
				t.Fatalf("sum of [%d,%d,%d]%s: [%d] is %g, want %g", outer, n, inner, name, i, got, w)
			}
		}
	}
}

// TestReduceSumIsExact: a long sum is summed in short ones first. One after the
// other these are off by 5e-6 of their size.
func TestReduceSumIsExact(t *testing.T) {
	needFast(t)
	const n = 100_000
	for _, inner := range []int{1, 2, 65} {
		x := randoms(n * inner)
		out, want := make([]float32, inner), make([]float64, inner)
		for i, v := range x {
			x[i] = (v + 1) / 2
			want[i%inner] += float64(x[i])
		}
		every.ReduceSum(out, x, 1, n, inner)
		squares := 0.0
		for i, got := range out {
			squares += math.Pow(float64(got)/want[i]-1, 2)
		}
		if off := math.Sqrt(squares / float64(inner)); off > 1.5e-6 {
			t.Errorf("%d sums of %d are off by %.2g", inner, n, off)
		} else {
			t.Logf("%d sums of %d are off by %.2g", inner, n, off)
		}
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
		{[]int{30000}, []int{1}, []int{1}},
		{[]int{4, 50, 70}, []int{4, 50, 70}, []int{1, 1, 70}},
		{[]int{4, 50, 70}, []int{4, 50, 1}, []int{4, 50, 70}},
		{[]int{4, 50, 70}, []int{4, 1, 1}, []int{1, 50, 70}},
		{[]int{3, 20, 5, 64}, []int{3, 20, 5, 64}, []int{1, 20, 1, 64}},
		{[]int{2, 3, 4}, []int{1, 1, 1}, []int{1, 1, 1}},
	} {
		for op := Add; op <= Div; op++ {
			checkBinary(t, op, c.dims, c.a, c.b)
		}
	}
}

func checkBinary(t testing.TB, op Operator, dims, aDims, bDims []int) {
	t.Helper()
	a, b := odd(size(aDims)), odd(size(bDims) + 1)[1:]
	want := make([]float32, size(dims))
	for i := range want {
		at, bt, rest, as, bs := 0, 0, i, 1, 1
		for k := len(dims) - 1; k >= 0; k-- {
			p := rest % dims[k]
			at, bt = at+p%aDims[k]*as, bt+p%bDims[k]*bs
			as, bs, rest = as*aDims[k], bs*bDims[k], rest/dims[k]
		}
		want[i] = map[Operator]float32{Add: a[at] + b[bt], Sub: a[at] - b[bt], Mul: a[at] * b[bt], Div: a[at] / b[bt]}[op]
	}
	check := func(out []float32) {
		t.Helper()
		every.Binary(op, out, a, b, dims, aDims, bDims)
		for i, got := range out {
			same(t, []any{"op", op, dims, aDims, bDims}, i, got, want[i])
		}
	}
	check(make([]float32, len(want)))
	// In place.
	if slices.Equal(aDims, dims) {
		kept := slices.Clone(a)
		check(a)
		a = kept
	}
	if slices.Equal(bDims, dims) {
		check(b)
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
		{{5, 2, 3, 7}, {0, 3, 1, 2}},
		{{5, 2, 1, 7}, {1, 0, 2, 3}},
		{{3, 2, 5, 4}, {2, 0, 3, 1}},
	} {
		checkTranspose(t, c[0], c[1])
	}
}

func checkTranspose(t testing.TB, dims, perm []int) {
	t.Helper()
	x, out := odd(size(dims)), make([]float32, size(dims))
	every.Transpose(out, x, dims, perm)
	strides := make([]int, len(dims))
	for i, s := len(dims)-1, 1; i >= 0; i-- {
		strides[i], s = s, s*dims[i]
	}
	for i, got := range out {
		at, rest := 0, i
		for k := len(dims) - 1; k >= 0; k-- {
			at, rest = at+rest%dims[perm[k]]*strides[perm[k]], rest/dims[perm[k]]
		}
		same(t, []any{"transpose", dims, perm}, i, got, x[at])
	}
}

func TestSlice(t *testing.T) {
	needFast(t)
	for _, c := range [][3][]int{
		{{4, 50, 30}, {4, 50, 90}, {0, 0, 60}},
		{{7, 5}, {20, 5}, {3, 0}},
		{{3000}, {9000}, {17}},
		{{9000}, {9001}, {1}},
		{{2, 3, 4, 5}, {3, 5, 7, 9}, {1, 2, 3, 4}},
	} {
		checkSlice(t, c[0], c[1], c[2])
	}
}

func checkSlice(t testing.TB, dims, xDims, starts []int) {
	t.Helper()
	x, out := odd(size(xDims)), make([]float32, size(dims))
	every.Slice(out, x, dims, xDims, starts)
	for i, got := range out {
		at, rest, stride := 0, i, 1
		for k := len(dims) - 1; k >= 0; k-- {
			at, rest, stride = at+(starts[k]+rest%dims[k])*stride, rest/dims[k], stride*xDims[k]
		}
		same(t, []any{"slice", dims, xDims, starts}, i, got, x[at])
	}
}

// FuzzShapes runs every kernel on shapes drawn from seed, against plain loops:
// go test -fuzz Shapes ./internal/device/kernels
func FuzzShapes(f *testing.F) {
	if !Fast {
		f.Skip("this processor has no AVX2")
	}
	for seed := range uint64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		// up to n, small ones and those around the kernels' blocks more often
		length := func(n int) int {
			if r.IntN(3) == 0 {
				n = min(n, []int{1, 8, 64, 128}[r.IntN(4)]+r.IntN(3)-1)
			}
			return 1 + r.IntN(max(1, n))
		}
		dims := func() []int {
			d, left := make([]int, 1+r.IntN(5)), 40_000
			for i := range d {
				d[i] = length(min(left, 300))
				left /= d[i]
			}
			r.Shuffle(len(d), func(i, j int) { d[i], d[j] = d[j], d[i] })
			return d
		}
		d := dims()
		checkTranspose(t, d, r.Perm(len(d)))
		a, b, x, starts := slices.Clone(d), slices.Clone(d), slices.Clone(d), make([]int, len(d))
		for i := range d {
			a[i], b[i] = []int{d[i], 1}[r.IntN(5)/4], []int{d[i], 1}[r.IntN(2)]
			starts[i] = r.IntN(4)
			x[i] += starts[i] + r.IntN(2)
		}
		if size(x) < 1<<20 {
			checkSlice(t, d, x, starts)
		}
		checkBinary(t, Operator(r.IntN(4)), d, a, b)
		checkBinary(t, Operator(r.IntN(4)), d, b, a)
		outer, n := length(40), length(3000)
		checkReduceSum(t, outer, n, length(max(1, 100_000/(outer*n))))
		checkReduceSum(t, 1, length(70_000), 1)
		checkRows(t, length(50), length(1000))
		checkMatMul(t, Product{length(4), length(80), length(450), length(600), r.IntN(2) == 0})
	})
}

// TestExp checks the relative error, also of small results, and the smallest
// numbers, which are multiples of 2⁻¹⁴⁹, to one of these.
func TestExp(t *testing.T) {
	needFast(t)
	var x []float32
	for v := float32(-104); v < 88.7; v += 0.01 {
		x = append(x, v)
	}
	out := make([]float32, len(x))
	every.Map(out, x, Exp)
	for i, v := range x {
		if want := math.Exp(float64(v)); math.Abs(float64(out[i])-want) > 2.4e-7*want+math.SmallestNonzeroFloat32 {
			t.Fatalf("exp %g is %g, want %g", v, out[i], want)
		}
	}
}

// TestThreads: the same bits on any number of threads, and no more than those
// at a time.
func TestThreads(t *testing.T) {
	needFast(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(5))
	x, y := randoms(300*2000), randoms(700*300)
	run := func(threads Threads) [][]float32 {
		var results [][]float32
		out := func(n int) []float32 {
			results = append(results, make([]float32, n))
			return results[len(results)-1]
		}
		threads.MatMul(out(2000*700), x, y, Product{1, 2000, 700, 300, false})
		threads.Softmax(out(len(x)), x, 300)
		threads.LayerNorm(out(len(x)), x, nil, nil, 300, 1e-5)
		threads.ReduceSum(out(1), x, 1, len(x), 1)
		threads.ReduceSum(out(300), x, 1, 2000, 300)
		threads.Map(out(len(x)), x, Gelu)
		return results
	}
	want := run(1)
	for _, n := range []Threads{0, 2, 9} {
		for i, got := range run(n) {
			if !slices.Equal(got, want[i]) {
				t.Errorf("result %d differs with %d threads", i, n)
			}
		}
	}
	for n, most := range map[Threads]int64{0: 5, 1: 1, 3: 3, 9: 5} {
		var running, peak atomic.Int64
		n.parallel(20, 1<<20, func(int) {
			now := running.Add(1)
			for p := peak.Load(); now > p && !peak.CompareAndSwap(p, now); p = peak.Load() {
			}
			time.Sleep(time.Millisecond)
			running.Add(-1)
		})
		if peak.Load() > most {
			t.Errorf("%d threads: %d at a time", n, peak.Load())
		}
	}
}
