#include "textflag.h"

// Words of two neighbouring RGB pixels, channel by channel: R0 R1 G0 G1 B0 B1
// 0 0 in the low half, those of the next two pixels in the high half.
DATA pairs<>+0(SB)/8, $0x80048001_80038000
DATA pairs<>+8(SB)/8, $0x80808080_80058002
DATA pairs<>+16(SB)/8, $0x800a8007_80098006
DATA pairs<>+24(SB)/8, $0x80808080_800b8008
GLOBL pairs<>(SB), RODATA|NOPTR, $32

DATA half<>+0(SB)/4, $0x200000
GLOBL half<>(SB), RODATA|NOPTR, $4

// The order that two packings leave eight double words in.
DATA unpack<>+0(SB)/8, $0x0000000400000000
DATA unpack<>+8(SB)/8, $0x0000000500000001
DATA unpack<>+16(SB)/8, $0x0000000600000002
DATA unpack<>+24(SB)/8, $0x0000000700000003
GLOBL unpack<>(SB), RODATA|NOPTR, $32

#define TAPS(mem, high, low) \
	VBROADCASTI128 mem, Y10 \
	VPSHUFB  Y15, Y10, Y10 \
	VPMADDWD Y8, Y10, Y11 \
	VPADDD   Y11, high, high \
	VPMADDWD Y9, Y10, Y12 \
	VPADDD   Y12, low, low

#define SUM(high, low, xhigh, xlow) \
	VPSLLD $11, high, high \
	VPADDD low, high, high \
	VEXTRACTI128 $1, high, xlow \
	VPADDD xlow, xhigh, xhigh \
	VPADDD X14, xhigh, xhigh \
	VPSRAD $22, xhigh, xhigh

// func horizontal4(dst *byte, dstStride int, src *byte, srcStride int, start *int32, k *byte, n, groups int)
TEXT ·horizontal4(SB), NOSPLIT, $0-64
	MOVQ dst+0(FP), DI
	MOVQ dstStride+8(FP), R8
	MOVQ src+16(FP), SI
	MOVQ srcStride+24(FP), R9
	MOVQ start+32(FP), R10
	MOVQ k+40(FP), R11
	MOVQ n+48(FP), CX
	MOVQ groups+56(FP), R12
	VMOVDQU pairs<>(SB), Y15
	VPBROADCASTD half<>(SB), X14
	LEAQ (R9)(R9*2), R13
	LEAQ (R8)(R8*2), DX

pixel:
	MOVLQSX (R10), AX
	LEAQ  (AX)(AX*2), AX
	ADDQ  SI, AX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3
	VPXOR Y4, Y4, Y4
	VPXOR Y5, Y5, Y5
	VPXOR Y6, Y6, Y6
	VPXOR Y7, Y7, Y7
	MOVQ  R12, BX

group:
	VMOVDQU (R11), Y8
	VMOVDQU 32(R11), Y9
	TAPS((AX), Y0, Y1)
	TAPS((AX)(R9*1), Y2, Y3)
	TAPS((AX)(R9*2), Y4, Y5)
	TAPS((AX)(R13*1), Y6, Y7)
	ADDQ $64, R11
	ADDQ $12, AX
	DECQ BX
	JNZ  group

	SUM(Y0, Y1, X0, X1)
	SUM(Y2, Y3, X2, X3)
	SUM(Y4, Y5, X4, X5)
	SUM(Y6, Y7, X6, X7)
	VPACKSSDW X2, X0, X0
	VPACKSSDW X6, X4, X4
	VPACKUSWB X4, X0, X0
	VMOVD   X0, (DI)
	VPEXTRD $1, X0, (DI)(R8*1)
	VPEXTRD $2, X0, (DI)(R8*2)
	VPEXTRD $3, X0, (DI)(DX*1)
	ADDQ $3, DI
	ADDQ $4, R10
	DECQ CX
	JNZ  pixel
	VZEROUPPER
	RET

// func vertical32(dst, src *byte, stride int, k *int32, taps, chunks int)
TEXT ·vertical32(SB), NOSPLIT, $0-48
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ stride+16(FP), R8
	MOVQ k+24(FP), R9
	MOVQ taps+32(FP), R10
	MOVQ chunks+40(FP), CX
	VPBROADCASTD half<>(SB), Y15
	VMOVDQU unpack<>(SB), Y14

chunk:
	VMOVDQA Y15, Y0
	VMOVDQA Y15, Y1
	VMOVDQA Y15, Y2
	VMOVDQA Y15, Y3
	MOVQ SI, AX
	MOVQ R9, BX
	MOVQ R10, DX

tap:
	VPBROADCASTD (BX), Y8
	VPMOVZXBD (AX), Y4
	VPMOVZXBD 8(AX), Y5
	VPMOVZXBD 16(AX), Y6
	VPMOVZXBD 24(AX), Y7
	VPMULLD Y8, Y4, Y4
	VPMULLD Y8, Y5, Y5
	VPMULLD Y8, Y6, Y6
	VPMULLD Y8, Y7, Y7
	VPADDD  Y4, Y0, Y0
	VPADDD  Y5, Y1, Y1
	VPADDD  Y6, Y2, Y2
	VPADDD  Y7, Y3, Y3
	ADDQ R8, AX
	ADDQ $4, BX
	DECQ DX
	JNZ  tap

	VPSRAD $22, Y0, Y0
	VPSRAD $22, Y1, Y1
	VPSRAD $22, Y2, Y2
	VPSRAD $22, Y3, Y3
	VPACKSSDW Y1, Y0, Y0
	VPACKSSDW Y3, Y2, Y2
	VPACKUSWB Y2, Y0, Y0
	VPERMD  Y0, Y14, Y0
	VMOVDQU Y0, (DI)
	ADDQ $32, SI
	ADDQ $32, DI
	DECQ CX
	JNZ  chunk
	VZEROUPPER
	RET
