package arch

import (
	"fmt"
	"regexp"
	"strconv"
)

// PE-Core (Perception Encoder, arXiv 2504.13181) as timm builds it: a transformer with
// RoPE over the patches, pooled by attention with eight heads from one learned query
// over all tokens, and a head with a bias.
var peVision = visionTower{
	check: checkPE, params: (*builder).pe, macs: peMACs, widest: (*Config).vitWidest,
	patches: true, class: true, embed: "visual.pos_embed", timm: timmPE,
	timmHead: map[string]string{"timm_pool": "map", "timm_proj": ""},
}

var peSizes = map[string]Vision{
	"tiny":     {Layers: Layers{12}, Width: 192, HeadWidth: 64, MLPRatio: 4},
	"small":    {Layers: Layers{12}, Width: 384, HeadWidth: 64, MLPRatio: 4},
	"base":     {Layers: Layers{12}, Width: 768, HeadWidth: 64, MLPRatio: 4},
	"large":    {Layers: Layers{24}, Width: 1024, HeadWidth: 64, MLPRatio: 4},
	"gigantic": {Layers: Layers{50}, Width: 1536, HeadWidth: 96, MLPRatio: ratio(8960, 1536), NoClass: true},
}

var peName = regexp.MustCompile(`^vit_pe_core_(tiny|small|base|large|gigantic)_patch(14|16)_(224|336|384|448)$`)

func timmPE(name string) (*Vision, bool) {
	m := peName.FindStringSubmatch(name)
	if m == nil {
		return nil, false
	}
	v := peSizes[m[1]]
	v.Tower, v.QKVBias = "pe", true
	v.PatchSize, _ = strconv.Atoi(m[2])
	v.ImageSize, _ = strconv.Atoi(m[3])
	return &v, true
}

// PoolHeads is the number of heads of PE-Core's attention pool.
const PoolHeads = 8

func checkPE(c *Config) error {
	v := &c.Vision
	switch {
	case len(v.Layers) != 1:
		return fmt.Errorf("vision_cfg.layers is %v; want one number", []int(v.Layers))
	case v.HeadWidth%4 != 0:
		return fmt.Errorf("vision_cfg.head_width %d: rope needs a multiple of 4", v.HeadWidth)
	case v.Width%PoolHeads != 0:
		return fmt.Errorf("vision_cfg.width %d is not a multiple of %d", v.Width, PoolHeads)
	}
	if err := checkHeads(c); err != nil {
		return err
	}
	return checkOnly(c, Vision{ImageSize: v.ImageSize, Layers: v.Layers, Width: v.Width, HeadWidth: v.HeadWidth, MLPRatio: v.MLPRatio,
		PatchSize: v.PatchSize, NoClass: v.NoClass})
}

// timmBlocks adds the blocks of timm's VisionTransformer, with biases.
func (b *builder) timmBlocks(w, hidden int) {
	for i := range b.cfg.Layers(VisualTower) {
		p := fmt.Sprintf("visual.blocks.%d.", i)
		b.affine(p+"norm1", w)
		b.affine(p+"attn.qkv", 3*w, w)
		b.affine(p+"attn.proj", w, w)
		b.affine(p+"norm2", w)
		b.affine(p+"mlp.fc1", hidden, w)
		b.affine(p+"mlp.fc2", w, hidden)
	}
}

func (b *builder) pe() {
	c, v := b.cfg, &b.cfg.Vision
	w := v.Width
	if !v.NoClass {
		b.add("visual.cls_token", 1, 1, w)
	}
	b.add("visual.pos_embed", 1, c.Tokens(), w)
	b.add("visual.patch_embed.proj.weight", w, 3, v.PatchSize, v.PatchSize)
	b.affine("visual.norm_pre", w)
	b.timmBlocks(w, c.VisionHidden())
	b.affine("visual.norm", w)
	b.add("visual.attn_pool.latent", 1, 1, w)
	b.add("visual.attn_pool.in_proj_weight", 3*w, w)
	b.add("visual.attn_pool.in_proj_bias", 3*w)
	b.affine("visual.attn_pool.proj", w, w)
	b.affine("visual.attn_pool.norm", w)
	b.affine("visual.attn_pool.mlp.fc1", 4*w, w)
	b.affine("visual.attn_pool.mlp.fc2", w, 4*w)
	b.affine("visual.head", c.EmbedDim, w)
}

func peMACs(c *Config) float64 {
	v := &c.Vision
	w, n := float64(v.Width), float64(c.Tokens())
	embed := float64(c.Grid()*c.Grid()) * w * float64(3*v.PatchSize*v.PatchSize)
	pool := (2*n+2)*w*w + 2*n*w + 8*w*w
	return embed + transformerMACs(c.Tokens(), v.Width, 2*c.VisionHidden(), c.Layers(VisualTower)) + pool + w*float64(c.EmbedDim)
}
