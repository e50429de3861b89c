// Package compare shows training runs and evaluations side by side, from the files
// that they write: metrics.jsonl and recipe.yaml, or result.json.
package compare

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/yamlfile"
)

// Comparison is several runs side by side.
type Comparison struct {
	Runs []*Run `json:"runs"`
	// Differences are the recipe keys in which the training runs differ.
	Differences []Difference `json:"recipe_differences"`
}

// Run is a training run or an evaluation.
type Run struct {
	Name string `json:"name"` // short, unique among the runs
	Path string `json:"path"`
	Kind string `json:"kind"` // training or evaluation

	// Of a training run.
	Steps   int64    `json:"steps,omitempty"` // in metrics.jsonl so far
	Samples int64    `json:"samples,omitempty"`
	Loss    *float64 `json:"loss,omitempty"` // mean over those of the last 10 steps that have one
	Rate    float64  `json:"samples_per_second,omitempty"`

	// Scores are those of a training run's last evaluations, or of the sets of an
	// evaluation.
	Scores []Score `json:"scores"`

	recipe map[string]string
	steps  []step
	evals  []step // of a training, all
}

// Score is the result on one benchmark.
type Score struct {
	Benchmark string      `json:"benchmark"`
	Metric    string      `json:"metric"`
	Value     float64     `json:"value"`
	CI95      *[2]float64 `json:"ci95,omitempty"`
	N         int         `json:"n,omitempty"`
	Model     string      `json:"model,omitempty"`
	Data      string      `json:"data,omitempty"` // of an evaluation of one set
	Step      int64       `json:"step,omitempty"`

	images string // fingerprint of Data
}

// anyImages are the benchmarks that are not of certain images.
var anyImages = []string{"folder", "csv", "probe"}

// Title is the benchmark of a score, with its data where another score of such a
// benchmark is of other images.
func (c *Comparison) Title(s Score) string {
	if !slices.Contains(anyImages, s.Benchmark) {
		return s.Benchmark
	}
	for _, r := range c.Runs {
		for _, o := range r.Scores {
			if o.Benchmark == s.Benchmark && o.images != s.images && o.images != "" && s.images != "" {
				return fmt.Sprintf("%s (%s, images %.8s)", s.Benchmark, s.Data, s.images)
			}
		}
	}
	return s.Benchmark
}

// Difference is a recipe key and its value in each training run, in order; "" where
// a run has none.
type Difference struct {
	Key    string   `json:"key"`
	Values []string `json:"values"`
}

type step struct {
	Step      int64              `json:"step"`
	Samples   int64              `json:"samples"`
	Loss      *float64           `json:"loss"`
	LR        map[string]float64 `json:"lr"`
	GradNorm  *float64           `json:"grad_norm"`
	Rate      float64            `json:"samples_per_second"`
	Benchmark string             `json:"benchmark"` // of an evaluation
	Top1      float64            `json:"top1"`
	N         int                `json:"n"`
	Classes   int                `json:"classes"`
}

// Load reads the folders of the runs.
func Load(paths []string) (*Comparison, error) {
	c := &Comparison{Differences: []Difference{}}
	names := runlog.Names(paths)
	for i, p := range paths {
		r, err := load(p)
		if err != nil {
			return nil, err
		}
		r.Name = names[i]
		c.Runs = append(c.Runs, r)
	}
	c.differ()
	return c, nil
}

// Trainings returns the training runs.
func (c *Comparison) Trainings() (list []*Run) {
	for _, r := range c.Runs {
		if r.Kind == "training" {
			list = append(list, r)
		}
	}
	return list
}

func load(path string) (*Run, error) {
	if st, err := os.Stat(path); err != nil {
		return nil, fault.File(path, "the folder of a training run or an evaluation", err)
	} else if !st.IsDir() {
		return nil, fault.Inputf("%s: a file; give the folder of a training run or an evaluation", fault.Name(path))
	}
	r := &Run{Path: path, Scores: []Score{}}
	for _, kind := range []struct {
		file string
		read func(path string) error
	}{{"metrics.jsonl", r.training}, {"result.json", r.evaluation}} {
		file := filepath.Join(path, kind.file)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return r, kind.read(file)
	}
	return nil, fault.Inputf("%s: holds neither a training run's metrics.jsonl nor an evaluation's result.json; give a folder that train, zeroshot, retrieval or probe wrote", fault.Name(path))
}

