package trainer

import (
	"context"
	"path/filepath"
	"time"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
)

// open prepares the run folder, the data and the state.
func (r *run) open(ctx context.Context, o Options, to *int64) (err error) {
	how := o.device()
	how.Log = r.log
	if r.dev, err = device.Open(ctx, how); err != nil {
		return err
	}
	if err := atomicfile.Folder(r.out, []string{finalFile, metricsFile, reportFile, badFile, runFile}, r.recipe.inputs()); err != nil {
		return err
	}
	made := false
	defer func() {
		if err != nil && made {
			r.vacate()
		}
	}()
	if err := r.alone(func() error { return r.takeFolder(&made) }); err != nil {
		return err
	}
	if r.job != nil {
		if err := r.job.sameFolder(r.out); err != nil {
			return err
		}
		r.job.startWatch(r.out, o.ExchangeTimeout)
	}
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
	if r.job != nil {
		w := r.job.watch
		r.saver.waiting = func(n int32) { w.full.Add(n) }
	}
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
		find := func() error {
			return r.findInit(ctx, hub.Options{Cache: o.ModelCache, Offline: o.Offline, ToRun: true, Log: r.log})
		}
		if err := r.inTurn(find); err != nil {
			return err
		}
	}
	r.bad = newBadSamples(filepath.Join(r.out, r.badList()), r.recipe.MaxBad, r.seen, r.log)
	if r.job != nil {
		r.bad.ranks = int64(r.job.Size())
	}
	reading := o.fakes.reading
	if from.state != nil {
		reading.gaps = from.state.Gaps
	}
	var source feed
	if err := r.inTurn(func() (err error) { source, err = r.openData(ctx, *to, reading); return err }); err != nil {
		return err
	}
	if err := r.checkEvaluations(ctx); err != nil {
		return err
	}
	if err := r.compareData(from); err != nil {
		return err
	}
	recipe := r.recipe.goOn(from.state)
	pixels := r.pairs != nil
	t, _ := source.(*tensorFeed)
	replay := t != nil && t.batches[0].keep != nil
	if r.job != nil {
		var list []alike
		list, err = r.identify(ctx, from)
		if err := r.together(err); err != nil {
			return err
		}
		if err := r.job.compare(list); err != nil {
			return err
		}
		r.machine, err = newRemote(r.dev, recipe, pixels, replay, r.job, bucketBytes)
	} else {
		r.machine, err = newMachine(r.dev, recipe, pixels, replay)
	}
	if err != nil {
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
	if err := r.openRecords(); err != nil {
		return err
	}
	if r.feed = source; t != nil {
		t.own = r.rows()
	}
	if r.pairs != nil {
		r.feed = startShare(context.WithoutCancel(ctx), r.pairs, r.seen, *to-r.step, r.workers, r.rows())
	}
	r.last = time.Now()
	r.log.Info("training", "from_step", r.step, "to_step", *to, "batch", r.recipe.Batch, "parts", r.machine.micros,
		"devices", r.dev.N(), "backend", r.dev.Info().Kind, "processes", r.processes(), "precision", r.recipe.Precision, "compute", r.machine.compute, "out", r.out)
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
		if err := fitsHost(r.recipe, cfg, r.rows()); err != nil {
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
	return &tensorFeed{replayed: t, at: r.step, batch: r.recipe.Batch, own: r.rows()}, nil
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
