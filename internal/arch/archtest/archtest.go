// Package archtest finds the models of testdata for tests.
package archtest

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// inFormats are the models whose weights are in testdata/formats.
var inFormats = map[string]string{
	"eva02-b-tiny":        "01_zip_fp32.pt",
	"eva-switches-b-tiny": "17_zip_cuda_location_torch2.pt",
	"hf-clip-tiny":        "11_hf",
	"openai-vit-tiny":     "11_hf", // the same weights under other names
}

// Weights is the full-precision checkpoint of the model whose folder in
// testdata/models is dir. Read it with the config.json there.
func Weights(dir string) string {
	if file, ok := inFormats[filepath.Base(dir)]; ok {
		return filepath.Join(filepath.Dir(filepath.Dir(dir)), "formats", file)
	}
	return filepath.Join(dir, "model.safetensors")
}

// Structures returns the unpacked JSON files of dir, which is testdata/structure.
func Structures(t *testing.T, dir string) [][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.json.gz"))
	if err != nil || len(paths) < 26 {
		t.Fatalf("%d structure files, want all 26 (%v)", len(paths), err)
	}
	var out [][]byte
	for _, p := range paths {
		out = append(out, unpack(t, p))
	}
	return out
}

// ZeroShotModel returns the unpacked model of dir, which is testdata/zeroshot. Of its
// 49,408 token embeddings it has those that the references use; the others are zero.
func ZeroShotModel(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, unpack(t, filepath.Join(dir, "model.safetensors.gz")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func unpack(t *testing.T, path string) []byte {
	t.Helper()
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(path, err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(path, err)
	}
	return data
}
