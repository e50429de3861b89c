package eval

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// VerifyOptions say how a result is checked.
type VerifyOptions struct {
	// Dir is the folder of a finished run with classes, the whole or a part.
	Dir string
	// Sample is how many of its rows are scored anew; 0 is 500.
	Sample int
	Seed   uint64 // of the sample
	// Options say with which model, on which data, with which words; what the
	// result itself says (benchmark, limit, part) is not given again.
	Options
}

// Verification is the outcome of Verify.
type Verification struct {
	Dir    string `json:"dir"`
	Rows   int    `json:"rows"` // of the result
	Sample int    `json:"sample"`
	// Differs counts the rows of the sample whose label or first five answers are
	// others, or whose logit is further away than Tolerance.
	Differs   int       `json:"differs"`
	Tolerance float64   `json:"tolerance"`
	MaxLogit  float64   `json:"max_logit_difference"`
	Differing []RowDiff `json:"differing"` // the first ten
	// AtMost is the share of rows that differ at most, with 95 % confidence: the
	// upper end of Clopper and Pearson's interval, for rows drawn without return.
	AtMost float64 `json:"at_most_95"`
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
	p, err := readPart(o.Dir)
	if err != nil {
		return nil, err
	}
	if p.res.Kind == dataset.Choice {
		return nil, fault.Usagef("%s: is a set of choices; only sets with classes can be verified", fault.Name(o.Dir))
	}
	one := o.Options
	one.Benchmark, one.Out, one.Cache, one.Language = p.res.Benchmark, "", "off", p.res.Data.Language
	if one, err = one.readWords(false); err != nil {
		return nil, err
	}
	one.Limit = p.res.Data.N // all of the data, or as many as there were
	if err := one.check(); err != nil {
		return nil, err
	}
	return withModel(ctx, one.Opened, one.Model, one.opening(), func(ctx context.Context, m *Model) (*Verification, error) {
		r := newRun(ctx, m, one)
		defer r.release()
		return r.verify(ctx, p, o)
	})
}

// verify scores the sample with the run's model, data and words.
func (r *run) verify(ctx context.Context, p part, o VerifyOptions) (*Verification, error) {
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	defer r.data.Close()
	if p.res.Data.N > r.data.Len() {
		return nil, fault.Inputf("%s: is of %d images, the data has %d; verify with the data it was made of", fault.Name(p.dir), p.res.Data.N, r.data.Len())
	}
	names := make([]string, len(p.res.PerClass))
	for i, c := range p.res.PerClass {
		names[i] = c.Name
	}
	if !slices.Equal(names, r.w.names) {
		return nil, fault.Inputf("%s: has other class names than these; give Options.ClassNames as the run had them", fault.Name(p.dir))
	}
	if p.res.Model.SHA256 != r.model.SHA256 || p.res.Data.Fingerprint != r.data.Fingerprint() {
		r.o.Log.Warn("the result was made of another model file or other data; its rows say whether that matters")
	}
	var rows []entry
	for _, e := range p.entries {
		if e.Bad == "" {
			rows = append(rows, e)
		}
	}
	sample := slices.Clone(rows)
	rng := rand.New(rand.NewPCG(o.Seed, 19))
	rng.Shuffle(len(sample), func(i, j int) { sample[i], sample[j] = sample[j], sample[i] })
	want := o.Sample
	if want == 0 {
		want = 500
	}
	sample = sample[:min(want, len(sample))]
	slices.SortFunc(sample, func(a, b entry) int { return a.Index - b.Index })
	ids := make([]int, len(sample))
	for i, e := range sample {
		ids[i] = e.Index
	}
	r.o.MaxBad = len(ids)
	again, err := r.images(ctx, ids, nil, &journal{})
	if err != nil {
		return nil, err
	}
	v := &Verification{Dir: p.dir, Rows: len(rows), Sample: len(sample), Tolerance: logitTolerance[r.o.DType], Differing: []RowDiff{}}
	for _, e := range sample {
		v.compare(e, again[e.Index])
	}
	v.AtMost = atMost(v.Rows, v.Sample, v.Differs)
	if v.Differs == 0 {
		return v, nil
	}
	return v, fault.Checkf("%s: %d of %d rows differ, the first %s: %s; the result is not of this model and data as they are computed here", filepath.Join(p.dir, rowsFile), v.Differs, v.Sample, fault.Name(v.Differing[0].Key), v.Differing[0].What)
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
	if what == "" {
		return
	}
	v.Differs++
	if len(v.Differing) < 10 {
		v.Differing = append(v.Differing, RowDiff{was.Index, was.Key, what})
	}
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
// that do, with 95 % confidence: the least number of differing rows for which k
// or fewer in the sample have a chance below 5 %, less one.
func atMost(n, m, k int) float64 {
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
	lo, hi := k, n-m+k // chance(lo) is 1 or less and above 5 %
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if chance(mid) >= 0.05 {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return ratio(lo, n)
}
