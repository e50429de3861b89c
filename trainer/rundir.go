package trainer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/atomicfile"
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
	badFiles    = "bad_samples*.jsonl" // of the processes of a job
	lockFile    = ".lock"
)

// takeFolder creates the run folder, locks it and removes what a killed process
// left.
func (r *run) takeFolder() error {
	if err := r.claim(); err != nil {
		return err
	}
	r.sweep()
	if r.job != nil {
		pulses := filepath.Join(r.out, pulseDir)
		if err := os.Mkdir(pulses, 0o755); err != nil {
			return fault.File(r.out, "a run folder", err)
		}
		r.made = append([]string{pulses}, r.made...)
	}
	return nil
}

// claim creates the run folder, locks it and tries to write into it.
func (r *run) claim() error {
	for dir := filepath.Clean(r.out); !exists(dir) && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		r.made = append(r.made, dir)
	}
	unfit := func(err error) error {
		r.leaveFolder()
		return fault.Envf("%s: cannot be used as a run folder: %w; give another Options.Out", r.out, err)
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return unfit(err)
	}
	lock := flock.New(filepath.Join(r.out, lockFile))
	if !exists(lock.Path()) {
		r.made = append([]string{lock.Path()}, r.made...)
	}
	if ok, err := lock.TryLock(); err != nil {
		return unfit(err)
	} else if !ok {
		r.made = nil // the other process needs them
		return fault.Envf("%s: another evatool train is using this folder; wait for it, or use another Options.Out", r.out)
	}
	r.lock = lock
	probe := filepath.Join(r.out, temporary+"probe")
	if err := os.WriteFile(probe, nil, 0o644); err != nil {
		return unfit(err)
	}
	return os.Remove(probe)
}

// leaveFolder unlocks the run folder. What was created for a run that did not start
// is removed; a folder that is not empty stays.
func (r *run) leaveFolder() {
	for _, path := range r.made {
		if filepath.Base(path) == pulseDir {
			os.RemoveAll(path) // another process may be about to take its own file away
			continue
		}
		os.Remove(path)
	}
	if r.made = nil; r.lock != nil {
		_ = r.lock.Unlock()
		r.lock = nil
	}
}

// tryFolder finds out whether the run could use its folder, and leaves everything
// as it was.
func (r *run) tryFolder() error {
	defer r.leaveFolder()
	return r.claim()
}

// badList is the file of the samples that this process could not use.
func (r *run) badList() string {
	if r.leads() {
		return badFile
	}
	return strings.TrimSuffix(badFile, ".jsonl") + fmt.Sprintf("-rank-%d.jsonl", r.job.Rank())
}

// processes is the number of processes that train together.
func (r *run) processes() int {
	if r.job == nil {
		return 1
	}
	return r.job.Size()
}

// openRecords is openLogs on rank 0; the others have no files, but learn which
// evaluations are done.
func (r *run) openRecords() error {
	if !r.leads() {
		r.metrics = noLines{}
	}
	if err := r.alone(r.openLogs); err != nil || r.job == nil {
		return err
	}
	return r.job.share(&r.result.Evals)
}

// noLines discards JSON lines.
type noLines struct{}

func (noLines) Write(any) error { return nil }
func (noLines) Sync() error     { return nil }
func (noLines) Close() error    { return nil }

// sweep removes what a killed process of the run left half written; atomicfile
// cleans up its own files.
func (r *run) sweep() {
	for _, dir := range []string{r.out, filepath.Join(r.out, checkpointDir)} {
		entries, _ := os.ReadDir(dir) // opening it will report what is wrong
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), temporary) {
				os.RemoveAll(filepath.Join(dir, e.Name()))
			}
		}
	}
}

