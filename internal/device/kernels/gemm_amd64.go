//go:build goexperiment.simd

package kernels

import "golang.org/x/sys/cpu"

// Fast tells whether this processor has the instructions that the products need.
var Fast = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// kernel6x16 is C = A·B or, with add, C += A·B: A [6,k] with rows lda apart,
// B [k,16] without gaps, C [6,16] with rows ldc apart. Each sum runs over k in
// order, with fused products.
//
//go:noescape
func kernel6x16(k int, a *float32, lda int, b *float32, c *float32, ldc int, add bool)

// transpose8 writes src [8,8n], rows lds apart, to dst [8n,8], rows ldd apart.
//
//go:noescape
func transpose8(dst *float32, ldd int, src *float32, lds, n int)
