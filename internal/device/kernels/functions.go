//go:build amd64 && goexperiment.simd

package kernels

import (
	"math"
	"simd/archsimd"
)

type vec = archsimd.Float32x8

func all(x float32) vec { return archsimd.BroadcastFloat32x8(x) }

// part is fewer than eight numbers, filled up with zeros.
func part(x []float32) vec {
	var y [8]float32
	copy(y[:], x)
	return archsimd.LoadFloat32x8(&y)
}

// exp is eˣ within 2 units in the last place: 2ⁿ·eʳ with |r| ≤ ln 2 / 2 and the
// polynomial of Cephes' expf for eʳ. 2ⁿ is applied in two halves, so that
// results up to the largest and down to the smallest number are right.
func exp(x vec) vec {
	bounded := x.Max(all(-104)).Min(all(89))
	n := bounded.Mul(all(math.Log2E)).RoundToEven()
	r := n.MulAdd(all(-0.693359375), bounded)
	r = n.MulAdd(all(2.12194440e-4), r)
	y := all(1.9875691500e-4)
	y = y.MulAdd(r, all(1.3981999507e-3))
	y = y.MulAdd(r, all(8.3334519073e-3))
	y = y.MulAdd(r, all(4.1665795894e-2))
	y = y.MulAdd(r, all(1.6666665459e-1))
	y = y.MulAdd(r, all(5.0000001201e-1))
	y = y.MulAdd(r.Mul(r), r.Add(all(1)))
	whole := n.ConvertToInt32()
	half := whole.ShiftAllRight(1)
	bias := archsimd.BroadcastInt32x8(127)
	y = y.Mul(half.Add(bias).ShiftAllLeft(23).AsFloat32x8())
	y = y.Mul(whole.Sub(half).Add(bias).ShiftAllLeft(23).AsFloat32x8())
	return x.Merge(y, x.IsNaN())
}

// erf is within 5e-7 of erf x: the rational function of Eigen.
func erf(x vec) vec {
	b := x.Max(all(-4)).Min(all(4))
	s := b.Mul(b)
	p := all(-2.72614225801306e-10)
	p = p.MulAdd(s, all(2.77068142495902e-08))
	p = p.MulAdd(s, all(-2.10102402082508e-06))
	p = p.MulAdd(s, all(-5.69250639462346e-05))
	p = p.MulAdd(s, all(-7.34990630326855e-04))
	p = p.MulAdd(s, all(-2.95459980854025e-03))
	p = p.MulAdd(s, all(-1.60960333262415e-02))
	q := all(-1.45660718464996e-05)
	q = q.MulAdd(s, all(-2.13374055278905e-04))
	q = q.MulAdd(s, all(-1.68282697438203e-03))
	q = q.MulAdd(s, all(-7.37332916720468e-03))
	q = q.MulAdd(s, all(-1.42647390514189e-02))
	return x.Merge(b.Mul(p).Div(q), x.IsNaN())
}

// Function is a function of one number.
type Function func(x vec) vec

func Exp(x vec) vec { return exp(x) }
func Erf(x vec) vec { return erf(x) }

// Logistic is 1/(1+e⁻ˣ).
func Logistic(x vec) vec {
	one := all(1)
	return one.Div(one.Add(exp(x.Mul(all(-1)))))
}

// Gelu is x·Φ(x).
func Gelu(x vec) vec {
	half := x.Mul(all(0.5))
	return half.MulAdd(erf(x.Mul(all(math.Sqrt2/2))), half)
}

// span is how many elements a goroutine takes at a time.
const span = 1 << 13

// each calls f with spans that make up 0…n; cost is that of one element.
func (t Threads) each(n, cost int, f func(from, to int)) {
	t.parallel((n+span-1)/span, cost*span, func(i int) { f(i*span, min(n, (i+1)*span)) })
}

// Map writes f of every x to out, which may be x.
func (t Threads) Map(out, x []float32, f Function) {
	t.each(len(x), 8, func(from, to int) {
		out, x := out[from:to], x[from:to]
		for ; len(x) >= 8; out, x = out[8:], x[8:] {
			f(archsimd.LoadFloat32x8Slice(x)).StoreSlice(out)
		}
		archsimd.ClearAVXUpperBits()
		if len(x) > 0 {
			var y [8]float32
			f(part(x)).Store(&y)
			archsimd.ClearAVXUpperBits()
			copy(out, y[:])
		}
	})
}
