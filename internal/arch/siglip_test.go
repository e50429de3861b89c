package arch

import "testing"

// A SigLIP configuration in transformers' terms, and what is refused.
func TestHFSigLIP(t *testing.T) {
	c, err := Parse([]byte(`{"model_type": "siglip", "text_config": {"vocab_size": 256000}, "vision_config": {"image_size": 256, "patch_size": 32}}`))
	if err != nil {
		t.Fatal(err)
	}
	if named, _ := Named("ViT-B-32-SigLIP2-256"); !c.SameModel(named) {
		t.Errorf("not ViT-B-32-SigLIP2-256: %s", c.JSON())
	}
	for _, bad := range []string{
		`{"model_type": "siglip2", "vision_config": {}, "text_config": {}}`,
		`{"model_type": "siglip", "vision_config": {"layer_norm_eps": 1e-5}, "text_config": {}}`,
		`{"model_type": "siglip", "vision_config": {"hidden_act": "quick_gelu"}, "text_config": {}}`,
		`{"model_type": "siglip", "vision_config": {"vision_use_head": false}, "text_config": {}}`,
		`{"model_type": "siglip", "vision_config": {"hidden_size": 7}, "text_config": {}}`,
		`{"model_type": "siglip", "vision_config": {}, "text_config": {"projection_size": 5}}`,
		`{"embed_dim": 768, "vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"}, "text_cfg": {}}`,
		`{"embed_dim": 7, "vision_cfg": {"tower": "siglip"}, "text_cfg": {}}`,
		`{"embed_dim": 768, "vision_cfg": {"tower": "siglip", "act": "relu"}, "text_cfg": {}}`,
		`{"embed_dim": 768, "vision_cfg": {"tower": "eva"}, "text_cfg": {}}`,
		`{"embed_dim": 768, "vision_cfg": {"tower": "siglip"}, "text_cfg": {"proj_bias": true}}`,
		`{"embed_dim": 768, "vision_cfg": {"tower": "siglip"}, "text_cfg": {"pool_type": "last", "norm_kwargs": {"eps": 0.1}}}`,
		`{"embed_dim": 768, "vision_cfg": {"tower": "siglip"}, "text_cfg": {"pool_type": "last", "proj_type": "none", "width": 64, "heads": 1}}`,
	} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
