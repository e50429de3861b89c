package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
	"github.com/evatool/evatool/internal/runlog"
)

// DataComp is the name of the suite of DataComp's 38 sets.
const DataComp = "datacomp"

// SuiteOptions say which models are scored on which sets.
type SuiteOptions struct {
	// Sets are names of benchmarks, flickr30k and coco among them, or DataComp
	// alone for its 38.
	Sets []string
	// Models are the paths of the models, scored one after the other.
	Models []string
	// Options say how each set is scored. Data is the folder that holds the sets, as
	// DataComp's downloader or CLIP_benchmark lay them out, or the one set itself;
	// Out gets a folder for each model and set. Benchmark, Model, Opened, and what
	// concerns one set alone stay empty.
	Options
}

// SuiteResult is result.json of a suite.
type SuiteResult struct {
	Suite string     `json:"suite"` // datacomp, or the sets
	Data  string     `json:"data"`
	Shard *ShardInfo `json:"shard,omitempty"` // of each set: Index and Count only
	// The model, where there is one; else Models has all.
	*SuiteModel
	Models []*SuiteModel `json:"models,omitempty"`
	// Pairs compare the models on the pictures that both saw.
	Pairs    []Pair            `json:"pairs,omitempty"`
	Versions map[string]string `json:"versions"`
}

// SuiteModel is how one model does on the sets.
type SuiteModel struct {
	Model   ModelInfo  `json:"model"`
	Sets    []SuiteSet `json:"sets"`
	Missing []string   `json:"missing"` // keys of sets that are not in the folder
	// Average is the mean of N sets, of Of that there should be.
	Average     float64    `json:"average"`
	AverageCI95 [2]float64 `json:"ci95_average"`
	N           int        `json:"n"`
	Of          int        `json:"of"`
	// Robustness has ImageNet's relatives, where ImageNet was scored too.
	Robustness []RobustnessRow `json:"robustness,omitempty"`
	// PublishedAverage is over all of DataComp's sets and null for other suites,
	// PublishedSame over those that are compared. Both are null when nothing is
	// published for the model.
	PublishedAverage *float64 `json:"published_average"`
	PublishedSame    *float64 `json:"published_average_same"`
	// PublishedWeights says whose figures these are, PublishedBy how that is
	// known: by the model's hash or name, or because they are nearest.
	PublishedWeights string `json:"published_weights,omitempty"`
	PublishedBy      string `json:"published_by,omitempty"`
	PublishedSource  string `json:"published_source,omitempty"`
}

// SuiteSet is one set's figure.
type SuiteSet struct {
	Key       string     `json:"key"` // DataComp's, such as vtab/caltech101
	Title     string     `json:"title"`
	Benchmark string     `json:"benchmark"`
	Metric    string     `json:"metric"` // DataComp's name for it, where it has one
	Value     float64    `json:"value"`
	N         int        `json:"n"`
	CI95      [2]float64 `json:"ci95"`
	Published *float64   `json:"published"`
	InsideCI  *bool      `json:"inside_ci"` // whether Published lies in CI95
	// NotCompared says why Published is null where there is a figure.
	NotCompared string `json:"not_compared,omitempty"`
	Source      string `json:"source"`
	Dir         string `json:"dir,omitempty"` // of the set's own result, below Out

	result    *Result // of a set of pictures with classes or questions
	retrieval *RetrievalResult
}

// task is a set of a suite, and where it lies.
type task struct {
	published.Task
	data string
}

