package main

import "github.com/evatool/evatool/internal/arch"

// sizes say what is measured.
type sizes struct {
	matmul   int
	parity   []string // models: names or configurations
	forward  []forwardCase
	train    []trainCase
	pictures int // in the tar of the data pipeline
	steps    int // timed, of a training
	calls    int // timed, of a tower, by each of two callers
}

type forwardCase struct {
	model, dtype string
	batch        int
}

type trainCase struct {
	model        string
	precision    string
	patchDropout float64
	checkpoint   bool
	batch        int // the first one tried; halved until it fits
	donation     bool
}

// presets by the name of --size. full is for a GPU with 80 GB; smaller ones halve the batches.
var presets = map[string]sizes{"full": full, "cpu": cpu, "tiny": tiny}

var full = sizes{
	matmul: 8192,
	parity: []string{tinyModel, "EVA02-CLIP-B-16"},
	forward: []forwardCase{
		{"EVA02-CLIP-B-16", "bf16", 512}, {"EVA02-CLIP-B-16", "fp32", 256},
		{"EVA02-CLIP-L-14-336", "bf16", 128}, {"EVA02-CLIP-L-14-336", "fp32", 64},
		{"ViT-B-32", "bf16", 1024}, {"ViT-B-32", "fp32", 512},
	},
	train: []trainCase{
		{"EVA02-CLIP-B-16", "bf16", 0.5, false, 1024, false},
		{"EVA02-CLIP-B-16", "bf16", 0.5, true, 4096, false},
		{"EVA02-CLIP-B-16", "bf16", 0, false, 512, false},
		{"EVA02-CLIP-L-14", "bf16", 0.5, false, 256, false},
		{"EVA02-CLIP-L-14", "bf16", 0.5, true, 2048, false},
		{"EVA02-CLIP-B-16", "fp32", 0.5, false, 512, true}, // last: compiles twice
	},
	pictures: 2048,
	steps:    8,
	calls:    6,
}

var cpu = sizes{
	matmul:   1024,
	forward:  []forwardCase{{"EVA02-CLIP-B-16", "fp32", 8}, {"EVA02-CLIP-B-16", "bf16", 8}},
	train:    []trainCase{{smallModel, "fp32", 0, false, 128, true}, {smallModel, "fp32", 0, true, 128, false}},
	pictures: 256,
	steps:    8,
	calls:    2,
}

var tiny = sizes{
	matmul:   256,
	parity:   []string{tinyModel},
	forward:  []forwardCase{{tinyModel, "fp32", 4}, {tinyModel, "bf16", 4}},
	train:    []trainCase{{tinyModel, "bf16", 0, false, 8, true}},
	pictures: 16,
	steps:    2,
	calls:    2,
}

// tinyModel has every part of an EVA-02 model.
const tinyModel = `{"embed_dim": 32, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8,
"mlp_ratio": 2.6667, "eva_model_name": "eva-clip-tiny", "rope": true, "pt_hw_seq_len": 16, "intp_freq": true, "naiveswiglu": true, "subln": true},
"text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}}`

// smallModel is one that a CPU trains at a second per step.
const smallModel = `{"embed_dim": 128, "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8,
"mlp_ratio": 2.6667, "eva_model_name": "eva-clip-small", "rope": true, "pt_hw_seq_len": 16, "intp_freq": true, "naiveswiglu": true, "subln": true},
"text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3}}`

// configOf is the architecture for a name or a configuration, and its name.
func configOf(model string) (*arch.Config, string, error) {
	if cfg, ok := arch.Named(model); ok {
		return cfg, model, nil
	}
	cfg, err := arch.Parse([]byte(model))
	return cfg, map[string]string{tinyModel: "tiny", smallModel: "small"}[model], err
}
