package eval

import (
	"math"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/published"
)

// publishedFor is what was published for the architecture of res on its
// benchmark, with the verdict of the run's interval. A run over a part of the
// set has none. Where several weights of one architecture are published, the
// nearest figure comes first.
func publishedFor(res *Result, whole bool) *Published {
	if res.Shard != nil || !whole {
		return nil
	}
	ci := res.CI95.Top1
	if res.Metric == dataset.MeanPerClass {
		ci = res.CI95.MeanPerClass
	}
	var list []Figure
	best := 0
	for _, f := range published.Find(res.Model.Config, res.Benchmark) {
		if f.Metric != res.Metric {
			continue
		}
		fig := Figure{Value: f.Value, Weights: f.Weights, Source: f.Source, InsideCI: inside(f.Value, ci)}
		list = append(list, fig)
		if math.Abs(f.Value-res.metric()) < math.Abs(list[best].Value-res.metric()) && f.Weights != list[best].Weights {
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

// Verdict is InsideCI in words.
func (f Figure) Verdict() string {
	if f.InsideCI {
		return "inside the interval"
	}
	return "OUTSIDE the interval"
}
