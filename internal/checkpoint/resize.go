package checkpoint

import (
	"fmt"
	"math"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// method is how one of the reference implementations interpolates a position
// embedding. All are bicubic.
type method struct {
	name         string
	alignCorners bool
	antialias    bool
	kernel       bool // the patch kernel is resized too
}

// methods by the name that Resize takes.
var methods = map[string]method{
	"eva":      {name: "eva", kernel: true},            // rei/eva_clip: resize_eva_pos_embed
	"clip-rei": {name: "clip-rei", alignCorners: true}, // rei/eva_clip: resize_clip_pos_embed
	"openclip": {name: "openclip", antialias: true},    // open_clip: resize_pos_embed; timm
}

// resize interpolates a tensor to another grid.
type resize struct {
	method   method
	from     []int64 // shape
	kernel   bool    // a patch kernel [width, 3, p, p]; else a position embedding [(1,) (1+)n·n, width]
	in, out  int     // grid or kernel side
	channels int     // width of a position embedding
	class    int     // class tokens before the grid, 0 or 1
}

// planResize decides how the item gets the shape to, or returns an error if it
// cannot.
func planResize(it *Item, to []int64, m method) (*resize, error) {
	from := it.Out.Shape
	errShape := fault.Inputf("%s cannot be resized from %v to %v", it.EVA, from, to)
	if len(from) != len(to) || len(from) < 2 || !it.Out.DType.IsFloat() || it.transpose || len(it.parts) != 1 {
		return nil, errShape
	}
	r := &resize{method: m, from: from}
	n := len(from)
	switch {
	case strings.HasSuffix(it.EVA, "pos_embed") || strings.HasPrefix(it.EVA, "visual.") && strings.HasSuffix(it.EVA, "positional_embedding"):
		var class int
		r.in, r.class = grid(from[n-2])
		r.out, class = grid(to[n-2])
		r.channels = int(from[n-1])
		if class != r.class || from[n-1] != to[n-1] || n == 3 && (from[0] != 1 || to[0] != 1) || n > 3 {
			return nil, errShape
		}
	case it.EVA == "visual.patch_embed.proj.weight" && m.kernel && n == 4:
		r.kernel, r.in, r.out = true, int(from[3]), int(to[3])
		if from[0] != to[0] || from[1] != to[1] || from[2] != from[3] || to[2] != to[3] {
			return nil, errShape
		}
	}
	if r.in < 1 || r.out < 1 {
		return nil, errShape
	}
	return r, nil
}

// grid returns the side of a square grid of patches, with or without a leading
// class token; 0 if tokens is neither.
func grid(tokens int64) (side, class int) {
	for class := range int64(2) {
		n := int64(math.Round(math.Sqrt(float64(tokens - class))))
		if n >= 1 && n*n == tokens-class {
			return int(n), int(class)
		}
	}
	return 0, 0
}

func (r *resize) grids() [2]string {
	return [2]string{fmt.Sprintf("%dx%d", r.in, r.in), fmt.Sprintf("%dx%d", r.out, r.out)}
}

// onlyKernel refuses a patch kernel of another size on the same grid: the original
// resizes the kernel only together with the grid, so the file is of another model.
func onlyKernel(items []*Item) error {
	var kernel *Item
	for _, it := range items {
		if it.resize != nil && !it.resize.kernel {
			return nil
		}
		if it.resize != nil {
			kernel = it
		}
	}
	if kernel == nil {
		return nil
	}
	return fault.Inputf("%s (%s) has patches of %s pixels, but the architecture wants %s on the same grid; give the Options.Config that the file was made for", kernel.parts[0].src.Name, kernel.EVA, kernel.resize.grids()[0], kernel.resize.grids()[1])
}

// apply interpolates x, which has the shape r.from, in float64.
func (r *resize) apply(x []float32) []float32 {
	taps := r.method.taps(r.in, r.out)
	if r.kernel {
		planes := len(x) / (r.in * r.in)
		y := make([]float32, 0, planes*r.out*r.out)
		for p := range planes {
			y = append(y, interpolate(x[p*r.in*r.in:(p+1)*r.in*r.in], taps, r.in, r.out, 1)...)
		}
		return y
	}
	// The class token stays.
	first := r.class * r.channels
	return append(append([]float32{}, x[:first]...), interpolate(x[first:], taps, r.in, r.out, r.channels)...)
}

// tap is a source position and its weight.
type tap struct {
	index  int
	weight float64
}

// interpolate scales a square image [in, in, c] to [out, out, c].
func interpolate(x []float32, taps [][]tap, in, out, c int) []float32 {
	rows := make([]float64, in*out*c) // [in, out, c]
	for y := range in {
		for ox := range out {
			dst := rows[(y*out+ox)*c:][:c]
			for _, t := range taps[ox] {
				for i, v := range x[(y*in+t.index)*c:][:c] {
					dst[i] += t.weight * float64(v)
				}
			}
		}
	}
	z := make([]float32, out*out*c)
	col := make([]float64, c)
	for oy := range out {
		for ox := range out {
			clear(col)
			for _, t := range taps[oy] {
				for i, v := range rows[(t.index*out+ox)*c:][:c] {
					col[i] += t.weight * v
				}
			}
			for i, v := range col {
				z[(oy*out+ox)*c+i] = float32(v)
			}
		}
	}
	return z
}

// taps are, for every output position, the input positions and weights of
// PyTorch's bicubic interpolation: Keys' kernel with a = -0.75, or -0.5 with
// antialias (ATen, UpSample.h and UpSampleKernel.cpp).
func (m method) taps(in, out int) [][]tap {
	all := make([][]tap, out)
	for i := range all {
		if m.antialias {
			all[i] = antialiased(i, in, out)
			continue
		}
		var pos float64
		switch {
		case !m.alignCorners:
			pos = (float64(i)+0.5)*float64(in)/float64(out) - 0.5
		case out > 1:
			pos = float64(i) * float64(in-1) / float64(out-1)
		}
		base := math.Floor(pos)
		for k := -1; k <= 2; k++ {
			j := base + float64(k)
			all[i] = append(all[i], tap{min(max(int(j), 0), in-1), keys(pos-j, -0.75)})
		}
	}
	return all
}

// antialiased widens the kernel when shrinking and renormalises the weights.
func antialiased(i, in, out int) []tap {
	scale := float64(in) / float64(out)
	stretch := max(scale, 1)
	centre := scale * (float64(i) + 0.5)
	lo := max(int(centre-2*stretch+0.5), 0)
	hi := min(int(centre+2*stretch+0.5), in)
	var taps []tap
	sum := 0.0
	for j := lo; j < hi; j++ {
		w := keys((float64(j)-centre+0.5)/stretch, -0.5)
		taps = append(taps, tap{j, w})
		sum += w
	}
	for k := range taps {
		taps[k].weight /= sum
	}
	return taps
}

// keys is the cubic convolution kernel of R. Keys (1981).
func keys(x, a float64) float64 {
	switch x = math.Abs(x); {
	case x < 1:
		return ((a+2)*x-(a+3))*x*x + 1
	case x < 2:
		return ((a*x-5*a)*x+8*a)*x - 4*a
	}
	return 0
}
