//go:build goexperiment.simd

#include "textflag.h"

// ROW adds a[k]·b[k] to the 16 sums of one row.
#define ROW(mem, lo, hi) \
	VBROADCASTSS mem, Y14 \
	VFMADD231PS  Y12, Y14, lo \
	VFMADD231PS  Y13, Y14, hi

// STEP is one k of all six rows; at is the offset of a[k].
#define STEP(at, bat) \
	VMOVUPS bat(DI), Y12 \
	VMOVUPS bat+32(DI), Y13 \
	ROW(at(SI), Y0, Y1) \
	ROW(at(SI)(R8*1), Y2, Y3) \
	ROW(at(SI)(R8*2), Y4, Y5) \
	ROW(at(R9), Y6, Y7) \
	ROW(at(R9)(R8*1), Y8, Y9) \
	ROW(at(R9)(R8*2), Y10, Y11)

// PUT writes the 16 sums of one row and goes on to the next.
#define PUT(lo, hi) \
	VMOVUPS lo, (DX) \
	VMOVUPS hi, 32(DX) \
	ADDQ    R10, DX

// SUM is PUT, added to what is there.
#define SUM(lo, hi) \
	VADDPS  (DX), lo, lo \
	VADDPS  32(DX), hi, hi \
	PUT(lo, hi)

// func kernel6x16(k int, a *float32, lda int, b *float32, c *float32, ldc int, add bool)
TEXT ·kernel6x16(SB), NOSPLIT, $0-49
	MOVQ k+0(FP), CX
	MOVQ a+8(FP), SI
	MOVQ lda+16(FP), R8
	MOVQ b+24(FP), DI
	MOVQ c+32(FP), DX
	MOVQ ldc+40(FP), R10
	SHLQ $2, R8
	SHLQ $2, R10
	LEAQ (R8)(R8*2), R9
	ADDQ SI, R9
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	VXORPS Y4, Y4, Y4
	VXORPS Y5, Y5, Y5
	VXORPS Y6, Y6, Y6
	VXORPS Y7, Y7, Y7
	VXORPS Y8, Y8, Y8
	VXORPS Y9, Y9, Y9
	VXORPS Y10, Y10, Y10
	VXORPS Y11, Y11, Y11
	SUBQ   $4, CX
	JLT    rest

four:
	STEP(0, 0)
	STEP(4, 64)
	STEP(8, 128)
	STEP(12, 192)
	ADDQ $16, SI
	ADDQ $16, R9
	ADDQ $256, DI
	SUBQ $4, CX
	JGE  four

rest:
	ADDQ $4, CX
	JZ   store

one:
	STEP(0, 0)
	ADDQ $4, SI
	ADDQ $4, R9
	ADDQ $64, DI
	DECQ CX
	JNZ  one

store:
	CMPB add+48(FP), $0
	JNE  sum
	PUT(Y0, Y1)
	PUT(Y2, Y3)
	PUT(Y4, Y5)
	PUT(Y6, Y7)
	PUT(Y8, Y9)
	PUT(Y10, Y11)
	VZEROUPPER
	RET

sum:
	SUM(Y0, Y1)
	SUM(Y2, Y3)
	SUM(Y4, Y5)
	SUM(Y6, Y7)
	SUM(Y8, Y9)
	SUM(Y10, Y11)
	VZEROUPPER
	RET

// The same with AVX-512: 14 rows of 32 sums in Z0 to Z27.
#define ROWZ(mem, lo, hi) \
	VBROADCASTSS mem, Z30 \
	VFMADD231PS  Z28, Z30, lo \
	VFMADD231PS  Z29, Z30, hi

