package img

import (
	"encoding/binary"
	"unsafe"
)

// idct is jidctint with the rounding and the 16-bit intermediate values of
// libjpeg-turbo's vector code, which differ from its C code for damaged files.
func idct(out []byte, stride int, b *block, quant *[64]int16) {
	if idctVector(out, stride, b, quant) || idctFlat(out, stride, b, quant) {
		return
	}
	const (
		f0298 = 2446
		f0390 = 3196
		f0541 = 4433
		f0765 = 6270
		f0899 = 7373
		f1175 = 9633
		f1501 = 12299
		f1847 = 15137
		f1961 = 16069
		f2053 = 16819
		f2562 = 20995
		f3072 = 25172
	)
	var ws [64]int32
	ac := int16(0)
	for i := range 8 {
		v := b[8+i] | b[16+i] | b[24+i] | b[32+i] | b[40+i] | b[48+i] | b[56+i]
		ac |= v
		if v == 0 {
			dc := clamp16(int32(b[i]*quant[i]) << 2)
			for r := 0; r < 64; r += 8 {
				ws[r+i] = dc
			}
			continue
		}
		in := func(r int) int32 { return int32(b[r*8+i] * quant[r*8+i]) }
		z2, z3 := in(2), in(6)
		z1 := (z2 + z3) * f0541
		t2, t3 := z1-z3*f1847, z1+z2*f0765
		z2, z3 = in(0), in(4)
		t0, t1 := int32(int16(z2+z3))<<13, int32(int16(z2-z3))<<13
		t10, t13, t11, t12 := t0+t3, t0-t3, t1+t2, t1-t2
		t0, t1, t2, t3 = in(7), in(5), in(3), in(1)
		z1, z2 = t0+t3, t1+t2
		z3, z4 := int32(int16(t0+t2)), int32(int16(t1+t3))
		z5 := (z3 + z4) * f1175
		t0, t1, t2, t3 = t0*f0298, t1*f2053, t2*f3072, t3*f1501
		z1, z2, z3, z4 = -z1*f0899, -z2*f2562, z5-z3*f1961, z5-z4*f0390
		t0 += z1 + z3
		t1 += z2 + z4
		t2 += z2 + z3
		t3 += z1 + z4
		const round, shift = 1 << 10, 11
		ws[i] = clamp16((t10 + t3 + round) >> shift)
		ws[56+i] = clamp16((t10 - t3 + round) >> shift)
		ws[8+i] = clamp16((t11 + t2 + round) >> shift)
		ws[48+i] = clamp16((t11 - t2 + round) >> shift)
		ws[16+i] = clamp16((t12 + t1 + round) >> shift)
		ws[40+i] = clamp16((t12 - t1 + round) >> shift)
		ws[24+i] = clamp16((t13 + t0 + round) >> shift)
		ws[32+i] = clamp16((t13 - t0 + round) >> shift)
	}
	if ac == 0 {
		// Here the vector code shifts without saturation.
		for i := range 8 {
			dc := int32(int16(int32(b[i]*quant[i]) << 2))
			for r := 0; r < 64; r += 8 {
				ws[r+i] = dc
			}
		}
	}
	for r := range 8 {
		w := ws[r*8 : r*8+8 : r*8+8]
		o := out[r*stride : r*stride+8 : r*stride+8]
		z2, z3 := w[2], w[6]
		z1 := (z2 + z3) * f0541
		t2, t3 := z1-z3*f1847, z1+z2*f0765
		t0, t1 := int32(int16(w[0]+w[4]))<<13, int32(int16(w[0]-w[4]))<<13
		t10, t13, t11, t12 := t0+t3, t0-t3, t1+t2, t1-t2
		t0, t1, t2, t3 = w[7], w[5], w[3], w[1]
		z1, z2 = t0+t3, t1+t2
		z3, z4 := int32(int16(t0+t2)), int32(int16(t1+t3))
		z5 := (z3 + z4) * f1175
		t0, t1, t2, t3 = t0*f0298, t1*f2053, t2*f3072, t3*f1501
		z1, z2, z3, z4 = -z1*f0899, -z2*f2562, z5-z3*f1961, z5-z4*f0390
		t0 += z1 + z3
		t1 += z2 + z4
		t2 += z2 + z3
		t3 += z1 + z4
		// The level shift of 128 and the rounding in one.
		const round, shift = 128<<18 + 1<<17, 18
		o[0] = clamp((t10 + t3 + round) >> shift)
		o[7] = clamp((t10 - t3 + round) >> shift)
		o[1] = clamp((t11 + t2 + round) >> shift)
		o[6] = clamp((t11 - t2 + round) >> shift)
		o[2] = clamp((t12 + t1 + round) >> shift)
		o[5] = clamp((t12 - t1 + round) >> shift)
		o[3] = clamp((t13 + t0 + round) >> shift)
		o[4] = clamp((t13 - t0 + round) >> shift)
	}
}

