// Package img turns image files into the pixels that PIL and torchvision give,
// bit for bit, and crops them for a model.
package img

import (
	"math/rand/v2"

	"github.com/evatool/evatool/internal/fault"
)

// Image is a decoded image in PIL's mode: 1, L, LA, P, RGB, RGBA, I, I;16 or CMYK.
type Image struct {
	Mode string
	W, H int
}

// RGB is 8-bit RGB, interleaved, row by row.
type RGB struct {
	W, H int
	Pix  []byte
}

// Decode reads a JPEG, PNG, WebP, GIF, BMP or TIFF file, recognised by content.
func Decode(data []byte) (*Image, error) { return nil, fault.Envf("img: not there yet") }

// RGB is PIL's convert("RGB").
func (im *Image) RGB() *RGB { return nil }

// Preprocess is the evaluation transform: shorter side to Size, centre crop.
type Preprocess struct {
	Size      int
	Mean, Std [3]float32
	Direct    bool // resize in the image's own mode, then convert to RGB
}

// Crop resizes the shorter side to Size and cuts the centre square.
func (p Preprocess) Crop(im *Image) *RGB { return nil }

// ToCHW writes the normalised float tensor [3,H,W] of c to dst.
func ToCHW(dst []float32, c *RGB, mean, std [3]float32) {}

// ResizeBicubic is PIL's Image.resize((w, h), BICUBIC, box); box is left, top, right, bottom.
func ResizeBicubic(src *RGB, box [4]float64, w, h int) *RGB { return nil }

// Box is a crop: left, top, width, height in pixels.
type Box struct{ X, Y, W, H int }

// SampleBox draws torchvision's RandomResizedCrop box.
func SampleBox(rng *rand.Rand, w, h int, scale, ratio [2]float64) Box { return Box{W: w, H: h} }

// RandomResizedCrop cuts b out of src and resizes it to size x size.
func RandomResizedCrop(src *RGB, b Box, size int) *RGB { return nil }

// FlipH mirrors left and right, in place.
func (c *RGB) FlipH() {}

// JPEGDecoder names what decodes JPEG here: a libjpeg-turbo library or "go".
func JPEGDecoder() string { return "go" }
