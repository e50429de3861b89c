// Package img turns image files into the pixels that PIL and torchvision give,
// bit for bit, and crops them for a model.
//
// The reference is Pillow 9.4 with libjpeg-turbo 2.1: its modes, its refusal of
// truncated files, its bicubic resize.
package img

import (
	"bytes"

	"github.com/evatool/evatool/internal/fault"
)

// Decoder says in reports what decodes pictures: the code of this package.
const Decoder = "go"

// MaxPixels is the largest width x height that Decode accepts: the size at
// which PIL raises DecompressionBombError.
const MaxPixels = 2 * 89478485

// Image is a decoded image in PIL's mode.
type Image struct {
	Format string // JPEG, PNG, WEBP, GIF, BMP, TIFF or PPM
	Mode   string // 1, L, LA, P, RGB, RGBA, RGBX, CMYK, I or I;16
	W, H   int
	// Pix is interleaved samples, row by row; mode 1 has a byte of 0 or 255 per
	// pixel. Modes I and I;16 use Int instead.
	Pix []byte
	Int []int32
	// Palette is RGB triples of mode P, 256 of them.
	Palette []byte
}

// RGB is 8-bit RGB, interleaved, row by row.
type RGB struct {
	W, H int
	Pix  []byte
}

// format is one file type: how it starts, what reads it.
type format struct {
	name  string
	match func(data []byte) bool
	open  func(data []byte) (*Picture, error)
}

func prefix(p ...string) func([]byte) bool {
	return func(data []byte) bool {
		for _, s := range p {
			if bytes.HasPrefix(data, []byte(s)) {
				return true
			}
		}
		return false
	}
}

var formats = []format{
	{"JPEG", prefix("\xff\xd8\xff"), openJPEG},
	{"PNG", prefix("\x89PNG\r\n\x1a\n"), openPNG},
	{"WEBP", isWebP, openWebP},
	{"GIF", prefix("GIF87a", "GIF89a"), openGIF},
	{"BMP", prefix("BM"), openBMP},
	{"TIFF", prefix("II*\x00", "MM\x00*"), openTIFF},
	{"PPM", prefix("P5", "P6"), openPNM},
}

// Decode reads a whole picture. See Parse.
func Decode(data []byte) (*Image, error) {
	p, err := Parse(data)
	if err != nil {
		return nil, err
	}
	return p.Image()
}

// checkSize refuses empty images and decompression bombs.
func checkSize(format string, w, h int) error {
	if w <= 0 || h <= 0 {
		return fault.Inputf("%s image is %d x %d pixels, which is nothing; fetch the file again", format, w, h)
	}
	if int64(w)*int64(h) > MaxPixels {
		return fault.Inputf("%s image is %d x %d pixels, over the limit of %d; make it smaller", format, w, h, MaxPixels)
	}
	return nil
}