#define STEPZ(at, bat) \
	VMOVUPS bat(DI), Z28 \
	VMOVUPS bat+64(DI), Z29 \
	ROWZ(at(SI), Z0, Z1) \
	ROWZ(at(SI)(R8*1), Z2, Z3) \
	ROWZ(at(SI)(R8*2), Z4, Z5) \
	ROWZ(at(R9), Z6, Z7) \
	ROWZ(at(R9)(R8*1), Z8, Z9) \
	ROWZ(at(R9)(R8*2), Z10, Z11) \
	ROWZ(at(R11), Z12, Z13) \
	ROWZ(at(R11)(R8*1), Z14, Z15) \
	ROWZ(at(R11)(R8*2), Z16, Z17) \
	ROWZ(at(R12), Z18, Z19) \
	ROWZ(at(R12)(R8*1), Z20, Z21) \
	ROWZ(at(R12)(R8*2), Z22, Z23) \
	ROWZ(at(R13), Z24, Z25) \
	ROWZ(at(R13)(R8*1), Z26, Z27)

#define GO(bytes) \
	ADDQ $bytes, SI \
	ADDQ $bytes, R9 \
	ADDQ $bytes, R11 \
	ADDQ $bytes, R12 \
	ADDQ $bytes, R13

#define PUTZ(lo, hi) \
	VMOVUPS lo, (DX) \
	VMOVUPS hi, 64(DX) \
	ADDQ    R10, DX

#define SUMZ(lo, hi) \
	VADDPS  (DX), lo, lo \
	VADDPS  64(DX), hi, hi \
	PUTZ(lo, hi)

// func kernel14x32(k int, a *float32, lda int, b *float32, c *float32, ldc int, add bool)
TEXT ·kernel14x32(SB), NOSPLIT, $0-49
	MOVQ k+0(FP), CX
	MOVQ a+8(FP), SI
	MOVQ lda+16(FP), R8
	MOVQ b+24(FP), DI
	MOVQ c+32(FP), DX
	MOVQ ldc+40(FP), R10
	SHLQ $2, R8
	SHLQ $2, R10
	LEAQ (R8)(R8*2), AX
	LEAQ (SI)(AX*1), R9
	LEAQ (R9)(AX*1), R11
	LEAQ (R11)(AX*1), R12
	LEAQ (R12)(AX*1), R13
	VPXORQ Z0, Z0, Z0
	VPXORQ Z1, Z1, Z1
	VPXORQ Z2, Z2, Z2
	VPXORQ Z3, Z3, Z3
	VPXORQ Z4, Z4, Z4
	VPXORQ Z5, Z5, Z5
	VPXORQ Z6, Z6, Z6
	VPXORQ Z7, Z7, Z7
	VPXORQ Z8, Z8, Z8
	VPXORQ Z9, Z9, Z9
	VPXORQ Z10, Z10, Z10
	VPXORQ Z11, Z11, Z11
	VPXORQ Z12, Z12, Z12
	VPXORQ Z13, Z13, Z13
	VPXORQ Z14, Z14, Z14
	VPXORQ Z15, Z15, Z15
	VPXORQ Z16, Z16, Z16
	VPXORQ Z17, Z17, Z17
	VPXORQ Z18, Z18, Z18
	VPXORQ Z19, Z19, Z19
	VPXORQ Z20, Z20, Z20
	VPXORQ Z21, Z21, Z21
	VPXORQ Z22, Z22, Z22
	VPXORQ Z23, Z23, Z23
	VPXORQ Z24, Z24, Z24
	VPXORQ Z25, Z25, Z25
	VPXORQ Z26, Z26, Z26
	VPXORQ Z27, Z27, Z27
	SUBQ $4, CX
	JLT  restz

fourz:
	STEPZ(0, 0)
	STEPZ(4, 128)
	STEPZ(8, 256)
	STEPZ(12, 384)
	GO(16)
	ADDQ $512, DI
	SUBQ $4, CX
	JGE  fourz

restz:
	ADDQ $4, CX
	JZ   storez

onez:
	STEPZ(0, 0)
	GO(4)
	ADDQ $128, DI
	DECQ CX
	JNZ  onez

