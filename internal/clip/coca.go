package clip

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// cocaVision is OpenCLIP's VisionTransformer with an attentional pooler, whose
// first query makes the feature.
func (t *tower) cocaVision(images *Node) *Node {
	v := &t.cfg.Vision
	x := t.embedPatches(images, "visual.conv1.weight")
	x = t.assemble(x, t.weight("visual.class_embedding"), t.weight("visual.positional_embedding"))
	if !v.NoLnPre {
		x = t.layerNorm(x, "visual.ln_pre", t.eps)
	}
	x = t.blocks(x, nil, func(x *Node, layer int, pick func(*Node) *Node) *Node {
		return t.resblock(x, "visual.transformer", layer, t.cfg.VisionHeads(), nil, pick)
	})
	x = t.layerNorm(t.attentionalPool(x), "visual.ln_post", t.eps)
	return dot(x, t.cast("visual.proj")).General([]int{1}, nil, []int{0}, nil)
}

// attentionalPool is the answer of the first query to x [B,N,W]: [B,embed].
func (t *tower) attentionalPool(x *Node) *Node {
	const p = "visual.attn_pool."
	heads, embed := t.cfg.Vision.PoolHeads, t.cfg.EmbedDim
	x = t.layerNorm(x, p+"ln_k", t.eps)
	q := t.layerNorm(graph.SliceAxis(t.cast(p+"query"), 0, graph.AxisRange(0, 1)), p+"ln_q", t.eps)
	q = spread(graph.InsertAxes(q, 0), t.dtype, x.Shape().Dim(0), 1, embed)
	var w []*Node
	if t.has(p + "attn.in_proj_weight") {
		w = splitRows(t.cast(p+"attn.in_proj_weight"), 3)
	} else {
		w = []*Node{t.cast(p + "attn.q_proj_weight"), t.cast(p + "attn.k_proj_weight"), t.cast(p + "attn.v_proj_weight")}
	}
	b := split(t.weight(p+"attn.in_proj_bias"), 3)
	q, k, v := addVector(product(q, w[0]), b[0]), addVector(product(x, w[1]), b[1]), addVector(product(x, w[2]), b[2])
	y := t.dense(attend(toHeads(q, heads), toHeads(k, heads), toHeads(v, heads), false, nil), p+"attn.out_proj")
	return graph.Squeeze(y, 1)
}

// cocaText is OpenCLIP's TextTransformer with a learned token after the text,
// whose feature is the text's. What a token sees is the causal triangle without
// the keys after a padding token 0: OpenCLIP's mask stands one place too far
// right, and the published weights have learned with it.
func (t *tower) cocaText(tokens *Node) *Node {
	g := tokens.Graph()
	b, n := tokens.Shape().Dim(0), tokens.Shape().Dim(1)
	width := t.cfg.Text.Width
	x := to(graph.Gather(t.weight("text.token_embedding.weight"), graph.InsertAxes(tokens, -1)), t.dtype)
	last := spread(graph.Reshape(t.weight("text.cls_emb"), 1, 1, width), t.dtype, b, 1, width)
	x = graph.Concatenate([]*Node{x, last}, 1)
	x = addPositions(x, graph.InsertAxes(t.cast("text.positional_embedding"), 0), nil)

	seen := graph.NotEqual(tokens, graph.Scalar(g, dtypes.Int32, 0))
	seen = graph.Concatenate([]*Node{graph.Ones(g, shapes.Make(dtypes.Bool, b, 1)), seen}, 1) // [B,N+1]
	m := n + 1
	triangle := graph.BroadcastToDims(graph.Reshape(graph.LowerTriangular(g, m), 1, 1, m, m), b, 1, m, m)
	seen = graph.BroadcastToDims(graph.Reshape(seen, b, 1, 1, m), b, 1, m, m)
	see := &causal{mask: graph.LogicalAnd(triangle, seen)}

	x = t.blocks(x, nil, func(x *Node, layer int, pick func(*Node) *Node) *Node {
		return t.resblock(x, "text.transformer", layer, t.cfg.Text.Heads, see, pick)
	})
	x = graph.Squeeze(graph.SliceAxis(x, 1, graph.AxisRange(n, m)), 1)
	x = t.layerNorm(x, "text.ln_final", t.eps)
	return dot(x, t.cast("text.text_projection")).General([]int{1}, nil, []int{0}, nil)
}
