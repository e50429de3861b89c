package eval

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// VerifyOptions say how a result is checked.
type VerifyOptions struct {
	// Dir is the folder of a finished run: of a set with classes, the whole or a
	// part, of choices, of a retrieval, of a probe, or of a suite.
	Dir string
	// Sample is how many of its rows are scored again, for a suite in each set; 0 is
	// 500.
	Sample int
	Seed   uint64 // of the sample
	// Split, ImageColumn and CaptionColumn are of a retrieval, as the run had them.
	Split, ImageColumn, CaptionColumn string
	// Options give the model, the data and the words; what the result itself says
	// (benchmark, limit, part; all words of a probe) is not given again. For a suite
	// Data is the folder that holds the sets, for a probe what was scored.
	Options
}

// Verification is the outcome of Verify.
type Verification struct {
	Dir    string `json:"dir"`
	Set    string `json:"set,omitempty"` // its key, of a suite
	Rows   int    `json:"rows"`          // of the result: images, skipped ones too, or questions
	Sample int    `json:"sample"`
	// Differs counts the sampled rows that differ: in the label, the first five
	// answers, or a logit by more than Tolerance; for choices in a score, for a
	// retrieval in the features or captions of an image.
	Differs int `json:"differs"`
	// Tolerance and MaxLogit are for logits that are 100 times a cosine; where the
	// length of a class's vector is not 100, they are in proportion.
	Tolerance float64   `json:"tolerance"`
	MaxLogit  float64   `json:"max_logit_difference"`
	Differing []RowDiff `json:"differing"` // the first ten
	// AtMost is the share of rows that differ at most, with 95 % confidence: the
	// upper end of Clopper and Pearson's interval, for rows drawn without
	// replacement. For a suite the bounds of all sets hold together (Bonferroni).
	AtMost float64         `json:"at_most_95"`
	Sets   []*Verification `json:"sets,omitempty"` // of a suite
	// NotCovered are fields of a probe's result that its rows say nothing about;
	// train stands for the head having been learned from those images.
	NotCovered []string `json:"not_covered,omitempty"`

	lengths []float64 // of the classes' vectors; nil: 100 each
}

// RowDiff is a row that comes out differently when scored again.
type RowDiff struct {
	Index int    `json:"index"`
	Key   string `json:"key"`
	What  string `json:"what"`
}

// logitTolerance is how far apart logits of the same model, data and type may be
// on different backends: 100 times the cosine, which has about six digits in fp32.
var logitTolerance = map[string]float64{"fp32": 0.02, "bf16": 1, "fp16": 0.2}

// Verify scores a random sample of a result's rows again. A result whose counts
// do not follow from its rows is an error; rows that differ are one of KindCheck,
// returned with the verification.
func Verify(ctx context.Context, o VerifyOptions) (_ *Verification, err error) {
	defer fault.Public(ctx, &err)
	if o.Sample < 0 {
		return nil, fault.Usagef("Options.Sample %d: want 0 or more", o.Sample)
	}
	if o.Sample == 0 {
		o.Sample = 500
	}
	kind := kindOfResult(o.Dir)
	verify := o.set
	switch kind {
	case "suite":
		verify = o.suite
	case "retrieval":
		verify = o.retrieval
	case "probe":
		verify = o.probe
	}
	job, err := verify()
	if err != nil {
		return nil, err
	}
	if err := checkModel(o.Opened, o.Model, o.OpenOptions); err != nil {
		return nil, err
	}
	v, err := withModel(ctx, o.Opened, o.Model, o.OpenOptions, func(ctx context.Context, m *Model) (*Verification, error) {
		return job(ctx, m, 0.05)
	})
	if err != nil || v.Differs == 0 {
		return v, err
	}
	at := v
	for _, s := range v.Sets {
		if len(s.Differing) > 0 {
			at = s
			break
		}
	}
	return v, fault.Checkf("%s: %d of %d sampled rows differ, the first being %s: %s; the result is not what this model and data give here", filepath.Join(at.Dir, rowsFile), at.Differs, at.Sample, fault.Name(at.Differing[0].Key), at.Differing[0].What)
}

// verification is a check whose result has been read; alpha is one less the
// confidence of its bound.
type verification func(ctx context.Context, m *Model, alpha float64) (*Verification, error)

