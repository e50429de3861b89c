//go:build goexperiment.simd

package kernels

import "golang.org/x/sys/cpu"

// Fast says whether this processor has the instructions that the kernels need.
var Fast = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// Wide says whether it has AVX-512 too, which the products then use.
var Wide = Fast && cpu.X86.HasAVX512F

// kernel computes tiles of rows by cols sums that stay in registers: C = A·B
// or, with add, C += A·B for A [rows,k] with rows lda apart, B [k,cols] without
// gaps, C with rows ldc apart. Each sum runs over k in order, with fused
// products, so that all kernels give the same bits.
type kernel struct {
	rows, cols int
	block      int // columns of the right side that are packed at once
	run        func(k int, a *float32, lda int, b *float32, c *float32, ldc int, add bool)
}

var (
	avx2   = kernel{6, 16, 192, kernel6x16}
	avx512 = kernel{maxRows, maxCols, maxBlock, kernel14x32}
)

// fastest is the kernel for this processor.
var fastest = func() kernel {
	if Wide {
		return avx512
	}
	return avx2
}()

//go:noescape
func kernel14x32(k int, a *float32, lda int, b *float32, c *float32, ldc int, add bool)

//go:noescape
func kernel6x16(k int, a *float32, lda int, b *float32, c *float32, ldc int, add bool)

// transpose8 writes src [8,8n], rows lds apart, to dst [8n,8], rows ldd apart.
//
//go:noescape
func transpose8(dst *float32, ldd int, src *float32, lds, n int)
