package clip

import (
	"fmt"

	"github.com/gomlx/gomlx/core/graph"
)

// siglipVision is SigLIP's image tower as timm's VisionTransformer has it: no
// class token, and one learned query that attends to the patches.
func (t *tower) siglipVision(images *Node) *Node {
	t.eps = 1e-6
	x := addVector(t.embedPatches(images, "visual.patch_embed.proj.weight"), t.weight("visual.patch_embed.proj.bias"))
	x = addPositions(x, t.cast("visual.pos_embed"), t.opt.KeepPatches)
	t.capture("visual.patch_embed", x)
	x = t.blocks(x, nil, func(x *Node, layer int, _ func(*Node) *Node) *Node { return t.siglipBlock(x, layer) })
	return t.latentPool(t.layerNorm(x, "visual.norm", t.eps), t.cfg.VisionHeads())
}

func (t *tower) siglipBlock(x *Node, layer int) *Node {
	p := fmt.Sprintf("visual.blocks.%d.", layer)
	heads := t.cfg.VisionHeads()
	qkv := split(t.dense(t.layerNorm(x, p+"norm1", t.eps), p+"attn.qkv"), 3)
	for i := range qkv {
		qkv[i] = toHeads(qkv[i], heads)
	}
	x = t.residual(x, t.dense(attend(qkv[0], qkv[1], qkv[2], false, nil), p+"attn.proj"), layer)
	x = t.residual(x, t.siglipMLP(t.layerNorm(x, p+"norm2", t.eps), p+"mlp."), layer)
	t.capture(p[:len(p)-1], x)
	return x
}

// siglipMLP has the approximation of GELU or GELU itself, by tower: published
// weights of both kinds exist.
func (t *tower) siglipMLP(x *Node, p string) *Node {
	act := gelu
	if t.cfg.Vision.Act == "gelu_tanh" {
		act = geluTanh
	}
	return t.dense(act(t.dense(x, p+"fc1")), p+"fc2")
}

// latentPool is timm's AttentionPoolLatent of one query: x [B,N,W] → [B,W].
func (t *tower) latentPool(x *Node, heads int) *Node {
	const p = "visual.attn_pool."
	b, w := x.Shape().Dim(0), x.Shape().Dim(2)
	ws, bs := splitRows(t.cast(p+"in_proj_weight"), 3), split(t.weight(p+"in_proj_bias"), 3)
	q := addVector(product(t.cast(p+"latent"), ws[0]), bs[0]) // [1,1,W]
	q = spread(q, t.dtype, b, 1, w)
	k, v := addVector(product(x, ws[1]), bs[1]), addVector(product(x, ws[2]), bs[2])
	x = t.dense(attend(toHeads(q, heads), toHeads(k, heads), toHeads(v, heads), false, nil), p+"proj")
	x = graph.Add(x, t.siglipMLP(t.layerNorm(x, p+"norm", t.eps), p+"mlp."))
	x = graph.Squeeze(x, 1)
	t.capture(p[:len(p)-1], x)
	return x
}

// siglipText is OpenCLIP's TextTransformer that pools at the last token: the
// blocks of the usual text tower with the norm, activation, mask and projection
// that the configuration has.
func (t *tower) siglipText(tokens *Node) *Node {
	c := &t.cfg.Text
	if c.NormKwargs != nil {
		t.eps = c.NormKwargs.Eps
	}
	if c.ActKwargs != nil {
		t.act = geluTanh
	}
	n := tokens.Shape().Dim(1)
	x := to(graph.Gather(t.weight("text.token_embedding.weight"), graph.InsertAxes(tokens, -1)), t.dtype)
	x = addPositions(x, graph.InsertAxes(graph.SliceAxis(t.cast("text.positional_embedding"), 0, graph.AxisRange(0, n)), 0), nil)
	last := func(x *Node) *Node { return graph.SliceAxis(x, 1, graph.AxisRangeToEnd(x.Shape().Dim(1)-1)) }
	var see *causal
	if c.AttnMask {
		see = &causal{triangle: true} // the last token sees every other
	}
	x = t.blocks(x, last, func(x *Node, layer int, pick func(*Node) *Node) *Node {
		return t.resblock(x, "text.transformer", layer, c.Heads, see, pick)
	})
	x = t.layerNorm(graph.Squeeze(x, 1), "text.ln_final", t.eps)
	switch {
	case c.ProjType == "none":
		return x
	case c.ProjBias:
		return t.dense(x, "text.text_projection")
	}
	return dot(x, t.cast("text.text_projection")).General([]int{1}, nil, []int{0}, nil)
}
