package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/shard"
)

// ZeroShot scores a model on o.Data. With an error of KindCheck the result is
// returned too.
func ZeroShot(ctx context.Context, o Options) (_ *Result, err error) {
	defer fault.Public(ctx, &err)
	if o, err = o.readWords(false); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	res, err := withModel(ctx, o.Opened, o.Model, o.OpenOptions, func(ctx context.Context, m *Model) (*Result, error) {
		return zeroShot(ctx, m, o)
	})
	return res, swapped(err, o.Data)
}

func zeroShot(ctx context.Context, m *Model, o Options) (*Result, error) {
	r := newRun(ctx, m, o)
	defer r.release()
	return r.score(ctx)
}

// newRun is an evaluation with an open model.
func newRun(ctx context.Context, m *Model, o Options) *run {
	r := &run{o: o.on(m).defaults(), cfg: m.file.Config, pre: m.file.Preprocess, model: m.info(), backend: m.backend(), arithmetic: m.arithmetic()}
	if !isTensors(o.Data) {
		r.pre = m.pixels()
	}
	r.texts, r.words = max(r.o.Batch, textBatch), m.textTokens
	r.open = func(cfg *arch.Config, dtype string) (encoder, func(), error) {
		lo, hi := r.bounds()
		texts := r.w.count()
		if r.w.fromFeatures() {
			texts = math.MaxInt
		}
		return m.runner(ctx, cfg, calls(r.o.Batch, dtype, hi-lo, texts))
	}
	return r
}

// ZeroShotWith scores an encoder that is already built, such as a model in
// training. Its classifier is built anew every time, and a run continues where
// it was only when o.ModelID says what the weights are.
func ZeroShotWith(ctx context.Context, enc Encoder, o Options) (_ *Result, err error) {
	defer fault.Public(ctx, &err)
	if o, err = o.readWords(false); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	cfg, err := arch.Parse(enc.Config())
	if err != nil {
		return nil, err
	}
	r := &run{o: o.defaults(), cfg: cfg, pre: cfg.Preprocess()}
	r.o.Cache = "off"
	r.o.NoDiagnosis = true
	r.o.Fresh = o.Fresh || o.ModelID == ""
	r.model = ModelInfo{SHA256: o.ModelID, Preprocess: Preprocess(r.pre)}
	r.open = func(*arch.Config, string) (encoder, func(), error) { return given{enc, cfg}, func() {}, nil }
	r.texts = r.o.Batch
	return r.score(ctx)
}

// encoder is a model as scoring uses it: *clip.Runner, or given.
type encoder interface {
	Images(ctx context.Context, flat []float32, n int) ([]float32, error)
	Texts(ctx context.Context, tokens []int32, n int) ([]float32, error)
	Config() *arch.Config
}

// given is a caller's Encoder.
type given struct {
	Encoder
	cfg *arch.Config
}

func (g given) Config() *arch.Config { return g.cfg }

func (g given) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	rows, err := g.Encoder.Images(ctx, flat, n)
	return g.own(rows, err, n, "images")
}

func (g given) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	rows, err := g.Encoder.Texts(ctx, tokens, n)
	return g.own(rows, err, n, "texts")
}

// own is a copy of an encoder's features, which scoring makes unit vectors in place.
func (g given) own(rows []float32, err error, n int, what string) ([]float32, error) {
	if err == nil && len(rows) != n*g.cfg.EmbedDim {
		return nil, fault.Usagef("the encoder gave %d values for %d %s; want a row of embed_dim %d for each", len(rows), n, what, g.cfg.EmbedDim)
	}
	return slices.Clone(rows), err
}

// run is one evaluation.
type run struct {
	o          Options
	cfg        *arch.Config
	pre        arch.Preprocess
	model      ModelInfo
	backend    string
	arithmetic string // of the features: Model.arithmetic
	texts      int    // prompts of a call at most
	open       func(cfg *arch.Config, dtype string) (encoder, func(), error)
	free       func()                                              // gives the encoder's memory back, or nil
	words      func(context.Context) (checkpoint.Tokenizer, error) // nil: CLIP's BPE

	w       prompts
	head    *learned    // of a probe, instead of class vectors
	claims  map[int]row // of a verification: what is said of an image
	data    source
	scored  []int  // indices of all shards, in order
	evenly  string // how a limit takes images from all over the set; "": it does not
	key     string
	seconds Seconds
	start   time.Time
	seen    int // images of this session

	once sync.Once
	enc  encoder
	err  error
}

