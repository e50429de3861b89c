// Package made writes synthetic inputs for benchmarks.
package made

import (
	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Model writes a model file with random weights.
func Model(cfg *arch.Config, path string) error {
	src := checkpoint.RandomSource(cfg, 1)
	var list []tensorfile.Tensor
	for _, t := range src.Tensors() {
		data, err := tensorfile.ReadAll(src, t.Name)
		if err != nil {
			return err
		}
		list = append(list, tensorfile.Tensor{Info: t, Data: data})
	}
	return tensorfile.WriteFile(path, list, checkpoint.ModelMetadata(cfg))
}
