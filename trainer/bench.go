package trainer

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// BenchOptions say where and how long to measure.
type BenchOptions struct {
	Steps    int  // timed steps, after two that are not; 0: none
	Donation bool // also compile the step without reusing the state's memory, for comparison

	// As in Options.
	Backend      string
	DeviceCount  int
	Threads      int
	CompileCache string
	Log          *slog.Logger
}

// MemoryUse is what a compiled program needs, in bytes on each device. Aliased are
// the outputs that take over an input's memory.
type MemoryUse struct {
	Code, Inputs, Outputs, Aliased, Temporary int64
}

// Peak is the most that the program needs, in bytes.
func (m MemoryUse) Peak() int64 { return device.MemoryUse(m).Peak() }

// BenchResult is what a recipe's step costs on a device, without reading data.
type BenchResult struct {
	Batch          int                `json:"batch"`
	First          float64            `json:"first_seconds"` // compilation and the first step
	Seconds        []float64          `json:"seconds"`       // of each timed step
	Losses         []float64          `json:"losses"`        // of every step
	ToDevice       int64              `json:"to_device"`     // bytes per step
	FromDevice     int64              `json:"from_device"`   // bytes per step
	BatchBytes     int64              `json:"batch_bytes"`   // pixels and tokens
	Memory         MemoryUse          `json:"memory"`        // of the compiled step, per device
	Kept           *MemoryUse         `json:"memory_without_donation,omitempty"`
	PeakBytes      int64              `json:"peak_bytes,omitempty"` // as the device measured it
	FusedAttention int                `json:"fused_attention"`
	GFLOPs         map[string]float64 `json:"gflops_per_sample"` // model: forward and backward; executed: with recomputation
}

// Bench runs steps of a recipe on random pixels and tokens, the same every time.
// The recipe's data is not opened; a batch that does not fit the device is an error
// of kind KindEnvironment.
func Bench(ctx context.Context, r *Recipe, o BenchOptions) (_ *BenchResult, err error) {
	defer fault.Public(ctx, &err)
	if o.Steps < 0 {
		return nil, fault.Usagef("Options.Steps %d: want 0 or more", o.Steps)
	}
	if r, err = r.checked(); err != nil {
		return nil, err
	}
	d := Options{Backend: o.Backend, DeviceCount: o.DeviceCount, Threads: o.Threads, CompileCache: o.CompileCache, Log: o.Log}
	dev, err := device.Open(ctx, d.device())
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	m, err := newMachine(dev, r, true, false)
	if err != nil {
		return nil, err
	}
	defer m.close()
	err = m.start(func(p arch.Param) ([]float32, error) { return checkpoint.RandomTensor(m.cfg, p, uint64(r.Seed)), nil })
	if err != nil {
		return nil, err
	}
	plan, err := r.plan(dev.N(), 0, 0)
	if err != nil {
		return nil, err
	}
	once := *r
	once.GradCheckpointing, once.MicroBatch = false, 0
	model, err := once.plan(dev.N(), 0, 0)
	if err != nil {
		return nil, err
	}
	b := m.randomBatch()
	res := &BenchResult{
		Batch: r.Batch, BatchBytes: int64(len(b.pixels) + 4*len(b.tokens)),
		GFLOPs: map[string]float64{"model": model.GFLOPsPerSample, "executed": plan.GFLOPsExecuted},
	}
	if m.whole != nil {
		if err := m.inspect(b, res, o.Donation); err != nil {
			return nil, err
		}
	}
	const warm = 2
	var before *device.Array
	var at time.Time
	var traffic device.Traffic
	for i := range warm + o.Steps + 1 {
		var next *device.Array
		if i < warm+o.Steps {
			if i == warm {
				traffic = dev.Traffic()
			}
			start := time.Now()
			if next, err = m.step(ctx, b, r.rates(int64(i))); err != nil {
				return nil, err
			}
			if i == 0 {
				if _, err := next.Float32s(); err != nil {
					return nil, err
				}
				res.First += time.Since(start).Seconds()
			}
		}
		if before != nil {
			v, err := before.Float32s() // one step late
			if err != nil {
				return nil, err
			}
			before.Free()
			if v[metricFinite] != 1 && r.Precision != "fp16" {
				return nil, fault.Checkf("benchmark step %d: loss %v, gradient norm %v; want finite numbers: lower lr", i, v[metricLoss], v[metricGradNorm])
			}
			res.Losses = append(res.Losses, float64(v[metricLoss]))
			now := time.Now()
			if i > warm {
				res.Seconds = append(res.Seconds, now.Sub(at).Seconds())
			}
			at = now
		}
		before = next
	}
	moved := dev.Traffic().Sub(traffic)
	res.ToDevice, res.FromDevice = moved.ToDevice/int64(max(1, o.Steps)), moved.FromDevice/int64(max(1, o.Steps+1))
	if _, peak, _, ok := dev.Memory(); ok {
		res.PeakBytes = peak
	}
	return res, nil
}

func (m *machine) randomBatch() *hostBatch {
	rng := rand.New(rand.NewPCG(1, 2))
	size, ctx := m.recipe.Image.Size, m.cfg.Text.ContextLength
	b := &hostBatch{pixels: make([]uint8, m.recipe.Batch*size*size*3), tokens: make([]int32, m.recipe.Batch*ctx)}
	for i := range b.pixels {
		b.pixels[i] = uint8(rng.Uint32())
	}
	for row := range m.recipe.Batch {
		n := min(6+rng.IntN(max(1, ctx/2)), ctx-1) // tokens before the end
		t := b.tokens[row*ctx : (row+1)*ctx]
		for k := range n {
			t[k] = rng.Int32N(int32(m.cfg.Text.VocabSize) - 2)
		}
		t[n] = int32(m.cfg.Text.VocabSize) - 1 // the largest id ends a text
	}
	return b
}

// inspect compiles the step and records what it needs.
func (m *machine) inspect(b *hostBatch, res *BenchResult, donation bool) error {
	rates, err := m.dev.PutF32(device.Replicated, make([]float32, 3), 3)
	if err != nil {
		return err
	}
	defer rates.Free()
	x, err := m.inputs(b, rates)
	if err != nil {
		return err
	}
	defer free(x.rows())
	args := flat(m.whole.in, x)
	start := time.Now()
	use, err := m.whole.Memory(args...)
	if err != nil {
		return err
	}
	res.Memory = MemoryUse(use)
	res.First = time.Since(start).Seconds()
	if res.FusedAttention, err = m.whole.FusedAttention(args...); err != nil {
		return err
	}
	if donation {
		kept, err := m.whole.Without().Memory(args...)
		if err != nil {
			return err
		}
		res.Kept = (*MemoryUse)(&kept)
	}
	return nil
}
