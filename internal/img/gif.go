package img

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"io"

	"github.com/evatool/evatool/internal/fault"
)

func badGIF(format string, args ...any) error {
	return fault.Inputf("GIF image: "+format+"; fetch the file again", args...)
}

// gifReader reads bytes and remembers that they ran out.
type gifReader struct {
	data []byte
	err  error
}

func (r *gifReader) next(n int) []byte {
	if r.err != nil || n > len(r.data) {
		r.err = badGIF("it is truncated")
		return make([]byte, n)
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

// block reads a data block, which has up to 255 bytes; the last one has none.
func (r *gifReader) block() []byte { return r.next(int(r.next(1)[0])) }

// gifPalette reads a colour table; nil stands for the grey ramp, which PIL
// leaves away.
func (r *gifReader) gifPalette(flags byte) []byte {
	p := r.next(3 << (flags&7 + 1))
	for i, v := range p {
		if int(v) != i/3 {
			return padPalette(p)
		}
	}
	return nil
}

// decodeGIF reads the first frame, on the whole screen: what it does not cover
// has the transparent index, or 0. Mode P, or L without a palette.
func decodeGIF(data []byte) (*Image, error) {
	r := &gifReader{data: data}
	head := r.next(13)
	im := &Image{W: int(binary.LittleEndian.Uint16(head[6:])), H: int(binary.LittleEndian.Uint16(head[8:]))}
	if head[10]&0x80 != 0 {
		im.Palette = r.gifPalette(head[10])
	}
	fill := byte(0)
	for r.err == nil {
		switch r.next(1)[0] {
		case '!':
			kind := r.next(1)[0]
			b := r.block()
			if kind == 0xF9 && len(b) >= 4 && b[0]&1 != 0 {
				fill = b[3]
			}
			for len(b) > 0 && r.err == nil {
				b = r.block()
			}
		case ',':
			return im.gifFrame(r, fill)
		case ';':
			return nil, badGIF("it has no picture")
		}
	}
	return nil, r.err
}

func (im *Image) gifFrame(r *gifReader, fill byte) (*Image, error) {
	d := r.next(9)
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(d[at:])) }
	x0, y0, w, h := u16(0), u16(2), u16(4), u16(6)
	im.W, im.H = max(im.W, x0+w), max(im.H, y0+h)
	if d[8]&0x80 != 0 {
		im.Palette = r.gifPalette(d[8])
	}
	im.Mode = "P"
	if im.Palette == nil {
		im.Mode = "L"
	}
	bits := r.next(1)[0]
	if r.err != nil {
		return nil, r.err
	}
	if bits < 1 || bits > 8 {
		return nil, badGIF("codes of %d bits", bits)
	}
	if err := checkSize("GIF", im.W, im.H); err != nil {
		return nil, err
	}
	im.Pix = bytes.Repeat([]byte{fill}, im.W*im.H)
	var packed []byte
	for {
		b := r.block()
		if r.err != nil || len(b) == 0 {
			break // the decoder finds out whether enough was there
		}
		packed = append(packed, b...)
	}
	codes := lzw.NewReader(bytes.NewReader(packed), lzw.LSB, int(bits))
	defer codes.Close()
	for _, y := range gifRows(h, d[8]&0x40 != 0) {
		at := (y0+y)*im.W + x0
		if _, err := io.ReadFull(codes, im.Pix[at:at+w]); err != nil {
			return nil, badGIF("%w", err)
		}
	}
	return im, nil
}

// gifRows is the order of h rows in the file.
func gifRows(h int, interlaced bool) []int {
	passes := [][2]int{{0, 1}}
	if interlaced {
		passes = [][2]int{{0, 8}, {4, 8}, {2, 4}, {1, 2}}
	}
	rows := make([]int, 0, h)
	for _, p := range passes {
		for y := p[0]; y < h; y += p[1] {
			rows = append(rows, y)
		}
	}
	return rows
}
