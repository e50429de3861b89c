package trainer

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// Readiness is what Check found.
type Readiness struct {
	Problems []error // reasons for which Run would refuse to start; it returns the first
	// Unchecked lists what was not checked, and why: placeholders of a bundled
	// recipe, models that are not fetched yet.
	Unchecked []string
	Finished  bool   // an earlier process has finished the run, and Run has nothing to do
	From      string // the checkpoint that the run would resume from; "": none
	Step      int64  // of From
}

// Check makes the checks of a run's start in the order in which Run makes them,
// continues after an error, and takes no step. It leaves the run folder as it was,
// fetches nothing and opens no device unless Options.Backend names one.
// Options.Hosts may be the number of hosts of a planned job.
func Check(ctx context.Context, recipe *Recipe, o Options) Readiness {
	var ready Readiness
	found := func(err error) {
		if err != nil {
			fault.Public(ctx, &err)
			ready.Problems = append(ready.Problems, err)
		}
	}
	hosts := 1
	if n, err := strconv.Atoi(o.Hosts); err == nil && n > 0 {
		hosts, o.Hosts = n, "off"
	}
	if err := o.check(); err != nil {
		found(err)
		return ready
	}
	recipe, err := recipe.checked()
	if err != nil {
		found(err)
		return ready
	}
	r := newRun(recipe, o)
	r.dry, r.hosts = true, hosts
	defer r.close()
	n := max(1, o.DeviceCount)
	if o.Backend != "" && o.Backend != "auto" && hosts == 1 {
		if r.dev, err = device.Open(ctx, o.device()); err == nil {
			n = r.dev.N()
		}
		found(err)
	}
	found(r.folderFits())
	found(r.tryFolder())
	b := &beginning{from: &start{}, to: recipe.Steps}
	defer func() { b.init.close() }()
	for _, prepare := range r.preparations(ctx, o, b) {
		if found(prepare()); r.over {
			break
		}
	}
	ready.Unchecked, ready.Finished, ready.From, ready.Step = r.notSeen, r.over, b.from.path, r.step
	if !r.over {
		found(r.checkDevices(n, b))
		found(r.checkWeights(ctx, b))
	}
	return ready
}

// checkDevices refuses a batch that cannot be split over n devices on each host.
func (r *run) checkDevices(n int, b *beginning) error {
	cfg, err := r.recipe.config()
	if err != nil {
		return err
	}
	_, parts, err := r.recipe.parts(n)
	if r.hosts > 1 {
		_, parts, err = r.recipe.shareOf(r.hosts, n)
	}
	if err != nil {
		return err
	}
	t, _ := b.source.(*tensorFeed)
	return r.recipe.computable(cfg, n, parts, t.replays())
}

// checkWeights reads the weights that the run starts or resumes from.
func (r *run) checkWeights(ctx context.Context, b *beginning) error {
	cfg, err := r.recipe.config()
	if err != nil {
		return err
	}
	if b.from.state != nil {
		model, opt, err := (&machine{cfg: cfg}).openCheckpoint(b.from.path, b.from.state, 0, 1)
		if err != nil {
			return orOlder(b.from.path, err)
		}
		opt.close()
		return model.Close()
	}
	if b.init.source == nil {
		return nil
	}
	value := b.init.values(cfg, r.recipe.Seed)
	for _, p := range cfg.Params() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := value(p); err != nil {
			return err
		}
	}
	return nil
}

// newRun returns a run that has not started.
func newRun(recipe *Recipe, o Options) *run {
	r := &run{recipe: recipe, out: o.Out, workers: o.Workers, log: o.Log, shown: o.Progress, phase: o.Phase, started: time.Now(), saved: -1, openLines: openLines}
	if o.fakes.lines != nil {
		r.openLines = o.fakes.lines
	}
	if r.log == nil {
		r.log = runlog.Discard()
	}
	if r.phase == nil {
		r.phase = func(string) {}
	}
	if r.out == "" {
		r.out = filepath.Join("runs", r.started.Format("2006-01-02-150405"))
	}
	r.result = &Result{Out: r.out, Evals: []Eval{}}
	return r
}

// unchecked notes something that was not checked.
func (r *run) unchecked(key, format string, args ...any) {
	r.notSeen = append(r.notSeen, key+": "+fmt.Sprintf(format, args...))
}

// placeholders reports whether the recipe is a paper's bundled recipe with the value
// of a key unchanged: a placeholder for what users must supply.
func (r *Recipe) placeholders(key string) bool {
	if r.bundled == "" || strings.HasPrefix(r.bundled, "emoji-") {
		return false
	}
	text, _ := bundled(r.bundled)
	plain, err := ParseRecipe(r.bundled, text)
	if err != nil {
		return false
	}
	if key == "init" {
		return reflect.DeepEqual(plain.Init, r.Init)
	}
	return reflect.DeepEqual(plain.Data, r.Data)
}
