package logistic

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

type table struct {
	v   []float32
	dim int
}

func (t table) Len() int { return len(t.v) / t.dim }
func (t table) Dim() int { return t.dim }
func (t table) Read(dst []float32, lo, hi int) error {
	copy(dst, t.v[lo*t.dim:hi*t.dim])
	return nil
}

func unpack(t *testing.T, s string, dim int) table {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	v := make([]float32, len(b)/4)
	tensorfile.FloatDecoder(tensorfile.F32)(v, b)
	return table{v, dim}
}

type answers struct {
	Predicted []int
	Close     []bool
}

func (a answers) compare(t *testing.T, got []int) {
	t.Helper()
	n := 0
	for i, p := range a.Predicted {
		if a.Close[i] {
			n++
		} else if got[i] != p {
			t.Errorf("row %d: class %d, want %d", i, got[i], p)
		}
	}
	if n > len(a.Predicted)/5 || len(got) != len(a.Predicted) {
		t.Errorf("%d of %d rows are as good as tied: nothing is compared", n, len(a.Predicted))
	}
}

// Fits and neighbours are scikit-learn's: several classes and two, more rows than
// dimensions and fewer, equal rows of different classes, strong and weak penalties.
func TestScikitLearn(t *testing.T) {
	b, err := os.ReadFile("../../testdata/probe/fits.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Dim, Classes int
		X, XT        string
		Y            []int
		Fits         []struct {
			L2, Loss float64
			answers
		}
		Neighbours map[string]answers
	}
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) < 4 {
		t.Fatal(err, len(cases))
	}
	ctx := context.Background()
	for i, c := range cases {
		x, xt := unpack(t, c.X, c.Dim), unpack(t, c.XT, c.Dim)
		basis, err := NewBasis(x)
		if err != nil {
			t.Fatal(err)
		}
		var last *Model
		for _, f := range c.Fits {
			for _, start := range []*Model{nil, last} {
				m, err := Fit(ctx, x, c.Y, c.Classes, basis, Options{L2: f.L2, Start: start})
				if err != nil {
					t.Fatal(err)
				}
				if !m.Converged || math.Abs(m.Loss/f.Loss-1) > 1e-6 {
					t.Errorf("case %d, l2 %g: loss %.10g, want %.10g; %d iterations, converged %v", i, f.L2, m.Loss, f.Loss, m.Iterations, m.Converged)
				}
				if f.L2 >= 0.1 && m.Iterations > 60 {
					t.Errorf("case %d, l2 %g: %d iterations; the basis should make them few", i, f.L2, m.Iterations)
				}
				got := make([]int, xt.Len())
				if err := m.Logits(ctx, xt, func(i int, logits []float64) { got[i] = slices.Index(logits, slices.Max(logits)) }); err != nil {
					t.Fatal(err)
				}
				f.compare(t, got)
				last = m
			}
		}
		for k, want := range c.Neighbours {
			n, _ := strconv.Atoi(k)
			got, err := Neighbours(ctx, x, c.Y, c.Classes, xt, n)
			if err != nil {
				t.Fatal(err)
			}
			want.compare(t, got)
		}
	}
}

// The same bits whatever the number of threads.
func TestThreads(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	x := table{make([]float32, 700*21), 21}
	y := make([]int, 700)
	for i := range y {
		y[i] = rng.IntN(6)
		for j := range 21 {
			x.v[i*21+j] = float32(rng.NormFloat64() + float64(y[i]*j%5))
		}
	}
	fit := func(threads int) []float64 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
		basis, err := NewBasis(x)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Fit(context.Background(), x, y, 6, basis, Options{L2: 0.1})
		if err != nil {
			t.Fatal(err)
		}
		return append(slices.Concat(m.W...), m.Loss)
	}
	one := fit(1)
	for _, threads := range []int{2, 5} {
		if !slices.Equal(one, fit(threads)) {
			t.Errorf("%d threads give other bits", threads)
		}
	}
}

// A right guess of the curvature saves steps and changes no result. On features
// with a decaying spectrum and classes of unlike size the number of steps is the
// same every time, and small: without the principal axes, the features' variance,
// the classes' share or the penalty in the guess it is larger.
func TestSteps(t *testing.T) {
	const rows, dim, classes = 3000, 48, 9
	rng := rand.New(rand.NewPCG(5, 6))
	x, y := table{make([]float32, rows*dim), dim}, make([]int, rows)
	var centres [classes][dim]float64
	for k := range centres {
		for j := range dim {
			centres[k][j] = rng.NormFloat64() / math.Sqrt(1+float64(j))
		}
	}
	for i := range y {
		y[i] = min(rng.IntN(classes), rng.IntN(classes), rng.IntN(classes)) // few of the last ones
		var row [dim]float64
		for j := range row {
			row[j] = 0.3*centres[y[i]][j] + rng.NormFloat64()/(1+float64(j)/4)
		}
		for j := range dim { // no axis is special
			other := (j + 7) % dim
			x.v[i*dim+j] = float32(0.6*row[j] + 0.8*row[other] + 1)
		}
	}
	basis, err := NewBasis(x)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		l2   float64
		most int
	}{{100, 17}, {10, 40}} {
		var steps []int
		for range 2 {
			m, err := Fit(context.Background(), x, y, classes, basis, Options{L2: c.l2})
			if err != nil || !m.Converged {
				t.Fatalf("%+v, %v", m, err)
			}
			steps = append(steps, m.Iterations)
		}
		t.Logf("l2 %g: %v steps", c.l2, steps)
		if steps[0] != steps[1] || steps[0] > c.most {
			t.Errorf("l2 %g: %v steps, want the same and at most %d", c.l2, steps, c.most)
		}
	}
}

// The vector kernels are the plain loops.
func TestKernels(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	random := func(n int) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = rng.NormFloat64()
		}
		return v
	}
	near := func(got, want []float64) {
		t.Helper()
		for i := range got {
			if math.Abs(got[i]-want[i]) > 1e-12 {
				t.Fatalf("%d: %v, want %v", i, got[i], want[i])
			}
		}
	}
	for _, n := range []int{4, 8, 40} {
		var got, want [8]float64
		a, b := [4][]float64{random(n), random(n), random(n), random(n)}, [2][]float64{random(n), random(n)}
		dots8(&got, a, b, n)
		plainDots8(&want, a, b, n)
		near(got[:], want[:])
		r, x := random((n-1)*5+5), random(8*n)
		into := random(3*11 + 8)
		other := slices.Clone(into)
		outer(into, 11, r, 5, x, n)
		plainOuter(other, 11, r, 5, x, n)
		near(into, other)
	}
}
