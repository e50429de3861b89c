package arch

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The text towers that OpenCLIP takes from transformers (its HFTextEncoder): RoBERTa
// and XLM-RoBERTa (arXiv 1907.11692, 1911.02116), a transformer with post-norm, and
// the encoder of M2M100 (arXiv 2010.11125), of which NLLB is one. They mask padding,
// and their positions count only the other tokens.
var robertaText = textTower{check: checkHFText, params: (*builder).roberta, embedding: "text.transformer.embeddings.word_embeddings.weight"}

var m2m100Text = textTower{check: checkHFText, params: (*builder).m2m100, embedding: "text.transformer.embed_tokens.weight"}

// hfTexts are the models that published weights name. RoBERTa has two positions more
// than a text has tokens: they begin after that of the padding.
var hfTexts = map[string]Text{
	"roberta-base":                     hfRoBERTa(50265, 768, 12),
	"xlm-roberta-base":                 hfRoBERTa(250002, 768, 12),
	"xlm-roberta-large":                hfRoBERTa(250002, 1024, 24),
	"facebook/nllb-200-distilled-600M": hfNLLB(12, 4),
	"facebook/nllb-200-distilled-1.3B": hfNLLB(24, 8),
}

func hfRoBERTa(vocabulary, width, layers int) Text {
	return Text{Tower: "roberta", VocabSize: vocabulary, Width: width, Heads: width / 64, Layers: layers, MLPRatio: 4,
		Positions: 514, PadToken: 1, TokenTypes: 1}
}

func hfNLLB(layers int, ratio float64) Text {
	return Text{Tower: "m2m100", VocabSize: 256206, Width: 1024, Heads: 16, Layers: layers, MLPRatio: ratio,
		PadToken: 1, ScaleEmbedding: true}
}

// TextModel is the text model of transformers that a configuration names, or empty.
// Its config.json, if present, is what ParseText takes.
func TextModel(data []byte) string {
	type cfg struct {
		Text struct {
			Name string `json:"hf_model_name"`
		} `json:"text_cfg"`
	}
	var f struct {
		cfg
		Inner *cfg `json:"model_cfg"`
	}
	json.Unmarshal(data, &f) // Parse reports what is wrong
	if f.Inner != nil {
		return f.Inner.Text.Name
	}
	return f.Text.Name
}

// IsTextModel reports whether a config.json is of a text model that a configuration
// may name.
func IsTextModel(data []byte) bool {
	var f struct {
		Type string `json:"model_type"`
	}
	return json.Unmarshal(data, &f) == nil && hfKinds[f.Type] != ""
}

// hfKinds maps transformers' model_type to the kinds here.
var hfKinds = map[string]string{"roberta": "roberta", "xlm-roberta": "roberta", "m2m_100": "m2m100"}

// hfText reads the keys of a text tower of transformers into c and removes them from
// text, which keeps the others. Sizes in text take precedence over the model's.
func hfText(c *Config, top, text object, model []byte) error {
	var f struct {
		Name, Tower, Pooler, Proj string
	}
	for _, k := range []struct {
		dst  *string
		keys []string // OpenCLIP's, and their older spelling
		none string   // what null stands for
	}{{&f.Name, []string{"hf_model_name"}, ""}, {&f.Tower, []string{"tower"}, ""},
		{&f.Pooler, []string{"hf_pooler_type", "pooler_type"}, "mean_pooler"}, {&f.Proj, []string{"hf_proj_type", "proj"}, "none"}} {
		for _, key := range k.keys {
			raw, ok := text[key]
			if !ok || *k.dst != "" {
				continue
			}
			if err := json.Unmarshal(raw, k.dst); err != nil {
				return fmt.Errorf("text_cfg.%s: %w", key, err)
			}
			if isNull(raw) {
				*k.dst = k.none
			}
		}
	}
	if f.Name == "" && f.Tower == "" {
		return nil
	}
	if raw := top["multimodal_cfg"]; raw != nil && !isNull(raw) {
		return fmt.Errorf("multimodal_cfg beside text_cfg.hf_model_name %q is not supported", f.Name)
	}
	t := &c.Text
	if f.Name != "" {
		named, ok := hfTexts[strings.TrimPrefix(f.Name, hfRoBERTaOwner)]
		if model != nil {
			var err error
			if named, err = parseHFText(model); err != nil {
				return fmt.Errorf("the config.json of text_cfg.hf_model_name %q: %w", f.Name, err)
			}
		} else if !ok {
			return fmt.Errorf("text_cfg.hf_model_name %q is not supported; known: %s, and a folder with the config.json of such a model", f.Name, strings.Join(slices.Sorted(maps.Keys(hfTexts)), " "))
		}
		named.ContextLength = t.ContextLength
		// No tensor's shape depends on the heads, so heads without a width must match.
		if text["width"] == nil && text["heads"] != nil && compact(text["heads"]) != fmt.Sprint(named.Heads) {
			return fmt.Errorf("text_cfg.heads is %s, but %q has %d; for another model, give text_cfg.width, too", compact(text["heads"]), f.Name, named.Heads)
		}
		*t = named
	} else {
		*t = Text{Tower: f.Tower, ContextLength: t.ContextLength, VocabSize: t.VocabSize, Width: t.Width, Heads: t.Heads, Layers: t.Layers, MLPRatio: t.MLPRatio}
	}
	t.Pooler, t.Proj = f.Pooler, f.Proj
	if t.Pooler == "" {
		t.Pooler = "mean_pooler"
	}
	if t.Proj == "" {
		t.Proj = "mlp"
	}
	for _, k := range []string{"hf_model_name", "hf_pooler_type", "pooler_type", "hf_proj_type", "proj", "no_causal_mask"} {
		delete(text, k)
	}
	return nil
}

