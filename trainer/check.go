package trainer

import (
	"fmt"
	"math"
	"reflect"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// The upper limits are far above any run so far (40 billion samples, batches of
// 144k), and low enough that no product overflows.
const (
	maxBatch   = 1 << 24
	maxSamples = 1e15
)

// check completes the recipe and refuses what makes no sense.
func (r *Recipe) check(name string) error {
	bad := func(key, format string, args ...any) error {
		return fault.Usagef("%s: %s: %s", name, key, fmt.Sprintf(format, args...))
	}
	if r.Model == nil || r.Model == "" {
		return bad("model", "missing; give a name (evatool models --architectures lists them), a config JSON file or the config itself")
	}
	if len(r.Data) == 0 {
		return bad("data", "missing; give a list such as [{source: \"shards/{0000..0099}.tar\"}]")
	}
	if key := notFinite(reflect.ValueOf(r).Elem(), ""); key != "" {
		return bad(key, "not finite; give a finite number")
	}
	weighted := 0
	for i, s := range r.Data {
		key := fmt.Sprintf("data.%d", i)
		switch {
		case (s.Source == "") == (s.Tensors == ""):
			return bad(key, "give exactly one of source and tensors")
		case s.Tensors != "" && len(r.Data) > 1:
			return bad(key, "tensors are replayed in order and cannot be mixed with other sources; leave those out")
		case s.Read != "" && s.Read != readStream && s.Read != readRandom:
			return bad(key+".read", "%q; want stream or random", s.Read)
		case s.MissingShards != "" && s.MissingShards != missingError && s.MissingShards != missingSkip:
			return bad(key+".missing_shards", "%q; want error or skip", s.MissingShards)
		case s.Count != "" && s.Count != countHeaders:
			return bad(key+".count", "%q; want headers", s.Count)
		case s.Tensors != "" && s.Read+s.MissingShards+s.Count != "":
			return bad(key, "tensors are replayed in order; leave out read, missing_shards and count")
		case s.MissingShards == missingSkip && s.Read == readRandom:
			return bad(key+".missing_shards", "skip needs read: stream; the index of read: random needs every tar")
		case s.Weight < 0 || s.Weight > 1e12:
			return bad(key+".weight", "%v; want 0 to 1e+12", s.Weight)
		case s.Weight > 0:
			weighted++
		}
	}
	if weighted != 0 && weighted != len(r.Data) {
		return bad("data", "%d of %d sources have a weight; give every source a weight, or none (they then mix by size)", weighted, len(r.Data))
	}
	for i, c := range r.Captions {
		if !strings.Contains(c, "{}") {
			return bad(fmt.Sprintf("captions.%d", i), "%q; want {} where the caption goes", c)
		}
	}
	for _, b := range []struct {
		key      string
		v        int64
		min, max int64
		hint     string
	}{
		{"batch", int64(r.Batch), 1, maxBatch, "the number of pairs per step over all devices"},
		{"micro_batch", int64(r.MicroBatch), 0, maxBatch, "the number of pairs that a device takes at once (0: its whole share)"},
		{"lanes", int64(r.Lanes), 0, maxLanes, "the number of lanes of streams, a divisor of batch (0: chosen by the batch)"},
		{"steps", r.Steps, 0, maxSamples, "the number of steps"},
		{"samples", r.Samples, 0, maxSamples, "the number of pairs of the whole run"},
		{"warmup_steps", r.WarmupSteps, 0, maxSamples, "a number of steps"},
		{"zero_stage", int64(r.ZeroStage), 0, 1, "a ZeRO stage"},
		{"checkpoint.every_steps", r.Checkpoint.EverySteps, 0, maxSamples, "a number of steps (0: only at the end)"},
		{"checkpoint.keep", int64(r.Checkpoint.Keep), 1, 1 << 20, "a number of checkpoints"},
	} {
		if b.v < b.min || b.v > b.max {
			return bad(b.key, "%d; want %s, from %d to %d", b.v, b.hint, b.min, b.max)
		}
	}
	if r.Lanes > 0 && r.Batch%r.Lanes != 0 {
		return bad("lanes", "%d does not divide the batch of %d; choose a divisor, as every lane gives the same number of rows", r.Lanes, r.Batch)
	}
	switch perStep := int64(r.Batch); {
	case r.Steps == 0 && r.Samples == 0:
		return bad("samples", "missing; give samples or steps")
	case r.Steps == 0:
		r.Steps = max(1, r.Samples/perStep)
	case r.Steps > maxSamples/perStep:
		return bad("steps", "%d steps of %d pairs are more than %d samples; give fewer", r.Steps, perStep, int64(maxSamples))
	case r.Samples != 0 && max(1, r.Samples/perStep) != r.Steps:
		return bad("steps", "%d steps of %d pairs are not %d samples; give only one of steps and samples", r.Steps, perStep, r.Samples)
	}
	if r.WarmupSteps > r.Steps {
		return bad("warmup_steps", "%d is more than the run's %d steps; lower it", r.WarmupSteps, r.Steps)
	}
	o := r.Optimizer
	if _, ok := optimizers[o.Name]; !ok {
		return bad("optimizer.name", "%q; want lamb, lamb-deepspeed or adamw", o.Name)
	}
	for i, b := range o.Betas {
		if b < 0 || b >= 1 {
			return bad("optimizer.betas", "beta %d is %v; want 0 ≤ beta < 1", i+1, b)
		}
	}
	for _, b := range []struct {
		key      string
		v        float64
		min, max float64
	}{
		{"optimizer.eps", o.Eps, 1e-30, 1},
		{"optimizer.weight_decay", o.WeightDecay, 0, 1e3},
		{"optimizer.clip_grad_norm", o.ClipGradNorm, 0, 1e12},
		{"lr.vision", r.LR.Vision, 0, 1e30}, {"lr.text", r.LR.Text, 0, 1e30}, {"lr.other", r.LR.Other, 0, 1e30},
		{"augment.hflip", r.Augment.HFlip, 0, 1},
		{"max_bad", r.MaxBad, 0, 1},
	} {
		if b.v < b.min || b.v > b.max {
			return bad(b.key, "%v; want %v to %v", b.v, b.min, b.max)
		}
	}
	for _, d := range []struct {
		key string
		v   float64
	}{{"layer_decay.vision", r.LayerDecay.Vision}, {"layer_decay.text", r.LayerDecay.Text}} {
		if d.v <= 0 || d.v > 1 {
			return bad(d.key, "%v; want 0 < decay ≤ 1", d.v)
		}
	}
	for _, p := range []struct {
		key string
		v   float64
	}{{"patch_dropout", r.PatchDropout}, {"drop_path", r.DropPath}} {
		if p.v < 0 || p.v >= 1 {
			return bad(p.key, "%v; want 0 ≤ p < 1", p.v)
		}
	}
	switch r.Precision {
	case "fp32", "bf16", "fp16":
	default:
		return bad("precision", "%q; want fp32, bf16 or fp16", r.Precision)
	}
	switch r.Accumulation {
	case "auto": // the same recipe as without the key
		r.Accumulation = ""
	case "", accumulateResiduals, accumulateAgain:
	default:
		return bad("accumulation", "%q; want auto, %s or %s", r.Accumulation, accumulateResiduals, accumulateAgain)
	}
	if err := r.Comm.check(bad); err != nil {
		return err
	}
	s := r.Image
	if s.Scale[0] <= 0 || s.Scale[0] > s.Scale[1] || s.Scale[1] > 1 || s.Ratio[0] < 1e-3 || s.Ratio[0] > s.Ratio[1] || s.Ratio[1] > 1e3 {
		return bad("image", "scale %v, ratio %v; want 0 < low ≤ high, scale at most 1 and ratio between 0.001 and 1000", s.Scale, s.Ratio)
	}
	for i, e := range r.Eval {
		if e.Benchmark == "" || e.Data == "" || e.EverySteps < 0 || e.EverySteps > maxSamples || e.Limit < 0 || e.Limit > maxBatch {
			return bad(fmt.Sprintf("eval.%d", i), "give benchmark, data and every_steps, such as {every_steps: 1000, benchmark: imagenet, data: DIR}; no number may be negative, and limit is at most %d", maxBatch)
		}
	}
	if r.Init.Model != "" && (r.Init.Vision != "" || r.Init.Text != "") {
		return bad("init", "give either model, or vision and text")
	}
	if len(r.Init.Skip) > 0 && r.Init.Vision == "" && r.Init.Text == "" {
		return bad("init.skip", "names tensors of init.vision and init.text, and neither is given; leave it out")
	}
	cfg, err := r.config()
	if err != nil {
		return fault.Usagef("%s: model: %v", name, err)
	}
	size := cfg.Preprocess().Size
	if r.Image.Size == 0 {
		r.Image.Size = size
	}
	if r.Image.Size != size {
		return bad("image.size", "%d, but the model takes images of %d pixels; leave size out, or change the model", r.Image.Size, size)
	}
	return nil
}

// checked is a checked copy of a recipe, which a program may have made itself, or
// changed since it was loaded.
func (r *Recipe) checked() (*Recipe, error) {
	if r == nil {
		return nil, fault.Usagef("no recipe; LoadRecipe and ParseRecipe give one")
	}
	c := *r
	return &c, c.check("recipe")
}

// notFinite is the key, below at, of the first number that is infinite or NaN;
// empty if there is none.
func notFinite(v reflect.Value, at string) (key string) {
	switch v.Kind() {
	case reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return at
		}
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && key == ""; i++ {
			key = notFinite(v.Index(i), fmt.Sprintf("%s.%d", at, i))
		}
	case reflect.Struct:
		for i := 0; i < v.NumField() && key == ""; i++ {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			key = notFinite(v.Field(i), strings.TrimPrefix(at+"."+name, "."))
		}
	}
	return key
}
