package img

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"

	"golang.org/x/image/tiff"

	"github.com/evatool/evatool/internal/fault"
)

// Tags of a TIFF directory.
const (
	tiffBits        = 258
	tiffCompression = 259
	tiffPhotometric = 262
	tiffFillOrder   = 266
	tiffOrientation = 274
	tiffSamples     = 277
	tiffPlanar      = 284
)

// tiffTag finds the first value of a SHORT tag in the first directory, or
// missing when it is not there.
func tiffTag(data []byte, tag uint16, missing int) int {
	var order binary.ByteOrder = binary.LittleEndian
	if data[0] == 'M' {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(data[4:]))
	if at+2 > int64(len(data)) {
		return missing
	}
	n := int64(order.Uint16(data[at:]))
	for i := range n {
		e := at + 2 + 12*i
		if e+12 > int64(len(data)) {
			break
		}
		if order.Uint16(data[e:]) != tag {
			continue
		}
		v := e + 8
		// Two values at most lie in the entry itself.
		if order.Uint32(data[e+4:]) > 2 {
			v = int64(order.Uint32(data[v:]))
		}
		if v+2 > int64(len(data)) {
			break
		}
		return int(order.Uint16(data[v:]))
	}
	return missing
}

// decodeTIFF reads the first page. Unlike other formats its orientation counts,
// as it does for PIL.
func decodeTIFF(data []byte) (*Image, error) {
	if len(data) < 8 {
		return nil, fault.Inputf("TIFF image is truncated; fetch the file again")
	}
	cfg, err := tiff.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("TIFF image: %w; save it as PNG", err)
	}
	samples := tiffTag(data, tiffSamples, 1)
	if samples > 1 && tiffTag(data, tiffPlanar, 1) != 1 {
		return nil, fault.Inputf("TIFF image: separate colour planes are not supported; save it as PNG")
	}
	fax := false
	if c := tiffTag(data, tiffCompression, 1); c >= 2 && c <= 4 {
		fax = true
	} else if tiffTag(data, tiffFillOrder, 1) != 1 {
		return nil, fault.Inputf("TIFF image: bits in reverse order are not supported; save it as PNG")
	}
	if err := checkSize("TIFF", cfg.Width, cfg.Height); err != nil {
		return nil, err
	}
	src, err := tiff.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("TIFF image: %w; fetch the file again or save it as PNG", err)
	}
	im := &Image{W: cfg.Width, H: cfg.Height}
	switch src.(type) {
	case *image.Gray:
		im.Mode = "L"
		if tiffTag(data, tiffBits, 1) == 1 {
			im.Mode = "1"
		}
	case *image.Gray16:
		im.Mode = "I;16"
	case *image.Paletted:
		// Grey of 2 and 4 bits comes as a palette.
		im.Mode = "P"
	case *image.RGBA:
		im.Mode = "RGBA"
		if samples == 3 {
			im.Mode = "RGB"
		}
	case *image.RGBA64:
		im.Mode = "RGBA"
		if samples == 3 {
			im.Mode = "RGB"
		}
	default:
		im.Mode = "RGBA"
	}
	im.fill(src)
	switch white := tiffTag(data, tiffPhotometric, 1) == 0; {
	case fax && !white: // the decoder takes the fax codes by their names
		for i, v := range im.Pix {
			im.Pix[i] = ^v
		}
	case im.Int != nil && white: // PIL leaves 16 bits as they are
		for i, v := range im.Int {
			im.Int[i] = 0xFFFF - v
		}
	}
	switch s := src.(type) {
	case *image.RGBA, *image.RGBA64:
		if im.Mode == "RGBA" { // stored premultiplied
			clearTransparent(im.Pix)
			unpremultiply(im.Pix, 4)
		}
	case *image.Paletted:
		var p []byte
		for _, c := range s.Palette {
			v := color.NRGBAModel.Convert(c).(color.NRGBA)
			p = append(p, v.R, v.G, v.B)
		}
		im.Palette = padPalette(p)
		if tiffTag(data, tiffPhotometric, 0) != 3 {
			im.applyGrey()
		}
	}
	im.orient(tiffTag(data, tiffOrientation, 1))
	return im, nil
}

// clearTransparent blacks out pixels without alpha.
func clearTransparent(pix []byte) {
	for i := 0; i < len(pix); i += 4 {
		if pix[i+3] == 0 {
			clear(pix[i : i+3])
		}
	}
}

// applyGrey turns palette indices into grey levels.
func (im *Image) applyGrey() {
	for i, v := range im.Pix {
		im.Pix[i] = im.Palette[3*int(v)]
	}
	im.Mode, im.Palette = "L", nil
}

// orient undoes a TIFF orientation of 2 to 8.
func (im *Image) orient(o int) {
	if o < 2 || o > 8 {
		return
	}
	w, h := im.W, im.H
	turned := o >= 5
	if turned {
		w, h = h, w
	}
	c := 1
	if im.Int == nil {
		c = channels[im.Mode]
	}
	pix, ints := make([]byte, len(im.Pix)), make([]int32, len(im.Int))
	for y := range h {
		for x := range w {
			sx, sy := x, y
			if turned {
				sx, sy = y, x
			}
			// Which of the source's axes run backwards.
			if o == 2 || o == 3 || o == 7 || o == 8 {
				sx = im.W - 1 - sx
			}
			if o == 3 || o == 4 || o == 6 || o == 7 {
				sy = im.H - 1 - sy
			}
			from, to := sy*im.W+sx, y*w+x
			if im.Int != nil {
				ints[to] = im.Int[from]
			} else {
				copy(pix[to*c:to*c+c], im.Pix[from*c:])
			}
		}
	}
	im.W, im.H, im.Pix = w, h, pix
	if im.Int != nil {
		im.Int, im.Pix = ints, nil
	}
}
