package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
)

// Parse reads a configuration: OpenCLIP's and EVA-CLIP's schema (also inside an
// open_clip_config.json), OpenAI's flat one, or the config.json of a Hugging Face
// model. An unknown key is an error that names it, except in a Hugging Face file,
// which repeats all of the library's settings.
func Parse(data []byte) (*Config, error) { return ParseText(data, nil) }

// ParseText is Parse for a configuration that names a text model of transformers;
// model is the config.json of that model, or nil if it is one of those known.
func ParseText(data, model []byte) (*Config, error) {
	c, err := parse(data, model)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fault.Inputf("model configuration: %w", err)
	}
	return c, nil
}

type object = map[string]json.RawMessage

func parse(data, model []byte) (*Config, error) {
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
	return parseOpenCLIP(top, model)
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
		known = append(known, name) // empty: no key
	}
	for _, k := range sortedKeys(o) {
		if isNull(o[k]) {
			continue // None in Python: the default
		}
		i := slices.Index(known, k)
		if i < 0 || k == "" {
			return fmt.Errorf("unknown key %s%s; known: %s", where, k, strings.TrimSpace(strings.Join(known, " ")))
		}
		if err := json.Unmarshal(o[k], reflect.ValueOf(dst).Elem().Field(i).Addr().Interface()); err != nil {
			return fmt.Errorf("%s%s: %w", where, k, err)
		}
	}
	return nil
}

// neutral lists keys that say how the original code builds or runs the model. Each
// may be absent, null, or one of the given values, which have no effect here; nil
// means that no value has any.
var neutral = map[string]map[string][]string{
	"": {
		"init_logit_scale": nil, "nonscalar_logit_scale": nil, "output_dict": nil, "cast_dtype": nil, // the weights have the scale
		"multimodal_cfg": nil, // CoCa's decoder, which is left out
	},
	"vision_cfg.": {
		"timm_model_pretrained": nil, "timm_drop": nil, "timm_drop_path": nil, "output_tokens": nil,
		"timm_model_name": {`""`}, "timm_pool": {`"token"`, `""`}, "timm_proj": {`""`}, "timm_proj_bias": {"false"},
		"input_patchnorm": {"false"}, "attentional_pool": {"false"},
		"pos_embed_type": {`"learnable"`}, "act_kwargs": {"{}"}, "norm_kwargs": {"{}", `{"eps":1e-5}`, `{"eps":1e-05}`, `{"eps":0.00001}`},
		"block_type": {`"default"`, `"custom"`}, "qk_norm": {"false"}, "scaled_cosine_attn": {"false"}, "scale_heads": {"false"},
		"scale_attn_inner": {"false"}, "scale_attn": {"false"}, "scale_fc": {"false"},
	},
	"text_cfg.": {
		"hf_model_name": {`""`}, "hf_model_pretrained": nil, "hf_proj_type": nil, "hf_pooler_type": nil, "proj": nil, "pooler_type": nil,
		"masked_language_modeling": {"false"}, "pad_id": nil, "correct_cls_mask": {"false"}, "output_tokens": nil,
		"proj_type": {`"linear"`}, "proj_bias": {"false"}, "final_ln_after_pool": {"false"}, "act_kwargs": {"{}"},
		"norm_kwargs": {"{}", `{"eps":1e-5}`, `{"eps":1e-05}`, `{"eps":0.00001}`},
		"block_type":  {`"default"`, `"custom"`}, "qk_norm": {"false"}, "scaled_cosine_attn": {"false"}, "scale_heads": {"false"},
		"scale_attn_inner": {"false"}, "scale_attn": {"false"}, "scale_fc": {"false"},
	},
	"preprocess_cfg.": {"mode": {`"RGB"`}},
}

// towerKeys are the neutral keys of which a tower may support other values.
var towerKeys = []string{"text_cfg.norm_kwargs", "text_cfg.act_kwargs", "text_cfg.proj_bias", "text_cfg.proj_type"}

