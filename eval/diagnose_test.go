package eval

import (
	"context"
	"fmt"
	"image/color"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/dataset"
)

// gelu is a fake that sees the class (coded in the colour of the picture) only
// with QuickGELU, as a model does that was trained with it.
type gelu struct {
	*fake
	classes []string
}

func (g gelu) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	plane := g.cfg.Vision.ImageSize * g.cfg.Vision.ImageSize
	width := g.cfg.Text.ContextLength
	tokens := make([]int32, n*width)
	p := g.cfg.Preprocess()
	for i := range n {
		red := flat[3*i*plane]*p.Std[0] + p.Mean[0]
		class := int(red*255+0.5) / 30
		if !g.cfg.QuickGELU && i%3 > 0 {
			class = (class + 1 + i%2) % len(g.classes)
		}
		bpe.New().Tokens(tokens[i*width:(i+1)*width], dataset.Prompt(onePrompt, g.classes[class]), width)
	}
	return g.Texts(ctx, tokens, n)
}

func TestDiagnosis(t *testing.T) {
	dir := t.TempDir()
	for i := range 60 {
		class := i % len(fakeClasses)
		writeFilled(t, filepath.Join(dir, fakeClasses[class], fmt.Sprint(i)+".png"), color.RGBA{uint8(30*class + 2), uint8(i), 9, 255})
	}
	var freed, opened int
	base := newFake()
	r := &run{o: Options{Data: dir}.defaults(), cfg: base.cfg, pre: base.cfg.Preprocess()}
	r.o.Cache = "off"
	r.texts = 16
	r.open = func(cfg *arch.Config, _ string) (encoder, func(), error) {
		f := newFake()
		f.cfg = cfg
		opened++
		return gelu{f, fakeClasses}, func() { freed++ }, nil
	}
	if err := r.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.data.Close()
	entries, err := r.entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	findings, err := r.diagnose(t.Context(), entries)
	if err != nil {
		t.Fatal(err)
	}
	r.release()
	if freed != opened {
		t.Errorf("%d encoders opened, %d freed", opened, freed)
	}
	for i, f := range findings {
		t.Log(f.Text)
		if f.Suspect != (f.Cause == "QuickGELU switched") || f.Suspect != (i == 0) {
			t.Errorf("suspect: %+v", f)
		}
		if f.N != 60 || !strings.HasPrefix(f.Text, f.Cause+":") {
			t.Errorf("%+v", f)
		}
	}
	if len(findings) < 9 {
		t.Errorf("only %d causes tried", len(findings))
	}
	if f := findings[0]; f.After != 60 || !strings.Contains(f.Text, "quick_gelu") {
		t.Errorf("%+v", f)
	}
}

// The diagnosis takes a tenth of the images and as long as the evaluation.
func TestDiagnosisEnds(t *testing.T) {
	r := &run{seen: 100, seconds: Seconds{Load: 5, Classifier: 7, Images: 20}}
	if b := r.budget(1000); b != 5+7+200 {
		t.Errorf("%v s for scoring that takes 212", b)
	}
	for images, want := range map[int]int{50000: 200, 1500: 125, 48: 4, 3: 3} {
		if n := len(r.sample(make([]entry, images))); n != want {
			t.Errorf("%d images of %d, want %d", n, images, want)
		}
	}
	defer func(s float64) { diagnosisSeconds = s }(diagnosisSeconds)
	diagnosisSeconds = 0
	base := newFake()
	r = &run{o: Options{}.defaults(), cfg: base.cfg, w: prompts{names: fakeClasses}}
	findings, err := r.diagnose(t.Context(), make([]entry, 70))
	if err != nil {
		t.Fatal(err)
	}
	last := findings[len(findings)-1]
	if len(findings) != 2 || last.Cause != "not tried" || !strings.Contains(last.Text, "one prompt, QuickGELU switched") {
		t.Errorf("without time: %+v", findings)
	}
}

// A configuration's interpolation and resize mode are those that make the pixels.
func TestInterpolation(t *testing.T) {
	file := "../testdata/preprocess/photo_500x375.jpg"
	got := map[string][]float32{}
	for _, name := range []string{"bicubic", "bilinear", "squash"} {
		p := newFake().cfg.Preprocess()
		if name == "squash" {
			p.ResizeMode = arch.Squash
		} else {
			p.Interpolation = name
		}
		s, err := openFiles([]string{file}, p)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = make([]float32, 3*p.Size*p.Size)
		if _, err := s.Load(0, got[name]); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Equal(got["bicubic"], got["bilinear"]) || slices.Equal(got["bicubic"], got["squash"]) {
		t.Error("the interpolation or the mode has no effect")
	}
}

func TestClassOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	perm := rng.Perm(50)
	var permuted, bad, good, few []entry
	for i := range 60 {
		few = append(few, entry{row: row{Label: i, Top: [5]int{rng.IntN(50)}}})
	}
	for i := range 1000 {
		label := i % 50
		permuted = append(permuted, entry{row: row{Label: label, Top: [5]int{perm[label]}}})
		bad = append(bad, entry{row: row{Label: label, Top: [5]int{7}}})
		good = append(good, entry{row: row{Label: label, Top: [5]int{label}}})
	}
	for _, c := range []struct {
		name    string
		entries []entry
		want    bool
	}{{"permuted", permuted, true}, {"always the same answer", bad, false}, {"right", good, false}, {"hardly one image a class", few, false}} {
		if f, ok := classOrder(c.entries, 60); !ok || f.Suspect != c.want {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}
