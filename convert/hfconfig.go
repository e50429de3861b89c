package convert

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
)

// hfModel is the file name that transformers looks for in a folder.
const hfModel = "model.safetensors"

// hfConfig is the config.json of transformers' CLIPModel. why says what that
// model cannot do, then there is none.
func hfConfig(c *arch.Config) (content []byte, why string) {
	switch {
	case c.IsEVA() || c.IsResNet():
		return nil, "an architecture of its own"
	case c.LayerScale(arch.VisualTower) || c.LayerScale(arch.TextTower):
		return nil, "layer scale"
	case c.Vision.NoLnPre || c.Vision.LnAfterPool || c.Vision.AveragePool || c.Vision.PoolType == "avg":
		return nil, "another way to pool"
	case !c.Text.AttnMask:
		return nil, "attention without a causal mask"
	}
	// As in the published files: with 2 the model pools at the largest id, which
	// is how CLIP finds the end of the text.
	eos := 2
	if c.PoolsEOS() {
		eos = c.Text.EOS
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

// configFile plans the config.json beside an output with transformers' names.
// One that is there and says the same stays; one that says something else is
// overwritten only for the folder's model.safetensors, and only with --force.
func configFile(p *checkpoint.Plan, o Options) (write []small, path string, err error) {
	if p.Layout != "hf" || p.Config == nil || len(o.Include)+len(o.Exclude) > 0 {
		return nil, "", nil
	}
	content, why := hfConfig(p.Config)
	if why != "" {
		p.Warnings = append(p.Warnings, "no config.json: transformers' CLIPModel does not compute this model ("+why+")")
		return nil, "", nil
	}
	path = filepath.Join(filepath.Dir(o.Output), "config.json")
	there, err := fault.ReadFile(path, "the model's configuration", 1<<20)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []small{{path, content}}, path, nil
	case err != nil:
		return nil, "", err
	}
	if c, err := arch.Parse(there); err == nil {
		if same, _ := hfConfig(c); string(same) == string(content) {
			return nil, path, nil
		}
	}
	switch {
	case filepath.Base(o.Output) != hfModel:
		p.Warnings = append(p.Warnings, path+" is another model's and stays; transformers needs "+hfModel+" and its config.json in a folder of their own")
		return nil, "", nil
	case !o.Force:
		return nil, "", fault.Usagef("%s exists and is another model's; Options.Force overwrites it, or choose a folder of its own", path)
	}
	return []small{{path, content}}, path, nil
}
