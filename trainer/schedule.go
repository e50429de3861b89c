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

// rates are the learning rates of step s for the three groups.
func (r *Recipe) rates(s int64) [3]float64 {
	f := warmupCosine(s, r.WarmupSteps, r.Steps)
	return [3]float64{r.LR.Vision * f, r.LR.Text * f, r.LR.Other * f}
}