// encoder builds the model when it is first needed: a finished run needs none.
func (r *run) encoder() (encoder, error) {
	r.once.Do(func() {
		start := time.Now()
		r.enc, r.free, r.err = r.open(r.cfg, r.o.DType)
		r.seconds.Load = time.Since(start).Seconds()
	})
	return r.enc, r.err
}

func (r *run) release() {
	if r.free != nil {
		r.free()
	}
}

func (r *run) score(ctx context.Context) (*Result, error) {
	r.start = time.Now()
	var want *expectation
	if r.o.Expect != "" {
		e, err := parseExpect(r.o.Expect)
		if err != nil {
			return nil, err
		}
		want = &e
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	defer r.data.Close()
	entries, err := r.entries(ctx)
	if err != nil {
		return nil, err
	}
	res, err := r.result(entries)
	if err != nil {
		return nil, err
	}
	res.Words = r.w.instead
	res.publish()
	if r.o.Out != "" && r.seen == 0 {
		keepOld(filepath.Join(r.o.Out, resultFile), res)
	}
	if res.outside() && r.w.kind == "" && !r.o.NoDiagnosis && len(res.Diagnosis) == 0 {
		if res.Diagnosis, err = r.diagnose(ctx, entries); err != nil {
			return nil, err
		}
	}
	if err := r.finish(ctx, res, entries); err != nil {
		return nil, err
	}
	if want == nil {
		return res, nil
	}
	return res, want.check(r.w.metric, res.Value)
}

// prepare opens the data and settles the words: everything that can be wrong
// before the model is loaded.
func (r *run) prepare(ctx context.Context) (err error) {
	if r.w, err = promptsFor(r.o); err != nil {
		return err
	}
	if len(r.o.Classifiers) == 0 {
		if err := r.readsTexts(ctx, r.o.Model); err != nil {
			return err
		}
	}
	for _, path := range r.o.Classifiers {
		hash, err := classifierHash(path)
		if err != nil {
			return err
		}
		r.w.matrices = append(r.w.matrices, hash)
	}
	if err := r.w.fromData(ctx, r.o); err != nil {
		return err
	}
	if r.data, err = r.source(ctx); err != nil {
		return err
	}
	if err = r.settle(ctx); err != nil {
		r.data.Close()
	}
	return err
}

// source opens the data as its kind requires.
func (r *run) source(ctx context.Context) (source, error) {
	switch {
	case r.w.kind == dataset.Choice:
		return openChoices(ctx, r.w.name, r.o.Data, r.o.Limit, r.pre)
	case r.w.kind == dataset.MultiLabel && isVOC(r.o.Data):
		return openVOC(r.o.Data, r.w.names, r.pre)
	}
	return openSource(ctx, r.o.Data, dataset.Options{
		ClassNames: r.w.labels, Also: r.w.also, SkipOthers: r.w.partial, Log: r.o.Log,
		Metadata: r.w.group != nil || r.w.kind == dataset.MultiLabel, Unlabelled: r.w.kind == dataset.MultiLabel,
	}, r.pre)
}

// settle completes the words and names the run.
func (r *run) settle(ctx context.Context) error {
	if r.w.fromFeatures() {
		r.choose()
		r.name(ctx)
		return nil
	}
	if err := r.nameClasses(); err != nil {
		return err
	}
	if tok, err := r.tokenizer(ctx); err == nil {
		if err := r.w.sayable(r.o.Language, tok, r.cfg.Text.ContextLength); err != nil {
			return err
		}
	}
	r.choose()
	if err := r.checkLabels(); err != nil {
		return err
	}
	r.name(ctx)
	return nil
}

// nameClasses takes the data's own names where no others are given, and completes
// the words.
func (r *run) nameClasses() error {
	if len(r.w.names) == 0 {
		for _, f := range r.data.Classes() {
			r.w.names = append(r.w.names, spoken(f))
		}
	}
	if len(r.w.names) == 0 {
		return fault.Usagef("%s: has no class names of its own; give Options.ClassNames, one a line", r.o.Data)
	}
	return r.w.complete()
}

// name makes the key of the run: all that its rows depend on.
func (r *run) name(ctx context.Context) {
	pre, _ := json.Marshal(r.pre)
	parts := []string{"zeroshot 1", r.w.name, r.model.SHA256, string(r.cfg.JSON()), string(pre), r.o.DType,
		contentKey(r.w.names...), contentKey(r.w.templates...), identityOf(ctx, r.data),
		fmt.Sprint(r.o.Limit, r.o.Spread)}
	if r.w.own != nil || r.w.matrices != nil {
		parts = append(parts, contentKey(r.w.key()...))
	}
	if tok, err := r.tokenizer(ctx); err == nil && r.w.matrices == nil {
		parts = append(parts, r.tokens(tok)...)
	}
	if r.evenly != "" {
		parts = append(parts, r.evenly)
	}
	if r.w.kind != "" || r.w.group != nil {
		parts = append(parts, r.w.kind, fmt.Sprint(r.w.group))
	}
	r.key = contentKey(parts...)
}

// choose lists the images of all shards.
func (r *run) choose() {
	n := r.data.Len()
	k := n
	if r.o.Limit > 0 && r.w.kind != dataset.Choice { // whose limit is of questions
		k = min(k, r.o.Limit)
	}
	r.scored = make([]int, k)
	spread := r.o.Spread
	if p, ok := r.data.(*pictures); ok && k < n && !spread {
		if labels := dataset.Labels(p.Dataset); labels != nil && r.w.kind == "" {
			r.scored, r.evenly = classesEvenly(labels, k), "of every class"
			return
		}
		spread, r.evenly = true, "at equal distances"
		r.o.Log.Info("scoring images at equal distances, as the data does not give their classes beforehand", "images", k, "of", n)
	}
	for i := range r.scored {
		r.scored[i] = i
		if spread {
			r.scored[i] = i * n / k
		}
	}
}

// limited is how many images the data has where a limit leaves some out, else 0.
func (r *run) limited() int {
	if n := r.data.Len(); n > len(r.scored) {
		return n
	}
	return 0
}

// classesEvenly picks k rows, in order: the first of every class, then the
// second, and so on.
func classesEvenly(labels []int, k int) []int {
	seen := map[int]int{}
	order := make([]int, len(labels))
	nth := make([]int, len(labels))
	for i, l := range labels {
		order[i], nth[i] = i, seen[l]
		seen[l]++
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(nth[a], nth[b]) })
	picked := order[:k]
	slices.Sort(picked)
	return picked
}