// Suite scores models on sets. What was finished in o.Out is kept.
func Suite(ctx context.Context, o SuiteOptions) (_ *SuiteResult, err error) {
	defer fault.Public(ctx, &err)
	o.Options = o.Options.defaults()
	tasks, err := o.tasks(ctx)
	if err != nil {
		return nil, err
	}
	var missing []string
	tasks = slices.DeleteFunc(tasks, func(t task) bool {
		if t.data == "" {
			missing = append(missing, t.Key)
		}
		return t.data == ""
	})
	if len(tasks) == 0 {
		return nil, fault.Inputf("%s: holds none of the %d sets, such as a folder %s; Options.Data must be the folder that holds the sets", fault.Name(o.Data), len(missing), folderNames(published.Tasks()[0])[0])
	}
	var keys []string
	for _, t := range tasks {
		keys = append(keys, t.Key)
	}
	if err := o.claim(ctx, keys); err != nil {
		return nil, err
	}
	res := &SuiteResult{Suite: strings.Join(o.Sets, ","), Data: fault.Masked(o.Data), Versions: runlog.Versions()}
	if o.Shards > 1 {
		res.Shard = &ShardInfo{Index: o.Shard, Count: o.Shards}
	}
	slugs := modelSlugs(o.Models)
	for i, path := range o.Models {
		one := o.Options
		one.Model = path
		one.DataWords = o.DataWords || o.Sets[0] == DataComp
		folder := ""
		if len(o.Models) > 1 {
			folder = slugs[i]
		}
		m, err := one.suite(ctx, tasks, folder)
		if err != nil {
			return nil, swapped(err, o.Data)
		}
		m.Missing, m.Of = append([]string{}, missing...), len(tasks)+len(missing)
		m.compare(res.Shard == nil)
		res.Models = append(res.Models, m)
	}
	res.Pairs = pairs(res.Models)
	return res, res.finish(o.Out)
}

// check finds what is wrong before anything is opened.
func (o *SuiteOptions) check() error {
	switch {
	case len(o.Models) == 0:
		return fault.Usagef("no model; give Options.Model")
	case o.Opened != nil || o.ModelID != "" || o.Spread:
		return fault.Usagef("Opened, ModelID and Spread apply to one set only; leave them out")
	case o.Predictions != "" || o.SaveClassifier != "" || o.Expect != "" || len(o.ClassNames)+len(o.Templates)+len(o.Folders)+len(o.Prompts)+len(o.Classifiers) > 0 ||
		o.ClassNamesFile != "" && !isJSON(o.ClassNamesFile) || o.TemplatesFile != "" && !isJSON(o.TemplatesFile):
		return fault.Usagef("Options.Predictions, Options.SaveClassifier, Options.Classifiers, Options.Expect, Options.ClassNames and Options.Templates apply to one set and one model; score that pair alone (a .json of names or templates by set works for several sets)")
	case isTensors(o.Data) && len(o.Sets) > 1:
		return swapped(fault.Usagef("%s: is one set; Options.Data must be the folder that holds the sets", fault.Name(o.Data)), o.Data)
	case slices.Contains(o.Sets, DataComp) && len(o.Sets) > 1:
		return fault.Usagef("%s is a suite of its own; score other sets separately", DataComp)
	}
	for i, m := range o.Models {
		if slices.Contains(o.Models[:i], m) {
			return fault.Usagef("model %s is given twice", fault.Name(m))
		}
	}
	if st, err := os.Stat(o.Out); o.Out != "" && err == nil && !st.IsDir() {
		return fault.Envf("%s: is a file; Options.Out must be a folder", o.Out)
	}
	return cmp.Or(checkCounts(o.Batch, o.Workers, o.Limit, o.MaxBad), checkPart(o.Shard, o.Shards))
}

// tasks are the sets, with the paths of those that were found.
func (o *SuiteOptions) tasks(ctx context.Context) ([]task, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	var list []task
	for _, name := range o.Sets {
		if name == DataComp {
			for _, t := range published.Tasks() {
				list = append(list, task{Task: t})
			}
			continue
		}
		t, ok := taskOf(name)
		if !ok {
			return nil, fault.Usagef("benchmark %q: unknown; `evatool zeroshot list` prints the names", name)
		}
		if slices.ContainsFunc(list, func(other task) bool { return other.Key == t.Key }) {
			return nil, fault.Usagef("benchmark %q: is given twice", name)
		}
		list = append(list, task{Task: t})
	}
	for _, t := range list {
		b := dataset.Benchmark{Name: t.Benchmark} // DataComp's words lie beside its data
		if o.Sets[0] != DataComp {
			if known, ok := dataset.LookupBenchmark(t.Benchmark); ok {
				b = known
			}
		}
		if _, err := b.Language(o.Language); err != nil {
			return nil, err
		}
	}
	for i := range list {
		t := &list[i]
		var err error
		if t.data, err = locate(ctx, o.Data, t.Task); err != nil {
			return nil, err
		}
		if t.data == "" && len(o.Sets) == 1 && o.Sets[0] != DataComp {
			t.data = o.Data
		}
		if t.data == "" && o.Sets[0] != DataComp {
			return nil, fault.Inputf("%s: no set %s in it; want a folder such as %s", fault.Name(o.Data), t.Key, strings.Join(folderNames(t.Task)[:3], ", "))
		}
	}
	return list, nil
}

