package arch

import (
	"encoding/json"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/fault"
)

// structure is what the original code instantiates for a configuration.
type structure struct {
	Name      string
	Config    json.RawMessage
	Params    struct{ Total, Visual, Text int64 }
	Buffers   []string
	StateDict map[string][]int64 `json:"state_dict"`
}

func structures(t *testing.T) []structure {
	t.Helper()
	var out []structure
	for _, text := range archtest.Structures(t, "../../testdata/structure") {
		var s structure
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// evaName is the name in the eva layout of a tensor of the original code, ""
// for what the model does not need.
func evaName(name string) string {
	switch {
	case strings.Contains(name, "rope.freqs_"), strings.HasSuffix(name, ".num_batches_tracked"):
		return ""
	case strings.HasPrefix(name, "visual."), strings.HasPrefix(name, "text."), name == "logit_scale":
		return name
	}
	return "text." + name
}

func TestParamsEqualOriginalStateDicts(t *testing.T) {
	for _, s := range structures(t) {
		t.Run(s.Name, func(t *testing.T) {
			c, err := Parse(s.Config)
			if err != nil {
				t.Fatal(err)
			}
			named, ok := Named(s.Name)
			if !ok {
				t.Fatal("not embedded")
			}
			if d := cmp.Diff(c, named); d != "" {
				t.Error("embedded configuration differs:", d)
			}
			want := map[string][]int64{}
			for k, shape := range s.StateDict {
				if n := evaName(k); n != "" {
					want[n] = shape
				}
			}
			got := map[string][]int64{}
			for _, p := range c.Params() {
				got[p.Name] = append([]int64{}, p.Shape...)
				if buffer := slices.Contains(s.Buffers, p.Name); buffer != p.Buffer {
					t.Errorf("%s: Buffer = %v", p.Name, p.Buffer)
				}
			}
			if len(got) != len(c.Params()) {
				t.Error("a name is listed twice")
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if v, x, n := c.NumParams(VisualTower), c.NumParams(TextTower), c.TotalParams(); v != s.Params.Visual || x != s.Params.Text || n != s.Params.Total {
				t.Errorf("parameters: visual %d, text %d, total %d; want %+v", v, x, n, s.Params)
			}
		})
	}
}

func TestJSONRoundTrip(t *testing.T) {
	for _, n := range Names() {
		c, _ := Named(n)
		back, err := Parse(c.JSON())
		if err != nil {
			t.Fatal(n, err)
		}
		if d := cmp.Diff(c, back); d != "" {
			t.Error(n, d)
		}
	}
}

// A model is the same in the terms of OpenCLIP's timm configurations, which leave out
// how the original code runs it; no two named models are the same.
func TestSameModel(t *testing.T) {
	timm, err := Parse([]byte(`{"embed_dim": 512, "custom_text": true, "vision_cfg": {"image_size": 224, "timm_model_name": "eva02_base_patch16_clip_224", "timm_model_pretrained": false, "timm_pool": "token", "timm_proj": null},
		"text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range Names() {
		c, _ := Named(n)
		if timm.SameModel(c) != (n == "EVA02-CLIP-B-16") {
			t.Errorf("%s: %v", n, timm.SameModel(c))
		}
		for _, o := range Names() {
			if other, _ := Named(o); c.SameModel(other) != (n == o) {
				t.Errorf("%s and %s: %v", n, o, c.SameModel(other))
			}
		}
	}
}

// Every name that OpenCLIP has for a known architecture is known too.
func TestOpenCLIPNames(t *testing.T) {
	for _, n := range strings.Fields("RN50 RN50-quickgelu RN101 RN101-quickgelu RN50x4 RN50x4-quickgelu RN50x16 RN50x16-quickgelu RN50x64 RN50x64-quickgelu " +
		"ViT-B-16 ViT-B-16-quickgelu ViT-B-16-plus ViT-B-16-plus-240 ViT-B-32 ViT-B-32-quickgelu ViT-B-32-256 ViT-B-32-plus-256 " +
		"ViT-L-14 ViT-L-14-quickgelu ViT-L-14-280 ViT-L-14-336 ViT-L-14-336-quickgelu ViT-L-16 ViT-L-16-320 ViT-L-14-worldwide ViT-L-14-worldwide-quickgelu " +
		"ViT-H-14 ViT-H-14-quickgelu ViT-H-14-378 ViT-H-14-378-quickgelu ViT-H-14-worldwide ViT-H-14-worldwide-quickgelu ViT-H-14-worldwide-378 ViT-H-16 " +
		"ViT-M-16 ViT-M-16-alt ViT-M-32 ViT-M-32-alt ViT-S-16 ViT-S-16-alt ViT-S-32 ViT-S-32-alt ViT-e-14 ViT-g-14 " +
		"ViT-bigG-14 ViT-bigG-14-quickgelu ViT-bigG-14-worldwide ViT-bigG-14-worldwide-378 " +
		"EVA01-g-14 EVA01-g-14-plus EVA02-B-16 EVA02-L-14 EVA02-L-14-336 EVA02-E-14 EVA02-E-14-plus") {
		c, ok := Named(n)
		if !ok {
			t.Errorf("%s is not known", n)
		} else if quick := strings.HasSuffix(n, "-quickgelu") || strings.HasPrefix(n, "RN"); c.QuickGELU != quick {
			t.Errorf("%s: quick_gelu %v", n, c.QuickGELU)
		}
	}
}

func TestAliases(t *testing.T) {
	for a, n := range aliases {
		if _, ok := named()[n]; !ok {
			t.Errorf("alias %s names %s, which does not exist", a, n)
		}
	}
}

// Published image GFLOPs (OpenCLIP's profile and results tables).
func TestGFLOPs(t *testing.T) {
	for name, want := range map[string]float64{
		"EVA01-CLIP-g-14": 534, "EVA02-CLIP-B-16": 35.1, "EVA02-CLIP-L-14": 162, "EVA02-CLIP-L-14-336": 382, "EVA02-CLIP-bigE-14": 2264,
	} {
		c, _ := Named(name)
		if got, _ := c.GFLOPs(); math.Abs(got-want) > 0.02*want {
			t.Errorf("%s: %.1f GFLOPs, published %.1f", name, got, want)
		}
	}
}

func TestLayersAndDecay(t *testing.T) {
	type want struct {
		tower   Tower
		layer   int
		noDecay bool
	}
	for model, wants := range map[string]map[string]want{"EVA02-CLIP-B-16": {
		"visual.cls_token":                        {VisualTower, 0, true},
		"visual.pos_embed":                        {VisualTower, 0, true},
		"visual.patch_embed.proj.weight":          {VisualTower, 0, false},
		"visual.patch_embed.proj.bias":            {VisualTower, 0, true},
		"visual.blocks.0.attn.q_bias":             {VisualTower, 1, true},
		"visual.blocks.11.mlp.w3.weight":          {VisualTower, 12, false},
		"visual.norm.weight":                      {VisualTower, 13, true},
		"visual.head.weight":                      {VisualTower, 13, false},
		"text.positional_embedding":               {TextTower, 0, true},
		"text.token_embedding.weight":             {TextTower, 0, false},
		"text.transformer.resblocks.10.ln_1.bias": {TextTower, 11, true},
		"text.text_projection":                    {TextTower, 13, false},
		"logit_scale":                             {Other, 1, true},
	}, "openai-ViT-B-32": {
		"visual.conv1.weight":                        {VisualTower, 0, false},
		"visual.positional_embedding":                {VisualTower, 0, true},
		"visual.class_embedding":                     {VisualTower, 13, true}, // not among the original's embeddings
		"visual.transformer.resblocks.0.ln_1.weight": {VisualTower, 1, true},
		"visual.ln_post.weight":                      {VisualTower, 13, true},
		"visual.proj":                                {VisualTower, 13, false},
	}} {
		c, _ := Named(model)
		for _, p := range c.Params() {
			if w, ok := wants[p.Name]; ok {
				if (want{p.Tower, p.Layer, p.NoDecay}) != w {
					t.Errorf("%s: tower %v, layer %d, no decay %v; want %+v", p.Name, p.Tower, p.Layer, p.NoDecay, w)
				}
				delete(wants, p.Name)
			}
		}
		for n := range wants {
			t.Error("not listed:", n)
		}
	}
}

// The small model for training on a CPU can be expressed.
func TestSmallModel(t *testing.T) {
	c, err := Parse([]byte(`{"embed_dim": 64,
		"vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8, "mlp_ratio": 2.6875,
			"eva_model_name": "small", "rope": true, "pt_hw_seq_len": 16, "intp_freq": true, "naiveswiglu": true, "subln": true},
		"text_cfg": {"context_length": 16, "width": 64, "heads": 2, "layers": 2}}`))
	if err != nil {
		t.Fatal(err)
	}
	if n := c.TotalParams(); c.VisionHidden() != 344 || n < 4_000_000 || n > 4_200_000 {
		t.Errorf("hidden %d, %d parameters", c.VisionHidden(), n)
	}
}

func TestParseVariants(t *testing.T) {
	b32, _ := Named("openai-ViT-B-32")
	eos, _ := Named("openai-ViT-B-32")
	odd, _ := Named("openai-ViT-B-32")
	odd.Text.VocabSize, odd.Text.PoolType, odd.Text.EOS = 130, "eos", new(7)
	zero, _ := Named("openai-ViT-B-32")
	zero.Text.PoolType, zero.Text.EOS = "eos", new(0)
	small, _ := Named("openai-ViT-B-32")
	small.Text.VocabSize = 130
	eos.Text.PoolType, eos.Text.EOS = "eos", new(49407)
	eva, _ := Named("EVA02-CLIP-B-16")
	for _, tt := range []struct {
		name, json string
		want       *Config
	}{
		{"hugging face, all defaults", `{"model_type": "clip", "text_config": null, "vision_config": {"top_k": 50}}`, eos},
		{"hugging face, from before its eos_token_id counted", `{"text_config": {"eos_token_id": 2}, "vision_config": {"image_size": [224, 224]}}`, b32},
		{"hugging face, another end of the text", `{"text_config": {"eos_token_id": 7, "vocab_size": 130}, "vision_config": {}}`, odd},
		{"hugging face, 0 as the end of the text", `{"text_config": {"eos_token_id": 0}, "vision_config": {}}`, zero},
		{"hugging face, a small vocabulary without its end", `{"text_config": {"vocab_size": 130}, "vision_config": {}}`, small},
		{"hugging face, the older key counts, with the defaults for the rest", `{"text_config": {"hidden_size": 64, "eos_token_id": 9}, "text_config_dict": {"eos_token_id": 2}, "vision_config_dict": null, "vision_config": {}}`, b32},
		{"open_clip_config.json", `{"model_cfg": {"embed_dim": 512, "quick_gelu": true, "vision_cfg": {"image_size": [224, 224], "layers": 12, "width": 768, "patch_size": 32}, "text_cfg": {}}}`, b32},
		{"timm tower", `{"embed_dim": 512, "custom_text": false, "vision_cfg": {"image_size": 224, "timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token", "timm_proj": null},
			"text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "xattn": true, "fusedLN": true}}`, eva},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte(tt.json))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, c); d != "" {
				t.Error(d)
			}
			again, err := Parse(c.JSON())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c, again); d != "" {
				t.Errorf("read back: %s", d)
			}
		})
	}
}

