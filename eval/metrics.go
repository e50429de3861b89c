package eval

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/tensorfile"
)

// vector is numbers in the journal: base64 of float32, little-endian.
type vector []float32

func (v vector) MarshalJSON() ([]byte, error) {
	return json.Marshal(base64.StdEncoding.EncodeToString(tensorfile.EncodeFloat32s(v)))
}

func (v *vector) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw)%4 != 0 {
		return errors.New("not a list of numbers")
	}
	*v = make(vector, len(raw)/4)
	tensorfile.FloatDecoder(tensorfile.F32)(*v, raw)
	return nil
}

// resamples is how many times a bootstrap draws the images anew.
const resamples = 500

// bootstrap is the 95 % interval between the percentiles of a score over n
// images drawn anew, with a fixed seed: the same images, the same interval.
// score gets how often each image was drawn.
func bootstrap(n int, score func(times []uint16) float64) [2]float64 {
	if n == 0 {
		return [2]float64{0, 1}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	times := make([]uint16, n)
	values := make([]float64, resamples)
	for b := range values {
		clear(times)
		for range n {
			times[rng.IntN(n)]++
		}
		values[b] = score(times)
	}
	slices.Sort(values)
	const tail = resamples / 40 // 2.5 %
	return [2]float64{values[tail], values[resamples-1-tail]}
}

// meanInterval is the mean of values, each between 0 and 1, with the normal
// interval of their variance.
func meanInterval(values []float64) (mean float64, ci [2]float64) {
	n := float64(len(values))
	if n == 0 {
		return 0, [2]float64{0, 1}
	}
	for _, v := range values {
		mean += v / n
	}
	squares := 0.0
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	half := 1.0
	if n > 1 {
		half = z95 * math.Sqrt(squares/(n-1)/n)
	}
	return mean, [2]float64{max(0, mean-half), min(1, mean+half)}
}

// f1Macro is the mean F1 of the classes that have images, as scikit-learn's
// f1_score(average="macro", labels=unique(y_true)), which WILDS takes.
func f1Macro(rows []row, classes int) (value float64, ci [2]float64) {
	hits, labelled, answered := make([]int, classes), make([]int, classes), make([]int, classes)
	score := func(times []uint16) float64 {
		clear(hits)
		clear(labelled)
		clear(answered)
		for i, r := range rows {
			n := 1
			if times != nil {
				n = int(times[i])
			}
			labelled[r.Label] += n
			answered[r.Top[0]] += n
			if r.Top[0] == r.Label {
				hits[r.Label] += n
			}
		}
		sum, have := 0.0, 0
		for c, n := range labelled {
			if n > 0 {
				sum += 2 * float64(hits[c]) / float64(n+answered[c])
				have++
			}
		}
		return sum / float64(max(1, have))
	}
	return score(nil), bootstrap(len(rows), score)
}

// GroupRow counts the images of one group.
type GroupRow struct {
	Group    int `json:"group"`
	N        int `json:"n"`
	Correct  int `json:"correct"`
	Correct5 int `json:"correct5"`
}

// groups counts by a column of the metadata, the empty ones left out.
func groups(rows []row, column int) []GroupRow {
	by := map[int]*GroupRow{}
	for _, r := range rows {
		g := by[r.Meta[column]]
		if g == nil {
			g = &GroupRow{Group: r.Meta[column]}
			by[g.Group] = g
		}
		g.N++
		if r.Top[0] == r.Label {
			g.Correct++
		}
		if slices.Contains(r.Top[:], r.Label) {
			g.Correct5++
		}
	}
	out := make([]GroupRow, 0, len(by))
	for _, g := range by {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b GroupRow) int { return cmp.Compare(a.Group, b.Group) })
	return out
}

// worst is the group with the lowest share of right answers, of equals the first.
func worst(groups []GroupRow, correct func(GroupRow) int) (value float64, ci [2]float64, which int) {
	if len(groups) == 0 {
		return 0, [2]float64{0, 1}, 0
	}
	w := slices.MinFunc(groups, func(a, b GroupRow) int { return cmp.Compare(correct(a)*b.N, correct(b)*a.N) })
	return ratio(correct(w), w.N), Wilson(correct(w), w.N), w.Group
}

// averagePrecision is one class's in CLIP_benchmark's definition: the mean, over
// its pictures, of the precision down to each. order ranks the pictures, times
// says how often each counts (nil: once).
func averagePrecision(order []int, has []bool, times []uint16) float64 {
	sum, hits, seen := 0.0, 0, 0
	for _, i := range order {
		n := 1
		if times != nil {
			n = int(times[i])
		}
		for range n {
			seen++
			if has[i] {
				hits++
				sum += float64(hits) / float64(seen)
			}
		}
	}
	return sum / float64(max(1, hits))
}

// labelledScores are the scores of pictures with several classes, by class.
type labelledScores struct {
	order [][]int // pictures from the highest score down; of equals the earlier first
	has   [][]bool
	ties  int // pictures that share a score with another in some class's order
}

func rankClasses(rows []row, classes int) labelledScores {
	s := labelledScores{order: make([][]int, classes), has: make([][]bool, classes)}
	tied := make([]bool, len(rows))
	for c := range classes {
		order, has := make([]int, len(rows)), make([]bool, len(rows))
		for i, r := range rows {
			order[i], has[i] = i, slices.Contains(r.Meta, c)
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rows[b].Scores[c], rows[a].Scores[c]) })
		for k := 1; k < len(order); k++ {
			if a, b := order[k-1], order[k]; rows[a].Scores[c] == rows[b].Scores[c] && has[a] != has[b] {
				tied[a], tied[b] = true, true
			}
		}
		s.order[c], s.has[c] = order, has
	}
	for _, t := range tied {
		if t {
			s.ties++
		}
	}
	return s
}

// mean is mAP: the mean over all classes, one without pictures as 0.
func (s labelledScores) mean(times []uint16) float64 {
	sum := 0.0
	for c := range s.order {
		sum += averagePrecision(s.order[c], s.has[c], times)
	}
	return sum / float64(max(1, len(s.order)))
}

// value is the figure that the set reports, with its interval.
func (res *Result) value(rows []row) (value float64, ci [2]float64) {
	switch res.Metric {
	case dataset.MeanPerClass:
		return res.MeanPerClass, res.CI95.MeanPerClass
	case dataset.F1Macro:
		return f1Macro(rows, len(res.PerClass))
	case dataset.WorstGroupTop1, dataset.WorstGroupTop5:
		correct := func(g GroupRow) int { return g.Correct }
		if res.Metric == dataset.WorstGroupTop5 {
			correct = func(g GroupRow) int { return g.Correct5 }
		}
		res.Groups = groups(rows, res.Group.Column)
		value, ci, res.Group.Worst = worst(res.Groups, correct)
		return value, ci
	}
	return res.Top1, res.CI95.Top1
}
