package eval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// cardMark is in every card that evatool writes: no other file is overwritten.
const cardMark = "<!-- written by evatool -->"

// CardLine is one figure of a model card.
type CardLine struct {
	Task    string     // Hugging Face's name, such as zero-shot-image-classification
	Set     string     // evatool's name, such as imagenet
	Title   string     // the set's, for people
	Metric  string     // evatool's name, such as mean_per_class
	Value   float64    // between 0 and 1
	CI95    [2]float64 // of Value
	N       int        // images, or questions
	Data    string     // fingerprint of the images
	Classes int        // 0: none
}

// cardMetrics are the names that the evaluate library has for metrics.
var cardMetrics = map[string]string{
	dataset.Top1: "accuracy", "top5": "top_5_accuracy", dataset.MeanPerClass: "balanced_accuracy", dataset.F1Macro: "f1",
	dataset.MAP: "mean_average_precision", dataset.MeanRecall1: "recall_at_1", "recall1": "recall_at_1", dataset.Jaccard1012: "jaccard",
}

const (
	zeroShotTask  = "zero-shot-image-classification"
	retrievalTask = "image-text-retrieval"
)

// CardLines are the result's figures for a model card: what the set reports, and
// top-1 and top-5 where it has classes.
func (res *Result) CardLines() []CardLine {
	line := CardLine{Task: zeroShotTask, Set: res.Benchmark, Title: titleOf(res.Benchmark), N: res.N, Data: res.Data.Fingerprint, Classes: res.Data.Classes}
	with := func(metric string, value float64, ci [2]float64) CardLine {
		l := line
		l.Metric, l.Value, l.CI95 = metric, value, ci
		return l
	}
	lines := []CardLine{with(res.Metric, res.Value, res.CI95.Value)}
	if res.Metric == dataset.Top1 {
		lines[0].CI95 = res.CI95.Top1
	} else if res.Kind == "" {
		lines = append(lines, with(dataset.Top1, res.Top1, res.CI95.Top1))
	}
	if res.Kind == "" {
		lines = append(lines, with("top5", res.Top5, res.CI95.Top5))
	}
	return lines
}

// CardLines are the result's figures for a model card.
func (res *RetrievalResult) CardLines() []CardLine {
	line := CardLine{Task: retrievalTask, Set: res.Set, Title: titleOf(res.Set), N: res.Images, Data: res.Fingerprint}
	image, text, mean := line, line, line
	image.Metric, image.Value, image.CI95 = "image_to_text_recall1", res.ImageToText.R1, res.ImageToText.CI95
	text.Metric, text.Value, text.CI95 = "text_to_image_recall1", res.TextToImage.R1, res.TextToImage.CI95
	mean.Metric, mean.Value, mean.CI95 = dataset.MeanRecall1, res.MeanRecall1, res.MeanCI95
	return []CardLine{mean, image, text}
}

// CardLines are the figures of one model's sets for a model card, with their
// average first where there are several.
func (m *SuiteModel) CardLines() []CardLine {
	var lines []CardLine
	if len(m.Sets) > 1 {
		lines = append(lines, CardLine{Task: zeroShotTask, Set: "average", Title: fmt.Sprintf("Average of %d of %d sets", m.N, m.Of), Metric: "average", Value: m.Average, CI95: m.AverageCI95, N: m.N})
	}
	for _, s := range m.Sets {
		line := CardLine{Task: zeroShotTask, Set: s.Benchmark, Title: s.Title, Metric: s.Metric, Value: s.Value, CI95: s.CI95, N: s.N}
		if s.ofCaptions() {
			line.Task = retrievalTask
		}
		if r := s.result; r != nil {
			line.Metric, line.Data, line.Classes = r.Metric, r.Data.Fingerprint, r.Data.Classes
		}
		if r := s.retrieval; r != nil {
			line.Metric, line.Data = dataset.MeanRecall1, r.Fingerprint
		}
		lines = append(lines, line)
	}
	return lines
}

func titleOf(set string) string {
	if b, ok := dataset.LookupBenchmark(set); ok {
		return b.Title
	}
	return set
}