storez:
	CMPB add+48(FP), $0
	JNE  sumz
	PUTZ(Z0, Z1)
	PUTZ(Z2, Z3)
	PUTZ(Z4, Z5)
	PUTZ(Z6, Z7)
	PUTZ(Z8, Z9)
	PUTZ(Z10, Z11)
	PUTZ(Z12, Z13)
	PUTZ(Z14, Z15)
	PUTZ(Z16, Z17)
	PUTZ(Z18, Z19)
	PUTZ(Z20, Z21)
	PUTZ(Z22, Z23)
	PUTZ(Z24, Z25)
	PUTZ(Z26, Z27)
	VZEROUPPER
	RET

sumz:
	SUMZ(Z0, Z1)
	SUMZ(Z2, Z3)
	SUMZ(Z4, Z5)
	SUMZ(Z6, Z7)
	SUMZ(Z8, Z9)
	SUMZ(Z10, Z11)
	SUMZ(Z12, Z13)
	SUMZ(Z14, Z15)
	SUMZ(Z16, Z17)
	SUMZ(Z18, Z19)
	SUMZ(Z20, Z21)
	SUMZ(Z22, Z23)
	SUMZ(Z24, Z25)
	SUMZ(Z26, Z27)
	VZEROUPPER
	RET

// func transpose8(dst *float32, ldd int, src *float32, lds, n int)
TEXT ·transpose8(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ ldd+8(FP), R10
	MOVQ src+16(FP), SI
	MOVQ lds+24(FP), R8
	MOVQ n+32(FP), CX
	SHLQ $2, R8
	SHLQ $2, R10
	LEAQ (R8)(R8*2), R9
	LEAQ (R10)(R10*2), R11

block:
	LEAQ (SI)(R8*4), DX
	VMOVUPS (SI), X0
	VMOVUPS (SI)(R8*1), X1
	VMOVUPS (SI)(R8*2), X2
	VMOVUPS (SI)(R9*1), X3
	VINSERTF128 $1, (DX), Y0, Y0
	VINSERTF128 $1, (DX)(R8*1), Y1, Y1
	VINSERTF128 $1, (DX)(R8*2), Y2, Y2
	VINSERTF128 $1, (DX)(R9*1), Y3, Y3
	VMOVUPS 16(SI), X4
	VMOVUPS 16(SI)(R8*1), X5
	VMOVUPS 16(SI)(R8*2), X6
	VMOVUPS 16(SI)(R9*1), X7
	VINSERTF128 $1, 16(DX), Y4, Y4
	VINSERTF128 $1, 16(DX)(R8*1), Y5, Y5
	VINSERTF128 $1, 16(DX)(R8*2), Y6, Y6
	VINSERTF128 $1, 16(DX)(R9*1), Y7, Y7
	VUNPCKLPS Y1, Y0, Y8
	VUNPCKHPS Y1, Y0, Y9
	VUNPCKLPS Y3, Y2, Y10
	VUNPCKHPS Y3, Y2, Y11
	VUNPCKLPD Y10, Y8, Y0
	VUNPCKHPD Y10, Y8, Y1
	VUNPCKLPD Y11, Y9, Y2
	VUNPCKHPD Y11, Y9, Y3
	VUNPCKLPS Y5, Y4, Y8
	VUNPCKHPS Y5, Y4, Y9
	VUNPCKLPS Y7, Y6, Y10
	VUNPCKHPS Y7, Y6, Y11
	VUNPCKLPD Y10, Y8, Y4
	VUNPCKHPD Y10, Y8, Y5
	VUNPCKLPD Y11, Y9, Y6
	VUNPCKHPD Y11, Y9, Y7
	LEAQ (DI)(R10*4), BX
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, (DI)(R10*1)
	VMOVUPS Y2, (DI)(R10*2)
	VMOVUPS Y3, (DI)(R11*1)
	VMOVUPS Y4, (BX)
	VMOVUPS Y5, (BX)(R10*1)
	VMOVUPS Y6, (BX)(R10*2)
	VMOVUPS Y7, (BX)(R11*1)
	ADDQ $32, SI
	LEAQ (DI)(R10*8), DI
	DECQ CX
	JNZ  block
	VZEROUPPER
	RET
