package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
)

// Parse reads a configuration: OpenCLIP's and EVA-CLIP's schema (also inside
// an open_clip_config.json), OpenAI's flat one, or a Hugging Face CLIPModel
// config.json. A key that is not known is an error that names it, except in a
// Hugging Face file, which repeats the library's settings for everything.
func Parse(data []byte) (*Config, error) {
	c, err := parse(data)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fault.Inputf("model configuration: %w", err)
	}
	return c, nil
}

type object = map[string]json.RawMessage

func parse(data []byte) (*Config, error) {
	top, err := decodeObject(data)
	if err != nil {
		return nil, err
	}
	if inner, ok := top["model_cfg"]; ok {
		pixels := top["preprocess_cfg"]
		if top, err = decodeObject(inner); err != nil {
			return nil, fmt.Errorf("model_cfg: %w", err)
		}
		if pixels != nil {
			top["preprocess_cfg"] = pixels
		}
	}
	switch {
	case top["vision_config"] != nil || top["text_config"] != nil:
		return parseHF(top)
	case top["vision_layers"] != nil:
		return parseOpenAI(top)
	}
	return parseOpenCLIP(top)
}

func decodeObject(data []byte) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	var o object
	if err := dec.Decode(&o); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("more text after the JSON object")
	}
	if o == nil {
		return nil, fmt.Errorf("not a JSON object")
	}
	return o, nil
}

// section decodes known keys of o into dst (a struct with JSON tags) and
// refuses others. where is the prefix for messages.
func section(o object, where string, dst any) error {
	typ := reflect.TypeOf(dst).Elem()
	var known []string
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		known = append(known, name)
	}
	keys := make([]string, 0, len(o))
	for k := range o {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		i := slices.Index(known, k)
		if i < 0 {
			return fmt.Errorf("unknown key %s%s; known: %s", where, k, strings.Join(known, " "))
		}
		if bytes.Equal(o[k], []byte("null")) {
			continue // Python's None: the default
		}
		if err := json.Unmarshal(o[k], reflect.ValueOf(dst).Elem().Field(i).Addr().Interface()); err != nil {
			return fmt.Errorf("%s%s: %w", where, k, err)
		}
	}
	return nil
}

// neutral lists keys that say how the original code builds or runs the model.
// Each may be absent, null, or one of the values that mean nothing more.
var neutral = map[string]map[string][]string{
	"vision_cfg.": {
		"timm_model_pretrained": {"false"}, "timm_pool": {`"token"`, `"avg"`, `""`}, "timm_proj": {`""`, `"linear"`},
		"timm_proj_bias": {"false"}, "timm_drop": {"0", "0.0"}, "timm_drop_path": {"0", "0.0"}, "timm_model_name": {`""`},
		"input_patchnorm": {"false"}, "attentional_pool": {"false"}, "attn_pooler_queries": {"256"}, "n_queries": {"256"},
		"attn_pooler_heads": {"8"}, "output_tokens": {"false"}, "pos_embed_type": {`"learnable"`}, "act_kwargs": {"{}"}, "norm_kwargs": {"{}"},
	},
	"text_cfg.": {
		"hf_model_name": {`""`}, "hf_tokenizer_name": {`""`}, "hf_model_pretrained": {"true", "false"}, "proj": {`"mlp"`},
		"pooler_type": {`"mean_pooler"`}, "masked_language_modeling": {"false"}, "embed_cls": {"false"}, "pad_id": {"0"},
		"output_tokens": {"false"}, "pool_type": {`"argmax"`}, "proj_type": {`"linear"`}, "proj_bias": {"false"},
		"final_ln_after_pool": {"false"}, "act_kwargs": {"{}"}, "norm_kwargs": {"{}"}, "eos_id": {"2", "49407"},
	},
	"preprocess_cfg.": {"mode": {`"RGB"`}, "resize_mode": {`"shortest"`}, "fill_color": {"0"}},
}

// dropNeutral removes the neutral keys from o.
func dropNeutral(o object, where string) error {
	for k, values := range neutral[where] {
		raw, ok := o[k]
		if !ok {
			continue
		}
		s := string(raw)
		if compact := new(bytes.Buffer); json.Compact(compact, raw) == nil {
			s = compact.String()
		}
		if s != "null" && !slices.Contains(values, s) {
			return fmt.Errorf("%s%s is %s, which is not supported (want %s)", where, k, s, strings.Join(values, " or "))
		}
		delete(o, k)
	}
	return nil
}

