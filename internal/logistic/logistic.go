// Package logistic fits multinomial logistic regression to rows of features, and
// finds nearest neighbours. Sums run in float64, in an order that does not
// depend on the number of threads: the same rows give the same bits.
package logistic

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	"gonum.org/v1/gonum/mat"
)

// Rows are features [Len,Dim], in memory or on disk. Read copies rows lo to hi
// into dst; one goroutine calls it at a time.
type Rows interface {
	Len() int
	Dim() int
	Read(dst []float32, lo, hi int) error
}

// Model gives class k of a row x the logit W[k]·x + B[k].
type Model struct {
	W [][]float64 // [classes,dim]
	B []float64
	// Loss is what was minimised, per row: (Σ −log p(y) + l2/2·|W|²) / n; for
	// two classes with |W[1] − W[0]|² in place of |W|².
	Loss float64
	// L2 is the factor l2: 1/C of scikit-learn's LogisticRegression.
	L2         float64
	Iterations int
	// Converged says whether the loss is within Options.Tolerance of its
	// minimum.
	Converged bool

	v []float64 // as the optimizer has it, for Options.Start
}

// Options of a fit.
type Options struct {
	L2 float64
	// Tolerance is how far above its minimum the loss may end, relative to its
	// value; 0 is 1e-13.
	Tolerance float64
	// Most is the largest number of iterations; 0 is 5000.
	Most int
	// Start is where to begin: a model of the same basis and classes, or nil.
	Start *Model
}

// block is how many rows are worked on at once.
const block = 256

// Basis are coordinates in which a fit needs few steps: the principal axes of
// the rows, seen from their mean. The penalty is the same in them, and the
// unpenalised intercept absorbs the mean.
type Basis struct {
	mean     []float64
	axes     matrix // row j: axis j
	turned   matrix // its transpose
	variance []float64
}

// basisRows is how many rows a basis is made of: any basis is right, a good one
// is faster.
const basisRows = 4096

// NewBasis is the basis of rows at equal distances.
func NewBasis(x Rows) (*Basis, error) {
	n, d := min(x.Len(), basisRows), x.Dim()
	rows := mat.NewDense(n, d, nil)
	b := &Basis{mean: make([]float64, d)}
	one := make([]float32, d)
	for i := range n {
		at := i * x.Len() / n
		if err := x.Read(one, at, at+1); err != nil {
			return nil, err
		}
		row := rows.RawRowView(i)
		for j, v := range one {
			row[j] = float64(v)
			b.mean[j] += row[j] / float64(n)
		}
	}
	across := newMatrix(d, n) // features as rows, for the products
	for i := range n {
		for j, v := range rows.RawRowView(i) {
			across.row(j)[i] = v - b.mean[j]
		}
	}
	products := newMatrix(d, d)
	parallel((d+15)/16, func(t int) { across.times(products, across, 16*t, min(16*t+16, d)) })
	cov := mat.NewSymDense(d, nil)
	for i := range d {
		for j := i; j < d; j++ {
			cov.SetSym(i, j, products.row(i)[j]/float64(n))
		}
	}
	var eig mat.EigenSym
	if !eig.Factorize(cov, true) {
		return nil, fmt.Errorf("the features have no principal axes; are they finite?")
	}
	b.variance = eig.Values(nil)
	var vectors mat.Dense
	eig.VectorsTo(&vectors)
	b.axes, b.turned = newMatrix(d, d), newMatrix(d, d)
	for i := range d {
		for j := range d {
			b.axes.row(j)[i], b.turned.row(i)[j] = vectors.At(i, j), vectors.At(i, j)
		}
	}
	return b, nil
}

// problem is a fit's rows and the room that its passes need.
type problem struct {
	x       Rows
	y       []int
	classes int
	l2      float64
	basis   *Basis

	reading sync.Mutex
	weight  matrix    // [classes,dim], of the rows as they are
	inBasis matrix    // [classes,dim], in the basis
	across  []float64 // [dim,padded]: weight transposed, for the products
	padded  int       // classes, a multiple of 4
	offset  []float64
	parts   []*portion
	free    chan *scratch
}

// portion is what a run of blocks adds to the objective. How the rows are
// divided depends on the sizes alone, so the sums do not depend on the threads.
type portion struct {
	lo, hi int
	grad   matrix // [padded,dim]
	loss   float64
	curve  []float64 // Σ p(1−p) by class
	sums   []float64 // Σ p − [class is y]
}

// scratch is what one worker needs.
type scratch struct {
	read   []float32 // [block,dim]
	rows   []float64 // eight rows across [dim,8], or eight columns [block,8]
	logits []float64 // of eight rows, [padded,8]
	rest   matrix    // [block,padded]: p − [class is y]
}

