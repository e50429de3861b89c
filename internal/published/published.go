// Package published holds the zero-shot figures that the authors of the models and
// third parties have published, with their sources, and the published weights.
package published

import (
	_ "embed"
	"fmt"
	"strconv"
	"sync"
)

//go:embed figures.csv
var figures string

// Figure is one published number.
type Figure struct {
	Config    string  // architecture, as `evatool models` names it
	Weights   string  // which weights of that architecture
	Benchmark string  // as `evatool zeroshot list` names it
	Metric    string  // top1, mean_per_class, image_to_text_r1, …
	Value     float64 // 0 to 1
	Source    string

	plain string // the architecture with GELU for which these weights are easily mistaken
}

// Reevaluation begins the source of figures that are not the authors' own.
const Reevaluation = "OpenCLIP results table"

// sources spells out the last column of figures.csv.
var sources = map[string]string{
	"eva-clip":     "EVA-CLIP, arXiv 2303.15389",
	"eva-clip-18b": "EVA-CLIP-18B, arXiv 2402.04252",
	"clip":         "CLIP, arXiv 2103.00020, table 11",
	"openclip":     TableSource,
}

// All lists every figure, the authors' own before re-evaluations.
var All = sync.OnceValue(func() []Figure {
	var list []Figure
	for i, r := range table("figures.csv", figures) {
		v, err := strconv.ParseFloat(r[4], 64)
		source, ok := sources[r[5]]
		if err != nil || !ok {
			panic(fmt.Sprintf("figures.csv: line %d: %v", i+2, r))
		}
		list = append(list, Figure{Config: r[0], Weights: r[1], Benchmark: r[2], Metric: r[3], Value: v, Source: source})
	}
	for _, row := range Rows() {
		for _, t := range Tasks() {
			list = append(list, Figure{row.Config, row.Weights, t.Benchmark, t.Metric, row.Values[t.Key], sources["openclip"], row.plain})
		}
	}
	return list
})

// Find lists the figures of an architecture on a benchmark, and those of weights of
// the same shape with QuickGELU, so that a mix-up shows.
func Find(config, benchmark string) []Figure {
	var list []Figure
	for _, f := range All() {
		if (f.Config == config || f.plain == config) && config != "" && f.Benchmark == benchmark {
			list = append(list, f)
		}
	}
	return list
}
