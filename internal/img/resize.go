package img

import (
	"math"
	"sync"
)

// The resampler is Pillow's (libImaging/Resample.c): a separable filter whose
// support grows when shrinking, a horizontal and then a vertical pass, each
// rounded to 8 bits, with 22-bit fixed-point coefficients.

const precision = 32 - 8 - 2 // bits of a coefficient after the binary point

// raster is 8-bit samples, c to a pixel.
type raster struct {
	pix     []byte
	w, h, c int
	stride  int // bytes from row to row
}

// span is the half-open interval of output columns or rows that is wanted.
type span struct{ lo, hi int }

// weights holds, for every output position of a span, the first input position
// and its weights.
type weights struct {
	start, n []int32
	k        []int32   // fixed point, size per output position
	f        []float64 // the same before rounding
	size     int
}

// Filter is how a resize weighs the pixels around a point.
type Filter int

// Pillow's filters of these names.
const (
	Bicubic Filter = iota
	Bilinear
)

// kernels are the filters' weights by distance, and the distance where they end.
var kernels = [...]struct {
	weight  func(x float64) float64
	support float64
}{
	Bicubic:  {bicubic, 2},
	Bilinear: {triangle, 1},
}

func triangle(x float64) float64 { return max(0, 1-math.Abs(x)) }

// bicubic has a = -0.5. The explicit conversions forbid fused multiply-adds,
// which would round differently.
func bicubic(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return float64(float64((float64((a+2)*x)-(a+3))*x)*x) + 1
	case x < 2:
		return float64(float64(float64(float64((x-5)*x)+8)*x)-4) * a
	}
	return 0
}

// newWeights is precompute_coeffs and normalize_coeffs_8bpc, for outputs in s only.
func newWeights(by Filter, inSize int, in0, in1 float32, outSize int, s span) *weights {
	kernel := kernels[by]
	scale := float64(in1-in0) / float64(outSize)
	filterScale := max(scale, 1)
	support := float64(kernel.support * filterScale)
	inv := 1 / filterScale
	count := s.hi - s.lo
	f := &weights{start: make([]int32, count), n: make([]int32, count), size: int(math.Ceil(support))*2 + 1}
	// No output needs more weights than there are inputs.
	f.size = min(f.size, inSize)
	f.k = make([]int32, count*f.size)
	f.f = make([]float64, count*f.size)
	for i := range count {
		center := float64(in0) + float64((float64(s.lo+i)+0.5)*scale)
		lo := max(int(center-support+0.5), 0)
		hi := min(int(center+support+0.5), inSize)
		w := f.f[i*f.size : i*f.size+hi-lo]
		sum := 0.0
		for x := range w {
			w[x] = kernel.weight((float64(x+lo) - center + 0.5) * inv)
			sum += w[x]
		}
		for x := range w {
			if sum != 0 {
				w[x] /= sum
			}
			f.k[i*f.size+x] = int32(math.Copysign(0.5, w[x]) + float64(w[x]*(1<<precision)))
		}
		f.start[i], f.n[i] = int32(lo), int32(hi-lo)
	}
	return f
}

func clip8(v int32) byte {
	v >>= precision
	if uint32(v) > 255 {
		return byte(^(v >> 31)) // 0 below, 255 above
	}
	return byte(v)
}

// pool keeps the buffers between the passes.
var pool = sync.Pool{New: func() any { return new([]byte) }}

func buffer(n int) *[]byte {
	b := pool.Get().(*[]byte)
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}

// resize gives the window xs x ys of Pillow's resize of src to w x h. box is
// left, top, right, bottom in source pixels. Only what the window needs is
// computed.
func resize(by Filter, src raster, box [4]float32, w, h int, xs, ys span) []byte {
	ow, oh, c := xs.hi-xs.lo, ys.hi-ys.lo, src.c
	out := make([]byte, ow*oh*c)
	horizontal := w != src.w || box[0] != 0 || box[2] != float32(w)
	vertical := h != src.h || box[1] != 0 || box[3] != float32(h)

	rows := ys // source rows that are read
	var v *weights
	if vertical {
		v = newWeights(by, src.h, box[1], box[3], h, ys)
		last := oh - 1
		rows = span{int(v.start[0]), int(v.start[last] + v.n[last])}
	}
	n := rows.hi - rows.lo
	mid, stride := src.pix[rows.lo*src.stride:], src.stride // what the vertical pass reads
	if horizontal {
		f := newWeights(by, src.w, box[0], box[2], w, xs)
		stride = ow*c + 1
		b := buffer(n * stride)
		defer pool.Put(b)
		done := 0
		if c == 3 {
			done = horizontalRows(*b, stride, mid, src.stride, n, f)
		}
		for y := done; y < n; y++ {
			horizontalPass((*b)[y*stride:y*stride+ow*c], mid[y*src.stride:], f, c)
		}
		mid = *b
	} else {
		mid = mid[xs.lo*c:]
	}
	for y := range oh {
		dst := out[y*ow*c : (y+1)*ow*c]
		if !vertical {
			copy(dst, mid[y*stride:])
			continue
		}
		k := v.k[y*v.size : y*v.size+int(v.n[y])]
		from := mid[(int(v.start[y])-rows.lo)*stride:]
		x := verticalColumns(dst, from, stride, k)
		verticalPass(dst[x:], from[x:], stride, k)
	}
	return out
}

func horizontalPass(dst, src []byte, f *weights, c int) {
	for i := range f.start {
		k := f.k[i*f.size : i*f.size+int(f.n[i])]
		s := src[int(f.start[i])*c:]
		if c == 3 {
			r, g, b := int32(1<<(precision-1)), int32(1<<(precision-1)), int32(1<<(precision-1))
			for x, w := range k {
				p := s[3*x : 3*x+3 : 3*x+3]
				r += int32(p[0]) * w
				g += int32(p[1]) * w
				b += int32(p[2]) * w
			}
			dst[3*i], dst[3*i+1], dst[3*i+2] = clip8(r), clip8(g), clip8(b)
			continue
		}
		for ch := range c {
			acc := int32(1 << (precision - 1))
			for x, w := range k {
				acc += int32(s[x*c+ch]) * w
			}
			dst[i*c+ch] = clip8(acc)
		}
	}
}

func verticalPass(dst, src []byte, stride int, k []int32) {
	for x := range dst {
		acc := int32(1 << (precision - 1))
		p := x
		for _, w := range k {
			acc += int32(src[p]) * w
			p += stride
		}
		dst[x] = clip8(acc)
	}
}