// maxMetrics bounds a metrics.jsonl: a line of a step has some 300 bytes.
const maxMetrics = 4 << 30

func (r *Run) training(path string) error {
	r.Kind = "training"
	text, err := fault.ReadFile(path, "a training run's metrics", maxMetrics)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var s step
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			if !bytes.HasSuffix(text, []byte{'\n'}) && !lines.Scan() { // a killed run's torn last line
				break
			}
			return fault.Inputf("%s: line %d is not a step: %w", fault.Name(path), n, err)
		}
		if s.Benchmark != "" {
			r.evals = append(r.evals, s)
			continue
		}
		r.steps = append(r.steps, s)
	}
	if err := lines.Err(); err != nil {
		return fault.Inputf("%s: %w", fault.Name(path), err)
	}
	last := map[string]Score{}
	for _, s := range r.evals {
		last[s.Benchmark] = s.score()
	}
	for _, s := range last {
		r.Scores = append(r.Scores, s)
	}
	slices.SortFunc(r.Scores, func(a, b Score) int { return cmp.Compare(a.Benchmark, b.Benchmark) })
	r.summarise()
	return r.readRecipe(filepath.Join(filepath.Dir(path), "recipe.yaml"))
}

// score is an evaluation as a score, with its interval.
func (s step) score() Score {
	score := Score{Benchmark: s.Benchmark, Metric: "top1", Value: s.Top1, N: s.N, Step: s.Step}
	if s.N > 0 {
		ci := eval.Wilson(int(math.Round(s.Top1*float64(s.N))), s.N)
		score.CI95 = &ci
	}
	return score
}

func (r *Run) summarise() {
	if len(r.steps) == 0 {
		return
	}
	end := r.steps[len(r.steps)-1]
	r.Steps, r.Samples = end.Step, end.Samples
	tail := r.steps[max(0, len(r.steps)-10):]
	sum, n := 0.0, 0
	for _, s := range tail {
		if s.Loss != nil {
			sum, n = sum+*s.Loss, n+1
		}
		r.Rate += s.Rate / float64(len(tail))
	}
	if n > 0 {
		mean := sum / float64(n)
		r.Loss = &mean
	}
}

func (r *Run) readRecipe(path string) error {
	text, err := fault.ReadFile(path, "a training run's recipe", yamlfile.MaxBytes)
	if err != nil {
		return err
	}
	var tree struct {
		Recipe any `yaml:"recipe"`
	}
	// The recipe as one value, whatever keys its version has.
	if err := yamlfile.Decode(path, []byte("recipe:\n"+indented(text)), &tree); err != nil {
		return err
	}
	r.recipe = map[string]string{}
	flatten(r.recipe, "", tree.Recipe)
	return nil
}

func indented(text []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		b.WriteString("  " + line)
	}
	return b.String()
}

func flatten(into map[string]string, at string, v any) {
	key := func(k string) string { return strings.TrimPrefix(at+"."+k, ".") }
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			flatten(into, key(k), e)
		}
	case []any:
		plain := !slices.ContainsFunc(v, func(e any) bool {
			switch e.(type) {
			case map[string]any, []any:
				return true
			}
			return false
		})
		if plain {
			into[at] = strings.Trim(fmt.Sprint(v), "[]")
			return
		}
		for i, e := range v {
			flatten(into, key(strconv.Itoa(i)), e)
		}
	case nil:
	default:
		into[at] = fmt.Sprint(v)
	}
}

// differ lists the keys in which the training runs differ.
func (c *Comparison) differ() {
	runs := c.Trainings()
	keys := map[string]bool{}
	for _, r := range runs {
		for k := range r.recipe {
			keys[k] = true
		}
	}
	for k := range keys {
		d := Difference{Key: k}
		for _, r := range runs {
			d.Values = append(d.Values, r.recipe[k])
		}
		if len(slices.Compact(slices.Clone(d.Values))) > 1 {
			c.Differences = append(c.Differences, d)
		}
	}
	slices.SortFunc(c.Differences, func(a, b Difference) int { return cmp.Compare(a.Key, b.Key) })
}

