package trainer

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/weights"
)

// evalBatch is the number of images or prompts of one call.
const evalBatch = 64

// evalMaxBad is how many images may fail to decode: a few must not end a run.
const evalMaxBad = 50

// inTraining is the model being trained as package eval wants it: a runner over
// the parameters in place.
type inTraining struct{ *clip.Runner }

func newEncoder(m *machine) (eval.Encoder, error) {
	r, err := clip.NewRunner(m.dev, weights.Borrow(m.cfg, m.weights), clip.RunnerOptions{DType: m.recipe.Precision, Images: evalBatch, Texts: evalBatch})
	return inTraining{r}, err
}

func (e inTraining) Config() []byte { return e.Runner.Config().JSON() }

// weights are the current arrays of the parameters and frozen buffers, in the order
// of the architecture.
func (m *machine) weights() []*device.Array {
	var out []*device.Array
	trained, frozen := m.state.params, m.buffers
	for _, p := range m.cfg.Params() {
		from := &trained
		if p.Buffer {
			from = &frozen
		}
		out, *from = append(out, (*from)[0]), (*from)[1:]
	}
	return out
}

// evaluate makes the evaluations that are due at the current step.
func (r *run) evaluate(ctx context.Context) error {
	defer func() { r.last = time.Now() }() // not the next step's time
	for _, i := range r.evaluationsDue() {
		e := r.recipe.Eval[i]
		if err := r.score(ctx, e, e.name(i, r.recipe)); err != nil {
			return err
		}
	}
	return nil
}

// evaluationsDue are the indexes of the evaluations that are due at the current step
// and that no earlier process has made.
func (r *run) evaluationsDue() (list []int) {
	for i, e := range r.recipe.Eval {
		due := r.step == r.recipe.Steps || e.EverySteps > 0 && r.step > 0 && r.step%e.EverySteps == 0
		done := slices.ContainsFunc(r.result.Evals, func(d Eval) bool { return d.Step == r.step && d.Benchmark == e.name(i, r.recipe) })
		if due && !done {
			list = append(list, i)
		}
	}
	return list
}

// scoring says what an evaluation scores, with which class names and templates.
func (r *Recipe) scoring(e Evaluation) eval.Options {
	o := eval.Options{Benchmark: e.Benchmark, Data: r.path(e.Data)}
	if e.ClassNames != "" {
		o.ClassNamesFile = r.path(e.ClassNames)
	}
	if e.Templates != "" {
		o.TemplatesFile = r.path(e.Templates)
	}
	return o
}

// checkEvaluations finds a wrong name, path, list of words or label before the
// training starts, not hours later.
func (r *run) checkEvaluations(ctx context.Context) error {
	cfg, err := r.recipe.config()
	if err != nil {
		return err
	}
	for i, e := range r.recipe.Eval {
		if _, ok := dataset.LookupBenchmark(e.Benchmark); !ok && e.Benchmark != "folder" {
			return fault.Usagef("eval.%d.benchmark: unknown benchmark %q; evatool zeroshot list prints the names, and folder takes any labelled set", i, e.Benchmark)
		}
		if err := r.recipe.scoring(e).Ready(ctx, cfg.Vision.ImageSize); err != nil {
			return fault.Because(fault.Kind(fault.Code(err)), err, "eval.%d: %s", i, optionField.ReplaceAllStringFunc(err.Error(), inRecipe))
		}
	}
	return nil
}

// optionField is how other packages name a field. The key of one of package eval in a
// recipe is the field's name in lower case.
var optionField = regexp.MustCompile(`Options\.[A-Z]\w*`)

func inRecipe(field string) string { return strings.ToLower(strings.TrimPrefix(field, "Options.")) }

// name is the benchmark, numbered if the recipe has it more than once.
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
	r.phase("evaluating " + name)
	defer r.phase("")
	res, err := r.scoreShare(ctx, e, name, 0, 1)
	if err != nil {
		return err
	}
	return r.scored(ctx, Eval{Step: r.step, Benchmark: name, Top1: res.Top1, Top5: res.Top5, N: res.N, Classes: res.Data.Classes, Seconds: time.Since(start).Seconds()})
}

// scored records an evaluation.
func (r *run) scored(ctx context.Context, row Eval) error {
	r.result.Evals = append(r.result.Evals, row)
	r.log.Info("evaluated", "step", r.step, "benchmark", row.Benchmark, "top1", row.Top1, "top5", row.Top5, "n", row.N)
	if err := r.write(ctx, row); err != nil {
		return err
	}
	r.scalars(r.step, map[string]float64{"eval/" + row.Benchmark + "/top1": row.Top1, "eval/" + row.Benchmark + "/top5": row.Top5})
	return nil
}

// scoreShare scores part i of n of an evaluation.
func (r *run) scoreShare(ctx context.Context, e Evaluation, name string, i, n int) (*eval.Result, error) {
	o := r.recipe.scoring(e)
	o.Limit, o.Spread, o.Shard, o.Shards, o.MaxBad = e.Limit, true, i, n, evalMaxBad
	o.OpenOptions = eval.OpenOptions{Batch: evalBatch, Workers: r.workers, Log: r.log}
	if r.encoder == nil {
		var err error
		if r.encoder, err = newEncoder(r.machine); err != nil {
			return nil, err
		}
	}
	res, err := eval.ZeroShotWith(ctx, r.encoder, o)
	if err != nil {
		return nil, fmt.Errorf("evaluation %s: %w", name, err)
	}
	return res, nil
}