func parseOpenCLIP(top object) (*Config, error) {
	vision, err := subsection(top, "vision_cfg")
	if err != nil {
		return nil, err
	}
	text, err := subsection(top, "text_cfg")
	if err != nil {
		return nil, err
	}
	c := defaults()
	if err := timmTower(c, vision); err != nil {
		return nil, err
	}
	// OpenCLIP's word for a text tower that is not causal.
	if raw, ok := text["no_causal_mask"]; ok {
		c.Text.AttnMask = string(raw) != "true"
		delete(text, "no_causal_mask")
	}
	if raw, ok := vision["image_size"]; ok {
		var pair [2]int
		if json.Unmarshal(raw, &pair) == nil && pair[0] == pair[1] {
			vision["image_size"] = fmt.Appendf(nil, "%d", pair[0])
		}
	}
	parts := []struct {
		o     object
		where string
		dst   any
	}{{vision, "vision_cfg.", &c.Vision}, {text, "text_cfg.", &c.Text}}
	if raw, ok := top["preprocess_cfg"]; ok && string(raw) != "null" {
		o, err := subsection(top, "preprocess_cfg")
		if err != nil {
			return nil, err
		}
		c.Pixels = new(Preprocess)
		parts = append(parts, struct {
			o     object
			where string
			dst   any
		}{o, "preprocess_cfg.", c.Pixels})
	}
	for _, p := range parts {
		if err := dropNeutral(p.o, p.where); err != nil {
			return nil, err
		}
		if err := section(p.o, p.where, p.dst); err != nil {
			return nil, err
		}
	}
	delete(top, "vision_cfg")
	delete(top, "text_cfg")
	delete(top, "preprocess_cfg")
	if c.IsResNet() {
		c.Vision.PatchSize = 0 // nothing to say
	}
	return c, section(top, "", c)
}

