package convert

// flatCLIP is OpenAI's naming, which OpenCLIP's CLIP class has kept: the text
// tower's tensors stand beside "visual.…" without a prefix. It holds for
// vision transformers and ResNets alike.
var flatCLIP = &family{
	name: "clip",
	fits: "visual.conv1.weight",
	has:  []string{"token_embedding.weight", "positional_embedding"},
	rules: []rule{
		{eva: "logit_scale", src: []string{"logit_scale"}},
		{eva: "visual.*", src: []string{"visual.*"}},
		{eva: "text.positional_embedding", src: []string{"positional_embedding"}},
		{eva: "text.text_projection", src: []string{"text_projection"}},
		{eva: "text.token_embedding.weight", src: []string{"token_embedding.weight"}},
		{eva: "text.transformer.*", src: []string{"transformer.*"}},
		{eva: "text.ln_final.*", src: []string{"ln_final.*"}},
	},
}
