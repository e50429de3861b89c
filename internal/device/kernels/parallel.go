//go:build amd64 && goexperiment.simd

// Package kernels has the inner loops of the Go backend: float32 products,
// functions and reductions, on all cores. Results do not depend on how many.
package kernels

import (
	"runtime"
	"sync"
	"sync/atomic"
)

func threads() int { return runtime.GOMAXPROCS(0) }

// parallel calls f(0) to f(n-1) on all cores. cost is about how many
// operations each takes; little work stays on this goroutine.
func parallel(n, cost int, f func(i int)) {
	workers := min(threads(), n, n*cost/(1<<15))
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			f(int(i))
		}
	}
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}