// CheckModelCard is an error unless a card may be written to path: an existing
// file must be a card that evatool wrote.
func CheckModelCard(path string) (err error) {
	defer fault.Public(context.Background(), &err)
	if err := atomicfile.Target(path); err != nil {
		return err
	}
	b, err := fault.ReadFile(path, "a model card", 16<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Contains(b, []byte(cardMark)) {
		return fault.Usagef("%s: exists and was not written by evatool; give another file", fault.Name(path))
	}
	return nil
}

// The schema of model-index: huggingface.co/docs/hub/model-cards, as
// huggingface_hub's EvalResult reads it.
type (
	cardHead struct {
		Index []cardModel `yaml:"model-index"`
	}
	cardModel struct {
		Name    string       `yaml:"name"`
		Results []cardResult `yaml:"results"`
	}
	cardResult struct {
		Task    cardNamed    `yaml:"task"`
		Dataset cardNamed    `yaml:"dataset"`
		Metrics []cardMetric `yaml:"metrics"`
	}
	cardNamed struct {
		Type string         `yaml:"type"`
		Name string         `yaml:"name"`
		Args map[string]any `yaml:"args,omitempty"`
	}
	cardMetric struct {
		Type  string         `yaml:"type"`
		Name  string         `yaml:"name"`
		Value float64        `yaml:"value"`
		Args  map[string]any `yaml:"args"`
	}
)

// WriteModelCard writes a model card to path: the figures as Hugging Face's
// model-index, then a table with intervals, the command, and hashes.
func WriteModelCard(path string, m ModelInfo, lines []CardLine, command string, versions map[string]string) (err error) {
	defer fault.Public(context.Background(), &err)
	if err := CheckModelCard(path); err != nil {
		return err
	}
	name := m.Config
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(m.File), filepath.Ext(m.File))
	}
	model := cardModel{Name: name}
	for _, l := range lines {
		kind := cardMetrics[l.Metric]
		if kind == "" {
			kind = l.Metric
		}
		data := cardNamed{Type: l.Set, Name: l.Title}
		if l.Data != "" {
			data.Args = map[string]any{"fingerprint": l.Data}
		}
		metric := cardMetric{kind, l.Metric, l.Value, map[string]any{"n": l.N, "ci95": []float64{l.CI95[0], l.CI95[1]}}}
		if k := len(model.Results) - 1; k >= 0 && model.Results[k].Dataset.Type == l.Set && lines[k].Task == l.Task {
			model.Results[k].Metrics = append(model.Results[k].Metrics, metric)
			continue
		}
		model.Results = append(model.Results, cardResult{cardNamed{Type: l.Task, Name: strings.ReplaceAll(l.Task, "-", " ")}, data, []cardMetric{metric}})
	}
	head, err := yaml.Marshal(cardHead{[]cardModel{model}})
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "---\n%s---\n%s\n\n# %s\n\n", head, cardMark, cell(name))
	b.WriteString("| set | metric | % | 95 % | n |\n|---|---|---:|---|---:|\n")
	for _, l := range lines {
		fmt.Fprintf(&b, "| %s | %s | %.2f | %.2f to %.2f | %d |\n", cell(l.Title), cell(l.Metric), 100*l.Value, 100*l.CI95[0], 100*l.CI95[1], l.N)
	}
	fmt.Fprintf(&b, "\nMade with evatool %s:\n\n```sh\n%s\n```\n\n| file | SHA-256 |\n|---|---|\n| %s | %s |\n", cell(versions["evatool"]), fault.Escape(command), cell(filepath.Base(m.File)), cell(m.SHA256))
	seen := map[string]bool{}
	for _, l := range lines {
		if l.Data != "" && !seen[l.Data] {
			seen[l.Data] = true
			fmt.Fprintf(&b, "| images of %s (fingerprint) | %s |\n", cell(l.Title), cell(l.Data))
		}
	}
	return atomicfile.WriteFile(path, []byte(b.String()))
}

// cell is a text in a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(fault.Escape(s))
}
