package clip

import (
	"fmt"
	"math"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
)

// peVision is PE-Core's image tower as timm's Eva has it.
func (t *tower) peVision(images *Node) *Node {
	v := &t.cfg.Vision
	x := t.embedPatches(images, "visual.patch_embed.proj.weight")
	if v.NoClass {
		x = addPositions(x, t.cast("visual.pos_embed"), t.opt.KeepPatches)
	} else {
		x = t.assemble(x, t.weight("visual.cls_token"), t.weight("visual.pos_embed"))
	}
	x = t.layerNorm(x, "visual.norm_pre", t.eps)
	r := ropeOf(x.Graph(), t.peAngles(), nil)
	x = t.blocks(x, nil, func(x *Node, layer int, _ func(*Node) *Node) *Node { return t.timmBlock(x, layer, r) })
	x = t.layerNorm(x, "visual.norm", t.eps)
	return t.dense(t.latentPool(x, arch.PoolHeads), "visual.head")
}

// peAngles are the rotation angles of the tokens: the first half of a head turns
// with the column, the second with the row, counted from 1 where there is a class
// token, which does not turn (timm's RotaryEmbeddingCat, grid_indexing xy).
func (t *tower) peAngles() (angles [][]float64) {
	const theta = 10000
	quarter, first := t.cfg.Vision.HeadWidth/4, 0
	if !t.cfg.Vision.NoClass {
		angles, first = append(angles, make([]float64, 2*quarter)), 1
	}
	for row := range t.cfg.Grid() {
		for col := range t.cfg.Grid() {
			a := make([]float64, 0, 2*quarter)
			for _, p := range []int{col, row} {
				for i := range quarter {
					a = append(a, float64(p+first)*math.Pow(theta, -float64(i)/float64(quarter)))
				}
			}
			angles = append(angles, a)
		}
	}
	return angles
}

// timmBlock is a block of timm's VisionTransformer with GELU, and with RoPE of its
// Eva.
func (t *tower) timmBlock(x *Node, layer int, r *rope) *Node {
	p := fmt.Sprintf("visual.blocks.%d.", layer)
	x = t.residual(x, t.timmAttention(t.layerNorm(x, p+"norm1", t.eps), p+"attn.", r), layer)
	y := t.dense(gelu(t.dense(t.layerNorm(x, p+"norm2", t.eps), p+"mlp.fc1")), p+"mlp.fc2")
	x = t.residual(x, y, layer)
	t.capture(p[:len(p)-1], x)
	return x
}

func (t *tower) timmAttention(x *Node, p string, r *rope) *Node {
	heads := t.cfg.VisionHeads()
	qkv := split(t.dense(x, p+"qkv"), 3)
	for i := range qkv {
		qkv[i] = toHeads(qkv[i], heads)
	}
	return t.dense(attend(r.turn(qkv[0]), r.turn(qkv[1]), qkv[2], false, nil), p+"proj")
}

// classFirst puts the class token in front of x [B,N,W], without a position.
func (t *tower) classFirst(x *Node) *Node {
	b, w := x.Shape().Dim(0), x.Shape().Dim(2)
	class := spread(graph.Reshape(t.weight("visual.cls_token"), 1, 1, w), t.dtype, b, 1, w)
	return graph.Concatenate([]*Node{class, x}, 1)
}
