package eval

import (
	"github.com/evatool/evatool/benchmarks/published"
)

// published is what was published for the model of res on its benchmark, with
// the verdict of the run's interval. A run on a part of the set has none.
func publishedFor(res *Result, whole bool) *Published {
	if res.Shard != nil || !whole {
		return nil
	}
	var p *Published
	for _, f := range published.Find(res.Model.Config, res.Benchmark) {
		fig := Figure{Value: f.Value, Source: f.Source, InsideCI: inside(f.Value, res.CI95.Top1)}
		if p == nil {
			p = &Published{Figure: fig}
			continue
		}
		p.Others = append(p.Others, fig)
	}
	return p
}
