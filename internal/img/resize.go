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
	Nearest
	Lanczos
	BoxFilter
	Hamming
)

// Filters are the filters by name.
var Filters = map[string]Filter{
	"bicubic": Bicubic, "bilinear": Bilinear, "nearest": Nearest, "lanczos": Lanczos, "box": BoxFilter, "hamming": Hamming,
}

// kernels are the filters' weights by distance, and the distance where they end;
// nearest has none.
var kernels = [...]struct {
	weight  func(x float64) float64
	support float64
}{
	Bicubic:   {bicubic, 2},
	Bilinear:  {triangle, 1},
	Lanczos:   {lanczos, 3},
	BoxFilter: {box, 0.5},
	Hamming:   {hamming, 1},
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}

func lanczos(x float64) float64 {
	if x < -3 || x >= 3 {
		return 0
	}
	return sinc(x) * sinc(x/3)
}

func box(x float64) float64 {
	if x > -0.5 && x <= 0.5 {
		return 1
	}
	return 0
}

// hamming has Pillow's constants, which are of single precision.
func hamming(x float64) float64 {
	x = math.Abs(x)
	switch {
	case x == 0:
		return 1
	case x >= 1:
		return 0
	}
	x *= math.Pi
	return math.Sin(x) / x * (float64(float32(0.54)) + float64(float64(float32(0.46))*math.Cos(x)))
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
	if by == Nearest {
		return nearestWeights(inSize, in0, in1, outSize, s)
	}
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

// nearestWeights gives each output one input, with a weight of 1.
func nearestWeights(inSize int, in0, in1 float32, outSize int, s span) *weights {
	f := &weights{size: 1}
	for _, x := range nearestIndex(inSize, in0, in1, outSize, s) {
		f.start, f.n = append(f.start, int32(x)), append(f.n, 1)
		f.k, f.f = append(f.k, 1<<precision), append(f.f, 1)
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

// recycle gives a buffer back; a very large one is not kept.
func recycle(b *[]byte) {
	if cap(*b) <= 4<<20 {
		pool.Put(b)
	}
}

func buffer(n int) *[]byte {
	b := pool.Get().(*[]byte)
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}

// resize gives the window xs x ys of Pillow's resize of src to w x h. box is
// left, top, right, bottom in source pixels.
func resize(by Filter, src raster, box [4]float32, w, h int, xs, ys span) []byte {
	r := newResizer(by, src.w, src.h, src.c, box, w, h, xs, ys)
	r.add(0, src.pix, src.stride, src.h)
	return r.out
}

// resizer gives a window of Pillow's resize of a picture whose rows come one
// after another. It computes what the window needs, and keeps of the rows,
// resized horizontally, those that the next output rows are made of.
type resizer struct {
	c      int // samples to a pixel
	xs, ys span
	rows   span     // of the source: those that are needed
	h, v   *weights // nil: this pass changes nothing
	words  []byte   // of h, for the vector code
	stride int      // of mid
	mid    []byte
	first  int // the source row that mid starts with
	have   int // rows in mid
	next   int // output row
	out    []byte
}

// ahead is how many rows a resizer keeps beyond those of an output row.
const ahead = 256

func newResizer(by Filter, sw, sh, c int, box [4]float32, w, h int, xs, ys span) *resizer {
	ow, oh := xs.hi-xs.lo, ys.hi-ys.lo
	r := &resizer{c: c, xs: xs, ys: ys, rows: ys, stride: ow*c + 1, out: make([]byte, ow*oh*c)}
	if w != sw || box[0] != 0 || box[2] != float32(w) {
		r.h = newWeights(by, sw, box[0], box[2], w, xs)
		if c == 3 {
			r.words = r.h.words()
		}
	}
	taps := 1
	if h != sh || box[1] != 0 || box[3] != float32(h) {
		r.v = newWeights(by, sh, box[1], box[3], h, ys)
		r.rows = span{int(r.v.start[0]), int(r.v.start[oh-1] + r.v.n[oh-1])}
		taps = r.v.size
	}
	r.first = r.rows.lo
	r.mid = make([]byte, min(r.rows.hi-r.rows.lo, taps+ahead)*r.stride)
	return r
}

// add takes n rows of the source from row y on, the next of those before. The
// vector code may read what follows them in pix.
func (r *resizer) add(y int, pix []byte, stride, n int) {
	if skip := r.first + r.have - y; skip > 0 {
		if skip >= n {
			return
		}
		pix, n = pix[skip*stride:], n-skip
	}
	n = min(n, r.rows.hi-r.first-r.have)
	for n > 0 && r.next < r.ys.hi-r.ys.lo {
		k := min(n, len(r.mid)/r.stride-r.have)
		if k == 0 {
			r.drop()
			continue
		}
		r.horizontal(r.mid[r.have*r.stride:], pix, stride, k)
		r.have += k
		if n -= k; n > 0 {
			pix = pix[k*stride:]
		}
		r.emit()
	}
}

// drop forgets the rows that no output row needs any more.
func (r *resizer) drop() {
	from := r.next + r.ys.lo
	if r.v != nil {
		from = int(r.v.start[r.next])
	}
	n := min(from-r.first, r.have)
	copy(r.mid, r.mid[n*r.stride:r.have*r.stride])
	r.first, r.have = r.first+n, r.have-n
}

func (r *resizer) horizontal(dst, src []byte, stride, n int) {
	row := (r.xs.hi - r.xs.lo) * r.c
	done := 0
	if r.words != nil {
		done = horizontalRows(dst, r.stride, src, stride, n, r.h, r.words)
	}
	for y := done; y < n; y++ {
		if r.h != nil {
			horizontalPass(dst[y*r.stride:y*r.stride+row], src[y*stride:], r.h, r.c)
		} else {
			copy(dst[y*r.stride:y*r.stride+row], src[y*stride+r.xs.lo*r.c:])
		}
	}
}

// emit makes the output rows for which there is enough.
func (r *resizer) emit() {
	row := (r.xs.hi - r.xs.lo) * r.c
	for ; r.next < r.ys.hi-r.ys.lo; r.next++ {
		dst := r.out[r.next*row : (r.next+1)*row]
		if r.v == nil {
			y := r.next + r.ys.lo - r.first
			if y >= r.have {
				return
			}
			copy(dst, r.mid[y*r.stride:])
			continue
		}
		y, n := int(r.v.start[r.next])-r.first, int(r.v.n[r.next])
		if y+n > r.have {
			return
		}
		k := r.v.k[r.next*r.v.size:][:n]
		from := r.mid[y*r.stride:]
		x := verticalColumns(dst, from, r.stride, k)
		verticalPass(dst[x:], from[x:], r.stride, k)
	}
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
