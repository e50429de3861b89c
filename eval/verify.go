package eval

import (
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
	// part, of choices, of a retrieval, or of a suite.
	Dir string
	// Sample is how many of its rows are scored anew, of a suite so many of each
	// set; 0 is 500.
	Sample int
	Seed   uint64 // of the sample
	// Split, ImageColumn and CaptionColumn are of a retrieval, as the run had them.
	Split, ImageColumn, CaptionColumn string
	// Options say with which model, on which data, with which words; what the
	// result itself says (benchmark, limit, part) is not given again. Data of a
	// suite is the folder that its sets lie in.
	Options
}

// Verification is the outcome of Verify.
type Verification struct {
	Dir    string `json:"dir"`
	Set    string `json:"set,omitempty"` // its key, of a suite
	Rows   int    `json:"rows"`          // of the result: images, or questions
	Sample int    `json:"sample"`
	// Differs counts the rows of the sample that are others: label, first five
	// answers, or a logit further away than Tolerance; of choices a score, of a
	// retrieval the features or captions of an image.
	Differs   int       `json:"differs"`
	Tolerance float64   `json:"tolerance"` // of logits: 100 times a cosine
	MaxLogit  float64   `json:"max_logit_difference"`
	Differing []RowDiff `json:"differing"` // the first ten
	// AtMost is the share of rows that differ at most, with 95 % confidence: the
	// upper end of Clopper and Pearson's interval, for rows drawn without return.
	// Of a suite all sets' bounds hold together (Bonferroni).
	AtMost float64         `json:"at_most_95"`
	Sets   []*Verification `json:"sets,omitempty"` // of a suite
}

// RowDiff is a row that another scoring has otherwise.
type RowDiff struct {
	Index int    `json:"index"`
	Key   string `json:"key"`
	What  string `json:"what"`
}

// logitTolerance is how far logits of the same model, data and type may be apart
// on other backends: 100 times the cosine, which has about six digits in fp32.
var logitTolerance = map[string]float64{"fp32": 0.02, "bf16": 1, "fp16": 0.2}

// Verify scores a random sample of a result's rows anew. A result whose counts
// do not follow from its rows is an error; rows that differ are one of kind
// fault.CheckFailed, with the verification.
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
	return v, fault.Checkf("%s: %d of %d rows differ, the first %s: %s; the result is not of this model and data as they are computed here", filepath.Join(at.Dir, rowsFile), at.Differs, at.Sample, fault.Name(at.Differing[0].Key), at.Differing[0].What)
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
		if p.res.Model.SHA256 != r.model.SHA256 || p.res.Data.Fingerprint != r.data.Fingerprint() {
			r.o.Log.Warn("the result was made of another model file or other data; its rows say whether that matters")
		}
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
	if p.res.Data.N > r.data.Len() {
		return fault.Inputf("%s: is of %d images, the data has %d; verify with the data it was made of", fault.Name(p.dir), p.res.Data.N, r.data.Len())
	}
	names := make([]string, len(p.res.PerClass))
	for i, c := range p.res.PerClass {
		names[i] = c.Name
	}
	if !slices.Equal(names, r.w.names) {
		return fault.Inputf("%s: has other class names than these; give Options.ClassNames as the run had them", fault.Name(p.dir))
	}
	var rows []entry
	for _, e := range p.entries {
		if e.Bad == "" {
			rows = append(rows, e)
		}
	}
	var sample []entry
	var ids []int
	for _, i := range o.draw(len(rows)) {
		sample, ids = append(sample, rows[i]), append(ids, rows[i].Index)
	}
	again, err := r.anew(ctx, ids)
	if err != nil {
		return err
	}
	v.Rows, v.Sample = len(rows), len(sample)
	for _, e := range sample {
		v.compare(e, again[e.Index])
	}
	return nil
}

// anew scores images once more; those that do not decode are rows that differ.
func (r *run) anew(ctx context.Context, ids []int) (map[int]entry, error) {
	r.o.MaxBad = len(ids)
	return r.images(ctx, ids, nil, &journal{})
}

