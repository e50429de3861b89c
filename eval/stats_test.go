package eval

import (
	"math"
	"slices"
	"testing"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

func TestWilson(t *testing.T) {
	// Wilson's score interval, evaluated outside of this program.
	for _, c := range []struct {
		k, n   int
		lo, hi float64
	}{
		{9, 20, 0.2581979, 0.6579147},
		{0, 10, 0, 0.2775328},
		{10, 10, 0.7224672, 1},
		{37360, 50000, 0.7433716, 0.7509904},
		{0, 0, 0, 1},
	} {
		ci := Wilson(c.k, c.n)
		if math.Abs(ci[0]-c.lo) > 1e-6 || math.Abs(ci[1]-c.hi) > 1e-6 {
			t.Errorf("%d of %d: got %v, want [%v %v]", c.k, c.n, ci, c.lo, c.hi)
		}
	}
}

func TestInside(t *testing.T) {
	ci := [2]float64{0.74333, 0.75099}
	for v, want := range map[float64]bool{0.747: true, 0.7433: true, 0.7432: false, 0.751: true, 0.7511: false} {
		if inside(v, ci) != want {
			t.Errorf("%v in %v: want %v", v, ci, want)
		}
	}
}

func TestRank(t *testing.T) {
	for _, c := range []struct {
		name   string
		logits []float32
		top    [5]int
		tied   bool
	}{
		{"plain", []float32{1, 5, 3, 2, 4, 0}, [5]int{1, 4, 2, 3, 0}, false},
		{"the lower index wins a tie", []float32{1, 7, 7, 0, 7, 3}, [5]int{1, 2, 4, 5, 0}, true},
		{"a tie further down is none for top-1", []float32{2, 9, 2, 2, 2, 2}, [5]int{1, 0, 2, 3, 4}, false},
		{"fewer than five", []float32{-1, 2}, [5]int{1, 0, -1, -1, -1}, false},
		{"one class", []float32{3}, [5]int{0, -1, -1, -1, -1}, false},
		{"late and large", []float32{0, 0, 0, 0, 0, 0, 1}, [5]int{6, 0, 1, 2, 3}, false},
	} {
		var r row
		r.rank(c.logits)
		if r.Top != c.top || r.Tied != c.tied || r.Logit != c.logits[c.top[0]] {
			t.Errorf("%s: got %v tied %v logit %v", c.name, r.Top, r.Tied, r.Logit)
		}
	}
	var r row
	r.rank([]float32{1, 2, 3})
	if s := r.Probs[0] + r.Probs[1] + r.Probs[2]; math.Abs(float64(s-1)) > 1e-6 || math.Abs(float64(r.Probs[0])-0.66524) > 1e-5 {
		t.Errorf("probabilities %v", r.Probs)
	}
}

func TestTally(t *testing.T) {
	tl := newTally([]string{"a", "b", "c", "d", "e", "f"})
	top := func(ids ...int) (t [5]int) { copy(t[:], ids); return t }
	for _, r := range []row{
		{Label: 0, Top: top(0, 1, 2, 3, 4)},
		{Label: 0, Top: top(1, 0, 2, 3, 4), Tied: true},
		{Label: 0, Top: top(1, 5, 2, 3, 4)},
		{Label: 2, Top: top(2, 0, 1, 3, 4)},
		{Label: 5, Top: top(2, 0, 1, 3, 4)},
	} {
		tl.add(r)
	}
	var res Result
	tl.fill(&res)
	if res.N != 5 || res.Correct1 != 2 || res.Correct5 != 3 || res.Ties != 1 {
		t.Errorf("counts %+v", res)
	}
	if want := (1.0/3 + 1 + 0) / 3; math.Abs(res.MeanPerClass-want) > 1e-12 {
		t.Errorf("mean per class %v, want %v: classes without images do not count", res.MeanPerClass, want)
	}
	if ci := res.CI95.MeanPerClass; !(ci[0] < res.MeanPerClass && res.MeanPerClass < ci[1]) {
		t.Errorf("interval %v of %v", ci, res.MeanPerClass)
	}
	if len(res.Confused) != 2 || res.Confused[0] != (Confusion{0, 1, "a", "b", 2}) || res.Confused[1] != (Confusion{5, 2, "f", "c", 1}) {
		t.Errorf("confusions %+v", res.Confused)
	}
	if c := res.PerClass[0]; c.N != 3 || c.Correct != 1 || c.Top5 != 2 {
		t.Errorf("class row %+v", c)
	}
}

func TestExpect(t *testing.T) {
	for _, c := range []struct {
		s    string
		got  float64
		want fault.Kind
	}{
		{"0.45±0.01", 0.45, fault.Done},
		{"0.45+-0.01", 0.46, fault.Done},
		{"0.45 ± 0.01", 0.4601, fault.CheckFailed},
		{"0.45", 9.0 / 20, fault.Done},
		{"0.45", 0.46, fault.CheckFailed},
		{"45±1", 0.45, fault.Usage},
		{"0.45±x", 0.45, fault.Usage},
		{"NaN±0.1", 0.45, fault.Usage},
		{"", 0.45, fault.Usage},
	} {
		e, err := parseExpect(c.s)
		if err == nil {
			err = e.check("top1", c.got)
		}
		if got := fault.Code(err); got != int(c.want) {
			t.Errorf("%q with %v: status %d (%v), want %d", c.s, c.got, got, err, c.want)
		}
	}
}

func TestBestRank(t *testing.T) {
	for _, c := range []struct {
		scores []float32
		right  []int
		want   int
	}{
		{[]float32{3, 1, 2}, []int{0}, 0},
		{[]float32{3, 1, 2}, []int{1}, 2},
		{[]float32{3, 1, 2}, []int{1, 2}, 1},
		{[]float32{2, 2, 2}, []int{1}, 1},
		{[]float32{2, 2, 2}, []int{2, 0}, 0},
	} {
		right := slices.Clone(c.right)
		if got := bestRank(c.scores, right); got != c.want {
			t.Errorf("%v, right %v: rank %d, want %d", c.scores, c.right, got, c.want)
		}
	}
}

// Models are compared by what the set's metric counts as right.
func TestRightByMetric(t *testing.T) {
	for metric, want := range map[string]bool{dataset.WorstGroupTop1: false, dataset.WorstGroupTop5: true} {
		res := &Result{Metric: metric, Group: &GroupInfo{}}
		res.tally([]string{"a", "b", "c", "d", "e"}, []row{{Label: 2, Top: [5]int{0, 1, 2, 3, 4}, Meta: []int{0}}})
		if res.rightAt[0] != want {
			t.Errorf("%s: the third place is right: %v", metric, !want)
		}
	}
}
