package eval

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/logistic"
	"github.com/evatool/evatool/internal/runlog"
)

// ProbeOptions say what is learned from a model's features.
type ProbeOptions struct {
	// Model is what makes the features; OpenOptions say how it is opened.
	Model string
	OpenOptions
	// Opened is a model that is already open, instead of all these; it stays open.
	Opened *Model

	// Train is what is learned from, Data what is scored, Val what chooses the
	// penalty; without Val a fifth of Train does. All are as Options.Data.
	Train, Data, Val string
	// ClassNames, Folders and Templates are as in Options; nil: the names of
	// Train's folders, if any.
	ClassNames, Folders, Templates []string
	// ClassNamesFile and TemplatesFile are as in Options.
	ClassNamesFile, TemplatesFile string

	L2         float64 // the penalty, 1/C of scikit-learn; 0: swept
	Shots      []int   // learn from this many images of each class, too
	Seeds      int     // draws of each; 0: 1
	Neighbours int     // that vote; 0: 20

	Features string // folder of the features; "": the user's cache folder
	Out      string // folder of result.json, rows.csv, the head and report.html; "": none
	Force    bool   // as in Options

	MaxBad int // images of each set that may fail to decode
	// Shard and Shards only encode part i of n into Features; a call without them
	// continues from there.
	Shard, Shards int

	Meter Meters // nil: none
}

// ProbeResult is the outcome of Probe.
type ProbeResult struct {
	Model      ModelInfo         `json:"model"`
	Train      ProbeSet          `json:"train"`
	Val        *ProbeSet         `json:"val,omitempty"` // absent where a fifth of Train was held out
	Data       ProbeSet          `json:"data"`
	Classes    int               `json:"classes"`
	ClassNames []string          `json:"class_names,omitempty"` // where there are some
	Labels     []string          `json:"labels,omitempty"`      // what the sets call the classes, in order
	Probe      *ProbeScore       `json:"probe,omitempty"`       // absent from a part
	Head       *HeadInfo         `json:"head,omitempty"`        // the regression's file in Options.Out
	Sweep      []SweepStep       `json:"sweep"`                 // the penalties tried, ascending
	Shots      []ShotScore       `json:"shots"`
	Neighbours *NeighbourScore   `json:"neighbours,omitempty"`
	ZeroShot   *ZeroShotLine     `json:"zero_shot,omitempty"` // where the classes have names
	Features   string            `json:"features"`            // the folder
	Shard      *ShardInfo        `json:"shard,omitempty"`
	Backend    string            `json:"backend"`
	DType      string            `json:"dtype"`
	Key        string            `json:"key"` // hash of model, sets, words and settings
	Versions   map[string]string `json:"versions"`
}

// ProbeSet is a set of images and its features.
type ProbeSet struct {
	Source      string    `json:"source"`
	N           int       `json:"n"` // images that decode
	Fingerprint string    `json:"fingerprint"`
	Skipped     []Skipped `json:"skipped"`
}

// ProbeScore is a logistic regression and what it gets right.
type ProbeScore struct {
	L2 float64 `json:"l2"`
	// Loss is what was minimised, a row of the NTrain: (Σ −log p + l2/2·|W|²) / n.
	Loss         float64    `json:"loss"`
	NTrain       int        `json:"n_train"`
	Iterations   int        `json:"iterations"`
	Converged    bool       `json:"converged"`
	Top1         float64    `json:"top1"`
	Top5         float64    `json:"top5"`
	MeanPerClass float64    `json:"mean_per_class"`
	Correct1     int        `json:"correct1"`
	Correct5     int        `json:"correct5"`
	N            int        `json:"n"`
	Ties         int        `json:"ties"`
	CI95         [2]float64 `json:"ci95_top1"`
}

// SweepStep is a penalty and its top-1 on the validation images.
type SweepStep struct {
	L2   float64 `json:"l2"`
	Top1 float64 `json:"top1"`
}

// ShotScore is a probe of K images of each class, or of all where there are fewer.
type ShotScore struct {
	K    int     `json:"k"`
	Seed int     `json:"seed"`
	L2   float64 `json:"l2"`
	N    int     `json:"n_train"`
	Loss float64 `json:"loss"`
	Top1 float64 `json:"top1"`
}

// NeighbourScore is what the K nearest training images get right.
type NeighbourScore struct {
	K    int        `json:"k"`
	Top1 float64    `json:"top1"`
	CI95 [2]float64 `json:"ci95_top1"`
}

