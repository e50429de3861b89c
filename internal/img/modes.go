package img

import "math"

// RGB is PIL's convert("RGB"). For an image of mode RGB the pixels are shared.
func (im *Image) RGB() *RGB {
	out := &RGB{im.W, im.H, im.Pix}
	if im.Mode != "RGB" {
		out.Pix = make([]byte, im.W*im.H*3)
		toRGB[im.Mode](out.Pix, im)
	}
	return out
}

// toRGB writes the RGB samples of an image, by its mode (libImaging/Convert.c).
var toRGB = map[string]func(dst []byte, im *Image){
	"1": grayToRGB,
	"L": grayToRGB,
	"LA": func(dst []byte, im *Image) {
		for i := range len(dst) / 3 {
			v := im.Pix[2*i]
			dst[3*i], dst[3*i+1], dst[3*i+2] = v, v, v
		}
	},
	"P": func(dst []byte, im *Image) {
		for i, v := range im.Pix {
			copy(dst[3*i:3*i+3], im.Palette[3*int(v):])
		}
	},
	"RGBA": dropFourth,
	"RGBX": dropFourth,
	"CMYK": func(dst []byte, im *Image) {
		for i := range len(dst) / 3 {
			nk := 255 - int(im.Pix[4*i+3])
			for c := range 3 {
				dst[3*i+c] = byte(max(0, nk-mulDiv255(int(im.Pix[4*i+c]), nk)))
			}
		}
	},
	"I":    intToRGB,
	"I;16": intToRGB,
}

func dropFourth(dst []byte, im *Image) {
	for i := range len(dst) / 3 {
		copy(dst[3*i:3*i+3], im.Pix[4*i:])
	}
}

func grayToRGB(dst []byte, im *Image) {
	for i, v := range im.Pix {
		dst[3*i], dst[3*i+1], dst[3*i+2] = v, v, v
	}
}

// intToRGB clips at 255, as PIL does: 16-bit images are not scaled.
func intToRGB(dst []byte, im *Image) {
	for i, v := range im.Int {
		b := byte(max(0, min(255, v)))
		dst[3*i], dst[3*i+1], dst[3*i+2] = b, b, b
	}
}

func mulDiv255(a, b int) int {
	t := a*b + 128
	return (t>>8 + t) >> 8
}

// channels is the number of interleaved 8-bit samples of the modes that have them.
var channels = map[string]int{"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "RGBX": 4, "CMYK": 4}

// sampleBytes is what a pixel takes in memory.
func sampleBytes(mode string) int {
	if c := channels[mode]; c > 0 {
		return c
	}
	return 4
}

// resize gives a window of PIL's resize((w, h), by) in the image's own
// mode: nearest for 1 and P, premultiplied for LA and RGBA, 32-bit for I.
func (im *Image) resize(by Filter, w, h int, xs, ys span) *Image {
	out := &Image{Mode: im.Mode, W: xs.hi - xs.lo, H: ys.hi - ys.lo, Palette: im.Palette}
	same := w == im.W && h == im.H
	switch {
	case im.Int != nil:
		out.Int = resizeInt(by, im.Int, im.W, im.H, w, h, xs, ys)
	case (im.Mode == "1" || im.Mode == "P") && !same:
		out.Pix = nearest(im, w, h, xs, ys)
	case (im.Mode == "LA" || im.Mode == "RGBA") && !same && by != Nearest:
		c := channels[im.Mode]
		pre := raster{premultiply(im.Pix, c), im.W, im.H, c, im.W * c}
		out.Pix = resize(by, pre, whole(im.W, im.H), w, h, xs, ys)
		unpremultiply(out.Pix, c)
	default:
		c := channels[im.Mode]
		out.Pix = resize(by, raster{im.Pix, im.W, im.H, c, im.W * c}, whole(im.W, im.H), w, h, xs, ys)
	}
	return out
}

func premultiply(pix []byte, c int) []byte {
	out := make([]byte, len(pix))
	for i := 0; i < len(pix); i += c {
		a := pix[i+c-1]
		for j := range c - 1 {
			out[i+j] = byte(mulDiv255(int(pix[i+j]), int(a)))
		}
		out[i+c-1] = a
	}
	return out
}

func unpremultiply(pix []byte, c int) {
	for i := 0; i < len(pix); i += c {
		a := int(pix[i+c-1])
		if a == 0 || a == 255 {
			continue
		}
		for j := range c - 1 {
			pix[i+j] = byte(min(255, 255*int(pix[i+j])/a))
		}
	}
}

// nearest is ImagingScaleAffine, whose coordinates are sums, not products.
func nearest(im *Image, w, h int, xs, ys span) []byte {
	column, row := nearestIndex(im.W, 0, float32(im.W), w, xs), nearestIndex(im.H, 0, float32(im.H), h, ys)
	out := make([]byte, 0, len(column)*len(row))
	for _, y := range row {
		for _, x := range column {
			out = append(out, im.Pix[y*im.W+x])
		}
	}
	return out
}

// nearestIndex is the input of every output of s, of those from in0 to in1.
func nearestIndex(inSize int, in0, in1 float32, outSize int, s span) []int {
	step := float64(in1-in0) / float64(outSize)
	pos := float64(in0) + float64(step*0.5)
	index := make([]int, 0, s.hi-s.lo)
	for i := range s.hi {
		if i >= s.lo {
			index = append(index, min(int(pos), inSize-1))
		}
		pos += step
	}
	return index
}

// resizeInt is the resampler for 32-bit samples: the same two passes with
// unrounded weights and a rounding to integers after each.
func resizeInt(by Filter, src []int32, w, h, ow, oh int, xs, ys span) []int32 {
	rows := span{0, h}
	if oh == h {
		rows = ys
	}
	mid, n := make([]int32, 0, (xs.hi-xs.lo)*(rows.hi-rows.lo)), xs.hi-xs.lo
	f := newWeights(by, w, 0, float32(w), ow, xs)
	for y := rows.lo; y < rows.hi; y++ {
		row := src[y*w : (y+1)*w]
		if ow == w {
			mid = append(mid, row[xs.lo:xs.hi]...)
			continue
		}
		for i := range f.start {
			mid = append(mid, dotInt(row[f.start[i]:], 1, f.f[i*f.size:i*f.size+int(f.n[i])]))
		}
	}
	if oh == h {
		return mid
	}
	out := make([]int32, 0, n*(ys.hi-ys.lo))
	f = newWeights(by, h, 0, float32(h), oh, ys)
	for i := range f.start {
		for x := range n {
			out = append(out, dotInt(mid[int(f.start[i])*n+x:], n, f.f[i*f.size:i*f.size+int(f.n[i])]))
		}
	}
	return out
}

func dotInt(s []int32, stride int, k []float64) int32 {
	sum := 0.0
	for i, w := range k {
		sum += float64(float64(s[i*stride]) * w)
	}
	// The reference adds half and floors; RoundToEven and Round differ at ties.
	if sum >= 0 {
		return int32(math.Floor(sum + 0.5))
	}
	return int32(-math.Floor(-sum + 0.5))
}