// checkLabels finds a wrong label before any work when labels cost nothing.
func (r *run) checkLabels() error {
	t, ok := r.data.(*tensorSource)
	if !ok || r.w.kind == dataset.MultiLabel {
		return nil
	}
	for _, i := range r.scored {
		if _, err := r.label(sample{Key: fmt.Sprintf("labels[%d]", i), Label: t.labels[i]}); err != nil {
			return err
		}
	}
	return nil
}

// label is the class id of a sample.
func (r *run) label(s sample) (int, error) {
	switch id := s.Label; {
	case id == -1:
		return 0, fault.Inputf("%s: %s has no label; zero-shot needs one per image%s", r.o.Data, fault.Name(s.Key), s.because())
	case id < 0 || id >= len(r.w.names):
		return 0, fault.Inputf("%s: %s has label %d, but the %d classes are 0 to %d; check Options.ClassNames", r.o.Data, fault.Name(s.Key), id, len(r.w.names), len(r.w.names)-1)
	}
	return s.Label, nil
}

// tokenizer is the model's; CLIP's BPE for an encoder that has none of its own.
func (r *run) tokenizer(ctx context.Context) (checkpoint.Tokenizer, error) {
	if r.words != nil {
		return r.words(ctx)
	}
	if err := r.cfg.CheckTexts(); err != nil {
		return nil, err
	}
	return bpe.New(), nil
}

