package trainer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/fault"
)

// trained is the result of steps: their metrics, and the state.
type trained struct {
	metrics [][]float32
	params  map[string][]float32
}

// batchesOf are random batches of a recipe; those of step bad have no finite gradients.
func batchesOf(r *Recipe, cfg *arch.Config, steps, bad int) (list []hostBatch) {
	g := rand.New(rand.NewPCG(3, 4))
	for s := range steps {
		b := hostBatch{floats: make([]float32, r.Batch*3*r.Image.Size*r.Image.Size), tokens: make([]int32, r.Batch*cfg.Text.ContextLength)}
		for i := range b.floats {
			b.floats[i] = float32(g.NormFloat64())
			if s == bad {
				b.floats[i] *= float32(math.Inf(1))
			}
		}
		for i := range b.tokens {
			b.tokens[i] = int32(g.IntN(cfg.Text.VocabSize - 1))
			if i%cfg.Text.ContextLength == cfg.Text.ContextLength-1 {
				b.tokens[i] = int32(cfg.Text.VocabSize - 1)
			}
		}
		list = append(list, b)
	}
	return list
}

// trainSteps takes the steps of batches with a machine, on the rows that are its own.
func trainSteps(m *machine, batches []hostBatch, own rowRange, weights func(p arch.Param) ([]float32, error)) (*trained, error) {
	if err := m.start(weights); err != nil {
		return nil, err
	}
	out := &trained{params: map[string][]float32{}}
	for s, b := range batches {
		part := hostBatch{floats: rowsOf(b.floats, own, m.recipe.Batch), tokens: rowsOf(b.tokens, own, m.recipe.Batch)}
		a, err := m.step(context.Background(), &part, m.recipe.rates(int64(s)))
		if err != nil {
			return nil, err
		}
		v, err := a.Float32s()
		if err != nil {
			return nil, err
		}
		out.metrics = append(out.metrics, v)
	}
	for i, p := range m.params {
		v, err := m.state.params[i].Float32s()
		if err != nil {
			return nil, err
		}
		out.params[p.Name] = v
	}
	return out, nil
}

