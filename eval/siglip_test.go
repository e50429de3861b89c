package eval

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// A model with a logit bias, whose texts its own tokenizer cuts: probabilities are
// sigmoids, each for itself.
func TestSigLIP(t *testing.T) {
	t.Setenv("HF_HUB_OFFLINE", "1")
	t.Setenv("HF_HUB_CACHE", t.TempDir())
	dir := t.TempDir()
	copyFile := func(name, from string) {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const tiny = "../testdata/models/siglip2-tiny/"
	copyFile("model.safetensors", tiny+"model.safetensors")
	b, err := os.ReadFile(tiny + "config.json")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(b), `"context_length"`, `"hf_tokenizer_name": "timm/tiny", "tokenizer_kwargs": {"clean": "canonicalize"}, "context_length"`, 1)
	if err := os.WriteFile(filepath.Join(dir, "open_clip_config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := Open(t.Context(), dir, OpenOptions{Backend: "go"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.EncodeTexts(t.Context(), "a cat"); fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "tokenizer.json of timm/tiny") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without a tokenizer: %v", err)
	}
	defer m.Close()
	for name, text := range map[string]string{
		"tokenizer.json": `{"model": {"type": "BPE", "unk_token": "u", "vocab": {"u": 0, "e": 1, "p": 2, "a": 3, "c": 4, "ac": 5, "▁": 6}, "merges": ["a c"]},
			"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "e"}}], "special_tokens": {"e": {"ids": [1]}}}}`,
		"tokenizer_config.json": `{"pad_token": "p"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	texts, err := m.EncodeTexts(t.Context(), "A_ac!", "c a c") // the failure before is not for ever
	if err != nil {
		t.Fatal(err)
	}
	// The first text's ids, given by hand.
	row := make([]int32, 16)
	for i := range row {
		row[i] = 2
	}
	copy(row, []int32{3, 6, 5, 1})
	r, _, err := m.runner(t.Context(), m.file.Config, calls(1, "", 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.Texts(t.Context(), row, 1)
	if err != nil || !normalize(want) {
		t.Fatal(err)
	}
	for i, v := range want {
		if math.Abs(float64(v-texts[0][i])) > 1e-6 {
			t.Fatalf("value %d is %v, want %v", i, texts[0][i], v)
		}
	}
	src, err := tensorfile.OpenFile(tiny + "forward.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	scale, _ := tensorfile.Float32s(src, "expected.logit_scale_exp")
	bias, _ := tensorfile.Float32s(src, "expected.logit_bias")
	p := m.Probabilities(texts[:1], texts)[0]
	for j := range texts {
		cos := 0.0
		for i := range texts[0] {
			cos += float64(texts[0][i]) * float64(texts[j][i])
		}
		if want := 1 / (1 + math.Exp(-float64(scale[0])*cos-float64(bias[0]))); math.Abs(float64(p[j])-want) > 1e-5 {
			t.Errorf("text %d: probability %v, want %v", j, p[j], want)
		}
	}
}
