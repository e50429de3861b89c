package checkpoint

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/tensorfile"
)

// A start has the towers' tensors and random ones; the vision head is a thousand
// times smaller, as in the original. Nothing is written for it.
func TestStart(t *testing.T) {
	const dir = "../../testdata/init/a_eva02_same_grid_openai_text/"
	c, _, _, err := chosenConfig(nil, dir+"config.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenStart(StartOptions{Config: c, Vision: dir + "visual_mim.pt", Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(s.Source.Tensors()) != len(c.Params()) || len(s.Loaded)+len(s.Random) != len(c.Params()) || len(s.Files) != 1 {
		t.Errorf("%d tensors, %d loaded, %d random, from %v", len(s.Source.Tensors()), len(s.Loaded), len(s.Random), s.Files)
	}
	random := map[string]bool{}
	for _, name := range s.Random {
		random[name] = true
	}
	for _, p := range c.Params() {
		got, err := tensorfile.Float32s(s.Source, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		drawn := RandomTensor(c, p, 3)
		switch {
		case p.Name == "visual.head.weight":
			for i := range got {
				if d := got[i] - drawn[i]*0.001; d > 1e-9 || d < -1e-9 {
					t.Fatalf("%s[%d] is %v, drawn as %v", p.Name, i, got[i], drawn[i])
				}
			}
		case random[p.Name] && (got[0] != drawn[0] || got[len(got)-1] != drawn[len(drawn)-1]):
			t.Errorf("%s is not drawn from the seed", p.Name)
		}
	}
	if _, err := OpenStart(StartOptions{Config: c, Vision: dir + "visual_mim.pt", Base: "missing"}); err == nil {
		t.Error("a base that is not there")
	}
	if len(s.Warnings) > 0 {
		t.Errorf("warnings %q", s.Warnings)
	}
	if _, ok := arch.Named(s.Name); ok || s.Name != Custom {
		t.Errorf("called %s", s.Name)
	}
}

// A tower whose file has fewer blocks than the architecture starts with random ones,
// which is said.
func TestStartFromFewerBlocks(t *testing.T) {
	const dir = "../../testdata/init/a_eva02_same_grid_openai_text/"
	c, _, _, err := chosenConfig(nil, dir+"config.json")
	if err != nil {
		t.Fatal(err)
	}
	have := c.Layers(arch.VisualTower)
	c.Vision.Layers = arch.Layers{have + 1}
	s, err := OpenStart(StartOptions{Config: c, Vision: dir + "visual_mim.pt"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := fmt.Sprintf("has no visual.blocks.%d.norm1.weight, ", have)
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], want) || !strings.HasSuffix(s.Warnings[0], "they keep their initial values") {
		t.Errorf("warnings %q, want one with %q", s.Warnings, want)
	}
}

// A tower that its file says was trained with another GELU is warned about, unless it
// is EVA's vision tower, which has no choice.
func TestStartWithAnotherGELU(t *testing.T) {
	parse := func(vision string, quick bool) *arch.Config {
		c, err := arch.Parse(fmt.Appendf(nil, `{"embed_dim": 8, "quick_gelu": %v, "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8%s},
			"text_cfg": {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}}`, quick, vision))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const eva = `, "eva_model_name": "x"`
	for _, c := range []struct {
		vision, tower string
		file, want    bool // QuickGELU of the file and of the architecture
		warns         bool
	}{
		{"", "vision", true, false, true}, {"", "text", true, false, true}, {"", "text", false, true, true}, {"", "vision", true, true, false},
		{eva, "vision", true, false, false}, {eva, "text", true, false, true}, {eva, "text", false, false, false},
	} {
		from := parse(c.vision, c.file)
		path := zeroModel(t, from)
		o := StartOptions{Config: parse(c.vision, c.want), Vision: path}
		if c.tower == "text" {
			o.Vision, o.Text = "", path
		}
		s, err := OpenStart(o)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if got := slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "was trained with") }); got != c.warns {
			t.Errorf("%+v: warnings %q", c, s.Warnings)
		}
	}
}

// What is skipped may also be named as in the model, whatever it is called in the file.
func TestStartSkipsByTheModelsNames(t *testing.T) {
	const dir = "../../testdata/init/a_eva02_same_grid_openai_text/"
	s, err := OpenStart(StartOptions{ConfigName: dir + "config.json", Vision: dir + "visual_mim.pt", Text: dir + "text_openai_jit.pt",
		Skip: []string{"text.text_projection", "visual.pos_embed", "visual.head.*"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if want := []string{"logit_scale", "visual.pos_embed", "visual.head.weight", "visual.head.bias", "text.text_projection"}; !slices.Equal(s.Random, want) || len(s.Warnings) > 0 {
		t.Errorf("random %q, want %q; warnings %q", s.Random, want, s.Warnings)
	}
}

// Tensors do not show the number of heads and the like: a file that states others than
// the architecture in use is warned about, as a tower and as a model.
func TestContradiction(t *testing.T) {
	parse := func(vision, text string) *arch.Config {
		c, err := arch.Parse(fmt.Appendf(nil, `{"embed_dim": 8, "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 1, "width": 16, "eva_model_name": "x", "rope": true, "intp_freq": true, %s},
			"text_cfg": {"context_length": 4, "vocab_size": 16, "width": 8, "layers": 1, %s}}`, vision, text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const vision, text = `"head_width": 8, "pt_hw_seq_len": 4`, `"heads": 1`
	from := parse(vision+`, "intp_freq": false`, text)
	path := zeroModel(t, from)
	for _, c := range []struct{ vision, text, want string }{
		{vision, text, ""},
		{vision + `, "drop_path_rate": 0.1`, text, ""},
		{`"head_width": 16, "pt_hw_seq_len": 4`, text, "vision_cfg.head_width is 8 and not 16"},
		{`"head_width": 8, "pt_hw_seq_len": 16`, text, "vision_cfg.pt_hw_seq_len is 4 and not 16"},
		{vision + `, "postnorm": true`, text, "vision_cfg.postnorm is false and not true"},
		{vision, `"heads": 2`, "text_cfg.heads is 1 and not 2"},
		{vision, `"heads": 1, "no_causal_mask": true`, "text_cfg.attn_mask is true and not false"},
		{vision, `"heads": 1, "pool_type": "eos", "eos_id": 3`, `text_cfg.pool_type is "" and not "eos"`},
	} {
		use := parse(c.vision, c.text)
		s, err := OpenStart(StartOptions{Config: use, Vision: path, Text: path, Skip: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		m, err := OpenModel(t.Context(), path, ModelOptions{Config: use})
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		for how, warnings := range map[string][]string{"towers": s.Warnings, "model": m.Warnings} {
			if c.want == "" && len(warnings) > 0 || c.want != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], c.want)) {
				t.Errorf("%s: warnings %q, want %q", how, warnings, c.want)
			}
		}
	}
}

// zeroModel writes a model of zeros that states its configuration.
func zeroModel(t *testing.T, c *arch.Config) (path string) {
	t.Helper()
	var list []tensorfile.Tensor
	for _, info := range RandomSource(c, 1).Tensors() {
		list = append(list, tensorfile.Tensor{Info: info, Data: make([]byte, info.NumBytes())})
	}
	path = filepath.Join(t.TempDir(), "model.safetensors")
	if err := tensorfile.WriteFile(path, list, ModelMetadata(c)); err != nil {
		t.Fatal(err)
	}
	return path
}
