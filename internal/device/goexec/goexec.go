// Package goexec puts faster executors into GoMLX's Go backend, for float32.
//
// The backend has a table of executors by operation, but does not export it.
// It is reached by its linker name, and only in exactly the version that this
// was written for; in any other one, in a build without SIMD and on a processor
// without AVX2 the backend stays as it is. What an executor is given is read
// with reflection and through the interfaces of compute; what it does not
// handle it leaves to the one that was there before.
package goexec

import "sync"

// The module whose internals are known here.
const (
	modulePath = "github.com/gomlx/compute"
	version    = "v0.1.3"
)

// Install puts the executors in, once for the process; it tells whether they are.
var Install = sync.OnceValue(install)
