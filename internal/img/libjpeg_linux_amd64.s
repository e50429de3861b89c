#include "textflag.h"

// These are called from C and keep to its rules: arguments in DI, SI, DX, and
// BX, BP, R12 to R15 preserved.

GLOBL ·guardPC(SB), NOPTR, $8
DATA ·guardPC(SB)/8, $guard(SB)

GLOBL ·escapePC(SB), NOPTR, $8
DATA ·escapePC(SB)/8, $escape(SB)

GLOBL ·quietPC(SB), NOPTR, $8
DATA ·quietPC(SB)/8, $quiet(SB)

#define RESTORE \
	MOVQ 0(SP), BX  \
	MOVQ 8(SP), BP  \
	MOVQ 16(SP), R12 \
	MOVQ 24(SP), R13 \
	MOVQ 32(SP), R14 \
	MOVQ 40(SP), R15 \
	LEAQ 56(SP), SP

// uintptr guard(guardCall *c): calls c->fn(c->arg0, c->arg1, c->arg2). With
// c->rows, arg1 points to row pointers and fn, which returns how many rows it
// did, is repeated until arg2 rows are done; the result is then how many are
// missing. After an escape the result is ~0.
TEXT guard(SB), NOSPLIT|NOFRAME, $0
	LEAQ -56(SP), SP
	MOVQ BX, 0(SP)
	MOVQ BP, 8(SP)
	MOVQ R12, 16(SP)
	MOVQ R13, 24(SP)
	MOVQ R14, 32(SP)
	MOVQ R15, 40(SP)
	MOVQ DI, BX
	MOVQ SP, 32(BX)
	MOVQ 16(BX), R12
	MOVQ 24(BX), R13
again:
	MOVQ 8(BX), DI
	MOVQ R12, SI
	MOVQ R13, DX
	MOVQ 0(BX), AX
	CALL AX
	MOVL AX, AX
	CMPQ 40(BX), $0
	JEQ  done
	TESTQ AX, AX
	JEQ  stopped
	LEAQ (R12)(AX*8), R12
	SUBQ AX, R13
	JNE  again
stopped:
	MOVQ R13, AX
done:
	RESTORE
	RET

// void escape(j_common_ptr cinfo): the error_exit callback; returns from the
// guard that cinfo->client_data belongs to.
TEXT escape(SB), NOSPLIT|NOFRAME, $0
	MOVQ 24(DI), BX
	MOVQ 32(BX), SP
	MOVQ $-1, AX
	RESTORE
	RET

// void quiet(j_common_ptr cinfo): the output_message callback.
TEXT quiet(SB), NOSPLIT|NOFRAME, $0
	RET
