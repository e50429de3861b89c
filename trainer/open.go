package trainer

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// open prepares the run folder, the data and the state.
func (r *run) open(ctx context.Context, o Options, to *int64) (err error) {
	if r.dev, err = device.Open(ctx, o.device()); err != nil {
		return err
	}
	if err := atomicfile.Folder(r.out, []string{finalFile, metricsFile, reportFile, badFile, runFile}, r.recipe.inputs()); err != nil {
		return err
	}
	_, missing := os.Stat(r.out)
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return fault.Envf("%s: cannot be a run folder: %w; give another Options.Out", r.out, err)
	}
	r.lock = flock.New(filepath.Join(r.out, lockFile))
	if ok, err := r.lock.TryLock(); err != nil {
		return fault.Envf("%s: cannot be a run folder: %w; give another Options.Out", r.out, err)
	} else if !ok {
		return fault.Envf("%s: another evatool train works in this folder; wait for it, or use another Options.Out", r.out)
	}
	defer func() {
		if err != nil && missing != nil {
			r.vacate()
		}
	}()
	r.sweep()
	from, err := r.resumeFrom(o.Resume)
	if err != nil {
		return err
	}
	r.saver = newSaver(r.out, r.recipe.Checkpoint.Keep, r.log)
	if o.fakes.create != nil {
		r.saver.open = o.fakes.create
	}
	if o.fakes.retry > 0 {
		r.saver.retry = o.fakes.retry
	}
	var state *savedState
	if from != "" {
		if state, err = readState(from); err != nil {
			return err
		}
		if state.Recipe != r.recipe.identity() {
			return r.otherRecipe(from)
		}
		if state.Step > r.recipe.Steps {
			return fault.Inputf("%s: step %d of a run of %d steps; name an older checkpoint with Options.Resume", filepath.Join(from, stateFile), state.Step, r.recipe.Steps)
		}
		r.first, r.step, r.saved = state.Step, state.Step, state.Step
		r.saver.last.Store(&from)
	}
	if o.StopAfter > 0 {
		*to = min(*to, r.step+o.StopAfter)
	}
	r.bad = newBadSamples(filepath.Join(r.out, badFile), r.recipe.MaxBad, r.step*int64(r.recipe.Batch), r.log)
	source, err := r.openData(ctx, *to, o.fakes.reading)
	if err != nil {
		return err
	}
	if err := r.checkEvaluations(ctx); err != nil {
		return err
	}
	if state != nil && !slices.Equal(state.Data, r.position().Data) {
		return fault.Inputf("%s: the data are not those that %s was trained on (names or sizes differ); bring them back, or start anew in another Options.Out", r.out, from)
	}
	pixels := r.pairs != nil
	t, _ := source.(*tensorFeed)
	if r.machine, err = newMachine(r.dev, r.recipe, pixels, t != nil && t.batches[0].keep != nil); err != nil {
		return err
	}
	r.machine.fused = func(n int) { r.log.Info("step compiled", "fused_attention_ops", n) }
	if state != nil {
		err = r.machine.restore(from, state)
	} else {
		err = r.startWeights(ctx)
	}
	if err != nil {
		return err
	}
	if err := r.openLogs(); err != nil {
		return err
	}
	r.feed = source
	if r.pairs != nil {
		r.feed = startPipeline(context.WithoutCancel(ctx), r.pairs, r.step, *to, r.workers)
	}
	r.last = time.Now()
	r.log.Info("training", "from_step", r.step, "to_step", *to, "batch", r.recipe.Batch, "parts", r.machine.micros,
		"devices", r.dev.N(), "backend", r.dev.Info().Kind, "precision", r.recipe.Precision, "compute", r.machine.compute, "out", r.out)
	return nil
}

// openData opens the sources; the feed of a tensors source is ready at once.
func (r *run) openData(ctx context.Context, to int64, how reading) (feed, error) {
	cfg, err := r.recipe.config()
	if err != nil {
		return nil, err
	}
	path := r.recipe.Data[0].Tensors
	if path == "" {
		if err := fitsHost(r.recipe, cfg); err != nil {
			return nil, err
		}
		r.pairs, err = openPairs(ctx, r.recipe, cfg, r.bad, how)
		if err != nil {
			return nil, err
		}
		r.log.Info("data", "sources", r.pairs.describe())
		return nil, nil
	}
	t, err := openTensors(r.recipe.path(path), r.recipe, cfg)
	if err != nil {
		return nil, err
	}
	if t.steps < to {
		return nil, fault.Inputf("%s: holds %d batches, the run needs %d; set steps, or use Options.StopAfter %d", path, t.steps, to, t.steps)
	}
	return &tensorFeed{replayed: t, at: r.step}, nil
}

// resumeFrom is the checkpoint to go on from, empty for a fresh start.
func (r *run) resumeFrom(resume string) (string, error) {
	list, err := listCheckpoints(r.out)
	if err != nil {
		return "", err
	}
	switch resume {
	case "", "auto":
		if len(list) == 0 {
			there, err := readRecipe(filepath.Join(r.out, recipeFile))
			st, none := os.Stat(filepath.Join(r.out, metricsFile))
			if err == nil && none == nil && st.Size() > 0 && there.identity() != r.recipe.identity() {
				return "", r.otherRecipe(r.out)
			}
			return "", nil
		}
		return list[len(list)-1].path, nil
	case "never":
		if len(list) > 0 {
			return "", fault.Usagef("%s: holds a run up to step %d, which a fresh start would overwrite; use another Options.Out", r.out, list[len(list)-1].step)
		}
		return "", nil
	}
	if !exists(filepath.Join(resume, stateFile)) {
		return "", fault.Inputf("%s: no checkpoint; give auto, never, or a folder such as RUN/%s/step-1000", resume, checkpointDir)
	}
	return resume, nil
}

// inputs are the files and folders of this machine that the recipe reads.
func (r *Recipe) inputs() (list []string) {
	for _, p := range []string{r.Init.Model, r.Init.Vision, r.Init.Text} {
		list = append(list, r.path(p))
	}
	for _, d := range r.Data {
		list = append(append(list, dataset.Local(r.path(d.Source))...), r.path(d.Tensors))
	}
	for _, e := range r.Eval {
		list = append(append(list, dataset.Local(r.path(e.Data))...), r.path(e.ClassNames), r.path(e.Templates))
	}
	return list
}
