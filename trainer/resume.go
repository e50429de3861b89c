package trainer

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/yamlfile"
)

// start is where a run starts: at a checkpoint, or from scratch.
type start struct {
	path   string // of the checkpoint; empty: from scratch
	state  *savedState
	recipe *Recipe // of the checkpoint; nil if unknown
	fork   *fork   // nil if the run is not a fork
}

// fork says which run's checkpoint a run started from, and how it differs from
// that run; it is stored in run.json.
type fork struct {
	Path    string   `json:"path"` // of the checkpoint
	Step    int64    `json:"step"`
	Samples int64    `json:"samples"`
	Model   string   `json:"model_sha256"`  // of its model.safetensors
	Recipe  string   `json:"recipe_sha256"` // of the run before, as in its state.json
	Changed []change `json:"changed"`       // keys of the recipe
}

// of reports whether f started from that checkpoint, wherever it is now.
func (f *fork) of(s *savedState) bool {
	return f != nil && f.Step == s.Step && f.Model == s.modelHash()
}

// change is a key of the recipe whose value has changed.
type change struct {
	Key    string `json:"key"`
	Before any    `json:"before"`
	Now    any    `json:"now"`
}

func (c change) String() string {
	shown := func(v any) any {
		if v == nil {
			return "not set"
		}
		return v
	}
	return fmt.Sprintf("%s was %v and is now %v", c.Key, shown(c.Before), shown(c.Now))
}

// What a changed key affects in a resumed run.
type bearing int

const (
	decides   bearing = iota // the result: it is another run
	rounds                   // how it is computed: the same result up to the last bits
	relocates                // where the data is: the contents are compared
	past                     // the initial weights: the checkpoint has the current ones
)

func (c change) bearing() bearing {
	top, rest, _ := strings.Cut(c.Key, ".")
	_, last, _ := strings.Cut(rest, ".")
	switch {
	case slices.Contains([]string{"micro_batch", "accumulation", "grad_checkpointing", "zero_stage"}, top):
		return rounds
	case top == "init":
		return past
	case top == "data" && (last == "source" || last == "tensors") && c.Before != nil && c.Now != nil:
		return relocates
	}
	return decides
}

// changes are the keys in which two recipes differ, except the free ones and those
// that are compared elsewhere: samples follows from steps, and the model is
// compared with the checkpoint's.
func changes(before, now *Recipe) []change {
	a, b := map[string]any{}, map[string]any{}
	flatten(a, "", before.decisive())
	flatten(b, "", now.adopt(before).decisive())
	return slices.DeleteFunc(differences(a, b), func(c change) bool {
		top, _, _ := strings.Cut(c.Key, ".")
		return top == "samples" || top == "model"
	})
}

