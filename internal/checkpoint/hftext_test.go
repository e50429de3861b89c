package checkpoint

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// Every model with a text tower of transformers is recognised, and comes back from
// OpenCLIP's names, with timm's image tower and without.
func TestHFTextNames(t *testing.T) {
	n := 0
	for _, name := range arch.Names() {
		c, _ := arch.Named(name)
		if c.Text.Tower == "" {
			continue
		}
		n++
		for _, inv := range []*inventory{hollow(c), underOpenCLIP(t, name)} {
			p := mustPlan(t, inv, PlanOptions{})
			if p.Name != name {
				t.Errorf("%s: recognised as %s", name, p.Name)
			}
			sameTensors(t, outputs(p).tensors, hollow(c).tensors)
		}
		names := map[string]bool{}
		for _, it := range mustPlan(t, hollow(c), PlanOptions{Layout: "openclip"}).Items {
			names[it.Out.Name] = true
		}
		if !names[c.TokenEmbedding()] || names["visual.trunk.pos_embed"] != (c.Vision.Tower == "siglip") {
			t.Errorf("%s: not OpenCLIP's names", name)
		}
		if _, err := newPlan(hollow(c), PlanOptions{Layout: "hf", DType: "keep"}); err == nil || !strings.Contains(err.Error(), "Options.Layout hf") {
			t.Errorf("%s: transformers has no such model, but %v", name, err)
		}
	}
	if n != 7 {
		t.Errorf("%d architectures, want 7", n)
	}
	// Any other image tower of timm's goes with them.
	c, _ := arch.Parse([]byte(`{"embed_dim": 640, "vision_cfg": {"timm_model_name": "convnext_base", "timm_proj": "linear"}, "text_cfg": {"hf_model_name": "xlm-roberta-base"}}`))
	if c == nil {
		t.Fatal("ConvNeXt with XLM-RoBERTa is refused")
	}
	p := mustPlan(t, outputs(mustPlan(t, hollow(c), PlanOptions{Config: c, Layout: "openclip"})), PlanOptions{Config: c})
	sameTensors(t, outputs(p).tensors, hollow(c).tensors)
}

// OpenCLIP's configuration of roberta-ViT-B-32 has QuickGELU, though its list of
// weights does not say so: what OpenCLIP computes counts, with a warning.
func TestRobertaActivation(t *testing.T) {
	c, _ := arch.Named("roberta-ViT-B-32")
	inv := hollow(c)
	for _, path := range []string{"", "CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k/open_clip_model.safetensors"} {
		inv.path = path
		for _, o := range []PlanOptions{{}, {ConfigName: "roberta-ViT-B-32"}} {
			p := mustPlan(t, inv, o)
			if !p.Config.QuickGELU || len(p.Warnings) == 0 == (o.ConfigName == "" || path == "") || len(p.Warnings) > 0 && !strings.Contains(p.Warnings[0], "QuickGELU") {
				t.Errorf("%q, %+v: QuickGELU %v, warnings %v", path, o, p.Config.QuickGELU, p.Warnings)
			}
		}
	}
	xlm, _ := arch.Named("xlm-roberta-base-ViT-B-32")
	if p := mustPlan(t, hollow(xlm), PlanOptions{}); p.Config.QuickGELU {
		t.Error("xlm-roberta-base-ViT-B-32 with QuickGELU")
	}
}

