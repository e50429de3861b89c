package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomlx/compute/dtypes"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/weights"
	"github.com/evatool/evatool/trainer"
)

// MatMul is the speed of square matrix products.
type MatMul struct {
	DType  string  `json:"dtype"`
	Side   int     `json:"side"`
	TFLOPS float64 `json:"tflops"`
}

func (b *bench) matmul() error {
	for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.Float32} {
		gflops, err := b.dev.MatMul(b.ctx, dtype, b.sizes.matmul)
		if err != nil {
			return err
		}
		b.report.MatMul = append(b.report.MatMul, MatMul{strings.ToLower(dtype.String()), b.sizes.matmul, gflops / 1000})
		b.save()
	}
	return nil
}

// Parity compares a result with the Go backend's float32.
type Parity struct {
	What       string  `json:"what"`
	Difference float64 `json:"difference"`
	Tolerance  float64 `json:"tolerance"`
	OK         bool    `json:"ok"`
}

// Largest differences allowed: of a coordinate of an L2-normalised feature,
// and of a loss. On a GPU float32 products use TF32, with 10 bits of fraction.
var (
	featureTolerance = map[string]float64{"fp32": 2e-3, "bf16": 3e-2}
	lossTolerance    = map[string]float64{"fp32": 5e-3, "bf16": 5e-2}
)

// parity compares the features of a model in every dtype and, for the tiny
// one, the losses of its training: a big one would take the Go backend minutes.
func (b *bench) parity(model string) error {
	ref, err := device.Open(b.ctx, device.Options{Backend: "go", Log: b.log})
	if err != nil {
		return err
	}
	defer ref.Close()
	cfg, name, err := configOf(model)
	if err != nil {
		return err
	}
	images, tokens := inputs(cfg, 2)
	err = b.parityOf(name+" features", featureTolerance, func(dev *device.Device, dtype string) ([]float64, error) {
		if dev == nil {
			dev = ref
		}
		return features(b, dev, cfg, dtype, images, tokens)
	})
	if err != nil || model != tinyModel {
		return err
	}
	return b.parityOf(name+" loss over 4 steps", lossTolerance, func(dev *device.Device, dtype string) ([]float64, error) {
		// Without random choices: their streams differ between backends.
		r, err := recipe(trainCase{model: model, precision: dtype, batch: 8})
		if err != nil {
			return nil, err
		}
		o := trainer.BenchOptions{Steps: 2, Backend: "go"}
		if dev != nil {
			o = b.options(o)
		}
		res, err := trainer.Bench(b.ctx, r, o)
		if err != nil {
			return nil, err
		}
		return res.Losses, nil
	})
}

// parityOf compares what compute returns on this device in each dtype with what it
// returns on the reference, a nil device, in float32.
func (b *bench) parityOf(what string, tolerance map[string]float64, compute func(*device.Device, string) ([]float64, error)) error {
	want, err := compute(nil, "fp32")
	if err != nil {
		return err
	}
	for _, dtype := range []string{"fp32", "bf16"} {
		got, err := compute(b.dev, dtype)
		if err != nil {
			b.skip("parity "+what+" "+dtype, err)
			continue
		}
		worst := 0.0
		for i := range want {
			worst = max(worst, math.Abs(want[i]-got[i]))
		}
		b.compare(what+" "+dtype, worst, tolerance[dtype])
	}
	return nil
}

func (b *bench) compare(what string, difference, tolerance float64) {
	b.report.Parity = append(b.report.Parity, Parity{what, difference, tolerance, difference <= tolerance}) // false for NaN
	b.save()
}

// inputs are n random images, normalised, and texts.
func inputs(cfg *arch.Config, n int) ([]float32, []int32) {
	rng := rand.New(rand.NewPCG(3, 4))
	images := make([]float32, n*3*cfg.Vision.ImageSize*cfg.Vision.ImageSize)
	for i := range images {
		images[i] = float32(rng.NormFloat64())
	}
	ctx := cfg.Text.ContextLength
	tokens := make([]int32, n*ctx)
	for i := range n {
		for k := range 10 {
			tokens[i*ctx+k] = rng.Int32N(int32(cfg.Text.VocabSize) - 2)
		}
		tokens[i*ctx+10] = int32(cfg.Text.VocabSize) - 1
	}
	return images, tokens
}

func newRunner(b *bench, dev *device.Device, cfg *arch.Config, dtype string, batch int) (*clip.Runner, *weights.Set, error) {
	set, err := weights.Load(b.ctx, dev, cfg, checkpoint.RandomSource(cfg, 1), "fp32")
	if err != nil {
		return nil, nil, err
	}
	r, err := clip.NewRunner(dev, set, clip.RunnerOptions{DType: dtype, Images: batch, Texts: batch})
	return r, set, err
}

// features are the L2-normalised features of images and texts.
func features(b *bench, dev *device.Device, cfg *arch.Config, dtype string, images []float32, tokens []int32) ([]float64, error) {
	n := len(tokens) / cfg.Text.ContextLength
	r, set, err := newRunner(b, dev, cfg, dtype, n)
	if err != nil {
		return nil, err
	}
	defer set.Free()
	x, err := r.Images(b.ctx, images, n)
	if err != nil {
		return nil, err
	}
	y, err := r.Texts(b.ctx, tokens, n)
	if err != nil {
		return nil, err
	}
	var out []float64
	for row := range slices.Chunk(append(x, y...), cfg.EmbedDim) {
		sum := 0.0
		for _, v := range row {
			sum += float64(v) * float64(v)
		}
		for _, v := range row {
			out = append(out, float64(v)/math.Sqrt(sum))
		}
	}
	return out, nil
}

