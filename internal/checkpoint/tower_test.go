package checkpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

// A single tower of OpenAI's, OpenCLIP's or transformers' models is planned whole,
// under any of its names, and comes back from the output.
func TestCLIPTowersAlone(t *testing.T) {
	all := structures(t)
	part := func(tensors []tensorfile.Info, keep func(name string) (string, bool)) (out []tensorfile.Info) {
		for _, info := range tensors {
			if name, ok := keep(info.Name); ok {
				info.Name = name
				out = append(out, info)
			}
		}
		return out
	}
	with := func(prefix string) func(string) (string, bool) {
		return func(n string) (string, bool) { return n, strings.HasPrefix(n, prefix) }
	}
	without := func(prefix string) func(string) (string, bool) {
		return func(n string) (string, bool) { return strings.CutPrefix(n, prefix) }
	}
	text := func(n string) (string, bool) { return n, !strings.HasPrefix(n, "visual.") }
	vit, rn, h14 := all["openai-ViT-B-32"], all["openai-RN50"], all["openclip-ViT-H-14"]
	hf := outputs(mustPlan(t, &inventory{tensors: vit}, PlanOptions{Layout: "hf"})).tensors
	const both, onlyRN, onlyH, onlyText = "that of openai-ViT-B-32 and openclip-ViT-B-32;", "that of openai-RN50 and openclip-RN50;", "that of openclip-ViT-H-14;", "a text tower alone"
	for i, c := range []struct {
		tensors []tensorfile.Info
		how     string
	}{
		{part(vit, with("visual.")), both}, {part(vit, without("visual.")), both},
		{part(rn, with("visual.")), onlyRN}, {part(rn, without("visual.")), onlyRN},
		{part(h14, with("visual.")), onlyH}, {part(vit, text), onlyText},
		{part(hf, with("vision_model.")), both}, {part(hf, without("vision_model.")), both},
		{append(part(hf, with("vision_model.")), part(hf, with("visual_projection"))...), both},
		{part(hf, with("text_model.")), onlyText}, {part(hf, without("text_model.")), onlyText},
		{append(part(hf, with("text_model.")), part(hf, with("text_projection"))...), onlyText},
	} {
		p := mustPlan(t, &inventory{tensors: c.tensors}, PlanOptions{})
		if !strings.Contains(p.Recognised, c.how) || p.Config != nil || len(p.Warnings) > 0 {
			t.Errorf("case %d: recognised as %q, warnings %v", i, p.Recognised, p.Warnings)
		}
		for _, it := range p.Items {
			if !strings.HasPrefix(it.Out.Name, "visual.") && !strings.HasPrefix(it.Out.Name, "text.") && it.Out.Name != "logit_scale" {
				t.Errorf("case %d: %s in EVA's layout", i, it.Out.Name)
			}
		}
		back := mustPlan(t, outputs(p), PlanOptions{})
		sameTensors(t, outputs(back).tensors, outputs(p).tensors)
	}
	p := mustPlan(t, &inventory{tensors: part(vit, text)}, PlanOptions{ConfigName: "openai-ViT-B-32"})
	if p.Config != nil || len(p.Items) != len(part(vit, text))-len(p.Dropped) {
		t.Errorf("with --config: %d tensors", len(p.Items))
	}
}

// A tower that only shares width, depth and patch size with an EVA tower is not one.
func TestOtherTowersAreNotTakenForEVA(t *testing.T) {
	tower := func(name string) (out []tensorfile.Info) {
		for _, info := range structures(t)[name] {
			if n, ok := strings.CutPrefix(info.Name, "visual."); ok {
				out = append(out, tensorfile.Info{Name: n, DType: info.DType, Shape: info.Shape})
			}
		}
		return out
	}
	for _, c := range []struct{ name, old, other string }{
		{"EVA01-CLIP-g-14", "attn.q_bias", "attn.qkv.bias"}, // a plain ViT
		{"EVA02-CLIP-L-14", "mlp.w", "mlp.fc"},              // EVA's first large tower
	} {
		in := tower(c.name)
		for i := range in {
			in[i].Name = strings.Replace(in[i].Name, c.old, c.other, 1)
		}
		if p := mustPlan(t, &inventory{tensors: in}, PlanOptions{}); p.Name != "" {
			t.Errorf("%s with %s is recognised as %s", c.name, c.other, p.Name)
		}
	}
}

// DFN and MetaCLIP published models of these shapes with QuickGELU.
func TestGELUIsNotTakenSilently(t *testing.T) {
	all := structures(t)
	for _, name := range []string{"openclip-ViT-H-14", "openclip-ViT-bigG-14"} {
		p := mustPlan(t, &inventory{tensors: all[name]}, PlanOptions{})
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "QuickGELU") {
			t.Errorf("%s: warnings %v", name, p.Warnings)
		}
	}
	if p := mustPlan(t, &inventory{tensors: all["EVA02-CLIP-B-16"]}, PlanOptions{}); len(p.Warnings) > 0 {
		t.Errorf("EVA: warnings %v", p.Warnings)
	}
}

// A transformers folder of one tower is read although its configuration is not a
// model's; an activation that differs from the architecture's is a warning.
func TestFolderOfOneTower(t *testing.T) {
	full, err := Open([]string{formats + "11_hf"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for tower, kind := range map[string]string{"vision_model.": "clip_vision_model", "text_model.": "clip_text_model"} {
		dir := t.TempDir()
		var tensors []tensorfile.Tensor
		for _, info := range full.Tensors() {
			if strings.HasPrefix(info.Name, tower) {
				b, err := tensorfile.ReadAll(full, info.Name)
				if err != nil {
					t.Fatal(err)
				}
				tensors = append(tensors, tensorfile.Tensor{Info: info, Data: b})
			}
		}
		if err := tensorfile.WriteFile(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
			t.Fatal(err)
		}
		config := fmt.Sprintf(`{"model_type": %q, "hidden_act": "gelu", "hidden_size": 32}`, kind)
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		in, err := Open([]string{dir}, "")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if _, err := planned(t, in, PlanOptions{}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		o := StartOptions{Config: full.beside.config}
		if *map[bool]*string{true: &o.Vision, false: &o.Text}[tower == "vision_model."] = dir; o.Check() != nil {
			t.Fatal(o.Check())
		}
		s, err := OpenStart(o)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		defer s.Close()
		if quick := full.beside.config.QuickGELU; len(s.Loaded) < 10 || quick != slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "quick_gelu") }) {
			t.Errorf("%s: %d tensors loaded, warnings %v, quick_gelu %v", kind, len(s.Loaded), s.Warnings, quick)
		}
	}
}