func subsection(top object, key string) (object, error) {
	raw, ok := top[key]
	if !ok {
		return nil, fmt.Errorf("no key %s; want OpenCLIP's, OpenAI's or Hugging Face's CLIP configuration", key)
	}
	o, err := decodeObject(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return o, nil
}

// defaults are OpenCLIP's and EVA-CLIP's.
func defaults() *Config {
	return &Config{
		Vision: Vision{ImageSize: 224, Layers: Layers{12}, Width: 768, HeadWidth: 64, MLPRatio: 4, PatchSize: 16, QKVBias: true, PtSeqLen: 16},
		Text:   Text{ContextLength: 77, VocabSize: bpe.VocabSize, Width: 512, Heads: 8, Layers: 12, MLPRatio: 4, AttnMask: true},
	}
}

// timmTowers are the EVA towers under timm's names, as OpenCLIP's own
// configurations spell them.
var timmTowers = map[string]string{
	"eva_giant_patch14_clip_224":      "EVA01-CLIP-g-14",
	"eva02_base_patch16_clip_224":     "EVA02-CLIP-B-16",
	"eva02_large_patch14_clip_224":    "EVA02-CLIP-L-14",
	"eva02_large_patch14_clip_336":    "EVA02-CLIP-L-14-336",
	"eva02_enormous_patch14_clip_224": "EVA02-CLIP-bigE-14",
}

func timmTower(c *Config, vision object) error {
	raw, ok := vision["timm_model_name"]
	if !ok {
		return nil
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return fmt.Errorf("vision_cfg.timm_model_name: %w", err)
	}
	if name == "" {
		return nil
	}
	named, ok := Named(timmTowers[name])
	if !ok {
		known := make([]string, 0, len(timmTowers))
		for k := range timmTowers {
			known = append(known, k)
		}
		slices.Sort(known)
		return fmt.Errorf("vision_cfg.timm_model_name %q is not supported; known: %s", name, strings.Join(known, " "))
	}
	c.Vision = named.Vision
	delete(vision, "timm_model_name")
	return nil
}

// parseOpenAI reads the arguments of OpenAI's CLIP class.
func parseOpenAI(top object) (*Config, error) {
	var f struct {
		EmbedDim          int    `json:"embed_dim"`
		ImageResolution   int    `json:"image_resolution"`
		VisionLayers      Layers `json:"vision_layers"`
		VisionWidth       int    `json:"vision_width"`
		VisionPatchSize   int    `json:"vision_patch_size"`
		ContextLength     int    `json:"context_length"`
		VocabSize         int    `json:"vocab_size"`
		TransformerWidth  int    `json:"transformer_width"`
		TransformerHeads  int    `json:"transformer_heads"`
		TransformerLayers int    `json:"transformer_layers"`
	}
	if err := section(top, "", &f); err != nil {
		return nil, err
	}
	if f.TransformerHeads == 0 {
		f.TransformerHeads = f.TransformerWidth / 64
	}
	c := defaults()
	c.EmbedDim, c.QuickGELU = f.EmbedDim, true
	c.Vision.ImageSize, c.Vision.Layers, c.Vision.Width, c.Vision.PatchSize = f.ImageResolution, f.VisionLayers, f.VisionWidth, f.VisionPatchSize
	c.Text = Text{ContextLength: f.ContextLength, VocabSize: f.VocabSize, Width: f.TransformerWidth,
		Heads: f.TransformerHeads, Layers: f.TransformerLayers, MLPRatio: 4, AttnMask: true}
	return c, nil
}

// hfTower is the part of a Hugging Face CLIP tower that shapes the numbers,
// with the library's defaults filled in by the caller.
type hfTower struct {
	HiddenSize       int     `json:"hidden_size"`
	IntermediateSize int     `json:"intermediate_size"`
	Layers           int     `json:"num_hidden_layers"`
	Heads            int     `json:"num_attention_heads"`
	HiddenAct        string  `json:"hidden_act"`
	LayerNormEps     float64 `json:"layer_norm_eps"`
	VocabSize        int     `json:"vocab_size"`
	Positions        int     `json:"max_position_embeddings"`
	ImageSize        int     `json:"image_size"`
	PatchSize        int     `json:"patch_size"`
	NumChannels      int     `json:"num_channels"`
}

func parseHF(top object) (*Config, error) {
	if raw, ok := top["model_type"]; ok && string(raw) != `"clip"` {
		return nil, fmt.Errorf("model_type is %s; want \"clip\"", raw)
	}
	projection := 512
	if raw, ok := top["projection_dim"]; ok {
		if err := json.Unmarshal(raw, &projection); err != nil {
			return nil, fmt.Errorf("projection_dim: %w", err)
		}
	}
	text := hfTower{HiddenSize: 512, IntermediateSize: 2048, Layers: 12, Heads: 8, HiddenAct: "quick_gelu", LayerNormEps: 1e-5, VocabSize: bpe.VocabSize, Positions: 77}
	vision := hfTower{HiddenSize: 768, IntermediateSize: 3072, Layers: 12, Heads: 12, HiddenAct: "quick_gelu", LayerNormEps: 1e-5, ImageSize: 224, PatchSize: 32, NumChannels: 3}
	for _, part := range []struct {
		key string
		dst *hfTower
	}{{"text_config", &text}, {"vision_config", &vision}} {
		if raw := top[part.key]; raw != nil {
			if err := json.Unmarshal(raw, part.dst); err != nil {
				return nil, fmt.Errorf("%s: %w", part.key, err)
			}
		}
		if part.dst.LayerNormEps != 1e-5 {
			return nil, fmt.Errorf("%s.layer_norm_eps is %v; want 1e-05", part.key, part.dst.LayerNormEps)
		}
		if part.dst.HiddenSize < 1 || part.dst.Heads < 1 || part.dst.HiddenSize%part.dst.Heads != 0 {
			return nil, fmt.Errorf("%s.hidden_size %d is not a multiple of num_attention_heads %d", part.key, part.dst.HiddenSize, part.dst.Heads)
		}
	}
	if text.HiddenAct != vision.HiddenAct || (text.HiddenAct != "quick_gelu" && text.HiddenAct != "gelu") {
		return nil, fmt.Errorf("hidden_act is %q (text) and %q (vision); want quick_gelu or gelu in both", text.HiddenAct, vision.HiddenAct)
	}
	if vision.NumChannels != 3 {
		return nil, fmt.Errorf("vision_config.num_channels is %d; want 3", vision.NumChannels)
	}
	c := defaults()
	c.EmbedDim, c.QuickGELU = projection, text.HiddenAct == "quick_gelu"
	c.Vision.ImageSize, c.Vision.PatchSize = vision.ImageSize, vision.PatchSize
	c.Vision.Layers, c.Vision.Width, c.Vision.HeadWidth = Layers{vision.Layers}, vision.HiddenSize, vision.HiddenSize/vision.Heads
	c.Vision.MLPRatio = ratio(vision.IntermediateSize, vision.HiddenSize)
	c.Text = Text{ContextLength: text.Positions, VocabSize: text.VocabSize, Width: text.HiddenSize,
		Heads: text.Heads, Layers: text.Layers, MLPRatio: ratio(text.IntermediateSize, text.HiddenSize), AttnMask: true}
	return c, nil
}

// ratio is the number r with int(width·r) = hidden.
func ratio(hidden, width int) float64 {
	r := float64(hidden) / float64(width)
	for int(float64(width)*r) < hidden {
		r = math.Nextafter(r, math.Inf(1))
	}
	return r
}