// zeroAC says whether the block is all average.
func (b *block) zeroAC() bool {
	ac := uint64(0)
	for _, v := range (*[16]uint64)(unsafe.Pointer(b))[1:] {
		ac |= v
	}
	return ac == 0 && b[1]|b[2]|b[3] == 0
}

// idctFlat transforms a block that is all average.
func idctFlat(out []byte, stride int, b *block, quant *[64]int16) bool {
	if !b.zeroAC() {
		return false
	}
	// As at the end of the first pass below, and of the second.
	dc := int32(int16(int32(b[0]*quant[0]) << 2))
	v := uint64(clamp((dc<<13+128<<18+1<<17)>>18)) * 0x0101010101010101
	for r := range 8 {
		binary.NativeEndian.PutUint64(out[r*stride:], v)
	}
	return true
}

func clamp16(v int32) int32 { return max(-32768, min(32767, v)) }

func clamp(v int32) byte {
	if uint32(v) > 255 {
		return byte(^(v >> 31))
	}
	return byte(v)
}

// upsample gives one row of a component at full width.
type upsample func(c *component, y int, dst []byte) []byte

// row is row y of the component, without the padding; it must be one of the last
// two rows of MCUs.
func (c *component) row(y int) []byte {
	at := y % (16 * c.v) * c.wBlocks * 8
	return (*c.plane)[at : at+c.width]
}

// blockRow is where the samples of row y of the blocks go.
func (c *component) blockRow(y int) []byte {
	return (*c.plane)[y%(2*c.v)*c.wBlocks*64:]
}

func fullSize(c *component, y int, _ []byte) []byte { return c.row(y) }

// neighbours are the nearest row of output row y at half height and the next
// nearest, the edge rows repeated.
func (c *component) neighbours(y int) (near, far []byte) {
	n := y / 2
	f := n - 1 + 2*(y&1)
	return c.row(n), c.row(max(0, min(c.height-1, f)))
}

// h2v1Fancy is the triangle filter for half width.
func h2v1Fancy(c *component, y int, dst []byte) []byte {
	in := c.row(y)
	last := len(in) - 1
	dst = dst[:2*len(in)]
	dst[0] = in[0]
	dst[1] = byte((int(in[0])*3 + int(in[1]) + 2) >> 2)
	for x := 1; x < last; x++ {
		v := int(in[x]) * 3
		dst[2*x] = byte((v + int(in[x-1]) + 1) >> 2)
		dst[2*x+1] = byte((v + int(in[x+1]) + 2) >> 2)
	}
	dst[2*last] = byte((int(in[last])*3 + int(in[last-1]) + 1) >> 2)
	dst[2*last+1] = in[last]
	return dst
}

// h1v2Fancy is the triangle filter for half height.
func h1v2Fancy(c *component, y int, dst []byte) []byte {
	near, far := c.neighbours(y)
	bias := 1 + y&1
	dst = dst[:len(near)]
	far = far[:len(near)]
	for x, v := range near {
		dst[x] = byte((int(v)*3 + int(far[x]) + bias) >> 2)
	}
	return dst
}

// h2v2Fancy is the triangle filter for half width and height.
func h2v2Fancy(c *component, y int, dst []byte) []byte {
	near, far := c.neighbours(y)
	far = far[:len(near)]
	dst = dst[:2*len(near)]
	sum := func(x int) int { return int(near[x])*3 + int(far[x]) }
	last := len(near) - 1
	dst[0] = byte((sum(0)*4 + 8) >> 4)
	dst[1] = byte((sum(0)*3 + sum(1) + 7) >> 4)
	x := h2v2Vector(dst, near, far)
	for prev, this := sum(x-1), sum(x); x < last; x++ {
		next := sum(x + 1)
		dst[2*x] = byte((this*3 + prev + 8) >> 4)
		dst[2*x+1] = byte((this*3 + next + 7) >> 4)
		prev, this = this, next
	}
	dst[2*last] = byte((sum(last)*3 + sum(last-1) + 8) >> 4)
	dst[2*last+1] = byte((sum(last)*4 + 7) >> 4)
	return dst
}

// replicate repeats samples h times.
func replicate(h, v int) upsample {
	return func(c *component, y int, dst []byte) []byte {
		in := c.row(y / v)
		dst = dst[:h*len(in)]
		for x, s := range in {
			for i := range h {
				dst[h*x+i] = s
			}
		}
		return dst
	}
}

