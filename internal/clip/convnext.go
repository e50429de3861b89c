package clip

import (
	"fmt"

	"github.com/gomlx/gomlx/core/graph"
)

// convnext is ConvNeXt (arXiv 2201.03545) as timm builds it: four stages of
// depthwise convolutions and MLPs, the mean of the last map, LayerNorm, OpenCLIP's
// projection.
func (t *tower) convnext(images *Node) *Node {
	v := &t.cfg.Vision
	t.eps = t.cfg.NormEps()
	x := t.convolve(channelsLast(images), "visual.stem.0", 4, 0)
	x = t.layerNorm(x, "visual.stem.1", t.eps)
	layer := 0
	for stage, depth := range v.Layers {
		p := fmt.Sprintf("visual.stages.%d.", stage)
		for i := range depth {
			at := layer
			x = t.block(x, at, func(x *Node) *Node {
				if stage > 0 && i == 0 {
					x = t.layerNorm(x, p+"downsample.0", t.eps)
					x = t.convolve(x, p+"downsample.1", 2, 0)
				}
				return t.convnextBlock(x, fmt.Sprintf("%sblocks.%d.", p, i), at)
			})
			layer++
		}
		t.captureMap(p[:len(p)-1], x)
	}
	x = meanMap(x)
	return t.project(t.layerNorm(x, "visual.head.norm", t.eps))
}

func (t *tower) convnextBlock(x *Node, p string, layer int) *Node {
	y := t.convolve(x, p+"conv_dw", 1, 3)
	y = t.layerNorm(y, p+"norm", t.eps)
	y = t.dense(gelu(t.dense(y, p+"mlp.fc1")), p+"mlp.fc2")
	y = scaleVector(y, t.weight(p+"gamma"))
	return t.residual(x, y, layer)
}

// flatten is a map [B,H,W,C] as tokens [B,H·W,C].
func flatten(x *Node) *Node {
	d := x.Shape().Dimensions
	return graph.Reshape(x, d[0], d[1]*d[2], d[3])
}
