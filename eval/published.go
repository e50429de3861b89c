package eval

import (
	"fmt"
	"math"
	"slices"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/published"
)

// publish compares the result with what was published, or says why not: only
// the same images, asked about with the same words, are compared.
func (res *Result) publish() {
	p := publishedFor(res)
	res.Published, res.NotCompared = nil, ""
	if p == nil {
		return
	}
	switch {
	case res.Shard != nil:
		res.NotCompared = fmt.Sprintf("part %d of %d of the images", res.Shard.Index, res.Shard.Count)
	case res.Words != "":
		res.NotCompared = res.Words
	default:
		n := res.Data.N
		if res.Kind == dataset.Choice {
			n = res.N // of questions
		}
		if res.NotCompared = otherImages(res.Benchmark, n); res.NotCompared == "" && res.Data.Of > 0 {
			res.NotCompared = fmt.Sprintf("%d of %d images", n, res.Data.Of)
		}
	}
	if res.NotCompared == "" {
		res.Published = p
	}
}

// otherImages says how many images a set has, where n is another number.
func otherImages(benchmark string, n int) string {
	for _, t := range published.Tasks() {
		if t.Benchmark == benchmark && t.Images != n {
			return fmt.Sprintf("%d images, the set has %d", n, t.Images)
		}
	}
	return ""
}

// publishedFor is what was published for the architecture of res on its
// benchmark, with the verdict of the run's interval. Where several weights of one
// architecture are published, the nearest figure comes first.
func publishedFor(res *Result) *Published {
	var list []Figure
	best := 0
	for _, f := range ofWeights(published.Find(res.Model.Config, res.Benchmark), res.Model.Weights) {
		if f.Metric != res.Metric {
			continue
		}
		fig := Figure{Value: f.Value, Weights: f.Weights, Source: f.Source, InsideCI: inside(f.Value, res.CI95.Value)}
		list = append(list, fig)
		if math.Abs(f.Value-res.Value) < math.Abs(list[best].Value-res.Value) && f.Weights != list[best].Weights {
			best = len(list) - 1
		}
	}
	if len(list) == 0 {
		return nil
	}
	p := &Published{Figure: list[best]}
	p.Others = append(append(p.Others, list[:best]...), list[best+1:]...)
	return p
}

// weightsOf are the tags of the published weights that a file is, by its hash or
// else its name.
func weightsOf(path, sha256 string) (tags []string) {
	list := published.BySHA256(sha256)
	if len(list) == 0 {
		list = published.ByName(path)
	}
	for _, w := range list {
		if !slices.Contains(tags, w.Tag) {
			tags = append(tags, w.Tag)
		}
	}
	return tags
}

// ofWeights are the figures of these weights, or all when none is theirs.
func ofWeights(list []published.Figure, tags []string) (theirs []published.Figure) {
	for _, f := range list {
		if slices.Contains(tags, f.Weights) {
			theirs = append(theirs, f)
		}
	}
	if len(theirs) == 0 {
		return list
	}
	return theirs
}

// Verdict is InsideCI in words.
func (f Figure) Verdict() string {
	if f.InsideCI {
		return "inside the interval"
	}
	return "OUTSIDE the interval"
}

// ListEntry is one benchmark of `evatool zeroshot list`.
type ListEntry struct {
	Name      string            `json:"name"`
	Title     string            `json:"title"`
	Classes   int               `json:"classes"`
	Templates int               `json:"templates"`
	Metric    string            `json:"metric"`
	Source    string            `json:"source"`
	Published []PublishedFigure `json:"published"`
}

// PublishedFigure is one published number of a benchmark.
type PublishedFigure struct {
	Config  string  `json:"config"`
	Weights string  `json:"weights"`
	Metric  string  `json:"metric"`
	Value   float64 `json:"value"`
	Source  string  `json:"source"`
}

// List lists every benchmark with its published figures.
func List() []ListEntry {
	by := map[string][]PublishedFigure{}
	for _, f := range published.All() {
		by[f.Benchmark] = append(by[f.Benchmark], PublishedFigure{f.Config, f.Weights, f.Metric, f.Value, f.Source})
	}
	list := []ListEntry{}
	for _, b := range dataset.Benchmarks() {
		list = append(list, ListEntry{b.Name, b.Title, len(b.ClassNames), len(b.Templates), b.Metric, b.Source, append([]PublishedFigure{}, by[b.Name]...)})
	}
	return list
}