// withoutTimm are the keys of a vision_cfg that have no effect unless it names a
// model of timm.
var withoutTimm = []string{"timm_pool", "timm_proj", "timm_proj_bias"}

// dropNeutral removes the neutral keys from o.
func dropNeutral(o object, where string) error {
	for _, k := range sortedKeys(o) {
		values, ok := neutral[where][k]
		if !ok {
			continue
		}
		s := compact(o[k])
		if s != "null" && slices.Contains(towerKeys, where+k) && !slices.Contains(values, s) {
			continue
		}
		if s != "null" && values != nil && !slices.Contains(values, s) {
			return fmt.Errorf("%s%s is %s, which is not supported (want %s)", where, k, s, strings.Join(values, " or "))
		}
		delete(o, k)
	}
	return nil
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}

func sortedKeys(o object) []string { return slices.Sorted(maps.Keys(o)) }

func parseOpenCLIP(top object, model []byte) (*Config, error) {
	vision, err := subsection(top, "vision_cfg")
	if err != nil {
		return nil, err
	}
	text, err := subsection(top, "text_cfg")
	if err != nil {
		return nil, err
	}
	c := defaults()
	if err := attentionalPool(c, vision); err != nil {
		return nil, err
	}
	if pad := text["pad_id"]; pad != nil && compact(pad) != "0" && compact(text["embed_cls"]) == "true" {
		return nil, fmt.Errorf("text_cfg.pad_id is %s; want 0 with embed_cls", compact(pad))
	}
	if err := timmTower(c, vision); err != nil {
		return nil, err
	}
	if err := hfText(c, top, text, model); err != nil {
		return nil, err
	}
	// OpenCLIP's key for a text tower that is not causal.
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
	if err := textPool(text); err != nil {
		return nil, err
	}
	if err := tokenizer(c, text); err != nil {
		return nil, err
	}
	for _, p := range []struct {
		o     object
		where string
		dst   any
	}{{vision, "vision_cfg.", &c.Vision}, {text, "text_cfg.", &c.Text}} {
		if err := dropNeutral(p.o, p.where); err != nil {
			return nil, err
		}
		if err := section(p.o, p.where, p.dst); err != nil {
			return nil, err
		}
	}
	// The code with RMSNorm gives the head a bias if query and value have one.
	if v := &c.Vision; v.RMSNorm && !v.QKVBias && vision["no_head_bias"] == nil {
		v.NoHeadBias = true
	}
	if raw, ok := top["preprocess_cfg"]; ok && !isNull(raw) {
		o, err := subsection(top, "preprocess_cfg")
		if err != nil {
			return nil, err
		}
		p, err := parseOpenCLIPPreprocess(o)
		if err != nil {
			return nil, err
		}
		c.SetPreprocess(p)
	}
	delete(top, "vision_cfg")
	delete(top, "text_cfg")
	delete(top, "preprocess_cfg")
	if kind := c.visionTower(); kind.params != nil && !kind.patches {
		c.Vision.PatchSize = 0 // no effect
	}
	if err := dropNeutral(top, ""); err != nil {
		return nil, err
	}
	return c, section(top, "", c)
}

// textPool keeps pool_type and eos_id only if they differ from argmax.
func textPool(text object) error {
	if raw, ok := text["pool_type"]; !ok || compact(raw) != `"eos"` {
		if ok && compact(raw) == `"argmax"` {
			delete(text, "pool_type")
		}
		delete(text, "eos_id") // has no effect then
		return nil
	}
	if raw, ok := text["eos_id"]; !ok || isNull(raw) {
		text["eos_id"] = json.RawMessage("2") // OpenCLIP's default
	}
	return nil
}

// clipTokenizers are repositories on the hub whose tokenizer is CLIP's BPE.
var clipTokenizers = []string{"openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"}

// parseClean reads tokenizer_kwargs; ok is false if any of it is unknown.
func parseClean(raw json.RawMessage) (c Clean, ok bool) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	return c, dec.Decode(&c) == nil && c != (Clean{}) && slices.Contains([]string{"", "lower", "whitespace", "canonicalize"}, c.Clean)
}

