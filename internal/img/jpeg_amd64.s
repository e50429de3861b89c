#include "textflag.h"

// CONST is the 32 bytes of two quad words, twice.
#define CONST(name, low, high) \
	DATA name<>+0(SB)/8, $low \
	DATA name<>+8(SB)/8, $high \
	DATA name<>+16(SB)/8, $low \
	DATA name<>+24(SB)/8, $high \
	GLOBL name<>(SB), RODATA|NOPTR, $32

// Pairs of factors for VPMADDWD, eight times each; see idct for their names.
CONST(c0, 0x25a1e6dc25a1e6dc, 0x25a1e6dc25a1e6dc)
CONST(c1, 0x192525a1192525a1, 0x192525a1192525a1)
CONST(c2, 0xe333ecc1e333ecc1, 0xe333ecc1e333ecc1)
CONST(c3, 0x133ee333133ee333, 0x133ee333133ee333)
CONST(c4, 0xadfdefb0adfdefb0, 0xadfdefb0adfdefb0)
CONST(c5, 0x1051adfd1051adfd, 0x1051adfd1051adfd)
CONST(c6, 0x115129cf115129cf, 0x115129cf115129cf)
CONST(c7, 0xd6301151d6301151, 0xd6301151d6301151)

// The roundings of the two passes.
CONST(round1, 0x0000040000000400, 0x0000040000000400)
CONST(round2, 0x0002000000020000, 0x0002000000020000)

// Words of two rows of four, column by column.
CONST(columns, 0x0b0a030209080100, 0x0f0e07060d0c0504)

DATA sign<>+0(SB)/1, $0x80
GLOBL sign<>(SB), RODATA|NOPTR, $1

// INTERLEAVE makes pairs of words of x and y, one to a double word of out.
#define INTERLEAVE(x, y, xout, out, xt) \
	VPUNPCKHWD y, x, xt \
	VPUNPCKLWD y, x, xout \
	VINSERTI128 $1, xt, out, out

// PASS is a one-dimensional transform of eight lanes: rows X0 to X7 in, two rows
// each in the halves of Y0, Y2, Y4 and Y6 out, four columns to a half.
#define PASS(round, shift) \
	VPADDW X3, X7, X8 \
	VPADDW X1, X5, X9 \
	INTERLEAVE(X8, X9, X10, Y10, X11) \
	VPMADDWD c0<>(SB), Y10, Y8 \
	VPMADDWD c1<>(SB), Y10, Y9 \
	INTERLEAVE(X7, X1, X10, Y10, X11) \
	VPMADDWD c2<>(SB), Y10, Y7 \
	VPADDD   Y8, Y7, Y7 \
	VPMADDWD c3<>(SB), Y10, Y1 \
	VPADDD   Y9, Y1, Y1 \
	INTERLEAVE(X5, X3, X10, Y10, X11) \
	VPMADDWD c4<>(SB), Y10, Y5 \
	VPADDD   Y9, Y5, Y5 \
	VPMADDWD c5<>(SB), Y10, Y3 \
	VPADDD   Y8, Y3, Y3 \
	INTERLEAVE(X2, X6, X10, Y10, X11) \
	VPMADDWD c6<>(SB), Y10, Y2 \
	VPMADDWD c7<>(SB), Y10, Y6 \
	VPADDW   X4, X0, X8 \
	VPSUBW   X4, X0, X9 \
	VPMOVSXWD X8, Y8 \
	VPMOVSXWD X9, Y9 \
	VPSLLD   $13, Y8, Y8 \
	VPSLLD   $13, Y9, Y9 \
	VPADDD   round<>(SB), Y8, Y8 \
	VPADDD   round<>(SB), Y9, Y9 \
	VPADDD   Y2, Y8, Y10 \
	VPSUBD   Y2, Y8, Y11 \
	VPADDD   Y6, Y9, Y12 \
	VPSUBD   Y6, Y9, Y13 \
	VPADDD   Y1, Y10, Y0 \
	VPSUBD   Y1, Y10, Y14 \
	VPADDD   Y3, Y12, Y2 \
	VPSUBD   Y3, Y12, Y6 \
	VPADDD   Y5, Y13, Y4 \
	VPSUBD   Y5, Y13, Y8 \
	VPADDD   Y7, Y11, Y9 \
	VPSUBD   Y7, Y11, Y10 \
	VPSRAD   $shift, Y0, Y0 \
	VPSRAD   $shift, Y2, Y2 \
	VPSRAD   $shift, Y4, Y4 \
	VPSRAD   $shift, Y9, Y9 \
	VPSRAD   $shift, Y10, Y10 \
	VPSRAD   $shift, Y8, Y8 \
	VPSRAD   $shift, Y6, Y6 \
	VPSRAD   $shift, Y14, Y14 \
	VPACKSSDW Y2, Y0, Y0 \
	VPACKSSDW Y9, Y4, Y2 \
	VPACKSSDW Y8, Y10, Y4 \
	VPACKSSDW Y14, Y6, Y6

