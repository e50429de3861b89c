package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/hub/hubtest"
)

// The list shows the authors' figure, even if a re-evaluation is higher.
func TestHeadline(t *testing.T) {
	for name, want := range map[string]float64{
		"EVA02-CLIP-bigE-14": 0.819, "openai-RN50": 0.596, "openclip-ViT-L-14": 0.7921, "EVA01-CLIP-B-16": 0,
	} {
		c, _ := arch.Named(name)
		if f, ok := headline(newModelEntry(name, c).Published); f.Top1 != want || ok != (want > 0) {
			t.Errorf("%s: %+v, want %v", name, f, want)
		}
	}
}

// Every name that a model may have is listed, with its size, whether it is in
// the cache, and its published figure.
func TestModelsList(t *testing.T) {
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("HF_HUB_CACHE", "")
	dir := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--QuanSun--EVA-CLIP")
	file := filepath.Join(dir, "snapshots", hubtest.Commit, "EVA02_CLIP_B_psz16_s8B.pt")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.MkdirAll(filepath.Join(dir, "refs"), 0o755),
		os.WriteFile(filepath.Join(dir, "refs", "main"), []byte(hubtest.Commit), 0o644), os.WriteFile(file, make([]byte, 2e7), 0o644)); err != nil {
		t.Fatal(err)
	}
	code, text, errs := run(t, "models")
	if code != 0 {
		t.Fatal(errs)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(text) {
		f := regexp.MustCompile(`  +`).Split(strings.TrimSpace(line), -1)
		rows[f[0]] = f[1:]
	}
	for _, name := range hub.Names() {
		if rows[name] == nil {
			t.Errorf("%s is not listed", name)
		}
	}
	for name, want := range map[string]string{
		"EVA02-CLIP-B-16":            "149.7 224 0.02 yes 74.7 EVA-CLIP, arXiv 2303.15389 works",
		"EVA-CLIP-18B":               "18325.5 224 ~36.65 no 83.8 EVA-CLIP-18B, arXiv 2402.04252 works",
		"EVA-CLIP-8B":                "8220.7 224 ~32.88 no - works",
		"openai:ViT-L-14-336":        "427.9 336 ~0.86 no 76.2 CLIP, arXiv 2103.00020, table 11 works",
		"ViT-B-32/laion2b_s34b_b79k": "151.3 224 ~0.61 no 66.6 OpenCLIP results table works",
		"ViT-L-14/laion2b_s32b_b82k": "427.6 224 ~1.71 no 75.2 OpenCLIP results table works",
		"ViT-H-14-quickgelu/dfn5b":   "986.1 224 ~3.94 no 83.4 OpenCLIP results table works",
		"ViT-B-32/metaclip_400m":     "151.3 224 ~0.61 no - works",
		"nllb-clip-base/v1":          "501.9 224 ~2.01 no 24.3 OpenCLIP results table works",
	} {
		if got := strings.Join(rows[name], " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	code, text, errs = run(t, "models", "--json")
	var list []struct {
		Name    string
		Params  *struct{ Total int64 }
		Weights []struct{ Name, State, Cached string }
	}
	if err := json.Unmarshal([]byte(text), &list); code != 0 || err != nil {
		t.Fatal(code, err, errs)
	}
	cached, named := "", 0
	for _, e := range list {
		if named += len(e.Weights); e.Params == nil {
			t.Errorf("%s: no parameters", e.Name)
		}
		for _, w := range e.Weights {
			cached += w.Cached
		}
	}
	if cached != file || named != len(hub.Names()) {
		t.Errorf("%d names, cached %s", named, cached)
	}
	for name, want := range map[string]string{"openai:ViT-B-32": `"quick_gelu": true`, "ViT-H-14-quickgelu/dfn5b": "squash", "ViT-L-14/laion2b_s32b_b82k": "0.5", "EVA02-CLIP-B-16": "eva"} {
		if code, text, errs := run(t, "models", name); code != 0 || !strings.Contains(text, want) {
			t.Errorf("%s: %s%s; want %s", name, text, errs, want)
		}
	}
	if code, _, errs := run(t, "models", "ViT-B-33"); code != 2 || !strings.Contains(errs, "neither an architecture nor weights") {
		t.Errorf("ViT-B-33: %d, %s", code, errs)
	}
	if code, text, _ := run(t, "models", "--architectures"); code != 0 || !strings.Contains(text, "GFLOPs image") || strings.Contains(text, "openai:") {
		t.Errorf("architectures: %s", text)
	}
}
