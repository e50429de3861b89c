package img

import (
	"encoding/binary"
	"slices"

	"github.com/evatool/evatool/internal/fault"
)

// x/image/bmp is not enough: it reads 8, 24 and 32 bits a pixel, without
// run-length coding or masks (TestOwnReaders).

func badBMP(format string, args ...any) error {
	return fault.Inputf("BMP image: "+format, args...)
}

// bmpHeader is what the headers of a BMP file say.
type bmpHeader struct {
	size, w, h  int
	topDown     bool
	bits        int
	compression uint32
	colors      int
	entry       int // bytes of a palette entry
	offset      int // of the pixels
	palette     []byte
	masks       [4]uint32 // red, green, blue, alpha
}

// bmpLayouts are the positions of red, green, blue and (or -1) alpha in a
// 32-bit pixel, by mask; those that PIL reads.
var bmpLayouts = map[[4]uint32][4]int{
	{0xFF0000, 0xFF00, 0xFF, 0}:          {2, 1, 0, -1},
	{0xFF000000, 0xFF0000, 0xFF00, 0}:    {3, 2, 1, -1},
	{0xFF000000, 0xFF0000, 0xFF00, 0xFF}: {3, 2, 1, 0},
	{0xFF, 0xFF00, 0xFF0000, 0xFF000000}: {0, 1, 2, 3},
	{0xFF0000, 0xFF00, 0xFF, 0xFF000000}: {2, 1, 0, 3},
	{0, 0, 0, 0}:                         {2, 1, 0, 3},
}

const (
	bmpRaw = iota
	bmpRLE8
	bmpRLE4
	bmpBitfields
)

func readBMPHeader(data []byte) (*bmpHeader, error) {
	short := badBMP("the header is truncated; fetch the file again")
	if len(data) < 26 {
		return nil, short
	}
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(data[at:])) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
	h := &bmpHeader{size: int(u32(14)), offset: int(u32(10))}
	if h.size == 12 {
		h.w, h.h, h.bits, h.entry = u16(18), u16(20), u16(24), 3
	} else if slices.Contains([]int{40, 64, 108, 124}, h.size) {
		if len(data) < 14+h.size {
			return nil, short
		}
		h.w, h.h, h.bits, h.entry = int(int32(u32(18))), int(int32(u32(22))), u16(28), 4
		if h.h < 0 {
			h.h, h.topDown = -h.h, true
		}
		h.compression, h.colors = u32(30), int(u32(46))
	} else {
		return nil, badBMP("a header of %d bytes is not supported; save the image as PNG", h.size)
	}
	if h.colors == 0 && h.bits <= 8 {
		h.colors = 1 << h.bits
	}
	end := 14 + h.size
	if h.compression == bmpBitfields {
		n := 4
		if h.size == 40 {
			n = 3
		}
		if len(data) < 54+4*n {
			return nil, short
		}
		for i := range n {
			h.masks[i] = u32(54 + 4*i)
		}
		end = max(end, 54+4*n)
	}
	if h.bits <= 8 {
		if h.colors < 1 || h.colors > 65536 || end+h.entry*h.colors > len(data) {
			return nil, badBMP("a palette of %d colours does not fit; fetch the file again", h.colors)
		}
		h.palette = data[end : end+h.entry*h.colors]
		if h.offset == 14+h.size || h.offset == 0 {
			h.offset = end + h.entry*h.colors
		}
	}
	if h.offset == 0 {
		h.offset = end
	}
	if h.offset > len(data) {
		return nil, short
	}
	return h, checkSize("BMP", h.w, h.h)
}

// openBMP reads a BMP: palettes that are the grey ramp give mode L or 1.
func openBMP(data []byte) (*Picture, error) {
	h, err := readBMPHeader(data)
	if err != nil {
		return nil, err
	}
	p := &Picture{Mode: "RGB", W: h.w, H: h.h}
	unpack, err := h.unpacker(p)
	if err != nil {
		return nil, err
	}
	rows, stride := data[h.offset:], (h.w*h.bits+31)>>3&^3
	coded := h.compression == bmpRLE8 || h.compression == bmpRLE4
	if coded {
		p.cost = int64(h.w) * int64(h.h)
	} else if int64(len(rows)) < int64(stride)*int64(h.h-1)+int64(h.w*h.bits+7)/8 { // the last row needs no padding
		return nil, badBMP("it is truncated; fetch the file again")
	}
	p.decode = func(want span, to sink) error {
		rows, stride := rows, stride
		if coded {
			all, free := Scratch(h.w * h.h)
			defer free()
			if rows, stride = all, h.w; h.runs(data, all) < len(all) {
				return badBMP("it is truncated; fetch the file again")
			}
		}
		b := newBands(p, want.lo, to)
		defer b.close()
		for y := want.lo; y < want.hi; y++ {
			at := h.h - 1 - y
			if h.topDown {
				at = y
			}
			if src := rows[at*stride : min((at+1)*stride, len(rows))]; coded {
				copy(b.next(), src)
			} else {
				unpack(b.next(), src)
			}
		}
		b.flush()
		return nil
	}
	return p, nil
}