const hfRoBERTaOwner = "FacebookAI/"

// parseHFText reads the configuration of transformers' RobertaModel, XLMRobertaModel
// or M2M100Model, of which only the encoder is used.
func parseHFText(data []byte) (t Text, err error) {
	f := struct {
		Type       string  `json:"model_type"`
		Vocab      int     `json:"vocab_size"`
		Pad        *int    `json:"pad_token_id"`
		Positions  int     `json:"max_position_embeddings"`
		Width      int     `json:"hidden_size"`
		Heads      int     `json:"num_attention_heads"`
		Layers     int     `json:"num_hidden_layers"`
		Hidden     int     `json:"intermediate_size"`
		Act        string  `json:"hidden_act"`
		Eps        float64 `json:"layer_norm_eps"`
		TokenTypes int     `json:"type_vocab_size"`
		Decoder    bool    `json:"is_decoder"`

		DModel   int    `json:"d_model"`
		EncHeads int    `json:"encoder_attention_heads"`
		EncLayer int    `json:"encoder_layers"`
		FFN      int    `json:"encoder_ffn_dim"`
		EncAct   string `json:"activation_function"`
		Scale    bool   `json:"scale_embedding"`
	}{Positions: 512, Width: 768, Heads: 12, Layers: 12, Hidden: 3072, Act: "gelu", Eps: 1e-12, TokenTypes: 2,
		DModel: 1024, EncHeads: 16, EncLayer: 12, FFN: 4096, EncAct: "relu", Scale: true}
	if err := json.Unmarshal(data, &f); err != nil {
		return t, err
	}
	pad := 1
	if f.Pad != nil {
		pad = *f.Pad
	}
	switch kind := hfKinds[f.Type]; kind {
	case "roberta":
		if f.Vocab == 0 {
			f.Vocab = map[string]int{"roberta": 50265, "xlm-roberta": 30522}[f.Type]
		}
		if f.Act != "gelu" || f.Decoder || f.Width < 1 {
			return t, fmt.Errorf("hidden_act is %q, is_decoder %v, hidden_size %d; want gelu, no decoder, 1 or more", f.Act, f.Decoder, f.Width)
		}
		t = Text{Tower: kind, VocabSize: f.Vocab, Width: f.Width, Heads: f.Heads, Layers: f.Layers, MLPRatio: ratio(f.Hidden, f.Width),
			Positions: f.Positions, PadToken: pad, TokenTypes: f.TokenTypes}
		if f.Eps != 1e-5 {
			t.NormKwargs = &Norm{f.Eps}
		}
	case "m2m100":
		if f.Vocab == 0 {
			f.Vocab = 128112
		}
		if f.EncAct != "relu" || f.DModel < 1 {
			return t, fmt.Errorf("activation_function is %q, d_model %d; want relu, 1 or more", f.EncAct, f.DModel)
		}
		t = Text{Tower: kind, VocabSize: f.Vocab, Width: f.DModel, Heads: f.EncHeads, Layers: f.EncLayer, MLPRatio: ratio(f.FFN, f.DModel),
			PadToken: pad, ScaleEmbedding: f.Scale}
	default:
		return t, fmt.Errorf("model_type is %q; want %s", f.Type, strings.Join(slices.Sorted(maps.Keys(hfKinds)), ", "))
	}
	return t, nil
}

