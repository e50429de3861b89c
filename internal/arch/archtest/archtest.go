// Package archtest finds the tiny models of testdata for tests.
package archtest

import "path/filepath"

// inFormats are the models whose weights testdata/formats has as they are.
var inFormats = map[string]string{
	"eva02-b-tiny":        "01_zip_fp32.pt",
	"eva-switches-b-tiny": "17_zip_cuda_location_torch2.pt",
	"hf-clip-tiny":        "11_hf",
	"openai-vit-tiny":     "11_hf", // the same weights under other names
}

// Weights is the checkpoint, in full precision, of the model whose folder in
// testdata/models is dir. Read it with the config.json there.
func Weights(dir string) string {
	if file, ok := inFormats[filepath.Base(dir)]; ok {
		return filepath.Join(filepath.Dir(filepath.Dir(dir)), "formats", file)
	}
	return filepath.Join(dir, "model.safetensors")
}
