package arch

import "fmt"

// The transformers of MobileCLIP (arXiv 2311.17049) and MobileCLIP 2 (arXiv
// 2508.20691) as timm builds them, with a head that has a bias. B has a stem of three
// convolutions as patch embedding (StemWidth), positions only for the patches, and
// epsilon 1e-6; L-14 has OpenAI's patch embedding followed by a norm.
var mobileclipVision = visionTower{
	check: checkMobileCLIP, params: (*builder).mobileclip, macs: mobileclipMACs, widest: (*Config).vitWidest,
	patches: true, class: true, embed: "visual.pos_embed", timm: timmMobileCLIP,
	timmHead: map[string]string{"timm_pool": "token", "timm_proj": ""},
}

var mobileclips = map[string]Vision{
	"vit_base_mci_224":           {ImageSize: 224, Layers: Layers{12}, Width: 768, PatchSize: 16, StemWidth: 192},
	"vit_large_patch14_clip_224": {ImageSize: 224, Layers: Layers{24}, Width: 1024, PatchSize: 14},
}

func timmMobileCLIP(name string) (*Vision, bool) {
	v, ok := mobileclips[name]
	v.Tower, v.HeadWidth, v.MLPRatio, v.QKVBias = "mobileclip", 64, 4, true
	return &v, ok
}

func checkMobileCLIP(c *Config) error {
	v := &c.Vision
	switch {
	case len(v.Layers) != 1:
		return fmt.Errorf("vision_cfg.layers is %v; want one number", []int(v.Layers))
	case v.StemWidth < 0 || v.StemWidth > 1<<13:
		return fmt.Errorf("vision_cfg.stem_width is %d; want 1 to %d, or none", v.StemWidth, 1<<13)
	case v.StemWidth > 0 && (v.PatchSize != 16 || v.ImageSize%16 != 0):
		return fmt.Errorf("vision_cfg.patch_size is %d and image_size %d; a mobileclip tower with a stem needs 16 and a multiple of it", v.PatchSize, v.ImageSize)
	}
	if err := checkHeads(c); err != nil {
		return err
	}
	return checkOnly(c, Vision{ImageSize: v.ImageSize, Layers: v.Layers, Width: v.Width, HeadWidth: v.HeadWidth, MLPRatio: v.MLPRatio,
		PatchSize: v.PatchSize, StemWidth: v.StemWidth})
}

func (b *builder) mobileclip() {
	c, v := b.cfg, &b.cfg.Vision
	w := v.Width
	b.add("visual.cls_token", 1, 1, w)
	if s := v.StemWidth; s > 0 {
		b.add("visual.pos_embed", 1, c.Tokens()-1, w)
		b.branch("visual.patch_embed.backbone.0", s, 3, 4)
		b.branch("visual.patch_embed.backbone.1", s, s, 2)
		b.affine("visual.patch_embed.backbone.2.conv", w, s, 2, 2)
	} else {
		b.add("visual.pos_embed", 1, c.Tokens(), w)
		b.add("visual.patch_embed.proj.weight", w, 3, v.PatchSize, v.PatchSize)
		b.affine("visual.norm_pre", w)
	}
	b.timmBlocks(w, c.VisionHidden())
	b.affine("visual.norm", w)
	b.affine("visual.head", c.EmbedDim, w)
}

func mobileclipMACs(c *Config) float64 {
	v := &c.Vision
	embed := float64(c.Grid()*c.Grid()) * float64(v.Width*3*v.PatchSize*v.PatchSize)
	if s := v.StemWidth; s > 0 {
		embed = float64(c.Grid()*c.Grid()) * float64(16*s*48+4*s*s*4+v.Width*s*4)
	}
	return embed + transformerMACs(c.Tokens(), v.Width, 2*c.VisionHidden(), c.Layers(VisualTower)) + float64(v.Width*c.EmbedDim)
}
