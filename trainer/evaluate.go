package trainer

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// evalBatch is the number of images or prompts of one call.
const evalBatch = 64

// evalMaxBad is how many images may fail to decode: a few do not end a run.
const evalMaxBad = 50

// encoder is the model in training as package eval wants it: the two towers
// over the parameters where they lie.
type encoder struct {
	m           *machine
	rows        int
	image, text *device.Program
}

func newEncoder(m *machine) *encoder {
	e := &encoder{m: m, rows: (evalBatch + m.dev.N() - 1) / m.dev.N() * m.dev.N()}
	tower := func(name string, f func(cfg *arch.Config, w clip.Weights, x *Node, o clip.Options) *Node) *device.Program {
		return m.dev.Program(name, func(in []*Node) []*Node {
			w := clip.Weights{}
			for i, p := range slices.Concat(m.params, m.frozen) {
				w[p.Name] = in[1+i]
			}
			return []*Node{f(m.cfg, w, in[0], clip.Options{DType: m.compute})}
		}, device.In(device.SplitRows, device.Replicated), device.Out(device.Replicated))
	}
	e.image, e.text = tower("eval-image", clip.Image), tower("eval-text", clip.Text)
	return e
}

// Config is the architecture.
func (e *encoder) Config() *arch.Config { return e.m.cfg }

// Images are the features of n images [n, 3, S, S].
func (e *encoder) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	s := e.m.cfg.Vision.ImageSize
	x, err := e.m.dev.Put(device.SplitRows, rowsTensor(flat, 0, n, e.rows, 3, s, s))
	if err != nil {
		return nil, err
	}
	return e.features(ctx, e.image, x, n)
}

// Texts are the features of n token rows [n, context].
func (e *encoder) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	x, err := e.m.dev.Put(device.SplitRows, rowsTensor(tokens, 0, n, e.rows, e.m.cfg.Text.ContextLength))
	if err != nil {
		return nil, err
	}
	return e.features(ctx, e.text, x, n)
}

func (e *encoder) features(ctx context.Context, p *device.Program, x *device.Array, n int) ([]float32, error) {
	defer x.Free()
	args := slices.Concat([]*device.Array{x}, e.m.state.params, e.m.buffers)
	out, err := p.Call(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer out[0].Free()
	v, err := out[0].Float32s()
	if err != nil {
		return nil, err
	}
	return v[:n*e.m.cfg.EmbedDim], nil
}

// evaluate scores the model on what is due at the step it has reached, unless
// an earlier process of the run already did.
func (r *run) evaluate(ctx context.Context) error {
	for i, e := range r.recipe.Eval {
		due := r.step == r.recipe.Steps || e.EverySteps > 0 && r.step > 0 && r.step%e.EverySteps == 0
		done := slices.ContainsFunc(r.result.Evals, func(d Eval) bool { return d.Step == r.step && d.Benchmark == e.name(i, r.recipe) })
		if !due || done {
			continue
		}
		if err := r.score(ctx, e, e.name(i, r.recipe)); err != nil {
			return err
		}
	}
	return nil
}

// words reads the class names and templates that an evaluation names.
func (r *Recipe) words(e Evaluation) (folders, names, templates []string, err error) {
	if e.ClassNames != "" {
		if folders, names, err = eval.ClassNames(r.path(e.ClassNames)); err != nil {
			return nil, nil, nil, err
		}
	}
	if e.Templates != "" {
		templates, err = eval.Templates(r.path(e.Templates))
	}
	return folders, names, templates, err
}

// checkEvaluations finds a wrong name or path before the training begins, not
// hours later.
func (r *run) checkEvaluations(ctx context.Context) error {
	for i, e := range r.recipe.Eval {
		if _, ok := dataset.LookupBenchmark(e.Benchmark); !ok && e.Benchmark != "folder" {
			return fault.Usagef("eval.%d.benchmark: %q is unknown; evatool zeroshot list prints the known ones, folder is any labelled set", i, e.Benchmark)
		}
		if _, _, _, err := r.recipe.words(e); err != nil {
			return fmt.Errorf("eval.%d: %w", i, err)
		}
		path := r.recipe.path(e.Data)
		if filepath.Ext(path) == ".safetensors" {
			if err := fault.RegularFile(path, "ready images and labels"); err != nil {
				return fmt.Errorf("eval.%d: %w", i, err)
			}
			continue
		}
		d, err := dataset.Open(ctx, path, dataset.Options{})
		if err != nil {
			return fmt.Errorf("eval.%d: %w", i, err)
		}
		d.Close()
	}
	return nil
}

// name is the benchmark, numbered when the recipe has it more than once.
func (e Evaluation) name(i int, r *Recipe) string {
	for k, other := range r.Eval {
		if k != i && other.Benchmark == e.Benchmark {
			return fmt.Sprintf("%s-%d", e.Benchmark, i)
		}
	}
	return e.Benchmark
}

func (r *run) score(ctx context.Context, e Evaluation, name string) error {
	start := time.Now()
	o := eval.Options{
		Benchmark: e.Benchmark, Data: r.recipe.path(e.Data), Limit: e.Limit, Spread: true,
		Batch: evalBatch, Workers: r.workers, MaxBad: evalMaxBad, Log: r.log,
	}
	var err error
	if o.Folders, o.ClassNames, o.Templates, err = r.recipe.words(e); err != nil {
		return err
	}
	if r.encoder == nil {
		r.encoder = newEncoder(r.machine)
	}
	res, err := eval.ZeroShotWith(ctx, r.encoder, o)
	if err != nil {
		return fmt.Errorf("evaluation %s: %w", name, err)
	}
	row := Eval{Step: r.step, Benchmark: name, Top1: res.Top1, Top5: res.Top5, N: res.N, Seconds: time.Since(start).Seconds()}
	r.result.Evals = append(r.result.Evals, row)
	r.log.Info("evaluated", "step", r.step, "benchmark", name, "top1", row.Top1, "top5", row.Top5, "n", row.N)
	if err := r.write(row); err != nil {
		return err
	}
	r.scalars(r.step, map[string]float64{"eval/" + name + "/top1": row.Top1, "eval/" + name + "/top5": row.Top5})
	return nil
}
