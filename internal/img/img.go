// Package img turns image files into the pixels that PIL and torchvision give,
// bit for bit, and crops them for a model.
//
// The reference is Pillow 9.4 with libjpeg-turbo 2.1: its modes, its refusal of
// truncated files, its bicubic resize.
package img

import (
	"bytes"
	"fmt"
	"os"

	"github.com/evatool/evatool/internal/fault"
)

// MaxPixels is the largest width x height that Decode accepts: the size at
// which PIL raises DecompressionBombError.
const MaxPixels = 2 * 89478485

// Image is a decoded image in PIL's mode.
type Image struct {
	Format  string // JPEG, PNG, WEBP, GIF, BMP, TIFF or PPM
	Decoder string // "go", or the library that decoded a JPEG
	Mode    string // 1, L, LA, P, RGB, RGBA, RGBX, CMYK, I or I;16
	W, H    int
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
	name   string
	match  func(data []byte) bool
	decode func(data []byte) (*Image, error)
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
	{"JPEG", prefix("\xff\xd8\xff"), decodeJPEG},
	{"PNG", prefix("\x89PNG\r\n\x1a\n"), decodePNG},
	{"WEBP", isWebP, decodeWebP},
	{"GIF", prefix("GIF87a", "GIF89a"), decodeGIF},
	{"BMP", prefix("BM"), decodeBMP},
	{"TIFF", prefix("II*\x00", "MM\x00*"), decodeTIFF},
	{"PPM", prefix("P5", "P6"), decodePNM},
}

// maxFile is the largest image file that Open reads, in bytes.
const maxFile = 1 << 30

// Open reads the image file at path; its errors name the file.
func Open(path string) (*Image, error) {
	if err := fault.RegularFile(path, "an image"); err != nil {
		return nil, err
	}
	if st, err := os.Stat(path); err == nil && st.Size() > maxFile {
		return nil, fault.Inputf("%s: %d bytes, over the limit of %d for an image; is it one?", path, st.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.File(path, "an image", err)
	}
	im, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return im, nil
}

// Decode reads a JPEG, PNG, WebP, GIF, BMP, TIFF, PGM or PPM file, recognised by
// its first bytes. Of an animation it reads the first frame. EXIF orientation is
// not applied.
func Decode(data []byte) (im *Image, err error) {
	if len(data) == 0 {
		return nil, fault.Inputf("image is empty (0 bytes); fetch the file again")
	}
	for _, f := range formats {
		if !f.match(data) {
			continue
		}
		// The standard library's decoders are not ours to vouch for.
		defer func() {
			if r := recover(); r != nil {
				im, err = nil, fault.Inputf("%s image is damaged: %v; fetch the file again", f.name, r)
			}
		}()
		if im, err = f.decode(data); err != nil {
			return nil, fault.As(fault.Input, err)
		}
		im.Format = f.name
		if im.Decoder == "" {
			im.Decoder = "go"
		}
		return im, nil
	}
	return nil, fault.Inputf("not an image that evatool reads%s; use JPEG, PNG, WebP, GIF, BMP, TIFF or PPM", looksLike(data))
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