// upsampler chooses as jinit_upsampler does.
func (d *jpegDecoder) upsampler(c *component) upsample {
	h, v := d.maxH/c.h, d.maxV/c.v
	switch {
	case h == 1 && v == 1:
		return fullSize
	case h == 2 && v == 1 && c.width > 2:
		return h2v1Fancy
	case h == 1 && v == 2:
		return h1v2Fancy
	case h == 2 && v == 2 && c.width > 2:
		return h2v2Fancy
	}
	return replicate(h, v)
}

// Conversion tables of jdcolor, for 2 x Cr and Cb.
var crR, cbB, crG, cbG = func() (r, b, crg, cbg [256]int32) {
	for i := range 256 {
		x := int32(i) - 128
		r[i] = (91881*x + 1<<15) >> 16  // 1.40200
		b[i] = (116130*x + 1<<15) >> 16 // 1.77200
		crg[i] = -46802 * x             // 0.71414
		cbg[i] = -22554*x + 1<<15       // 0.34414
	}
	return
}()

// jpegOutput upsamples and converts to the mode that PIL gives the file.
type jpegOutput struct {
	b         *bands
	want      span
	y         int // the next row
	up        [4]upsample
	rows, tmp [4][]byte
	convert   func(dst []byte, rows *[4][]byte)
}

func (d *jpegDecoder) startOutput(b *bands, want span) {
	o := &jpegOutput{b: b, want: want, convert: d.converter()}
	for i := range d.comp {
		o.up[i] = d.upsampler(&d.comp[i])
		o.tmp[i] = make([]byte, d.w+16)
	}
	d.out = o
}

// emit gives the rows that can be made when n rows of MCUs are there; single
// means n rows of blocks, of a file with one component.
func (d *jpegDecoder) emit(n int, single bool) {
	o, ready := d.out, d.h
	for i := range d.comp {
		c := &d.comp[i]
		have, v := 8*n*c.v, d.maxV/c.v
		if single {
			have = 8 * n
		}
		if have >= c.height {
			continue
		}
		// A row that is interpolated needs the next one, too.
		if v *= have; v != have {
			v--
		}
		ready = min(ready, v)
	}
	o.y = max(o.y, min(o.want.lo, ready))
	for ; o.y < min(ready, o.want.hi); o.y++ {
		for i := range d.comp {
			o.rows[i] = o.up[i](&d.comp[i], o.y, o.tmp[i])[:d.w]
		}
		o.convert(o.b.next(), &o.rows)
	}
}

// converter guesses the file's colour space as default_decompress_parms does.
func (d *jpegDecoder) converter() func(dst []byte, rows *[4][]byte) {
	switch len(d.comp) {
	case 1:
		return func(dst []byte, rows *[4][]byte) { copy(dst, rows[0]) }
	case 3:
		ids := [3]int{d.comp[0].id, d.comp[1].id, d.comp[2].id}
		rgb := !d.jfif && (d.adobe && d.transform == 0 || !d.adobe && ids == [3]int{'R', 'G', 'B'})
		if rgb {
			return func(dst []byte, rows *[4][]byte) { interleave(dst, rows[:3], 0) }
		}
		return yccToRGB
	}
	// PIL takes every CMYK file as Adobe's, inverted.
	if d.adobe && d.transform != 0 {
		return func(dst []byte, rows *[4][]byte) {
			for x, y := range rows[0] {
				r, g, b := ycc(y, rows[1][x], rows[2][x])
				// libjpeg gives 255 - r, PIL inverts it again.
				dst[4*x], dst[4*x+1], dst[4*x+2], dst[4*x+3] = r, g, b, ^rows[3][x]
			}
		}
	}
	return func(dst []byte, rows *[4][]byte) { interleave(dst, rows[:], 0xFF) }
}

func interleave(dst []byte, rows [][]byte, invert byte) {
	for i, r := range rows {
		for x, v := range r {
			dst[x*len(rows)+i] = v ^ invert
		}
	}
}

func ycc(y, cb, cr byte) (r, g, b byte) {
	l := int32(y)
	return clamp(l + crR[cr]), clamp(l + (cbG[cb]+crG[cr])>>16), clamp(l + cbB[cb])
}

func yccToRGB(dst []byte, rows *[4][]byte) {
	y, cb, cr := rows[0], rows[1], rows[2]
	for x := yccVector(dst, y, cb, cr); x < len(y); x++ {
		o := dst[3*x : 3*x+3 : 3*x+3]
		o[0], o[1], o[2] = ycc(y[x], cb[x], cr[x])
	}
}
