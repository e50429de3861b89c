package clip

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

func shapeI32(dims ...int) shapes.Shape { return shapes.Make(dtypes.Int32, dims...) }

func shapeF32(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// patches cuts images [B,3,H,W] into flattened patches [B,P,3·p·p], in the
// order of a convolution's weights.
func (t *tower) patches(images *Node) *Node {
	g, p := t.cfg.Grid(), t.cfg.Vision.PatchSize
	b := images.Shape().Dim(0)
	for axis := 2; axis <= 3; axis++ {
		// As a convolution, leave what does not fill a patch.
		if images.Shape().Dim(axis) != g*p {
			images = graph.SliceAxis(images, axis, graph.AxisRange(0, g*p))
		}
	}
	x := graph.Reshape(images, b, 3, g, p, g, p)
	x = graph.TransposeAllAxes(x, 0, 2, 4, 1, 3, 5)
	return graph.Reshape(x, b, g*g, 3*p*p)
}

// embedPatches is the patch embedding without bias of the chosen patches:
// [B,P,width]. Choosing pixels needs no gradient, and dropped patches no work.
func (t *tower) embedPatches(images *Node, weight string) *Node {
	w := t.cast(weight)
	x := t.patches(images)
	if t.opt.KeepPatches != nil {
		x = takeRows(x, t.opt.KeepPatches)
	}
	return product(x, graph.Reshape(w, w.Shape().Dim(0), -1))
}

// assemble puts the class token in front of the patches and adds position
// embeddings; the first row is the class token's.
func (t *tower) assemble(x, class, position *Node) *Node {
	b, w := x.Shape().Dim(0), x.Shape().Dim(2)
	class = graph.Reshape(to(class, t.dtype), 1, 1, w)
	position = graph.Reshape(to(position, t.dtype), 1, -1, w)
	class = graph.Add(class, firstRow(position))
	x = addPositions(x, graph.SliceAxis(position, 1, graph.AxisRangeToEnd(1)), t.opt.KeepPatches)
	return graph.Concatenate([]*Node{spread(class, t.dtype, b, 1, w), x}, 1)
}

// residual is x + branch, with drop path on the branch.
func (t *tower) residual(x, branch *Node, layer int) *Node {
	if t.opt.DropPath != nil {
		branch = t.opt.DropPath(branch, t.which, layer, t.asked)
		t.asked++
	}
	return graph.Add(x, branch)
}

// blocks runs n blocks. Only the last one is told that one token is wanted.
func (t *tower) blocks(x *Node, pick func(*Node) *Node, block func(x *Node, layer int, pick func(*Node) *Node) *Node) *Node {
	n := t.cfg.Layers(t.which)
	for i := range n {
		last := pick
		if i < n-1 || t.opt.Capture != nil {
			last = nil
		}
		x = t.block(x, i, func(x *Node) *Node { return block(x, i, last) })
	}
	if pick != nil && t.opt.Capture != nil {
		x = pick(x)
	}
	return x
}

func (t *tower) evaVision(images *Node) *Node {
	t.eps = 1e-6
	v := &t.cfg.Vision
	x := addVector(t.embedPatches(images, "visual.patch_embed.proj.weight"), t.weight("visual.patch_embed.proj.bias"))
	t.capture("visual.patch_embed", x)
	x = t.assemble(x, t.weight("visual.cls_token"), t.weight("visual.pos_embed"))
	var r *rope
	if v.RoPE {
		r = newRope(x.Graph(), t.cfg, t.opt.KeepPatches)
	}
	block := func(x *Node, layer int, pick func(*Node) *Node) *Node { return t.evaBlock(x, layer, r, pick) }
	if v.AveragePool {
		x = t.blocks(x, nil, block)
		x = t.norm(meanRows(x), "visual.fc_norm", t.eps)
	} else {
		x = t.blocks(x, firstRow, block)
		x = t.norm(graph.Squeeze(x, 1), "visual.norm", t.eps)
	}
	if v.NoHeadBias {
		return product(x, t.cast("visual.head.weight"))
	}
	return t.dense(x, "visual.head")
}

// meanRows is the mean of x [B,N,W] over N, in Float32.
func meanRows(x *Node) *Node {
	return to(graph.ReduceMean(to(x, dtypes.Float32), 1), x.DType())
}

// evaBlock is a block of EVA-01 or EVA-02. With pick it computes only the
// tokens that pick takes out of [B,N,W].
func (t *tower) evaBlock(x *Node, layer int, r *rope, pick func(*Node) *Node) *Node {
	v := &t.cfg.Vision
	p := fmt.Sprintf("visual.blocks.%d.", layer)
	// branch is one residual branch: norm before it, or after it with postnorm.
	branch := func(x *Node, n string, f func(*Node) *Node) *Node {
		var y *Node
		if v.PostNorm {
			y = t.norm(f(x), p+"norm"+n, t.eps)
		} else {
			y = f(t.norm(x, p+"norm"+n, t.eps))
		}
		if t.cfg.LayerScale(t.which) {
			y = scaleVector(y, t.weight(p+"gamma_"+n))
		}
		return y
	}
	y := branch(x, "1", func(x *Node) *Node { return t.evaAttention(x, p+"attn.", r, pick) })
	if pick != nil {
		x = pick(x)
	}
	x = t.residual(x, y, layer)
	x = t.residual(x, branch(x, "2", func(x *Node) *Node { return t.evaMLP(x, p+"mlp.") }), layer)
	t.capture(p[:len(p)-1], x)
	return x
}

func (t *tower) evaAttention(x *Node, p string, r *rope, pick func(*Node) *Node) *Node {
	v, heads := &t.cfg.Vision, t.cfg.VisionHeads()
	var w []*Node // of q, k and v
	if v.SubLN {
		w = []*Node{t.cast(p + "q_proj.weight"), t.cast(p + "k_proj.weight"), t.cast(p + "v_proj.weight")}
	} else {
		w = splitRows(t.cast(p+"qkv.weight"), 3)
	}
	xq := x
	if pick != nil {
		xq = pick(x)
	}
	q, k, val := product(xq, w[0]), product(x, w[1]), product(x, w[2])
	if v.QKVBias {
		q, val = addVector(q, t.weight(p+"q_bias")), addVector(val, t.weight(p+"v_bias"))
	}
	q, k, val = toHeads(q, heads), toHeads(k, heads), toHeads(val, heads)
	k = r.turn(k)
	if pick == nil { // the picked token is the class token, which does not turn
		q = r.turn(q)
	}
	y := attend(q, k, val, false, nil)
	if v.SubLN {
		y = t.norm(y, p+"inner_attn_ln", t.eps)
	}
	y = t.dense(y, p+"proj")
	t.capture(p[:len(p)-1], y)
	return y
}

func (t *tower) evaMLP(x *Node, p string) *Node {
	v := &t.cfg.Vision
	var h *Node
	norm, eps, out := t.norm, t.eps, "w3"
	if v.SwiGLU {
		h = graph.Mul(silu(t.denseWide(x, p+"w1")), t.denseWide(x, p+"w2"))
	} else {
		h = gelu(t.dense(x, p+"fc1"))
		norm, eps, out = t.layerNorm, 1e-5, "fc2" // the original's Mlp takes torch's default here
	}
	if v.SubLN {
		h = norm(h, p+"ffn_ln", eps)
	}
	w := t.cast(p + out + ".weight")
	if extra := h.Shape().Dim(-1) - w.Shape().Dim(1); extra > 0 {
		w = graph.Transpose(lengthen(graph.Transpose(w, 0, 1), extra), 0, 1)
	}
	y := addVector(product(h, w), t.weight(p+out+".bias"))
	t.capture(p[:len(p)-1], y)
	return y
}

// denseWide is dense. In half precision zeros lengthen the result to a multiple
// of 64: a GPU's matrix units want rows at multiples of 16 bytes, and the
// hidden width of EVA-02's L models is 2730.
func (t *tower) denseWide(x *Node, name string) *Node {
	w, b := t.cast(name+".weight"), t.weight(name+".bias")
	if extra := (64 - w.Shape().Dim(0)%64) % 64; extra > 0 && x.DType().IsHalfPrecision() {
		w, b = lengthen(w, extra), lengthen(b, extra)
	}
	return addVector(product(x, w), b)
}

// splitRows cuts w [n·parts, in] into parts along the rows.
func splitRows(w *Node, parts int) []*Node {
	n := w.Shape().Dim(0) / parts
	out := make([]*Node, parts)
	for i := range out {
		out[i] = graph.SliceAxis(w, 0, graph.AxisRange(i*n, (i+1)*n))
	}
	return out
}
