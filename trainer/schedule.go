package trainer

import "math"

// warmupCosine is the factor on the peak learning rate for optimizer step s,
// counted from 0: (s+1)/warmup while warming up, then ½(1+cos(π·progress)).
func warmupCosine(s, warmup, total int64) float64 {
	if s < warmup {
		return float64(s+1) / float64(warmup)
	}
	return 0.5 * (1 + math.Cos(math.Pi*float64(s-warmup)/float64(total-warmup)))
}
