// Package logistic fits multinomial logistic regression to rows of features, and
// finds nearest neighbours. Sums run in float64, in an order that depends on no
// number of threads: the same rows give the same bits.
package logistic

import (
	"context"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"
)

// Rows are features [Len,Dim], in memory or on a disk. Read writes rows lo to
// hi into dst; it is called from one goroutine at a time.
type Rows interface {
	Len() int
	Dim() int
	Read(dst []float32, lo, hi int) error
}

// Model gives class k of a row x the logit W[k]·x + B[k].
type Model struct {
	W [][]float64 // [classes,dim]
	B []float64
	// Loss is what was minimised, a row: (Σ −log p(y) + l2/2·|W|²) / n; of two
	// classes with |W[1] − W[0]|² for |W|².
	Loss float64
	// L2 is the factor l2: 1/C of scikit-learn's LogisticRegression.
	L2         float64
	Iterations int
	// Converged says whether the loss is its minimum but for Options.Tolerance.
	Converged bool

	v []float64 // as the optimizer has it: for a start
}

// Options of a fit.
type Options struct {
	L2 float64
	// Tolerance is how far above its minimum the loss may end, of its value; 0 is
	// 1e-13.
	Tolerance float64
	// Most is how many iterations there are at most; 0 is 5000.
	Most int
	// Start is where to begin: a model of the same basis and classes, or nil.
	Start *Model
}

// block is how many rows are worked on at once.
const block = 256

// Basis are coordinates in which a fit needs few steps: the principal axes of
// the rows, seen from their mean. The penalty is the same in them, and the
// unpenalised intercept takes the mean up.
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

	read   []float32
	rows   matrix // [block,dim]
	rest   matrix // [block,classes]: logits, then p − [class is y]
	weight matrix // [classes,dim], of the rows as they are
	offset []float64
	grad   matrix // [classes padded to 4,dim]
	loss   []float64
	curve  []float64 // Σ p(1−p) by class
	sums   []float64 // Σ p − [class is y]
}

func newProblem(x Rows, y []int, classes int, l2 float64, basis *Basis) *problem {
	d := x.Dim()
	return &problem{
		x: x, y: y, classes: classes, l2: l2, basis: basis,
		read: make([]float32, block*d), rows: newMatrix(block, d), rest: newMatrix(block, classes),
		weight: newMatrix(classes, d), offset: make([]float64, classes), grad: newMatrix((classes+3)&^3, d),
		loss: make([]float64, block), curve: make([]float64, classes), sums: make([]float64, classes),
	}
}

// place puts the parameters v, [classes,dim+1] in the basis with the intercept
// last, into weight and offset.
func (p *problem) place(v []float64) {
	d := p.x.Dim()
	from := newMatrix(p.classes, d)
	for k := range p.classes {
		copy(from.row(k), v[k*(d+1):][:d])
	}
	tasks(p.classes, func(lo, hi int) { from.times(p.weight, p.basis.turned, lo, hi) })
	for k := range p.classes {
		p.offset[k] = v[k*(d+1)+d]
		for j, m := range p.basis.mean {
			p.offset[k] -= m * p.weight.row(k)[j]
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
	clear(p.grad.v)
	clear(p.curve)
	clear(p.sums)
	for lo := 0; lo < n; lo += block {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		m := min(block, n-lo)
		if err := p.x.Read(p.read[:m*d], lo, lo+m); err != nil {
			return 0, err
		}
		tasks(m, func(a, b int) { p.residuals(p.y[lo:lo+m], a, b) })
		parallel(p.grad.wide/8, func(tile int) { p.gradient(tile, m) })
		for i, l := range p.loss[:m] {
			f += l
			for k, r := range p.rest.row(i)[:p.classes] {
				p.sums[k] += r
				r = math.Abs(r) // p, or 1 − p for the row's class
				p.curve[k] += r * (1 - r)
			}
		}
	}
	back := newMatrix(p.classes, d)
	for k := range p.classes {
		for j, m := range p.basis.mean {
			p.grad.row(k)[j] -= p.sums[k] * m
		}
	}
	tasks(p.classes, func(lo, hi int) { p.grad.times(back, p.basis.axes, lo, hi) })
	for k := range p.classes {
		c := max(p.curve[k], 1e-12*float64(n))
		for j := range d {
			i := k*(d+1) + j
			f += p.l2 / 2 * v[i] * v[i]
			g[i] = back.row(k)[j] + p.l2*v[i]
			h[i] = c*max(p.basis.variance[j], 0) + p.l2
		}
		i := k*(d+1) + d
		g[i], h[i] = p.sums[k], c
	}
	return f, nil
}

// residuals turns rows a to b of the block into p − [class is y], and their losses.
func (p *problem) residuals(y []int, a, b int) {
	d := p.x.Dim()
	matrix{p.rows.v[a*p.rows.step:], b - a, p.rows.wide, p.rows.step}.set(p.read[a*d:b*d], d, b-a)
	p.rows.times(p.rest, p.weight, a, b)
	for i := a; i < b; i++ {
		logits := p.rest.row(i)[:p.classes]
		most := math.Inf(-1)
		for k := range logits {
			logits[k] += p.offset[k]
			most = max(most, logits[k])
		}
		own := logits[y[i]] - most
		sum := 0.0
		for k, l := range logits {
			logits[k] = math.Exp(l - most)
			sum += logits[k]
		}
		others := 0.0
		for k := range logits {
			logits[k] /= sum
			if k != y[i] {
				others += logits[k]
			}
		}
		p.loss[i] = math.Log(sum) - own
		if others < 0.5 { // exact where the row's class is all but certain
			p.loss[i] = -math.Log1p(-others)
		}
		logits[y[i]] = -others
	}
}

// gradient adds the block's share to eight columns of the gradient.
func (p *problem) gradient(tile, m int) {
	x := make([]float64, 8*m)
	for i := range m {
		copy(x[8*i:8*i+8], p.rows.row(i)[8*tile:])
	}
	for k := 0; k < p.classes; k += 4 {
		outer(p.grad.v[k*p.grad.step+8*tile:], p.grad.step, p.rest.v[k:], p.rest.step, x, m)
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
