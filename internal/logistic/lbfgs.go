package logistic

import "math"

// memory is how many steps of n values the Hessian is approximated from: many
// if they are small.
func memory(n int) int { return min(max(10, 20_000_000/n), 100) }

// lbfgs minimises a convex function by limited-memory BFGS (Nocedal and Wright,
// Numerical Optimization, algorithm 7.4), whose first guess of the Hessian is a
// diagonal that the function gives at every point.
type lbfgs struct {
	at func(v, g, h []float64) (float64, error)

	s, y [][]float64 // steps and changes of the gradient, the newest last
}

// minimize moves v to the minimum, until a step promises less than tolerance of
// f or most steps have been made.
func (l *lbfgs) minimize(v []float64, tolerance float64, most int) (f float64, steps int, converged bool, err error) {
	// Large vectors are made once: what is thrown away stays until the collector
	// runs, which is when the memory has doubled.
	g, h, next, gn, hn, d := vec(v), vec(v), vec(v), vec(v), vec(v), vec(v)
	if f, err = l.at(v, g, h); err != nil {
		return f, 0, false, err
	}
	for ; steps < most; steps++ {
		l.direction(d, g, h)
		slope := product(g, d)
		if -slope/2 <= tolerance*math.Abs(f) {
			return f, steps, true, nil
		}
		step := 1.0
		var fn float64
		for try := 0; ; try++ {
			for i := range v {
				next[i] = v[i] + step*d[i]
			}
			if fn, err = l.at(next, gn, hn); err != nil {
				return f, steps, false, err
			}
			if fn <= f+1e-4*step*slope {
				break
			}
			if math.Abs(fn-f) <= 1e-13*math.Abs(f) && math.Abs(product(gn, d)) <= -0.9*slope {
				break // rounding hides the gain, the slope shows it
			}
			if try == 40 { // no better value near v can be computed
				return f, steps, -slope/2 <= 100*tolerance*math.Abs(f), nil
			}
			shorter := -slope * step * step / (2 * (fn - f - slope*step))
			step = min(max(shorter, step/10), step/2)
			if math.IsNaN(fn) || math.IsInf(fn, 0) {
				step /= 10
			}
		}
		l.learn(v, next, g, gn)
		copy(v, next)
		g, gn, h, hn, f = gn, g, hn, h, fn
	}
	return f, steps, false, nil
}

// learn remembers a step.
func (l *lbfgs) learn(v, next, g, gn []float64) {
	var s, y []float64
	if len(l.s) == memory(len(v)) { // the oldest's room
		s, y = l.s[0], l.y[0]
		l.s, l.y = l.s[1:], l.y[1:]
	} else {
		s, y = vec(v), vec(v)
	}
	for i := range s {
		s[i], y[i] = next[i]-v[i], gn[i]-g[i]
	}
	if product(s, y) > 0 {
		l.s, l.y = append(l.s, s), append(l.y, y)
	}
}

// direction writes minus the gradient through the inverse Hessian as it is known to d.
func (l *lbfgs) direction(d, g, h []float64) {
	for i := range d {
		d[i] = -g[i]
	}
	alpha := make([]float64, len(l.s))
	for i := len(l.s) - 1; i >= 0; i-- {
		alpha[i] = product(l.s[i], d) / product(l.s[i], l.y[i])
		add(d, -alpha[i], l.y[i])
	}
	scale := 1.0
	if k := len(l.s) - 1; k >= 0 {
		yhy := 0.0
		for i, y := range l.y[k] {
			yhy += y * y / h[i]
		}
		scale = product(l.s[k], l.y[k]) / yhy
	}
	for i := range d {
		d[i] *= scale / h[i]
	}
	for i := range l.s {
		beta := product(l.y[i], d) / product(l.s[i], l.y[i])
		add(d, alpha[i]-beta, l.s[i])
	}
}

func vec(like []float64) []float64 { return make([]float64, len(like)) }

func add(to []float64, f float64, x []float64) {
	for i := range to {
		to[i] += f * x[i]
	}
}

func product(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}
