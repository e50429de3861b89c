package arch

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// The contrastive half of CoCa (arXiv 2205.01917) as OpenCLIP builds it: a transformer
// whose tokens are pooled by attention from learned queries, the first of which gives
// the image's feature, and a text tower with a learned token after the text. The
// captioning decoder is left out.
var cocaVision = visionTower{
	check: checkCoCa, params: (*builder).cocaVision, macs: cocaMACs, widest: (*Config).vitWidest,
	patches: true, class: true, embed: "visual.positional_embedding",
}

// attentionalPool reads OpenCLIP's key for CoCa's image tower.
func attentionalPool(c *Config, vision object) error {
	keys := map[string]*int{"attn_pooler_queries": &c.Vision.PoolQueries, "n_queries": &c.Vision.PoolQueries, "attn_pooler_heads": &c.Vision.PoolHeads}
	pools := compact(vision["attentional_pool"]) == "true" // false and null have no effect; dropNeutral refuses the rest
	if pools {
		delete(vision, "attentional_pool")
		c.Vision.Tower = "coca"
	}
	if pools || compact(vision["tower"]) == `"coca"` {
		c.Vision.PoolQueries, c.Vision.PoolHeads = 256, 8
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if raw, ok := vision[k]; ok && c.Vision.PoolQueries > 0 {
			if err := json.Unmarshal(raw, keys[k]); err != nil {
				return fmt.Errorf("vision_cfg.%s: %w", k, err)
			}
		}
		delete(vision, k) // has no effect without such a pool
	}
	return nil
}

func checkCoCa(c *Config) error {
	v := &c.Vision
	switch {
	case len(v.Layers) != 1:
		return fmt.Errorf("vision_cfg.layers is %v; want one number", []int(v.Layers))
	case v.PoolQueries < 1 || v.PoolQueries > 1<<16:
		return fmt.Errorf("vision_cfg.attn_pooler_queries is %d; want 1 to %d", v.PoolQueries, 1<<16)
	case v.PoolHeads < 1 || c.EmbedDim%v.PoolHeads != 0:
		return fmt.Errorf("embed_dim %d is not a multiple of vision_cfg.attn_pooler_heads %d", c.EmbedDim, v.PoolHeads)
	}
	if err := checkHeads(c); err != nil {
		return err
	}
	return checkOnly(c, Vision{ImageSize: v.ImageSize, Layers: v.Layers, Width: v.Width, HeadWidth: v.HeadWidth, MLPRatio: v.MLPRatio,
		PatchSize: v.PatchSize, LSInit: v.LSInit, NoLnPre: v.NoLnPre, PoolQueries: v.PoolQueries, PoolHeads: v.PoolHeads})
}

func (b *builder) cocaVision() {
	c, v := b.cfg, &b.cfg.Vision
	w, e := v.Width, c.EmbedDim
	b.add("visual.class_embedding", w)
	b.add("visual.positional_embedding", c.Tokens(), w)
	b.add("visual.proj", e, e)
	b.add("visual.conv1.weight", w, 3, v.PatchSize, v.PatchSize)
	if !v.NoLnPre {
		b.affine("visual.ln_pre", w)
	}
	b.resblocks("visual.transformer", VisualTower, w, c.VisionHidden())
	const p = "visual.attn_pool."
	b.add(p+"query", v.PoolQueries, e)
	if w == e {
		b.add(p+"attn.in_proj_weight", 3*e, e)
	} else {
		b.add(p+"attn.q_proj_weight", e, e)
		b.add(p+"attn.k_proj_weight", e, w)
		b.add(p+"attn.v_proj_weight", e, w)
	}
	b.add(p+"attn.in_proj_bias", 3*e)
	b.affine(p+"attn.out_proj", e, e)
	b.affine(p+"ln_q", e)
	b.affine(p+"ln_k", w)
	b.affine("visual.ln_post", e)
}

// cocaMACs counts one query, the one that gives the feature.
func cocaMACs(c *Config) float64 {
	w, e, n := float64(c.Vision.Width), float64(c.EmbedDim), float64(c.Tokens())
	return c.vitMACs() - w*e + 2*n*w*e + 2*n*e + 3*e*e
}

// checkCoCaText refuses what the text tower with a token after the text does not
// support.
func checkCoCaText(c *Config) error {
	if t := &c.Text; t.PoolType != "" || !t.AttnMask {
		return fmt.Errorf("text_cfg.embed_cls is not supported with pool_type %q or no_causal_mask", t.PoolType)
	}
	return nil
}

// TextPositions is the number of the text tower's positions.
func (c *Config) TextPositions() int {
	if c.Text.EmbedCLS {
		return c.Text.ContextLength + 1
	}
	return c.Text.ContextLength
}
