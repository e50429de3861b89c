package trainer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// Files of the run folder.
const (
	recipeFile  = "recipe.yaml"
	runFile     = "run.json"
	metricsFile = "metrics.jsonl"
	finalFile   = "final.safetensors"
	reportFile  = "report.html"
	badFile     = "bad_samples.jsonl"
	configFile  = "config.json" // of the model, for the start
	lockFile    = ".lock"
)

// open prepares the run folder, the data and the state.
func (r *run) open(ctx context.Context, o Options, to *int64) (err error) {
	if r.dev, err = device.Open(ctx, o.device()); err != nil {
		return err
	}
	_, missing := os.Stat(r.out)
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return fault.Envf("%s: cannot be a run folder: %w; give another --out", r.out, err)
	}
	r.lock = flock.New(filepath.Join(r.out, lockFile))
	if ok, err := r.lock.TryLock(); err != nil {
		return fault.Envf("%s: cannot be a run folder: %w; give another --out", r.out, err)
	} else if !ok {
		return fault.Envf("%s: another evatool train works in this folder; wait for it, or use another --out", r.out)
	}
	defer func() {
		if err != nil && missing != nil {
			r.vacate()
		}
	}()
	from, err := r.resumeFrom(o.Resume)
	if err != nil {
		return err
	}
	r.saver = newSaver(r.out, r.recipe.Checkpoint.Keep, r.log)
	var state *savedState
	if from != "" {
		if state, err = readState(from); err != nil {
			return err
		}
		if state.Recipe != r.recipe.identity() {
			return r.otherRecipe(from)
		}
		r.first, r.step, r.saved = state.Step, state.Step, state.Step
		r.saver.last.Store(&from)
	}
	if o.StopAfter > 0 {
		*to = min(*to, r.step+o.StopAfter)
	}
	r.bad = newBadSamples(filepath.Join(r.out, badFile), r.recipe.MaxBad, r.step*int64(r.recipe.Batch))
	source, err := r.openData(ctx, *to)
	if err != nil {
		return err
	}
	if err := r.checkEvaluations(ctx); err != nil {
		return err
	}
	if state != nil && !slices.Equal(state.Data, r.position().Data) {
		return fault.Inputf("%s: the data are not those that %s was trained on (names or sizes differ); bring them back, or start anew in another --out", r.out, from)
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

// vacate removes the new folder of a run that has not begun.
func (r *run) vacate() {
	left, err := os.ReadDir(r.out)
	if err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() != lockFile && e.Name() != configFile }) {
		return
	}
	for _, e := range left {
		os.Remove(filepath.Join(r.out, e.Name()))
	}
	os.Remove(r.out)
}

// openData opens the sources; the feed of a tensors source is ready at once.
func (r *run) openData(ctx context.Context, to int64) (feed, error) {
	cfg, err := r.recipe.config()
	if err != nil {
		return nil, err
	}
	path := r.recipe.Data[0].Tensors
	if path == "" {
		if err := fitsHost(r.recipe, cfg); err != nil {
			return nil, err
		}
		r.pairs, err = openPairs(ctx, r.recipe, cfg, r.bad)
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
		return nil, fault.Inputf("%s: holds %d batches, the run needs %d; set steps, or use --stop-after %d", path, t.steps, to, t.steps)
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
			text, err := os.ReadFile(filepath.Join(r.out, recipeFile))
			st, none := os.Stat(filepath.Join(r.out, metricsFile))
			if err == nil && none == nil && st.Size() > 0 && identityOf(text) != r.recipe.identity() {
				return "", r.otherRecipe(r.out)
			}
			return "", nil
		}
		return list[len(list)-1].path, nil
	case "never":
		if len(list) > 0 {
			return "", fault.Usagef("%s: holds a run up to step %d, which a fresh start would overwrite; use another --out", r.out, list[len(list)-1].step)
		}
		return "", nil
	}
	if !exists(filepath.Join(resume, stateFile)) {
		return "", fault.Inputf("%s: no checkpoint; give auto, never, or a folder such as RUN/%s/step-1000", resume, checkpointDir)
	}
	return resume, nil
}