// evaluation reads the result.json of any kind of evaluation.
func (r *Run) evaluation(path string) error {
	r.Kind = "evaluation"
	b, err := fault.ReadFile(path, "the result of an evaluation", 1<<30)
	if err != nil {
		return err
	}
	type set struct {
		Key, Benchmark, Metric string
		Value                  float64
		N                      int
		CI95                   *[2]float64
	}
	type images struct{ Source, Fingerprint string }
	type model struct {
		Model struct{ File string }
		Sets  []set
	}
	var res struct {
		Benchmark, Set, Suite, Metric string
		Value                         float64
		N                             int
		Images                        int // of a retrieval, without the skipped ones
		CI95                          struct{ Value *[2]float64 }
		MeanRecall1                   float64     `json:"mean_recall1"`
		MeanCI95                      *[2]float64 `json:"ci95_mean_recall1"`
		Probe                         *struct {
			Top1 float64
			N    int
			CI95 *[2]float64 `json:"ci95_top1"`
		}
		Shard  *struct{}
		Data   json.RawMessage // a suite's is the name of a folder
		images                 // of a retrieval
		Models []model
		model
	}
	if err := json.Unmarshal(b, &res); err != nil {
		return fault.Inputf("%s: not the result of an evaluation: %w; give a folder that zeroshot, retrieval or probe wrote", fault.Name(path), err)
	}
	if res.Set == "" && res.Suite == "" && res.Data != nil {
		if err := json.Unmarshal(res.Data, &res.images); err != nil {
			return fault.Inputf("%s: not the result of an evaluation: data: %w; give a folder that zeroshot, retrieval or probe wrote", fault.Name(path), err)
		}
	}
	add := func(model string, s set) {
		r.Scores = append(r.Scores, Score{Benchmark: cmp.Or(s.Key, s.Benchmark), Metric: s.Metric, Value: s.Value, CI95: s.CI95, N: s.N, Model: model, Data: res.Source, images: res.Fingerprint})
	}
	only := filepath.Base(res.Model.File)
	switch {
	case res.Shard != nil: // of a suite too
		return fault.Inputf("%s: only part of an evaluation; merge the parts first (evatool zeroshot merge)", fault.Name(path))
	case res.Suite != "":
		models := append(res.Models, res.model) // the one, or several and an empty one
		var files []string
		for _, m := range models {
			files = append(files, m.Model.File)
		}
		for i, name := range runlog.Names(files) {
			for _, s := range models[i].Sets {
				add(name, s)
			}
		}
	case res.Set != "":
		add(only, set{Benchmark: res.Set, Metric: "mean_recall1", Value: res.MeanRecall1, N: res.Images, CI95: res.MeanCI95})
	case res.Probe != nil:
		add(only, set{Benchmark: "probe", Metric: "top1", Value: res.Probe.Top1, N: res.Probe.N, CI95: res.Probe.CI95})
	case res.Benchmark != "":
		add(only, set{Benchmark: res.Benchmark, Metric: res.Metric, Value: res.Value, N: res.N, CI95: res.CI95.Value})
	default:
		return fault.Inputf("%s: not the result of an evaluation; give a folder that zeroshot, retrieval or probe wrote", fault.Name(path))
	}
	return nil
}

// maxPoints bounds the points of a curve.
const maxPoints = 1000