// openLogs writes the recipe and the run's record, and opens its logs at the
// current step.
func (r *run) openLogs() (err error) {
	if err := atomicfile.WriteFile(filepath.Join(r.out, recipeFile), r.recipe.YAML()); err != nil {
		return fault.As(fault.Environment, err)
	}
	keep := r.step
	if r.step == 0 {
		keep = -1
	}
	path := filepath.Join(r.out, metricsFile)
	if r.metrics, err = r.openLines(path, keep); err != nil {
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
func (r *run) readCurve(path string) (err error) {
	if r.result.Curve, r.result.Evals, err = readMetrics(path); err != nil {
		return err
	}
	for i := range r.result.Curve {
		r.result.Curve[i].Total = r.recipe.Steps
	}
	want := r.step
	if r.fork != nil {
		want -= r.fork.Step
	}
	if n := int64(len(r.result.Curve)); n != want {
		r.log.Warn("metrics.jsonl does not hold every step of the run so far; the model is not affected", "steps", r.step, "lines", n)
	}
	return nil
}

// readMetrics returns the steps and the evaluations of a metrics.jsonl.
func readMetrics(path string) (steps []Step, evals []Eval, err error) {
	if err := fault.RegularFile(path, "a run's metrics"); err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	evals = []Eval{}
	for line := range strings.Lines(string(text)) {
		var e Eval
		var s Step
		switch {
		case json.Unmarshal([]byte(line), &e) == nil && e.Benchmark != "":
			evals = append(evals, e)
		case json.Unmarshal([]byte(line), &s) == nil:
			steps = append(steps, s)
		}
	}
	return steps, evals, nil
}

// session is one process of a run, for run.json.
type session struct {
	Started  time.Time         `json:"started"`
	FromStep int64             `json:"from_step"`
	Backend  device.Info       `json:"backend"`
	Compute  string            `json:"compute,omitempty"`   // type of products; absent: float32
	Ranks    int               `json:"processes,omitempty"` // absent: one
	Versions map[string]string `json:"versions"`
}

// record is run.json: what a run is, its processes, and how it ended.
type record struct {
	Recipe   string    `json:"recipe_sha256"`
	Data     []string  `json:"data_fingerprints"`
	Params   int64     `json:"params"`
	Fork     *fork     `json:"forked_from,omitempty"`
	Sessions []session `json:"sessions"`
	Result   *Result   `json:"result,omitempty"` // nil while it runs
}

func readRecord(dir string) (f record, err error) {
	text, err := fault.ReadFile(filepath.Join(dir, runFile), "a run's record", 64<<20)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	return f, err
}

// finished reports whether an earlier process has finished the run, every
// evaluation included, and takes over what it recorded. from is where this process
// would resume.
func (r *run) finished(from *start) bool {
	f, err := readRecord(r.out)
	if err != nil || f.Recipe != r.recipe.identity() || f.Result == nil || f.Result.Steps != r.recipe.Steps || from.state.Step != r.recipe.Steps ||
		filepath.Dir(filepath.Dir(from.path)) != filepath.Clean(r.out) ||
		!exists(filepath.Join(r.out, finalFile)) || !exists(filepath.Join(r.out, reportFile)) {
		return false
	}
	steps, evals, err := readMetrics(filepath.Join(r.out, metricsFile))
	if err != nil || len(steps) == 0 || steps[len(steps)-1].Step != r.recipe.Steps {
		return false
	}
	before := r.result
	r.result = f.Result
	r.result.Out, r.result.Model, r.result.Checkpoint = r.out, filepath.Join(r.out, finalFile), from.path // the folder may have moved
	r.result.Curve, r.result.Evals = steps, evals
	if r.step = from.state.Step; len(r.evaluationsDue()) > 0 {
		r.result = before
		return false
	}
	return true
}

// on says what the process, or all those of a job, ran on.
func (s *session) on() string {
	text := fmt.Sprintf("%s × %d", s.Backend.Kind, s.Backend.Devices)
	if s.Compute != "" {
		text += " in " + s.Compute
	}
	if s.Ranks > 1 {
		text += fmt.Sprintf(", %d processes", s.Ranks)
	}
	return text
}

// writeRunFile records the processes of the run and what they read.
func (r *run) writeRunFile(done bool) error {
	var f record
	if r.first > 0 || done {
		f, _ = readRecord(r.out) // a damaged one is replaced
	}
	f.Result = nil
	f.Recipe, f.Data, f.Fork, f.Params = r.recipe.identity(), r.data, r.fork, r.machine.cfg.TotalParams()
	if done {
		f.Result = r.result
	} else {
		s := session{Started: r.started, FromStep: r.first, Backend: r.machine.dev.Info(), Versions: runlog.Versions()}
		if r.job != nil {
			s.Ranks = r.job.Size()
		}
		if dt := r.machine.compute; dt.IsHalfPrecision() { // as the recipe asks, but not every CPU does
			s.Compute = dt.String()
		}
		if n := len(f.Sessions); n > 0 && f.Sessions[n-1].on() != s.on() {
			r.log.Warn("the run continues on another backend, number of devices or processes, or in another type: the result stays correct, but its last bits differ",
				"before", f.Sessions[n-1].on(), "now", s.on())
		}
		f.Sessions = append(f.Sessions, s)
	}
	return atomicfile.WriteJSON(filepath.Join(r.out, runFile), f)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