// TRANSPOSE turns what PASS leaves into columns 0 and 4, 1 and 5, 2 and 6, 3
// and 7 in the halves of Y0, Y1, Y2 and Y3.
#define TRANSPOSE \
	VPSHUFB Y15, Y0, Y0 \
	VPSHUFB Y15, Y2, Y2 \
	VPSHUFB Y15, Y4, Y4 \
	VPSHUFB Y15, Y6, Y6 \
	VPUNPCKLDQ Y2, Y0, Y8 \
	VPUNPCKHDQ Y2, Y0, Y9 \
	VPUNPCKLDQ Y6, Y4, Y10 \
	VPUNPCKHDQ Y6, Y4, Y11 \
	VPUNPCKLQDQ Y10, Y8, Y0 \
	VPUNPCKHQDQ Y10, Y8, Y1 \
	VPUNPCKLQDQ Y11, Y9, Y2 \
	VPUNPCKHQDQ Y11, Y9, Y3

// func idctAVX2(out *byte, stride int, b *block, quant *[64]int16) bool
TEXT ·idctAVX2(SB), NOSPLIT, $0-33
	MOVQ b+16(FP), SI
	MOVQ quant+24(FP), DX
	VMOVDQU 16(SI), X1
	VMOVDQU 32(SI), X2
	VMOVDQU 48(SI), X3
	VMOVDQU 64(SI), X4
	VMOVDQU 80(SI), X5
	VMOVDQU 96(SI), X6
	VMOVDQU 112(SI), X7
	VPOR X1, X2, X8
	VPOR X3, X4, X9
	VPOR X5, X6, X10
	VPOR X7, X8, X8
	VPOR X9, X10, X9
	VPOR X8, X9, X8
	VPTEST X8, X8
	JZ   flat
	VMOVDQU (SI), X0
	VPMULLW (DX), X0, X0
	VPMULLW 16(DX), X1, X1
	VPMULLW 32(DX), X2, X2
	VPMULLW 48(DX), X3, X3
	VPMULLW 64(DX), X4, X4
	VPMULLW 80(DX), X5, X5
	VPMULLW 96(DX), X6, X6
	VPMULLW 112(DX), X7, X7
	VMOVDQU columns<>(SB), Y15
	PASS(round1, 11)
	TRANSPOSE
	VEXTRACTI128 $1, Y0, X4
	VEXTRACTI128 $1, Y1, X5
	VEXTRACTI128 $1, Y2, X6
	VEXTRACTI128 $1, Y3, X7
	PASS(round2, 18)
	TRANSPOSE
	VPACKSSWB Y1, Y0, Y0
	VPACKSSWB Y3, Y2, Y2
	VPBROADCASTB sign<>(SB), Y4
	VPXOR Y4, Y0, Y0
	VPXOR Y4, Y2, Y2
	VEXTRACTI128 $1, Y0, X1
	VEXTRACTI128 $1, Y2, X3
	MOVQ out+0(FP), DI
	MOVQ stride+8(FP), R8
	LEAQ (R8)(R8*2), R9
	VMOVQ   X0, (DI)
	VPEXTRQ $1, X0, (DI)(R8*1)
	VMOVQ   X2, (DI)(R8*2)
	VPEXTRQ $1, X2, (DI)(R9*1)
	LEAQ (DI)(R8*4), DI
	VMOVQ   X1, (DI)
	VPEXTRQ $1, X1, (DI)(R8*1)
	VMOVQ   X3, (DI)(R8*2)
	VPEXTRQ $1, X3, (DI)(R9*1)
	VZEROUPPER
	MOVB $1, ret+32(FP)
	RET

flat:
	VZEROUPPER
	MOVB $0, ret+32(FP)
	RET

// Colour: factors in 16-bit fixed point.
DATA crRed<>+0(SB)/4, $0x000166e9
GLOBL crRed<>(SB), RODATA|NOPTR, $4
DATA cbBlue<>+0(SB)/4, $0x0001c5a2
GLOBL cbBlue<>(SB), RODATA|NOPTR, $4
DATA crGreen<>+0(SB)/4, $0xffff492e
GLOBL crGreen<>(SB), RODATA|NOPTR, $4
DATA cbGreen<>+0(SB)/4, $0xffffa7e6
GLOBL cbGreen<>(SB), RODATA|NOPTR, $4
DATA oneHalf<>+0(SB)/4, $0x00008000
GLOBL oneHalf<>(SB), RODATA|NOPTR, $4
DATA centre<>+0(SB)/4, $0x00000080
GLOBL centre<>(SB), RODATA|NOPTR, $4
DATA white<>+0(SB)/4, $0x000000ff
GLOBL white<>(SB), RODATA|NOPTR, $4

