package checkpoint

import (
	"slices"
	"strings"
)

// hfTowers are transformers' CLIPVisionModel and CLIPTextModel. With a projection
// the names are CLIPModel's (for a text tower, hfCLIP covers them); without one
// they may lack "vision_model." or "text_model.".
var hfTowers = []*family{
	{name: "hf-clip-tower", has: []string{"vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight"}, rules: hfCLIP.rules},
	{name: "hf-clip-tower", has: []string{"embeddings.class_embedding", "pre_layrnorm.weight"}, rules: hfBare("vision_model.")},
	{name: "hf-clip-tower", has: []string{"embeddings.token_embedding.weight", "final_layer_norm.weight"}, rules: hfBare("text_model.")},
}

// hfBare are the rules of one tower without its prefix.
func hfBare(prefix string) (rules []rule) {
	for _, r := range hfCLIP.rules {
		if !strings.HasPrefix(r.src[0], prefix) {
			continue
		}
		bare := rule{eva: r.eva, op: r.op}
		for _, s := range r.src {
			bare.src = append(bare.src, strings.TrimPrefix(s, prefix))
		}
		rules = append(rules, bare)
	}
	return rules
}

// hfCLIP is transformers' CLIPModel: query, key and value are separate, and
// projections are Linear weights. "pre_layrnorm" is its spelling.
var hfCLIP = &family{
	name: "hf-clip",
	fits: "vision_model.embeddings.class_embedding",
	has:  []string{"text_model.embeddings.token_embedding.weight"},
	rules: append(append([]rule{
		{eva: "logit_scale", src: []string{"logit_scale"}},
		{eva: "visual.class_embedding", src: []string{"vision_model.embeddings.class_embedding"}},
		{eva: "visual.conv1.weight", src: []string{"vision_model.embeddings.patch_embedding.weight"}},
		{eva: "visual.positional_embedding", src: []string{"vision_model.embeddings.position_embedding.weight"}},
		{eva: "visual.ln_pre.*", src: []string{"vision_model.pre_layrnorm.*"}},
		{eva: "visual.ln_post.*", src: []string{"vision_model.post_layernorm.*"}},
		{eva: "visual.proj", src: []string{"visual_projection.weight"}, op: transpose},
		{eva: "text.token_embedding.weight", src: []string{"text_model.embeddings.token_embedding.weight"}},
		{eva: "text.positional_embedding", src: []string{"text_model.embeddings.position_embedding.weight"}},
		{eva: "text.ln_final.*", src: []string{"text_model.final_layer_norm.*"}},
		{eva: "text.text_projection", src: []string{"text_projection.weight"}, op: transpose},
	},
		hfBlocks("visual.transformer.resblocks.#.", "vision_model.encoder.layers.#.")...),
		hfBlocks("text.transformer.resblocks.#.", "text_model.encoder.layers.#.")...),
}

// hfEVA is the EvaCLIPModel in the code of the repositories of EVA-CLIP-8B and 18B
// for transformers. It is read, not written: transformers itself has no such
// model.
var hfEVA = &family{
	name: "hf-eva-clip",
	has:  []string{"text_model.embeddings.token_embedding.weight", "vision_model.embeddings.patch_embedding.bias", "vision_model.embeddings.class_embedding"},
	rules: slices.Concat([]rule{
		{eva: "visual.cls_token", src: []string{"vision_model.embeddings.class_embedding"}, one: 2},
		{eva: "visual.pos_embed", src: []string{"vision_model.embeddings.position_embedding.weight"}, one: 1},
		{eva: "visual.patch_embed.proj.*", src: []string{"vision_model.embeddings.patch_embedding.*"}},
		{eva: "visual.blocks.#.attn.qkv.weight", src: hfQKV("vision_model.encoder.layers.#.", "weight")},
		{eva: "visual.blocks.#.attn.q_bias", src: []string{"vision_model.encoder.layers.#.self_attn.q_proj.bias"}},
		{eva: "visual.blocks.#.attn.v_bias", src: []string{"vision_model.encoder.layers.#.self_attn.v_proj.bias"}},
		{eva: "visual.blocks.#.attn.proj.*", src: []string{"vision_model.encoder.layers.#.self_attn.out_proj.*"}},
		{eva: "visual.blocks.#.norm1.*", src: []string{"vision_model.encoder.layers.#.layer_norm1.*"}},
		{eva: "visual.blocks.#.norm2.*", src: []string{"vision_model.encoder.layers.#.layer_norm2.*"}},
		{eva: "visual.blocks.#.mlp.*", src: []string{"vision_model.encoder.layers.#.mlp.*"}},
		{eva: "visual.norm.*", src: []string{"vision_model.post_layernorm.*"}},
		{eva: "visual.head.*", src: []string{"visual_projection.*"}},
	}, slices.DeleteFunc(slices.Clone(hfCLIP.rules), func(r rule) bool { return strings.HasPrefix(r.eva, "visual.") })),
}

// hfQKV are the names of query, key and value in one of transformers' blocks.
func hfQKV(block, kind string) []string {
	return []string{block + "self_attn.q_proj." + kind, block + "self_attn.k_proj." + kind, block + "self_attn.v_proj." + kind}
}

func hfBlocks(eva, hf string) []rule {
	return []rule{
		{eva: eva + "attn.in_proj_weight", src: hfQKV(hf, "weight")},
		{eva: eva + "attn.in_proj_bias", src: hfQKV(hf, "bias")},
		{eva: eva + "attn.out_proj.*", src: []string{hf + "self_attn.out_proj.*"}},
		{eva: eva + "ln_1.*", src: []string{hf + "layer_norm1.*"}},
		{eva: eva + "ln_2.*", src: []string{hf + "layer_norm2.*"}},
		{eva: eva + "mlp.c_fc.*", src: []string{hf + "mlp.fc1.*"}},
		{eva: eva + "mlp.c_proj.*", src: []string{hf + "mlp.fc2.*"}},
	}
}
