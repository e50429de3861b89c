package trainer

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
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
		"fraction in set": {text: goodRecipe, set: "checkpoint.keep=1.5", want: "setting checkpoint.keep=1.5: checkpoint.keep: 1.5 is not a whole number"},
		"NaN":             {text: goodRecipe + "lr: {vision: .nan}\n", want: "lr.vision: not finite; give a finite number"},
		"one beta":        {text: goodRecipe, set: "optimizer.betas=[0.9]", want: "optimizer.betas: a list of 1; want 2 numbers"},
		"text as number":  {text: goodRecipe, set: "batch=many", want: "batch: \"many\" is a string; want a number"},
		"infinite beta":   {text: goodRecipe, set: "optimizer.betas=[0.9, .inf]", want: "optimizer.betas.1: not finite; give a finite number"},
		"not yaml":        {text: "a: [", want: "line 1"},
		"empty":           {text: "", want: "is empty"},
		"no model":        {text: "batch: 1\n", want: "model: missing"},
		"unknown model":   {text: strings.Replace(goodRecipe, "B-16", "B-17", 1), want: "model"},
		"no data":         {text: "model: EVA02-CLIP-B-16\nbatch: 4\nsteps: 3\n", want: "data: missing"},
		"half weights":    {text: strings.Replace(goodRecipe, ", weight: 0.4", "", 1), want: "1 of 2 sources have a weight"},
		"no batch":        {text: strings.Replace(goodRecipe, "batch: 64", "", 1), want: "batch: 0"},
		"long warm-up":    {text: strings.Replace(goodRecipe, "warmup_steps: 10", "warmup_steps: 101", 1), want: "101 is more than the run's 100 steps"},
		"optimizer":       {text: goodRecipe + "optimizer: {name: sgd}\n", want: `"sgd"; want lamb, lamb-deepspeed or adamw`},
		"precision":       {text: goodRecipe + "precision: fp8\n", want: `"fp8"; want fp32, bf16 or fp16`},
		"dropout":         {text: goodRecipe + "patch_dropout: 1\n", want: "0 ≤ p < 1"},
		"size":            {text: goodRecipe + "image: {size: 99}\n", want: "image.size: 99, but the model takes images of 224 pixels"},
		"template":        {text: goodRecipe + "captions: [a photo]\n", want: "want {} where the caption goes"},
		"set typo":        {text: goodRecipe, set: "lr.visoin=1", want: "setting lr.visoin=1: unknown key lr.visoin; did you mean lr.vision?"},
		"set no value":    {text: goodRecipe, set: "seed", want: "want KEY=VALUE"},
		"set wrong type":  {text: goodRecipe, set: "seed=many", want: "setting seed=many: seed: \"many\" is a string; want a number"},
		"set outside":     {text: goodRecipe, set: "data.7.weight=1", want: `data: "7" is not an index of this list of 2 items`},
		"contradiction":   {text: goodRecipe + "steps: 7\n", want: "give only one of steps and samples"},
		"two inits":       {text: goodRecipe + "init: {model: a, vision: b}\n", want: "either model, or vision and text"},
		"skip of a model": {text: goodRecipe + "init: {model: a, skip: [logit_scale]}\n", want: "init.skip: names tensors of init.vision and init.text, and neither is given"},
		"skip of nothing": {text: goodRecipe, set: "init.skip=[logit_scale]", want: "init.skip: names tensors"},
		"two sources":     {text: strings.Replace(goodRecipe, "source: b.csv,", "source: b.csv, tensors: c,", 1), want: "exactly one of source and tensors"},
		"duplicate":       {text: goodRecipe + "batch: 65\n", want: "batch"},
		"config unknown":  {text: strings.Replace(goodRecipe, "model: EVA02-CLIP-B-16", "model: {embed_dim: 8, wat: 1, vision_cfg: {}, text_cfg: {}}", 1), want: "wat"},
		"bare tag":        {text: "model: EVA02-CLIP-B-16\ndata:\n  ! ", want: "data: missing"},
		"shell":           {text: goodRecipe, set: "data.0.source={a,b}.tar", want: `put it in quotes: 'data.0.source="{a,b}.tar"'`},
		"three rates":     {text: goodRecipe, set: "lr=fast", want: "want a mapping with the keys vision, text, other"},
		"huge batch":      {text: goodRecipe, set: "batch=9223372036854775807", want: "from 1 to 16777216"},
		"huge micro":      {text: goodRecipe, set: "micro_batch=16777217", want: "micro_batch: 16777217; want"},
		"huge steps":      {text: goodRecipe, set: "steps=9223372036854775807", want: "steps: 9223372036854775807; want"},
		"huge product":    {text: goodRecipe, set: "steps=100000000000000", want: "are more than 1000000000000000 samples"},
		"huge samples":    {text: goodRecipe, set: "samples=2e15", want: "samples: 2000000000000000; want"},
		"negative":        {text: goodRecipe, set: "warmup_steps=-1", want: "warmup_steps: -1; want a number of steps, from 0"},
		"no checkpoint":   {text: goodRecipe, set: "checkpoint.keep=0", want: "checkpoint.keep: 0; want"},
		"huge rate":       {text: goodRecipe, set: "lr.text=1e300", want: "lr.text: 1e+300; want 0 to 1e+30"},
		"tiny eps":        {text: goodRecipe, set: "optimizer.eps=1e-50", want: "optimizer.eps: 1e-50; want 1e-30 to 1"},
		"huge weights":    {text: goodRecipe, set: "data.0.weight=1e308", want: "data.0.weight: 1e+308; want 0 to 1e+12"},
		"tensors and mix": {text: "model: EVA02-CLIP-B-16\nbatch: 2\nsteps: 2\nwarmup_steps: 0\ndata: [{tensors: a}, {source: b}]\n", want: "cannot be mixed"},
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
			if !errors.As(err, &f) || f.Status != fault.Usage {
				t.Errorf("error %q is not a usage error", err)
			}
		})
	}
}