// ranksTrain trains on ranks of goroutines; all of them must end alike.
func ranksTrain(t *testing.T, r *Recipe, ranks int, open func() *device.Device, limit int, batches []hostBatch, weights func(p arch.Param) ([]float32, error)) *trained {
	t.Helper()
	all, errs := make([]*trained, ranks), make([]error, ranks)
	var wg sync.WaitGroup
	for i, c := range comm.Memory(ranks) {
		dev := open()
		wg.Go(func() {
			m, err := newRemote(dev, r, false, false, c, limit)
			if err == nil {
				defer m.close()
				all[i], err = trainSteps(m, batches, r.ownRows(i, ranks), weights)
			}
			if errs[i] = err; err != nil {
				c.Abort(1)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if d := all[i].far(all[0]); d != "" {
			t.Errorf("rank %d and rank 0 part: %s", i, d)
		}
	}
	return all[0]
}

// far says where two trainings differ in any bit.
func (a *trained) far(b *trained) string {
	for s := range a.metrics {
		for i, x := range a.metrics[s] {
			if math.Float32bits(x) != math.Float32bits(b.metrics[s][i]) {
				return fmt.Sprintf("metric %d of step %d: %v, %v", i, s, x, b.metrics[s][i])
			}
		}
	}
	for name, v := range a.params {
		if !slices.Equal(v, b.params[name]) {
			return name
		}
	}
	return ""
}

// TestRanksAsOne: a job of several processes trains like one process, up to rounding,
// whatever the number of processes and devices; the same job run twice gives the
// same bits.
func TestRanksAsOne(t *testing.T) {
	const steps = 10
	for name, c := range map[string]struct {
		sets []string
		bad  int // step with pictures that overflow
	}{
		"lamb":           {[]string{"optimizer={name: lamb}"}, -1},
		"lamb-deepspeed": {[]string{"optimizer={name: lamb-deepspeed}", "patch_dropout=0", "drop_path=0"}, -1},
		"adamw":          {[]string{"optimizer={name: adamw, clip_grad_norm: 0.5}"}, -1},
		"fp16":           {[]string{"optimizer={name: lamb}", "precision=fp16"}, 4},
		"parts":          {[]string{"optimizer={name: lamb}", "micro_batch=1"}, -1},
		"residuals":      {[]string{"optimizer={name: adamw}", "micro_batch=1", "accumulation=residuals"}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			r := tiny(t, append(c.sets, "layer_decay=0.8", "lr=1e-4", "model.text_cfg.vocab_size=64")...)
			cfg, err := r.config()
			if err != nil {
				t.Fatal(err)
			}
			weights := func(p arch.Param) ([]float32, error) { return checkpoint.RandomTensor(cfg, p, 5), nil }
			batches := batchesOf(r, cfg, steps, c.bad)
			alone := func(dev *device.Device) *trained {
				one, err := newMachine(dev, r, false, false)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(one.close)
				out, err := trainSteps(one, batches, rowRange{0, r.Batch}, weights)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			near := func(what string, got, want *trained) {
				t.Helper()
				var loss, param float64
				var worst string
				for s := range want.metrics {
					a, b := got.metrics[s], want.metrics[s]
					if b[metricFinite] == 1 {
						loss = max(loss, math.Abs(float64(a[metricLoss]-b[metricLoss]))/max(1, float64(b[metricLoss])))
					}
					for _, i := range []int{metricFinite, metricSkipped, metricLossScale} {
						if a[i] != b[i] {
							t.Errorf("%s: metric %d of step %d: %v, not %v", what, i, s, a[i], b[i])
						}
					}
					if x, y := float64(a[metricGradNorm]), float64(b[metricGradNorm]); b[metricFinite] == 1 && math.Abs(x-y) > 1e-5*y {
						t.Errorf("%s: gradient norm of step %d: %v, not %v", what, s, x, y)
					}
				}
				for name, v := range want.params {
					for i, x := range v {
						if strings.HasSuffix(name, "in_proj_bias") && i*3/len(v) == 1 {
							continue // of keys: its gradient is zero but for rounding, which Adam makes large
						}
						if d := math.Abs(float64(got.params[name][i] - x)); d > param {
							param, worst = d, name
						}
					}
				}
				t.Logf("%s: loss within %.2g, parameters within %.2g (%s)", what, loss, param, worst)
				if loss > 1e-6 || param > 3e-7 {
					t.Errorf("%s: too far from one process", what)
				}
			}
			for _, devices := range []int{1, 2} {
				if devices == 2 && !*fullFlag {
					continue // compiling takes half a minute
				}
				want := alone(onDevice(t, devices-1))
				if skipped := want.metrics[steps-1][metricSkipped]; (skipped > 0) != (c.bad >= 0) {
					t.Fatalf("%v steps overflow", skipped)
				}
				for _, ranks := range []int{1, 2, 4} {
					open := func() *device.Device {
						o := device.Options{Backend: "go"}
						if devices > 1 {
							o = device.Options{Backend: "xla", DeviceCount: devices, CompileCache: "off"}
						}
						d := devicetest.Open(t, o)
						return d
					}
					what := fmt.Sprintf("%d processes × %d devices", ranks, devices)
					limit := 8000 // several buckets, and tensors in several
					if devices > 1 {
						limit = 1 << 20 // fewer programs to compile
					}
					got := ranksTrain(t, r, ranks, open, limit, batches, weights)
					near(what, got, want)
					if ranks == 2 && devices == 1 {
						if d := ranksTrain(t, r, ranks, open, limit, batches, weights).far(got); d != "" {
							t.Errorf("%s, again: %s", what, d)
						}
					}
				}
			}
		})
	}
}

// TestDecisionsOnTheHost: the loss scale and the clipping of a job's steps are
// those of the graph of one process.
func TestDecisionsOnTheHost(t *testing.T) {
	dev := onDevice(t, 0)
	rule := lossScaleRule{window: 3, hysteresis: 2, min: 1}
	prog := dev.Program("decisions", func(in []*Node) []*Node {
		finite := GreaterThan(in[0], ZerosLike(in[0]))
		scale, clean, left := rule.next(finite, in[1], in[2], in[3])
		return []*Node{scale, clean, left, clipFactor(in[1], 5, true), clipFactor(in[1], 0, false), clipFactor(in[1], 1e5, false)}
	})
	scale, clean, left := float32(16), int32(0), int32(2)
	g := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		finite := g.IntN(3) > 0
		var args []*device.Array
		for _, v := range []any{float32(0), scale, clean, left} {
			if v == any(float32(0)) && finite {
				v = float32(1)
			}
			x, err := tensors.FromAnyValue(v)
			if err != nil {
				t.Fatal(err)
			}
			a, err := dev.Put(device.Replicated, x)
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, a)
		}
		out, err := prog.Call(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		var want []any
		for _, a := range out {
			v, err := a.Fetch()
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, v.Value())
		}
		before := scale
		scale, clean, left = rule.after(finite, scale, clean, left)
		got := []any{scale, clean, left, clipBy(before, 5, true), clipBy(before, 0, false), clipBy(before, 1e5, false)}
		if !slices.Equal(got, want) {
			t.Fatalf("decision %d: %v, the graph says %v", i, got, want)
		}
	}
}

// TestShareRefused: what cannot be split evenly is refused before anything runs.
func TestShareRefused(t *testing.T) {
	for _, c := range []struct {
		sets           []string
		ranks, devices int
		want           string
	}{
		{nil, 3, 1, "batch 8 cannot be split over 3 processes of 1 devices each; make it a multiple of 3"},
		{nil, 4, 4, "multiple of 16"},
		{[]string{"data.0.read=stream", "lanes=2"}, 4, 1, "lanes 2 cannot be split over 4 processes"},
		{[]string{"micro_batch=3"}, 2, 1, "the 4 rows of each of 2 processes"},
	} {
		if _, _, err := tiny(t, c.sets...).shareOf(c.ranks, c.devices); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v over %d × %d: %v", c.sets, c.ranks, c.devices, err)
		}
	}
}
