package img

import (
	"bytes"
	"math"
	"math/rand/v2"
)

// Preprocess is the evaluation transform of CLIP: a resize by Filter, a centre
// crop or a border to Size x Size, and per-channel normalisation.
type Preprocess struct {
	Size      int        // pixels
	Filter    Filter     // Bicubic unless set
	Mean, Std [3]float32 // of values in [0, 1]
	Direct    bool       // resize in the image's own mode, then convert to RGB

	Mode   Mode   // Shortest unless set
	Resize [2]int // height and width that Shortest (both equal) and Squash resize to; zeros: Size
	Floor  bool   // transformers' rounding of half a pixel of a crop or border, not torchvision's
	Fill   byte   // of the border
}

// Mode says what a resize does to the picture's shape.
type Mode int

// OpenCLIP's three modes, and none.
const (
	Shortest Mode = iota // the shorter side to Size
	Longest              // the longer side to Size
	Squash               // both sides to Size, whatever the shape
	AsItIs               // no resize
)

// Modes are the modes by name.
var Modes = map[string]Mode{"shortest": Shortest, "longest": Longest, "squash": Squash, "none": AsItIs}

// Box is a crop: left, top, width and height in pixels.
type Box struct{ X, Y, W, H int }

// scaled is the width and height that a w x h image is resized to.
func (p Preprocess) scaled(w, h int) (rw, rh int) {
	to := p.Resize
	if to == [2]int{} {
		to = [2]int{p.Size, p.Size}
	}
	switch p.Mode {
	case AsItIs:
		return w, h
	case Squash:
		return to[1], to[0]
	case Longest: // OpenCLIP's ResizeKeepRatio
		ratio := max(float64(h)/float64(p.Size), float64(w)/float64(p.Size))
		side := func(n int) int { return max(1, int(math.RoundToEven(float64(n)/ratio))) }
		return side(w), side(h)
	}
	// torchvision's Resize(size) and transformers' shortest_edge.
	size := to[0]
	if w <= h {
		return size, int(float64(size*h) / float64(w))
	}
	return int(float64(size*w) / float64(h)), size
}

// centre is the part of n pixels that a centre crop to size keeps, and the
// border in front of it where there are fewer: torchvision's rounding, or
// transformers' (of its PIL backend).
func (p Preprocess) centre(n int) (s span, border int) {
	if n < p.Size {
		missing := p.Size - n
		if p.Floor {
			missing++
		}
		return span{0, n}, missing / 2
	}
	lo := int(math.RoundToEven(float64(n-p.Size) / 2))
	if p.Floor {
		lo = (n - p.Size) / 2
	}
	return span{lo, lo + p.Size}, 0
}

// Crop makes the square that the model sees: Size x Size.
func (p Preprocess) Crop(im *Image) *RGB {
	rw, rh := p.scaled(im.W, im.H)
	xs, left := p.centre(rw)
	ys, top := p.centre(rh)
	var out *RGB
	if p.Direct {
		out = im.resize(p.Filter, rw, rh, xs, ys).RGB()
	} else {
		c := im.RGB()
		out = &RGB{xs.hi - xs.lo, ys.hi - ys.lo, resize(p.Filter, c.raster(), whole(c.W, c.H), rw, rh, xs, ys)}
	}
	if out.W == p.Size && out.H == p.Size {
		return out
	}
	return out.bordered(p.Size, left, top, p.Fill)
}

// bordered is c in a square of size pixels.
func (c *RGB) bordered(size, left, top int, fill byte) *RGB {
	out := &RGB{size, size, bytes.Repeat([]byte{fill}, size*size*3)}
	for y := range c.H {
		copy(out.Pix[((top+y)*size+left)*3:], c.Pix[y*c.W*3:(y+1)*c.W*3])
	}
	return out
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
