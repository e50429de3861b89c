package clip

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

func (t *tower) openAIVision(images *Node) *Node {
	v := &t.cfg.Vision
	x := t.embedPatches(images, "visual.conv1.weight")
	if t.opt.Capture != nil {
		d, g := x.Shape().Dimensions, t.cfg.Grid()
		t.capture("visual.conv1", graph.TransposeAllAxes(graph.Reshape(x, d[0], g, g, d[2]), 0, 3, 1, 2))
	}
	x = t.assemble(x, t.weight("visual.class_embedding"), t.weight("visual.positional_embedding"))
	if !v.NoLnPre {
		x = t.layerNorm(x, "visual.ln_pre", t.eps)
	}
	t.capture("visual.ln_pre", x)
	block := func(x *Node, layer int, pick func(*Node) *Node) *Node {
		return t.resblock(x, "visual.transformer", layer, t.cfg.VisionHeads(), nil, pick)
	}
	switch {
	case v.PoolType == "avg": // patches only
		x = t.blocks(x, nil, block)
		patches := func(x *Node) *Node { return meanRows(graph.SliceAxis(x, 1, graph.AxisRangeToEnd(1))) }
		if v.LnAfterPool {
			x = t.layerNorm(patches(x), "visual.ln_post", t.eps)
		} else {
			x = patches(t.layerNorm(x, "visual.ln_post", t.eps))
		}
	case v.AveragePool:
		x = t.layerNorm(meanRows(t.blocks(x, nil, block)), "visual.ln_post", t.eps)
	default:
		x = t.layerNorm(graph.Squeeze(t.blocks(x, firstRow, block), 1), "visual.ln_post", t.eps)
	}
	return dot(x, t.cast("visual.proj")).General([]int{1}, nil, []int{0}, nil)
}

// causal says what a text's tokens may see: the whole triangle, or for one
// picked token a mask [B,1,1,N]; neither in a tower without a mask. mask
// [B,1,N,N] is what they see where it is less than the triangle.
type causal struct {
	triangle bool
	picked   *Node
	mask     *Node
}

// resblock is OpenAI's residual attention block. With pick it computes only
// the tokens that pick takes out of [B,N,W].
func (t *tower) resblock(x *Node, prefix string, layer, heads int, see *causal, pick func(*Node) *Node) *Node {
	p := fmt.Sprintf("%s.resblocks.%d.", prefix, layer)
	h := t.layerNorm(x, p+"ln_1", t.eps)
	hq := h
	if pick != nil {
		hq, x = pick(h), pick(x)
	}
	y := t.dense(t.selfAttention(hq, h, p+"attn.", heads, see, pick != nil), p+"attn.out_proj")
	if t.cfg.LayerScale(t.which) {
		y = scaleVector(y, t.weight(p+"ls_1.gamma"))
	}
	x = t.residual(x, y, layer)

	y = t.dense(t.act(t.dense(t.layerNorm(x, p+"ln_2", t.eps), p+"mlp.c_fc")), p+"mlp.c_proj")
	if t.cfg.LayerScale(t.which) {
		y = scaleVector(y, t.weight(p+"ls_2.gamma"))
	}
	x = t.residual(x, y, layer)
	t.capture(p[:len(p)-1], x)
	return x
}

// selfAttention is torch's MultiheadAttention without its output projection;
// hq are the queries' tokens, h all tokens.
func (t *tower) selfAttention(hq, h *Node, p string, heads int, see *causal, picked bool) *Node {
	w, b := t.cast(p+"in_proj_weight"), t.weight(p+"in_proj_bias")
	var qkv []*Node
	if picked {
		ws, bs := splitRows(w, 3), split(b, 3)
		for i, x := range []*Node{hq, h, h} {
			qkv = append(qkv, addVector(product(x, ws[i]), bs[i]))
		}
	} else {
		qkv = split(addVector(product(h, w), b), 3)
	}
	for i := range qkv {
		qkv[i] = toHeads(qkv[i], heads)
	}
	switch {
	case see == nil:
		return attend(qkv[0], qkv[1], qkv[2], false, nil)
	case picked:
		return attend(qkv[0], qkv[1], qkv[2], false, see.picked)
	}
	return attend(qkv[0], qkv[1], qkv[2], see.triangle, see.mask)
}

func (t *tower) text(tokens *Node) *Node {
	g := tokens.Graph()
	n := tokens.Shape().Dim(1)
	x := to(graph.Gather(t.weight("text.token_embedding.weight"), graph.InsertAxes(tokens, -1)), t.dtype)
	position := t.cast("text.positional_embedding")
	if n < position.Shape().Dim(0) {
		position = graph.SliceAxis(position, 0, graph.AxisRange(0, n))
	}
	x = addPositions(x, graph.InsertAxes(position, 0), nil)

	ends := tokens // largest where the text ends; the first counts
	if t.cfg.PoolsEOS() {
		ends = to(graph.Equal(tokens, graph.Scalar(g, dtypes.Int32, *t.cfg.Text.EOS)), dtypes.Int32)
	}
	end := graph.InsertAxes(graph.ArgMax(ends, 1, dtypes.Int32), -1) // [B,1]
	columns := graph.Iota(g, shapeI32(1, n), 1)
	isEnd := graph.InsertAxes(graph.Equal(columns, end), -1) // [B,N,1]
	// Not a gather: its gradient would be a scatter.
	pick := func(x *Node) *Node {
		only := graph.Where(graph.BroadcastToShape(isEnd, shapes.Make(dtypes.Bool, x.Shape().Dimensions...)), x, graph.ZerosLike(x))
		return graph.InsertAxes(graph.ReduceSum(only, 1), 1)
	}
	var see *causal
	if t.cfg.Text.AttnMask {
		see = &causal{triangle: true, picked: graph.InsertAxes(graph.LessOrEqual(columns, end), 1, 1)}
	}
	x = t.blocks(x, pick, func(x *Node, layer int, pick func(*Node) *Node) *Node {
		x = t.resblock(x, "text.transformer", layer, t.cfg.Text.Heads, see, pick)
		if layer == t.cfg.Text.Layers-1 && t.opt.Capture != nil {
			t.capture("text.ln_final", t.layerNorm(x, "text.ln_final", t.eps))
		}
		return x
	})
	x = t.layerNorm(graph.Squeeze(x, 1), "text.ln_final", t.eps)
	return dot(x, t.cast("text.text_projection")).General([]int{1}, nil, []int{0}, nil)
}
