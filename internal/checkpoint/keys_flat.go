package checkpoint

// flatCLIP is OpenAI's naming, which OpenCLIP's CLIP class keeps: the text tower's
// tensors stand beside "visual.…" without a prefix. It is the same for vision
// transformers and ResNets.
var flatCLIP = &family{
	name: "clip",
	fits: "visual.conv1.weight",
	has:  []string{"token_embedding.weight", "positional_embedding"},
	rules: []rule{
		{eva: "logit_scale", src: []string{"logit_scale"}},
		{eva: "logit_bias", src: []string{"logit_bias"}},
		{eva: "visual.*", src: []string{"visual.*"}},
		{eva: "text.positional_embedding", src: []string{"positional_embedding"}},
		{eva: "text.text_projection", src: []string{"text_projection"}},
		{eva: "text.token_embedding.weight", src: []string{"token_embedding.weight"}},
		{eva: "text.transformer.*", src: []string{"transformer.*"}},
		{eva: "text.ln_final.*", src: []string{"ln_final.*"}},
	},
}

// flatTowers are the vision towers of such models alone, with and without
// "visual.": a transformer or a ResNet.
var flatTowers = []*family{
	{name: "clip-tower", has: []string{"visual.conv1.weight", "visual.class_embedding", "visual.ln_pre.weight"}, rules: towerRules},
	{name: "clip-tower", has: []string{"visual.conv1.weight", "visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding"}, rules: towerRules},
	{name: "clip-tower", has: []string{"conv1.weight", "class_embedding", "ln_pre.weight"}, rules: bareRules("class_embedding", "positional_embedding", "proj", "conv1.*", "ln_pre.*", "ln_post.*", "transformer.*")},
	{name: "clip-tower", has: []string{"conv1.weight", "layer1.0.conv1.weight", "attnpool.positional_embedding"}, rules: bareRules("conv#.*", "bn#.*", "layer#.*", "attnpool.*")},
}

var towerRules = []rule{
	{eva: "logit_scale", src: []string{"logit_scale"}},
	{eva: "visual.*", src: []string{"visual.*"}},
}

func bareRules(names ...string) (rules []rule) {
	for _, n := range names {
		rules = append(rules, rule{eva: "visual." + n, src: []string{n}})
	}
	return rules
}