// TestStepsOrSamples: null brings back the default of steps or samples, which is to
// follow from the other.
func TestStepsOrSamples(t *testing.T) {
	both := goodRecipe + "steps: 100\n"
	for text, sets := range map[string][]string{goodRecipe: {"steps=null", "steps=", "samples=6400"}, both: {"samples=null", "steps=null", "steps=100"}} {
		for _, set := range sets {
			if r, err := ParseRecipe("r.yaml", []byte(text), set); err != nil || r.Steps != 100 {
				t.Errorf("%s: %+v, %v; want 100 steps", set, r, err)
			}
		}
	}
	// Fewer samples than a batch are one step; the recipe.yaml that says so can be read.
	r, err := ParseRecipe("r.yaml", []byte(goodRecipe), "samples=3", "warmup_steps=0")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseRecipe("recipe.yaml", r.YAML()); err != nil || again.Steps != 1 {
		t.Errorf("written and read: %+v, %v; want 1 step", again, err)
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

// TestBundledRecipes: each parses, has a cost, and agrees with what was published.
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
		p, err := DryRun(r, DryRunOptions{DeviceCount: 8, Rate: 20000})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := published[strings.TrimSuffix(name, "-released")]; want != 0 {
			near(t, name+" parameters", float64(p.Params)/1e6, want, 0.001*want)
			near(t, name+" hours", p.Hours, float64(p.Samples)/20000/3600, 1e-9)
		}
		if got := p.Devices * p.MicroBatch * p.Parts; got != p.Batch+p.Padding {
			t.Errorf("%s: batch %d + %d is not %d", name, p.Batch, p.Padding, got)
		}
		if one, err := DryRun(r, DryRunOptions{DeviceCount: 1}); err != nil || one.GFLOPsPerSample != p.GFLOPsPerSample {
			t.Errorf("%s: the work of a sample depends on the devices: %+v, %v", name, one, err)
		}
		near(t, name+" FLOP/s of a device", p.FLOPS*8, 20000*p.GFLOPsPerSample*1e9, 1e-3*p.FLOPS)
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

// TestSkipIsWritten: the resolved recipe starts a run from the same weights, also if
// it leaves out no tensor of the towers.
func TestSkipIsWritten(t *testing.T) {
	for given, want := range map[string]Skip{"": nil, "skip: []": {}, "skip: [text_projection]": {"text_projection"}} {
		r, err := ParseRecipe("r.yaml", []byte(goodRecipe+"init: {vision: a.pt, text: b.pt, "+given+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRecipe("recipe.yaml", r.YAML())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []*Recipe{r, again} {
			if !reflect.DeepEqual(r.Init.Skip, want) {
				t.Errorf("%q: init.skip is %#v, want %#v", given, r.Init.Skip, want)
			}
		}
	}
}

// TestIdentity: a run is found again by the hash of its recipe, whatever
// version of evatool wrote it.
func TestIdentity(t *testing.T) {
	want := map[string]string{
		"EVA01-CLIP-g-14-plus-released":    "4e51f011464ce123d60a2800b823a671348e6a76741eede930f78f3401d76374",
		"EVA01-CLIP-g-14-plus":             "d9d66fe7709d10f3eb67a96cb742826dd68163f20e6c474190d1ff9bf3e5eaa3",
		"EVA01-CLIP-g-14":                  "37df96df33cc3053ba311a4ae614a7f7849f1b924feea6d994cef46d46dc0706",
		"EVA02-CLIP-B-16-released":         "98cb701093dcea2f1a336ffab5d7987182b456c1fa3cc91be9951856d7984c52",
		"EVA02-CLIP-B-16":                  "65f1087c8db968ea9121696ce80b38522b8890685ce12565e7ad05158bc9fe38",
		"EVA02-CLIP-L-14-336-released":     "5e2534cb6d31bf31dbcf4776dac6018b2e78b5e3531b3397fd352bac1df86458",
		"EVA02-CLIP-L-14-336":              "bb085254b1d38ca45f8e5bf04549141d030457fc23fce6217a4c5153c424e4e0",
		"EVA02-CLIP-L-14-released":         "a1c4763058372b55b6b5fb1d9a8866d3d4188d8253ee5e9e5e5e973fbbe20f3a",
		"EVA02-CLIP-L-14":                  "78354dd00e4fc847cdcca7feb72c3a4c0e2b6957bb89a27d8609c4633cd6c90f",
		"EVA02-CLIP-bigE-14-plus-released": "4a5c194130de549877fa55d6ba1d1e510f9b676d1d7fa6927960f4eac12233d2",
		"EVA02-CLIP-bigE-14-plus":          "46c731d1e844bf83d6f2efd8a78759627302bbe32b485cf3237cf54f9c965a0d",
		"EVA02-CLIP-bigE-14-released":      "5025b79fdc19b7c0ae6b9da1351293e6fcf7a83bd44981be2364a3b1db557bad",
		"EVA02-CLIP-bigE-14":               "41a270fac4e5b07e60981bb964e3b83f3fefba63de73d2a90a5e66b80b2ff842",
		"emoji-adamw":                      "2217d910a3a000fc9c8d507ec79e8a624950a0be5775a3dd3bd096ebe346724e",
		"emoji-lamb":                       "4943c74781d1b2a4374962777ff2488cc351913296dca0d22d7a3b980647a928",
	}
	for name, sum := range want {
		r, err := LoadRecipe(name)
		if err != nil {
			t.Error(err)
		} else if got := r.identity(); got != sum {
			t.Errorf("%s: identity %s, was %s", name, got, sum)
		}
	}
	// Strings that look like something else, numbers of every form, a model
	// spelled out; and the run's recipe.yaml as it was written with another
	// library.
	const odd = "73d13cd6838be311afc37337a4bb82a992210d746b8de6766c3379be0ec66904"
	r, err := LoadRecipe("testdata/odd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	old, err := readRecipe("testdata/recipe-of-an-old-run.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if a, b := r.identity(), old.identity(); a != odd || b != odd {
		t.Errorf("identity %s, of the old file %s, was %s", a, b, odd)
	}
}

// TestNumbersHaveRanges: a recipe full of the largest numbers is either refused or its
// cost computed without an overflow.
func TestNumbersHaveRanges(t *testing.T) {
	for _, set := range []string{
		"batch", "micro_batch", "samples", "steps", "warmup_steps", "optimizer.eps", "optimizer.weight_decay", "optimizer.clip_grad_norm",
		"lr.vision", "lr.text", "lr.other", "layer_decay.vision", "patch_dropout", "drop_path", "zero_stage", "max_bad", "checkpoint.every_steps",
		"checkpoint.keep", "image.size", "augment.hflip", "data.0.weight", "image.ratio.1", "image.scale.1", "optimizer.betas.0",
	} {
		for _, v := range []string{"9223372036854775807", "1e300", "-1", "-9223372036854775808"} {
			if v == "9223372036854775807" && strings.HasPrefix(set, "lr.") {
				continue // it diverges, but it is a number
			}
			if _, err := ParseRecipe("r.yaml", []byte(goodRecipe), set+"="+v); err == nil {
				t.Errorf("%s=%s is taken", set, v)
			}
		}
	}
	r, err := ParseRecipe("r.yaml", []byte(goodRecipe), "batch=16777216", "micro_batch=16777216", "samples=1e15", "warmup_steps=0")
	if err != nil {
		t.Fatal(err)
	}
	for _, devices := range []int{1, 3, 1 << 20} {
		p, err := DryRun(r, DryRunOptions{DeviceCount: devices, Rate: 1})
		if err != nil {
			t.Fatal(err)
		}
		if p.Samples <= 0 || p.Samples > 1e15 || p.BytesActivations <= 0 || p.BytesLoss <= 0 || p.BytesDevice < p.BytesLoss {
			t.Errorf("%d devices: %+v", devices, p)
		}
	}
	for _, devices := range []int{-1, 1<<20 + 1} {
		if _, err := DryRun(r, DryRunOptions{DeviceCount: devices, Rate: 1}); err == nil {
			t.Errorf("%d devices are taken", devices)
		}
	}
	big := strings.Replace(goodRecipe, "EVA02-CLIP-B-16", "{embed_dim: 65536, vision_cfg: {image_size: 8192, patch_size: 1, width: 65536, layers: 1024}, text_cfg: {}}", 1)
	if r, err = ParseRecipe("r.yaml", []byte(big), "batch=16777216", "warmup_steps=0"); err != nil {
		t.Fatal(err)
	}
	if p, err := DryRun(r, DryRunOptions{DeviceCount: 1, Rate: 1}); err == nil {
		t.Errorf("priced: %+v", p)
	}
}

func FuzzRecipe(f *testing.F) {
	f.Add([]byte(goodRecipe), "lr.vision=1e-3")
	for _, n := range Bundled() {
		text, _ := bundled(n)
		f.Add(text, "batch=128")
	}
	f.Add([]byte("data:\n  ! "), "data.0.source={a,b}.tar")
	f.Fuzz(func(t *testing.T, text []byte, set string) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := ParseRecipe("r.yaml", text, set)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(16<<20+8192*(len(text)+len(set))); got > most {
			t.Errorf("%d bytes for a recipe of %d; at most %d", got, len(text), most)
		}
		if err != nil {
			return
		}
		again, err := ParseRecipe("r.yaml", r.YAML())
		if err != nil {
			t.Fatalf("%v\n%s", err, r.YAML())
		}
		if r.identity() != again.identity() {
			t.Errorf("another identity when read back:\n%s", r.YAML())
		}
		if _, err := DryRun(r, DryRunOptions{DeviceCount: 3, Rate: 1}); err != nil {
			var e *fault.Error
			if !errors.As(err, &e) {
				t.Error(err)
			}
		}
	})
}

// FuzzState: the values of a state.json are in range or refused, and parsing costs no
// more than its size allows.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"step":3,"samples":12,"sources":[8,4],"data":["a"],"recipe":"b","bad_samples":1,"sha256":{"model.safetensors":"c"}}`))
	f.Add([]byte(`{"format":1,"step":9223372036854775807}`))
	f.Add([]byte(strings.Repeat("[", 300)))
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, err := parseState("state.json", text)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+256*len(text)); got > most {
			t.Errorf("%d bytes for a file of %d; at most %d", got, len(text), most)
		}
		if err == nil && (s.Step < 0 || s.Step > maxSamples || s.Format != 1) {
			t.Errorf("%s: taken as %+v", text, s)
		}
	})
}

