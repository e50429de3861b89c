package clip

import (
	"github.com/evatool/evatool/internal/device"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors/images"
)

// Feature maps have their channels last here: [B,H,W,C].

// channelsLast is images [B,C,H,W] as a map.
func channelsLast(images *Node) *Node { return graph.TransposeAllAxes(images, 0, 2, 3, 1) }

// convolve is torch's Conv2d with the weights NAME.weight [out,in/groups,k,k] and,
// where the model has it, NAME.bias: dense, or one input channel for each output
// channel. pad rows and columns of zeros are added on every side.
func (t *tower) convolve(x *Node, name string, stride, pad int) *Node {
	w := t.cast(name + ".weight")
	var y *Node
	if w.Shape().Dim(1) == 1 && x.Shape().Dim(3) > 1 {
		y = depthwise(x, w, stride, pad)
	} else {
		y = denseConv(x, w, stride, pad)
	}
	if t.has(name + ".bias") {
		y = addVector(y, t.weight(name+".bias"))
	}
	return y
}

// denseConv is the convolution of x [B,H,W,in] with w [out,in,k,k].
func denseConv(x, w *Node, stride, pad int) *Node {
	out, k := w.Shape().Dim(0), w.Shape().Dim(2)
	switch {
	case k == stride && pad == 0:
		x = cells(x, k)
	case !onGo(x):
		return graph.Convolve(x, graph.TransposeAllAxes(w, 2, 3, 1, 0)).ChannelsAxis(images.ChannelsLast).
			StridePerAxis(stride, stride).PaddingPerDim([][2]int{{pad, pad}, {pad, pad}}).Done()
	default:
		// The Go backend's own takes three to seven times as long as one product
		// whose rows are the taps side by side.
		x = graph.Concatenate(shifted(x, k, stride, pad), 3)
	}
	return product(x, graph.Reshape(graph.TransposeAllAxes(w, 0, 2, 3, 1), out, -1))
}

// cells cuts x [B,H,W,C] into cells of k×k: [B,H/k,W/k,k·k·C].
func cells(x *Node, k int) *Node {
	d := x.Shape().Dimensions
	if k == 1 {
		return x
	}
	h, w := d[1]/k, d[2]/k
	for i, n := range []int{h * k, w * k} { // as a convolution, leave what does not fill a cell
		if n < d[i+1] {
			x = graph.SliceAxis(x, i+1, graph.AxisRange(0, n))
		}
	}
	x = graph.TransposeAllAxes(graph.Reshape(x, d[0], h, k, w, k, d[3]), 0, 1, 3, 2, 4, 5)
	return graph.Reshape(x, d[0], h, w, k*k*d[3])
}

// depthwise is the convolution of x [B,H,W,in] with w [in·m,1,k,k]: output
// channel i sees input channel i/m. Where the device has no kernel for it, it is
// a sum of shifted maps, which XLA's CPU compiler needs to be told to compute once.
func depthwise(x, w *Node, stride, pad int) *Node {
	out, k := w.Shape().Dim(0), w.Shape().Dim(2)
	d := x.Shape().Dimensions
	if m := out / d[3]; m > 1 {
		x = graph.BroadcastToDims(graph.InsertAxes(x, -1), d[0], d[1], d[2], d[3], m)
		x = graph.Reshape(x, d[0], d[1], d[2], out)
	}
	if device.Depthwise(x.Graph().Backend()) {
		w = to(graph.TransposeAllAxes(w, 2, 3, 1, 0), dtypes.Float32)
		y := graph.Convolve(to(x, dtypes.Float32), w).ChannelsAxis(images.ChannelsLast).ChannelGroupCount(out).
			StridePerAxis(stride, stride).PaddingPerDim([][2]int{{pad, pad}, {pad, pad}}).Done()
		return to(y, x.DType())
	}
	taps := stored(graph.TransposeAllAxes(graph.Reshape(w, out, k*k), 1, 0))
	var sum *Node
	for i, y := range shifted(stored(surround(x, pad)), k, stride, 0) {
		tap := graph.Slice(taps, graph.AxisRange(i, i+1), graph.AxisRange(0, out))
		y = graph.SliceAxis(y, 3, graph.AxisRange(0, out))
		y = graph.Mul(y, graph.Reshape(tap, 1, 1, 1, out))
		if sum != nil {
			y = graph.Add(sum, y)
		}
		sum = y
	}
	return apart(sum)
}

