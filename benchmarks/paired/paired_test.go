package paired

import (
	"math/rand/v2"
	"testing"
)

// The interval misses the true median in at most 5 % of experiments, and its
// ends are the published ones (Conover, table A3: n=6 the extremes, n=20 the
// sixth from each end).
func TestInterval(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 0, 8: 0, 9: 1, 12: 2, 15: 3, 20: 5, 25: 7} {
		if got := below(n); got != want {
			t.Errorf("%d rounds: %d left out at each end, want %d", n, got, want)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{7, 12, 31} {
		missed := 0
		for range 4000 {
			v, one := make([]float64, n), make([]float64, n)
			for i := range v {
				v[i], one[i] = 1+r.ExpFloat64(), 1
			}
			if o := Over(v, one); o.Low > 1.6931472 || o.High < 1.6931472 {
				missed++
			}
		}
		if missed > 4000*6/100 {
			t.Errorf("%d rounds: missed the median in %d of 4000", n, missed)
		}
	}
}

// A machine that becomes twice as slow changes no ratio.
func TestDrift(t *testing.T) {
	base, v := []float64{1, 1.5, 2, 2, 2}, []float64{1.2, 1.8, 2.4, 2.4, 2.4}
	if r := Over(v, base); r.Low < 1.1999 || r.High > 1.2001 {
		t.Error(r)
	}
}
