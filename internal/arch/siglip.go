package arch

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
)

// SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786): a transformer without a
// class token whose patches are pooled by attention from one learned query, and a
// text tower without a causal mask that pools at the last token.
var siglipVision = visionTower{
	check: checkSigLIP, params: (*builder).siglip, macs: siglipMACs, widest: (*Config).vitWidest,
	patches: true, embed: "visual.pos_embed", timm: timmSigLIP,
	timmHead: map[string]string{"timm_pool": "map", "timm_proj": "none"},
}

// siglipSizes are the towers by timm's name of their size.
var siglipSizes = map[string]Vision{
	"base":     {Layers: Layers{12}, Width: 768, HeadWidth: 64, MLPRatio: 4},
	"large":    {Layers: Layers{24}, Width: 1024, HeadWidth: 64, MLPRatio: 4},
	"so400m":   {Layers: Layers{27}, Width: 1152, HeadWidth: 72, MLPRatio: 3.7362},
	"giantopt": {Layers: Layers{40}, Width: 1536, HeadWidth: 96, MLPRatio: 4},
}

// siglipTanh are the towers to which timm gives the tanh approximation of GELU.
var siglipTanh = map[string]bool{
	"base_patch32_siglip_256": true, "large_patch16_siglip_512": true,
	"so400m_patch16_siglip_256": true, "so400m_patch16_siglip_384": true, "so400m_patch16_siglip_512": true,
	"giantopt_patch16_siglip_256": true, "giantopt_patch16_siglip_384": true,
}

var siglipName = regexp.MustCompile(`^vit_((base|large|so400m|giantopt)_patch(\d{1,3})_siglip_(\d{1,4}))$`)

func timmSigLIP(name string) (*Vision, bool) {
	m := siglipName.FindStringSubmatch(name)
	if m == nil {
		return nil, false
	}
	v := siglipSizes[m[2]]
	v.Tower = "siglip"
	v.PatchSize, _ = strconv.Atoi(m[3])
	v.ImageSize, _ = strconv.Atoi(m[4])
	if siglipTanh[m[1]] {
		v.Act = "gelu_tanh"
	}
	return &v, true
}

func checkSigLIP(c *Config) error {
	v := &c.Vision
	switch {
	case len(v.Layers) != 1:
		return fmt.Errorf("vision_cfg.layers is %v; want one number", []int(v.Layers))
	case v.Act != "" && v.Act != "gelu" && v.Act != "gelu_tanh":
		return fmt.Errorf("vision_cfg.act %q: want gelu or gelu_tanh", v.Act)
	case c.EmbedDim != v.Width:
		return fmt.Errorf("embed_dim is %d, but vision_cfg.width %d: a siglip tower has no projection", c.EmbedDim, v.Width)
	case !v.QKVBias || v.LSInit != nil || v.AveragePool || v.NoLnPre || v.PoolType != "" || v.LnAfterPool || c.IsEVA() || c.QuickGELU:
		return fmt.Errorf("vision_cfg: a siglip tower takes only image_size, layers, width, head_width, mlp_ratio, patch_size and act")
	}
	return checkHeads(c)
}

func checkSigLIPText(c *Config) error {
	t := &c.Text
	switch {
	case t.NormKwargs != nil && t.NormKwargs.Eps != 1e-6:
		return fmt.Errorf("text_cfg.norm_kwargs.eps is %v; want 1e-06 or 1e-05", t.NormKwargs.Eps)
	case t.ActKwargs != nil && t.ActKwargs.Approximate != "tanh":
		return fmt.Errorf("text_cfg.act_kwargs.approximate is %q; want tanh or none", t.ActKwargs.Approximate)
	case t.ProjType != "" && t.ProjType != "none":
		return fmt.Errorf("text_cfg.proj_type is %q; want linear or none", t.ProjType)
	case t.ProjType == "none" && (t.ProjBias || t.Width != c.EmbedDim):
		return fmt.Errorf("text_cfg.proj_type none: want width %d to be embed_dim %d, and no proj_bias", t.Width, c.EmbedDim)
	}
	return nil
}

// siglip adds timm's tensors without the "trunk." prefix; the attention pool's query,
// key and value are one matrix, as in transformers.
func (b *builder) siglip() {
	c, v := b.cfg, &b.cfg.Vision
	w, hidden := v.Width, c.VisionHidden()
	b.add("visual.pos_embed", 1, c.Tokens(), w)
	b.affine("visual.patch_embed.proj", w, 3, v.PatchSize, v.PatchSize)
	for i := range c.Layers(VisualTower) {
		p := fmt.Sprintf("visual.blocks.%d.", i)
		b.affine(p+"norm1", w)
		b.affine(p+"attn.qkv", 3*w, w)
		b.affine(p+"attn.proj", w, w)
		b.affine(p+"norm2", w)
		b.affine(p+"mlp.fc1", hidden, w)
		b.affine(p+"mlp.fc2", w, hidden)
	}
	b.affine("visual.norm", w)
	b.add("visual.attn_pool.latent", 1, 1, w)
	b.add("visual.attn_pool.in_proj_weight", 3*w, w)
	b.add("visual.attn_pool.in_proj_bias", 3*w)
	b.affine("visual.attn_pool.proj", w, w)
	b.affine("visual.attn_pool.norm", w)
	b.affine("visual.attn_pool.mlp.fc1", hidden, w)
	b.affine("visual.attn_pool.mlp.fc2", w, hidden)
}

