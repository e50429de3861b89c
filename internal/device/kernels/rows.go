//go:build amd64 && goexperiment.simd

package kernels

import (
	"math"
	"simd/archsimd"
)

// Vector code must not be left with the upper halves of registers in use:
// then every scalar float instruction of Go, which is of the SSE kind, costs
// hundreds of cycles on some processors. So each function here that uses
// vectors does its scalar work before or after, and clears them in between.

// fold reduces the eight lanes, and clears.
func fold(v vec, f func(a, b float32) float32) float32 {
	var x [8]float32
	v.Store(&x)
	archsimd.ClearAVXUpperBits()
	return f(f(f(x[0], x[4]), f(x[2], x[6])), f(f(x[1], x[5]), f(x[3], x[7])))
}

func add(a, b float32) float32 { return a + b }

func larger(a, b float32) float32 {
	if a > b {
		return a
	}
	return b
}

// sum is the sum of x in eight interleaved parts.
func sum(x []float32) float32 {
	s := part(x[len(x)&^7:])
	for x := x[:len(x)&^7]; len(x) >= 8; x = x[8:] {
		s = s.Add(archsimd.LoadFloat32x8Slice(x))
	}
	return fold(s, add)
}

// squares is the sum of the squares of x.
func squares(x []float32) float32 {
	s := part(x[len(x)&^7:])
	s = s.Mul(s)
	for x := x[:len(x)&^7]; len(x) >= 8; x = x[8:] {
		v := archsimd.LoadFloat32x8Slice(x)
		s = v.MulAdd(v, s)
	}
	return fold(s, add)
}

// highest is the largest of x; NaN may be left out.
func highest(x []float32) float32 {
	high := all(x[0])
	whole := len(x) &^ 7
	for x := x[:whole]; len(x) >= 8; x = x[8:] {
		high = archsimd.LoadFloat32x8Slice(x).Max(high)
	}
	h := fold(high, larger)
	for _, v := range x[whole:] {
		h = larger(v, h)
	}
	return h
}

// mapSum writes f of every x-by to out, which may be x, and returns the sum.
func mapSum(out, x []float32, by float32, f Function) float32 {
	m := all(by)
	total := m.Sub(m)
	whole := len(x) &^ 7
	for i := 0; i < whole; i += 8 {
		y := f(archsimd.LoadFloat32x8Slice(x[i:]).Sub(m))
		y.StoreSlice(out[i:])
		total = total.Add(y)
	}
	s := fold(total, add)
	if whole < len(x) {
		var y [8]float32
		f(part(x[whole:]).Sub(all(by))).Store(&y)
		archsimd.ClearAVXUpperBits()
		for i := range out[whole:] {
			out[whole+i] = y[i]
			s += y[i]
		}
	}
	return s
}

// scale writes x·by to out.
func scale(out, x []float32, by float32) { Mul.row(out, x, []float32{by}) }

// eachRow calls f with every row of out and x, which have n columns.
func (t Threads) eachRow(out, x []float32, n, cost int, f func(out, x []float32)) {
	group := max(1, span/2/n) // rows at a time
	rows := len(x) / n
	t.parallel((rows+group-1)/group, cost*n*group, func(i int) {
		for r := i * group; r < min(rows, (i+1)*group); r++ {
			f(out[r*n:(r+1)*n], x[r*n:(r+1)*n])
		}
	})
}

// Softmax writes the softmax of every row of x [rows,n] to out, which may be x.
func (t Threads) Softmax(out, x []float32, n int) {
	t.eachRow(out, x, n, 8, func(out, x []float32) {
		scale(out, out, 1/mapSum(out, x, highest(x), Exp))
	})
}

// LayerNorm writes (x-mean)/√(variance+epsilon)·gamma+beta for every row of x
// [rows,n] to out, which may be x. gamma and beta [n] may be nil.
func (t Threads) LayerNorm(out, x, gamma, beta []float32, n int, epsilon float64) {
	t.eachRow(out, x, n, 3, func(out, x []float32) {
		mean := sum(x) / float32(n)
		Sub.row(out, x, []float32{mean})
		scale(out, out, float32(1/math.Sqrt(float64(squares(out)/float32(n))+epsilon)))
		if gamma != nil {
			Mul.row(out, out, gamma)
		}
		if beta != nil {
			Add.row(out, out, beta)
		}
	})
}

// ReduceSum sums x [outer,n,inner] over n into out [outer,inner].
func (t Threads) ReduceSum(out, x []float32, outer, n, inner int) {
	if inner == 1 {
		if outer == 1 {
			// One long sum: parts of fixed length, so that it does not depend on the threads.
			parts := make([]float32, (n+span-1)/span)
			t.each(n, 1, func(from, to int) { parts[from/span] = sum(x[from:to]) })
			out[0] = sum(parts)
			return
		}
		t.each(outer, n, func(from, to int) {
			for o := from; o < to; o++ {
				out[o] = sum(x[o*n : (o+1)*n])
			}
		})
		return
	}
	const columns = 64
	blocks := (inner + columns - 1) / columns
	t.parallel(outer*blocks, n*columns, func(i int) {
		o, from := i/blocks, i%blocks*columns
		to := min(inner, from+columns)
		total := out[o*inner+from : o*inner+to]
		clear(total)
		var part [columns]float32 // of 64 rows: shorter sums are more exact
		for r := range n {
			for c, v := range x[(o*n+r)*inner+from:][:len(total)] {
				part[c] += v
			}
			if r%64 == 63 || r == n-1 {
				for c := range total {
					total[c] += part[c]
				}
				clear(part[:])
			}
		}
	})
}
