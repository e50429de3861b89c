package convert

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
)

// hfModel is the file name that transformers looks for in a folder.
const hfModel = "model.safetensors"

// largestID is the eos_token_id with which transformers pools at the largest id.
const largestID = 2

// hfConfig is the config.json of transformers' CLIPModel; if that model cannot run
// this one, why says what it lacks.
func hfConfig(c *arch.Config) (content []byte, why string) {
	if c.VisionTower() == "siglip" && c.TextTower() == "siglip" {
		return hfSigLIP(c)
	}
	switch {
	case c.VisionTower() != "vit" || c.TextTower() != "clip":
		return nil, "an architecture of its own"
	case c.LayerScale(arch.VisualTower) || c.LayerScale(arch.TextTower):
		return nil, "layer scale"
	case c.Vision.NoLnPre || c.Vision.LnAfterPool || c.Vision.AveragePool || c.Vision.PoolType == "avg":
		return nil, "another kind of pooling"
	case !c.Text.AttnMask:
		return nil, "text attention without a causal mask"
	case c.PoolsEOS() && *c.Text.EOS == largestID:
		return nil, "texts that end at token 2, which stands for the largest id there"
	}
	// As in the published files, as CLIP finds the end of a text at the largest id.
	eos := largestID
	if c.PoolsEOS() {
		eos = *c.Text.EOS
	}
	act := "gelu"
	if c.QuickGELU {
		act = "quick_gelu"
	}
	type tower map[string]any
	return append(mustIndent(map[string]any{
		"architectures":          []string{"CLIPModel"},
		"model_type":             "clip",
		"projection_dim":         c.EmbedDim,
		"logit_scale_init_value": 2.6592,
		"text_config": tower{
			"model_type": "clip_text_model", "projection_dim": c.EmbedDim,
			"vocab_size": c.Text.VocabSize, "max_position_embeddings": c.Text.ContextLength,
			"hidden_size": c.Text.Width, "intermediate_size": c.TextHidden(),
			"num_hidden_layers": c.Text.Layers, "num_attention_heads": c.Text.Heads,
			"hidden_act": act, "layer_norm_eps": 1e-5,
			"bos_token_id": 0, "eos_token_id": eos, "pad_token_id": 1,
		},
		"vision_config": tower{
			"model_type": "clip_vision_model", "projection_dim": c.EmbedDim, "num_channels": 3,
			"image_size": c.Vision.ImageSize, "patch_size": c.Vision.PatchSize,
			"hidden_size": c.Vision.Width, "intermediate_size": c.VisionHidden(),
			"num_hidden_layers": c.Layers(arch.VisualTower), "num_attention_heads": c.VisionHeads(),
			"hidden_act": act, "layer_norm_eps": 1e-5,
		},
	}), '\n'), ""
}

// hfSigLIP is the config.json of transformers' SiglipModel.
func hfSigLIP(c *arch.Config) (content []byte, why string) {
	switch {
	case !c.Text.ProjBias:
		return nil, "a text tower without a projection, or one without a bias"
	case c.Text.NormKwargs == nil || c.Text.AttnMask || c.LayerScale(arch.TextTower) || c.LogitBias == nil:
		return nil, "another kind of text tower"
	}
	act := map[bool]string{true: "gelu_pytorch_tanh", false: "gelu"}
	type tower map[string]any
	return append(mustIndent(map[string]any{
		"architectures": []string{"SiglipModel"},
		"model_type":    "siglip",
		"text_config": tower{
			"model_type": "siglip_text_model", "projection_size": c.EmbedDim,
			"vocab_size": c.Text.VocabSize, "max_position_embeddings": c.Text.ContextLength,
			"hidden_size": c.Text.Width, "intermediate_size": c.TextHidden(),
			"num_hidden_layers": c.Text.Layers, "num_attention_heads": c.Text.Heads,
			"hidden_act": act[c.Text.ActKwargs != nil], "layer_norm_eps": 1e-6,
		},
		"vision_config": tower{
			"model_type": "siglip_vision_model", "num_channels": 3,
			"image_size": c.Vision.ImageSize, "patch_size": c.Vision.PatchSize,
			"hidden_size": c.Vision.Width, "intermediate_size": c.VisionHidden(),
			"num_hidden_layers": c.Layers(arch.VisualTower), "num_attention_heads": c.VisionHeads(),
			"hidden_act": act[c.Vision.Act == "gelu_tanh"], "layer_norm_eps": 1e-6,
		},
	}), '\n'), ""
}

// hfFile is a file beside a model with transformers' names.
type hfFile struct {
	name    string
	what    string // for messages
	content []byte
	same    func(there []byte) bool // whether an existing file is equivalent
}

// hfFiles lists the files that a model needs; warnings are about those it cannot
// have.
func hfFiles(c *arch.Config) (files []hfFile, warnings []string) {
	content, why := hfConfig(c)
	if why != "" {
		return nil, []string{"no config.json: transformers' CLIPModel and SiglipModel cannot run this model (" + why + ")"}
	}
	files = append(files, hfFile{"config.json", "the model's configuration", content, func(there []byte) bool {
		c, err := arch.Parse(there)
		if err != nil {
			return false
		}
		same, _ := hfConfig(c)
		return bytes.Equal(same, content)
	}})
	pixels := c.Preprocess()
	processor, why := pixels.Processor()
	if why != "" {
		return files, []string{"no preprocessor_config.json: transformers' CLIPImageProcessor cannot prepare this model's images (" + why + ")"}
	}
	return append(files, hfFile{"preprocessor_config.json", "the image preprocessing", processor, func(there []byte) bool {
		p, err := arch.ParsePreprocess(there, pixels.Size)
		p.Floor = pixels.Floor // which the file cannot express
		p.Size = pixels.Size
		return err == nil && p == pixels
	}}), nil
}

// filesBeside plans the files beside an output with transformers' names. An
// existing file that is equivalent stays; one that differs is overwritten only
// for the folder's model.safetensors, and only with Force.
func filesBeside(p *checkpoint.Plan, o Options) (write []small, paths []string, err error) {
	if p.Layout != "hf" || p.Config == nil || len(o.Include)+len(o.Exclude) > 0 {
		return nil, nil, nil
	}
	files, warnings := hfFiles(p.Config)
	p.Warnings = append(p.Warnings, warnings...)
	for _, f := range files {
		path := filepath.Join(filepath.Dir(o.Output), f.name)
		there, err := fault.ReadFile(path, f.what, 1<<20)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			write = append(write, small{path, f.content})
		case err != nil:
			return nil, nil, err
		case f.same(there):
		case filepath.Base(o.Output) != hfModel:
			p.Warnings = append(p.Warnings, path+" belongs to another model and is kept; transformers needs "+hfModel+" and its "+f.name+" in a folder of their own")
			return nil, nil, nil
		case !o.Force:
			return nil, nil, fault.Usagef("%s exists and belongs to another model; choose another folder, or overwrite it with Options.Force", path)
		default:
			write = append(write, small{path, f.content})
		}
		paths = append(paths, path)
	}
	return write, paths, nil
}
