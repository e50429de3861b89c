package img

import "golang.org/x/sys/cpu"

// horizontal4 makes n RGB pixels of four rows, with the weights of words. It
// reads 4 bytes past the last pixel and writes 1 past each row.
//
//go:noescape
func horizontal4(dst *byte, dstStride int, src *byte, srcStride int, start *int32, k *byte, n, groups int)

// vertical32 makes 32 x chunks samples of one row.
//
//go:noescape
func vertical32(dst, src *byte, stride int, k *int32, taps, chunks int)

var haveAVX2 = cpu.X86.HasAVX2

// words are the weights of f as horizontal4 takes them: for every output and
// four inputs the upper and then the lower 11 bits of the weights of a pair of
// inputs, four times over.
func (f *weights) words() []byte {
	if !haveAVX2 {
		return nil
	}
	groups := (f.size + 3) / 4
	k := make([]byte, len(f.start)*groups*64)
	for i := range f.start {
		w := f.k[i*f.size : (i+1)*f.size]
		for x, v := range w {
			at := (i*groups+x/4)*64 + x%4/2*16 + x%2*2
			high, low := v>>11, v&2047
			for range 4 {
				k[at], k[at+1] = byte(high), byte(high>>8)
				k[at+32], k[at+33] = byte(low), byte(low>>8)
				at += 4
			}
		}
	}
	return k
}

// horizontalRows is the horizontal pass of rows of RGB, as many from the top as
// the vector code can do; it returns how many. Rows of dst have room for one
// byte more.
func horizontalRows(dst []byte, dstStride int, src []byte, srcStride, rows int, f *weights, words []byte) int {
	last := len(f.start) - 1
	groups := (f.size + 3) / 4
	reach := int(f.start[last])*3 + groups*12 + 4
	if len(src) < reach {
		return 0
	}
	rows = min(rows, (len(src)-reach)/srcStride+1)
	if rows < 4 {
		return 0
	}
	for y := 0; y < rows; y += 4 {
		y := min(y, rows-4) // the last four overlap
		horizontal4(&dst[y*dstStride], dstStride, &src[y*srcStride], srcStride, &f.start[0], &words[0], last+1, groups)
	}
	return rows
}

// verticalColumns is the vertical pass of one row, as many samples as the
// vector code can do; it returns how many.
func verticalColumns(dst, src []byte, stride int, k []int32) int {
	chunks := len(dst) / 32
	if !haveAVX2 || chunks == 0 {
		return 0
	}
	vertical32(&dst[0], &src[0], stride, &k[0], len(k), chunks)
	return chunks * 32
}
