package checkpoint

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/tensorfile"
)

// hfEVANames maps EVA's names, except qkv.weight, to those in EVA-CLIP-8B's
// repository for transformers.
var hfEVANames = strings.NewReplacer(
	"visual.cls_token", "vision_model.embeddings.class_embedding",
	"visual.pos_embed", "vision_model.embeddings.position_embedding.weight",
	"visual.patch_embed.proj.", "vision_model.embeddings.patch_embedding.",
	"visual.blocks.", "vision_model.encoder.layers.",
	"attn.proj.", "self_attn.out_proj.", "norm1", "layer_norm1", "norm2", "layer_norm2",
	"visual.norm.", "vision_model.post_layernorm.", "visual.head.", "visual_projection.",
)

const hfEVAConfig = `{"architectures": ["EvaCLIPModel"], "model_type": "clip", "projection_dim": 24,
 "text_config": {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64,
  "max_position_embeddings": 20, "hidden_act": "gelu", "layer_norm_eps": 1e-05, "q_bias": true, "k_bias": true, "v_bias": true,
  "use_rms_norm": false, "post_layernorm": false, "eos_token_id": 2},
 "vision_config": {"hidden_size": 32, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
  "patch_size": 7, "hidden_act": "gelu", "layer_norm_eps": 1e-06, "q_bias": false, "k_bias": false, "v_bias": false,
  "use_rms_norm": true, "post_layernorm": false}}`

// A folder of the EvaCLIPModel, remote code for transformers, is EVA's own model.
func TestHFEVA(t *testing.T) {
	own, err := Open([]string{"../../testdata/models/eva-8b-tiny/model.safetensors"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	o := PlanOptions{ConfigName: "../../testdata/models/eva-8b-tiny/config.json", Layout: "hf"}
	if _, err := own.Plan(o); err == nil || !strings.Contains(err.Error(), "Options.Layout hf") {
		t.Errorf("layout hf: %v", err)
	}
	o.Layout = "eva"
	plan, err := own.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	// The text tower has CLIPModel's names.
	text, _ := hfCLIP.write(slices.DeleteFunc(slices.Clone(plan.Items), func(it *Item) bool { return strings.HasPrefix(it.EVA, "visual.") }))
	var hf []tensorfile.Tensor
	for _, it := range text {
		it.from = own
		r, err := it.Open(false)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		hf = append(hf, tensorfile.Tensor{Info: it.Out, Data: b})
	}
	for _, info := range own.Tensors() {
		b, err := tensorfile.ReadAll(own, info.Name)
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(info.Name, "visual.")
		switch {
		case !ok:
			continue
		case strings.HasSuffix(name, "attn.qkv.weight"):
			info.Shape = []int64{info.Shape[0] / 3, info.Shape[1]}
			for i, q := range []string{"q", "k", "v"} {
				part := info
				part.Name = strings.Replace(hfEVANames.Replace(info.Name), "attn.qkv", "self_attn."+q+"_proj", 1)
				hf = append(hf, tensorfile.Tensor{Info: part, Data: b[i*len(b)/3 : (i+1)*len(b)/3]})
			}
			continue
		case name == "cls_token":
			info.Shape = info.Shape[2:]
		case name == "pos_embed":
			info.Shape = info.Shape[1:]
		}
		info.Name = hfEVANames.Replace(info.Name)
		hf = append(hf, tensorfile.Tensor{Info: info, Data: b})
	}
	dir := t.TempDir()
	if err := tensorfile.WriteFile(filepath.Join(dir, "model.safetensors"), hf, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(hfEVAConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := OpenModel(context.Background(), dir, ModelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	config, err := os.ReadFile("../../testdata/models/eva-8b-tiny/config.json")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := arch.Parse(config); err != nil || !c.SameModel(m.Config) {
		t.Fatalf("%v: %s is another model", err, m.Config.JSON())
	}
	for _, p := range m.Config.Params() {
		got, err := tensorfile.ReadAll(m.Source, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tensorfile.ReadAll(own, p.Name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs (%v)", p.Name, err)
		}
	}
}

// EVA's two versions differ in the projection's bias if query and value have none;
// their configurations do not say so, but the file does.
func TestHeadBiasIsTheFiles(t *testing.T) {
	all := structures(t)["EVA02-CLIP-bigE-14"]
	named, _ := arch.Named("EVA02-CLIP-bigE-14")
	named.Vision.QKVBias = false
	for _, bias := range []bool{true, false} {
		inv := &inventory{}
		for _, info := range all {
			if strings.HasSuffix(info.Name, "attn.q_bias") || strings.HasSuffix(info.Name, "attn.v_bias") || !bias && info.Name == "visual.head.bias" {
				continue
			}
			inv.tensors = append(inv.tensors, info)
		}
		if p := mustPlan(t, inv, PlanOptions{Config: named}); p.Config.Vision.NoHeadBias == bias {
			t.Errorf("bias %v: read as %v", bias, !p.Config.Vision.NoHeadBias)
		}
	}
}
