//go:build amd64 && goexperiment.simd

package kernels

import "simd/archsimd"

// Operator is an operation on two numbers.
type Operator int

const (
	Add Operator = iota
	Sub
	Mul
	Div
)

// Binary writes a op b to out, whose dimensions are dims. a and b are given by
// their dimensions, as many as dims, where 1 is repeated. out may be a or b
// where these are not repeated.
func (t Threads) Binary(op Operator, out, a, b []float32, dims, aDims, bDims []int) {
	axes := merge(dims, aDims, bDims)
	inner := axes[len(axes)-1]
	axes = axes[:len(axes)-1]
	group := max(1, span/inner.n) // rows at a time
	if len(axes) == 0 && inner.n > span {
		// One long row.
		t.each(inner.n, 1, func(from, to int) {
			op.row(out[from:to], from1(a, from, to, inner.a), from1(b, from, to, inner.b))
		})
		return
	}
	rows := 1
	for _, x := range axes {
		rows *= x.n
	}
	t.parallel((rows+group-1)/group, group*inner.n, func(i int) {
		for r := i * group; r < min(rows, (i+1)*group); r++ {
			at, bt, rest := 0, 0, r
			for k := len(axes) - 1; k >= 0; k-- {
				x := axes[k]
				at, bt, rest = at+rest%x.n*x.a, bt+rest%x.n*x.b, rest/x.n
			}
			op.row(out[r*inner.n:(r+1)*inner.n], from1(a[at:], 0, inner.n, inner.a), from1(b[bt:], 0, inner.n, inner.b))
		}
	})
}

// from1 is x[from:to], or its one element when it is repeated.
func from1(x []float32, from, to, stride int) []float32 {
	if stride == 0 {
		return x[:1]
	}
	return x[from:to]
}

// axis is one axis of out: its length, and the strides of a and b along it.
type axis struct{ n, a, b int }

// merge gives the axes of out, with as few as possible.
func merge(dims, aDims, bDims []int) []axis {
	strides := func(own []int) []int {
		s, next := make([]int, len(dims)), 1
		for i := len(dims) - 1; i >= 0; i-- {
			if own[i] != 1 {
				s[i] = next
			}
			next *= own[i]
		}
		return s
	}
	as, bs := strides(aDims), strides(bDims)
	var axes []axis
	for i, n := range dims {
		if n == 1 {
			continue
		}
		x := axis{n, as[i], bs[i]}
		if k := len(axes) - 1; k >= 0 && axes[k].a == x.a*n && axes[k].b == x.b*n {
			axes[k] = axis{axes[k].n * n, x.a, x.b}
		} else {
			axes = append(axes, x)
		}
	}
	if len(axes) == 0 {
		return []axis{{1, 1, 1}}
	}
	return axes
}

// eight is op of eight pairs.
func (op Operator) eight(x, y vec) vec {
	switch op {
	case Add:
		return x.Add(y)
	case Sub:
		return x.Sub(y)
	case Mul:
		return x.Mul(y)
	}
	return x.Div(y)
}

// one is op of one pair.
func (op Operator) one(x, y float32) float32 {
	switch op {
	case Add:
		return x + y
	case Sub:
		return x - y
	case Mul:
		return x * y
	}
	return x / y
}

// row computes one row: a and b have its length, or one element that goes with
// all. out may be either.
func (op Operator) row(out, a, b []float32) {
	n := len(out)
	whole := n &^ 7
	switch {
	case len(a) == n && len(b) == n:
		for i := 0; i < whole; i += 8 {
			op.eight(archsimd.LoadFloat32x8Slice(a[i:]), archsimd.LoadFloat32x8Slice(b[i:])).StoreSlice(out[i:])
		}
		archsimd.ClearAVXUpperBits()
		for i := whole; i < n; i++ {
			out[i] = op.one(a[i], b[i])
		}
	case len(a) == n:
		y := b[0]
		v := all(y)
		for i := 0; i < whole; i += 8 {
			op.eight(archsimd.LoadFloat32x8Slice(a[i:]), v).StoreSlice(out[i:])
		}
		archsimd.ClearAVXUpperBits()
		for i := whole; i < n; i++ {
			out[i] = op.one(a[i], y)
		}
	case len(b) == n:
		x := a[0]
		v := all(x)
		for i := 0; i < whole; i += 8 {
			op.eight(v, archsimd.LoadFloat32x8Slice(b[i:])).StoreSlice(out[i:])
		}
		archsimd.ClearAVXUpperBits()
		for i := whole; i < n; i++ {
			out[i] = op.one(x, b[i])
		}
	default:
		x := op.one(a[0], b[0])
		for i := range out {
			out[i] = x
		}
	}
}