// A recipe that a program made itself, or changed after loading it, is checked as a
// file is.
func TestRecipeOfAProgram(t *testing.T) {
	for want, change := range map[string]func(*Recipe){
		"batch":          func(r *Recipe) { r.Batch = 0 },
		"micro_batch":    func(r *Recipe) { r.MicroBatch = -1 },
		"steps":          func(r *Recipe) { r.Steps, r.Samples = 3, 8000 },
		"samples":        func(r *Recipe) { r.Steps, r.Samples = 0, 0 },
		"data":           func(r *Recipe) { r.Data = nil },
		"optimizer.name": func(r *Recipe) { r.Optimizer.Name = "sgd" },
		"captions.0":     func(r *Recipe) { r.Captions = []string{"no place"} },
		"image.size":     func(r *Recipe) { r.Image.Size = 640 },
		"lr.text":        func(r *Recipe) { r.LR.Text = math.NaN() },
		"model":          func(r *Recipe) { *r = Recipe{} },
	} {
		r := tiny(t)
		change(r)
		out := filepath.Join(t.TempDir(), "run")
		_, run := Run(t.Context(), r, Options{Out: out, Backend: "go"})
		_, bench := Bench(t.Context(), r, BenchOptions{Backend: "go"})
		_, dry := DryRun(r, DryRunOptions{})
		check := Check(t.Context(), r, Options{Out: out, Backend: "go"}).Problems
		for name, err := range map[string]error{"Run": run, "Bench": bench, "DryRun": dry, "Check": errors.Join(check...)} {
			if fault.Code(err) != int(fault.Usage) || !strings.HasPrefix(err.Error(), "recipe: "+want+": ") {
				t.Errorf("%s, %s: %v", name, want, err)
			}
		}
		if exists(out) {
			t.Errorf("%s: there is a run folder", want)
		}
	}
	if _, err := Run(t.Context(), nil, Options{Out: t.TempDir()}); fault.Code(err) != int(fault.Usage) {
		t.Errorf("no recipe: %v", err)
	}
}
