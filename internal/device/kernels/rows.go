//go:build amd64 && goexperiment.simd

package kernels

import (
	"math"
	"simd/archsimd"
)

// fold reduces eight lanes.
func fold(v vec, f func(a, b float32) float32) float32 {
	var x [8]float32
	v.Store(&x)
	return f(f(f(x[0], x[4]), f(x[2], x[6])), f(f(x[1], x[5]), f(x[3], x[7])))
}

func add(a, b float32) float32 { return a + b }

// sum is the sum of x in eight interleaved parts.
func sum(x []float32) float32 {
	s := all(0)
	for ; len(x) >= 8; x = x[8:] {
		s = s.Add(archsimd.LoadFloat32x8Slice(x))
	}
	if len(x) > 0 {
		s = s.Add(part(x))
	}
	return fold(s, add)
}

// eachRow calls f with every row of out and x, which have n columns.
func eachRow(out, x []float32, n, cost int, f func(out, x []float32)) {
	group := max(1, span/2/n) // rows at a time
	rows := len(x) / n
	parallel((rows+group-1)/group, cost*n*group, func(i int) {
		for r := i * group; r < min(rows, (i+1)*group); r++ {
			f(out[r*n:(r+1)*n], x[r*n:(r+1)*n])
		}
	})
}

// Softmax writes the softmax of every row of x [rows,n] to out, which may be x.
func Softmax(out, x []float32, n int) {
	eachRow(out, x, n, 8, func(out, x []float32) {
		high := all(x[0])
		rest := x
		for ; len(rest) >= 8; rest = rest[8:] {
			high = archsimd.LoadFloat32x8Slice(rest).Max(high)
		}
		for _, v := range rest {
			high = all(v).Max(high)
		}
		by, total := all(fold(high, func(a, b float32) float32 { return max(a, b) })), all(0)
		i := 0
		for ; i+8 <= n; i += 8 {
			e := exp(archsimd.LoadFloat32x8Slice(x[i:]).Sub(by))
			e.StoreSlice(out[i:])
			total = total.Add(e)
		}
		s := fold(total, add)
		if i < n {
			var e [8]float32
			exp(part(x[i:]).Sub(by)).Store(&e)
			s += sum(out[i : i+copy(out[i:], e[:])])
		}
		scale(out, out, 1/s)
	})
}

// scale writes x·by to out.
func scale(out, x []float32, by float32) {
	for i, v := range x {
		out[i] = v * by
	}
}

// LayerNorm writes (x-mean)/√(variance+epsilon)·gamma+beta for every row of x
// [rows,n] to out, which may be x. gamma and beta [n] may be nil.
func LayerNorm(out, x, gamma, beta []float32, n int, epsilon float64) {
	eachRow(out, x, n, 3, func(out, x []float32) {
		mean := all(sum(x) / float32(n))
		squares := all(0)
		i := 0
		for ; i+8 <= n; i += 8 {
			d := archsimd.LoadFloat32x8Slice(x[i:]).Sub(mean)
			squares = d.MulAdd(d, squares)
			d.StoreSlice(out[i:])
		}
		s := fold(squares, add)
		for m := mean.GetLo().GetElem(0); i < n; i++ {
			out[i] = x[i] - m
			s += out[i] * out[i]
		}
		scale(out, out, float32(1/math.Sqrt(float64(s/float32(n))+epsilon)))
		for i, g := range gamma {
			out[i] *= g
		}
		for i, b := range beta {
			out[i] += b
		}
	})
}

// ReduceSum sums x [outer,n,inner] over n into out [outer,inner].
func ReduceSum(out, x []float32, outer, n, inner int) {
	if inner == 1 {
		if outer == 1 {
			// One long sum: parts of fixed length, so that it does not depend on the threads.
			parts := make([]float32, (n+span-1)/span)
			each(n, 1, func(from, to int) { parts[from/span] = sum(x[from:to]) })
			out[0] = sum(parts)
			return
		}
		each(outer, n, func(from, to int) {
			for o := from; o < to; o++ {
				out[o] = sum(x[o*n : (o+1)*n])
			}
		})
		return
	}
	const columns = 64
	blocks := (inner + columns - 1) / columns
	parallel(outer*blocks, n*columns, func(i int) {
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
