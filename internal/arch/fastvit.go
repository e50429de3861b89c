package arch

import "fmt"

// FastViT (arXiv 2303.14189) as in MobileCLIP's S0 to S4 and as timm builds it. Layers
// are the blocks of its stages, Width the channels of the first; each stage has twice
// as many as the one before. The stages from the fourth on have attention. Towers of
// five stages (S3, S4) have LayerNorm there, no 1×1 branches in the stem and no
// squeeze-and-excitation between the stages.
var fastvitVision = visionTower{
	check: checkFastViT, params: (*builder).fastvit, macs: fastvitMACs,
	widest: func(c *Config) int { return c.cells(4) * c.VisionHidden() },
	timm:   timmFastViT, timmHead: map[string]string{"timm_pool": "avg", "timm_proj": ""},
}

var fastvits = map[string]Vision{
	"fastvit_mci0": {Layers: Layers{2, 6, 10, 2}, Width: 64, MLPRatio: 3},
	"fastvit_mci1": {Layers: Layers{4, 12, 20, 4}, Width: 64, MLPRatio: 3},
	"fastvit_mci2": {Layers: Layers{4, 12, 24, 4}, Width: 80, MLPRatio: 3},
	"fastvit_mci3": {Layers: Layers{2, 12, 24, 4, 2}, Width: 96, MLPRatio: 4},
	"fastvit_mci4": {Layers: Layers{2, 12, 24, 4, 4}, Width: 128, MLPRatio: 4},
}

func timmFastViT(name string) (*Vision, bool) {
	v, ok := fastvits[name]
	v.Tower, v.ImageSize, v.HeadWidth, v.QKVBias = "fastvit", 256, 32, true
	return &v, ok
}

// Attends reports whether a stage of FastViT has attention.
func (c *Config) Attends(stage int) bool { return stage >= 3 }

// five reports whether a FastViT has five stages.
func (v *Vision) five() bool { return len(v.Layers) == 5 }

func checkFastViT(c *Config) error {
	v := &c.Vision
	switch {
	case len(v.Layers) != 4 && len(v.Layers) != 5:
		return fmt.Errorf("vision_cfg.layers is %v; want four or five numbers", []int(v.Layers))
	case v.HeadWidth != 32 || v.Width*8%32 != 0:
		return fmt.Errorf("vision_cfg.head_width is %d and width %d; a fastvit tower needs 32 and a multiple of 4", v.HeadWidth, v.Width)
	case v.Width < 4 || v.Width > 1<<12:
		return fmt.Errorf("vision_cfg.width is %d; want 4 to %d", v.Width, 1<<12)
	}
	return checkOnly(c, Vision{ImageSize: v.ImageSize, Layers: v.Layers, Width: v.Width, HeadWidth: v.HeadWidth, MLPRatio: v.MLPRatio})
}

// batchNorm adds BatchNorm over n channels.
func (b *builder) batchNorm(name string, n int) {
	b.affine(name, n)
	b.add(name+".running_mean", n)
	b.add(name+".running_var", n)
}

// branch adds a convolution without bias and its BatchNorm.
func (b *builder) branch(name string, out, in, k int) {
	b.add(name+".conv.weight", out, in, k, k)
	b.batchNorm(name+".bn", out)
}

// squeezeExcite adds the two layers of squeeze-and-excitation.
func (b *builder) squeezeExcite(name string, n, hidden int) {
	b.affine(name+".fc1", hidden, n, 1, 1)
	b.affine(name+".fc2", n, hidden, 1, 1)
}

func (b *builder) fastvit() {
	v, w := &b.cfg.Vision, b.cfg.Vision.Width
	stem := func(name string, in int) {
		b.branch(name+".conv_kxk.0", w, in, 3)
		if !v.five() {
			b.branch(name+".conv_scale", w, in, 1)
		}
	}
	stem("visual.stem.0", 3)
	stem("visual.stem.1", 1)
	b.batchNorm("visual.stem.2.identity", w)
	b.branch("visual.stem.2.conv_kxk.0", w, w, 1)
	for stage, depth := range v.Layers {
		p := fmt.Sprintf("visual.stages.%d.", stage)
		if stage > 0 {
			w *= 2
			d := p + "downsample.proj."
			b.branch(d+"0.large_conv", w, 1, 7)
			b.branch(d+"0.small_conv", w, 1, 3)
			if !v.five() && stage >= 2 {
				b.squeezeExcite(d+"0.se", w, max(8, (w/4+4)/8*8))
			}
			b.batchNorm(d+"1.identity", w)
			b.branch(d+"1.conv_kxk.0", w, w, 1)
		}
		if b.cfg.Attends(stage) {
			b.affine(p+"pos_emb.pos_enc", w, 1, 7, 7)
		}
		for i := range depth {
			b.fastvitBlock(fmt.Sprintf("%sblocks.%d.", p, i), w, b.cfg.Attends(stage))
		}
	}
	b.squeezeExcite("visual.final_conv.se", 2*w, (2*w+8)/16)
	b.branch("visual.final_conv.conv_kxk.0", 2*w, 1, 3)
	b.branch("visual.final_conv.conv_scale", 2*w, 1, 1)
	b.affine("visual.head.fc", b.cfg.EmbedDim, 2*w)
}

func (b *builder) fastvitBlock(k string, w int, attends bool) {
	v := &b.cfg.Vision
	hidden := int(float64(w) * v.MLPRatio)
	scale := k + "layer_scale.gamma"
	switch {
	case attends && v.five():
		b.affine(k+"norm", w)
	case attends:
		b.batchNorm(k+"norm", w)
	}
	if attends {
		b.add(k+"token_mixer.qkv.weight", 3*w, w)
		b.affine(k+"token_mixer.proj", w, w)
		b.add(k+"layer_scale_1.gamma", w, 1, 1)
		scale = k + "layer_scale_2.gamma"
	} else {
		m := k + "token_mixer."
		b.batchNorm(m+"norm.identity", w)
		b.batchNorm(m+"mixer.identity", w)
		b.branch(m+"mixer.conv_kxk.0", w, 1, 3)
		b.branch(m+"mixer.conv_scale", w, 1, 1)
		b.add(m+"layer_scale.gamma", w, 1, 1)
	}
	b.branch(k+"mlp.conv", w, 1, 7)
	b.affine(k+"mlp.fc1", hidden, w, 1, 1)
	b.affine(k+"mlp.fc2", w, hidden, 1, 1)
	b.add(scale, w, 1, 1)
}

// fastvitMACs counts all branches of a convolution as one.
func fastvitMACs(c *Config) float64 {
	v := &c.Vision
	w := v.Width
	half := func(side int) int { return (side + 1) / 2 }
	at := func(side, macs int) float64 { return float64(side*side) * float64(macs) }
	side := half(v.ImageSize)
	sum := at(side, w*27)
	side = half(side)
	sum += at(side, w*9+w*w)
	for stage, depth := range v.Layers {
		if stage > 0 {
			w *= 2
			side = half(side)
			sum += at(side, w*49+w*w)
		}
		hidden := int(float64(w) * v.MLPRatio)
		if c.Attends(stage) {
			sum += at(side, w*49) + transformerMACs(side*side, w, 2*hidden, depth) + float64(depth)*at(side, w*49)
		} else {
			sum += float64(depth) * at(side, w*9+w*49+2*w*hidden)
		}
	}
	return sum + at(side, 2*w*9) + float64(2*w*c.EmbedDim)
}