// differences are the keys whose values differ, sorted.
func differences(a, b map[string]any) (out []change) {
	for k, v := range b {
		if !reflect.DeepEqual(a[k], v) {
			out = append(out, change{k, a[k], v})
		}
	}
	for k, v := range a {
		if _, ok := b[k]; !ok {
			out = append(out, change{k, v, nil})
		}
	}
	slices.SortFunc(out, func(a, b change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// flatten puts the values of a tree under keys such as data.0.source.
func flatten(to map[string]any, at string, tree any) {
	switch t := tree.(type) {
	case map[string]any:
		for k, v := range t {
			flatten(to, strings.TrimPrefix(at+"."+k, "."), v)
		}
	case []any:
		for i, v := range t {
			flatten(to, at+"."+strconv.Itoa(i), v)
		}
	default:
		to[at] = tree
	}
}

// resumeFrom finds out where the run starts.
func (r *run) resumeFrom(resume string) (*start, error) {
	list, err := listCheckpoints(r.out)
	if err != nil {
		return nil, err
	}
	origin := readFork(r.out)
	switch resume {
	case "", "auto":
		switch {
		case len(list) > 0:
			return openStart(list[len(list)-1].path, origin)
		case origin != nil && exists(origin.Path):
			return openStart(origin.Path, origin)
		case origin != nil:
			return nil, fault.Inputf("%s: forked from %s, which is gone, and has no checkpoint of its own yet; restore that checkpoint, or use another Options.Out", r.out, origin.Path)
		}
		return &start{}, r.otherRun()
	case "never":
		if len(list) > 0 {
			return nil, fault.Usagef("%s: holds a run up to step %d, which a fresh start would overwrite; use another Options.Out", r.out, list[len(list)-1].step)
		}
		return &start{}, nil
	}
	if !exists(filepath.Join(resume, stateFile)) {
		return nil, fault.Inputf("Options.Resume %s: not a checkpoint; want auto, never, or a folder such as RUN/%s/step-1000", resume, checkpointDir)
	}
	s, err := openStart(resume, origin)
	if err != nil || sameFolder(filepath.Join(resume, "..", ".."), r.out) {
		return s, err
	}
	switch {
	case origin.of(s.state) && len(list) > 0: // the command that started the fork, run again
		return openStart(list[len(list)-1].path, origin)
	case origin.of(s.state):
		return s, nil
	case len(list) > 0 || r.begun():
		return nil, fault.Usagef("%s: already holds a run; a fork of %s needs a new Options.Out", r.out, resume)
	}
	path, err := filepath.Abs(resume)
	if err != nil {
		return nil, err
	}
	s.fork = &fork{Path: path, Step: s.state.Step, Samples: s.state.Samples, Model: s.state.modelHash(), Recipe: s.state.Recipe, Changed: []change{}}
	return s, nil
}

// openStart reads what a checkpoint says; origin is the run's fork record, or nil.
func openStart(path string, origin *fork) (*start, error) {
	state, err := readState(path)
	if err != nil {
		return nil, orOlder(path, err)
	}
	s := &start{path: path, state: state, fork: origin}
	// A checkpoint of an older evatool has its recipe in the run folder only.
	for _, dir := range []string{path, filepath.Join(path, "..", "..")} {
		if there, err := readRecipe(filepath.Join(dir, recipeFile)); err == nil && there.identity() == state.Recipe {
			s.recipe = there
			break
		}
	}
	return s, nil
}

// readFork returns the fork that a run folder records, nil if there is none.
func readFork(dir string) *fork {
	f, err := readRecord(dir)
	if err != nil {
		return nil
	}
	return f.Fork
}

// begun reports whether the run folder holds metrics of a run.
func (r *run) begun() bool {
	st, err := os.Stat(filepath.Join(r.out, metricsFile))
	return err == nil && st.Size() > 0
}

// otherRun refuses to start over in the folder of another run, even if that has no
// checkpoint yet.
func (r *run) otherRun() error {
	there, err := readRecipe(filepath.Join(r.out, recipeFile))
	if err != nil || !r.begun() {
		return nil
	}
	list := changes(there, r.recipe)
	if a, b := yamlfile.Tree(there)["model"], yamlfile.Tree(r.recipe)["model"]; !reflect.DeepEqual(a, b) {
		list = append(list, change{"model", a, b})
	}
	for _, c := range list {
		if c.bearing() == decides {
			return fault.Usagef("%s: holds a run of another recipe: %s; use another Options.Out", r.out, c)
		}
	}
	return nil
}

// compare compares the recipe with that of the checkpoint. A run that resumes in its
// folder must keep what determines the result; a fork records what it changes.
func (r *run) compare(s *start) error {
	if s.recipe == nil {
		if s.fork.of(s.state) {
			r.log.Warn("the checkpoint does not record its recipe, so what this run changes is not recorded either", "checkpoint", s.path)
			return nil
		}
		return fault.Usagef("%s: a checkpoint of another recipe; use another Options.Out", s.path)
	}
	list := changes(s.recipe, r.recipe)
	if s.fork.of(s.state) {
		s.fork.Changed = append([]change{}, list...)
		for _, c := range list {
			r.log.Info("the fork changes the recipe", "key", c.Key, "before", c.Before, "now", c.Now)
		}
		return nil
	}
	for _, c := range list {
		switch {
		case c.bearing() == decides, c.bearing() == relocates && strings.HasSuffix(c.Key, ".tensors") && s.state.Data == nil: // cannot be compared
			return fault.Usagef("%s: holds a run of another recipe: %s; to continue with the change, give Options.Resume %s and another Options.Out", r.out, c, s.path)
		case c.bearing() == rounds:
			r.log.Info("the recipe has changed: the result stays correct, but its last bits may differ", "key", c.Key, "before", c.Before, "now", c.Now)
		case c.bearing() == relocates:
			r.log.Info("the data has moved; its contents are compared", "key", c.Key, "before", c.Before, "now", c.Now)
		default:
			r.log.Info("the recipe has changed where a resumed run does not read it: the weights come from the checkpoint", "key", c.Key, "before", c.Before, "now", c.Now)
		}
	}
	return nil
}

// compareData refuses data that the checkpoint was not trained on, unless the run
// forks there.
func (r *run) compareData(s *start) error {
	if s.state == nil || s.fork.of(s.state) || slices.Equal(s.state.Data, r.data) || s.state.Data == nil && r.pairs == nil {
		return nil
	}
	return fault.Inputf("%s: not the data that %s was trained on (names or sizes differ); restore it, or give Options.Resume %s and another Options.Out to continue with other data", r.out, s.path, s.path)
}

// complete sets the steps of a recipe that gives samples: a fork with another batch
// has seen some of them in steps of another size.
func (r *Recipe) complete(s *savedState) *Recipe {
	if r.Samples == 0 {
		return r
	}
	out := *r
	out.Steps = max(1, s.Step+max(0, r.Samples-s.Samples)/int64(r.Batch))
	if out.Steps != r.Samples/int64(r.Batch) {
		out.Samples = 0 // steps determines it
	}
	return &out
}

// goOn is the recipe with what accumulation: auto chose before, whatever memory
// there is now, so that a resumed run ends with the same bits. A checkpoint that
// does not say dates from before there was a choice.
func (r *Recipe) goOn(s *savedState) *Recipe {
	if s == nil || r.Accumulation != "" {
		return r
	}
	out := *r
	out.Accumulation = cmp.Or(s.Parts, accumulateAgain)
	return &out
}

func sameFolder(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}
