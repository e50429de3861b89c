// Package goexec puts faster executors into GoMLX's Go backend, for float32.
//
// The backend has one table of executors by operation for the whole process,
// and does not export it. It is reached by its linker name, and only in exactly
// the version that this was written for; in any other one, in a build without
// SIMD and on a processor without AVX2 the backend stays as it is. What an
// executor is given is read with reflection and through the interfaces of
// compute; what it does not handle it leaves to the one that was there before.
//
// The entries are replaced when the program starts: later another goroutine
// could be reading them. They only act for backends that were given to Use; a
// backend that anyone else in the process opens runs what it would run without
// this package, at the cost of one look-up for each operation.
package goexec

import (
	"github.com/evatool/evatool/internal/device/kernels"
	"github.com/gomlx/compute"
)

// Use has a Go backend run these executors, on so many threads at most (0: all
// of GOMAXPROCS); it tells whether it does. The backend has run nothing yet,
// and Release follows when it is closed.
func Use(b compute.Backend, threads int) bool { return use(b, kernels.Threads(threads)) }

// Release forgets a backend.
func Release(b compute.Backend) { release(b) }
