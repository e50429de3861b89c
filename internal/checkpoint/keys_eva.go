package checkpoint

// evaCLIP is the naming of EVA-CLIP's CustomCLIP, and of OpenCLIP's CustomTextCLIP
// with OpenCLIP's own vision tower.
var evaCLIP = &family{
	name: "eva-clip",
	has:  []string{"text.token_embedding.weight"},
	rules: []rule{
		{eva: "logit_scale", src: []string{"logit_scale"}},
		{eva: "logit_bias", src: []string{"logit_bias"}},
		{eva: "logit_scale", src: []string{"text.logit_scale"}},
		{eva: "visual.*", src: []string{"visual.*"}},
		{eva: "text.*", src: []string{"text.*"}},
	},
}

// evaTower is the vision tower of such a model alone, as convert writes it.
var evaTower = &family{
	name:  "eva-clip",
	has:   []string{"visual.cls_token", "visual.pos_embed", "visual.blocks.0.norm1.weight"},
	rules: []rule{{eva: "visual.*", src: []string{"visual.*"}}},
}

// bareTower is an EVA vision tower alone, as in the masked-image-modelling
// checkpoints (EVA01_g, EVA02_B, L, E) and in timm's towers without SwiGLU.
var bareTower = &family{
	name: "eva-tower",
	has:  []string{"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight"},
	rules: []rule{
		{eva: "visual.cls_token", src: []string{"cls_token"}},
		{eva: "visual.pos_embed", src: []string{"pos_embed"}},
		{eva: "visual.patch_embed.*", src: []string{"patch_embed.*"}},
		{eva: "visual.blocks.#.attn.inner_attn_ln.*", src: []string{"blocks.#.attn.norm.*"}},
		{eva: "visual.blocks.#.mlp.ffn_ln.*", src: []string{"blocks.#.mlp.norm.*"}},
		{eva: "visual.blocks.*", src: []string{"blocks.*"}},
		{eva: "visual.norm.*", src: []string{"norm.*"}},
		{eva: "visual.fc_norm.*", src: []string{"fc_norm.*"}},
		{eva: "visual.head.*", src: []string{"head.*"}},
	},
}
