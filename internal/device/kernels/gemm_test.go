//go:build amd64 && goexperiment.simd

package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func randoms(n int) []float32 {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32()*2 - 1
	}
	return x
}

func needFast(t *testing.T) {
	if !Fast {
		t.Skip("this processor has no AVX2")
	}
}

func TestMatMul(t *testing.T) {
	needFast(t)
	for _, p := range []Product{
		{1, 1, 1, 1, false}, {1, 6, 16, 8, false}, {1, 5, 15, 7, false}, {3, 7, 17, 9, false},
		{2, 197, 197, 64, false}, {2, 50, 64, 50, false}, {1, 13, 400, 600, false}, {1, 100, 3, 513, false}, {1, 3, 5, 0, false}, {1, 999, 40, 30, false},
	} {
		for _, p.Transposed = range []bool{false, true} {
			checkMatMul(t, p)
		}
	}
}

func checkMatMul(t testing.TB, p Product) {
	t.Helper()
	a, b := randoms(p.Batch*p.M*p.K), randoms(p.Batch*p.N*p.K)
	out := odd(p.Batch * p.M * p.N)
	every.MatMul(out, a, b, p)
	for i, got := range out {
		n, m, batch := i%p.N, i/p.N%p.M, i/p.N/p.M
		var want, size float64
		for k := range p.K {
			at := (batch*p.K+k)*p.N + n
			if p.Transposed {
				at = (batch*p.N+n)*p.K + k
			}
			term := float64(a[(batch*p.M+m)*p.K+k]) * float64(b[at])
			want += term
			size += math.Abs(term)
		}
		// The bound of any order of sums is K roundings; in practice a few.
		if !(math.Abs(float64(got)-want) <= 1e-6*size) {
			t.Fatalf("%+v: [%d,%d,%d] is %g, want %g", p, batch, m, n, got, want)
		}
	}
}

// TestMatMulOfSpecialValues: NaN and infinities go into their row or column
// alone, also beside the zeros that fill up a tile.
func TestMatMulOfSpecialValues(t *testing.T) {
	needFast(t)
	for _, v := range []float64{math.NaN(), math.Inf(1)} {
		p := Product{1, 13, 35, 9, false}
		a, b, out := randoms(p.M*p.K), randoms(p.K*p.N), make([]float32, p.M*p.N)
		a[12*p.K+8], b[3*p.N+34] = float32(v), float32(v)
		every.MatMul(out, a, b, p)
		for i, got := range out {
			if finite := !math.IsNaN(float64(got)) && !math.IsInf(float64(got), 0); finite != (i/p.N != 12 && i%p.N != 34) {
				t.Fatalf("%g: [%d,%d] is %g", v, i/p.N, i%p.N, got)
			}
		}
	}
}

func BenchmarkMatMul(b *testing.B) {
	for _, p := range []Product{{1, 1576, 768, 768, true}, {1, 1576, 2048, 768, true}, {1, 1576, 768, 2048, true}, {1, 197, 2048, 768, true}, {1, 197, 768, 768, true}, {96, 197, 197, 64, false}, {96, 197, 64, 197, false}} {
		b.Run(fmt.Sprintf("%+v", p), func(b *testing.B) {
			x, y := randoms(p.Batch*p.M*p.K), randoms(p.Batch*p.N*p.K)
			out := make([]float32, p.Batch*p.M*p.N)
			for b.Loop() {
				every.MatMul(out, x, y, p)
			}
			b.ReportMetric(2e-9*float64(p.Batch*p.M*p.N*p.K)*float64(b.N)/b.Elapsed().Seconds(), "GFLOP/s")
		})
	}
}

// TestKernels: every kernel gives the same bits.
func TestKernels(t *testing.T) {
	if !Wide {
		t.Skip("this processor has no AVX-512")
	}
	for _, p := range []Product{{1, 1, 1, 1, false}, {2, 14, 32, 8, true}, {1, 13, 31, 7, false}, {1, 29, 200, 300, true}, {3, 197, 64, 197, false}, {1, 100, 3, 513, true}} {
		a, b := randoms(p.Batch*p.M*p.K), randoms(p.Batch*p.N*p.K)
		x, y := odd(p.Batch*p.M*p.N), odd(p.Batch*p.M*p.N)
		every.matMul(avx2, x, a, b, p)
		every.matMul(avx512, y, a, b, p)
		for i := range x {
			if x[i] != y[i] {
				t.Fatalf("%+v: element %d is %g with AVX-512, %g with AVX2", p, i, y[i], x[i])
			}
		}
	}
}
