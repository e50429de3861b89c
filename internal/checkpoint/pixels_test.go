package checkpoint

import (
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// openCLIPOrder returns the tensors of a structure in the order of OpenCLIP's class.
func openCLIPOrder(t *testing.T, name string) *inventory {
	t.Helper()
	tensors := structures(t)[name]
	for i, x := range tensors {
		if strings.HasSuffix(x.Name, "transformer.resblocks.0.ln_1.weight") && !strings.HasPrefix(x.Name, "visual.") {
			tensors = append(append(append(tensors[:0:0], x), tensors[:i]...), tensors[i+1:]...)
			break
		}
	}
	return &inventory{tensors: tensors}
}

// said counts the warnings that contain all words.
func said(p *Plan, words ...string) (n int) {
	for _, w := range append(p.Warnings, p.Assumed) {
		has := w != ""
		for _, word := range words {
			has = has && strings.Contains(w, word)
		}
		if has {
			n++
		}
	}
	return n
}

// The preprocessing of weights alone: known by hash or name; OpenAI's if the file is
// OpenAI's or EVA-CLIP's; and reported as assumed if nothing is known.
func TestPixelsOfWeightsAlone(t *testing.T) {
	half := [3]float32{0.5, 0.5, 0.5}
	l14 := openCLIPOrder(t, "openclip-ViT-L-14")
	for _, name := range []string{"", "openclip-ViT-L-14", "ViT-L-14"} {
		p := mustPlan(t, l14, PlanOptions{ConfigName: name})
		if p.Config.Preprocess().Mean == half || said(p, "give preprocess") != 1 {
			t.Errorf("--config %q: %v, warnings %q", name, p.Config.Preprocess(), p.Assumed)
		}
		known := *l14
		known.path = "CLIP-ViT-L-14-laion2B-s32B-b82K/open_clip_pytorch_model.bin"
		p = mustPlan(t, &known, PlanOptions{ConfigName: name})
		if q := p.Config.Preprocess(); q.Mean != half || q.Std != half || said(p) != 0 || p.Name != "openclip-ViT-L-14" {
			t.Errorf("--config %q: %v, %s, warnings %q %q", name, p.Config.Preprocess(), p.Name, p.Warnings, p.Assumed)
		}
	}
	h14 := openCLIPOrder(t, "openclip-ViT-H-14")
	h14.path = "DFN5B-CLIP-ViT-H-14/open_clip_pytorch_model.bin"
	p := mustPlan(t, h14, PlanOptions{})
	if q := p.Config.Preprocess(); q.ResizeMode != arch.Squash || !p.Config.QuickGELU || said(p) != 0 || p.Name != "openclip-ViT-H-14-quickgelu" {
		t.Errorf("%v, quick %v, %s, warnings %q %q", q, p.Config.QuickGELU, p.Name, p.Warnings, p.Assumed)
	}
	for _, name := range []string{"EVA02-CLIP-B-16", "openai-ViT-L-14"} {
		if p := mustPlan(t, &inventory{tensors: structures(t)[name]}, PlanOptions{}); said(p) != 0 || p.Config.Preprocess().Mean == half {
			t.Errorf("%s warns: %q %q", name, p.Warnings, p.Assumed)
		}
	}
}

// What the user gives, in part or whole, counts, and then nothing is assumed.
func TestPreprocessOption(t *testing.T) {
	l14 := openCLIPOrder(t, "openclip-ViT-L-14")
	p := mustPlan(t, l14, PlanOptions{Preprocess: "inception,resize=squash"})
	want, err := arch.OpenAIPreprocess().With("inception,resize=squash")
	if want.Size = 224; err != nil || p.Config.Preprocess() != want || said(p, "give preprocess") != 0 {
		t.Errorf("%v, warnings %q", p.Config.Preprocess(), p.Assumed)
	}
	l14.path = "laion2b_s32b_b82k.pt"
	p = mustPlan(t, l14, PlanOptions{Preprocess: "interpolation=bilinear"})
	if q := p.Config.Preprocess(); q.Mean != [3]float32{0.5, 0.5, 0.5} || q.Interpolation != "bilinear" {
		t.Errorf("%v", q)
	}
	// What is known of the weights and says otherwise is a warning, as for --config.
	for asked, want := range map[string]int{"inception": 0, "std=0.5": 0, "openai": 1, "interpolation=bilinear": 1, "imagenet,resize=squash": 1} {
		if p := mustPlan(t, l14, PlanOptions{Preprocess: asked}); said(p, "as asked", "but the table of published weights", "mean=0.5") != want || len(p.Warnings) != want {
			t.Errorf("%s: warnings %q, want %d", asked, p.Warnings, want)
		}
	}
	for _, bad := range []string{"clip", "none.json", "mean=1,2"} {
		if _, err := newPlan(l14, PlanOptions{Preprocess: bad, Layout: "eva", DType: "keep"}); err == nil || fault.Code(err) == int(fault.Environment) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The activation of weights alone, from what is known of them.
func TestActivationOfWeightsAlone(t *testing.T) {
	for _, tt := range []struct {
		structure string
		sorted    bool
		path, sum string
		config    string
		quick     bool
		warning   string // words of the one that is wanted, or empty: none
	}{
		// All published weights have QuickGELU, and the file does not record it.
		{structure: "openai-RN50", sorted: true, quick: true, warning: "openclip-RN50"},
		{structure: "openai-RN101", sorted: true, quick: true, warning: "openclip-RN101"},
		{structure: "openai-RN50x4", sorted: true, quick: true, warning: "openclip-RN50x4"},
		{structure: "openai-RN50x16", sorted: true, quick: true, warning: "openclip-RN50x16"},
		{structure: "openai-RN50x64", sorted: true, quick: true, warning: "openclip-RN50x64"},
		{structure: "openai-ViT-L-14-336", sorted: true, quick: true, warning: "openclip-ViT-L-14-336"},
		{structure: "openai-RN50", quick: true},
		{structure: "openai-RN50", sorted: true, path: "rn50-quickgelu-cc12m-f000538c.pt", quick: true},
		{structure: "openai-RN50", sorted: true, sum: "f000538c" + strings.Repeat("1", 56), quick: true},
		// The hash of another file under that name.
		{structure: "openai-RN50", sorted: true, path: "rn50-quickgelu-cc12m-f000538c.pt", sum: strings.Repeat("1", 64), quick: true, warning: "SHA-256"},
		{structure: "openclip-ViT-H-14", sorted: true, warning: "openclip-ViT-H-14-quickgelu"},
		{structure: "openclip-ViT-H-14", sorted: true, path: "h14_fullcc2.5b.pt", quick: true},
		{structure: "openclip-ViT-g-14", sorted: true, warning: "QuickGELU"},
		{structure: "openai-ViT-B-32", sorted: true, path: "x/metaclip_400m.safetensors", quick: true},
		{structure: "openai-ViT-B-32", sorted: true, path: "vit_b_32-laion2b_e16-af8dbd0c.pth"},
		// What the user gives counts, with a warning if more is known.
		{structure: "openai-RN50", sorted: true, config: "RN50", quick: true, warning: "openclip-RN50"},
		{structure: "openai-RN50", sorted: true, config: "openai-RN50", quick: true},
		{structure: "openai-RN50", sorted: true, config: "openclip-RN50"},
		{structure: "openai-RN50", config: "RN50", quick: true},
		{structure: "openai-RN50", config: "openclip-RN50", warning: "GELU"},
		{structure: "openai-ViT-B-32", sorted: true, config: "openclip-ViT-B-32"},
		// Five of the weights that OpenCLIP has under this name have QuickGELU.
		{structure: "openai-ViT-B-32", sorted: true, config: "ViT-B-32", warning: "openai-ViT-B-32"},
		{structure: "openai-ViT-B-32", sorted: true, config: "ViT-B-32-quickgelu", quick: true},
		{structure: "openai-ViT-B-32", sorted: true, config: "ViT-B-32", path: "vit_b_32-quickgelu-laion400m_e31-d867053b.pt", warning: "QuickGELU"},
		{structure: "openai-ViT-B-32", config: "ViT-B-32", warning: "QuickGELU"},
	} {
		inv := &inventory{tensors: structures(t)[tt.structure], path: tt.path, sha256: tt.sum}
		if tt.sorted {
			inv.tensors = sorted(inv.tensors)
		}
		p := mustPlan(t, inv, PlanOptions{ConfigName: tt.config})
		p.Assumed = ""
		want := 0
		if tt.warning != "" {
			want = 1
		}
		if p.Config.QuickGELU != tt.quick || len(p.Warnings) < want || want == 0 && len(p.Warnings) > 0 || said(p, tt.warning) < want {
			t.Errorf("%+v: quick %v, warnings %q", tt, p.Config.QuickGELU, p.Warnings)
		}
	}
}

// Named architectures with the same tensor names and shapes differ only in their
// activation or image size; otherwise their weights alone would be ambiguous.
func TestNamesDifferInShape(t *testing.T) {
	byShape := map[string]string{}
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		var b strings.Builder
		for _, p := range c.Params() {
			for _, d := range p.Shape {
				b.WriteByte(byte(d))
				b.WriteByte(byte(d >> 8))
				b.WriteByte(byte(d >> 16))
			}
			b.WriteString(p.Name)
		}
		if other, ok := byShape[b.String()]; ok {
			o, _ := arch.Named(other)
			if o.Vision.ImageSize = c.Vision.ImageSize; !sameButActivation(o, c) {
				t.Errorf("%s and %s cannot be told apart", other, n)
			}
		}
		byShape[b.String()] = n
	}
}

// A file records that its activation was assumed when it was written, until the user
// gives it.
func TestAssumedActivationIsRemembered(t *testing.T) {
	inv := openCLIPOrder(t, "openclip-ViT-L-14")
	p := mustPlan(t, inv, PlanOptions{})
	p.in = &Input{Files: []string{"x.pt"}}
	meta := p.Metadata([]string{"0"})
	if !p.guessed || meta[metaActivation] != "assumed" {
		t.Fatalf("guessed %v, %v", p.guessed, meta[metaActivation])
	}
	written := *inv
	written.metadata = meta
	if again := mustPlan(t, &written, PlanOptions{}); said(again, "was assumed when it was converted", "QuickGELU") != 1 || !again.guessed {
		t.Errorf("%q", again.Warnings)
	}
	if chosen := mustPlan(t, &written, PlanOptions{ConfigName: "openclip-ViT-L-14"}); chosen.guessed || said(chosen, "was assumed when it was converted") != 0 {
		t.Errorf("%q", chosen.Warnings)
	}
}
