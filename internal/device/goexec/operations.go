//go:build amd64 && goexperiment.simd

package goexec

import (
	"reflect"
	"slices"

	"github.com/gomlx/compute"

	"github.com/evatool/evatool/internal/device/kernels"
)

// executors run a node, or return false before they have changed anything.
var executors = [compute.OpTypeLast]func(c *call) bool{
	compute.OpTypeDotGeneral:     dotGeneral,
	compute.OpTypeConvGeneral:    depthwise,
	compute.OpTypeAdd:            binary(kernels.Add),
	compute.OpTypeSub:            binary(kernels.Sub),
	compute.OpTypeMul:            binary(kernels.Mul),
	compute.OpTypeDiv:            binary(kernels.Div),
	compute.OpTypeExp:            unary(kernels.Exp),
	compute.OpTypeErf:            unary(kernels.Erf),
	compute.OpTypeLogistic:       unary(kernels.Logistic),
	compute.OpTypeFusedGelu:      gelu,
	compute.OpTypeFusedSoftmax:   softmax,
	compute.OpTypeFusedLayerNorm: layerNorm,
	compute.OpTypeReduceSum:      reduceSum,
	compute.OpTypeTranspose:      transpose,
	compute.OpTypeSlice:          slice,
}

// dotGeneral is the backend's normalised product: [B,M,K] by [B,K,N] or [B,N,K].
func dotGeneral(c *call) bool {
	a, ok1 := c.in(0)
	b, ok2 := c.in(1)
	size := func(name string) int { return int(c.field(name).Int()) }
	p := kernels.Product{
		Batch: size("BatchSize"), M: size("LHSCrossSize"), N: size("RHSCrossSize"), K: size("ContractingSize"),
		Transposed: size("Layout") == 1,
	}
	if !ok1 || !ok2 || size("Layout") > 1 || len(a.flat) != p.Batch*p.M*p.K || len(b.flat) != p.Batch*p.N*p.K {
		return false
	}
	out, ok := c.out()
	if ok && len(out.flat) == p.Batch*p.M*p.N {
		c.threads.MatMul(out.flat, a.flat, b.flat, p)
	}
	return true
}

// depthwise is the convolution of [B,H,W,C] with [h,w,1,C] in C groups, without
// dilations.
func depthwise(c *call) bool {
	x, ok1 := c.in(0)
	w, ok2 := c.in(1)
	if !ok1 || !ok2 || len(x.dims) != 4 || len(w.dims) != 4 {
		return false
	}
	channels := x.dims[3]
	at := func(v reflect.Value, i int) int { return int(v.Index(i).Int()) }
	axes := c.field("axes")
	for name, want := range map[string][]int{"InputSpatial": {1, 2}, "KernelSpatial": {0, 1}, "OutputSpatial": {1, 2}} {
		if v := axes.FieldByName(name); v.Len() != 2 || at(v, 0) != want[0] || at(v, 1) != want[1] {
			return false
		}
	}
	for name, want := range map[string]int64{"InputBatch": 0, "InputChannels": 3, "KernelInputChannels": 2, "KernelOutputChannels": 3, "OutputBatch": 0, "OutputChannels": 3} {
		if axes.FieldByName(name).Int() != want {
			return false
		}
	}
	if c.field("channelGroupCount").Int() != int64(channels) || c.field("batchGroupCount").Int() != 1 || w.dims[2] != 1 || w.dims[3] != channels ||
		c.field("hasInputDilations").Bool() || c.field("hasKernelDilations").Bool() {
		return false
	}
	pads, strides := c.field("paddings"), c.field("strides")
	top, left := at(pads.Index(0), 0), at(pads.Index(1), 0)
	if top < 0 || left < 0 {
		return false
	}
	out, ok := c.out()
	if ok && len(out.flat) > 0 {
		c.threads.Depthwise(out.flat, x.flat, w.flat, kernels.Depthwise{
			Batch: x.dims[0], Height: x.dims[1], Width: x.dims[2], Channels: channels, KernelHeight: w.dims[0], KernelWidth: w.dims[1],
			OutHeight: out.dims[1], OutWidth: out.dims[2], Top: top, Left: left, StrideY: at(strides, 0), StrideX: at(strides, 1),
		})
	}
	return true
}

