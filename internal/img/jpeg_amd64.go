package img

// idctAVX2 is idct; false says that all rows but the first are zero and that
// nothing was done.
//
//go:noescape
func idctAVX2(out *byte, stride int, b *block, quant *[64]int16) bool

//go:noescape
func yccAVX2(dst, y, cb, cr *byte, n int)

//go:noescape
func h2v2AVX2(dst, near, far *byte, n int)

// idctVector transforms a block if the vector code can.
func idctVector(out []byte, stride int, b *block, quant *[64]int16) bool {
	return haveAVX2 && idctAVX2(&out[:7*stride+8][0], stride, b, quant)
}

// yccVector converts as many pixels as the vector code can.
func yccVector(dst, y, cb, cr []byte) int {
	n := (len(dst) - 4) / 3 &^ 7
	if !haveAVX2 || n <= 0 {
		return 0
	}
	n = min(n, len(y)&^7)
	yccAVX2(&dst[0], &y[:n][0], &cb[:n][0], &cr[:n][0], n)
	return n
}

// h2v2Vector interpolates the inputs from 1 on, as many as the vector code can;
// it returns where it stopped.
func h2v2Vector(dst, near, far []byte) int {
	n := (len(near) - 2) &^ 15
	if !haveAVX2 || n <= 0 {
		return 1
	}
	h2v2AVX2(&dst[2 : 2+2*n][0], &near[1], &far[1:len(near)][0], n)
	return 1 + n
}
