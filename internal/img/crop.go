package img

import (
	"math"
	"math/rand/v2"
)

// Preprocess is the evaluation transform of CLIP: the shorter side to Size by
// Filter, a centre crop of Size x Size, and per-channel normalisation.
type Preprocess struct {
	Size      int        // pixels
	Filter    Filter     // Bicubic unless set
	Mean, Std [3]float32 // of values in [0, 1]
	Direct    bool       // resize in the image's own mode, then convert to RGB
}

// Box is a crop: left, top, width and height in pixels.
type Box struct{ X, Y, W, H int }

// shorterSide is torchvision's Resize(size) and CenterCrop(size): the resized
// width and height, and the window that the crop keeps.
func shorterSide(w, h, size int) (rw, rh int, xs, ys span) {
	rw, rh = size, size
	if w <= h {
		rh = int(float64(size*h) / float64(w))
	} else {
		rw = int(float64(size*w) / float64(h))
	}
	x := int(math.RoundToEven(float64(rw-size) / 2))
	y := int(math.RoundToEven(float64(rh-size) / 2))
	return rw, rh, span{x, x + size}, span{y, y + size}
}

// Crop resizes the shorter side to p.Size and cuts the centre square.
func (p Preprocess) Crop(im *Image) *RGB {
	rw, rh, xs, ys := shorterSide(im.W, im.H, p.Size)
	if p.Direct {
		return im.resize(p.Filter, rw, rh, xs, ys).RGB()
	}
	c := im.RGB()
	return &RGB{p.Size, p.Size, resize(p.Filter, c.raster(), whole(c.W, c.H), rw, rh, xs, ys)}
}

func whole(w, h int) [4]float32 { return [4]float32{0, 0, float32(w), float32(h)} }

func (c *RGB) raster() raster { return raster{c.Pix, c.W, c.H, 3, c.W * 3} }

// Resize is PIL's Image.resize((w, h), by, box). box is left, top, right and
// bottom in source pixels, inside the image.
func Resize(src *RGB, by Filter, box [4]float64, w, h int) *RGB {
	b := [4]float32{float32(box[0]), float32(box[1]), float32(box[2]), float32(box[3])}
	return &RGB{w, h, resize(by, src.raster(), b, w, h, span{0, w}, span{0, h})}
}

// RandomResizedCrop cuts b out of src and resizes the cut to size x size, as
// torchvision's resized_crop does on a PIL image.
func RandomResizedCrop(src *RGB, b Box, size int) *RGB {
	cut := raster{src.Pix[(b.Y*src.W+b.X)*3:], b.W, b.H, 3, src.W * 3}
	return &RGB{size, size, resize(Bicubic, cut, whole(b.W, b.H), size, size, span{0, size}, span{0, size})}
}

// SampleBox draws a crop of a w x h image as torchvision's
// RandomResizedCrop.get_params: an area from scale, a log-uniform aspect from
// ratio, ten tries, then the largest centred box whose aspect is in ratio.
func SampleBox(rng *rand.Rand, w, h int, scale, ratio [2]float64) Box {
	area := float64(w * h)
	lo, hi := math.Log(ratio[0]), math.Log(ratio[1])
	for range 10 {
		target := area * (scale[0] + rng.Float64()*(scale[1]-scale[0]))
		aspect := math.Exp(lo + rng.Float64()*(hi-lo))
		bw := int(math.RoundToEven(math.Sqrt(target * aspect)))
		bh := int(math.RoundToEven(math.Sqrt(target / aspect)))
		if bw > 0 && bw <= w && bh > 0 && bh <= h {
			y := rng.IntN(h - bh + 1)
			return Box{X: rng.IntN(w - bw + 1), Y: y, W: bw, H: bh}
		}
	}
	bw, bh := w, h
	switch in := float64(w) / float64(h); {
	case in < ratio[0]:
		bh = int(math.RoundToEven(float64(w) / ratio[0]))
	case in > ratio[1]:
		bw = int(math.RoundToEven(float64(h) * ratio[1]))
	}
	bw, bh = max(1, min(bw, w)), max(1, min(bh, h))
	return Box{(w - bw) / 2, (h - bh) / 2, bw, bh}
}

// FlipH mirrors left and right, in place.
func (c *RGB) FlipH() {
	for y := range c.H {
		row := c.Pix[y*c.W*3 : (y+1)*c.W*3]
		for l, r := 0, len(row)-3; l < r; l, r = l+3, r-3 {
			row[l], row[r] = row[r], row[l]
			row[l+1], row[r+1] = row[r+1], row[l+1]
			row[l+2], row[r+2] = row[r+2], row[l+2]
		}
	}
}

// ToCHW writes torchvision's ToTensor and Normalize of c to dst, which has room
// for [3,H,W]: (x/255 - mean)/std with every step rounded to float32.
func ToCHW(dst []float32, c *RGB, mean, std [3]float32) {
	n := c.W * c.H
	var lut [3][256]float32
	for ch := range lut {
		for v := range lut[ch] {
			x := float32(v) / 255
			lut[ch][v] = float32(x-mean[ch]) / std[ch]
		}
	}
	pix := c.Pix[:n*3]
	r, g, b := dst[:n], dst[n:2*n], dst[2*n:3*n]
	for i := range r {
		r[i] = lut[0][pix[3*i]]
		g[i] = lut[1][pix[3*i+1]]
		b[i] = lut[2][pix[3*i+2]]
	}
}
