// Package published holds the zero-shot figures that the authors of the models
// and third parties have published, as data with their sources.
package published

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
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
}

// Reevaluation is how the source of figures begins that are not the authors' own.
const Reevaluation = "OpenCLIP results table"

// sources spells out the last column of figures.csv.
var sources = map[string]string{
	"eva-clip":     "EVA-CLIP, arXiv 2303.15389",
	"eva-clip-18b": "EVA-CLIP-18B, arXiv 2402.04252",
	"clip":         "CLIP, arXiv 2103.00020, table 11",
	"openclip":     Reevaluation + " (github.com/mlfoundations/open_clip, docs, revision 89fb801)",
}

// All lists every figure, the authors' own before re-evaluations.
var All = sync.OnceValue(func() []Figure {
	records, err := csv.NewReader(strings.NewReader(figures)).ReadAll()
	if err != nil {
		panic(err) // embedded, and read by a test
	}
	list := make([]Figure, 0, len(records)-1)
	for i, r := range records[1:] {
		v, err := strconv.ParseFloat(r[4], 64)
		source, ok := sources[r[5]]
		if err != nil || !ok {
			panic(fmt.Sprintf("figures.csv: line %d: %v", i+2, r))
		}
		list = append(list, Figure{Config: r[0], Weights: r[1], Benchmark: r[2], Metric: r[3], Value: v, Source: source})
	}
	return list
})

// Find lists the figures of an architecture on a benchmark.
func Find(config, benchmark string) []Figure {
	var list []Figure
	for _, f := range All() {
		if f.Config == config && f.Benchmark == benchmark {
			list = append(list, f)
		}
	}
	return list
}
