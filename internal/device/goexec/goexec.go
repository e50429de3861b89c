// Package goexec puts faster executors into GoMLX's Go backend, for float32.
//
// The backend has one table of executors by operation for the whole process,
// and does not export it. It is reached by its linker name, and only in exactly
// the version that this was written for; in any other one, in a build without
// SIMD and on a processor without AVX2 the backend stays as it is. An executor
// reads what it is given by reflection and through the interfaces of compute;
// what it does not handle it leaves to the executor that was there before.
//
// The entries are replaced when the program starts: later another goroutine
// could be reading them. They only act for backends that were given to Use; a
// backend opened by anyone else in the process runs what it would run without
// this package, at the cost of one look-up per operation.
package goexec

import (
	"github.com/evatool/evatool/internal/device/kernels"
	"github.com/gomlx/compute"
)

// Use makes a Go backend run these executors, on at most that many threads (0:
// all of GOMAXPROCS), and says whether it does. The backend must not have run
// anything yet; call Release when it is closed.
func Use(b compute.Backend, threads int) bool { return use(b, kernels.Threads(threads)) }

// Uses says whether a backend runs these executors.
func Uses(b compute.Backend) bool { return uses(b) }

// Release forgets a backend.
func Release(b compute.Backend) { release(b) }
