package eval

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// z95 is the 97.5 % quantile of the normal distribution.
const z95 = 1.959963984540054

// Wilson is the 95 % interval of Wilson (1927) for k of n: unlike the normal
// one it stays inside [0,1] and is right for small n. For n = 0 it is [0,1].
func Wilson(k, n int) [2]float64 {
	if n == 0 {
		return [2]float64{0, 1}
	}
	const z = z95
	p, m := float64(k)/float64(n), float64(n)
	centre := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return [2]float64{max(0, centre-half), min(1, centre+half)}
}

// inside says whether v lies in the interval, once both are rounded to the
// digits that figures are published with.
func inside(v float64, ci [2]float64) bool {
	const digits = 1e4
	r := math.Round(v * digits)
	return r >= math.Floor(ci[0]*digits) && r <= math.Ceil(ci[1]*digits)
}

// row is what a run keeps of one image.
type row struct {
	Index int    `json:"i"`
	Key   string `json:"k"`
	Label int    `json:"l"`
	// Top holds the ids of the best five classes, best first; -1 where there
	// are fewer classes.
	Top   [5]int     `json:"t"`
	Probs [5]float32 `json:"p"`              // softmax of the logits, at Top
	Logit float32    `json:"s"`              // of Top[0]
	Tied  bool       `json:"tied,omitempty"` // several classes share the best logit
	// Meta is the groups of an image, or the classes of one with several; Scores
	// are then the logits of all classes, and Label is -1.
	Meta   []int  `json:"m,omitempty"`
	Scores vector `json:"x,omitempty"`
}

// rank fills Top, Logit, Probs and Tied from one image's logits. Among equal logits
// the lower index comes first.
func (r *row) rank(logits []float32) {
	for i := range r.Top {
		r.Top[i] = -1
	}
	kept := 0
	for c, v := range logits {
		at := kept
		for at > 0 && v > logits[r.Top[at-1]] {
			at--
		}
		if at == len(r.Top) {
			continue
		}
		kept = min(kept+1, len(r.Top))
		copy(r.Top[at+1:kept], r.Top[at:kept-1])
		r.Top[at] = c
	}
	r.Logit = logits[r.Top[0]]
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v - r.Logit))
	}
	for i, c := range r.Top[:kept] {
		r.Probs[i] = float32(math.Exp(float64(logits[c]-r.Logit)) / sum)
	}
	r.Tied = kept > 1 && logits[r.Top[1]] == r.Logit
}

// tally is the integers of a run. Adding tallies is how shards merge.
type tally struct {
	n, top1, top5, ties int
	class               []ClassRow
	confused            map[[2]int]int // label, predicted
}

func newTally(names []string) *tally {
	t := &tally{class: make([]ClassRow, len(names)), confused: map[[2]int]int{}}
	for i, name := range names {
		t.class[i] = ClassRow{ID: i, Name: name}
	}
	return t
}

func (t *tally) add(r row) {
	t.n++
	if r.Scores != nil {
		t.addSeveral(r)
		return
	}
	c := &t.class[r.Label]
	c.N++
	if r.Tied {
		t.ties++
	}
	if slices.Contains(r.Top[:], r.Label) {
		t.top5++
		c.Top5++
	}
	if r.Top[0] == r.Label {
		t.top1++
		c.Correct++
		return
	}
	t.confused[[2]int{r.Label, r.Top[0]}]++
}

// addSeveral adds an image with several classes: right is any of them.
func (t *tally) addSeveral(r row) {
	has := func(c int) bool { return slices.Contains(r.Meta, c) }
	if has(r.Top[0]) {
		t.top1++
		t.class[r.Top[0]].Correct++
	}
	if slices.ContainsFunc(r.Top[:], has) {
		t.top5++
	}
	for _, c := range r.Meta {
		t.class[c].N++
		if slices.Contains(r.Top[:], c) {
			t.class[c].Top5++
		}
	}
}

// fill writes the counts into a result.
func (t *tally) fill(res *Result) {
	res.N, res.Correct1, res.Correct5, res.Ties = t.n, t.top1, t.top5, t.ties
	res.Top1, res.Top5 = ratio(t.top1, t.n), ratio(t.top5, t.n)
	res.CI95 = CI95{Top1: Wilson(t.top1, t.n), Top5: Wilson(t.top5, t.n)}
	res.MeanPerClass, res.CI95.MeanPerClass = t.meanPerClass()
	res.PerClass = t.class
	res.Confused = t.mostConfused(10)
}

// meanPerClass averages the top-1 of the classes that have images. A class's
// variance uses (k+1)/(n+2) for its rate, so that a class of three right
// answers does not count as certain.
func (t *tally) meanPerClass() (mean float64, ci [2]float64) {
	var sum, variance, n float64
	for _, c := range t.class {
		if c.N > 0 {
			p := float64(c.Correct+1) / float64(c.N+2)
			sum += ratio(c.Correct, c.N)
			variance += p * (1 - p) / float64(c.N)
			n++
		}
	}
	if n == 0 {
		return 0, [2]float64{0, 1}
	}
	mean = sum / n
	half := z95 * math.Sqrt(variance) / n
	return mean, [2]float64{max(0, mean-half), min(1, mean+half)}
}

// mostConfused lists the k most frequent wrong answers.
func (t *tally) mostConfused(k int) []Confusion {
	all := make([]Confusion, 0, len(t.confused))
	for p, n := range t.confused {
		all = append(all, Confusion{
			Label: p[0], Predicted: p[1], N: n,
			LabelName: t.class[p[0]].Name, PredictedName: t.class[p[1]].Name,
		})
	}
	slices.SortFunc(all, func(a, b Confusion) int {
		return cmp.Or(b.N-a.N, a.Label-b.Label, a.Predicted-b.Predicted)
	})
	return all[:min(k, len(all))]
}

func ratio(k, n int) float64 {
	if n == 0 {
		return 0
	}
	return float64(k) / float64(n)
}

// expectation is Options.Expect: a value and its tolerance.
type expectation struct{ value, tolerance float64 }

func parseExpect(s string) (expectation, error) {
	left, right := s, "0"
	for _, sep := range []string{"±", "+-", "+/-"} {
		if l, r, ok := strings.Cut(s, sep); ok {
			left, right = l, r
			break
		}
	}
	v, err1 := strconv.ParseFloat(strings.TrimSpace(left), 64)
	tol, err2 := strconv.ParseFloat(strings.TrimSpace(right), 64)
	if err1 != nil || err2 != nil || !(v >= 0 && v <= 1) || !(tol >= 0 && tol <= 1) {
		return expectation{}, fault.Usagef("Options.Expect %q: want VALUE±TOLERANCE between 0 and 1, such as 0.747±0.004 or 0.747+-0.004", s)
	}
	return expectation{v, tol}, nil
}

func (e expectation) check(metric string, got float64) error {
	// A hair of room: 0.45 as a ratio and 0.45 as typed are the same.
	if math.Abs(got-e.value) <= e.tolerance+1e-9 {
		return nil
	}
	return fault.Checkf("%s is %.4f, outside Options.Expect %s; see the report for the usual causes", metric, got,
		fmt.Sprintf("%g±%g", e.value, e.tolerance))
}
