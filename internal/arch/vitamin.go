package arch

import (
	"fmt"
	"regexp"
	"strconv"
)

// ViTamin (arXiv 2404.02132) as timm builds it, with OpenCLIP's projection: two stages
// of inverted bottlenecks, then a transformer with gated MLPs.
var vitaminVision = visionTower{
	check: checkViTamin, params: (*builder).vitamin, macs: vitaminMACs,
	// The taps of the stem's second convolution.
	widest:  func(c *Config) int { return c.cells(2) * 9 * c.Vision.StemWidth },
	patches: true, embed: "visual.pos_embed", timm: timmViTamin, timmHead: map[string]string{"timm_pool": ""}, projects: true,
}

var vitamins = map[string]Vision{
	"small":  {Layers: Layers{14}, Width: 384, HeadWidth: 64, StemWidth: 64},
	"base":   {Layers: Layers{14}, Width: 768, HeadWidth: 64, StemWidth: 128},
	"large":  {Layers: Layers{31}, Width: 1024, HeadWidth: 64, StemWidth: 160},
	"large2": {Layers: Layers{31}, Width: 1024, HeadWidth: 64, StemWidth: 160},
	"xlarge": {Layers: Layers{32}, Width: 1152, HeadWidth: 72, StemWidth: 192, NoPosEmbed: true},
}

var vitaminName = regexp.MustCompile(`^vitamin_(small|base|large|large2|xlarge)_(224|256|336|384)$`)

func timmViTamin(name string) (*Vision, bool) {
	m := vitaminName.FindStringSubmatch(name)
	if m == nil {
		return nil, false
	}
	v := vitamins[m[1]]
	v.Tower, v.PatchSize, v.MLPRatio, v.QKVBias = "vitamin", 16, 2, true
	v.ImageSize, _ = strconv.Atoi(m[2])
	return &v, true
}

// ConvStages is the number of blocks in each of ViTamin's two convolutional stages.
func (c *Config) ConvStages() []int { return []int{2, 4} }

func checkViTamin(c *Config) error {
	v := &c.Vision
	switch {
	case len(v.Layers) != 1:
		return fmt.Errorf("vision_cfg.layers is %v; want one number", []int(v.Layers))
	case v.PatchSize != 16 || v.ImageSize%16 != 0:
		return fmt.Errorf("vision_cfg.patch_size is %d and image_size %d; a vitamin tower needs 16 and a multiple of it", v.PatchSize, v.ImageSize)
	case v.StemWidth < 1 || v.StemWidth > 1<<13:
		return fmt.Errorf("vision_cfg.stem_width is %d; want 1 to %d", v.StemWidth, 1<<13)
	case v.StemWidth%2 != 0:
		return fmt.Errorf("vision_cfg.stem_width is %d; want an even number", v.StemWidth)
	}
	if err := checkProj(c); err != nil {
		return err
	}
	if err := checkHeads(c); err != nil {
		return err
	}
	return checkOnly(c, Vision{ImageSize: v.ImageSize, Layers: v.Layers, Width: v.Width, HeadWidth: v.HeadWidth, MLPRatio: v.MLPRatio,
		PatchSize: v.PatchSize, StemWidth: v.StemWidth, NoPosEmbed: v.NoPosEmbed, Proj: v.Proj})
}

func (b *builder) vitamin() {
	c, v := b.cfg, &b.cfg.Vision
	w, hidden := v.Width, c.VisionHidden()
	if !v.NoPosEmbed {
		b.add("visual.pos_embed", 1, c.Tokens(), w)
	}
	const p = "visual.patch_embed.backbone."
	in := v.StemWidth
	b.affine(p+"stem.conv1", in, 3, 3, 3)
	b.affine(p+"stem.norm1", in)
	b.affine(p+"stem.conv2", in, in, 3, 3)
	for stage, depth := range c.ConvStages() {
		out := v.StemWidth << stage
		for i := range depth {
			k := fmt.Sprintf("%sstages.%d.%d.", p, stage, i)
			if i == 0 && in != out {
				b.affine(k+"shortcut.expand", out, in, 1, 1)
			}
			b.affine(k+"pre_norm", in)
			b.affine(k+"conv1_1x1", 4*out, in, 1, 1)
			b.affine(k+"conv2_kxk", 4*out, 1, 3, 3)
			b.affine(k+"conv3_1x1", out, 4*out, 1, 1)
			in = out
		}
	}
	b.affine(p+"pool.proj", w, in, 3, 3)
	b.affine(p+"pool.norm", in)
	for i := range c.Layers(VisualTower) {
		k := fmt.Sprintf("visual.blocks.%d.", i)
		b.affine(k+"norm1", w)
		b.affine(k+"attn.qkv", 3*w, w)
		b.affine(k+"attn.proj", w, w)
		b.affine(k+"norm2", w)
		b.affine(k+"mlp.norm", w)
		b.affine(k+"mlp.w0", hidden, w)
		b.affine(k+"mlp.w1", hidden, w)
		b.affine(k+"mlp.w2", w, hidden)
	}
	b.affine("visual.fc_norm", w)
	b.projection(w)
}

func vitaminMACs(c *Config) float64 {
	v := &c.Vision
	in, side := v.StemWidth, v.ImageSize/2
	at := func(side, macs int) float64 { return float64(side*side) * float64(macs) }
	sum := at(side, in*27+in*in*9)
	for stage, depth := range c.ConvStages() {
		out := v.StemWidth << stage
		for i := range depth {
			sum += at(side, in*4*out) // at full size before the stride
			if i == 0 {
				side /= 2
				if in != out {
					sum += at(side, in*out)
				}
			}
			sum += at(side, 4*out*9+4*out*out)
			in = out
		}
	}
	sum += at(v.ImageSize/16, in*v.Width*9)
	return sum + transformerMACs(c.Tokens(), v.Width, 3*c.VisionHidden(), c.Layers(VisualTower)) + c.projectionMACs(v.Width)
}