// ZeroShotLine is the same images scored by the class names alone.
type ZeroShotLine struct {
	Top1      float64    `json:"top1"`
	CI95      [2]float64 `json:"ci95_top1"`
	Templates int        `json:"templates"`
}

// check finds what is wrong with the options before anything is opened.
func (o *ProbeOptions) check() error {
	for _, s := range []struct{ field, v string }{{"Options.Train", o.Train}, {"Options.Data", o.Data}} {
		if s.v == "" {
			return fault.Usagef("%s: want images with labels", s.field)
		}
	}
	switch {
	case math.IsNaN(o.L2) || math.IsInf(o.L2, 0) || o.L2 < 0:
		return fault.Usagef("Options.L2 %g: want a number above 0, or 0 for a sweep", o.L2)
	case o.L2 > 0 && o.Val != "":
		return fault.Usagef("Options.Val: chooses the penalty, which Options.L2 already gives; leave out one of the two")
	case o.Seeds < 0:
		return fault.Usagef("Options.Seeds %d: want 0 or more", o.Seeds)
	case o.Neighbours < 0:
		return fault.Usagef("Options.Neighbours %d: want 0 or more", o.Neighbours)
	case o.Out != "" && o.Shards > 1:
		return fault.Usagef("Options.Out: a part has features but no result; leave it out and give Options.Features")
	}
	for _, k := range o.Shots {
		if k < 1 {
			return fault.Usagef("Options.Shots %d: want 1 or more images per class", k)
		}
	}
	if err := cmp.Or(checkCounts(o.Batch, o.Workers, 0, o.MaxBad), checkPart(o.Shard, o.Shards)); err != nil {
		return err
	}
	if len(o.Folders) > 0 && len(o.Folders) != len(o.ClassNames) {
		return fault.Usagef("Folders has %d entries for %d ClassNames; want one per class", len(o.Folders), len(o.ClassNames))
	}
	if err := dataset.CheckTemplates("templates", o.Templates); len(o.Templates) > 0 && err != nil {
		return err
	}
	inputs := append(slices.Concat(dataset.Local(o.Train), dataset.Local(o.Data), dataset.Local(o.Val)), o.Model, o.Config)
	for _, dir := range []string{o.Out, o.Features} {
		if st, err := os.Stat(dir); dir != "" && err == nil && !st.IsDir() {
			return fault.Envf("%s: is a file; Options.Out and Options.Features must be folders", fault.Name(dir))
		}
	}
	if o.Out != "" {
		if err := atomicfile.Folder(o.Out, []string{resultFile, rowsFile, headFile, reportFile}, inputs); err != nil {
			return err
		}
	}
	return checkModel(o.Opened, o.Model, o.OpenOptions)
}

// Probe fits a logistic regression to the features of o.Train, and scores it and
// the nearest neighbours on o.Data. The objective is that of scikit-learn's
// LogisticRegression with C = 1/L2 on features of length 1.
func Probe(ctx context.Context, o ProbeOptions) (_ *ProbeResult, err error) {
	defer fault.Public(ctx, &err)
	words, err := Options{ClassNames: o.ClassNames, Folders: o.Folders, Templates: o.Templates, ClassNamesFile: o.ClassNamesFile, TemplatesFile: o.TemplatesFile}.readWords(false)
	if err != nil {
		return nil, err
	}
	o.ClassNames, o.Folders, o.Templates = words.ClassNames, words.Folders, words.Templates
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Seeds == 0 {
		o.Seeds = 1
	}
	if o.Neighbours == 0 {
		o.Neighbours = 20
	}
	if len(o.Templates) == 0 {
		o.Templates = defaultTemplates
	}
	res, err := withModel(ctx, o.Opened, o.Model, o.OpenOptions, func(ctx context.Context, m *Model) (*ProbeResult, error) {
		p := &probe{o: o, own: words.Prompts, perFile: storedRows}
		p.run = &run{o: p.scoring().on(m).defaults(), cfg: m.file.Config, pre: m.pixels(), model: m.info(), backend: m.backend(), arithmetic: m.arithmetic()}
		p.run.texts, p.run.words = max(p.run.o.Batch, textBatch), m.textTokens
		p.run.open = func(cfg *arch.Config, dtype string) (encoder, func(), error) {
			return m.runner(ctx, cfg, calls(p.run.o.Batch, dtype, math.MaxInt, math.MaxInt))
		}
		defer p.run.release()
		return p.score(ctx)
	})
	return res, swapped(err, o.Data, o.Train)
}