// set reads the result of a set with classes, or of choices.
func (o VerifyOptions) set() (verification, error) {
	p, err := readRowsOf(o.Dir)
	if err != nil {
		return nil, err
	}
	one := o.Options
	one.Benchmark, one.Out, one.Cache, one.Language = p.res.Benchmark, "", "off", p.res.Data.Language
	if p.res.Kind != dataset.Choice { // whose limit is of questions
		one.Limit = p.res.Data.N // all of the data, or as many as there were
	}
	if one, err = one.readWords(true); err != nil {
		return nil, err
	}
	if err := one.check(); err != nil {
		return nil, err
	}
	return func(ctx context.Context, m *Model, alpha float64) (*Verification, error) {
		r := newRun(ctx, m, one)
		defer r.release()
		if err := r.prepare(ctx); err != nil {
			return nil, err
		}
		defer r.data.Close()
		if err := r.reports(p); err != nil {
			return nil, err
		}
		r.warnOther(p.res.Model, p.res.Data.Fingerprint)
		v := o.begin(r)
		if p.res.Kind == dataset.Choice {
			err = r.verifyChoices(ctx, p, o, v)
		} else {
			err = r.verify(ctx, p, o, v)
		}
		if err != nil {
			return nil, err
		}
		v.AtMost = atMost(v.Rows, v.Sample, v.Differs, alpha)
		return v, nil
	}, nil
}

// reports says whether a result is of the benchmark's own metric and groups.
func (r *run) reports(p part) error {
	was := cmp.Or(p.res.Metric, dataset.Top1)
	switch g := p.res.Group; {
	case was != r.w.metric || p.res.Kind != r.w.kind:
		return fault.Inputf("%s: reports %s, but %s is scored by %s; run the evaluation again", filepath.Join(p.dir, resultFile), fault.Name(was), r.w.name, r.w.metric)
	case g != nil && (r.w.group == nil || g.Column != r.w.group.Column || g.Name != r.w.group.Name):
		return fault.Inputf("%s: its groups, %s, are not those of %s; run the evaluation again", filepath.Join(p.dir, resultFile), fault.Name(g.Name), r.w.name)
	}
	return nil
}

func (o VerifyOptions) begin(r *run) *Verification {
	return &Verification{Dir: o.Dir, Tolerance: logitTolerance[r.o.DType], Differing: []RowDiff{}}
}

// draw are the places of a sample of n rows, in order.
func (o VerifyOptions) draw(n int) []int {
	rng := rand.New(rand.NewPCG(o.Seed, 19))
	places := rng.Perm(n)[:min(o.Sample, n)]
	slices.Sort(places)
	return places
}

// verify scores the sample with the run's model, data and words.
func (r *run) verify(ctx context.Context, p part, o VerifyOptions, v *Verification) error {
	names := make([]string, len(p.res.PerClass))
	for i, c := range p.res.PerClass {
		names[i] = c.Name
	}
	if !slices.Equal(names, r.w.names) {
		return fault.Inputf("%s: its class names differ from those in use; give Options.ClassNames as the run had them", fault.Name(p.dir))
	}
	if err := r.covers(p); err != nil {
		return err
	}
	sample, ids := o.sample(p.entries, v)
	r.claims = map[int]row{}
	for _, e := range sample {
		r.claims[e.Index] = e.row
	}
	again, err := r.anew(ctx, ids)
	if err != nil {
		return err
	}
	for _, e := range sample {
		v.compare(e, again[e.Index])
	}
	return nil
}

// covers says whether a result is of the images of its part of the data, each once.
func (r *run) covers(p part) error {
	if n := p.res.Data.N; n > r.data.Len() {
		return fault.Inputf("%s: covers %d images, but the data has %d; verify with the data of the run", fault.Name(p.dir), n, r.data.Len())
	}
	s := p.res.Shard
	var of []int
	for _, e := range p.entries {
		of = append(of, e.Index)
	}
	if s.Lo < 0 || s.Hi < s.Lo || s.Hi > len(r.scored) || !slices.Equal(of, r.scored[s.Lo:s.Hi]) {
		return fault.Inputf("%s: does not cover images %d to %d of the data once each; run the evaluation again", fault.Name(p.dir), s.Lo, s.Hi-1)
	}
	return nil
}

