package checkpoint

import (
	"math"
	"slices"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/tensorfile"
)

func TestRandomTensors(t *testing.T) {
	c, _ := arch.Named("EVA02-CLIP-B-16")
	params := map[string]arch.Param{}
	for _, p := range c.Params() {
		params[p.Name] = p
	}
	for name, std := range map[string]float64{
		"visual.blocks.3.attn.q_proj.weight":                0.02,
		"visual.blocks.3.attn.proj.weight":                  0.02 / math.Sqrt(8),
		"visual.blocks.11.mlp.w3.weight":                    0.02 / math.Sqrt(24),
		"visual.patch_embed.proj.weight":                    0.02,
		"text.transformer.resblocks.0.mlp.c_fc.weight":      1 / math.Sqrt(1024),
		"text.transformer.resblocks.0.attn.out_proj.weight": 1 / math.Sqrt(512) / math.Sqrt(24),
		"text.positional_embedding":                         0.01,
	} {
		x := RandomTensor(c, params[name], 7)
		sum, square := 0.0, 0.0
		for _, v := range x {
			sum += float64(v)
			square += float64(v) * float64(v)
		}
		n := float64(len(x))
		if got := math.Sqrt(square / n); math.Abs(got/std-1) > 0.03 || math.Abs(sum/n) > 0.03*std {
			t.Errorf("%s: std %g, mean %g, want %g", name, got, sum/n, std)
		}
	}
	for name, want := range map[string]float32{
		"logit_scale": 2.6592600, "visual.norm.weight": 1, "visual.blocks.0.attn.q_bias": 0, "visual.blocks.0.attn.inner_attn_ln.weight": 1,
	} {
		if x := RandomTensor(c, params[name], 7); x[0] != want {
			t.Errorf("%s starts at %v, want %v", name, x[0], want)
		}
	}
	a, b := RandomTensor(c, params["visual.head.weight"], 1), RandomTensor(c, params["visual.head.weight"], 2)
	if slices.Equal(a, b) || !slices.Equal(a, RandomTensor(c, params["visual.head.weight"], 1)) {
		t.Error("the seed decides, and nothing else")
	}
}

func TestRandomSource(t *testing.T) {
	c, _ := arch.Named("EVA02-CLIP-B-16")
	src := RandomSource(c, 3)
	if len(src.Tensors()) != len(c.Params()) {
		t.Fatalf("%d tensors", len(src.Tensors()))
	}
	for _, p := range c.Params()[:12] {
		v, err := tensorfile.Float32s(src, p.Name)
		if err != nil || !slices.Equal(v, RandomTensor(c, p, 3)) {
			t.Errorf("%s: other values, %v", p.Name, err)
		}
	}
}
