package logistic

import (
	"runtime"
	"sync"
	"sync/atomic"
)

func plainDots8(out *[8]float64, a [4][]float64, b [2][]float64, n int) {
	for i, x := range a {
		for j, y := range b {
			var s [4]float64
			for k := 0; k < n; k += 4 {
				for l := range 4 {
					s[l] += x[k+l] * y[k+l]
				}
			}
			out[2*i+j] = (s[0] + s[1]) + (s[2] + s[3])
		}
	}
}

func plainOuter(out []float64, ldo int, r []float64, ldr int, x []float64, n int) {
	for i := range n {
		for k, v := range r[i*ldr : i*ldr+4] {
			for j, y := range x[8*i : 8*i+8] {
				out[k*ldo+j] += v * y
			}
		}
	}
}

// parallel calls f(0) to f(n-1) on all processors.
func parallel(n int, f func(i int)) {
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			f(int(i))
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

// matrix is rows of float64 with space after each: a row begins in another cache
// set than the one before, and its length is a multiple of 8 values, with zeros
// at the end.
type matrix struct {
	v                []float64
	rows, wide, step int
}

func newMatrix(rows, columns int) matrix {
	wide := (columns + 7) &^ 7
	return matrix{make([]float64, rows*(wide+8)), rows, wide, wide + 8}
}

func (m matrix) row(i int) []float64 { return m.v[i*m.step:][:m.wide] }

// set writes float32 rows [n,columns] into m's first rows.
func (m matrix) set(from []float32, columns, n int) {
	for i := range n {
		row := m.row(i)
		for j, x := range from[i*columns : (i+1)*columns] {
			row[j] = float64(x)
		}
	}
}

// times writes rows lo to hi of m·otherᵀ: dst[i] = m.row(i)·other.row(j).
func (m matrix) times(dst, other matrix, lo, hi int) {
	var out [8]float64
	for j := 0; j < other.rows; j += 2 {
		b := [2][]float64{other.row(j), other.row(min(j+1, other.rows-1))}
		for i := lo; i < hi; i += 4 {
			var a [4][]float64
			for k := range a {
				a[k] = m.row(min(i+k, hi-1))
			}
			dots8(&out, a, b, m.wide)
			for k := range min(4, hi-i) {
				d := dst.row(i + k)
				d[j] = out[2*k]
				if j+1 < other.rows {
					d[j+1] = out[2*k+1]
				}
			}
		}
	}
}