// tokenizer sets Text.Tokenizer from text's keys, unless it is CLIP's.
func tokenizer(c *Config, text object) error {
	var name string
	if raw, ok := text["hf_tokenizer_name"]; ok {
		if err := json.Unmarshal(raw, &name); err != nil {
			return fmt.Errorf("text_cfg.hf_tokenizer_name: %w", err)
		}
		delete(text, "hf_tokenizer_name")
	}
	var more []string
	for _, k := range []string{"tokenizer_kwargs", "tokenizer_mode"} {
		raw, ok := text[k]
		if !ok {
			continue
		}
		s := compact(raw)
		clean, ok := parseClean(raw)
		switch {
		case slices.Contains([]string{"null", "{}", `""`}, s), s == `{"clean":"lower"}` && name == "":
		case k == "tokenizer_kwargs" && name != "" && ok:
			c.Text.TokenizerKwargs = &clean
		default:
			more = append(more, k+" "+s)
		}
		delete(text, k)
	}
	switch {
	case len(more) > 0:
		c.Text.TokenizerKwargs = nil
		c.Text.Tokenizer = strings.TrimSpace(name + " with " + strings.Join(more, ", "))
	case name != "" && !slices.Contains(clipTokenizers, name):
		c.Text.Tokenizer = name
	case c.Text.TokenizerKwargs != nil: // CLIP's tokenizer, which does its own cleaning
		if *c.Text.TokenizerKwargs != (Clean{Clean: "lower"}) {
			c.Text.Tokenizer = fmt.Sprintf("%s with another cleaning or without its end", name)
		}
		c.Text.TokenizerKwargs = nil
	}
	return nil
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

// defaults are those of OpenCLIP and EVA-CLIP.
func defaults() *Config {
	return &Config{
		Vision: Vision{ImageSize: 224, Layers: Layers{12}, Width: 768, HeadWidth: 64, MLPRatio: 4, PatchSize: 16, QKVBias: true, PtSeqLen: 16},
		Text:   Text{ContextLength: 77, VocabSize: bpe.VocabSize, Width: 512, Heads: 8, Layers: 12, MLPRatio: 4, AttnMask: true},
	}
}

// timmTowers are the EVA towers under timm's names, as OpenCLIP's own
// configurations and timm's repositories spell them.
var timmTowers = map[string]string{
	"eva_giant_patch14_224":           "EVA01-CLIP-g-14",
	"eva_giant_patch14_clip_224":      "EVA01-CLIP-g-14",
	"eva02_base_patch16_clip_224":     "EVA02-CLIP-B-16",
	"eva02_large_patch14_clip_224":    "EVA02-CLIP-L-14",
	"eva02_large_patch14_clip_336":    "EVA02-CLIP-L-14-336",
	"eva02_enormous_patch14_clip_224": "EVA02-CLIP-bigE-14",
}

func timmTower(c *Config, vision object) error {
	var name string
	if raw, ok := vision["timm_model_name"]; ok {
		if err := json.Unmarshal(raw, &name); err != nil {
			return fmt.Errorf("vision_cfg.timm_model_name: %w", err)
		}
	}
	if name == "" {
		for _, k := range withoutTimm {
			delete(vision, k)
		}
		return nil
	}
	// A name may end in that of the weights: eva02_base_patch16_clip_224.merged2b.
	kind, _, _ := strings.Cut(name, ".")
	if v, tower, ok := timmVision(kind); ok {
		if err := timmHead(v, tower, name, vision); err != nil {
			return err
		}
		v.QKVBias, v.PtSeqLen = c.Vision.QKVBias, c.Vision.PtSeqLen // have no effect there
		c.Vision = *v
		delete(vision, "timm_model_name")
		return nil
	}
	named, ok := Named(timmTowers[kind])
	if !ok {
		return fmt.Errorf("vision_cfg.timm_model_name %q is not supported; known: %s, and SigLIP's", name, strings.Join(slices.Sorted(maps.Keys(timmTowers)), " "))
	}
	c.Vision = named.Vision
	delete(vision, "timm_model_name")
	return nil
}

// timmHead reads the pooling and projection that follow timm's tower name.
func timmHead(v *Vision, tower visionTower, name string, vision object) error {
	value := func(key string) (s string, err error) {
		if raw, ok := vision[key]; ok {
			if err = json.Unmarshal(raw, &s); err != nil { // null counts as empty
				return "", fmt.Errorf("vision_cfg.%s: %w", key, err)
			}
		}
		delete(vision, key)
		return s, nil
	}
	for _, k := range slices.Sorted(maps.Keys(tower.timmHead)) {
		if s, err := value(k); err != nil {
			return err
		} else if s != tower.timmHead[k] {
			return fmt.Errorf("vision_cfg.%s is %q; want %q for %s", k, s, tower.timmHead[k], name)
		}
	}
	var err error
	if tower.projects {
		v.Proj, err = value("timm_proj")
	}
	return err
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

// hfTower is the part of a Hugging Face CLIP tower that affects the numbers; the
// caller fills in the library's defaults.
type hfTower struct {
	HiddenSize       int     `json:"hidden_size"`
	IntermediateSize int     `json:"intermediate_size"`
	Layers           int     `json:"num_hidden_layers"`
	Heads            int     `json:"num_attention_heads"`
	HiddenAct        string  `json:"hidden_act"`
	LayerNormEps     float64 `json:"layer_norm_eps"`
	VocabSize        int     `json:"vocab_size"`
	Positions        int     `json:"max_position_embeddings"`
	EOS              *int    `json:"eos_token_id"`
	ImageSize        side    `json:"image_size"`
	PatchSize        side    `json:"patch_size"`
	NumChannels      int     `json:"num_channels"`
}

// side is a number of pixels; in JSON also a pair of equal numbers.
type side int

func (s *side) UnmarshalJSON(b []byte) error {
	var list []int
	if json.Unmarshal(b, &list) == nil && len(list) == 2 && list[0] == list[1] {
		*s = side(list[0])
		return nil
	}
	var n int
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("%s: want one number, or two that are equal", b)
	}
	if !isNull(b) {
		*s = side(n)
	}
	return nil
}

func parseHF(top object) (*Config, error) {
	if v, err := subsection(top, "vision_config"); err == nil && (v["use_rms_norm"] != nil || v["post_layernorm"] != nil || v["q_bias"] != nil) {
		return parseHFEVA(top)
	}
	switch kind := string(top["model_type"]); kind {
	case "", `"clip"`:
	case `"siglip"`:
		return parseHFSigLIP(top)
	default:
		return nil, fmt.Errorf("model_type is %s; want \"clip\" or \"siglip\"", kind)
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
		// The older name of the key takes precedence.
		key := part.key
		if raw := top[key+"_dict"]; raw != nil && !isNull(raw) {
			key += "_dict"
		}
		if raw := top[key]; raw != nil {
			if err := json.Unmarshal(raw, part.dst); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
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
	c.Vision.ImageSize, c.Vision.PatchSize = int(vision.ImageSize), int(vision.PatchSize)
	c.Vision.Layers, c.Vision.Width, c.Vision.HeadWidth = Layers{vision.Layers}, vision.HiddenSize, vision.HiddenSize/vision.Heads
	c.Vision.MLPRatio = ratio(vision.IntermediateSize, vision.HiddenSize)
	c.Text = Text{ContextLength: text.Positions, VocabSize: text.VocabSize, Width: text.HiddenSize,
		Heads: text.Heads, Layers: text.Layers, MLPRatio: ratio(text.IntermediateSize, text.HiddenSize), AttnMask: true}
	// The library's rule: files from before it read this key have 2, which stands for
	// the largest id. So does a missing key with a small vocabulary: such a file is
	// older than the key's default, or the default is not one of its ids.
	switch {
	case text.EOS == nil && c.Text.VocabSize >= bpe.VocabSize:
		c.Text.PoolType, c.Text.EOS = "eos", new(bpe.VocabSize-1)
	case text.EOS != nil && *text.EOS != 2:
		c.Text.PoolType, c.Text.EOS = "eos", text.EOS
	}
	return c, nil
}

// parseHFEVA reads the configuration of the EvaCLIPModel in the code of the
// repositories of EVA-CLIP-8B and 18B.
func parseHFEVA(top object) (*Config, error) {
	var f struct {
		EmbedDim int `json:"projection_dim"`
		Text     struct {
			hfTower
			RMSNorm  bool `json:"use_rms_norm"`
			PostNorm bool `json:"post_layernorm"`
		} `json:"text_config"`
		Vision struct {
			hfTower
			QBias    bool `json:"q_bias"`
			RMSNorm  bool `json:"use_rms_norm"`
			PostNorm bool `json:"post_layernorm"`
			RoPE     bool `json:"use_rope"`
			SubLN    bool `json:"use_sub_ln"`
			SwiGLU   bool `json:"use_swiglu_mlp"`
		} `json:"vision_config"`
	}
	f.EmbedDim, f.Vision.QBias = 512, true
	f.Text.hfTower = hfTower{HiddenSize: 512, IntermediateSize: 2048, Layers: 12, Heads: 8, HiddenAct: "gelu", LayerNormEps: 1e-5, VocabSize: bpe.VocabSize, Positions: 77}
	f.Vision.hfTower = hfTower{HiddenSize: 768, IntermediateSize: 3072, Layers: 12, Heads: 12, HiddenAct: "gelu", LayerNormEps: 1e-5, ImageSize: 224, PatchSize: 32}
	b, err := json.Marshal(top)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	v, t := &f.Vision, &f.Text
	switch {
	case err != nil:
		return nil, err
	case v.RoPE || v.SubLN || v.SwiGLU || t.RMSNorm || t.PostNorm:
		return nil, fmt.Errorf("an EVA-CLIP model in transformers' format with rope, sub-LN, SwiGLU or a text tower with RMSNorm or post-norm is not supported; give EVA's own files")
	case v.LayerNormEps != 1e-6 || t.LayerNormEps != 1e-5:
		return nil, fmt.Errorf("layer_norm_eps is %v (text) and %v (vision); want 1e-05 and 1e-06", t.LayerNormEps, v.LayerNormEps)
	case v.HiddenAct != "gelu" || t.HiddenAct != "gelu":
		return nil, fmt.Errorf("hidden_act is %q (text) and %q (vision); want gelu in both", t.HiddenAct, v.HiddenAct)
	case v.HiddenSize < 1 || v.Heads < 1 || v.HiddenSize%v.Heads != 0 || t.HiddenSize < 1:
		return nil, fmt.Errorf("vision_config.hidden_size %d is not a multiple of num_attention_heads %d", v.HiddenSize, v.Heads)
	}
	c := defaults()
	c.EmbedDim = f.EmbedDim
	c.Vision = Vision{ImageSize: int(v.ImageSize), Layers: Layers{v.Layers}, Width: v.HiddenSize, HeadWidth: v.HiddenSize / v.Heads,
		MLPRatio: ratio(v.IntermediateSize, v.HiddenSize), PatchSize: int(v.PatchSize), EVAName: "eva-clip",
		QKVBias: v.QBias, RMSNorm: v.RMSNorm, PostNorm: v.PostNorm, NoHeadBias: v.RMSNorm && !v.QBias, PtSeqLen: c.Vision.PtSeqLen}
	c.Text = Text{ContextLength: t.Positions, VocabSize: t.VocabSize, Width: t.HiddenSize,
		Heads: t.Heads, Layers: t.Layers, MLPRatio: ratio(t.IntermediateSize, t.HiddenSize), AttnMask: true}
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