// sample draws images of a result, skipped ones too.
func (o VerifyOptions) sample(entries []entry, v *Verification) (sample []entry, ids []int) {
	for _, i := range o.draw(len(entries)) {
		sample, ids = append(sample, entries[i]), append(ids, entries[i].Index)
	}
	v.Rows, v.Sample = len(entries), len(sample)
	return sample, ids
}

// anew scores images once more; those that do not decode are rows that differ.
func (r *run) anew(ctx context.Context, ids []int) (map[int]entry, error) {
	r.o.MaxBad = len(ids)
	return r.images(ctx, ids, nil, &journal{})
}

// verifyChoices compares the scores of a sample of questions.
func (r *run) verifyChoices(ctx context.Context, p part, o VerifyOptions, v *Verification) error {
	asked := map[string]question{}
	var order []string
	for i := range r.data.Len() {
		for _, q := range r.data.(*pictures).Dataset.(*choices).Questions(i) {
			asked[q.ID] = q
			order = append(order, q.ID)
		}
	}
	skipped, err := leftOut(p, asked, order)
	if err != nil {
		return err
	}
	v.Rows = len(p.answers)
	var sample []answer
	skipped = skipped[:min(len(skipped), o.Sample)]
	ids := slices.Clone(skipped)
	for _, i := range o.draw(len(p.answers)) {
		a := p.answers[i]
		sample = append(sample, a)
		v.Sample++
		if q, ok := asked[a.ID]; ok {
			ids = append(ids, q.Images...)
		}
	}
	slices.Sort(ids)
	again, err := r.anew(ctx, slices.Compact(ids))
	if err != nil {
		return err
	}
	for _, i := range skipped {
		if e := again[i]; e.Bad == "" {
			v.note("decodes now, but its questions were left out", i, e.Key)
		}
	}
	entries := slices.Collect(maps.Values(again))
	slices.SortFunc(entries, func(a, b entry) int { return a.Index - b.Index })
	found, err := answers(entries)
	if err != nil {
		return err
	}
	is := map[string]answer{}
	for _, a := range found {
		is[a.ID] = a
	}
	for _, was := range sample {
		now, ok := is[was.ID]
		_, there := asked[was.ID]
		what := ""
		switch {
		case !there:
			what = "the data has no such question"
		case !ok:
			what = "a picture does not decode now"
		case len(now.Texts) != len(was.Texts) || !slices.Equal(now.Images, was.Images) || !slices.Equal(now.Right, was.Right) || now.Part != was.Part:
			what = fmt.Sprintf("is of the pictures %v, %d texts, right %v; was of %v, %d, %v", now.Images, len(now.Texts), now.Right, was.Images, len(was.Texts), was.Right)
		default:
			for i := range was.scores {
				off := 100 * math.Abs(float64(was.scores[i]-now.scores[i]))
				v.MaxLogit = max(v.MaxLogit, off)
				if off > v.Tolerance && what == "" {
					what = fmt.Sprintf("score %d is %g, was %g", i, now.scores[i], was.scores[i])
				}
			}
		}
		v.note(what, was.Images[0], was.ID)
	}
	return nil
}

// leftOut lists the pictures that a result of choices has skipped. Each question
// up to its last one, where a limit may end it, must be there once or have such a
// picture.
func leftOut(p part, asked map[string]question, order []string) (skipped []int, err error) {
	for _, s := range p.res.Skipped {
		skipped = append(skipped, s.Index)
	}
	at := 0
	for _, a := range p.answers {
		if _, ok := asked[a.ID]; !ok { // a row that differs
			continue
		}
		for ; at < len(order) && order[at] != a.ID; at++ {
			if !slices.ContainsFunc(asked[order[at]].Images, func(i int) bool { return slices.Contains(skipped, i) }) {
				return nil, fault.Inputf("%s: question %s is missing or not in the data's order; run the evaluation again", filepath.Join(p.dir, rowsFile), fault.Name(order[at]))
			}
		}
		if at == len(order) {
			return nil, fault.Inputf("%s: question %s is repeated or not in the data's order; run the evaluation again", filepath.Join(p.dir, rowsFile), fault.Name(a.ID))
		}
		at++
	}
	return skipped, nil
}

// note counts a row that differs in what, which is empty when it does not.
func (v *Verification) note(what string, index int, key string) {
	if what == "" {
		return
	}
	v.Differs++
	if len(v.Differing) < 10 {
		v.Differing = append(v.Differing, RowDiff{index, key, what})
	}
}

