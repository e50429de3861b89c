package trainer

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
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
	r.fork = from.fork
	if from.recipe != nil {
		r.recipe = r.recipe.adopt(from.recipe)
	}
	r.recipe = r.recipe.settleReading(ctx)
	r.saver = newSaver(r.out, r.recipe.Checkpoint.Keep, r.log)
	if o.fakes.create != nil {
		r.saver.open = o.fakes.create
	}
	if o.fakes.retry > 0 {
		r.saver.retry = o.fakes.retry
	}
	if state := from.state; state != nil {
		r.recipe = r.recipe.complete(state)
		*to = r.recipe.Steps
		if err := r.compare(from); err != nil {
			return err
		}
		if state.Step > r.recipe.Steps {
			return fault.Inputf("%s: step %d of a run of %d steps; name an older checkpoint with Options.Resume", filepath.Join(from.path, stateFile), state.Step, r.recipe.Steps)
		}
		r.first, r.step, r.saved, r.seen = state.Step, state.Step, state.Step, state.Samples
		r.saver.last.Store(&from.path)
		if r.over = r.finished(from); r.over {
			r.log.Info("the run is finished; its files stay as they are", "out", r.out, "steps", state.Step)
			return nil
		}
	}
	if o.StopAfter > 0 {
		*to = min(*to, r.step+o.StopAfter)
	}
	if from.state == nil {
		if err := r.findInit(ctx, hub.Options{Cache: o.ModelCache, Offline: o.Offline, ToRun: true, Log: r.log}); err != nil {
			return err
		}
	}
	r.bad = newBadSamples(filepath.Join(r.out, badFile), r.recipe.MaxBad, r.seen, r.log)
	how := o.fakes.reading
	if from.state != nil {
		how.gaps = from.state.Gaps
	}
	source, err := r.openData(ctx, *to, how)
	if err != nil {
		return err
	}
	if err := r.checkEvaluations(ctx); err != nil {
		return err
	}
	if err := r.compareData(from); err != nil {
		return err
	}
	pixels := r.pairs != nil
	t, _ := source.(*tensorFeed)
	if r.machine, err = newMachine(r.dev, r.recipe, pixels, t != nil && t.batches[0].keep != nil); err != nil {
		return err
	}
	r.machine.plan.log(r.log, r.recipe.Batch, r.machine.blockLoss().tile)
	r.machine.fused = func(n int) { r.log.Info("step compiled", "fused_attention_ops", n) }
	if from.state != nil {
		err = r.machine.restore(from.path, from.state)
		if err == nil && from.fork.of(from.state) {
			err = r.machine.rescale()
		}
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
		r.feed = startPipeline(context.WithoutCancel(ctx), r.pairs, r.seen, *to-r.step, r.workers)
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
		if err := r.pairs.fillABatch(); err != nil {
			return nil, err
		}
		r.data = r.pairs.fingerprint()
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
	r.data = []string{t.fingerprint}
	return &tensorFeed{replayed: t, at: r.step}, nil
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