// verifyChoices compares the scores of a sample of questions.
func (r *run) verifyChoices(ctx context.Context, p part, o VerifyOptions, v *Verification) error {
	asked := map[string]question{}
	for i := range r.data.Len() {
		for _, q := range r.data.(*pictures).Dataset.(*choices).Questions(i) {
			asked[q.ID] = q
		}
	}
	v.Rows = len(p.answers)
	var sample []answer
	var ids []int
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
			what = "the data does not ask this"
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
		return nil, fault.Usagef("%s: is a part of a retrieval, which has no ranks; merge the parts, then verify the whole", fault.Name(o.Dir))
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
		if res.Model.SHA256 != r.model.SHA256 || res.Fingerprint != r.data.Fingerprint() {
			r.o.Log.Warn("the result was made of another model file or other data; its rows say whether that matters")
		}
		var rows []entry
		for _, e := range entries {
			if e.Bad == "" {
				rows = append(rows, e)
			}
		}
		v := o.begin(r)
		v.Rows = len(rows)
		var sample []entry
		var ids []int
		for _, i := range o.draw(len(rows)) {
			if rows[i].Index >= r.data.Len() {
				return nil, fault.Inputf("%s: has image %d, the data has %d; verify with the data it was made of", fault.Name(o.Dir), rows[i].Index, r.data.Len())
			}
			sample, ids = append(sample, rows[i]), append(ids, rows[i].Index)
		}
		v.Sample = len(sample)
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
	what := ""
	switch {
	case is.Bad != "":
		what = "does not decode now: " + is.Bad
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
				what = fmt.Sprintf("feature %d of image and captions is %.3g away, logits may be %.3g", i, off/100, off)
			}
		}
	}
	v.note(what, was.Index, was.Key)
}

// suite reads the result of a suite and of each of its sets.
func (o VerifyOptions) suite() (verification, error) {
	res := &SuiteResult{}
	if err := readJSON(filepath.Join(o.Dir, resultFile), "the result of a suite", res); err != nil {
		return nil, err
	}
	if res.Shard != nil {
		return nil, fault.Usagef("%s: is a part of a suite; merge the parts, then verify the whole", fault.Name(o.Dir))
	}
	for _, m := range res.All() {
		if err := m.follows(o.Dir); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, m *Model, alpha float64) (*Verification, error) {
		i := slices.IndexFunc(res.All(), func(s *SuiteModel) bool { return s.Model.SHA256 == m.info().SHA256 })
		if i < 0 {
			return nil, fault.Inputf("%s: is of other models than %s (SHA-256 %s), such as %s", fault.Name(o.Dir), fault.Name(o.Model), m.info().SHA256, fault.Name(res.All()[0].Model.File))
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
					return nil, fault.Inputf("%s: %s is not there; want a folder such as %s", fault.Name(o.Data), s.Key, strings.Join(folderNames(taskFor(s))[:3], ", "))
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

// compare counts a row that the second scoring has otherwise. Answers whose
// logits are closer than the tolerance may change places.
func (v *Verification) compare(was, is entry) {
	off := math.Abs(float64(was.Logit - is.Logit))
	v.MaxLogit = max(v.MaxLogit, off)
	what := ""
	switch {
	case is.Bad != "":
		what = "does not decode now: " + is.Bad
	case !slices.Equal(was.Meta, is.Meta):
		what = fmt.Sprintf("has the classes or groups %v, had %v", is.Meta, was.Meta)
	case was.Label != is.Label || was.Key != is.Key:
		what = fmt.Sprintf("is label %d of %s, was %d of %s", is.Label, is.Key, was.Label, was.Key)
	case off > v.Tolerance:
		what = fmt.Sprintf("logit %g, was %g", is.Logit, was.Logit)
	case !sameAnswers(was, is, v.Tolerance):
		what = fmt.Sprintf("answers %v, were %v", is.Top, was.Top)
	}
	v.note(what, was.Index, was.Key)
}

// sameAnswers says whether both rows rank alike, but for answers that are as
// good as equal: their logits follow from the probabilities of the second.
func sameAnswers(was, is entry, tolerance float64) bool {
	for i, c := range was.Top {
		if c == is.Top[i] {
			continue
		}
		k := slices.Index(is.Top[:], c)
		if k < 0 {
			k = len(is.Top) - 1 // it may be the sixth now
			if i != k {
				return false
			}
			continue
		}
		if math.Abs(math.Log(float64(is.Probs[k])/float64(is.Probs[i]))) > 2*tolerance {
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