func (p *probe) scoring() Options {
	o := p.o
	return Options{Model: o.Model, OpenOptions: o.OpenOptions, MaxBad: o.MaxBad, Shard: o.Shard, Shards: o.Shards, Meter: o.Meter}
}

// probe is one call of Probe.
type probe struct {
	o       ProbeOptions
	run     *run
	perFile int // images of a file of features
	res     *ProbeResult

	names            []string            // of the classes, or nil
	own              map[string][]string // their prompts, instead of templates
	train, val, test *featureSet
	basis            *logistic.Basis

	head    *learned
	answers []row // to the test images, in order
}

func (p *probe) score(ctx context.Context) (*ProbeResult, error) {
	dir, err := featureFolder(p.o.Features)
	if err != nil {
		return nil, err
	}
	r := p.run
	p.res = &ProbeResult{Model: r.model, Features: dir, Backend: r.backend, DType: r.o.DType, Versions: runlog.Versions(), Sweep: []SweepStep{}, Shots: []ShotScore{}}
	if r.o.Shards > 1 {
		p.res.Shard = &ShardInfo{Index: r.o.Shard, Count: r.o.Shards}
	}
	if err := p.claim(); err != nil {
		return nil, err
	}
	order := p.o.ClassNames // what a label's number means, in every set
	if len(p.o.Folders) > 0 {
		order = p.o.Folders
	}
	p.names = p.o.ClassNames
	if p.train, err = p.features(ctx, dir, "train", p.o.Train, &order, &p.res.Train); err != nil {
		return nil, err
	}
	if p.o.Val != "" {
		p.res.Val = &ProbeSet{}
		if p.val, err = p.features(ctx, dir, "val", p.o.Val, &order, p.res.Val); err != nil {
			return nil, err
		}
	}
	if p.test, err = p.features(ctx, dir, "test", p.o.Data, &order, &p.res.Data); err != nil {
		return nil, err
	}
	p.res.ClassNames, p.res.Labels = p.names, order
	if p.res.Shard != nil {
		return p.res, nil
	}
	return p.res, p.learn(ctx)
}

// claim refuses a folder that holds another evaluation. Features lie elsewhere.
func (p *probe) claim() error {
	o, r := p.o, p.run
	p.res.Key = contentKey("probe 1", r.model.SHA256, string(r.cfg.JSON()), fmt.Sprintf("%+v", r.pre), o.Train, o.Val, o.Data,
		contentKey(o.ClassNames...), contentKey(o.Templates...), contentKey(o.Folders...), fmt.Sprint(o.L2, o.Shots, o.Seeds, o.Neighbours))
	if o.Out == "" || o.Shards > 1 {
		return nil
	}
	held, what := heldIn(o.Out, "")
	if what == "" || held != nil && held.Benchmark == probeName && held.Key == p.res.Key && held.Backend == r.backend && held.DType == r.o.DType {
		return nil
	}
	mine := identity{Benchmark: probeName, Model: r.model.File, SHA256: r.model.SHA256, Data: fault.Masked(o.Data)}
	why := "different data or settings"
	switch {
	case held == nil || held.Benchmark != probeName:
		why = "different kind of evaluation"
	case held.SHA256 != mine.SHA256:
		why = "different model"
	}
	return occupied(o.Out, why, held, mine.of(), o.Force)
}

// features are those of a set. Its classes are numbered by order, which the first
// set settles.
func (p *probe) features(ctx context.Context, dir, label, src string, order *[]string, into *ProbeSet) (*featureSet, error) {
	r := p.run
	r.o.Data = src
	var err error
	if r.data, err = openSource(ctx, src, dataset.Options{ClassNames: *order, Log: r.o.Log}, r.pre); err != nil {
		return nil, err
	}
	defer r.data.Close()
	if *order == nil {
		*order = r.data.Classes()
		for _, f := range *order {
			p.names = append(p.names, spoken(f))
		}
	}
	r.key = contentKey("features 3", r.model.SHA256, string(r.cfg.JSON()), fmt.Sprintf("%+v", r.pre), r.o.DType, r.arithmetic,
		identityOf(ctx, r.data), sampleOf(r.data), contentKey(*order...), strconv.Itoa(p.perFile))
	set, err := r.store(ctx, dir, label, p.perFile, label == "test")
	if err != nil {
		return nil, err
	}
	for _, l := range set.labels {
		if n := len(*order); n > 0 && l >= n {
			return nil, fault.Inputf("%s: has label %d, but there are %d classes; check Options.ClassNames", fault.Name(src), l, n)
		}
		p.res.Classes = max(p.res.Classes, l+1, len(*order))
	}
	*into = ProbeSet{Source: fault.Masked(src), N: set.Len(), Fingerprint: r.data.Fingerprint(), Skipped: append([]Skipped{}, set.skipped...)}
	return set, nil
}

