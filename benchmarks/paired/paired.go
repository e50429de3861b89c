// Package paired compares programs that took turns on one machine. A machine drifts,
// so a ratio is taken within each round, and the ratios are summarised, not the times.
package paired

import (
	"fmt"
	"slices"
)

// Ratio compares one side with another over some rounds.
type Ratio struct {
	Median    float64
	Low, High float64 // the interval that contains the true median with 95 % confidence; with fewer than six rounds the lowest and highest ratio
	Rounds    int
}

// Over summarises the ratios of the values to the base's values of the same rounds.
// Both have one value per round.
func Over(values, base []float64) Ratio {
	n := min(len(values), len(base))
	if n == 0 {
		return Ratio{}
	}
	r := make([]float64, n)
	for i := range r {
		r[i] = values[i] / base[i]
	}
	slices.Sort(r)
	k := below(n)
	return Ratio{Median(r), r[k], r[n-1-k], n}
}

func (r Ratio) String() string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Low, r.High)
}

// below is how many of n sorted values may be dropped at each end so that the rest
// still spans the median with at least 95 % confidence: the sign test inverted
// (Conover, Practical Nonparametric Statistics, section 3.2). The number of
// values below the median is binomial with 1/2.
func below(n int) int {
	term := 1.0 // n choose i, over 2^n
	for range n {
		term /= 2
	}
	k := 0
	for tail := term; 2*tail <= 0.05 && k < (n-1)/2; k++ {
		term *= float64(n-k) / float64(k+1)
		tail += term
	}
	return max(0, k-1)
}

// Median of the values: of an even number, the mean of the middle two.
func Median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}
