package checkpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/tensorfile"
)

// folder is a folder with these files; a name with weights takes the tensors of a
// plan, as a sparse file.
func folder(t *testing.T, files map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	for name, what := range files {
		path := filepath.Join(dir, name)
		if text, ok := what.(string); ok {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		infos := what.([]tensorfile.Info)
		if _, err := tensorfile.NewWriter(f, infos, nil); err != nil {
			t.Fatal(err)
		}
		st, _ := f.Stat()
		n := st.Size()
		for _, i := range infos {
			n += i.NumBytes()
		}
		if err := f.Truncate(n); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return dir
}

const (
	tinyOpenCLIP = `{"model_cfg": {"embed_dim": 8, "quick_gelu": %v, "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
		"text_cfg": {"context_length": 7, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}}, "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize_mode": "squash"}}`
	tinyHF = `{"model_type": "clip", "projection_dim": 8, "text_config": {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 7, "hidden_act": %q, "eos_token_id": 9},
		"vision_config": {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "hidden_act": %[1]q}}`
	tinyProcessor = `{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 32, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}`
)

// tiny are the tensors of the tiny model under OpenCLIP's names and transformers'.
func tiny(t *testing.T) (openclip, hf []tensorfile.Info) {
	t.Helper()
	c, err := arch.Parse([]byte(fmt.Sprintf(tinyOpenCLIP, false)))
	if err != nil {
		t.Fatal(err)
	}
	var eva []tensorfile.Info
	for _, p := range c.Params() {
		eva = append(eva, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	for layout, out := range map[string]*[]tensorfile.Info{"openclip": &openclip, "hf": &hf} {
		*out = outputs(mustPlan(t, &inventory{tensors: eva}, PlanOptions{Config: c, Layout: layout})).tensors
	}
	return openclip, hf
}

// Of the files beside weights, those of the library whose names they have count.
func TestConfigurationFollowsTheWeights(t *testing.T) {
	openclip, hf := tiny(t)
	image := slices.DeleteFunc(slices.Clone(hf), func(i tensorfile.Info) bool { return !strings.HasPrefix(i.Name, "vision_model.") })
	both := map[string]any{"open_clip_config.json": fmt.Sprintf(tinyOpenCLIP, true), "config.json": fmt.Sprintf(tinyHF, "gelu"), "preprocessor_config.json": tinyProcessor}
	with := func(more map[string]any) map[string]any {
		for k, v := range both {
			if more[k] == nil {
				more[k] = v
			}
		}
		return more
	}
	for _, tt := range []struct {
		name  string
		files map[string]any
		open  string // in the folder
		read  string
		hf    bool
	}{
		{"transformers' weights", with(map[string]any{"model.safetensors": hf}), "", "model.safetensors", true},
		{"the file itself", with(map[string]any{"model.safetensors": hf}), "model.safetensors", "model.safetensors", true},
		{"OpenCLIP's weights", with(map[string]any{"open_clip_model.safetensors": openclip}), "", "open_clip_model.safetensors", false},
		{"OpenCLIP's under transformers' file name", with(map[string]any{"model.safetensors": openclip}), "", "model.safetensors", false},
		{"both", with(map[string]any{"model.safetensors": hf, "open_clip_model.safetensors": openclip}), "", "model.safetensors", true},
		{"OpenCLIP's file of both", with(map[string]any{"model.safetensors": hf, "open_clip_model.safetensors": openclip}), "open_clip_model.safetensors", "open_clip_model.safetensors", false},
		{"timm's repository", with(map[string]any{"model.safetensors": image, "open_clip_model.safetensors": openclip, "config.json": `{"architecture": "vit_base_patch32_clip_224", "num_classes": 8}`}), "", "open_clip_model.safetensors", false},
	} {
		in, err := Open([]string{filepath.Join(folder(t, tt.files), tt.open)}, "")
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		defer in.Close()
		p, err := in.Plan(PlanOptions{Layout: "eva", DType: "keep"})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		want := arch.OpenAIPreprocess()
		want.Size, want.Mean, want.Std, want.ResizeMode = 32, [3]float32{}, [3]float32{1, 1, 1}, arch.Squash
		if tt.hf {
			half := [3]float32{0.5, 0.5, 0.5}
			want = arch.Preprocess{Size: 32, Mean: half, Std: half, Interpolation: "bicubic", ResizeMode: arch.Shortest, Resize: [2]int{40, 40}, Floor: true}
		}
		if filepath.Base(in.Files[0]) != tt.read || p.Config.QuickGELU == tt.hf || p.Config.PoolsEOS() != tt.hf || p.Config.Preprocess() != want || p.Assumed != "" {
			t.Errorf("%s: %s, quick %v, ends %v, %v, %q", tt.name, in.Files[0], p.Config.QuickGELU, p.Config.PoolsEOS(), p.Config.Preprocess(), p.Assumed)
		}
	}
}

// A tokenizer other than CLIP's is noticed, wherever the folder states it.
func TestForeignTokenizer(t *testing.T) {
	_, hf := tiny(t)
	for name, tt := range map[string]struct{ file, text, want string }{
		"class":          {"tokenizer_config.json", `{"tokenizer_class": "BertTokenizerFast"}`, "BertTokenizerFast"},
		"tokenizer.json": {"tokenizer.json", `{"model": {"type": "WordPiece", "vocab": {}}}`, "WordPiece"},
		"vocab.json":     {"vocab.json", `{"a": 0}`, "vocab.json"},
		"sentencepiece":  {"spiece.model", "x", "spiece.model"},
		"CLIP's class":   {"tokenizer_config.json", `{"tokenizer_class": "CLIPTokenizer"}`, ""},
		"none":           {"README.md", "x", ""},
	} {
		big := strings.Replace(fmt.Sprintf(tinyHF, "gelu"), `"vocab_size": 20`, `"vocab_size": 49408`, 1)
		in, err := Open([]string{folder(t, map[string]any{"model.safetensors": hf, "config.json": big, tt.file: tt.text})}, "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		defer in.Close()
		c := in.beside.config
		if refused := c.CheckTexts() != nil; refused != (tt.want != "") || !strings.Contains(c.Text.Tokenizer, tt.want) {
			t.Errorf("%s: %q, %v", name, c.Text.Tokenizer, c.CheckTexts())
		}
	}
}

// A processor that evatool cannot reproduce is refused, unless the user gives the
// preprocessing.
func TestForeignProcessor(t *testing.T) {
	_, hf := tiny(t)
	in, err := Open([]string{folder(t, map[string]any{"model.safetensors": hf, "config.json": fmt.Sprintf(tinyHF, "gelu"), "preprocessor_config.json": `{"image_processor_type": "BlipImageProcessor"}`})}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.Plan(PlanOptions{Layout: "eva", DType: "keep"}); err == nil || !strings.Contains(err.Error(), "BlipImageProcessor") {
		t.Error(err)
	}
	if p, err := in.Plan(PlanOptions{Layout: "eva", DType: "keep", Preprocess: "inception"}); err != nil || p.Config.Preprocess().Mean[0] != 0.5 {
		t.Error(err)
	}
}
