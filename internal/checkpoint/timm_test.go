package checkpoint

import (
	"errors"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/tensorfile"
)

// named is the state dict of a published architecture under EVA's names.
func named(t *testing.T, name string) *inventory {
	t.Helper()
	c, ok := arch.Named(name)
	if !ok {
		t.Fatalf("%s is not known", name)
	}
	inv := &inventory{}
	for _, p := range c.Params() {
		inv.tensors = append(inv.tensors, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	return inv
}

// underOpenCLIP is the same under OpenCLIP's names.
func underOpenCLIP(t *testing.T, name string) *inventory {
	t.Helper()
	return outputs(mustPlan(t, named(t, name), PlanOptions{Layout: "openclip", ConfigName: name}))
}

// Models whose vision tower is timm's are recognised by OpenCLIP's names and come back
// from them unchanged; those that differ only in image size are refused with both
// names, unless the table of published weights has the file.
func TestTimmTowers(t *testing.T) {
	var kinds []string
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		if c.Vision.Tower == "" || c.LogitBias != nil {
			continue
		}
		kinds = append(kinds, c.Vision.Tower)
		timm := underOpenCLIP(t, n)
		p, err := newPlan(timm, PlanOptions{Layout: "eva", DType: "keep"})
		if errors.Is(err, errAmbiguous) {
			if !strings.Contains(err.Error(), n) {
				t.Errorf("%s: %v", n, err)
			}
			p = mustPlan(t, timm, PlanOptions{ConfigName: n})
		} else if err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		if p.Name != n {
			t.Errorf("%s is recognised as %q", n, p.Name)
		}
		sameTensors(t, outputs(p).tensors, named(t, n).tensors)
	}
	if len(kinds) < 38 {
		t.Errorf("%d architectures: %v", len(kinds), kinds)
	}
}

func TestSizesAreAmbiguous(t *testing.T) {
	inv := underOpenCLIP(t, "convnext_base_w")
	_, err := newPlan(inv, PlanOptions{Layout: "eva", DType: "keep"})
	if !errors.Is(err, errAmbiguous) || !strings.Contains(err.Error(), "convnext_base_w and convnext_base_w_320") {
		t.Errorf("got %v", err)
	}
	inv.path = "CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K/open_clip_model.safetensors"
	if p := mustPlan(t, inv, PlanOptions{}); p.Name != "convnext_base_w_320" || len(p.Warnings) > 0 {
		t.Errorf("under its own name it is %q, warnings %q", p.Name, p.Warnings)
	}
	inv.tensors = inv.tensors[:len(inv.tensors)-1]
	if _, err := newPlan(inv, PlanOptions{Layout: "eva", DType: "keep"}); err == nil || errors.Is(err, errAmbiguous) {
		t.Errorf("without its last tensor: %v", err)
	}
}

// CoCa's decoder is left out, and the report says so.
func TestCoCaWithoutDecoder(t *testing.T) {
	inv := underOpenCLIP(t, "coca_ViT-B-32")
	inv.tensors = append(inv.tensors, tensorfile.Info{Name: "text_decoder.text_projection", DType: tensorfile.F32, Shape: []int64{512, 49408}})
	p := mustPlan(t, inv, PlanOptions{})
	if p.Name != "coca_ViT-B-32" || len(p.Dropped) != 1 || !strings.Contains(p.Dropped[0].Reason, "decoder") {
		t.Errorf("recognised as %q, dropped %v", p.Name, p.Dropped)
	}
}