func binary(op kernels.Operator) func(c *call) bool {
	return func(c *call) bool {
		a, ok1 := c.in(0)
		b, ok2 := c.in(1)
		if !ok1 || !ok2 {
			return false
		}
		// A scalar goes with any rank.
		if rank := max(len(a.dims), len(b.dims)); len(a.dims) != len(b.dims) {
			ones := slices.Repeat([]int{1}, rank)
			switch {
			case len(a.flat) == 1 && len(a.dims) < rank:
				a.dims = ones
			case len(b.flat) == 1 && len(b.dims) < rank:
				b.dims = ones
			default:
				return false
			}
		}
		if out, ok := c.out(1, 0); ok {
			c.threads.Binary(op, out.flat, a.flat, b.flat, out.dims, a.dims, b.dims)
		}
		return true
	}
}

func unary(f kernels.Function) func(c *call) bool {
	return func(c *call) bool {
		x, ok := c.in(0)
		if !ok {
			return false
		}
		if out, ok := c.out(0); ok {
			c.threads.Map(out.flat, x.flat, f)
		}
		return true
	}
}

func gelu(c *call) bool { return c.field("exact").Bool() && unary(kernels.Gelu)(c) }

func softmax(c *call) bool {
	x, ok := c.in(0)
	if !ok || len(x.flat) == 0 || int(c.field("axis").Int()) != len(x.dims)-1 {
		return false
	}
	if out, ok := c.out(0); ok {
		c.threads.Softmax(out.flat, x.flat, x.dims[len(x.dims)-1])
	}
	return true
}

func layerNorm(c *call) bool {
	x, ok := c.in(0)
	axes := c.field("axes")
	if !ok || len(x.flat) == 0 || axes.Len() != 1 || int(axes.Index(0).Int()) != len(x.dims)-1 {
		return false
	}
	n := x.dims[len(x.dims)-1]
	var vectors [2][]float32 // gamma and beta
	for i := 1; i < len(c.inputs); i++ {
		v, ok := c.in(i)
		if !ok || len(v.flat) != n {
			return false
		}
		vectors[i-1] = v.flat
	}
	if out, ok := c.out(0); ok {
		c.threads.LayerNorm(out.flat, x.flat, vectors[0], vectors[1], n, c.field("epsilon").Float())
	}
	return true
}

// reduceSum handles axes that are neighbours, apart from those of length 1.
func reduceSum(c *call) bool {
	x, ok := c.in(0)
	axes, isInts := c.data().([]int)
	if !ok || !isInts || len(x.flat) == 0 {
		return false
	}
	outer, n, inner := 1, 1, 1
	started, ended := len(axes) == 0, false
	for i, d := range x.dims {
		summed := len(axes) == 0 || slices.Contains(axes, i)
		switch {
		case d == 1:
		case summed && ended:
			return false
		case summed:
			started = true
			n *= d
		case started:
			ended = true
			inner *= d
		default:
			outer *= d
		}
	}
	if out, ok := c.out(); ok {
		c.threads.ReduceSum(out.flat, x.flat, outer, n, inner)
	}
	return true
}

func transpose(c *call) bool {
	x, ok := c.in(0)
	perm, isInts := c.data().([]int)
	if !ok || !isInts {
		return false
	}
	if out, ok := c.out(); ok {
		c.threads.Transpose(out.flat, x.flat, x.dims, perm)
	}
	return true
}

func slice(c *call) bool {
	x, ok := c.in(0)
	starts, strides := c.field("starts"), c.field("strides")
	if !ok || len(x.dims) == 0 || starts.Len() != len(x.dims) || strides.Len() != len(x.dims) {
		return false
	}
	from := make([]int, len(x.dims))
	for i := range from {
		from[i] = int(starts.Index(i).Int())
		if strides.Index(i).Int() != 1 {
			return false
		}
	}
	if out, ok := c.out(); ok && len(out.flat) > 0 {
		c.threads.Slice(out.flat, x.flat, out.dims, x.dims, from)
	}
	return true
}