// Three of every four bytes.
CONST(triples, 0x0908060504020100, 0x808080800e0d0c0a)

// func yccAVX2(dst, y, cb, cr *byte, n int)
// n is a multiple of 8; 4 bytes behind the last pixel are written.
TEXT ·yccAVX2(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ y+8(FP), SI
	MOVQ cb+16(FP), R8
	MOVQ cr+24(FP), R9
	MOVQ n+32(FP), CX
	VPBROADCASTD crRed<>(SB), Y15
	VPBROADCASTD cbBlue<>(SB), Y14
	VPBROADCASTD crGreen<>(SB), Y13
	VPBROADCASTD cbGreen<>(SB), Y12
	VPBROADCASTD oneHalf<>(SB), Y11
	VPBROADCASTD centre<>(SB), Y10
	VPBROADCASTD white<>(SB), Y9
	VMOVDQU triples<>(SB), Y8
	VPXOR Y7, Y7, Y7

pixels:
	VPMOVZXBD (SI), Y0
	VPMOVZXBD (R8), Y1
	VPMOVZXBD (R9), Y2
	VPSUBD Y10, Y1, Y1
	VPSUBD Y10, Y2, Y2
	VPMULLD Y15, Y2, Y3
	VPMULLD Y14, Y1, Y4
	VPMULLD Y13, Y2, Y2
	VPMULLD Y12, Y1, Y1
	VPADDD Y2, Y1, Y1
	VPADDD Y11, Y3, Y3
	VPADDD Y11, Y4, Y4
	VPADDD Y11, Y1, Y1
	VPSRAD $16, Y3, Y3
	VPSRAD $16, Y4, Y4
	VPSRAD $16, Y1, Y1
	VPADDD Y0, Y3, Y3
	VPADDD Y0, Y4, Y4
	VPADDD Y0, Y1, Y1
	VPMAXSD Y7, Y3, Y3
	VPMAXSD Y7, Y4, Y4
	VPMAXSD Y7, Y1, Y1
	VPMINSD Y9, Y3, Y3
	VPMINSD Y9, Y4, Y4
	VPMINSD Y9, Y1, Y1
	VPSLLD $8, Y1, Y1
	VPSLLD $16, Y4, Y4
	VPOR Y1, Y3, Y3
	VPOR Y4, Y3, Y3
	VPSHUFB Y8, Y3, Y3
	VMOVDQU X3, (DI)
	VEXTRACTI128 $1, Y3, X3
	VMOVDQU X3, 12(DI)
	ADDQ $24, DI
	ADDQ $8, SI
	ADDQ $8, R8
	ADDQ $8, R9
	SUBQ $8, CX
	JG   pixels
	VZEROUPPER
	RET

DATA seven<>+0(SB)/4, $0x00070007
GLOBL seven<>(SB), RODATA|NOPTR, $4
DATA eight<>+0(SB)/4, $0x00080008
GLOBL eight<>(SB), RODATA|NOPTR, $4

// COLSUM is three times the near row and the far row, 16 words.
#define COLSUM(at, sum, t) \
	VPMOVZXBW at(SI), sum \
	VPADDW sum, sum, t \
	VPADDW t, sum, sum \
	VPMOVZXBW at(R8), t \
	VPADDW t, sum, sum

// func h2v2AVX2(dst, near, far *byte, n int)
// The samples for n inputs, a multiple of 16; reads one to either side.
TEXT ·h2v2AVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ near+8(FP), SI
	MOVQ far+16(FP), R8
	MOVQ n+24(FP), CX
	VPBROADCASTD seven<>(SB), Y15
	VPBROADCASTD eight<>(SB), Y14

inputs:
	COLSUM(-1, Y0, Y3)
	COLSUM(0, Y1, Y4)
	COLSUM(1, Y2, Y5)
	VPADDW Y1, Y1, Y3
	VPADDW Y3, Y1, Y1
	VPADDW Y1, Y0, Y0
	VPADDW Y1, Y2, Y2
	VPADDW Y14, Y0, Y0
	VPADDW Y15, Y2, Y2
	VPSRLW $4, Y0, Y0
	VPSRLW $4, Y2, Y2
	VPSLLW $8, Y2, Y2
	VPOR Y2, Y0, Y0
	VMOVDQU Y0, (DI)
	ADDQ $32, DI
	ADDQ $16, SI
	ADDQ $16, R8
	SUBQ $16, CX
	JG   inputs
	VZEROUPPER
	RET
