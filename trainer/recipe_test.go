package trainer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/evatool/evatool/internal/fault"
)

const goodRecipe = `
model: EVA02-CLIP-B-16
data:
  - {source: "a/{00..09}.tar", weight: 1.6}
  - {source: b.csv, image: path, caption: text, weight: 0.4}
batch: 64
samples: 6400
warmup_steps: 10
`

func TestRecipeErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, set, want string }{
		"typo":            {text: goodRecipe + "warmup_step: 3\n", want: "line 9: unknown key warmup_step; did you mean warmup_steps?"},
		"nested typo":     {text: goodRecipe + "optimizer:\n  weigth_decay: 3\n", want: "line 10: unknown key optimizer.weigth_decay; did you mean optimizer.weight_decay?"},
		"list typo":       {text: strings.Replace(goodRecipe, "caption:", "captoin:", 1), want: "line 5: unknown key data.1.captoin; did you mean data.1.caption?"},
		"stranger":        {text: goodRecipe + "zzz: 3\n", want: "unknown key zzz; known: model"},
		"wrong type":      {text: goodRecipe + "seed: many\n", want: "line 9: seed: \"many\" is a string; want a number"},
		"fraction":        {text: goodRecipe + "seed: 8.5\n", want: "line 9: seed: 8.5 is not a whole number"},
		"fraction in set": {text: goodRecipe, set: "checkpoint.keep=1.5", want: "--set checkpoint.keep=1.5: checkpoint.keep: 1.5 is not a whole number"},
		"NaN":             {text: goodRecipe + "lr: {vision: .nan}\n", want: "lr.vision: is not a finite number"},
		"one beta":        {text: goodRecipe, set: "optimizer.betas=[0.9]", want: "optimizer.betas: a list of 1; want 2 numbers"},
		"text as number":  {text: goodRecipe, set: "batch=many", want: "batch: \"many\" is a string; want a number"},
		"infinite beta":   {text: goodRecipe, set: "optimizer.betas=[0.9, .inf]", want: "optimizer.betas.1: is not a finite number"},
		"not yaml":        {text: "a: [", want: "line 1"},
		"empty":           {text: "", want: "is empty"},
		"no model":        {text: "batch: 1\n", want: "model: missing"},
		"unknown model":   {text: strings.Replace(goodRecipe, "B-16", "B-17", 1), want: "model"},
		"no data":         {text: "model: EVA02-CLIP-B-16\nbatch: 4\nsteps: 3\n", want: "data: missing"},
		"half weights":    {text: strings.Replace(goodRecipe, ", weight: 0.4", "", 1), want: "1 of 2 sources have a weight"},
		"no batch":        {text: strings.Replace(goodRecipe, "batch: 64", "", 1), want: "batch: 0"},
		"long warm-up":    {text: strings.Replace(goodRecipe, "warmup_steps: 10", "warmup_steps: 101", 1), want: "101 is more than all 100 steps"},
		"optimizer":       {text: goodRecipe + "optimizer: {name: sgd}\n", want: `"sgd"; known: lamb, lamb-deepspeed, adamw`},
		"precision":       {text: goodRecipe + "precision: fp8\n", want: `"fp8"; known: fp32, bf16, fp16`},
		"dropout":         {text: goodRecipe + "patch_dropout: 1\n", want: "0 ≤ p < 1"},
		"size":            {text: goodRecipe + "image: {size: 99}\n", want: "image.size: 99, but the model takes 224"},
		"template":        {text: goodRecipe + "captions: [a photo]\n", want: "has no {}"},
		"set typo":        {text: goodRecipe, set: "lr.visoin=1", want: "--set lr.visoin=1: unknown key lr.visoin; did you mean lr.vision?"},
		"set no value":    {text: goodRecipe, set: "seed", want: "want KEY=VALUE"},
		"set wrong type":  {text: goodRecipe, set: "seed=many", want: "--set seed=many: seed: \"many\" is a string; want a number"},
		"set outside":     {text: goodRecipe, set: "data.7.weight=1", want: `"7" is not an item of a list of 2`},
		"contradiction":   {text: goodRecipe + "steps: 7\n", want: "give one of the two"},
		"two inits":       {text: goodRecipe + "init: {model: a, vision: b}\n", want: "either a whole model, or vision and text"},
		"two sources":     {text: strings.Replace(goodRecipe, "source: b.csv,", "source: b.csv, tensors: c,", 1), want: "either source or tensors"},
		"duplicate":       {text: goodRecipe + "batch: 65\n", want: "batch"},
		"config unknown":  {text: strings.Replace(goodRecipe, "model: EVA02-CLIP-B-16", "model: {embed_dim: 8, wat: 1, vision_cfg: {}, text_cfg: {}}", 1), want: "wat"},
		"tensors and mix": {text: "model: EVA02-CLIP-B-16\nbatch: 2\nsteps: 2\nwarmup_steps: 0\ndata: [{tensors: a}, {source: b}]\n", want: "do not mix"},
	} {
		t.Run(name, func(t *testing.T) {
			var sets []string
			if c.set != "" {
				sets = []string{c.set}
			}
			_, err := ParseRecipe("r.yaml", []byte(c.text), sets...)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q; want it to contain %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q has more than one line", err)
			}
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != fault.Usage {
				t.Errorf("error %q is not a usage error", err)
			}
		})
	}
}

