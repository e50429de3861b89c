package clip

import (
	"errors"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors/images"

	"github.com/evatool/evatool/internal/arch"
)

// resnet is OpenAI's ModifiedResNet: a stem of three convolutions, average
// pools instead of strides, attention instead of the last pool. Channels come
// last here. BatchNorm always uses its stored statistics.
func (t *tower) resnet(img *Node) *Node {
	if t.opt.KeepPatches != nil {
		panic(errors.New("clip: a ResNet has no patches to drop; train it without patch_dropout"))
	}
	x := graph.TransposeAllAxes(img, 0, 2, 3, 1)
	for _, c := range t.cfg.Stem() {
		x = relu(t.conv(x, c))
	}
	x = averagePool(x, 2)
	t.captureMap("visual.stem_avgpool", x)
	blocks := t.cfg.Bottlenecks()
	stage, left := 0, 0
	for i, b := range blocks {
		if left == 0 {
			stage++
			left = t.cfg.Vision.Layers[stage-1]
		}
		x = t.block(x, i, func(x *Node) *Node { return t.bottleneck(x, b, i) })
		if left--; left == 0 {
			t.captureMap(fmt.Sprintf("visual.layer%d", stage), x)
		}
	}
	x = t.attentionPool(x)
	t.capture("visual.attnpool", x)
	return x
}

// captureMap captures a feature map [B,H,W,C] as [B,C,H,W].
func (t *tower) captureMap(name string, x *Node) {
	if t.opt.Capture != nil {
		t.capture(name, graph.TransposeAllAxes(x, 0, 3, 1, 2))
	}
}

func (t *tower) bottleneck(x *Node, b arch.Bottleneck, layer int) *Node {
	y := relu(t.conv(x, b.Convs[0]))
	y = relu(t.conv(y, b.Convs[1]))
	y = t.conv(averagePool(y, b.Stride), b.Convs[2])
	if b.Downsample != nil {
		x = t.conv(averagePool(x, b.Stride), *b.Downsample)
	}
	return relu(t.residual(x, y, layer))
}

// conv is a convolution without bias, followed by BatchNorm.
func (t *tower) conv(x *Node, c arch.Conv) *Node {
	w := t.cast(c.Name + ".weight") // [out,in,k,k]
	if c.Kernel == 1 {
		x = product(x, graph.Reshape(w, c.Out, c.In))
	} else {
		pad := c.Kernel / 2
		x = graph.Convolve(x, graph.TransposeAllAxes(w, 2, 3, 1, 0)).ChannelsAxis(images.ChannelsLast).
			StridePerAxis(c.Stride, c.Stride).PaddingPerDim([][2]int{{pad, pad}, {pad, pad}}).Done()
	}
	return t.batchNorm(x, c.Norm)
}

// averagePool halves a feature map [B,H,W,C] n-fold; an odd last row or
// column is left out, as in torch.
func averagePool(x *Node, n int) *Node {
	if n == 1 {
		return x
	}
	d := x.Shape().Dimensions
	h, w := d[1]/n, d[2]/n
	x = graph.SliceAxis(graph.SliceAxis(x, 1, graph.AxisRange(0, h*n)), 2, graph.AxisRange(0, w*n))
	x = graph.Reshape(x, d[0], h, n, w, n, d[3])
	return to(graph.ReduceMean(to(x, dtypes.Float32), 2, 4), x.DType())
}

// attentionPool lets the mean of the map attend to the mean and the map.
func (t *tower) attentionPool(x *Node) *Node {
	d := x.Shape().Dimensions
	x = graph.Reshape(x, d[0], d[1]*d[2], d[3])
	x = graph.Concatenate([]*Node{graph.InsertAxes(meanRows(x), 1), x}, 1)
	x = addPositions(x, graph.InsertAxes(t.cast("visual.attnpool.positional_embedding"), 0), nil)
	heads := t.cfg.VisionHeads()
	q := toHeads(t.dense(firstRow(x), "visual.attnpool.q_proj"), heads)
	k := toHeads(t.dense(x, "visual.attnpool.k_proj"), heads)
	v := toHeads(t.dense(x, "visual.attnpool.v_proj"), heads)
	return t.dense(graph.Squeeze(attend(q, k, v, false, nil), 1), "visual.attnpool.c_proj")
}
