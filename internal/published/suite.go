package published

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

var (
	//go:embed datacomp.csv
	datacomp string
	//go:embed openclip38.csv
	openclip38 string
)

// Task is one of the 38 sets whose scores DataComp averages.
type Task struct {
	Key       string // DataComp's, such as vtab/caltech101
	Title     string // the column of OpenCLIP's table
	Benchmark string // as `evatool zeroshot list` names it
	Metric    string // as evatool names it
	// MainMetric is DataComp's name for Metric.
	MainMetric string
	Images     int
}

// Tasks lists DataComp's 38 sets in the order of its task list.
var Tasks = sync.OnceValue(func() []Task {
	var list []Task
	for _, r := range table("datacomp.csv", datacomp) {
		n, err := strconv.Atoi(r[5])
		if err != nil {
			panic(fmt.Sprintf("datacomp.csv: %v", r)) // embedded, and read by a test
		}
		list = append(list, Task{Key: r[0], Title: r[1], Benchmark: r[2], Metric: r[3], MainMetric: r[4], Images: n})
	}
	return list
})

// Row is a row of OpenCLIP's table of the 38 sets.
type Row struct {
	Config  string // architecture, as `evatool models` names it
	Weights string
	Params  float64            // millions
	Average float64            // over the 38 sets
	Values  map[string]float64 // by Task.Key

	plain string
}

// Rows lists the weights of OpenCLIP's table, which has OpenAI's under two names.
var Rows = sync.OnceValue(func() []Row {
	lines := table("openclip38.csv", openclip38)
	head := strings.Split(strings.TrimSpace(strings.SplitN(openclip38, "\n", 2)[0]), ",")
	of := map[string]string{} // title → key
	for _, t := range Tasks() {
		of[t.Title] = t.Key
	}
	seen := map[string]bool{}
	var list []Row
	for _, line := range lines {
		r := Row{Config: configName(line[0], line[1]), Weights: line[1], Values: map[string]float64{}}
		if seen[r.Config+"/"+r.Weights] {
			continue
		}
		seen[r.Config+"/"+r.Weights] = true
		if plain, ok := strings.CutPrefix(r.Config, "openai-"); ok && r.Weights != "openai" {
			r.plain = "openclip-" + plain
		}
		for i, title := range head {
			v, err := strconv.ParseFloat(line[i], 64)
			switch {
			case title == "Average perf. on 38 datasets" && err == nil:
				r.Average = v
			case title == "params (M)" && err == nil:
				r.Params = v
			case of[title] != "" && err == nil:
				r.Values[of[title]] = v
			case i >= 4:
				panic(fmt.Sprintf("openclip38.csv: %s: %v", title, line))
			}
		}
		list = append(list, r)
	}
	return list
})

// TableSource is the source of Rows.
const TableSource = Reevaluation + " (github.com/mlfoundations/open_clip, docs, revision 89fb801)"

// Is reports whether the weights are of this architecture, or easily mistaken for
// it.
func (r Row) Is(config string) bool { return config != "" && (r.Config == config || r.plain == config) }

// evaNames maps OpenCLIP's names of EVA's models to the names here.
var evaNames = map[string]string{
	"EVA01-g-14": "EVA01-CLIP-g-14", "EVA01-g-14-plus": "EVA01-CLIP-g-14-plus", "EVA02-B-16": "EVA02-CLIP-B-16", "EVA02-L-14": "EVA02-CLIP-L-14",
	"EVA02-L-14-336": "EVA02-CLIP-L-14-336", "EVA02-E-14": "EVA02-CLIP-bigE-14", "EVA02-E-14-plus": "EVA02-CLIP-bigE-14-plus",
}

// openaiToo are the architectures that OpenAI published with QuickGELU, which
// OpenCLIP marks by a suffix or leaves to the tag.
var openaiToo = map[string]bool{
	"RN50": true, "RN101": true, "RN50x4": true, "RN50x16": true, "RN50x64": true,
	"ViT-B-32": true, "ViT-B-16": true, "ViT-L-14": true, "ViT-L-14-336": true,
}

// configName is the name here of a row's architecture.
func configName(name, tag string) string {
	if eva, ok := evaNames[name]; ok {
		return eva
	}
	plain, quick := strings.CutSuffix(name, "-quickgelu")
	if (quick || tag == "openai") && openaiToo[plain] {
		return "openai-" + plain
	}
	// Only names that others share are prefixed with their owner's.
	if strings.Contains(name, "SigLIP") || strings.Contains(name, "CLIPA") || !strings.HasPrefix(name, "ViT-") && !strings.HasPrefix(name, "RN") {
		return name
	}
	return "openclip-" + name
}

// OpenCLIPName is OpenCLIP's name of an architecture, the inverse of configName.
func OpenCLIPName(config, tag string) string {
	for theirs, ours := range evaNames {
		if ours == config {
			return theirs
		}
	}
	if plain, ok := strings.CutPrefix(config, "openai-"); ok {
		if tag == "openai" {
			return plain
		}
		return plain + "-quickgelu"
	}
	return strings.TrimPrefix(config, "openclip-")
}

// table reads an embedded CSV without its header.
func table(name, text string) [][]string {
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		panic(fmt.Sprintf("%s: %v", name, err)) // embedded, and read by a test
	}
	return records[1:]
}
