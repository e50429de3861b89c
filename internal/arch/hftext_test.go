package arch

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The published models with a text tower of transformers have the parameters that
// OpenCLIP's results table states, in millions, and survive a round trip as JSON.
func TestHFTextsAreKnown(t *testing.T) {
	for name, millions := range map[string]float64{
		"roberta-ViT-B-32": 212.72, "xlm-roberta-base-ViT-B-32": 366.12, "xlm-roberta-large-ViT-H-14": 1193.01,
		"nllb-clip-base": 501.89, "nllb-clip-large": 1399.22, "nllb-clip-base-siglip": 507.47, "nllb-clip-large-siglip": 1195.5,
	} {
		c, ok := Named(name)
		if !ok {
			t.Errorf("%s is not known", name)
			continue
		}
		if got := float64(c.TotalParams()) / 1e6; math.Abs(got-millions) > 0.02 {
			t.Errorf("%s: %.2f million parameters, want %.2f", name, got, millions)
		}
		again, err := Parse(c.JSON())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(c, again); d != "" {
			t.Errorf("%s: its own JSON says %s", name, d)
		}
		if c.Trains() == "" || !c.IgnoresPadding() {
			t.Errorf("%s: trains %q", name, c.Trains())
		}
	}
}

// A text model's config.json takes precedence over what is known of its name, and a
// configuration's own sizes over both.
func TestHFTextConfigs(t *testing.T) {
	const outer = `{"embed_dim": 64, "vision_cfg": {"width": 64}, "text_cfg": {"hf_model_name": %q, "hf_tokenizer_name": "roberta-base"%s}}`
	const roberta = `{"model_type": "xlm-roberta", "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 100,
		"max_position_embeddings": 90, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 5}`
	const m2m = `{"model_type": "m2m_100", "vocab_size": 300, "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "scale_embedding": false}`
	eps := &Norm{1e-12}
	for _, c := range []struct {
		name, more, model string
		want              Text
	}{
		{"some/where", "", roberta, Text{Tower: "roberta", ContextLength: 77, VocabSize: 300, Width: 64, Heads: 4, Layers: 3, MLPRatio: 100. / 64, Positions: 90, PadToken: 5, TokenTypes: 2, NormKwargs: eps, Pooler: "mean_pooler", Proj: "mlp"}},
		{"roberta-base", `, "hf_pooler_type": "cls_pooler", "hf_proj_type": null, "context_length": 9`, roberta, Text{Tower: "roberta", ContextLength: 9, VocabSize: 300, Width: 64, Heads: 4, Layers: 3, MLPRatio: 100. / 64, Positions: 90, PadToken: 5, TokenTypes: 2, NormKwargs: eps, Pooler: "cls_pooler", Proj: "none"}},
		{"x", `, "pooler_type": "cls_last_hidden_state_pooler", "proj": "linear"`, m2m, Text{Tower: "m2m100", ContextLength: 77, VocabSize: 300, Width: 32, Heads: 4, Layers: 3, MLPRatio: 1.5, PadToken: 1, Pooler: "cls_last_hidden_state_pooler", Proj: "linear"}},
		{"FacebookAI/roberta-base", `, "width": 64, "heads": 2, "layers": 1, "vocab_size": 500`, "", Text{Tower: "roberta", ContextLength: 77, VocabSize: 500, Width: 64, Heads: 2, Layers: 1, MLPRatio: 4, Positions: 514, PadToken: 1, TokenTypes: 1, Pooler: "mean_pooler", Proj: "mlp"}},
		{"facebook/nllb-200-distilled-1.3B", `, "hf_proj_type": "linear", "heads": 16`, "", Text{Tower: "m2m100", ContextLength: 77, VocabSize: 256206, Width: 1024, Heads: 16, Layers: 24, MLPRatio: 8, PadToken: 1, ScaleEmbedding: true, Pooler: "mean_pooler", Proj: "linear"}},
	} {
		data := fmt.Appendf(nil, outer, c.name, c.more)
		if got := TextModel(data); got != c.name {
			t.Errorf("%s: names %q", c.name, got)
		}
		var model []byte
		if c.model != "" {
			if model = []byte(c.model); !IsTextModel(model) {
				t.Errorf("%s is no text model's", c.model)
			}
		}
		got, err := ParseText(data, model)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		c.want.Tokenizer = "roberta-base"
		if d := cmp.Diff(c.want, got.Text); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	for more, want := range map[string]string{
		`"hf_model_name": "mt5-base"`:                                     `hf_model_name "mt5-base" is not supported; known: facebook/nllb`,
		`"hf_model_name": "roberta-base", "hf_pooler_type": "max_pooler"`: "want mean_pooler",
		`"hf_model_name": "roberta-base", "hf_proj_type": "deep"`:         "want linear",
		`"hf_model_name": "roberta-base", "hf_proj_type": null`:           "is not embed_dim, 64",
		`"hf_model_name": "roberta-base", "hf_pooler_type": 7`:            "hf_pooler_type",
		`"hf_model_name": "roberta-base", "heads": 8`:                     "give text_cfg.width",
		`"hf_model_name": "roberta-base", "context_length": 513`:          "leaves 512",
		`"hf_model_name": "roberta-base", "embed_cls": true`:              "takes only",
		`"tower": "bert"`:                                                          "want m2m100 or roberta",
		`"tower": "m2m100", "attn_mask": true`:                                     "takes only",
		`"tower": "m2m100", "vocab_size": 1, "pad_token_id": 1`:                    "pad_token_id is 1",
		`"tower": "roberta", "max_position_embeddings": 99, "type_vocab_size": -1`: "type_vocab_size -1",
		`"tower": "m2m100", "width": 2, "heads": 1`:                                "even width",
	} {
		_, err := Parse(fmt.Appendf(nil, `{"embed_dim": 64, "vision_cfg": {"width": 64}, "text_cfg": {%s}}`, more))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %q", more, err, want)
		}
	}
	for model, want := range map[string]string{
		`{"model_type": "bert"}`:                                                                        `model_type is "bert"`,
		`{"model_type": "roberta", "hidden_act": "relu"}`:                                               "hidden_act",
		`{"model_type": "m2m_100", "activation_function": "gelu"}`:                                      "activation_function",
		`{"model_type": "roberta", "hidden_size": "x"}`:                                                 "hidden_size",
		`{"model_type": "roberta", "hidden_size": 7, "num_attention_heads": 7, "intermediate_size": 9}`: "", // a width of its own
		`{"model_type": "roberta", "num_hidden_layers": 100000}`:                                        "text_cfg.layers is 100000",
		`{"model_type": "roberta", "intermediate_size": -3}`:                                            "mlp_ratio",
		`{"model_type": "roberta", "hidden_size": 9, "num_attention_heads": 0}`:                         "heads",
		`{"model_type": "m2m_100", "d_model": 10, "encoder_ffn_dim": 9, "encoder_attention_heads": 3}`:  "multiple",
		`{"model_type": "xlm-roberta", "vocab_size": 40, "pad_token_id": 40}`:                           "pad_token_id",
		`{"model_type": "roberta", "layer_norm_eps": 0}`:                                                "eps",
		`{"model_type": "roberta", "max_position_embeddings": 70}`:                                      "leaves 68",
		`{"model_type": "roberta", "is_decoder": true}`:                                                 "is_decoder",
	} {
		_, err := ParseText(fmt.Appendf(nil, outer, "x", ""), []byte(model))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", model, err, want)
		}
	}
}