// maxPortions is the largest number of parts that the rows are summed in,
// portionBytes what their gradients may take together if there are more than two.
const (
	maxPortions  = 16
	portionBytes = 64 << 20
)

func newProblem(x Rows, y []int, classes int, l2 float64, basis *Basis) *problem {
	d := x.Dim()
	p := &problem{x: x, y: y, classes: classes, l2: l2, basis: basis, weight: newMatrix(classes, d), inBasis: newMatrix(classes, d), offset: make([]float64, classes)}
	p.padded = (classes + 3) &^ 3
	p.across = make([]float64, d*p.padded+1) // outer reads one more
	blocks := (x.Len() + block - 1) / block
	n := min(max(2, min(maxPortions, portionBytes/(8*d*p.padded))), blocks)
	for i := range n {
		p.parts = append(p.parts, &portion{
			lo: i * blocks / n * block, hi: min((i+1)*blocks/n*block, x.Len()),
			grad: newMatrix(p.padded, d), curve: make([]float64, classes), sums: make([]float64, classes),
		})
	}
	workers := min(runtime.GOMAXPROCS(0), n)
	p.free = make(chan *scratch, workers)
	for range workers {
		p.free <- &scratch{make([]float32, block*d), make([]float64, 8*max(d, block)), make([]float64, 8*p.padded), newMatrix(block, p.padded)}
	}
	return p
}

// place puts the parameters v, [classes,dim+1] in the basis with the intercept
// last, into weight and offset.
func (p *problem) place(v []float64) {
	d := p.x.Dim()
	from := p.inBasis
	for k := range p.classes {
		copy(from.row(k), v[k*(d+1):][:d])
	}
	tasks(p.classes, func(lo, hi int) { from.times(p.weight, p.basis.turned, lo, hi) })
	for k := range p.classes {
		p.offset[k] = v[k*(d+1)+d]
		for j, m := range p.basis.mean {
			p.offset[k] -= m * p.weight.row(k)[j]
		}
		for j, w := range p.weight.row(k)[:d] {
			p.across[j*p.padded+k] = w
		}
	}
}

func tasks(n int, f func(lo, hi int)) {
	parallel((n+15)/16, func(t int) { f(16*t, min(16*t+16, n)) })
}

// at is the objective at v, its gradient in g, and the diagonal of a
// curvature like its Hessian's in h.
func (p *problem) at(ctx context.Context, v, g, h []float64) (f float64, err error) {
	n, d := p.x.Len(), p.x.Dim()
	p.place(v)
	errs := make([]error, len(p.parts))
	parallel(len(p.parts), func(i int) {
		s := <-p.free
		errs[i] = p.pass(ctx, p.parts[i], s)
		p.free <- s
	})
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	all := p.parts[0]
	for _, q := range p.parts[1:] {
		all.loss += q.loss
		for k := range p.classes {
			all.curve[k] += q.curve[k]
			all.sums[k] += q.sums[k]
		}
	}
	tasks(p.classes, func(lo, hi int) {
		for _, q := range p.parts[1:] {
			for k := lo; k < hi; k++ {
				add(all.grad.row(k), 1, q.grad.row(k))
			}
		}
		for k := lo; k < hi; k++ {
			for j, m := range p.basis.mean {
				all.grad.row(k)[j] -= all.sums[k] * m
			}
		}
	})
	f = all.loss
	back := p.inBasis // place is done with it
	tasks(p.classes, func(lo, hi int) { all.grad.times(back, p.basis.axes, lo, hi) })
	for k := range p.classes {
		c := max(all.curve[k], 1e-12*float64(n))
		for j := range d {
			i := k*(d+1) + j
			f += p.l2 / 2 * v[i] * v[i]
			g[i] = back.row(k)[j] + p.l2*v[i]
			h[i] = c*max(p.basis.variance[j], 0) + p.l2
		}
		i := k*(d+1) + d
		g[i], h[i] = all.sums[k], c
	}
	return f, nil
}

// pass sums up the rows of a portion.
func (p *problem) pass(ctx context.Context, q *portion, s *scratch) error {
	clear(q.grad.v)
	clear(q.curve)
	clear(q.sums)
	q.loss = 0
	d := p.x.Dim()
	for lo := q.lo; lo < q.hi; lo += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		m := min(block, q.hi-lo)
		p.reading.Lock()
		err := p.x.Read(s.read[:m*d], lo, lo+m)
		p.reading.Unlock()
		if err != nil {
			return err
		}
		for i := 0; i < m; i += 8 {
			p.residuals(q, s, p.y[lo:lo+m], i)
		}
		for tile := range q.grad.wide / 8 {
			p.gradient(q, s, tile, m)
		}
	}
	return nil
}

