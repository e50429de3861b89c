//go:build !amd64 || !goexperiment.simd

package kernels

// Fast says whether this build and this processor can run the kernels.
const Fast = false

// Threads is how many threads the kernels would use.
type Threads int
