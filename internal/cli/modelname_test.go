package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/hub/hubtest"
)

// fixtureHub has the zero-shot fixture as OpenCLIP would publish it.
func fixtureHub(t *testing.T) (h *hubtest.Hub, path string) {
	t.Helper()
	path = archtest.ZeroShotModel(t, "../../testdata/zeroshot")
	weights, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("../../testdata/zeroshot/config.json")
	if err != nil {
		t.Fatal(err)
	}
	h = hubtest.New(t, "some/model", map[string][]byte{
		"open_clip_model.safetensors": weights,
		"open_clip_config.json":       []byte(`{"model_cfg": ` + string(config) + `, "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}}`),
	})
	t.Setenv("HF_HOME", t.TempDir())
	return h, path
}

// Every command that takes a model takes a name: the weights and the files beside them
// are fetched once.
func TestNamesOfModels(t *testing.T) {
	h, path := fixtureHub(t)
	dir := t.TempDir()
	name, out := "hf:some/model", func(n string) string { return filepath.Join(dir, n) }
	os.WriteFile(out("names.txt"), []byte("one\ntwo\nthree\nfour\nfive\nsix\nseven\n"), 0o644)
	os.WriteFile(out("templates.txt"), []byte("a photo of a {c}.\n"), 0o644)
	os.WriteFile(out("texts.txt"), []byte("a photo of a dog\n"), 0o644)
	for _, args := range [][]string{
		{"fetch", name},
		{"inspect", name, "--json"},
		{"diff", path, name},
		{"diff", name, path},
		{"convert", name, "-o", out("c.safetensors")},
		{"convert", name + "/open_clip_model.safetensors", "-o", out("d.safetensors"), "--offline"},
		{"init", "--config", "../../testdata/zeroshot/config.json", "--vision", name, "--text", name, "--base", name, "-o", out("i.safetensors")},
		{"embed", "--backend", "go", "--model", name, "--texts", out("texts.txt"), "-o", out("e.npy")},
		{"zeroshot", "folder", "--backend", "go", "--classifier-cache", "off", "--model", name, "--data", "../../testdata/zeroshot/inputs.safetensors", "--classnames", out("names.txt"), "--templates", out("templates.txt")},
	} {
		if code, _, errs := run(t, args...); code != 0 {
			t.Errorf("%v: status %d, %s", args, code, errs)
		}
	}
	if n := h.Count("cdn"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	code, text, errs := run(t, "fetch", name, "--json", "--offline")
	var list []fetched
	if err := json.Unmarshal([]byte(text), &list); code != 0 || err != nil || len(list) != 1 {
		t.Fatalf("%d %s %s", code, text, errs)
	}
	if f := list[0]; f.Name != name || f.Repository != "some/model" || f.Commit != h.Commit || len(f.Files) != 2 || !strings.HasSuffix(f.Path, "open_clip_model.safetensors") {
		t.Errorf("%+v", f)
	}
	// One line if it does not work.
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"inspect", "hf:some/other"}, 3, "no such repository"},
		{[]string{"embed", "--backend", "go", "--model", "hf:some/model@v2", "--texts", out("texts.txt"), "-o", out("f.npy")}, 3, "no revision v2"},
		{[]string{"convert", "hf:some/other", "-o", out("g.safetensors"), "--offline"}, 4, "--offline"},
		{[]string{"fetch", "EVA02-CLIP-B-17"}, 3, "did you mean EVA02-CLIP-B-16?"},
		{[]string{"fetch", "nowhere.pt"}, 3, "no such file"},
		{[]string{"fetch"}, 2, "requires"},
	} {
		code, _, errs := run(t, c.args...)
		last := errs[strings.LastIndex(strings.TrimRight(errs, "\n"), "\n")+1:]
		if code != c.code || !strings.Contains(last, c.want) {
			t.Errorf("%v: status %d, %s", c.args, code, errs)
		}
	}
}
