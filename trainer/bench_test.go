package trainer

import (
	"math"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/fault"
)

const benchRecipe = `
model: {embed_dim: 32, vision_cfg: {image_size: 32, layers: 1, width: 64, head_width: 32, patch_size: 8, mlp_ratio: 2.6667,
  eva_model_name: eva-clip-b-16-X, drop_path_rate: 0, xattn: false, postnorm: false, fusedLN: false, rope: true, pt_hw_seq_len: 16,
  intp_freq: true, naiveswiglu: true, subln: true}, text_cfg: {context_length: 16, vocab_size: 500, width: 64, heads: 2, layers: 1}}
data: [{tensors: unused}]
image: {size: 32}
batch: 8
steps: 100
optimizer: {name: adamw, clip_grad_norm: 0}
warmup_steps: 10
`

// A model with a short context has shorter random texts.
func TestBenchShortTexts(t *testing.T) {
	for _, context := range []string{"1", "8"} {
		r, err := ParseRecipe("bench.yaml", []byte(strings.Replace(benchRecipe, "context_length: 16", "context_length: "+context, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if res, err := Bench(t.Context(), r, BenchOptions{Steps: 1, Backend: "go"}); err != nil || len(res.Losses) != 3 {
			t.Errorf("context %s: %+v, %v", context, res, err)
		}
		if _, err := Bench(t.Context(), r, BenchOptions{Steps: -9, Backend: "go"}); fault.Code(err) != int(fault.Usage) {
			t.Errorf("a negative number of steps: %v", err)
		}
	}
}

// TestBench: a step transfers the batch, the learning rates and the metrics and
// nothing else; the state is updated in place.
func TestBench(t *testing.T) {
	r, err := ParseRecipe("bench.yaml", []byte(benchRecipe))
	if err != nil {
		t.Fatal(err)
	}
	devicetest.Need(t, "xla")
	res, err := Bench(t.Context(), r, BenchOptions{Steps: 3, Backend: "xla", CompileCache: "off"})
	if err != nil {
		t.Fatal(err)
	}
	if want := res.BatchBytes + 3*4; res.ToDevice != want || res.FromDevice != numMetrics*4 {
		t.Errorf("%d bytes up and %d down a step, not %d and %d", res.ToDevice, res.FromDevice, want, numMetrics*4)
	}
	if len(res.Losses) != 5 || len(res.Seconds) != 3 || math.Abs(res.Losses[0]-math.Log(8)) > 1 {
		t.Errorf("losses %v, seconds %v", res.Losses, res.Seconds)
	}
	if res.Memory.Aliased < res.Memory.Inputs*9/10 {
		t.Errorf("only %d of %d bytes of input are updated in place", res.Memory.Aliased, res.Memory.Inputs)
	}
}