// readsTexts says why the model cannot read texts.
func (r *run) readsTexts(ctx context.Context, model string) error {
	_, err := r.tokenizer(ctx)
	if err != nil && !strings.Contains(err.Error(), model) {
		return fault.As(fault.Input, fmt.Errorf("%s: %w", model, err))
	}
	return err
}

// bounds is the part of r.scored that this shard covers.
func (r *run) bounds() (lo, hi int) { return shard.Range(len(r.scored), r.o.Shard, r.o.Shards) }

// entries scores what the journal does not have yet and returns this shard's
// entries in order.
func (r *run) entries(ctx context.Context) ([]entry, error) {
	lo, hi := r.bounds()
	j := &journal{}
	var done map[int]entry
	if r.o.Out != "" {
		if err := os.MkdirAll(r.o.Out, 0o755); err != nil {
			return nil, fault.File(r.o.Out, "a folder that can be written, as Options.Out", err)
		}
		key := contentKey(r.key, r.backend, fmt.Sprint(lo, hi))
		id := r.identity()
		if err := claim(r.o.Out, id, key, r.o.Force); err != nil {
			return nil, err
		}
		opened, old, err := openJournal(r.o.Out, key, &id, r.o.Fresh)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		if len(old) > 0 {
			r.o.Log.Info("resuming", "done", len(old), "of", hi-lo)
		}
		j, done = opened, old
		maps.DeleteFunc(done, func(_ int, e entry) bool { return !r.usable(e) })
		if bad := bads(done); len(done) < hi-lo || len(bad) > r.o.MaxBad {
			for _, e := range bad { // it may have been fetched again
				delete(done, e.Index)
			}
		}
	}
	var todo []int
	for _, i := range r.scored[lo:hi] {
		if _, ok := done[i]; !ok {
			todo = append(todo, i)
		}
	}
	scored, err := r.images(ctx, todo, bads(done), j)
	if kept := (keptError{}); ctx.Err() != nil && j.f != nil && len(scored)+len(done) > 0 && !errors.As(err, &kept) {
		return nil, fmt.Errorf("the images scored so far are kept in %s; run the same evaluation again to continue: %w", r.o.Out, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, hi-lo)
	for _, i := range r.scored[lo:hi] {
		e, ok := done[i]
		if !ok {
			e = scored[i]
		}
		out = append(out, e)
	}
	return out, nil
}

// usable says whether an entry of the journal is what this run would write.
func (r *run) usable(e entry) bool {
	if r.w.fromFeatures() && e.Bad == "" {
		return e.Found.whole(r.cfg.EmbedDim)
	}
	return e.fits(len(r.w.names))
}

func bads(entries map[int]entry) (list []entry) {
	for _, e := range entries {
		if e.Bad != "" {
			list = append(list, e)
		}
	}
	return list
}

// result counts the entries.
func (r *run) result(entries []entry) (*Result, error) {
	res := &Result{
		Benchmark: r.w.name, Kind: r.w.kind, Metric: r.w.metric, Model: r.model, Key: r.key,
		Data: DataInfo{
			Source: fault.Masked(r.o.Data), N: len(r.scored), Of: r.limited(), Classes: len(r.w.names), Templates: len(r.w.templates), Prompts: r.w.count(), Language: r.o.Language, Classifiers: r.w.matrices,
			Layout: r.data.Describe(), Fingerprint: r.data.Fingerprint(),
		},
		Backend: r.backend, DType: r.o.DType, Decoder: decoder(r.data),
		PeakRSS: runlog.PeakRSS(), Versions: runlog.Versions(),
	}
	if r.o.Shards > 1 {
		lo, hi := r.bounds()
		res.Shard = &ShardInfo{r.o.Shard, r.o.Shards, lo, hi}
	}
	if r.w.group != nil {
		res.Group = &GroupInfo{Name: r.w.group.Name, Column: r.w.group.Column}
	}
	if err := count(res, r.w.names, entries); err != nil {
		return nil, err
	}
	r.coverage(res)
	r.seconds.Total = time.Since(r.start).Seconds()
	res.Seconds = r.seconds
	if r.seen > 0 {
		res.ImagesPerSecond = float64(r.seen) / r.seconds.Images
	}
	return res, nil
}

// coverage logs how many classes have images, and warns when only class 0 has
// none: labels that are counted from one look like that.
func (r *run) coverage(res *Result) {
	if len(res.Skipped) == res.N || res.N == 0 || r.w.fromFeatures() {
		return
	}
	have, n := res.Data.ClassesWithImages, len(r.w.names)
	r.o.Log.Info("classes with images", "have", have, "of", n)
	if n > 2 && have == n-1 && res.PerClass[0].N == 0 && r.o.Limit == 0 {
		r.o.Log.Warn("every class but number 0 has images: are the data's labels counted from one?", "class 0", r.w.names[0])
	}
}

// count fills in everything that follows from the entries.
func count(res *Result, names []string, entries []entry) error {
	res.Skipped, res.Diagnosis = []Skipped{}, []Finding{}
	var rows []row
	for _, e := range entries {
		if e.Bad != "" {
			res.Skipped = append(res.Skipped, Skipped{e.Index, e.Key, e.Bad})
			continue
		}
		rows = append(rows, e.row)
	}
	switch {
	case len(rows) == 0 && len(res.Skipped) > 0 && res.Shard == nil:
		return fault.Inputf("no image decodes; the first is %s: %s", res.Skipped[0].Key, res.Skipped[0].Reason)
	case res.Kind == dataset.Choice && res.Shard != nil:
		// a question's pictures may lie in other parts
		res.PerClass, res.Confused = []ClassRow{}, []Confusion{}
	case res.Kind == dataset.Choice:
		found, err := answers(entries)
		if err != nil {
			return err
		}
		res.choose(found)
	default:
		res.tally(names, rows)
	}
	return nil
}

// tally counts the rows of classes.
func (res *Result) tally(names []string, rows []row) {
	t := newTally(names)
	res.rightAt = make(map[int]bool, len(rows))
	for _, r := range rows {
		t.add(r)
		right := r.Top[0] == r.Label || r.Scores != nil && slices.Contains(r.Meta, r.Top[0])
		if res.Metric == dataset.WorstGroupTop5 {
			right = slices.Contains(r.Top[:], r.Label)
		}
		res.rightAt[r.Index] = right
	}
	t.fill(res)
	if res.Kind == dataset.MultiLabel {
		s := rankClasses(rows, len(names))
		for c := range res.PerClass {
			ap := averagePrecision(s.order[c], s.has[c], nil)
			res.PerClass[c].AP = &ap
		}
		res.Ties, res.MeanPerClass, res.CI95.MeanPerClass = s.ties, 0, [2]float64{}
		res.Value, res.CI95.Value = s.mean(nil), bootstrap(len(rows), s.mean)
	} else {
		res.Value, res.CI95.Value = res.value(rows)
	}
	res.Data.ClassesWithImages = 0
	for _, c := range res.PerClass {
		if c.N > 0 {
			res.Data.ClassesWithImages++
		}
	}
}

func decoder(s source) string {
	if _, ok := s.(*tensorSource); ok {
		return "none"
	}
	return img.Decoder
}

// finish compares with what was published and writes the files.
func (r *run) finish(ctx context.Context, res *Result, entries []entry) error {
	if r.o.SaveClassifier != "" {
		c, err := r.classifier(ctx)
		if err != nil {
			return err
		}
		if err := c.save(r.o.SaveClassifier, r.key); err != nil {
			return err
		}
	}
	if r.o.Predictions != "" {
		if err := writePredictions(r.o.Predictions, r.w.names, entries); err != nil {
			return err
		}
	}
	if r.o.Out == "" {
		return nil
	}
	return writeRun(r.o.Out, res, entries, r.data.Picture)
}

// keepOld takes over the times and the diagnosis of the session that did the work.
func keepOld(path string, res *Result) {
	var old Result
	b, err := fault.ReadFile(path, "an older result", 64<<20)
	if err != nil || json.Unmarshal(b, &old) != nil || old.Key != res.Key {
		return
	}
	if res.outside() && old.outside() {
		res.Diagnosis = old.Diagnosis
	}
	res.Seconds, res.ImagesPerSecond, res.PeakRSS = old.Seconds, old.ImagesPerSecond, old.PeakRSS
}
