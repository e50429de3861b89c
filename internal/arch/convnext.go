package arch

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"
)

// ConvNeXt (arXiv 2201.03545) as timm builds it, with OpenCLIP's projection. Layers
// are the blocks of its four stages, Width the channels of the first; each stage has
// twice as many as the one before.
var convnextVision = visionTower{
	check: checkConvNeXt, params: (*builder).convnext, macs: convnextMACs,
	widest: func(c *Config) int { return c.cells(4) * c.VisionHidden() },
	timm:   timmConvNeXt, timmHead: map[string]string{"timm_pool": ""}, projects: true,
}

var convnexts = map[string]Vision{
	"convnext_tiny":    {Layers: Layers{3, 3, 9, 3}, Width: 96},
	"convnext_small":   {Layers: Layers{3, 3, 27, 3}, Width: 96},
	"convnext_base":    {Layers: Layers{3, 3, 27, 3}, Width: 128},
	"convnext_large":   {Layers: Layers{3, 3, 27, 3}, Width: 192},
	"convnext_xlarge":  {Layers: Layers{3, 3, 27, 3}, Width: 256},
	"convnext_xxlarge": {Layers: Layers{3, 4, 30, 3}, Width: 384, NormEps: 1e-5},
}

func timmConvNeXt(name string) (*Vision, bool) {
	v, ok := convnexts[name]
	v.Tower, v.ImageSize, v.HeadWidth, v.MLPRatio, v.QKVBias = "convnext", 224, 64, 4, true
	return &v, ok
}

// NormEps is the epsilon of the norms, for a tower with a choice.
func (c *Config) NormEps() float64 { return cmp.Or(c.Vision.NormEps, 1e-6) }

// cells is the number of cells of a feature map that is the image reduced n-fold.
func (c *Config) cells(n int) int {
	side := c.Vision.ImageSize / n
	return side * side
}

func checkConvNeXt(c *Config) error {
	v := &c.Vision
	switch {
	case len(v.Layers) != 4:
		return fmt.Errorf("vision_cfg.layers is %v; want four numbers", []int(v.Layers))
	case v.ImageSize < 32:
		return fmt.Errorf("vision_cfg.image_size is %d; a convnext tower needs 32 or more", v.ImageSize)
	case v.NormEps != 0 && v.NormEps != 1e-5 && v.NormEps != 1e-6:
		return fmt.Errorf("vision_cfg.norm_eps is %v; want 1e-06 or 1e-05", v.NormEps)
	}
	if err := checkProj(c); err != nil {
		return err
	}
	return checkOnly(c, Vision{ImageSize: v.ImageSize, Layers: v.Layers, Width: v.Width, HeadWidth: v.HeadWidth, MLPRatio: v.MLPRatio, NormEps: v.NormEps, Proj: v.Proj})
}

// checkProj refuses a projection that OpenCLIP does not add to timm's towers.
func checkProj(c *Config) error {
	if p := c.Vision.Proj; p != "linear" && p != "mlp" {
		return fmt.Errorf("vision_cfg.proj %q: want linear or mlp", p)
	}
	return nil
}

// checkOnly refuses keys of vision_cfg that the tower does not take; may has those
// that it takes.
func checkOnly(c *Config, may Vision) error {
	v := c.Vision
	may.Tower, may.QKVBias, may.DropPath, may.PatchDrop, may.PtSeqLen = v.Tower, true, v.DropPath, v.PatchDrop, v.PtSeqLen
	has, want := reflect.ValueOf(v), reflect.ValueOf(may)
	for i := range has.NumField() {
		if !reflect.DeepEqual(has.Field(i).Interface(), want.Field(i).Interface()) {
			key, _, _ := strings.Cut(has.Type().Field(i).Tag.Get("json"), ",")
			return fmt.Errorf("vision_cfg.%s is %v; a %s tower does not take it", key, has.Field(i).Interface(), v.Tower)
		}
	}
	return nil
}

func (b *builder) convnext() {
	v := &b.cfg.Vision
	b.affine("visual.stem.0", v.Width, 3, 4, 4)
	b.affine("visual.stem.1", v.Width)
	w := v.Width
	for stage, depth := range v.Layers {
		p := fmt.Sprintf("visual.stages.%d.", stage)
		if stage > 0 {
			b.affine(p+"downsample.0", w)
			b.affine(p+"downsample.1", 2*w, w, 2, 2)
			w *= 2
		}
		hidden := int(float64(w) * v.MLPRatio)
		for i := range depth {
			k := fmt.Sprintf("%sblocks.%d.", p, i)
			b.add(k+"gamma", w)
			b.affine(k+"conv_dw", w, 1, 7, 7)
			b.affine(k+"norm", w)
			b.affine(k+"mlp.fc1", hidden, w)
			b.affine(k+"mlp.fc2", w, hidden)
		}
	}
	b.affine("visual.head.norm", w)
	b.projection(w)
}

// projection adds OpenCLIP's projection of the w features of a timm tower.
func (b *builder) projection(w int) {
	e := b.cfg.EmbedDim
	if b.cfg.Vision.Proj == "mlp" {
		b.affine("visual.head.mlp.fc1", 2*e, w)
		b.add("visual.head.mlp.fc2.weight", e, 2*e)
		return
	}
	b.add("visual.head.proj.weight", e, w)
}

// projectionMACs counts the multiply-adds of projection.
func (c *Config) projectionMACs(w int) float64 {
	if c.Vision.Proj == "mlp" {
		return float64(2*c.EmbedDim) * float64(w+c.EmbedDim)
	}
	return float64(w * c.EmbedDim)
}

func convnextMACs(c *Config) float64 {
	v := &c.Vision
	w, side := v.Width, v.ImageSize/4
	sum := float64(side*side) * float64(w*3*16)
	for stage, depth := range v.Layers {
		if stage > 0 {
			side /= 2
			sum += float64(side*side) * float64(w*4*2*w)
			w *= 2
		}
		hidden := int(float64(w) * v.MLPRatio)
		sum += float64(depth*side*side) * float64(w*49+2*w*hidden)
	}
	return sum + c.projectionMACs(w)
}
