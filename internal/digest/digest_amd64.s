#include "textflag.h"

// Big-endian words from bytes.
DATA flip<>+0(SB)/8, $0x0405060700010203
DATA flip<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL flip<>(SB), RODATA|NOPTR, $16

// Four rounds of both states with the words in m; X0 is the instruction's
// implicit operand. The states: X1 X2 (ABEF CDGH) and X3 X4.
#define ROUNDS(m, k) \
	MOVOU k(AX), X0; \
	PADDD m, X0; \
	SHA256RNDS2 X0, X1, X2; \
	SHA256RNDS2 X0, X3, X4; \
	PSHUFD $0x0e, X0, X0; \
	SHA256RNDS2 X0, X2, X1; \
	SHA256RNDS2 X0, X4, X3

#define LOAD(off, m) \
	MOVOU off(SI), m; \
	PSHUFB X14, m

// The next four words of the schedule, in next: this and last are the four
// before and the four before those.
#define SCHEDULE(this, last, next) \
	MOVO this, X9; \
	PALIGNR $4, last, X9; \
	PADDD X9, next; \
	SHA256MSG2 this, next

// func rounds2(a, b *[8]uint32, p *byte, n int, k *[64]uint32)
TEXT ·rounds2(SB), NOSPLIT, $0-40
	MOVQ a+0(FP), DI
	MOVQ b+8(FP), DX
	MOVQ p+16(FP), SI
	MOVQ n+24(FP), CX
	MOVQ k+32(FP), AX
	MOVOU flip<>(SB), X14
	MOVOU (DI), X1
	MOVOU 16(DI), X2
	MOVOU (DX), X3
	MOVOU 16(DX), X4

block:
	MOVO X1, X10
	MOVO X2, X11
	MOVO X3, X12
	MOVO X4, X13

	LOAD(0, X5)
	ROUNDS(X5, 0)
	LOAD(16, X6)
	ROUNDS(X6, 16)
	SHA256MSG1 X6, X5
	LOAD(32, X7)
	ROUNDS(X7, 32)
	SHA256MSG1 X7, X6
	LOAD(48, X8)
	ROUNDS(X8, 48)
	SCHEDULE(X8, X7, X5)
	SHA256MSG1 X8, X7
	ROUNDS(X5, 64)
	SCHEDULE(X5, X8, X6)
	SHA256MSG1 X5, X8
	ROUNDS(X6, 80)
	SCHEDULE(X6, X5, X7)
	SHA256MSG1 X6, X5
	ROUNDS(X7, 96)
	SCHEDULE(X7, X6, X8)
	SHA256MSG1 X7, X6
	ROUNDS(X8, 112)
	SCHEDULE(X8, X7, X5)
	SHA256MSG1 X8, X7
	ROUNDS(X5, 128)
	SCHEDULE(X5, X8, X6)
	SHA256MSG1 X5, X8
	ROUNDS(X6, 144)
	SCHEDULE(X6, X5, X7)
	SHA256MSG1 X6, X5
	ROUNDS(X7, 160)
	SCHEDULE(X7, X6, X8)
	SHA256MSG1 X7, X6
	ROUNDS(X8, 176)
	SCHEDULE(X8, X7, X5)
	SHA256MSG1 X8, X7
	ROUNDS(X5, 192)
	SCHEDULE(X5, X8, X6)
	SHA256MSG1 X5, X8
	ROUNDS(X6, 208)
	SCHEDULE(X6, X5, X7)
	ROUNDS(X7, 224)
	SCHEDULE(X7, X6, X8)
	ROUNDS(X8, 240)

	PADDD X10, X1
	PADDD X11, X2
	PADDD X12, X3
	PADDD X13, X4
	ADDQ $64, SI
	DECQ CX
	JNZ block

	MOVOU X1, (DI)
	MOVOU X2, 16(DI)
	MOVOU X3, (DX)
	MOVOU X4, 16(DX)
	RET
