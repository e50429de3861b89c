package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

const initData = "../testdata/init"

type initCase struct {
	Name string
	Call struct {
		Function string   `json:"function"`
		Skip     []string `json:"skip_list"`
	} `json:"call"`
	Files   []string `json:"files"`
	Changed []string `json:"changed_keys"`
	FixedTo []string `json:"expected_fixed_changed_keys"`
}

func initCases(t *testing.T) []initCase {
	t.Helper()
	paths, err := filepath.Glob(initData + "/*/case.json")
	if err != nil || len(paths) != 8 {
		t.Fatal(paths, err)
	}
	var out []initCase
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		var c initCase
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
		c.Name = filepath.Base(filepath.Dir(p))
		out = append(out, c)
	}
	return out
}

func (c initCase) path(name string) string { return filepath.Join(initData, c.Name, name) }

// base is a model file with the tensors of case c's base.safetensors, or of NaN if
// the case replaces them all.
func (c initCase) base(t *testing.T) string {
	t.Helper()
	in, err := tensorfile.OpenFile(c.path("base.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var model []tensorfile.Tensor
	for _, info := range in.Tensors() {
		data, err := tensorfile.ReadAll(in, info.Name)
		if err != nil {
			t.Fatal(err)
		}
		model = append(model, tensorfile.Tensor{Info: info, Data: data})
	}
	text, err := os.ReadFile(c.path("config.json"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := arch.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range config.Params() {
		if !slices.ContainsFunc(model, func(x tensorfile.Tensor) bool { return x.Info.Name == p.Name }) {
			info := tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape}
			model = append(model, tensorfile.Tensor{Info: info, Data: bytes.Repeat([]byte{255}, int(info.NumBytes()))})
		}
	}
	path := filepath.Join(t.TempDir(), "base.safetensors")
	if err := tensorfile.WriteFile(path, model, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// check compares the file got with the case: all bytes by their hash, but resized
// tensors within 2e-6. RoPE tables are computed, not stored.
func (c initCase) check(t *testing.T, got string, resized []Resized) {
	t.Helper()
	have, want := sums(t, got), wantTensors(t, c.path("expected.json"))
	for name, w := range want {
		if w.SHA256 == "" { // compared below
			if !strings.HasPrefix(have[name], w.String()) || !slices.ContainsFunc(resized, func(r Resized) bool { return r.Name == name }) {
				t.Errorf("%s: %s, want %s, resized", name, have[name], w)
			}
			delete(have, name)
			delete(want, name)
		}
	}
	sameSums(t, have, want)
	if len(resized) > 0 {
		compareValues(t, got, c.path("resized.safetensors"), "", len(resized))
	}
}

// compareValues compares the n tensors of want, within 2e-6, with those in got whose
// names have prefix before them.
func compareValues(t *testing.T, got, want, prefix string, n int) {
	t.Helper()
	g, err := tensorfile.OpenFile(got)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	w, err := tensorfile.OpenFile(want)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if len(w.Tensors()) != n {
		t.Errorf("%s has %d tensors, want %d", want, len(w.Tensors()), n)
	}
	for _, info := range w.Tensors() {
		a, err := tensorfile.Float32s(g, prefix+info.Name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := tensorfile.Float32s(w, info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if len(a) != len(b) {
			t.Fatalf("%s: %d values, want %d", info.Name, len(a), len(b))
		}
		worst := 0.0
		for i := range a {
			worst = max(worst, math.Abs(float64(a[i])-float64(b[i])))
		}
		if !(worst <= 2e-6) {
			t.Errorf("%s: off by %g", info.Name, worst)
		}
	}
}

func TestInitFixtures(t *testing.T) {
	for _, c := range initCases(t) {
		if c.Call.Function != "load_pretrained_checkpoint" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.safetensors")
			if c.Call.Skip == nil {
				c.Call.Skip = []string{}
			}
			o := InitOptions{Config: c.path("config.json"), Base: c.base(t), Skip: c.Call.Skip, Output: out,
				Vision: c.path(c.Files[0]), Text: c.path(c.Files[len(c.Files)-1])}
			r, err := Init(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			changed := c.Changed
			if c.FixedTo != nil {
				changed = c.FixedTo
			}
			c.check(t, out, r.Resized)
			loaded := slices.Clone(r.Loaded)
			slices.Sort(loaded)
			slices.Sort(changed)
			if !slices.Equal(loaded, changed) {
				t.Errorf("loaded %v, want %v", loaded, changed)
			}
			if !slices.Contains(r.FromBase, "logit_scale") || !r.Verified {
				t.Errorf("from base: %v", r.FromBase)
			}
			// The model that it wrote describes itself.
			m, err := checkpoint.OpenModel(context.Background(), out, checkpoint.ModelOptions{})
			if err != nil {
				t.Fatal(err)
			}
			m.Close()
		})
	}
}

// Loading a checkpoint into a model for other images is convert --resize.
func TestResizeFixtures(t *testing.T) {
	for _, c := range initCases(t) {
		if c.Call.Function != "load_checkpoint" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.safetensors")
			o := Options{Sources: []string{c.path(c.Files[0])}, Config: c.path("config.json"), Output: out, Resize: "clip-rei"}
			if strings.Contains(c.Name, "evaclip") {
				o.Resize = "eva"
			}
			if strings.HasSuffix(c.Name, "_flat") {
				o.Layout = "openclip"
			}
			r, err := Run(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Resized) != 1 {
				t.Errorf("resized: %v", r.Resized)
			}
			c.check(t, out, r.Resized)
		})
	}
}

// towerConfig is the configuration of the towers in h_errors: 4x4 patches of
// 8 pixels.
func towerConfig(t *testing.T) string {
	t.Helper()
	c := map[string]any{"embed_dim": 8,
		"vision_cfg": map[string]any{"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1, "mlp_ratio": 2.6667,
			"eva_model_name": "eva", "rope": true, "pt_hw_seq_len": 16, "intp_freq": true, "naiveswiglu": true, "subln": true},
		"text_cfg": map[string]any{"width": 16, "heads": 2, "layers": 1, "vocab_size": 50, "context_length": 8}}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, mustJSON(c), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// A half-precision position embedding is widened before it is resized.
func TestInitResizesHalfPrecision(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.safetensors")
	r, err := Init(context.Background(), InitOptions{Config: towerConfig(t), Vision: initData + "/h_errors/fp16_other_grid.pt", Output: out, Seed: 5})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Resized) != 1 {
		t.Errorf("resized %v", r.Resized)
	}
	want := initData + "/h_errors/fp16_other_grid.expected_resized.safetensors"
	compareValues(t, out, want, "visual.", 2)
	for _, name := range []string{"visual.head.weight", "text.token_embedding.weight", "logit_scale"} {
		if !slices.Contains(r.Random, name) {
			t.Errorf("%s is not random", name)
		}
	}
}

// A bare tower's head is a classifier and is left out unless asked for.
func TestInitSkipsTheHeadOfABareTower(t *testing.T) {
	in, err := tensorfile.OpenFile(initCase{Name: "a_eva02_same_grid_openai_text"}.base(t))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var tower []tensorfile.Tensor
	for _, info := range in.Tensors() {
		if name, ok := strings.CutPrefix(info.Name, "visual."); ok {
			data, err := tensorfile.ReadAll(in, info.Name)
			if err != nil {
				t.Fatal(err)
			}
			info.Name = name
			tower = append(tower, tensorfile.Tensor{Info: info, Data: data})
		}
	}
	src := filepath.Join(t.TempDir(), "tower.safetensors")
	if err := tensorfile.WriteFile(src, tower, nil); err != nil {
		t.Fatal(err)
	}
	o := InitOptions{Config: initData + "/a_eva02_same_grid_openai_text/config.json", Vision: src, Output: filepath.Join(t.TempDir(), "out.safetensors"), Force: true}
	for _, skip := range [][]string{nil, {}} {
		o.Skip = skip
		r, err := Init(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := slices.Contains(r.Loaded, "visual.head.weight"), skip != nil; got != want {
			t.Errorf("skip %v: the head is loaded: %v", skip, got)
		}
		if slices.Contains(r.Random, "visual.head.weight") != (skip == nil) {
			t.Errorf("skip %v: random: %v", skip, r.Random)
		}
	}
}

func TestInitErrors(t *testing.T) {
	cases := []struct {
		name string
		o    InitOptions
		kind fault.Kind
		says string
	}{
		{"no tower", InitOptions{Config: "EVA02-CLIP-B-16"}, fault.Usage, "Options.Vision or Options.Text"},
		{"no config", InitOptions{Vision: "x.pt"}, fault.Usage, "Options.Config"},
		{"bad config", InitOptions{Config: "EVA-9", Vision: "x.pt"}, fault.Usage, "EVA-9"},
		{"no file", InitOptions{Config: "EVA02-CLIP-B-16", Vision: "missing.pt"}, fault.Input, "missing.pt: no such file"},
		{"text file as vision", InitOptions{Config: towerConfig(t), Vision: initData + "/h_errors/hf_pytorch_model.bin"}, fault.Input, "hf_pytorch_model.bin"},
		{"unreadable text", InitOptions{Config: towerConfig(t), Text: initData + "/h_errors/hf_pytorch_model.bin"}, fault.Input, "hf_pytorch_model.bin"},
		{"other patch", InitOptions{Config: towerConfig(t), Vision: initData + "/h_errors/same_grid_other_patch.pt"}, fault.Input, "visual.patch_embed.proj.weight"},
		{"vision as text", InitOptions{Config: towerConfig(t), Text: initData + "/h_errors/fp16_other_grid.pt"}, fault.Input, "Options.Text takes none of its tensors"},
		{"other width", InitOptions{Config: "EVA02-CLIP-B-16", Vision: initData + "/h_errors/fp16_other_grid.pt"}, fault.Input, "cls_token"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.o.Output = filepath.Join(dir, "out.safetensors")
			_, err := Init(context.Background(), c.o)
			if err == nil || fault.Code(err) != int(c.kind) || !strings.Contains(fault.Line(err), c.says) {
				t.Errorf("got %v (%d), want %q", err, fault.Code(err), c.says)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