// The text model's sizes are those of its config.json, beside OpenCLIP's file or in
// the folder that this names.
func TestHFTextConfigFile(t *testing.T) {
	const model = `{"model_type": "roberta", "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 90}`
	const config = `{"model_cfg": {"embed_dim": 64, "vision_cfg": {"width": 64}, "text_cfg": {"hf_model_name": "NAME"}}}`
	for _, c := range []struct{ name, at string }{{"roberta-base", "."}, {"text", "text"}, {"ABSOLUTE", "other"}} {
		dir := t.TempDir()
		at := filepath.Join(dir, c.at)
		if c.name == "ABSOLUTE" {
			c.name = at
		}
		path := filepath.Join(dir, openCLIPConfig)
		for file, text := range map[string]string{path: strings.Replace(config, "NAME", c.name, 1), filepath.Join(at, hfConfig): model} {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, _, _, err := chosenConfig(nil, path)
		if err != nil || got.Text.Heads != 4 || got.Text.Width != 64 {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
		if err := os.WriteFile(filepath.Join(at, hfConfig), []byte(strings.Replace(model, "roberta", "xlm-roberta", 1)[:60]), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := chosenConfig(nil, path); c.name != "roberta-base" && (err == nil || fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "hf_model_name")) {
			t.Errorf("%+v: a broken config.json: %v", c, err)
		}
	}
}

// readPacked reads a file of the tokenizers' goldens.
func readPacked(t *testing.T, name string, o any) {
	t.Helper()
	f, err := os.Open("../../testdata/tokenizerjson/" + name + ".json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(z).Decode(o)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// hfTokenizer puts one of the small tokenizers into a folder.
func hfTokenizer(t *testing.T, kind string) (dir string, strings []string, ids [][]int32) {
	t.Helper()
	var all struct {
		Tokenizers map[string]struct {
			Tokenizer json.RawMessage
			Config    json.RawMessage `json:"tokenizer_config"`
			IDs       [][]int32
		}
	}
	var cases struct{ Strings []string }
	readPacked(t, "hf", &all)
	readPacked(t, "cases", &cases)
	dir = t.TempDir()
	k := all.Tokenizers[kind]
	for name, b := range map[string]json.RawMessage{"tokenizer.json": k.Tokenizer, "tokenizer_config.json": k.Config} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, cases.Strings, k.IDs
}

// Texts are tokenized by the tokenizer beside the weights; NLLB's class puts the
// language's code first, wherever the file has it, and pads as its class does.
func TestHFTexts(t *testing.T) {
	for kind, name := range map[string]string{"roberta": "roberta-ViT-B-32", "xlm-roberta": "xlm-roberta-base-ViT-B-32", "nllb": "nllb-clip-base"} {
		dir, texts, ids := hfTokenizer(t, kind)
		c, _ := arch.Named(name)
		m := &Model{Config: c}
		first := map[string][]int32{}
		at := slices.IndexFunc(ids, func(row []int32) bool { return len(row) > 5 && len(row) < 20 })
		check := func(what string, want []int32) {
			t.Helper()
			tok, err := m.Texts(dir)
			if err != nil {
				t.Fatalf("%s, %s: %v", kind, what, err)
			}
			got := make([]int32, 20)
			tok.Tokens(got, texts[at], 20)
			for i := len(want); i < 20; i++ {
				want = append(want, 1)
			}
			if first[what] = got; !slices.Equal(got, want) {
				t.Errorf("%s, %s: %q is %v, want %v", kind, what, texts[at], got, want)
			}
		}
		check("as it is", slices.Clone(ids[at]))
		write := func(text string) {
			if err := os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write(`{}`) // as in the published repository; the class completes it
		check("without what files say", slices.Clone(ids[at]))
		if kind != "nllb" {
			continue
		}
		// The codes are in the order of their names, English after Greek.
		greek := slices.Clone(ids[at])
		greek[0]--
		write(`{"tokenizer_class": "NllbTokenizerFast", "src_lang": "ell_Grek"}`)
		check("of another language", greek)
		write(`{"tokenizer_class": "NllbTokenizer", "legacy_behaviour": true}`)
		check("as it was once", append(slices.Clone(ids[at][1:]), ids[at][0]))
		write(`{"tokenizer_class": "NllbTokenizer", "src_lang": "xxx"}`)
		if _, err := m.Texts(dir); err == nil || !strings.Contains(err.Error(), `"xxx"`) || fault.Code(err) != int(fault.Input) {
			t.Errorf("an unknown language: %v", err)
		}
	}
}