// learn fits and scores everything.
func (p *probe) learn(ctx context.Context) (err error) {
	if p.basis, err = logistic.NewBasis(p.train); err != nil {
		return fault.As(fault.Input, err)
	}
	fit, val, both := p.split()
	l2 := p.o.L2
	if l2 == 0 {
		if l2, p.res.Sweep, err = p.sweep(ctx, fit, val); err != nil {
			return err
		}
	}
	l, err := p.fit(ctx, both, l2, logistic.Options{}, nil)
	if err != nil {
		return err
	}
	t, err := l.score(ctx, all(p.test), p.res.Classes, func(r row) { p.answers = append(p.answers, r) })
	if err != nil {
		return err
	}
	if !l.model.Converged {
		p.run.o.Log.Warn("the regression did not converge; a larger Options.L2 helps", "iterations", l.model.Iterations)
	}
	p.head = l
	p.res.Probe = &ProbeScore{L2: l2, Loss: l.model.Loss, NTrain: both.Len(), Iterations: l.model.Iterations, Converged: l.model.Converged}
	p.res.Probe.count(t)
	if err := p.shots(ctx, fit, val); err != nil {
		return err
	}
	if err := p.neighbours(ctx, both); err != nil {
		return err
	}
	if err := p.zeroShot(ctx); err != nil {
		return err
	}
	if p.o.Out == "" {
		return nil
	}
	return p.write()
}

// split returns the images to fit, those to choose the penalty by, and both
// together for the final fit: CLIP's paper, A.3. Without a validation set a fifth
// of every class is held out; with a given penalty nothing is.
func (p *probe) split() (fit, val, both picked) {
	switch {
	case p.o.L2 > 0:
		return all(p.train), picked{}, all(p.train)
	case p.val != nil:
		return all(p.train), all(p.val), all(p.train, p.val)
	}
	whole := all(p.train)
	fit, val = picked{sets: whole.sets}, picked{sets: whole.sets}
	held := make([]bool, whole.Len())
	for _, rows := range p.drawn(whole, 0) {
		for _, i := range rows[:len(rows)/5] {
			held[i] = true
		}
	}
	for i, at := range whole.places {
		if held[i] {
			val.places = append(val.places, at)
		} else {
			fit.places = append(fit.places, at)
		}
	}
	return fit, val, whole
}

