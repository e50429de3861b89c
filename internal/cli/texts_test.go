package cli

import (
	"image"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/hub/hubtest"
	"github.com/evatool/evatool/internal/tensorfile"
)

const tinyModels = "../../testdata/models/"

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withTokenizer is a tiny model's configuration with the tokenizer named.
func withTokenizer(t *testing.T, dir, name string) []byte {
	return []byte(strings.Replace(string(readFile(t, tinyModels+dir+"/config.json")), `"context_length"`, `"hf_tokenizer_name": "`+name+`", "context_length"`, 1))
}

// embedded are the text features that embed writes for a model.
func embedded(t *testing.T, model string, texts ...string) []float32 {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "t.txt"), filepath.Join(dir, "o.safetensors")
	if err := os.WriteFile(in, []byte(strings.Join(texts, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run(t, "embed", "--backend", "go", "--model", model, "--texts", in, "-o", out); code != 0 {
		t.Fatalf("%s: %d, %s", model, code, errs)
	}
	f, err := tensorfile.OpenFile(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := tensorfile.Float32s(f, "text_features")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const (
	bytesTokenizer = `{"model": {"type": "BPE", "vocab": {"<s>": 0, "<pad>": 1, "</s>": 2, "c": 3, "a": 4, "t": 5, "at": 6, "Ġ": 7, "d": 8, "o": 9, "g": 10}, "merges": ["a t"]},
		"added_tokens": [{"id": 1, "content": "<pad>", "special": true}], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
		"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}}`
	siglipTokenizer = `{"model": {"type": "BPE", "unk_token": "u", "vocab": {"u": 0, "e": 1, "p": 2, "a": 3, "c": 4, "t": 5, "d": 6, "o": 7, "g": 8, "▁": 9}, "merges": []},
		"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "e"}}], "special_tokens": {"e": {"ids": [1]}}}}`
)

// A model by name takes texts: its tokenizer comes with the weights from their
// repository, and features and scores are those of a folder with the same files.
func TestTextsByName(t *testing.T) {
	files := map[string][]byte{
		"open_clip_model.safetensors": readFile(t, tinyModels+"siglip2-tiny/model.safetensors"),
		"open_clip_config.json":       withTokenizer(t, "siglip2-tiny", "timm/ViT-B-16-SigLIP"),
		"tokenizer.json":              []byte(siglipTokenizer), "tokenizer_config.json": []byte(`{"pad_token": "p"}`),
	}
	h := hubtest.New(t, "timm/ViT-B-16-SigLIP", files)
	folder, data := t.TempDir(), t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(folder, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := embedded(t, folder, "a cat", "dog")
	for _, name := range []string{"ViT-B-16-SigLIP/webli", "hf:timm/ViT-B-16-SigLIP"} {
		if got := embedded(t, name, "a cat", "dog"); !slices.Equal(got, want) || slices.Equal(got[:len(got)/2], got[len(got)/2:]) {
			t.Errorf("%s: other features than the folder's, or the same for both texts", name)
		}
	}
	for i, class := range []string{"cat", "dog"} {
		im := image.NewGray(image.Rect(0, 0, 32, 32))
		im.Pix[i] = 255
		f, err := os.Create(filepath.Join(data, class+".png"))
		if err == nil {
			err = png.Encode(f, im)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.WriteFile(filepath.Join(data, "labels.csv"), []byte("path,label\ncat.png,0\ndog.png,1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	names, templates := filepath.Join(data, "names.txt"), filepath.Join(data, "templates.txt")
	os.WriteFile(names, []byte("cat\ndog\n"), 0o644)
	os.WriteFile(templates, []byte("a {}\n"), 0o644)
	out := t.TempDir()
	code, text, errs := run(t, "zeroshot", "folder", "--backend", "go", "--model", "ViT-B-16-SigLIP/webli", "--data", filepath.Join(data, "labels.csv"),
		"--classnames", names, "--templates", templates, "--out", out, "--json")
	if code != 0 || !strings.Contains(text, `"n": 2`) {
		t.Errorf("zeroshot: %d, %s%s", code, text, errs)
	}
	// Without the repository's tokenizer one line says what is missing.
	delete(h.Files, "tokenizer.json")
	t.Setenv("HF_HOME", t.TempDir())
	in := filepath.Join(data, "names.txt")
	if code, _, errs := run(t, "embed", "--backend", "go", "--model", "ViT-B-16-SigLIP/webli", "--texts", in, "-o", filepath.Join(data, "x.npy")); code != 3 || !strings.Contains(errs, "tokenizer.json of timm/ViT-B-16-SigLIP") {
		t.Errorf("without a tokenizer: %d, %s", code, errs)
	}
}

// The tokenizer is fetched from the repository that the table names where the
// weights' own has none, and with it texts work without a network.
func TestTokenizerElsewhere(t *testing.T) {
	h := hubtest.New(t, "laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k", map[string][]byte{
		"open_clip_model.safetensors": readFile(t, tinyModels+"roberta-tiny/model.safetensors"), "open_clip_config.json": withTokenizer(t, "roberta-tiny", "roberta-base"),
	})
	h.Others = map[string]map[string][]byte{"FacebookAI/roberta-base": {"tokenizer.json": []byte(bytesTokenizer), "config.json": []byte(`{"model_type": "roberta"}`)}}
	const name = "roberta-ViT-B-32/laion2b_s12b_b32k"
	want := embedded(t, name, "cat", "dog") // the tokenizer is fetched with the first text
	t.Setenv("HF_HOME", t.TempDir())
	for _, n := range []string{name, "hf:laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k"} {
		code, text, errs := run(t, "fetch", n, "--json")
		if code != 0 || !strings.Contains(text, "models--FacebookAI--roberta-base/snapshots/"+hubtest.Commit+"/tokenizer.json") {
			t.Fatalf("fetch %s: %d, %s%s", n, code, text, errs)
		}
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	if got := embedded(t, name, "cat", "dog"); !slices.Equal(got, want) || slices.Equal(got[:len(got)/2], got[len(got)/2:]) {
		t.Error("offline: other features, or the same for both texts")
	}
	t.Setenv("HF_HUB_OFFLINE", "")
	h.Others = nil
	t.Setenv("HF_HOME", t.TempDir())
	if code, _, errs := run(t, "fetch", name); code != 3 || !strings.Contains(errs, "FacebookAI/roberta-base") || strings.Count(strings.TrimSpace(errs), "\n") > 3 {
		t.Errorf("fetch without the tokenizer's repository: %d, %s", code, errs)
	}
}
