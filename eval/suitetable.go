package eval

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/runlog"
)

// tableFile is a suite's table as CSV.
const tableFile = "table.csv"

// tableHead begins with CLIP_benchmark's columns.
var tableHead = []string{
	"acc1", "acc5", "mean_per_class_recall", "dataset", "model", "pretrained", "task", "mean_average_precision",
	"image_retrieval_recall@5", "text_retrieval_recall@5", "image_retrieval_recall@1", "text_retrieval_recall@1",
	"image_acc", "text_acc", "acc", "model_fullname", "language",
	"main_metric", "value", "ci95_low", "ci95_high", "n", "published", "inside_ci95",
}

// benchmarkNames are CLIP_benchmark's names of sets that DataComp calls otherwise.
var benchmarkNames = map[string]string{"flickr30k": "flickr30k", "coco": "mscoco_captions"}

// suiteTable is one line per model and set, the columns by CLIP_benchmark's names.
func suiteTable(models []*SuiteModel) [][]string {
	table := [][]string{tableHead}
	for _, m := range models {
		pretrained := m.Model.File
		if len(m.Model.Weights) > 0 {
			pretrained = m.Model.Weights[0]
		}
		for _, s := range m.Sets {
			cells := map[string]string{
				"dataset": s.Key, "model": m.Model.Config, "pretrained": pretrained, "model_fullname": m.Model.Config + " " + pretrained, "language": "en",
				"main_metric": s.Metric, "value": figure(s.Value), "ci95_low": figure(s.CI95[0]), "ci95_high": figure(s.CI95[1]), "n": strconv.Itoa(s.N),
			}
			if name, ok := benchmarkNames[s.Benchmark]; ok {
				cells["dataset"] = name
			}
			if s.Published != nil {
				cells["published"], cells["inside_ci95"] = figure(*s.Published), strconv.FormatBool(*s.InsideCI)
			}
			s.cells(cells)
			line := make([]string, len(tableHead))
			for i, name := range tableHead {
				line[i] = cells[name]
			}
			table = append(table, line)
		}
	}
	return table
}

