package trainer

import (
	"context"
	"path/filepath"
	"time"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// beginning is what is known about a start before anything is on the device.
type beginning struct {
	from   *start
	to     int64   // the last step to take
	init   initial // of a run that starts from scratch
	source feed    // of ready tensors; nil: r.pairs
}

// preparations are the checks of a start that need neither a device nor the run
// folder, in order; they open what the run reads. Run stops at the first that
// fails, Check makes them all.
func (r *run) preparations(ctx context.Context, o Options, b *beginning) []func() error {
	return []func() error{
		func() error { return r.findStart(ctx, o, b) },
		func() error { return r.openSources(ctx, o, b) },
		func() error { return r.checkEvaluations(ctx) },
		func() error { return r.compareData(b.from) },
		func() error { return r.openInit(ctx, o, b) }, // which may fetch
	}
}

// open prepares the run folder, the data and the state.
func (r *run) open(ctx context.Context, o Options, b *beginning) (err error) {
	how := o.device()
	how.Log = r.log
	if r.dev, err = device.Open(ctx, how); err != nil {
		return err
	}
	if err := r.folderFits(); err != nil {
		return err
	}
	if err := r.alone(r.takeFolder); err != nil {
		return err
	}
	if r.job != nil {
		if err := r.job.sameFolder(r.out); err != nil {
			return err
		}
		r.job.startWatch(r.out, o.ExchangeTimeout)
	}
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
	defer func() { b.init.close() }()
	for _, prepare := range r.preparations(ctx, o, b) {
		if err := prepare(); err != nil {
			return err
		}
		if r.over {
			r.log.Info("the run is finished; its files stay as they are", "out", r.out, "steps", r.step)
			return nil
		}
	}
	if b.from.state != nil {
		r.saver.last.Store(&b.from.path)
	}
	recipe := r.recipe.goOn(b.from.state)
	pixels := r.pairs != nil
	t, _ := b.source.(*tensorFeed)
	if r.job != nil {
		var list []alike
		list, err = r.identify(ctx, b.from)
		if err := r.together(err); err != nil {
			return err
		}
		if err := r.job.compare(list); err != nil {
			return err
		}
		r.machine, err = newRemote(r.dev, recipe, pixels, t.replays(), r.job, bucketBytes)
	} else {
		r.machine, err = newMachine(r.dev, recipe, pixels, t.replays())
	}
	if err != nil {
		return err
	}
	if r.leads() {
		r.machine.warn(r.log)
	}
	r.machine.plan.log(r.log, r.recipe.Batch, r.machine.blockLoss().tile)
	r.machine.fused = func(n int) { r.log.Info("step compiled", "fused_attention_ops", n) }
	if b.from.state != nil {
		err = orOlder(b.from.path, r.machine.restore(b.from.path, b.from.state))
		if err == nil && b.from.fork.of(b.from.state) {
			err = r.machine.rescale()
		}
	} else {
		err = r.machine.start(b.init.values(r.machine.cfg, r.recipe.Seed))
	}
	if err != nil {
		return err
	}
	if err := r.openRecords(); err != nil {
		return err
	}
	if r.feed = b.source; t != nil {
		t.own = r.rows()
	}
	if r.pairs != nil {
		r.feed = startShare(context.WithoutCancel(ctx), r.pairs, r.seen, b.to-r.step, r.workers, r.rows())
	}
	r.last = time.Now()
	r.log.Info("training", "from_step", r.step, "to_step", b.to, "batch", r.recipe.Batch, "parts", r.machine.micros,
		"devices", r.dev.N(), "backend", r.dev.Info().Kind, "processes", r.processes(), "precision", r.recipe.Precision, "compute", r.machine.compute, "out", r.out)
	return nil
}

// folderFits refuses a run folder whose files would overwrite what the run reads.
func (r *run) folderFits() error {
	return atomicfile.Folder(r.out, []string{finalFile, metricsFile, reportFile, badFile, runFile}, r.recipe.inputs())
}

// findStart finds out where the run starts, and takes over what its checkpoint says.
func (r *run) findStart(ctx context.Context, o Options, b *beginning) error {
	from, err := r.resumeFrom(o.Resume)
	if err != nil {
		return err
	}
	b.from, r.fork = from, from.fork
	if from.recipe != nil {
		r.recipe = r.recipe.adopt(from.recipe)
	}
	r.recipe = r.recipe.settleReading(ctx)
	if state := from.state; state != nil {
		r.recipe = r.recipe.complete(state)
		if err := r.compare(from); err != nil {
			return err
		}
		if state.Step > r.recipe.Steps {
			return fault.Inputf("%s: at step %d, past the end of a run of %d steps; resume from an older checkpoint with Options.Resume", filepath.Join(from.path, stateFile), state.Step, r.recipe.Steps)
		}
		r.first, r.step, r.saved, r.seen = state.Step, state.Step, state.Step, state.Samples
		r.over = r.finished(from)
	}
	if b.to = r.recipe.Steps; o.StopAfter > 0 {
		b.to = min(b.to, r.step+o.StopAfter)
	}
	return nil
}

// openSources opens the data, except placeholders in a run that is only checked.
func (r *run) openSources(ctx context.Context, o Options, b *beginning) error {
	if r.dry && r.recipe.placeholders("data") {
		r.unchecked("data", "placeholders of %s; set data.0.source to your own data", r.recipe.bundled)
		return nil
	}
	if b.from.state == nil { // a run that has begun with them goes on
		if err := r.recipe.noEffect(ctx); err != nil {
			return err
		}
	}
	list := filepath.Join(r.out, r.badList())
	if r.dry {
		list = ""
	}
	r.bad = newBadSamples(list, r.recipe.MaxBad, r.seen, r.log)
	if r.job != nil {
		r.bad.shared, r.bad.lists = true, filepath.Join(r.out, badFiles)
	}
	reading := o.fakes.reading
	if b.from.state != nil {
		if r.leads() {
			r.bad.old, r.bad.before = b.from.state.Bad, b.from.state.Bad
		}
		reading.gaps = b.from.state.Gaps
	}
	return r.inTurn(func() (err error) { b.source, err = r.openData(ctx, b.to, reading); return err })
}

// openData opens the sources; it returns a feed only for a tensors source.
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
		return nil, fault.Inputf("%s: holds %d batches, but the run needs %d; lower steps, or give Options.StopAfter %d", path, t.steps, to, t.steps)
	}
	r.data = []string{t.fingerprint}
	return &tensorFeed{replayed: t, at: r.step, batch: r.recipe.Batch, own: r.rows()}, nil
}

// inputs are the files and folders on this machine that the recipe reads.
func (r *Recipe) inputs() (list []string) {
	for _, p := range []string{r.Init.Model, r.Init.Vision, r.Init.Text} {
		list = append(list, r.path(p))
		if p != "" { // the folder of a run
			list = append(list, filepath.Join(r.path(p), finalFile))
		}
	}
	for _, d := range r.Data {
		list = append(append(list, dataset.Local(r.path(d.Source))...), r.path(d.Tensors))
	}
	for _, e := range r.Eval {
		list = append(append(list, dataset.Local(r.path(e.Data))...), r.path(e.ClassNames), r.path(e.Templates))
	}
	return list
}
