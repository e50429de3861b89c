package clip

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// vitamin is ViTamin (arXiv 2404.02132) as timm builds it: two stages of inverted
// bottlenecks with depthwise convolutions, then a transformer with gated MLPs over
// cells of 16 pixels, their mean, OpenCLIP's projection.
func (t *tower) vitamin(images *Node) *Node {
	t.eps = 1e-6
	x := t.mbconvStages(channelsLast(images), "visual.patch_embed.backbone.")
	t.captureMap("visual.patch_embed.backbone", x)
	x = flatten(x)
	if !t.cfg.Vision.NoPosEmbed {
		x = addPositions(x, t.cast("visual.pos_embed"), nil)
	}
	x = t.blocks(x, nil, t.vitaminBlock)
	x = t.layerNorm(meanRows(x), "visual.fc_norm", t.eps)
	return t.project(x)
}

func (t *tower) vitaminBlock(x *Node, layer int, _ func(*Node) *Node) *Node {
	p := fmt.Sprintf("visual.blocks.%d.", layer)
	x = t.residual(x, t.timmAttention(t.layerNorm(x, p+"norm1", t.eps), p+"attn.", nil), layer)
	y := t.layerNorm(t.layerNorm(x, p+"norm2", t.eps), p+"mlp.norm", t.eps)
	y = graph.Mul(gelu(t.dense(y, p+"mlp.w0")), t.dense(y, p+"mlp.w1"))
	x = t.residual(x, t.dense(y, p+"mlp.w2"), layer)
	t.capture(p[:len(p)-1], x)
	return x
}

// mbconvStages reduces a map 16-fold.
func (t *tower) mbconvStages(x *Node, p string) *Node {
	x = t.convolve(x, p+"stem.conv1", 2, 1)
	x = gelu(t.layerNorm(x, p+"stem.norm1", t.eps))
	x = t.convolve(x, p+"stem.conv2", 1, 1)
	for stage, depth := range t.cfg.ConvStages() {
		for i := range depth {
			stride := 1
			if i == 0 {
				stride = 2
			}
			x = t.mbconv(x, fmt.Sprintf("%sstages.%d.%d.", p, stage, i), stride)
		}
	}
	return t.convolve(t.layerNorm(x, p+"pool.norm", t.eps), p+"pool.proj", 2, 1)
}

func (t *tower) mbconv(x *Node, p string, stride int) *Node {
	y := t.layerNorm(x, p+"pre_norm", t.eps)
	y = gelu(t.convolve(y, p+"conv1_1x1", 1, 0))
	y = gelu(t.convolve(y, p+"conv2_kxk", stride, 1))
	y = t.convolve(y, p+"conv3_1x1", 1, 0)
	if stride > 1 {
		x = poolPadded(x)
		if _, ok := t.w[p+"shortcut.expand.weight"]; ok {
			x = t.convolve(x, p+"shortcut.expand", 1, 0)
		}
	}
	return graph.Add(x, y)
}

// poolPadded is the mean of 3×3 cells at every second cell; cells outside the map
// do not count.
func poolPadded(x *Node) *Node {
	sum := func(x *Node) *Node {
		var sum *Node
		for _, y := range shifted(x, 3, 2, 1) {
			if sum == nil {
				sum = y
			} else {
				sum = graph.Add(sum, y)
			}
		}
		return sum
	}
	d := x.Shape().Dimensions
	ones := graph.Ones(x.Graph(), shapes.Make(dtypes.Float32, 1, d[1], d[2], 1))
	y := graph.Div(sum(to(x, dtypes.Float32)), sum(ones))
	return to(y, x.DType())
}