// drawn are the rows of each class in a random order.
func (p *probe) drawn(x picked, seed int) [][]int {
	rows := make([][]int, p.res.Classes)
	for i := range x.Len() {
		rows[x.label(i)] = append(rows[x.label(i)], i)
	}
	rng := rand.New(rand.NewPCG(uint64(seed), 3))
	for _, list := range rows {
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	return rows
}

// fit learns x. A class without images has no finite intercept and is left out,
// as scikit-learn does.
func (p *probe) fit(ctx context.Context, x picked, l2 float64, o logistic.Options, start *learned) (*learned, error) {
	number := make([]int, p.res.Classes) // of a class among those that occur, plus one
	for i := range x.Len() {
		number[x.label(i)] = 1
	}
	l := &learned{}
	for c, there := range number {
		if there == 1 {
			l.classes = append(l.classes, c)
			number[c] = len(l.classes)
		}
	}
	if len(l.classes) < 2 {
		return nil, fault.Inputf("%s: has images of only %d class; a regression needs at least two", fault.Name(p.o.Train), len(l.classes))
	}
	y := make([]int, x.Len())
	for i := range y {
		y[i] = number[x.label(i)] - 1
	}
	o.L2 = l2
	if start != nil {
		o.Start = start.model
	}
	var err error
	l.model, err = logistic.Fit(ctx, x, y, len(l.classes), p.basis, o)
	return l, err
}

// score counts the answers for x, and hands them to use, unless that is nil.
func (l *learned) score(ctx context.Context, x picked, classes int, use func(row)) (*tally, error) {
	t := newTally(make([]string, classes))
	err := l.model.Logits(ctx, x, func(i int, logits []float64) {
		r := row{Label: x.label(i)}
		l.rank(&r, logits)
		t.add(r)
		if use != nil {
			use(r)
		}
	})
	return t, err
}

// sweepSteps is how many steps of an eighth of a decade lie between 1e-6 and 1e6.
const sweepSteps = 96

// sweep finds the penalty as CLIP's paper does (A.3): seven powers of ten, then
// half the distance on both sides of the best, down to an eighth of a decade.
// Among equals the larger penalty is better.
func (p *probe) sweep(ctx context.Context, fit, val picked) (best float64, tried []SweepStep, err error) {
	if val.Len() == 0 {
		return 0, nil, fault.Inputf("%s: no class has five images, the fewest from which one can be held out to choose the penalty; give Options.Val or Options.L2", fault.Name(p.o.Train))
	}
	penalty := func(step int) float64 { return math.Pow(10, float64(step)/8-6) }
	top := map[int]float64{}
	var last *learned
	try := func(step int) error {
		if _, done := top[step]; done || step < 0 || step > sweepSteps {
			return nil
		}
		l, err := p.fit(ctx, fit, penalty(step), logistic.Options{Tolerance: 1e-7, Most: 1000}, last)
		if err != nil {
			return err
		}
		t, err := l.score(ctx, val, p.res.Classes, nil)
		if err != nil {
			return err
		}
		last, top[step] = l, ratio(t.top1, t.n)
		tried = append(tried, SweepStep{penalty(step), top[step]})
		return nil
	}
	peak := 0
	better := func() {
		for step := range sweepSteps + 1 {
			if v, done := top[step]; done && v >= top[peak] {
				peak = step
			}
		}
	}
	for step := sweepSteps; step >= 0; step -= 16 { // the easy ones first: each is the next one's start
		if err := try(step); err != nil {
			return 0, nil, err
		}
	}
	better()
	for width := 8; width >= 1; width /= 2 {
		at := peak
		for _, step := range []int{at + width, at - width} {
			if err := try(step); err != nil {
				return 0, nil, err
			}
		}
		better()
	}
	slices.SortFunc(tried, func(a, b SweepStep) int { return int(math.Copysign(1, a.L2-b.L2)) })
	return penalty(peak), tried, nil
}

// shots learns from few images of each class.
func (p *probe) shots(ctx context.Context, fit, val picked) error {
	for _, k := range p.o.Shots {
		for seed := range p.o.Seeds {
			few := picked{sets: fit.sets}
			for c, rows := range p.drawn(fit, seed+1) {
				if seed == 0 && len(rows) > 0 && len(rows) < k {
					p.run.o.Log.Warn("a class has fewer images than shots; taking all of them", "class", c, "images", len(rows), "shots", k)
				}
				for _, i := range rows[:min(k, len(rows))] {
					few.places = append(few.places, fit.places[i])
				}
			}
			l2 := p.o.L2
			if l2 == 0 {
				var err error
				if l2, _, err = p.sweep(ctx, few, val); err != nil {
					return err
				}
			}
			l, err := p.fit(ctx, few, l2, logistic.Options{}, nil)
			if err != nil {
				return err
			}
			t, err := l.score(ctx, all(p.test), p.res.Classes, nil)
			if err != nil {
				return err
			}
			p.res.Shots = append(p.res.Shots, ShotScore{k, seed, l2, few.Len(), l.model.Loss, ratio(t.top1, t.n)})
		}
	}
	return nil
}

// neighbours asks the nearest images of x.
func (p *probe) neighbours(ctx context.Context, x picked) error {
	y := make([]int, x.Len())
	for i := range y {
		y[i] = x.label(i)
	}
	k := min(p.o.Neighbours, x.Len())
	found, err := logistic.Neighbours(ctx, x, y, p.res.Classes, p.test, k)
	if err != nil {
		return err
	}
	right := 0
	for i, c := range found {
		if c == p.test.labels[i] {
			right++
		}
	}
	p.res.Neighbours = &NeighbourScore{k, ratio(right, len(found)), Wilson(right, len(found))}
	return nil
}

// zeroShot scores the same images by the names of the classes, where they have some
// and the model reads texts.
func (p *probe) zeroShot(ctx context.Context) error {
	if len(p.names) == 0 {
		return nil
	}
	if _, err := p.run.tokenizer(ctx); err != nil {
		return nil
	}
	p.run.w = prompts{names: p.names, templates: p.o.Templates, own: p.own}
	if err := p.run.w.complete(); err != nil {
		return err
	}
	c, err := p.run.classifier(ctx)
	if err != nil {
		return err
	}
	right := 0
	feature, logits := make([]float32, p.test.dim), make([]float32, len(p.names))
	for i, label := range p.test.labels {
		if err := p.test.Read(feature, i, i+1); err != nil {
			return err
		}
		c.logits(logits, feature)
		if slices.Index(logits, slices.Max(logits)) == label {
			right++
		}
	}
	p.res.ZeroShot = &ZeroShotLine{ratio(right, p.test.Len()), Wilson(right, p.test.Len()), len(p.run.w.texts(p.names[0]))}
	return nil
}

// write writes the head, rows.csv, report.html and, last, result.json.
func (p *probe) write() (err error) {
	if err := os.MkdirAll(p.o.Out, 0o755); err != nil {
		return fault.File(p.o.Out, "a folder that can be written, as Options.Out", err)
	}
	res := p.res
	if res.Head, err = p.head.save(p.o.Out, res); err != nil {
		return err
	}
	if err := writeCSV(filepath.Join(p.o.Out, rowsFile), p.rows(p.test, p.answers)); err != nil {
		return err
	}
	if err := p.writeReport(); err != nil {
		return err
	}
	return atomicfile.WriteJSON(filepath.Join(p.o.Out, resultFile), res)
}

func (p *probe) writeReport() error {
	res := p.res
	page := runlog.NewPage("Probe", fmt.Sprintf("%s on %s", filepath.Base(res.Model.File), res.Data.Source))
	s := res.Probe
	stats := []runlog.Stat{
		{Label: "linear probe, top-1", Value: percent(s.Top1), Note: interval(s.CI95)},
		{Label: "top-5", Value: percent(s.Top5), Note: fmt.Sprintf("%d images, %d skipped", s.N, len(res.Data.Skipped))},
		{Label: "mean per class", Value: percent(s.MeanPerClass), Note: fmt.Sprintf("%d classes", res.Classes)},
		{Label: fmt.Sprintf("%d nearest neighbours", res.Neighbours.K), Value: percent(res.Neighbours.Top1), Note: interval(res.Neighbours.CI95)},
	}
	if z := res.ZeroShot; z != nil {
		stats = append(stats, runlog.Stat{Label: "zero-shot, top-1", Value: percent(z.Top1), Note: interval(z.CI95)})
	}
	page.Stats(stats...)
	skipped := len(res.Train.Skipped)
	if res.Val != nil {
		skipped += len(res.Val.Skipped)
	}
	page.Note(fmt.Sprintf("Logistic regression of %d images (%d skipped), l2 %.4g, loss %.6g after %d steps.", s.NTrain, skipped, s.L2, s.Loss, s.Iterations))
	if len(res.Shots) > 0 {
		page.Section("Few images of each class")
		page.Line(shotChart(res))
		var rows [][]string
		for _, s := range res.Shots {
			rows = append(rows, []string{strconv.Itoa(s.K), strconv.Itoa(s.Seed), strconv.Itoa(s.N), fmt.Sprintf("%.4g", s.L2), percent(s.Top1)})
		}
		page.Table([]string{"images a class", "seed", "images", "l2", "top-1"}, rows)
	}
	if len(res.Sweep) > 0 {
		page.Section("How the penalty was chosen")
		var rows [][]string
		for _, s := range res.Sweep {
			rows = append(rows, []string{fmt.Sprintf("%.4g", s.L2), percent(s.Top1)})
		}
		page.Table([]string{"l2", "top-1 of the validation images"}, rows)
	}
	return page.WriteFile(filepath.Join(p.o.Out, reportFile))
}

// shotChart is the mean over the seeds by shots, beside what needs none.
func shotChart(res *ProbeResult) runlog.LineChart {
	sum, n := map[int]float64{}, map[int]int{}
	for _, s := range res.Shots {
		sum[s.K] += s.Top1
		n[s.K]++
	}
	curve := runlog.Series{Name: "linear probe"}
	for _, k := range slices.Sorted(maps.Keys(n)) {
		curve.X, curve.Y = append(curve.X, float64(k)), append(curve.Y, 100*sum[k]/float64(n[k]))
	}
	chart := runlog.LineChart{Title: "Top-1 by images a class, mean over the seeds", XLabel: "images a class", YLabel: "%", Series: []runlog.Series{curve}, Levels: []runlog.Level{
		{Name: "chance", Y: 100 / float64(max(1, res.Classes))}, {Name: "all images", Y: 100 * res.Probe.Top1},
	}}
	if res.ZeroShot != nil {
		chart.Levels = append(chart.Levels, runlog.Level{Name: "zero-shot", Y: 100 * res.ZeroShot.Top1})
	}
	return chart
}
