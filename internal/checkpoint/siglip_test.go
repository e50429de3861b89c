package checkpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// hollow is a model of c without values.
func hollow(c *arch.Config) *inventory {
	inv := &inventory{}
	for _, p := range c.Params() {
		inv.tensors = append(inv.tensors, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	return inv
}

// Every SigLIP is recognised and comes back from timm's and transformers' names; for
// the two that differ only in their size, the error names both.
func TestSigLIPNames(t *testing.T) {
	n := 0
	for _, name := range arch.Names() {
		c, _ := arch.Named(name)
		if c.Family() != "siglip" || c.Text.Tower != "" {
			continue
		}
		n++
		if strings.HasPrefix(name, "ViT-SO400M-14-SigLIP-3") {
			_, err := newPlan(hollow(c), PlanOptions{Layout: "eva", DType: "keep"})
			if err == nil || !strings.Contains(err.Error(), "ViT-SO400M-14-SigLIP-378 and ViT-SO400M-14-SigLIP-384") || fault.Code(err) != int(fault.Input) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		own := mustPlan(t, hollow(c), PlanOptions{})
		if own.Name != name || len(own.Warnings) > 0 || own.Assumed != "" || own.Config.Preprocess().ResizeMode != arch.Squash {
			t.Errorf("%s: recognised as %s, warnings %v %s", name, own.Name, own.Warnings, own.Assumed)
		}
		timm := mustPlan(t, hollow(c), PlanOptions{Layout: "openclip"})
		byName := map[string][]int64{}
		for _, it := range timm.Items {
			byName[it.Out.Name] = it.Out.Shape
		}
		w := int64(c.Vision.Width)
		if kv := byName["visual.trunk.attn_pool.kv.weight"]; len(kv) != 2 || kv[0] != 2*w || kv[1] != w || len(byName) != len(c.Params())+2 {
			t.Errorf("%s: kv %v", name, kv)
		}
		back := mustPlan(t, outputs(timm), PlanOptions{})
		if back.Name != name || back.Family != "timm-siglip" {
			t.Errorf("%s: from timm's names %s, %s", name, back.Name, back.Family)
		}
		sameTensors(t, outputs(back).tensors, hollow(c).tensors)
		if c.Text.ProjType == "none" {
			continue // transformers' model always has a projection
		}
		hf := mustPlan(t, hollow(c), PlanOptions{Layout: "hf"})
		for _, it := range hf.Items {
			if strings.HasPrefix(it.Out.Name, "logit_") && len(it.Out.Shape) != 1 {
				t.Errorf("%s: %s has shape %v, want [1]", name, it.Out.Name, it.Out.Shape)
			}
		}
		back = mustPlan(t, outputs(hf), PlanOptions{})
		sameTensors(t, outputs(back).tensors, hollow(c).tensors)
		if back.Family != "hf-siglip" || back.Config.Vision.Act != "gelu_tanh" || back.Config.Text.ActKwargs == nil {
			t.Errorf("%s: from transformers' names %s, activation %q", name, back.Family, back.Config.Vision.Act)
		}
	}
	if n != 26 {
		t.Errorf("%d architectures, want 26", n)
	}
}

// The error says what texts need if it is missing, and nothing else is used instead.
func TestTexts(t *testing.T) {
	dir := t.TempDir()
	c, _ := arch.Named("ViT-B-16-SigLIP")
	m := &Model{Config: c, file: filepath.Join(dir, "model.safetensors")}
	const good = `{"model": {"type": "Unigram", "unk_id": 1, "vocab": [["</s>", 0], ["<unk>", -1], ["▁a", -2], ["▁cat", -3]]}, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"},
		"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}], "special_tokens": {"</s>": {"ids": [0]}}}}`
	for _, step := range []struct{ file, content, want string }{
		{"", "", "tokenizer.json of timm/ViT-B-16-SigLIP"},
		{"tokenizer.json", good, "tokenizer_config.json"},
		{"tokenizer_config.json", `{"pad_token": {"content": "<none>"}}`, "not in the vocabulary"},
		{"tokenizer_config.json", `{"pad_token": 7}`, "tokenizer_config.json"},
		{"tokenizer_config.json", `{"pad_token": "<unk>"}`, ""},
		{"tokenizer.json", strings.Replace(good, `"</s>": {"ids": [0]}`, `"</s>": {"ids": [32000]}`, 1), "the model's own tokenizer.json"},
		{"tokenizer.json", `{"model": {"type": "WordLevel"}}`, "WordLevel"},
	} {
		if step.file != "" {
			if err := os.WriteFile(filepath.Join(dir, step.file), []byte(step.content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		tok, err := m.Texts("")
		if step.want == "" {
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]int32, 5)
			tok.Tokens(dst, "A CAT!", 5)
			if want := [5]int32{2, 3, 0, 1, 1}; [5]int32(dst) != want {
				t.Errorf("%v, want %v", dst, want)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), step.want) || fault.Code(err) != int(fault.Input) {
			t.Errorf("%+v: %v", step, err)
		}
	}
}