// openLogs writes what the run is and opens its records at the step it has.
func (r *run) openLogs() (err error) {
	if err := runlog.WriteFileAtomic(filepath.Join(r.out, recipeFile), r.recipe.YAML()); err != nil {
		return fault.As(fault.Environment, err)
	}
	keep := r.step
	if r.step == 0 {
		keep = -1
	}
	path := filepath.Join(r.out, metricsFile)
	if r.metrics, err = runlog.OpenMetrics(path, keep); err != nil {
		return fault.As(fault.Environment, err)
	}
	if err := r.readCurve(path); err != nil {
		return err
	}
	if r.events, err = runlog.OpenEvents(r.out); err != nil {
		return fault.As(fault.Environment, err)
	}
	return r.writeRunFile(false)
}

// readCurve takes over what earlier processes of the run wrote.
func (r *run) readCurve(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		var e Eval
		var s Step
		switch {
		case json.Unmarshal([]byte(line), &e) == nil && e.Benchmark != "":
			r.result.Evals = append(r.result.Evals, e)
		case json.Unmarshal([]byte(line), &s) == nil:
			s.Total = r.recipe.Steps
			r.result.Curve = append(r.result.Curve, s)
		}
	}
	if n := int64(len(r.result.Curve)); n != r.step {
		r.log.Warn("metrics.jsonl does not hold every step of the run so far; the model is not concerned", "steps", r.step, "lines", n)
	}
	return nil
}

// session is one process of a run, for run.json.
type session struct {
	Started  time.Time         `json:"started"`
	FromStep int64             `json:"from_step"`
	Backend  device.Info       `json:"backend"`
	Versions map[string]string `json:"versions"`
}

// writeRunFile records the processes of the run and what they read.
func (r *run) writeRunFile(done bool) error {
	path := filepath.Join(r.out, runFile)
	var f struct {
		Recipe   string    `json:"recipe_sha256"`
		Data     []string  `json:"data_fingerprints"`
		Params   int64     `json:"params"`
		Sessions []session `json:"sessions"`
		Result   *Result   `json:"result,omitempty"`
	}
	if text, err := os.ReadFile(path); err == nil && r.first > 0 || done {
		_ = json.Unmarshal(text, &f) // a damaged one is written anew
	}
	f.Recipe, f.Data, f.Params = r.recipe.identity(), r.position().Data, r.machine.cfg.TotalParams()
	if done {
		f.Result = r.result
	} else {
		info := r.machine.dev.Info()
		if n := len(f.Sessions); n > 0 && (f.Sessions[n-1].Backend.Kind != info.Kind || f.Sessions[n-1].Backend.Devices != info.Devices) {
			r.log.Warn("the run goes on on another backend or number of devices: the result stays right, its last bits do not",
				"before", fmt.Sprintf("%s × %d", f.Sessions[n-1].Backend.Kind, f.Sessions[n-1].Backend.Devices), "now", fmt.Sprintf("%s × %d", info.Kind, info.Devices))
		}
		f.Sessions = append(f.Sessions, session{r.started, r.first, info, runlog.Versions()})
	}
	return fault.As(fault.Environment, runlog.WriteJSONAtomic(path, f))
}

// identity is a hash over the keys that decide about the result.
func (r *Recipe) identity() string { return identityOf(r.YAML()) }

// free are the keys that a resumed run may change.
var freeKeys = []string{"checkpoint", "eval", "max_bad"}

func identityOf(text []byte) string {
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return ""
	}
	for _, k := range freeKeys {
		delete(tree, k)
	}
	b, err := json.Marshal(tree) // keys sorted
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// otherRecipe says which key differs from the run in the folder.
func (r *run) otherRecipe(from string) error {
	there := filepath.Join(r.out, recipeFile)
	text, err := os.ReadFile(there)
	var old, now map[string]any
	if err = errors.Join(err, yaml.Unmarshal(text, &old), yaml.Unmarshal(r.recipe.YAML(), &now)); err == nil {
		for _, k := range slices.Sorted(func(yield func(string) bool) {
			for k := range now {
				if !yield(k) {
					return
				}
			}
			for k := range old {
				if _, ok := now[k]; !ok && !yield(k) {
					return
				}
			}
		}) {
			if !slices.Contains(freeKeys, k) && !reflect.DeepEqual(old[k], now[k]) {
				return fault.Usagef("%s: holds a run of another recipe: %s is %v there and %v here; use another --out", r.out, k, old[k], now[k])
			}
		}
	}
	return fault.Usagef("%s: is a run of another recipe; use another --out", from)
}