func TestPreprocess(t *testing.T) {
	c, err := Parse([]byte(`{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}},
		"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "shortest"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Preprocess{Size: 224, Mean: [3]float32{.5, .5, .5}, Std: [3]float32{.5, .5, .5}, Interpolation: "bilinear", ResizeMode: Shortest}
	if got := c.Preprocess(); got != want {
		t.Errorf("got %+v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	head, tail := `{"embed_dim": 8, "vision_cfg": {`, `}, "text_cfg": {}}`
	for _, tt := range []struct{ json, want string }{
		{`[]`, "not a JSON object"},
		{`null`, "not a JSON object"},
		{`{} {}`, "more text"},
		{`{}`, "vision_cfg"},
		{`{"embed_dim": 8, "vision_cfg": {}}`, "text_cfg"},
		{`{"embed_dim": 8, "vision_cfg": 3, "text_cfg": {}}`, "vision_cfg"},
		{`{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}, "colour": 1}`, "unknown key colour"},
		{head + `"pach_size": 8` + tail, "unknown key vision_cfg.pach_size"},
		{head + `"layers": [1, 2]` + tail, "layers"},
		{head + `"layers": 1000000000` + tail, "vision_cfg.layers"},
		{head + `"width": "wide"` + tail, "vision_cfg.width"},
		{head + `"width": 100` + tail, "head_width"},
		{head + `"patch_size": 0` + tail, "patch_size"},
		{head + `"rope": true` + tail, "eva_model_name"},
		{head + `"eva_model_name": "x", "rope": true, "pt_hw_seq_len": 3` + tail, "intp_freq"},
		{head + `"timm_model_name": "resnet50"` + tail, "eva02_base_patch16_clip_224"},
		{head + `"attentional_pool": "cascade"` + tail, "vision_cfg.attentional_pool"},
		{`{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"hf_model_name": "bert-base"}}`, "text_cfg.hf_model_name"},
		{`{"model_type": "blip", "vision_config": {}}`, "model_type"},
		{`{"vision_config": {"hidden_act": "relu"}}`, "hidden_act"},
		{`{"vision_config": {"num_attention_heads": 0}}`, "num_attention_heads"},
	} {
		_, err := Parse([]byte(tt.json))
		if err == nil || !strings.Contains(err.Error(), tt.want) || fault.Code(err) != int(fault.Input) {
			t.Errorf("%s: error %v; want one about %q", tt.json, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, n := range Names() {
		c, _ := Named(n)
		f.Add(c.JSON())
	}
	f.Add([]byte(`{"model_type": "clip", "vision_config": {"hidden_size": 1}, "text_config": {}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := Parse(data)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+2000*len(data)); got > most {
			t.Errorf("%d bytes for a configuration of %d; at most %d", got, len(data), most)
		}
		if err != nil {
			return
		}
		again, err := Parse(c.JSON())
		if err != nil {
			t.Fatalf("canonical form of %q is refused: %v", data, err)
		}
		if !again.SameModel(c) {
			t.Errorf("canonical form of %q is read back as %s, not %s", data, again.JSON(), c.JSON())
		}
	})
}