// stored is x [...,C], computed once and kept with a gap behind each row of
// channels: where C is a power of two, all taps would fall on the same lines of
// the cache. The gap halves the time of a 7×7 convolution of 512 channels.
func stored(x *Node) *Node {
	const gap = 16
	if onGo(x) {
		return x
	}
	pads := make([]compute.PadAxis, x.Rank())
	pads[len(pads)-1].End = gap
	return apart(graph.Pad(x, graph.ScalarZero(x.Graph(), x.DType()), pads...))
}

// apart is x, computed once. XLA's CPU compiler puts what x is computed from into
// every operation that reads it – of a deep FastViT a whole stage, hundreds of times
// – and drops barriers. It does not fuse sums over windows, and removes windows of
// one element: so each window here is an element and a zero.
func apart(x *Node) *Node {
	if onGo(x) {
		return x
	}
	d := x.Shape().Dimensions
	y := graph.Reshape(x, -1, 1, d[len(d)-1])
	y = graph.SumPool(y).ChannelsAxis(images.ChannelsLast).Window(2).Strides(1).PaddingPerDim([][2]int{{1, 0}}).Done()
	return graph.Reshape(y, d...)
}

// onGo says whether x is computed by the Go backend, which fuses nothing.
func onGo(x *Node) bool { return x.Graph().Backend().String() == gobackend.BackendName }

// surround puts pad rows and columns of zeros around a map.
func surround(x *Node, pad int) *Node {
	if pad == 0 {
		return x
	}
	p := compute.PadAxis{Start: pad, End: pad}
	return graph.Pad(x, graph.ScalarZero(x.Graph(), x.DType()), compute.PadAxis{}, p, p, compute.PadAxis{})
}

// shifted are the k·k maps that a kernel's taps see, row by row.
func shifted(x *Node, k, stride, pad int) (maps []*Node) {
	x = surround(x, pad)
	cut := func(x *Node, axis, from int) *Node {
		n := (x.Shape().Dim(axis)-k)/stride + 1
		if from == 0 && stride == 1 && n == x.Shape().Dim(axis) {
			return x
		}
		return graph.SliceAxis(x, axis, graph.AxisRange(from, from+(n-1)*stride+1).Stride(stride))
	}
	for i := range k {
		row := cut(x, 1, i)
		for j := range k {
			maps = append(maps, cut(row, 2, j))
		}
	}
	return maps
}

// batchNorm is BatchNorm over the channels with its stored statistics, in Float32:
// rounded scales and shifts would add to the error of half precision.
func (t *tower) batchNorm(x *Node, name string) *Node {
	const eps = 1e-5
	f := dtypes.Float32
	stat := func(n string) *Node { return to(t.weight(name+n), f) }
	scale := graph.Div(stat(".weight"), graph.Sqrt(graph.AddScalar(stat(".running_var"), eps)))
	shift := graph.Sub(stat(".bias"), graph.Mul(stat(".running_mean"), scale))
	return to(addVector(scaleVector(to(x, f), scale), shift), x.DType())
}

// meanMap is the mean of a map [B,H,W,C] over its cells: [B,C], in Float32.
func meanMap(x *Node) *Node {
	return to(graph.ReduceMean(to(x, dtypes.Float32), 1, 2), x.DType())
}

// project is OpenCLIP's projection of a timm tower's features [B,C]: linear, or
// an MLP of twice embed_dim.
func (t *tower) project(x *Node) *Node {
	linear := func(x *Node, name string) *Node {
		x = product(x, t.cast(name+".weight"))
		if t.has(name + ".bias") {
			x = addVector(x, t.weight(name+".bias"))
		}
		return x
	}
	if t.cfg.Vision.Proj == "mlp" {
		return linear(gelu(linear(x, "visual.head.mlp.fc1")), "visual.head.mlp.fc2")
	}
	return linear(x, "visual.head.proj")
}