func TestRecipeSet(t *testing.T) {
	r, err := ParseRecipe("r.yaml", []byte(goodRecipe), "lr.vision=1e-3", "data.0.weight=2", "data.1.source=c.tsv",
		"optimizer.betas=[0.9, 0.95]", "steps=50", "captions=['{}', 'a {}']", "eval=[{every_steps: 5, benchmark: folder, data: d}]", "eval.0.limit=7", "init.model=m.pt")
	if err != nil {
		t.Fatal(err)
	}
	if r.LR.Vision != 1e-3 || r.Data[0].Weight != 2 || r.Data[1].Source != "c.tsv" || r.Optimizer.Betas != [2]float64{0.9, 0.95} ||
		r.Steps != 50 || len(r.Captions) != 2 || r.Eval[0].Limit != 7 || r.Init.Model != "m.pt" {
		t.Errorf("settings were not taken: %s", r.YAML())
	}
	again, err := ParseRecipe("r.yaml", r.YAML())
	if err != nil {
		t.Fatalf("%v\n%s", err, r.YAML())
	}
	if d := cmp.Diff(r, again, cmpopts.IgnoreUnexported(Recipe{})); d != "" {
		t.Errorf("the resolved recipe reads back differently:\n%s", d)
	}
	if r.identity() != again.identity() {
		t.Error("the identity changes when the recipe is read back")
	}
	for set, free := range map[string]bool{"checkpoint.keep=9": true, "eval=[]": true, "seed=1": false, "data.0.weight=3": false} {
		other, err := ParseRecipe("r.yaml", r.YAML(), set)
		if err != nil {
			t.Fatal(err)
		}
		if same := other.identity() == r.identity(); same != free {
			t.Errorf("%s: same recipe is %v, want %v", set, same, free)
		}
	}
}

// TestBundledRecipes: each parses, prices and says what was published.
func TestBundledRecipes(t *testing.T) {
	if n := len(Bundled()); n != 15 {
		t.Errorf("%d recipes, want 15", n)
	}
	// Parameters in millions and GFLOPs of a forward pass as published.
	published := map[string]float64{
		"EVA01-CLIP-g-14": 1136, "EVA01-CLIP-g-14-plus": 1367, "EVA02-CLIP-B-16": 149.7, "EVA02-CLIP-L-14": 427.8,
		"EVA02-CLIP-L-14-336": 428.1, "EVA02-CLIP-bigE-14": 4704.6, "EVA02-CLIP-bigE-14-plus": 5044.9,
	}
	for _, name := range Bundled() {
		r, err := LoadRecipe(name)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		p, err := DryRun(r, 64, 20000)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := published[strings.TrimSuffix(name, "-released")]; want != 0 {
			near(t, name+" parameters", float64(p.Params)/1e6, want, 0.001*want)
			near(t, name+" hours", p.Hours, float64(p.Samples)/20000/3600, 1e-9)
		}
		if p.BytesDevice <= p.BytesState || p.GFLOPsPerSample <= 0 || !strings.Contains(p.String(), "memory per device") {
			t.Errorf("%s: plan %+v", name, p)
		}
	}
}

func TestRecipePath(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"x-0.tar", "m.pt"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := &Recipe{dir: dir}
	for in, want := range map[string]string{
		"m.pt": filepath.Join(dir, "m.pt"), "x-{0..3}.tar": filepath.Join(dir, "x-{0..3}.tar"),
		"nowhere/x-{0..3}.tar": "nowhere/x-{0..3}.tar", "/a/b": "/a/b", "s3://b/{0..1}.tar": "s3://b/{0..1}.tar", "none.pt": "none.pt",
	} {
		if got := r.path(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