// unpacker sets the mode and says how a row becomes samples.
func (h *bmpHeader) unpacker(im *Picture) (func(dst, src []byte), error) {
	run := h.compression == bmpRLE8 && h.bits == 8 || h.compression == bmpRLE4 && h.bits == 4
	if h.compression > bmpBitfields || !run && (h.compression == bmpRLE8 || h.compression == bmpRLE4) {
		return nil, badBMP("compression %d of %d-bit pixels is not supported; save the image as PNG", h.compression, h.bits)
	}
	switch h.bits {
	case 1, 4, 8:
		if h.compression == bmpBitfields {
			break
		}
		h.setPalette(im)
		return func(dst, src []byte) {
			perByte, mask := 8/h.bits, byte(1<<h.bits-1)
			for x := range dst {
				v := src[x/perByte] >> (8 - h.bits - x%perByte*h.bits) & mask
				if im.Mode == "1" {
					v *= 255
				}
				dst[x] = v
			}
		}, nil
	case 16:
		masks := h.masks
		if h.compression == bmpRaw {
			masks = [4]uint32{0x7C00, 0x3E0, 0x1F}
		}
		switch [3]uint32(masks[:3]) {
		case [3]uint32{0xF800, 0x7E0, 0x1F}:
			return unpack16(11, 63), nil
		case [3]uint32{0x7C00, 0x3E0, 0x1F}:
			return unpack16(10, 31), nil
		}
	case 24, 32:
		layout := [4]int{2, 1, 0, -1}
		if h.compression == bmpBitfields && h.bits == 32 {
			var ok bool
			if layout, ok = bmpLayouts[h.masks]; !ok {
				break
			}
		} else if h.compression == bmpBitfields && [3]uint32(h.masks[:3]) != [3]uint32{0xFF0000, 0xFF00, 0xFF} {
			break
		}
		c := 3
		if layout[3] >= 0 {
			im.Mode, c = "RGBA", 4
		}
		return func(dst, src []byte) {
			for x := range im.W {
				for i := range c {
					dst[c*x+i] = src[x*h.bits/8+layout[i]]
				}
			}
		}, nil
	}
	return nil, badBMP("%d-bit pixels with compression %d and masks %#x are not supported; save the image as PNG", h.bits, h.compression, h.masks)
}

// unpack16 reads pixels of 5 bits red at bit r, green with greenMax at bit 5, 5 bits blue.
func unpack16(r int, greenMax int) func(dst, src []byte) {
	return func(dst, src []byte) {
		for x := range len(dst) / 3 {
			v := int(src[2*x]) | int(src[2*x+1])<<8
			dst[3*x] = byte((v >> r & 31) * 255 / 31)
			dst[3*x+1] = byte((v >> 5 & greenMax) * 255 / greenMax)
			dst[3*x+2] = byte((v & 31) * 255 / 31)
		}
	}
}

func (h *bmpHeader) setPalette(im *Picture) {
	im.Mode = "P"
	im.palette = padPalette(nil)
	grey := h.colors == 2 && h.bits == 1 || h.colors != 2 && h.bits == 8
	for i := range min(h.colors, 256) {
		b, g, r := h.palette[i*h.entry], h.palette[i*h.entry+1], h.palette[i*h.entry+2]
		im.palette[3*i], im.palette[3*i+1], im.palette[3*i+2] = r, g, b
		want := byte(i)
		if h.colors == 2 {
			want *= 255
		}
		grey = grey && r == want && g == want && b == want
	}
	if grey && h.colors <= 256 {
		im.Mode = "L"
		if h.colors == 2 {
			im.Mode = "1"
		}
	}
}

// runs undoes run-length coding into all, which is zero: one index per pixel,
// bottom row first. What the data does not say stays index 0; nothing is written
// past the image. It returns how far it got.
func (h *bmpHeader) runs(data, all []byte) int {
	src, total, out := data[h.offset:], len(all), all[:0]
	zeros := func(n int) { out = all[:min(len(out)+n, total)] }
	put := func(v byte) {
		if len(out) < total {
			out = append(out, v)
		}
	}
	for x := 0; len(out) < total && len(src) >= 2; {
		n, v := int(src[0]), src[1]
		src = src[2:]
		switch {
		case n > 0: // a run
			n = min(n, max(0, h.w-x))
			for i := range n {
				p := v
				if h.bits == 4 {
					p = v >> (4 - 4*(i&1)) & 15
				}
				put(p)
			}
			x += n
		case v == 0: // end of line
			zeros((h.w - len(out)%h.w) % h.w)
			x = 0
		case v == 1: // end of the image
			src = nil
		case v == 2: // skip
			if len(src) < 4 {
				src = nil
				break
			}
			// PIL reads the pair after the next: kept, to give its pixels.
			zeros(int(src[2]) + int(src[3])*h.w)
			src = src[4:]
			x = len(out) % h.w
		default: // literal pixels, padded to 16 bits
			x += int(v)
			bytes := int(v) * h.bits / 8
			lit := src[:min(len(src), bytes)]
			for _, b := range lit {
				if h.bits == 4 {
					put(b >> 4)
					put(b & 15)
				} else {
					put(b)
				}
			}
			src = src[len(lit):]
			if (len(data)-len(src))&1 != 0 && len(src) > 0 {
				src = src[1:]
			}
			if len(lit) < bytes {
				src = nil
			}
		}
	}
	return len(out)
}
