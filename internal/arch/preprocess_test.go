package arch

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/fault"
)

var (
	half  = [3]float32{0.5, 0.5, 0.5}
	zeros = [3]float32{}
	ones  = [3]float32{1, 1, 1}
)

// changed is OpenAI's preprocessing for 32 pixels with some changes.
func changed(change func(p *Preprocess)) Preprocess {
	p := OpenAIPreprocess()
	p.Size = 32
	change(&p)
	return p
}

// What a file says counts, even zeros; what it leaves out is the library's
// default. The values of processors are those of transformers 5.24.
func TestParsePreprocess(t *testing.T) {
	clip := func(change func(p *Preprocess)) Preprocess {
		return changed(func(p *Preprocess) {
			p.Floor = true
			change(p)
		})
	}
	for _, tt := range []struct {
		name, json string
		want       Preprocess
	}{
		{"nothing", `{}`, changed(func(p *Preprocess) {})},
		{"zeros as given", `{"mean": [0, 0, 0], "std": [1, 1, 1]}`, changed(func(p *Preprocess) { p.Mean, p.Std = zeros, ones })},
		{"null is the default", `{"mean": null, "std": [0.5, 0.5, 0.5], "interpolation": null, "resize_mode": null, "fill_color": null, "mode": null}`, changed(func(p *Preprocess) { p.Std = half })},
		{"squash", `{"size": 224, "mode": "RGB", "resize_mode": "squash", "interpolation": "bilinear"}`, changed(func(p *Preprocess) { p.ResizeMode, p.Interpolation = Squash, "bilinear" })},
		{"longest", `{"size": [32, 32], "resize_mode": "longest", "fill_color": 7}`, changed(func(p *Preprocess) { p.ResizeMode, p.FillColor = Longest, 7 })},
		{"random is for training", `{"interpolation": "random"}`, changed(func(p *Preprocess) {})},
		{"open_clip_config.json", `{"model_cfg": {"embed_dim": 3}, "preprocess_cfg": {"mean": [0, 0, 0]}}`, changed(func(p *Preprocess) { p.Mean = zeros })},
		{"open_clip_config.json without", `{"model_cfg": {"embed_dim": 3}}`, changed(func(p *Preprocess) {})},

		{"CLIP of old", `{"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "resample": 3}`, clip(func(p *Preprocess) {})},
		{"CLIP of today", `{"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 2,
			"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "data_format": "channels_first", "device": null, "do_convert_rgb": true, "rescale_factor": 0.00392156862745098}`,
			clip(func(p *Preprocess) {
				p.Mean, p.Std, p.Interpolation, p.Resize = zeros, ones, "bilinear", [2]int{40, 40}
			})},
		{"nested", `{"processor_class": "CLIPProcessor", "image_processor": {"image_processor_type": "CLIPImageProcessor", "size": {"height": 32, "width": 32}, "do_center_crop": false}}`,
			changed(func(p *Preprocess) { p.ResizeMode = Squash })},
		{"height and width, then a crop", `{"size": {"height": 48, "width": 40}, "crop_size": 32, "resample": 5}`,
			clip(func(p *Preprocess) { p.ResizeMode, p.Resize, p.Interpolation = Squash, [2]int{48, 40}, "hamming" })},
		{"no resize", `{"do_resize": false, "crop_size": 32, "resample": 0}`, clip(func(p *Preprocess) { p.ResizeMode, p.Interpolation = NoResize, "nearest" })},
		{"no rescale", `{"size": 32, "crop_size": 32, "do_rescale": false, "image_mean": 127.5, "image_std": [127.5, 127.5, 51]}`,
			clip(func(p *Preprocess) { p.Mean, p.Std = half, [3]float32{0.5, 0.5, 0.2} })},
		{"to −1…1", `{"size": 32, "crop_size": 32, "rescale_factor": 0.00784313725490196, "image_mean": 1, "image_std": 1}`,
			clip(func(p *Preprocess) { p.Mean, p.Std = half, half })},
		{"no normalisation", `{"size": 32, "crop_size": 32, "do_normalize": false}`, clip(func(p *Preprocess) { p.Mean, p.Std = zeros, ones })},
		{"ViT", `{"image_processor_type": "ViTImageProcessor", "size": 32}`, changed(func(p *Preprocess) { p.Mean, p.Std, p.Interpolation, p.ResizeMode = half, half, "bilinear", Squash })},
		{"Siglip", `{"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}`, changed(func(p *Preprocess) { p.Mean, p.Std, p.ResizeMode = half, half, Squash })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePreprocess([]byte(tt.json), 32)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParsePreprocessRefuses(t *testing.T) {
	for _, tt := range []struct{ json, want string }{
		{`[]`, "not a JSON object"},
		{`{"mean": [0.5]}`, "mean"},
		{`{"mean": 0.5}`, "mean"},
		{`{"mean": [0, 0, 0, 0]}`, "mean"},
		{`{"std": [0, 0, 0]}`, "std"},
		{`{"std": [0.5, 0, 0.5]}`, "std"},
		{`{"std": [0.5, 1e39, 0.5]}`, "std"},
		{`{"mode": "L"}`, "preprocess_cfg.mode"},
		{`{"resize_mode": "crop"}`, `resize_mode "crop"`},
		{`{"interpolation": "cubic"}`, `interpolation "cubic"`},
		{`{"fill_color": 256}`, "fill_color"},
		{`{"colour": 1}`, "colour"},
		{`{"image_processor_type": "BlipImageProcessor"}`, "BlipImageProcessor"},
		{`{"image_processor_type": "ChineseCLIPImageProcessor"}`, "ChineseCLIPImageProcessor"},
		{`{"do_resize": true, "size": 224, "crop_size": 224}`, "a crop of 224×224 does not give the 32×32"},
		{`{"do_center_crop": false, "size": {"shortest_edge": 32}}`, "without a crop"},
		{`{"do_center_crop": false, "do_resize": false}`, "neither a resize nor a crop"},
		{`{"size": {"longest_edge": 32}, "crop_size": 32}`, "longest_edge"},
		{`{"size": {"shortest_edge": 32, "height": 32, "width": 32}, "crop_size": 32}`, "shortest_edge, or height and width"},
		{`{"size": 0, "crop_size": 32}`, "size"},
		{`{"size": 32, "crop_size": {"height": 32}}`, "crop_size"},
		{`{"size": 32, "crop_size": 32, "resample": 6}`, "resample"},
		{`{"size": 32, "crop_size": 32, "image_std": 0}`, "std"},
		{`{"size": 32, "crop_size": 32, "rescale_factor": 0}`, "mean"},
		{`{"size": 32, "crop_size": 32, "do_pad": true}`, "do_pad"},
		{`{"size": 32, "crop_size": 32, "crop_pct": 0.9}`, "crop_pct"},
		{`{"size": 32, "crop_size": 32, "data_format": "channels_last"}`, "data_format"},
		{`{"size": 32, "crop_size": 32, "image_mean": [0.5, 0.5]}`, "image_mean"},
		{`{"size": 32, "crop_size": 32, "": 1}`, "unknown key"},
	} {
		_, err := ParsePreprocess([]byte(tt.json), 32)
		if err == nil || !strings.Contains(err.Error(), tt.want) || fault.Code(err) != int(fault.Input) {
			t.Errorf("%s: error %v; want one about %q", tt.json, err, tt.want)
		}
	}
}

func TestPreprocessWith(t *testing.T) {
	now := changed(func(p *Preprocess) { p.Interpolation, p.FillColor = "bilinear", 3 })
	inception := changed(func(p *Preprocess) { p.Mean, p.Std = half, half })
	for _, tt := range []struct {
		words string
		want  Preprocess
	}{
		{"inception", inception},
		{"openai", changed(func(p *Preprocess) {})},
		{"inception,resize=squash,interpolation=bilinear", changed(func(p *Preprocess) {
			p.Mean, p.Std, p.ResizeMode, p.Interpolation = half, half, Squash, "bilinear"
		})},
		{"resize=longest,fill=0", changed(func(p *Preprocess) { p.ResizeMode, p.Interpolation = Longest, "bilinear" })},
		{"mean=0, std=1,1,1,resize=squash,fill=0", changed(func(p *Preprocess) {
			p.Mean, p.Std, p.ResizeMode, p.Interpolation = zeros, ones, Squash, "bilinear"
		})},
		{inception.String(), changed(func(p *Preprocess) { p.Mean, p.Std, p.FillColor = half, half, 3 })},
	} {
		got, err := now.With(tt.words)
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v", tt.words, got, err)
		}
	}
	for _, words := range []string{"", "clip", "mean", "mean=", "mean=a", "mean=1,2", "std=0", "mean=1,2,3,4", "resize=crop", "interpolation=3", "fill=x", "size=3", "0.5"} {
		if _, err := now.With(words); fault.Code(err) != int(fault.Usage) {
			t.Errorf("%q: error %v", words, err)
		}
	}
}

// A configuration keeps the preprocessing that was set.
func TestConfigKeepsPreprocess(t *testing.T) {
	for _, pixels := range []string{`{"mean": [0, 0, 0], "std": [1, 1, 1], "resize_mode": "longest", "fill_color": 9}`, `{}`} {
		c, err := Parse([]byte(`{"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {}, "preprocess_cfg": ` + pixels + `}`))
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(c.JSON())
		if err != nil {
			t.Fatal(err)
		}
		want, _ := ParsePreprocess([]byte(pixels), 32)
		if c.Preprocess() != want || back.Preprocess() != want {
			t.Errorf("%s: %+v, read back %+v", pixels, c.Preprocess(), back.Preprocess())
		}
		if own := c.Pixels == nil; own != (pixels == "{}") {
			t.Errorf("%s: the configuration says %v", pixels, c.Pixels)
		}
	}
}

func FuzzParsePreprocess(f *testing.F) {
	f.Add([]byte(`{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": [32, 32], "image_mean": [0, 0, 0]}`))
	f.Add([]byte(`{"preprocess_cfg": {"mean": [0, 0, 0], "resize_mode": "squash"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePreprocess(data, 32)
		if err == nil && p.check() != nil {
			t.Errorf("%q gives %+v", data, p)
		}
	})
}