// Forward is the speed of an image tower, uploads of float32 pixels included.
type Forward struct {
	Model  string  `json:"model"`
	DType  string  `json:"dtype"`
	Batch  int     `json:"batch"`
	First  float64 `json:"first_seconds"` // compilation and the first batch
	Images float64 `json:"images_per_second"`
	MFU    float64 `json:"mfu,omitempty"`
}

func (b *bench) forward(c forwardCase) error {
	cfg, name, err := configOf(c.model)
	if err != nil {
		return err
	}
	row, err := b.forwardOf(cfg, c)
	if err != nil {
		return err
	}
	row.Model = name
	b.report.Forward = append(b.report.Forward, *row)
	b.save()
	b.log.Info("forward", "model", name, "dtype", c.dtype, "images_per_second", row.Images)
	return nil
}

func (b *bench) forwardOf(cfg *arch.Config, c forwardCase) (*Forward, error) {
	r, set, err := newRunner(b, b.dev, cfg, c.dtype, c.batch)
	if err != nil {
		return nil, err
	}
	defer set.Free()
	images, _ := inputs(cfg, c.batch)
	start := time.Now()
	if _, err := r.Images(b.ctx, images, c.batch); err != nil {
		return nil, err
	}
	row := &Forward{DType: c.dtype, Batch: c.batch, First: time.Since(start).Seconds()}
	// Two callers: one uploads while the other computes.
	errs := make([]error, 2)
	start = time.Now()
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for range b.sizes.calls {
				if _, err := r.Images(b.ctx, images, c.batch); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	row.Images = float64(2*b.sizes.calls*c.batch) / time.Since(start).Seconds()
	image, _ := cfg.GFLOPs()
	row.MFU = b.mfu(row.Images*image, c.dtype)
	return row, nil
}

// mfu is the share of the data sheet's peak, known only for bf16.
func (b *bench) mfu(gflops float64, dtype string) float64 {
	if b.report.Peak == 0 || dtype != "bf16" {
		return 0
	}
	return gflops / 1000 / b.report.Peak
}

// Train is the speed of a recipe's step.
type Train struct {
	Model        string  `json:"model"`
	Precision    string  `json:"precision"`
	PatchDropout float64 `json:"patch_dropout"`
	Checkpoint   bool    `json:"grad_checkpointing"`
	Samples      float64 `json:"samples_per_second"` // of the median step
	MFU          float64 `json:"mfu,omitempty"`      // of the model's own operations
	*trainer.BenchResult
}

// train measures the largest batch that fits: the case's own or a half, a quarter…
func (b *bench) train(c trainCase, what string) error {
	_, name, err := configOf(c.model)
	if err != nil {
		return err
	}
	b.dev.Close() // frees its memory
	for ; ; c.batch /= 2 {
		r, err := recipe(c)
		if err != nil {
			return err
		}
		res, err := trainer.Bench(b.ctx, r, b.options(trainer.BenchOptions{Steps: b.sizes.steps, Donation: c.donation}))
		if err != nil {
			if !device.OutOfMemory(err) || c.batch <= 8 || b.ctx.Err() != nil || !time.Now().Before(b.end) {
				return err
			}
			b.log.Info("does not fit, halved", "batch", c.batch, "reason", fault.Line(err))
			runtime.GC() // arrays of the failed step
			continue
		}
		sorted := slices.Sorted(slices.Values(res.Seconds))
		rate := float64(c.batch) / sorted[len(sorted)/2]
		b.report.Train = append(b.report.Train, Train{
			Model: name, Precision: c.precision, PatchDropout: c.patchDropout, Checkpoint: c.checkpoint,
			Samples: rate, MFU: b.mfu(rate*res.GFLOPs["model"], c.precision), BenchResult: res,
		})
		b.save()
		b.log.Info(what, "batch", c.batch, "samples_per_second", rate)
		return nil
	}
}

// options has the trainer open the device that b measures.
func (b *bench) options(o trainer.BenchOptions) trainer.BenchOptions {
	o.Backend, o.DeviceCount, o.CompileCache, o.Log = b.opened.Backend, b.opened.DeviceCount, b.opened.CompileCache, b.log
	return o
}

// recipe is the recipe of a training case.
func recipe(c trainCase) (*trainer.Recipe, error) {
	cfg, name, err := configOf(c.model)
	if err != nil {
		return nil, err
	}
	model := name
	if _, ok := arch.Named(c.model); !ok {
		model = c.model
	}
	return trainer.ParseRecipe("benchmark.yaml", fmt.Appendf(nil, `
model: %s
data: [{tensors: none}]
image: {size: %d}
batch: %d
steps: 1000
warmup_steps: 10
precision: %s
patch_dropout: %v
grad_checkpointing: %v
`, model, cfg.Vision.ImageSize, c.batch, c.precision, c.patchDropout, c.checkpoint))
}
