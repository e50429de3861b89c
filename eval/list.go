package eval

import (
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/published"
)

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
