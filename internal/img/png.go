package img

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/png"

	"github.com/evatool/evatool/internal/fault"
)

// decodePNG reads a PNG in the mode that PIL gives its depth and colour type:
// 16-bit grey is mode I, other 16-bit samples keep their high byte.
func decodePNG(data []byte) (*Image, error) {
	data, palette, err := plainPNG(data)
	if err != nil {
		return nil, err
	}
	cfg, err := png.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("PNG image: %w; fetch the file again", err)
	}
	if err := checkSize("PNG", cfg.Width, cfg.Height); err != nil {
		return nil, err
	}
	src, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("PNG image: %w; fetch the file again", err)
	}
	depth, kind := data[24], data[25] // of IHDR, which the decoder has checked
	im := &Image{W: cfg.Width, H: cfg.Height}
	switch {
	case kind == 0 && depth == 16:
		im.Mode = "I"
	case kind == 0 && depth == 1:
		im.Mode = "1"
	case kind == 0:
		im.Mode = "L"
	case kind == 2:
		im.Mode = "RGB"
	case kind == 3:
		im.Mode = "P"
	case kind == 4 && depth == 8:
		im.Mode = "LA"
	default:
		im.Mode = "RGBA"
	}
	im.fill(src)
	if im.Mode == "P" {
		im.Palette = padPalette(palette)
	}
	return im, nil
}

// plainPNG is the part of a PNG that makes its pixels, and its palette. PIL is
// strict before the image data and not behind it: their checksums, a missing
// end, a palette that is not needed, cut or missing do not matter to it.
func plainPNG(data []byte) (plain, palette []byte, err error) {
	const head = 8
	var pixels []byte
	plain = append(plain, data[:head]...)
	put := func(kind string, body []byte) {
		plain = binary.BigEndian.AppendUint32(plain, uint32(len(body)))
		start := len(plain)
		plain = append(append(plain, kind...), body...)
		plain = binary.BigEndian.AppendUint32(plain, crc32.ChecksumIEEE(plain[start:]))
	}
	var alpha []byte
	var depth, colours byte
	began := false
	for at := head; at+8 <= len(data); {
		n, kind := int(binary.BigEndian.Uint32(data[at:])), string(data[at+4:at+8])
		if began && kind != "IDAT" {
			break
		}
		body := data[at+8 : min(at+8+n, len(data))]
		next := at + 12 + n
		switch {
		case kind == "IDAT":
			pixels, began = append(pixels, body...), true
			at = next
			continue
		case next > len(data):
			return nil, nil, fault.Inputf("PNG image: it is truncated; fetch the file again")
		case crc32.ChecksumIEEE(data[at+4:next-4]) != binary.BigEndian.Uint32(data[next-4:]):
			return nil, nil, fault.Inputf("PNG image: chunk %q has a wrong checksum; fetch the file again", kind)
		}
		switch kind {
		case "IHDR":
			put(kind, body)
			if len(body) == 13 {
				depth, colours = min(body[8], 8), body[9]
			}
		case "PLTE":
			palette = body[:len(body)/3*3]
		case "tRNS":
			alpha = body
		}
		at = next
	}
	if colours == 3 {
		put("PLTE", padPalette(palette)[:3<<depth])
	} else if alpha != nil {
		put("tRNS", alpha)
	}
	put("IDAT", pixels)
	put("IEND", nil)
	return plain, palette, nil
}

// padPalette is p as 256 triples, a grey ramp where p ends, as PIL has it.
func padPalette(p []byte) []byte {
	out := make([]byte, 768)
	for i := range out {
		out[i] = byte(i / 3)
	}
	copy(out, p)
	return out
}

// fill copies the samples of a standard-library image, most significant byte
// first where it has 16 bits; colours under transparent pixels are kept.
func (im *Image) fill(src image.Image) {
	n := im.W * im.H
	c := channels[im.Mode]
	if im.Mode == "I" || im.Mode == "I;16" {
		im.Int = make([]int32, 0, n)
	} else {
		im.Pix = make([]byte, 0, n*c)
	}
	for y := range im.H {
		switch s := src.(type) {
		case *image.Gray:
			im.Pix = append(im.Pix, s.Pix[y*s.Stride:y*s.Stride+im.W]...)
		case *image.Paletted:
			im.Pix = append(im.Pix, s.Pix[y*s.Stride:y*s.Stride+im.W]...)
		case *image.Gray16:
			im.row16(s.Pix[y*s.Stride:], 1)
		case *image.RGBA:
			im.row8(s.Pix[y*s.Stride:])
		case *image.NRGBA:
			im.row8(s.Pix[y*s.Stride:])
		case *image.RGBA64:
			im.row16(s.Pix[y*s.Stride:], 4)
		case *image.NRGBA64:
			im.row16(s.Pix[y*s.Stride:], 4)
		}
	}
}

// order says which of R, G, B and A a mode keeps.
var order = map[string][]int{"1": {0}, "L": {0}, "LA": {0, 3}, "RGB": {0, 1, 2}, "RGBA": {0, 1, 2, 3}}

func (im *Image) row8(row []byte) {
	for x := range im.W {
		for _, c := range order[im.Mode] {
			im.Pix = append(im.Pix, row[4*x+c])
		}
	}
}

func (im *Image) row16(row []byte, c int) {
	for x := range im.W {
		p := row[2*c*x : 2*c*x+2*c]
		if im.Pix == nil {
			im.Int = append(im.Int, int32(p[0])<<8|int32(p[1]))
			continue
		}
		for _, o := range order[im.Mode] {
			im.Pix = append(im.Pix, p[2*o])
		}
	}
}