func figure(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// cells fills in the columns of the set's kind.
func (s *SuiteSet) cells(to map[string]string) {
	if r := s.retrieval; r != nil {
		to["task"] = "zeroshot_retrieval"
		to["image_retrieval_recall@1"], to["image_retrieval_recall@5"] = figure(r.TextToImage.R1), figure(r.TextToImage.R5)
		to["text_retrieval_recall@1"], to["text_retrieval_recall@5"] = figure(r.ImageToText.R1), figure(r.ImageToText.R5)
		return
	}
	r := s.result
	if r == nil {
		return
	}
	switch r.Kind {
	case dataset.Choice:
		to["task"] = "image_caption_selection"
		if c := r.Choice; c != nil && c.Jaccard == nil {
			to["image_acc"], to["text_acc"], to["acc"] = figure(ratio(c.ImageCorrect, r.N)), figure(ratio(c.TextCorrect, r.N)), figure(ratio(c.GroupCorrect, r.N))
		}
	case dataset.MultiLabel:
		to["task"], to["mean_average_precision"] = "zeroshot_classification", figure(r.Value)
	default:
		to["task"], to["acc1"], to["mean_per_class_recall"] = "zeroshot_classification", figure(r.Top1), figure(r.MeanPerClass)
		if len(r.PerClass) >= 5 { // as CLIP_benchmark gives it
			to["acc5"] = figure(r.Top5)
		}
	}
}

// writeSuiteReport writes report.html: the models as columns.
func writeSuiteReport(dir string, res *SuiteResult, models []*SuiteModel) error {
	p := runlog.NewPage("Zero-shot: "+res.Suite, fmt.Sprintf("%d models on %d sets of %s", len(models), len(models[0].Sets), res.Data))
	if len(models) == 1 {
		suiteStats(p, models[0])
	}
	p.Section("Scores")
	suiteScores(p, models)
	if len(res.Pairs) > 0 {
		p.Section("Differences")
		p.Note("Models side by side on the pictures that both saw. Where only one is right decides: McNemar's exact test, and the normal interval of the difference of paired shares. A p below 0.05 is marked; among many pairs some are by chance.")
		p.Table(pairsHead, pairRows(res.Pairs))
	}
	suiteRobustness(p, models)
	p.Section("What was scored")
	rows := [][]string{}
	for _, m := range models {
		rows = append(rows, []string{m.Model.File, m.Model.Config, m.Model.SHA256})
	}
	p.Table([]string{"model", "architecture", "SHA-256"}, rows)
	return p.WriteFile(filepath.Join(dir, reportFile))
}

func suiteStats(p *runlog.Page, m *SuiteModel) {
	stats := []runlog.Stat{
		{Label: "average", Value: percent(m.Average), Note: interval(m.AverageCI95)},
		{Label: "sets", Value: fmt.Sprintf("%d of %d", m.N, m.Of)},
	}
	if m.PublishedAverage != nil {
		stats = append(stats,
			runlog.Stat{Label: "published, the same sets", Value: percent(*m.PublishedSame), Note: m.PublishedWeights},
			runlog.Stat{Label: fmt.Sprintf("published, all %d", m.Of), Value: percent(*m.PublishedAverage), Note: "known by " + m.PublishedBy})
	}
	p.Stats(stats...)
	if len(m.Missing) > 0 {
		p.Note(fmt.Sprintf("The average is over %d of %d sets. Missing: %s.", m.N, m.Of, joinWords(m.Missing)))
	}
}

// suiteScores is the table of all sets.
func suiteScores(p *runlog.Page, models []*SuiteModel) {
	head := []string{"set", "metric", "n"}
	for _, m := range models {
		head = append(head, filepath.Base(m.Model.File), "95 %", "published")
	}
	var rows [][]string
	for i, s := range models[0].Sets {
		row := []string{s.Key, s.Metric, strconv.Itoa(s.N)}
		for _, m := range models {
			row = append(row, m.Sets[i].shown()...)
		}
		rows = append(rows, row)
	}
	row := []string{fmt.Sprintf("average of %d", len(models[0].Sets)), "", ""}
	for _, m := range models {
		line := SuiteSet{Value: m.Average, CI95: m.AverageCI95, Published: m.PublishedSame}
		if line.Published != nil {
			in := inside(*line.Published, line.CI95)
			line.InsideCI = &in
		}
		row = append(row, line.shown()...)
	}
	p.Table(head, append(rows, row))
}

// shown are a set's cells: the figure, its interval, what was published.
func (s SuiteSet) shown() []string {
	pub := ""
	if s.Published != nil {
		pub = percent(*s.Published)
		if !*s.InsideCI {
			pub += fmt.Sprintf(" OUTSIDE (%+.2f)", 100*(s.Value-*s.Published))
		}
	}
	return []string{percent(s.Value), fmt.Sprintf("%.2f to %.2f", 100*s.CI95[0], 100*s.CI95[1]), pub}
}

func joinWords(list []string) string {
	text := ""
	for i, w := range list {
		if i > 0 {
			text += ", "
		}
		text += w
	}
	return text
}

// relatives are the sets whose classes are ImageNet's and whose pictures are not.
var relatives = []string{"imagenet-v2", "imagenet-a", "imagenet-o", "imagenet-r", "imagenet-sketch", "objectnet"}

// suiteRobustness shows ImageNet beside its relatives, where both were scored.
func suiteRobustness(p *runlog.Page, models []*SuiteModel) {
	find := func(m *SuiteModel, name string) *SuiteSet {
		i := slices.IndexFunc(m.Sets, func(s SuiteSet) bool { return s.Benchmark == name })
		if i < 0 {
			return nil
		}
		return &m.Sets[i]
	}
	base := find(models[0], "imagenet")
	head, names := []string{"model", "imagenet"}, []string{}
	for _, name := range relatives {
		if find(models[0], name) != nil {
			head, names = append(head, name, "below imagenet"), append(names, name)
		}
	}
	if base == nil || len(names) == 0 {
		return
	}
	var rows [][]string
	for _, m := range models {
		imagenet := find(m, "imagenet").Value
		row := []string{filepath.Base(m.Model.File), percent(imagenet)}
		mean := 0.0
		for _, name := range names {
			v := find(m, name).Value
			mean += v / float64(len(names))
			row = append(row, percent(v), fmt.Sprintf("%.2f", 100*(imagenet-v)))
		}
		rows = append(rows, append(row, percent(mean)))
	}
	p.Section("Robustness")
	p.Note("Accuracy on ImageNet and on sets that ask for its classes on other pictures. ImageNet-A, -O, -R and ObjectNet ask for a part of the classes, so their distance says less than ImageNet-V2's. Effective robustness, the height above the line of models trained on ImageNet alone, is not given: no coefficients of that line are published with these prompts and classes.")
	p.Table(append(head, "mean of the others"), rows)
}