func checkHFText(c *Config) error {
	t := &c.Text
	switch {
	case !slices.Contains([]string{"mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"}, t.Pooler):
		return fmt.Errorf("text_cfg.hf_pooler_type %q: want mean_pooler, cls_pooler or cls_last_hidden_state_pooler", t.Pooler)
	case !slices.Contains([]string{"linear", "mlp", "none"}, t.Proj):
		return fmt.Errorf("text_cfg.hf_proj_type %q: want linear, mlp or none", t.Proj)
	case t.Proj == "none" && t.Width != c.EmbedDim:
		return fmt.Errorf("text_cfg.hf_proj_type none: the text model's width %d is not embed_dim, %d", t.Width, c.EmbedDim)
	case t.PadToken < 0 || t.PadToken >= t.VocabSize:
		return fmt.Errorf("text_cfg.pad_token_id is %d; want 0 to %d", t.PadToken, t.VocabSize-1)
	case t.Tower == "roberta" && t.Positions <= t.PadToken+t.ContextLength:
		return fmt.Errorf("text_cfg.context_length is %d, but max_position_embeddings %d leaves %d", t.ContextLength, t.Positions, t.Positions-t.PadToken-1)
	case t.Tower == "roberta" && (t.Positions > 1<<20 || t.TokenTypes < 1 || t.TokenTypes > 1<<16 || t.ScaleEmbedding):
		return fmt.Errorf("text_cfg: max_position_embeddings %d, type_vocab_size %d, scale_embedding %v; want at most %d, 1 to %d, and no scale for roberta", t.Positions, t.TokenTypes, t.ScaleEmbedding, 1<<20, 1<<16)
	case t.Tower == "m2m100" && (t.Positions != 0 || t.TokenTypes != 0 || t.NormKwargs != nil || t.Width < 4 || t.Width%2 != 0):
		return fmt.Errorf("text_cfg: m2m100 takes no max_position_embeddings, type_vocab_size or norm_kwargs, and an even width of 4 or more")
	case t.NormKwargs != nil && !(t.NormKwargs.Eps > 0 && t.NormKwargs.Eps < 1):
		return fmt.Errorf("text_cfg.norm_kwargs.eps is %v; want 0 to 1", t.NormKwargs.Eps)
	}
	only := Text{Tower: t.Tower, ContextLength: t.ContextLength, VocabSize: t.VocabSize, Width: t.Width, Heads: t.Heads, Layers: t.Layers, MLPRatio: t.MLPRatio,
		Positions: t.Positions, PadToken: t.PadToken, TokenTypes: t.TokenTypes, ScaleEmbedding: t.ScaleEmbedding, Pooler: t.Pooler, Proj: t.Proj,
		NormKwargs: t.NormKwargs, Tokenizer: t.Tokenizer, TokenizerKwargs: t.TokenizerKwargs}
	if *t != only {
		return fmt.Errorf("text_cfg: the tower %s takes only context_length, vocab_size, width, heads, layers, mlp_ratio, max_position_embeddings, pad_token_id, type_vocab_size, scale_embedding, norm_kwargs, hf_pooler_type and hf_proj_type", t.Tower)
	}
	return nil
}

// IgnoresPadding reports whether the text tower masks the token Text.PadToken.
func (c *Config) IgnoresPadding() bool { return c.Text.Tower != "" }

// TextPools reports whether the text feature passes through a Linear and tanh before
// the projection, as in BERT's pooler.
func (c *Config) TextPools() bool { return c.Text.Tower == "roberta" && c.Text.Pooler == "cls_pooler" }

func (b *builder) roberta() {
	t := &b.cfg.Text
	const p = "text.transformer."
	w, hidden := t.Width, b.cfg.TextHidden()
	b.add(p+"embeddings.word_embeddings.weight", t.VocabSize, w)
	b.add(p+"embeddings.token_type_embeddings.weight", t.TokenTypes, w)
	b.affine(p+"embeddings.LayerNorm", w)
	b.add(p+"embeddings.position_embeddings.weight", t.Positions, w)
	for i := range t.Layers {
		l := fmt.Sprintf("%sencoder.layer.%d.", p, i)
		for _, n := range []string{"query", "key", "value"} {
			b.affine(l+"attention.self."+n, w, w)
		}
		b.affine(l+"attention.output.dense", w, w)
		b.affine(l+"attention.output.LayerNorm", w)
		b.affine(l+"intermediate.dense", hidden, w)
		b.affine(l+"output.dense", w, hidden)
		b.affine(l+"output.LayerNorm", w)
	}
	if b.cfg.TextPools() {
		b.affine(p+"pooler.dense", w, w)
	}
	b.hfProjection()
}

func (b *builder) m2m100() {
	t := &b.cfg.Text
	const p = "text.transformer."
	w, hidden := t.Width, b.cfg.TextHidden()
	b.add(p+"embed_tokens.weight", t.VocabSize, w)
	for i := range t.Layers {
		l := fmt.Sprintf("%slayers.%d.", p, i)
		for _, n := range []string{"k_proj", "v_proj", "q_proj", "out_proj"} {
			b.affine(l+"self_attn."+n, w, w)
		}
		b.affine(l+"self_attn_layer_norm", w)
		b.affine(l+"fc1", hidden, w)
		b.affine(l+"fc2", w, hidden)
		b.affine(l+"final_layer_norm", w)
	}
	b.affine(p+"layer_norm", w)
	b.hfProjection()
}

// hfProjection adds OpenCLIP's projection after the text model.
func (b *builder) hfProjection() {
	w, e := b.cfg.Text.Width, b.cfg.EmbedDim
	switch b.cfg.Text.Proj {
	case "linear":
		b.add("text.proj.weight", e, w)
	case "mlp":
		b.add("text.proj.0.weight", (w+e)/2, w)
		b.add("text.proj.2.weight", e, (w+e)/2)
	}
}
