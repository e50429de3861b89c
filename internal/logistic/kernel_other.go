//go:build !amd64 || !goexperiment.simd

package logistic

func dots8(out *[8]float64, a [4][]float64, b [2][]float64, n int) { plainDots8(out, a, b, n) }

func outer(out []float64, ldo int, r []float64, ldr int, x []float64, n int) {
	plainOuter(out, ldo, r, ldr, x, n)
}