// retrieval reads the result of a retrieval. Its ranks follow from the features
// that its journal keeps, of which a sample is computed anew.
func (o VerifyOptions) retrieval() (verification, error) {
	res, entries, err := readRetrieval(o.Dir)
	if err != nil {
		return nil, err
	}
	if res.Shard != nil {
		return nil, fault.Usagef("%s: is part of a retrieval and has no ranks; merge the parts, then verify the whole", fault.Name(o.Dir))
	}
	ro := RetrievalOptions{
		Set: res.Set, Data: o.Data, Split: o.Split, ImageColumn: o.ImageColumn, CaptionColumn: o.CaptionColumn,
		OpenOptions: OpenOptions{Batch: o.Batch, Workers: o.Workers, Log: o.Log}, Limit: res.N, MaxBad: o.MaxBad, Meter: o.Meter, Model: o.Model,
	}
	return func(ctx context.Context, m *Model, alpha float64) (*Verification, error) {
		r := retrievalRun(ctx, m, ro)
		defer r.release()
		if err := r.captioned(ctx, ro); err != nil {
			return nil, err
		}
		defer r.data.Close()
		r.warnOther(res.Model, res.Fingerprint)
		whole := part{dir: o.Dir, entries: entries, res: Result{Data: DataInfo{N: res.N}, Shard: &ShardInfo{Hi: res.N}}}
		if err := r.covers(whole); err != nil {
			return nil, err
		}
		v := o.begin(r)
		sample, ids := o.sample(entries, v)
		again, err := r.anew(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, was := range sample {
			v.features(was, again[was.Index])
		}
		v.AtMost = atMost(v.Rows, v.Sample, v.Differs, alpha)
		return v, nil
	}, nil
}

// features compares an image's feature and those of its captions. No cosine with
// a vector of length 1 can be further away than two features are.
func (v *Verification) features(was, is entry) {
	what := skippedOnce(was, is)
	switch {
	case what != "" || was.Bad != "":
	case was.Key != is.Key:
		what = "is " + is.Key
	case !slices.Equal(was.Found.Captions, is.Found.Captions):
		what = fmt.Sprintf("has the captions %.80q, had %.80q", is.Found.Captions, was.Found.Captions)
	case len(was.Found.Image) != len(is.Found.Image) || len(was.Found.Texts) != len(is.Found.Texts):
		what = "has features of another size"
	default:
		for i := range 1 + len(is.Found.Captions) {
			a, b := was.Found.Image, is.Found.Image
			if i > 0 {
				a, b = was.Found.text(i-1), is.Found.text(i-1)
			}
			off := 0.0
			for k := range b {
				off += float64(a[k]-b[k]) * float64(a[k]-b[k])
			}
			off = 100 * math.Sqrt(off)
			v.MaxLogit = max(v.MaxLogit, off)
			if off > v.Tolerance && what == "" {
				what = fmt.Sprintf("feature %d of image and captions is off by %.3g, so logits may be off by %.3g", i, off/100, off)
			}
		}
	}
	v.note(what, was.Index, was.Key)
}

// probe reads the result of a probe. Its answers follow from the head that it
// keeps and the images; what the head was learned from is not looked at.
func (o VerifyOptions) probe() (verification, error) {
	res, head, p, err := readProbe(o.Dir)
	if err != nil {
		return nil, err
	}
	one, err := o.Options.readWords(false)
	if err != nil {
		return nil, err
	}
	one.Benchmark, one.Out, one.Limit, one.Shard, one.Shards = folder, "", 0, 0, 0
	if err := one.check(); err != nil {
		return nil, err
	}
	return func(ctx context.Context, m *Model, alpha float64) (*Verification, error) {
		r := newRun(ctx, m, one)
		defer r.release()
		if dim := len(head.model.W[0]); dim != r.cfg.EmbedDim {
			return nil, fault.Inputf("%s: its head takes features of %d values, but those of %s have %d; verify with the model of the run", fault.Name(o.Dir), dim, fault.Name(o.Model), r.cfg.EmbedDim)
		}
		if r.data, err = openSource(ctx, o.Data, dataset.Options{ClassNames: res.Labels, Log: r.o.Log}, r.pre); err != nil {
			return nil, err
		}
		defer r.data.Close()
		if r.w.names = one.ClassNames; r.w.names == nil { // else they must be the result's
			r.w.names = res.names()
		}
		if n := p.res.Data.N; n != r.data.Len() {
			return nil, fault.Inputf("%s: covers %d images, but the data has %d; verify with the data of the run", fault.Name(o.Dir), n, r.data.Len())
		}
		r.head = head
		r.choose()
		r.warnOther(res.Model, res.Data.Fingerprint)
		v := o.begin(r)
		v.lengths = head.lengths(res.Classes)
		v.NotCovered = []string{"train"}
		for _, field := range []struct {
			name  string
			there bool
		}{{"sweep", len(res.Sweep) > 0}, {"shots", len(res.Shots) > 0}, {"neighbours", res.Neighbours != nil}, {"zero_shot", res.ZeroShot != nil}} {
			if field.there {
				v.NotCovered = append(v.NotCovered, field.name)
			}
		}
		if err := r.verify(ctx, p, o, v); err != nil {
			return nil, err
		}
		v.AtMost = atMost(v.Rows, v.Sample, v.Differs, alpha)
		return v, nil
	}, nil
}

// warnOther says so where a result was made of something else.
func (r *run) warnOther(model ModelInfo, fingerprint string) {
	if model.SHA256 != r.model.SHA256 || fingerprint != r.data.Fingerprint() {
		r.o.Log.Warn("the result was made with another model file or other data; its rows show whether that matters")
	}
}

// suite reads the result of a suite and of each of its sets.
func (o VerifyOptions) suite() (verification, error) {
	res := &SuiteResult{}
	if err := readJSON(filepath.Join(o.Dir, resultFile), "the result of a suite", res); err != nil {
		return nil, err
	}
	if res.Shard != nil {
		return nil, fault.Usagef("%s: is part of a suite; merge the parts, then verify the whole", fault.Name(o.Dir))
	}
	if err := res.follows(o.Dir); err != nil {
		return nil, err
	}
	return func(ctx context.Context, m *Model, alpha float64) (*Verification, error) {
		i := slices.IndexFunc(res.All(), func(s *SuiteModel) bool { return s.Model.SHA256 == m.info().SHA256 })
		if i < 0 {
			return nil, fault.Inputf("%s: does not score %s (SHA-256 %s), but others such as %s; give one of these as Options.Model", fault.Name(o.Dir), fault.Name(o.Model), m.info().SHA256, fault.Name(res.All()[0].Model.File))
		}
		of := res.All()[i]
		total := &Verification{Dir: o.Dir, Differing: []RowDiff{}}
		bad := 0.0
		for _, s := range of.Sets {
			data, err := locate(ctx, o.Data, taskFor(s))
			if err != nil {
				return nil, err
			}
			if data == "" {
				if len(of.Sets) > 1 {
					return nil, fault.Inputf("%s: no set %s in it; want a folder such as %s", fault.Name(o.Data), s.Key, strings.Join(folderNames(taskFor(s))[:3], ", "))
				}
				data = o.Data
			}
			one := o
			one.Dir, one.Data = filepath.Join(o.Dir, s.Dir), data
			one.DataWords = o.DataWords || res.Suite == DataComp
			job, err := one.set()
			if s.ofCaptions() {
				job, err = one.retrieval()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.Key, err)
			}
			v, err := job(ctx, m, alpha/float64(len(of.Sets)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.Key, err)
			}
			v.Set = s.Key
			total.Sets = append(total.Sets, v)
			total.Rows, total.Sample, total.Differs = total.Rows+v.Rows, total.Sample+v.Sample, total.Differs+v.Differs
			total.Tolerance, total.MaxLogit = v.Tolerance, max(total.MaxLogit, v.MaxLogit)
			bad += v.AtMost * float64(v.Rows)
		}
		total.AtMost = bad / float64(max(1, total.Rows))
		return total, nil
	}, nil
}