// Write writes the comparison as a page.
func (c *Comparison) Write(path string) error {
	trainings := c.Trainings()
	p := runlog.NewPage("Comparison", fmt.Sprintf("trainings: %d, evaluations: %d", len(trainings), len(c.Runs)-len(trainings)))
	if len(trainings) > 0 {
		p.Section("Trainings")
		var rows [][]string
		for _, r := range trainings {
			loss := ""
			if r.Loss != nil {
				loss = fmt.Sprintf("%.4f", *r.Loss)
			}
			rows = append(rows, []string{r.Name, fmt.Sprint(r.Steps), fmt.Sprint(r.Samples), loss, fmt.Sprintf("%.0f", r.Rate)})
		}
		p.Table([]string{"run", "steps", "samples", "loss, last 10 steps", "samples/s"}, rows)
		curve(p, trainings, "Contrastive loss", "nats", true, func(s step) *float64 { return s.Loss }, guesses(trainings)...)
		accuracies(p, trainings)
		curve(p, trainings, "Gradient norm", "before clipping", true, func(s step) *float64 { return s.GradNorm })
		curve(p, trainings, "Learning rate", "vision tower", false, func(s step) *float64 {
			v, ok := s.LR["vision"]
			if !ok {
				return nil
			}
			return &v
		})
		p.Section("Recipes")
		head, rows := []string{"key"}, nil
		for _, r := range trainings {
			head = append(head, r.Name)
		}
		for _, d := range c.Differences {
			rows = append(rows, append([]string{d.Key}, d.Values...))
		}
		if len(rows) == 0 {
			p.Note("The recipes are the same.")
		} else {
			p.Note("The keys that differ.")
			p.Table(head, rows)
		}
	}
	p.Section("Scores")
	var rows [][]string
	bars := map[string]*runlog.BarChart{}
	var order []string
	for _, r := range c.Runs {
		for _, s := range r.Scores {
			row := []string{c.Title(s), s.Metric, r.Name, s.Model, fmt.Sprintf("%.2f %%", 100*s.Value), "", strconv.Itoa(s.N)}
			title := c.Title(s) + ", " + s.Metric
			b := bars[title]
			if b == nil {
				b = &runlog.BarChart{Title: title, Unit: "%"}
				bars[title], order = b, append(order, title)
			}
			label := r.Name
			if r.Kind == "evaluation" && s.Model != "" {
				label += ", " + s.Model
			}
			bar := runlog.Bar{Label: label, Value: 100 * s.Value}
			if s.CI95 != nil {
				row[5] = fmt.Sprintf("%.2f to %.2f", 100*s.CI95[0], 100*s.CI95[1])
				bar.Interval = &[2]float64{100 * s.CI95[0], 100 * s.CI95[1]}
			}
			b.Bars = append(b.Bars, bar)
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b []string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	if len(rows) == 0 {
		p.Note("No run has a score.")
	} else {
		for _, title := range order {
			if len(bars[title].Bars) > 1 {
				p.Bars(*bars[title])
			}
		}
		p.Table([]string{"benchmark", "metric", "run", "model", "value", "95 %", "images"}, rows)
	}
	return p.WriteFile(path)
}

// curve adds a chart with a line for every run that has points.
func curve(p *runlog.Page, runs []*Run, title, unit string, noisy bool, of func(step) *float64, levels ...runlog.Level) {
	chart := runlog.LineChart{Title: title, XLabel: "step", YLabel: unit, Levels: levels, Noisy: noisy}
	some := false
	for _, r := range runs {
		s := runlog.Series{Name: r.Name}
		every := len(r.steps)/maxPoints + 1
		for i := 0; i < len(r.steps); i += every {
			if v := of(r.steps[i]); v != nil {
				s.X, s.Y = append(s.X, float64(r.steps[i].Step)), append(s.Y, *v)
			}
		}
		chart.Series = append(chart.Series, s)
		some = some || len(s.X) > 0
	}
	if some {
		p.Line(chart)
	}
}

// guesses are the losses of guessing, one per batch size.
func guesses(runs []*Run) (list []runlog.Level) {
	for _, r := range runs {
		n, err := strconv.Atoi(r.recipe["batch"])
		l := runlog.Level{Name: fmt.Sprintf("chance, ln %d", n), Y: math.Log(float64(n))}
		if err == nil && n > 1 && !slices.Contains(list, l) {
			list = append(list, l)
		}
	}
	return list
}

// accuracies adds a chart for each benchmark on which a training run was scored more
// than once, with a line for every run.
func accuracies(p *runlog.Page, runs []*Run) {
	charts := map[string]*runlog.LineChart{}
	var order []string
	several := map[string]bool{}
	for i, r := range runs {
		for _, s := range r.evals {
			c := charts[s.Benchmark]
			if c == nil {
				c = &runlog.LineChart{Title: "Zero-shot top-1, " + s.Benchmark, XLabel: "step", YLabel: "%"}
				for _, o := range runs {
					c.Series = append(c.Series, runlog.Series{Name: o.Name})
				}
				charts[s.Benchmark], order = c, append(order, s.Benchmark)
			}
			line := &c.Series[i]
			line.X, line.Y = append(line.X, float64(s.Step)), append(line.Y, 100*s.Top1)
			several[s.Benchmark] = several[s.Benchmark] || len(line.X) > 1
			if l := (runlog.Level{Name: "chance", Y: 100 / float64(s.Classes)}); s.Classes > 0 && !slices.Contains(c.Levels, l) {
				c.Levels = append(c.Levels, l)
			}
		}
	}
	for _, name := range order {
		if several[name] {
			p.Line(*charts[name])
		}
	}
}