// taskOf is a benchmark as a set of a suite: DataComp's where that has it.
func taskOf(name string) (published.Task, bool) {
	retrieval := strings.ReplaceAll(name, "_", "-")
	b, ok := dataset.LookupBenchmark(name)
	if _, is := hubCaptions[retrieval]; is {
		b.Name, ok = retrieval, true
	}
	for _, t := range published.Tasks() {
		if ok && t.Benchmark == b.Name {
			return t, true
		}
	}
	return published.Task{Key: b.Name, Title: b.Title, Benchmark: b.Name, Metric: b.Metric, MainMetric: b.Metric}, ok
}

// folderNames are what the folder of a set may be called below the root: as
// DataComp's downloader names it, as CLIP_benchmark does, or as evatool.
func folderNames(t published.Task) []string {
	short := t.Key[strings.LastIndexByte(t.Key, '/')+1:]
	forms := []string{strings.ReplaceAll(t.Key, "/", "-"), short, "vtab-" + short, t.Benchmark, strings.ReplaceAll(t.Benchmark, "-", "_")}
	switch {
	case t.Benchmark == "coco":
		forms = append(forms, "mscoco_captions")
	case strings.HasPrefix(t.Benchmark, "sugarcrepe"):
		forms = append(forms, "sugarcrepe", "sugar_crepe", "sugar-crepe")
	}
	if strings.HasPrefix(t.Key, "fairness/") {
		forms[0], forms[1] = forms[1], forms[0]
	}
	var names []string
	for _, pattern := range []string{"wds_%s_test", "wds_%s", "wds/%s", "%s"} {
		for _, f := range append(forms, t.Key) {
			if name := fmt.Sprintf(pattern, f); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// locate finds a set below root; "" when it is not there.
func locate(ctx context.Context, root string, t published.Task) (string, error) {
	if st, err := os.Stat(root); err != nil && !strings.Contains(root, "://") {
		return "", fault.File(root, "the folder that holds the sets, as Options.Data", err)
	} else if err == nil && !st.IsDir() {
		return "", nil
	}
	path, err := dataset.Find(ctx, root, folderNames(t))
	if path != "" || err != nil {
		return path, err
	}
	cache := filepath.Join(root, "hf_cache") // DataComp's downloader has some there
	hub, ok := hubCaptions[t.Benchmark]
	if t.Benchmark == "winogavil" {
		hub, ok = winogavilFiles, true
	}
	if ok && hub.there(cache) {
		return cache, nil
	}
	return "", nil
}

// suite scores one model on every set.
func (o Options) suite(ctx context.Context, tasks []task, folder string) (*SuiteModel, error) {
	out := &SuiteModel{Sets: []SuiteSet{}}
	_, err := withModel(ctx, nil, o.Model, o.OpenOptions, func(ctx context.Context, m *Model) (*SuiteModel, error) {
		out.Model = m.info()
		for _, t := range tasks {
			o.Log.Info("scoring", "set", t.Key, "data", t.data)
			set, err := o.set(ctx, m, t, filepath.Join(folder, slug(t.Key)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.Key, err)
			}
			out.Sets = append(out.Sets, *set)
		}
		return out, nil
	})
	return out, err
}

// slug is a set's key as a folder's name.
func slug(key string) string { return strings.ReplaceAll(key, "/", "-") }

// modelSlugs are names for the models' folders: the files', with a number where
// two are alike.
func modelSlugs(paths []string) []string {
	var slugs []string
	for i, p := range paths {
		base := filepath.Base(p)
		stem := strings.TrimSuffix(base, filepath.Ext(base))
		name := stem
		for n := i + 1; name == "" || slices.Contains(slugs, name); n++ {
			name = fmt.Sprintf("%s-%d", stem, n)
		}
		slugs = append(slugs, name)
	}
	return slugs
}

// set scores one set with an open model.
func (o Options) set(ctx context.Context, m *Model, t task, dir string) (*SuiteSet, error) {
	s := &SuiteSet{Key: t.Key, Title: t.Title, Benchmark: t.Benchmark, Metric: t.MainMetric, Source: fault.Masked(t.data)}
	one := o
	one.Benchmark, one.Data, one.NoDiagnosis = t.Benchmark, t.data, true
	if o.Out != "" {
		s.Dir = dir
		one.Out = filepath.Join(o.Out, dir)
	}
	if _, ok := hubCaptions[t.Benchmark]; ok {
		res, err := retrieval(ctx, m, RetrievalOptions{
			Model: o.Model, Set: t.Benchmark, Data: t.data, OpenOptions: o.OpenOptions, Limit: o.Limit, MaxBad: o.MaxBad,
			Shard: o.Shard, Shards: o.Shards, Out: one.Out, Fresh: o.Fresh, Force: o.Force, Meter: o.Meter,
		})
		if err != nil {
			return nil, err
		}
		s.ofRetrieval(res)
		return s, nil
	}
	one, err := one.readWords(true)
	if err != nil {
		return nil, err
	}
	res, err := zeroShot(ctx, m, one)
	if err != nil {
		return nil, err
	}
	s.ofResult(res)
	return s, nil
}

// ofCaptions says whether the set is a retrieval.
func (s SuiteSet) ofCaptions() bool {
	_, ok := hubCaptions[s.Benchmark]
	return ok
}

// taskFor is the task that a set of a result is of.
func taskFor(s SuiteSet) published.Task {
	return published.Task{Key: s.Key, Title: s.Title, Benchmark: s.Benchmark, MainMetric: s.Metric}
}

// follows says whether the tables of the models follow from the results of their
// sets, and these from their rows.
func (res *SuiteResult) follows(dir string) error {
	models := res.All()
	keys := func(m *SuiteModel) (list []string) {
		for _, s := range m.Sets {
			list = append(list, s.Key)
		}
		return list
	}
	for _, m := range models {
		if err := m.follows(dir); err != nil {
			return err
		}
		if !slices.Equal(keys(m), keys(models[0])) {
			return fault.Inputf("%s: its models are not of the same sets; run the suite again", filepath.Join(dir, resultFile))
		}
	}
	// Older results have none.
	if res.Pairs != nil && !slices.EqualFunc(res.Pairs, pairs(models), Pair.same) {
		return fault.Inputf("%s: the comparisons of its models do not follow from the rows; run the suite again", filepath.Join(dir, resultFile))
	}
	return nil
}

// follows is the part of it that is of one model.
func (m *SuiteModel) follows(dir string) error {
	again := &SuiteModel{Model: m.Model}
	for _, s := range m.Sets {
		if !filepath.IsLocal(s.Dir) {
			return fault.Inputf("%s: the folder %q of %s lies outside it; run the suite again", fault.Name(dir), s.Dir, s.Key)
		}
		path := filepath.Join(dir, s.Dir, resultFile)
		now := s
		if s.ofCaptions() {
			res := &RetrievalResult{}
			if err := readJSON(path, "the result of a retrieval", res); err != nil {
				return err
			}
			now.ofRetrieval(res)
		} else {
			p, err := readRowsOf(filepath.Join(dir, s.Dir))
			if err != nil {
				return err
			}
			now.ofResult(&p.res)
		}
		if now.Value != s.Value || now.N != s.N || now.CI95 != s.CI95 {
			return fault.Inputf("%s: the figures of %s do not follow from %s; run the suite again", filepath.Join(dir, resultFile), s.Key, path)
		}
		if in := s.Published != nil && inside(*s.Published, s.CI95); in != (s.InsideCI != nil && *s.InsideCI) {
			return fault.Inputf("%s: inside_ci of %s does not follow from its interval; run the suite again", filepath.Join(dir, resultFile), s.Key)
		}
		again.Sets = append(again.Sets, now)
	}
	if again.compare(false); again.Average != m.Average || again.N != m.N || again.AverageCI95 != m.AverageCI95 {
		return fault.Inputf("%s: the average does not follow from the sets; run the suite again", filepath.Join(dir, resultFile))
	}
	// Older results have none.
	if m.Robustness != nil && !slices.EqualFunc(m.Robustness, again.Robustness, RobustnessRow.same) {
		return fault.Inputf("%s: robustness does not follow from the sets; run the suite again", filepath.Join(dir, resultFile))
	}
	m.Sets = again.Sets
	return nil
}

func (s *SuiteSet) ofResult(res *Result) {
	s.Value, s.CI95, s.N, s.result = res.Value, res.CI95.Value, res.N, res
}

// images are how many the set has, skipped ones too; questions of a choice.
func (s *SuiteSet) images() int {
	switch {
	case s.retrieval != nil:
		return s.retrieval.N
	case s.result.Kind == dataset.Choice:
		return s.result.N
	}
	return s.result.Data.N
}

// words says what is not the benchmark's own, as Result.Words does.
func (s *SuiteSet) words() string {
	if s.result == nil {
		return ""
	}
	return s.result.Words
}

func (s *SuiteSet) ofRetrieval(res *RetrievalResult) {
	s.Value, s.CI95, s.N, s.retrieval = res.MeanRecall1, res.MeanCI95, res.Images, res
}

// compare averages the sets and puts what was published beside them, where all
// of every set was scored.
func (m *SuiteModel) compare(whole bool) {
	m.N, m.Robustness = len(m.Sets), m.robustness()
	variance := 0.0
	for _, s := range m.Sets {
		m.Average += s.Value / float64(m.N)
		half := (s.CI95[1] - s.CI95[0]) / 2
		variance += half * half
	}
	half := math.Sqrt(variance) / float64(m.N) // the sets are independent
	m.AverageCI95 = [2]float64{max(0, m.Average-half), min(1, m.Average+half)}
	row, by := m.row()
	if row == nil || !whole || slices.ContainsFunc(m.Sets, SuiteSet.limited) {
		return
	}
	m.PublishedWeights, m.PublishedBy, m.PublishedSource = row.Config+"/"+row.Weights, by, published.TableSource
	if m.Of == len(row.Values) { // else it is of other sets: the table's average is over DataComp's
		m.PublishedAverage = &row.Average
	}
	same := 0.0
	for i := range m.Sets {
		s := &m.Sets[i]
		v, ok := row.Values[s.Key]
		if !ok {
			continue
		}
		if s.NotCompared = s.words(); s.NotCompared == "" {
			s.NotCompared = otherImages(s.Benchmark, s.images())
		}
		if s.NotCompared != "" {
			continue
		}
		in := inside(v, s.CI95)
		s.Published, s.InsideCI = &v, &in
		same += v
	}
	if n := m.Compared(); n > 0 {
		same /= float64(n)
		m.PublishedSame = &same
	}
}

// Compared counts the sets that stand beside a published figure.
func (m *SuiteModel) Compared() (n int) {
	for _, s := range m.Sets {
		if s.Published != nil {
			n++
		}
	}
	return n
}

// row is the line of OpenCLIP's table for the model: that of the weights that
// its hash or name says, or else the one of its architecture that is nearest.
func (m *SuiteModel) row() (*published.Row, string) {
	var list []published.Row
	by := "nearest"
	for _, r := range published.Rows() {
		if r.Is(m.Model.Config) && slices.Contains(m.Model.Weights, r.Weights) {
			list, by = append(list, r), "hash or name"
		}
	}
	for _, r := range published.Rows() {
		if by == "nearest" && r.Is(m.Model.Config) {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return nil, ""
	}
	distance := func(r published.Row) (d float64) {
		for _, s := range m.Sets {
			d += math.Abs(r.Values[s.Key] - s.Value)
		}
		return d
	}
	nearest := slices.MinFunc(list, func(a, b published.Row) int { return cmp.Compare(distance(a), distance(b)) })
	return &nearest, by
}

// finish writes table.csv, report.html and, last, result.json, of a part only that,
// and puts a single model in its place.
func (res *SuiteResult) finish(out string) error {
	models := res.Models
	if len(models) == 1 {
		res.SuiteModel, res.Models = models[0], nil
	}
	if out == "" {
		return nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fault.File(out, "a folder that can be written, as Options.Out", err)
	}
	if res.Shard == nil { // else the figures are of a part
		err := errors.Join(writeCSV(filepath.Join(out, tableFile), suiteTable(models)), writeSuiteReport(out, res, models))
		if err != nil {
			return err
		}
	}
	return atomicfile.WriteJSON(filepath.Join(out, resultFile), res)
}

// All lists the models, however many.
func (res *SuiteResult) All() []*SuiteModel {
	if res.SuiteModel != nil {
		return []*SuiteModel{res.SuiteModel}
	}
	return res.Models
}