// skippedOnce says so where one scoring has skipped the image and the other has not.
func skippedOnce(was, is entry) string {
	switch {
	case was.Bad == "" && is.Bad != "":
		return "does not decode now: " + is.Bad
	case was.Bad != "" && is.Bad == "":
		return "decodes now, was skipped: " + was.Bad
	}
	return ""
}

// seen are logits of an image that is scored anew: of its own five answers, and
// of those that a row claims.
type seen struct{ top, claimed [5]float64 }

// see keeps them for the comparison with what is claimed.
func (r *run) see(e *entry, logit func(class int) float64) {
	was, ok := r.claims[e.Index]
	if !ok {
		return
	}
	e.seen = &seen{}
	for i := range e.Top {
		e.seen.top[i], e.seen.claimed[i] = math.Inf(-1), math.Inf(-1)
		if c := e.Top[i]; c >= 0 {
			e.seen.top[i] = logit(c)
		}
		if c := was.Top[i]; c >= 0 {
			e.seen.claimed[i] = logit(c)
		}
	}
}

// compare counts a row that comes out differently the second time. Answers whose
// logits are closer than the tolerance may change places.
func (v *Verification) compare(was, is entry) {
	what := skippedOnce(was, is)
	switch {
	case what != "" || was.Bad != "":
	case !slices.Equal(was.Meta, is.Meta):
		what = fmt.Sprintf("has the classes or groups %v, had %v", is.Meta, was.Meta)
	case was.Label != is.Label || fault.Name(was.Key) != fault.Name(is.Key):
		what = fmt.Sprintf("is label %d of %s, was %d of %s", is.Label, is.Key, was.Label, was.Key)
	case !v.same(was.Top[0], float64(was.Logit), float64(is.Logit)):
		what = fmt.Sprintf("logit %g, was %g", is.Logit, was.Logit)
	case !v.sameAnswers(was, is):
		what = fmt.Sprintf("answers %v, were %v", is.Top, was.Top)
	case was.Tied && is.seen.top[0]-is.seen.top[1] > v.room(is.Top[0])+v.room(is.Top[1]):
		what = "the best logit is not shared, was shared by two classes"
	}
	for c, logit := range was.Scores { // all logits of a set of several labels
		if what != "" {
			break
		}
		if !v.same(c, float64(logit), float64(is.Scores[c])) {
			what = fmt.Sprintf("logit %g of class %d, was %g", is.Scores[c], c, logit)
		}
	}
	v.note(what, was.Index, was.Key)
}