// textProjection adds the projection of the tower that pools at the last token.
func (b *builder) textProjection() {
	c, t := b.cfg, &b.cfg.Text
	switch {
	case t.ProjType == "none":
	case t.ProjBias:
		b.affine("text.text_projection", c.EmbedDim, t.Width)
	default:
		b.add("text.text_projection", t.Width, c.EmbedDim)
	}
}

func siglipMACs(c *Config) float64 {
	v := &c.Vision
	w, hidden, n := float64(v.Width), float64(c.VisionHidden()), float64(c.Tokens())
	embed := n * w * float64(3*v.PatchSize*v.PatchSize)
	pool := (2*n+2)*w*w + 2*n*w + 2*w*hidden // keys and values of all tokens, one query
	return embed + transformerMACs(c.Tokens(), v.Width, 2*c.VisionHidden(), c.Layers(VisualTower)) + pool
}

// SigLIPTokenizer stands for the tokenizer of transformers' SiglipModel, which does
// its own cleaning of texts.
const SigLIPTokenizer = "SigLIP's with transformers' own cleaning"

// parseHFSigLIP reads the configuration of transformers' SiglipModel.
func parseHFSigLIP(top object) (*Config, error) {
	type tower struct {
		hfTower
		Projection *int  `json:"projection_size"`
		Head       *bool `json:"vision_use_head"`
	}
	text := tower{hfTower: hfTower{HiddenSize: 768, IntermediateSize: 3072, Layers: 12, Heads: 12, HiddenAct: "gelu_pytorch_tanh", LayerNormEps: 1e-6, VocabSize: 32000, Positions: 64}}
	vision := tower{hfTower: hfTower{HiddenSize: 768, IntermediateSize: 3072, Layers: 12, Heads: 12, HiddenAct: "gelu_pytorch_tanh", LayerNormEps: 1e-6, ImageSize: 224, PatchSize: 16, NumChannels: 3}}
	for _, part := range []struct {
		key string
		dst *tower
	}{{"text_config", &text}, {"vision_config", &vision}} {
		if raw := top[part.key]; raw != nil && !isNull(raw) {
			if err := json.Unmarshal(raw, part.dst); err != nil {
				return nil, fmt.Errorf("%s: %w", part.key, err)
			}
		}
		t := part.dst
		switch {
		case t.LayerNormEps != 1e-6:
			return nil, fmt.Errorf("%s.layer_norm_eps is %v; want 1e-06", part.key, t.LayerNormEps)
		case t.HiddenAct != "gelu_pytorch_tanh" && t.HiddenAct != "gelu":
			return nil, fmt.Errorf("%s.hidden_act is %q; want gelu_pytorch_tanh or gelu", part.key, t.HiddenAct)
		case t.HiddenSize < 1 || t.Heads < 1 || t.HiddenSize%t.Heads != 0:
			return nil, fmt.Errorf("%s.hidden_size %d is not a multiple of num_attention_heads %d", part.key, t.HiddenSize, t.Heads)
		}
	}
	if vision.NumChannels != 3 || vision.Head != nil && !*vision.Head {
		return nil, fmt.Errorf("vision_config: want num_channels 3, and vision_use_head")
	}
	bias := -10.
	c := defaults()
	c.EmbedDim, c.LogitBias = vision.HiddenSize, &bias
	if p := text.Projection; p != nil && *p != c.EmbedDim || p == nil && text.HiddenSize != c.EmbedDim {
		return nil, fmt.Errorf("text_config.projection_size differs from vision_config.hidden_size, %d", c.EmbedDim)
	}
	v, t := &c.Vision, &c.Text
	v.Tower, v.ImageSize, v.PatchSize = "siglip", int(vision.ImageSize), int(vision.PatchSize)
	v.Layers, v.Width, v.HeadWidth = Layers{vision.Layers}, vision.HiddenSize, vision.HiddenSize/vision.Heads
	v.MLPRatio = ratio(vision.IntermediateSize, vision.HiddenSize)
	if vision.HiddenAct != "gelu" {
		v.Act = "gelu_tanh"
	}
	*t = Text{ContextLength: text.Positions, VocabSize: text.VocabSize, Width: text.HiddenSize, Heads: text.Heads, Layers: text.Layers,
		MLPRatio: ratio(text.IntermediateSize, text.HiddenSize), PoolType: "last", ProjBias: true, NormKwargs: &Norm{1e-6}, Tokenizer: SigLIPTokenizer}
	if text.HiddenAct != "gelu" {
		t.ActKwargs = &Act{"tanh"}
	}
	c.SetPreprocess(Preprocess{Mean: presets["inception"].Mean, Std: presets["inception"].Std, Interpolation: "bicubic", ResizeMode: Squash})
	return c, nil
}
