package checkpoint

import "slices"

// scalars belong to no tower and have the same names everywhere.
var scalars = []rule{
	{eva: "logit_scale", src: []string{"logit_scale"}},
	{eva: "logit_bias", src: []string{"logit_bias"}},
}

// timmSigLIP is OpenCLIP's SigLIP. EVA's layout has the attention pool's query, key
// and value in one matrix, timm in two.
var timmSigLIP = timmOther("timm-siglip", "attn_pool.latent",
	rule{eva: "visual.attn_pool.in_proj_weight", src: []string{"visual.trunk.attn_pool.q.weight", "visual.trunk.attn_pool.kv.weight"}, rows: []int64{1, 2}},
	rule{eva: "visual.attn_pool.in_proj_bias", src: []string{"visual.trunk.attn_pool.q.bias", "visual.trunk.attn_pool.kv.bias"}, rows: []int64{1, 2}},
)

// hfSigLIP is transformers' SiglipModel.
var hfSigLIP = &family{
	name: "hf-siglip",
	has:  []string{"text_model.embeddings.token_embedding.weight", "vision_model.head.probe", "logit_bias"},
	rules: slices.Concat([]rule{
		{eva: "logit_scale", src: []string{"logit_scale"}, list: true},
		{eva: "logit_bias", src: []string{"logit_bias"}, list: true},
		{eva: "visual.patch_embed.proj.*", src: []string{"vision_model.embeddings.patch_embedding.*"}},
		{eva: "visual.pos_embed", src: []string{"vision_model.embeddings.position_embedding.weight"}, one: 1},
		{eva: "visual.blocks.#.norm1.*", src: []string{"vision_model.encoder.layers.#.layer_norm1.*"}},
		{eva: "visual.blocks.#.norm2.*", src: []string{"vision_model.encoder.layers.#.layer_norm2.*"}},
		{eva: "visual.blocks.#.attn.qkv.weight", src: hfQKV("vision_model.encoder.layers.#.", "weight")},
		{eva: "visual.blocks.#.attn.qkv.bias", src: hfQKV("vision_model.encoder.layers.#.", "bias")},
		{eva: "visual.blocks.#.attn.proj.*", src: []string{"vision_model.encoder.layers.#.self_attn.out_proj.*"}},
		{eva: "visual.blocks.#.mlp.*", src: []string{"vision_model.encoder.layers.#.mlp.*"}},
		{eva: "visual.norm.*", src: []string{"vision_model.post_layernorm.*"}},
		{eva: "visual.attn_pool.latent", src: []string{"vision_model.head.probe"}},
		{eva: "visual.attn_pool.in_proj_weight", src: []string{"vision_model.head.attention.in_proj_weight"}},
		{eva: "visual.attn_pool.in_proj_bias", src: []string{"vision_model.head.attention.in_proj_bias"}},
		{eva: "visual.attn_pool.proj.*", src: []string{"vision_model.head.attention.out_proj.*"}},
		{eva: "visual.attn_pool.norm.*", src: []string{"vision_model.head.layernorm.*"}},
		{eva: "visual.attn_pool.mlp.*", src: []string{"vision_model.head.mlp.*"}},
		{eva: "text.token_embedding.weight", src: []string{"text_model.embeddings.token_embedding.weight"}},
		{eva: "text.positional_embedding", src: []string{"text_model.embeddings.position_embedding.weight"}},
		{eva: "text.ln_final.*", src: []string{"text_model.final_layer_norm.*"}},
		{eva: "text.text_projection.*", src: []string{"text_model.head.*"}},
	}, hfBlocks("text.transformer.resblocks.#.", "text_model.encoder.layers.#.")),
}