// residuals puts p − [class is y] of eight rows of the block, from i on, into
// s.rest, and adds their losses.
func (p *problem) residuals(q *portion, s *scratch, y []int, i int) {
	d, m := p.x.Dim(), min(8, len(y)-i)
	rows := s.rows[:8*d]
	if m < 8 {
		clear(rows)
	}
	for r := range m {
		for j, v := range s.read[(i+r)*d:][:d] {
			rows[8*j+r] = float64(v)
		}
	}
	clear(s.logits)
	for k := 0; k < p.padded; k += 4 {
		outer(s.logits[8*k:], 8, p.across[k:], p.padded, rows, d)
	}
	for r := range m {
		most := math.Inf(-1)
		for k, b := range p.offset {
			l := s.logits[8*k+r] + b
			s.logits[8*k+r] = l
			most = max(most, l)
		}
		label := y[i+r]
		own := s.logits[8*label+r] - most
		out := s.rest.row(i + r)
		sum := 0.0
		for k := range p.classes {
			out[k] = math.Exp(s.logits[8*k+r] - most)
			sum += out[k]
		}
		others := 0.0
		for k := range p.classes {
			out[k] /= sum
			if k != label {
				others += out[k]
			}
		}
		if others < 0.5 { // exact where the row's class is all but certain
			q.loss -= math.Log1p(-others)
		} else {
			q.loss += math.Log(sum) - own
		}
		out[label] = -others
		for k, v := range out[:p.classes] {
			q.sums[k] += v
			v = math.Abs(v) // p, or 1 − p for the row's class
			q.curve[k] += v * (1 - v)
		}
	}
}

// gradient adds the block's share to eight columns of the gradient.
func (p *problem) gradient(q *portion, s *scratch, tile, m int) {
	d, columns := p.x.Dim(), s.rows[:8*m]
	n := min(8, d-8*tile)
	for i := range m {
		to := columns[8*i : 8*i+8]
		for j, v := range s.read[i*d+8*tile:][:n] {
			to[j] = float64(v)
		}
		clear(to[n:])
	}
	for k := 0; k < p.padded; k += 4 {
		outer(q.grad.v[k*q.grad.step+8*tile:], q.grad.step, s.rest.v[k:], s.rest.step, columns, m)
	}
}

// Fit minimises the loss by L-BFGS. y are the classes of the rows, 0 to
// classes−1; each occurs.
func Fit(ctx context.Context, x Rows, y []int, classes int, basis *Basis, o Options) (*Model, error) {
	if o.Tolerance == 0 {
		o.Tolerance = 1e-13
	}
	if o.Most == 0 {
		o.Most = 5000
	}
	n, d := x.Len(), x.Dim()
	l2 := o.L2
	if classes == 2 { // scikit-learn penalises w = W[1] − W[0] then, whose square is twice that of W
		l2 *= 2
	}
	p := newProblem(x, y, classes, l2, basis)
	v := make([]float64, classes*(d+1))
	if o.Start != nil {
		copy(v, o.Start.v)
	} else {
		for _, k := range y {
			v[k*(d+1)+d]++
		}
		for k := range classes { // the classes' frequencies
			i := k*(d+1) + d
			v[i] = math.Log(v[i] / float64(n) * float64(classes))
		}
	}
	l := &lbfgs{at: func(v, g, h []float64) (float64, error) { return p.at(ctx, v, g, h) }}
	f, iterations, converged, err := l.minimize(v, o.Tolerance, o.Most)
	if err != nil {
		return nil, err
	}
	p.place(v)
	m := &Model{B: p.offset, Loss: f / float64(n), L2: o.L2, Iterations: iterations, Converged: converged, v: v}
	for k := range classes {
		m.W = append(m.W, p.weight.row(k)[:d])
	}
	return m, nil
}

// Logits computes the logits of all rows, in blocks; use gets them row by row, in
// order.
func (m *Model) Logits(ctx context.Context, x Rows, use func(i int, logits []float64)) error {
	w := newMatrix(len(m.W), x.Dim())
	for k, row := range m.W {
		copy(w.row(k), row)
	}
	return eachBlock(ctx, x, w, func(i int, logits []float64) {
		for k := range logits {
			logits[k] += m.B[k]
		}
		use(i, logits)
	})
}

// eachBlock multiplies all rows with those of w.
func eachBlock(ctx context.Context, x Rows, w matrix, use func(i int, products []float64)) error {
	d := x.Dim()
	read, rows, out := make([]float32, block*d), newMatrix(block, d), newMatrix(block, w.rows)
	for lo := 0; lo < x.Len(); lo += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(block, x.Len()-lo)
		if err := x.Read(read[:n*d], lo, lo+n); err != nil {
			return err
		}
		rows.set(read, d, n)
		tasks(n, func(a, b int) { rows.times(out, w, a, b) })
		for i := range n {
			use(lo+i, out.row(i)[:w.rows])
		}
	}
	return nil
}
