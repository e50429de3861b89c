package clip

import (
	"fmt"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// fastvit is FastViT (arXiv 2303.14189) as MobileCLIP (arXiv 2311.17049) and
// MobileCLIP 2 (arXiv 2508.20691) have it and timm builds it: stages of depthwise
// convolutions, the last one or two with attention over their cells. The branches
// that its convolutions have in training are added up to one kernel each.
func (t *tower) fastvit(images *Node) *Node {
	x := channelsLast(images)
	x = t.mobileOne(x, "visual.stem.0.", 3, 2)
	x = t.mobileOne(x, "visual.stem.1.", 3, 2)
	x = t.mobileOne(x, "visual.stem.2.", 1, 1)
	layer := 0
	for stage, depth := range t.cfg.Vision.Layers {
		p := fmt.Sprintf("visual.stages.%d.", stage)
		attends := t.cfg.Attends(stage)
		for i := range depth {
			at := layer
			x = t.block(x, at, func(x *Node) *Node {
				if stage > 0 && i == 0 {
					x = t.downsample(x, p+"downsample.proj.")
				}
				if attends && i == 0 {
					x = graph.Add(x, t.convolve(x, p+"pos_emb.pos_enc", 1, 3))
				}
				block := fmt.Sprintf("%sblocks.%d.", p, i)
				if attends {
					return t.attentionBlock(x, block, at)
				}
				return t.repMixerBlock(x, block, at)
			})
			layer++
		}
		t.captureMap(p[:len(p)-1], x)
	}
	x = t.mobileOne(x, "visual.final_conv.", 3, 1)
	return t.dense(meanMap(x), "visual.head.fc")
}

// kernel is a convolution: weights [out,in/groups,k,k] and bias [out], Float32.
type kernel struct{ weight, bias *Node }

// folded is the BatchNorm NORM after a convolution without bias, as one kernel.
func (t *tower) folded(weight *Node, norm string) kernel {
	const eps = 1e-5
	stat := func(n string) *Node { return to(t.weight(norm+n), dtypes.Float32) }
	scale := graph.Div(stat("weight"), graph.Sqrt(graph.AddScalar(stat("running_var"), eps)))
	bias := graph.Sub(stat("bias"), graph.Mul(stat("running_mean"), scale))
	return kernel{graph.Mul(to(weight, dtypes.Float32), graph.Reshape(scale, -1, 1, 1, 1)), bias}
}

// branch is the convolution and BatchNorm NAME as a kernel of k×k.
func (t *tower) branch(name string, k int) kernel {
	b := t.folded(t.weight(name+"conv.weight"), name+"bn.")
	b.weight = widen(b.weight, k)
	return b
}

// widen puts zeros around a kernel up to k×k.
func widen(w *Node, k int) *Node {
	if n := (k - w.Shape().Dim(2)) / 2; n > 0 {
		p := compute.PadAxis{Start: n, End: n}
		w = graph.Pad(w, graph.ScalarZero(w.Graph(), w.DType()), compute.PadAxis{}, compute.PadAxis{}, p, p)
	}
	return w
}

// skip is the kernel that leaves a map of n channels as it is.
func skip(g *graph.Graph, n, k int, depthwise bool) *Node {
	one := graph.Ones(g, shapeF32(n, 1, 1, 1))
	if !depthwise {
		one = graph.Reshape(to(graph.Diagonal(g, n), dtypes.Float32), n, n, 1, 1)
	}
	return widen(one, k)
}

func add(a, b kernel) kernel {
	return kernel{graph.Add(a.weight, b.weight), graph.Add(a.bias, b.bias)}
}

// has says whether the model has tensors of this name.
func (t *tower) has(name string) bool { _, ok := t.w[name]; return ok }

// convolveWith is the convolution with a kernel.
func (t *tower) convolveWith(x *Node, k kernel, stride int) *Node {
	w, pad := to(k.weight, t.dtype), k.weight.Shape().Dim(2)/2
	if w.Shape().Dim(1) == 1 {
		x = depthwise(x, w, stride, pad)
	} else {
		x = denseConv(x, w, stride, pad)
	}
	return addVector(x, k.bias)
}

// mobileOne is a block of MobileOne (arXiv 2206.04040): a k×k, a 1×1 and a skip
// branch, those of them that it has, then squeeze and excitation where it has
// them, then GELU.
func (t *tower) mobileOne(x *Node, p string, k, stride int) *Node {
	y := t.convolveWith(x, t.oneKernel(p, k), stride)
	if t.has(p + "se.fc1.weight") {
		y = t.squeezeExcite(y, p+"se.")
	}
	return gelu(y)
}

// oneKernel adds up the branches of a MobileOne block.
func (t *tower) oneKernel(p string, k int) kernel {
	sum := t.branch(p+"conv_kxk.0.", k)
	if t.has(p + "conv_scale.conv.weight") {
		sum = add(sum, t.branch(p+"conv_scale.", k))
	}
	if t.has(p + "identity.weight") {
		d := sum.weight.Shape()
		sum = add(sum, t.folded(skip(sum.weight.Graph(), d.Dim(0), k, d.Dim(1) == 1), p+"identity."))
	}
	return sum
}

// downsample halves a map: a depthwise convolution of 7×7 and 3×3 taps, then one
// of 1×1.
func (t *tower) downsample(x *Node, p string) *Node {
	y := t.convolveWith(x, add(t.branch(p+"0.large_conv.", 7), t.branch(p+"0.small_conv.", 7)), 2)
	if t.has(p + "0.se.fc1.weight") {
		y = t.squeezeExcite(y, p+"0.se.")
	}
	return t.mobileOne(gelu(y), p+"1.", 1, 1)
}

// squeezeExcite scales the channels of a map by what an MLP makes of their means.
func (t *tower) squeezeExcite(x *Node, p string) *Node {
	d := x.Shape().Dimensions
	y := graph.Reshape(meanMap(x), d[0], 1, 1, d[3])
	y = relu(t.convolve(y, p+"fc1", 1, 0))
	y = graph.Sigmoid(t.convolve(y, p+"fc2", 1, 0))
	return graph.Mul(x, spread(y, x.DType(), d...))
}

// repMixerBlock mixes cells by one depthwise convolution, then channels.
func (t *tower) repMixerBlock(x *Node, p string, layer int) *Node {
	m := t.oneKernel(p+"token_mixer.mixer.", 3)
	n := m.weight.Shape().Dim(0)
	same := skip(x.Graph(), n, 3, true)
	norm := t.folded(same, p+"token_mixer.norm.identity.")
	gamma := t.gamma(p + "token_mixer.layer_scale")
	m.weight = graph.Add(same, graph.Mul(graph.Reshape(gamma, n, 1, 1, 1), graph.Sub(m.weight, norm.weight)))
	m.bias = graph.Mul(gamma, graph.Sub(m.bias, norm.bias))
	x = t.convolveWith(x, m, 1)
	return t.residual(x, scaleVector(t.convMLP(x, p+"mlp."), t.gamma(p+"layer_scale")), layer)
}

// gamma is a layer scale [n].
func (t *tower) gamma(name string) *Node {
	return graph.Reshape(to(t.weight(name+".gamma"), dtypes.Float32), -1)
}

func (t *tower) convMLP(x *Node, p string) *Node {
	x = t.convolveWith(x, t.branch(p+"conv.", 7), 1)
	return t.convolve(gelu(t.convolve(x, p+"fc1", 1, 0)), p+"fc2", 1, 0)
}

func (t *tower) attentionBlock(x *Node, p string, layer int) *Node {
	var y *Node
	if t.has(p + "norm.running_mean") {
		y = t.batchNorm(x, p+"norm")
	} else {
		y = t.layerNorm(x, p+"norm", 1e-5)
	}
	d := x.Shape().Dimensions
	heads := d[3] / t.cfg.Vision.HeadWidth
	qkv := split(product(flatten(y), t.cast(p+"token_mixer.qkv.weight")), 3)
	y = attend(toHeads(qkv[0], heads), toHeads(qkv[1], heads), toHeads(qkv[2], heads), false, nil)
	y = graph.Reshape(t.dense(y, p+"token_mixer.proj"), d...)
	x = t.residual(x, scaleVector(y, t.gamma(p+"layer_scale_1")), layer)
	x = t.residual(x, scaleVector(t.convMLP(x, p+"mlp."), t.gamma(p+"layer_scale_2")), layer)
	t.captureMap(strings.TrimSuffix(p, "."), x)
	return x
}
