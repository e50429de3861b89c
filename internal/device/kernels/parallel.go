//go:build amd64 && goexperiment.simd

// Package kernels has the inner loops of the Go backend: float32 products,
// functions and reductions, on several cores. Results do not depend on how many.
package kernels

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Threads makes the kernels run on at most that many threads, and no more than
// GOMAXPROCS; 0 is GOMAXPROCS.
type Threads int

func (t Threads) count() int {
	all := runtime.GOMAXPROCS(0)
	if t <= 0 {
		return all
	}
	return min(int(t), all)
}

// parallel calls f(0) to f(n-1), side by side. cost is about how many
// operations each takes; little work stays on this goroutine.
func (t Threads) parallel(n, cost int, f func(i int)) {
	workers := min(t.count(), n, n*cost/(1<<15))
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