// room is how far two logits of a class may be apart.
func (v *Verification) room(class int) float64 { return v.Tolerance * v.length(class) }

// length is that of the class's vector over zero-shot's.
func (v *Verification) length(class int) float64 {
	if v.lengths == nil {
		return 1
	}
	return max(v.lengths[class]/100, 1e-9)
}

// same says whether two logits of a class are within the tolerance, apart from
// rounding to float32.
func (v *Verification) same(class int, was, is float64) bool {
	off := max(0, math.Abs(was-is)-math.Abs(is)*0x1p-22) / v.length(class)
	v.MaxLogit = max(v.MaxLogit, off)
	return off <= v.Tolerance
}

// sameAnswers says whether both rows rank alike: the second scoring's logit of
// every answer is as good as that of the answer which it has in this place.
func (v *Verification) sameAnswers(was, is entry) bool {
	for i, c := range was.Top {
		now := is.Top[i]
		if c != now && (c < 0 || now < 0 || !(math.Abs(is.seen.top[i]-is.seen.claimed[i]) <= v.room(c)+v.room(now))) {
			return false
		}
	}
	return true
}

// atMost is the largest share of n rows that may differ when a sample of m has k
// that do, with the confidence 1 - alpha: the least number of differing rows for
// which k or fewer in the sample have a chance below alpha, less one.
func atMost(n, m, k int, alpha float64) float64 {
	if n == 0 || m == n {
		return ratio(k, max(1, n))
	}
	choose := func(n, k int) float64 { // its logarithm
		a, _ := math.Lgamma(float64(n + 1))
		b, _ := math.Lgamma(float64(k + 1))
		c, _ := math.Lgamma(float64(n - k + 1))
		return a - b - c
	}
	chance := func(bad int) float64 { // of k or fewer in the sample
		sum := 0.0
		for i := max(0, m-(n-bad)); i <= min(k, bad); i++ {
			sum += math.Exp(choose(bad, i) + choose(n-bad, m-i) - choose(n, m))
		}
		return sum
	}
	lo, hi := k, n-m+k // chance(lo) is 1 or less and above alpha
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if chance(mid) >= alpha {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return ratio(lo, n)
}