// Keys without an effect are no reason to refuse a configuration, and of several
// reasons it always gives the same one.
func TestNeutralKeys(t *testing.T) {
	plain, err := Parse([]byte(`{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse([]byte(`{"embed_dim": 8, "init_logit_bias": null, "init_logit_scale": 2.3, "nonscalar_logit_scale": true, "multimodal_cfg": null, "output_dict": false,
		"vision_cfg": {"timm_model_name": null, "timm_pool": "avg", "timm_proj": "linear", "timm_drop": 0.1, "attn_pooler_heads": 12, "block_type": "custom", "qk_norm": false, "act_kwargs": null},
		"text_cfg": {"hf_tokenizer_name": "openai/clip-vit-base-patch32", "tokenizer_kwargs": {}, "tokenizer_mode": null, "hf_proj_type": "linear", "pad_id": 1, "eos_id": 7, "pool_type": "argmax", "norm_kwargs": {"eps": 1e-5}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(plain, c); d != "" {
		t.Error(d)
	}
	first := ""
	for range 50 {
		_, err := Parse([]byte(`{"embed_dim": 8, "vision_cfg": {"attentional_pool": "cascade", "input_patchnorm": true, "qk_norm": true, "scale_fc": true, "pos_embed_type": "sin_cos_2d"}, "text_cfg": {}}`))
		if err == nil || first != "" && err.Error() != first {
			t.Fatalf("%v after %s", err, first)
		}
		first = err.Error()
	}
}

// Only models with CLIP's vocabulary and tokenizer take texts.
func TestCheckTexts(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                     "",
		`{"vocab_size": 49407}`:  "49407 tokens",
		`{"vocab_size": 49409}`:  "49409 tokens",
		`{"vocab_size": 901629}`: "901629 tokens",
		`{"hf_tokenizer_name": "openai/clip-vit-large-patch14"}`:       "",
		`{"hf_tokenizer_name": "facebook/xlm-v-base"}`:                 "facebook/xlm-v-base",
		`{"tokenizer_kwargs": {"clean": "canonicalize"}}`:              "canonicalize",
		`{"hf_tokenizer_name": "x", "tokenizer_mode": "clips"}`:        "clips",
		`{"tokenizer_kwargs": {"clean": "lower"}, "vocab_size": null}`: "",
	} {
		c, err := Parse([]byte(`{"embed_dim": 8, "vision_cfg": {}, "text_cfg": ` + text + `}`))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		back, err := Parse(c.JSON())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []*Config{c, back} {
			err := c.CheckTexts()
			if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || fault.Code(err) != int(fault.Input)) {
				t.Errorf("%s: %v; want %q", text, err, want)
			}
		}
	}
}
