package clip

import "github.com/gomlx/gomlx/core/graph"

// mobileclip is the transformer of MobileCLIP-B, MobileCLIP2-B and L-14 as timm's
// VisionTransformer has it: the class token's feature, and a head with a bias.
func (t *tower) mobileclip(images *Node) *Node {
	var x *Node
	if t.cfg.Vision.StemWidth > 0 {
		t.eps = 1e-6
		x = t.classFirst(t.convStem(images))
	} else {
		x = t.embedPatches(images, "visual.patch_embed.proj.weight")
		x = t.assemble(x, t.weight("visual.cls_token"), t.weight("visual.pos_embed"))
		x = t.layerNorm(x, "visual.norm_pre", t.eps)
	}
	x = t.blocks(x, nil, func(x *Node, layer int, _ func(*Node) *Node) *Node { return t.timmBlock(x, layer, nil) })
	x = t.layerNorm(graph.Squeeze(firstRow(x), 1), "visual.norm", t.eps)
	return t.dense(x, "visual.head")
}

// convStem embeds cells of 16×16 pixels by three convolutions: [B,P,width], with
// positions.
func (t *tower) convStem(images *Node) *Node {
	const p = "visual.patch_embed.backbone."
	x := channelsLast(images)
	for i, stride := range []int{4, 2} {
		name := p + string(rune('0'+i)) + "."
		x = denseConv(x, t.cast(name+"conv.weight"), stride, 0)
		x = gelu(t.batchNorm(x, name+"bn"))
	}
	x = flatten(t.convolve(x, p+"2.conv", 2, 0))
	x = addPositions(x, t.cast("visual.pos_embed"), t.opt.KeepPatches)
	t.capture("visual.patch_embed", x)
	return x
}
