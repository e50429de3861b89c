package eval

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/published"
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

// benchmarkNames are CLIP_benchmark's names of sets that DataComp calls otherwise,
// or has not.
var benchmarkNames = map[string]string{
	"flickr30k": "flickr30k", "coco": "mscoco_captions", "cifar10": "vtab/cifar10",
	"diabetic-retinopathy": "vtab/diabetic_retinopathy", "dmlab": "vtab/dmlab",
	"dsprites-orientation": "vtab/dsprites_label_orientation", "dsprites-x-position": "vtab/dsprites_label_x_position",
	"smallnorb-azimuth": "vtab/smallnorb_label_azimuth", "smallnorb-elevation": "vtab/smallnorb_label_elevation",
	"voc2007-multilabel": "voc2007_multilabel", "sugarcrepe": "sugar_crepe",
}

// benchmarkName is CLIP_benchmark's name of a set.
func (s SuiteSet) benchmarkName() string {
	if name, ok := benchmarkNames[s.Benchmark]; ok {
		return name
	}
	if part, ok := strings.CutPrefix(s.Benchmark, "sugarcrepe-"); ok {
		return "sugar_crepe/" + strings.ReplaceAll(part, "-", "_")
	}
	return s.Key
}

// suiteTable is one line per model and set, the columns by CLIP_benchmark's names.
func suiteTable(models []*SuiteModel) [][]string {
	table := [][]string{tableHead}
	for _, m := range models {
		pretrained := m.Model.File
		if len(m.Model.Weights) > 0 {
			pretrained = m.Model.Weights[0]
		}
		model := published.OpenCLIPName(m.Model.Config, pretrained)
		for _, s := range m.Sets {
			cells := map[string]string{
				"dataset": s.benchmarkName(), "model": model, "pretrained": pretrained, "model_fullname": model + " " + pretrained, "language": "en",
				"main_metric": s.Metric, "value": figure(s.Value), "ci95_low": figure(s.CI95[0]), "ci95_high": figure(s.CI95[1]), "n": strconv.Itoa(s.N),
			}
			if r := s.result; r != nil && r.Data.Language != "" {
				cells["language"] = r.Data.Language
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
	if slices.ContainsFunc(models[0].Sets, SuiteSet.limited) {
		p.Note("Not the whole sets: a limit took a part of their images.")
	}
	p.Section("Scores")
	suiteScores(p, models)
	if len(res.Pairs) > 0 {
		p.Section("Differences")
		p.Note("Models compared on the pictures that both saw. The pictures that only one has right decide: McNemar's exact test, and the normal interval of the difference of paired shares. A p below 0.05 is marked; among many pairs some are by chance.")
		p.Table(pairsHead, pairRows(res.Pairs, models))
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
	if m.PublishedSame != nil { // else none of the sets is compared
		stats = append(stats, runlog.Stat{Label: fmt.Sprintf("published, %d of these sets", m.Compared()), Value: percent(*m.PublishedSame), Note: m.PublishedWeights})
	}
	if m.PublishedAverage != nil {
		stats = append(stats, runlog.Stat{Label: fmt.Sprintf("published, all %d", m.Of), Value: percent(*m.PublishedAverage), Note: "known by " + m.PublishedBy})
	}
	p.Stats(stats...)
	if len(m.Missing) > 0 {
		p.Note(fmt.Sprintf("The average is over %d of %d sets. Missing: %s.", m.N, m.Of, joinWords(m.Missing)))
	}
}

// limited says whether some of the set's images were left out.
func (s SuiteSet) limited() bool {
	return s.result != nil && s.result.Data.Of > 0 || s.retrieval != nil && s.retrieval.Of > 0
}

// modelNames are names that tell the models apart.
func modelNames(models []*SuiteModel) []string {
	var files []string
	for _, m := range models {
		files = append(files, m.Model.File)
	}
	return runlog.Names(files)
}

// suiteScores is the table of all sets.
func suiteScores(p *runlog.Page, models []*SuiteModel) {
	head := []string{"set", "metric", "n"}
	for _, name := range modelNames(models) {
		head = append(head, name, "95 %", "published")
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
		line := SuiteSet{Value: m.Average, CI95: m.AverageCI95}
		if m.Compared() == len(m.Sets) { // else it is of other sets
			in := inside(*m.PublishedSame, line.CI95)
			line.Published, line.InsideCI = m.PublishedSame, &in
		}
		row = append(row, line.shown()...)
	}
	p.Table(head, append(rows, row))
}

// shown are a set's cells: the figure, its interval, what was published.
func (s SuiteSet) shown() []string {
	pub := ""
	if s.NotCompared != "" {
		pub = "not compared: " + s.NotCompared
	}
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
var relatives = []string{"imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"}

// RobustnessRow is a relative of ImageNet beside ImageNet itself.
type RobustnessRow struct {
	Set   string  `json:"set"`
	Value float64 `json:"value"`
	Below float64 `json:"below"` // ImageNet's accuracy less this
	// Line is the accuracy of models that learned from ImageNet alone and are as good
	// on ImageNet, Effective how far Value lies above it: effective robustness. Both
	// are null where no such line is published, or the model is outside of it.
	Line      *float64 `json:"line"`
	Effective *float64 `json:"effective"`
}

// robustness puts ImageNet's relatives beside it, where both were scored.
func (m *SuiteModel) robustness() (rows []RobustnessRow) {
	find := func(name string) (float64, bool) {
		i := slices.IndexFunc(m.Sets, func(s SuiteSet) bool { return s.Benchmark == name })
		if i < 0 {
			return 0, false
		}
		return m.Sets[i].Value, true
	}
	base, ok := find("imagenet")
	if !ok {
		return nil
	}
	for _, name := range relatives {
		v, ok := find(name)
		if !ok {
			continue
		}
		row := RobustnessRow{Set: name, Value: v, Below: base - v}
		if line, ok := published.RobustnessLine(name); ok {
			if on, ok := line.At(base); ok {
				above := v - on
				row.Line, row.Effective = &on, &above
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// same says whether two rows are equal, apart from rounding.
func (r RobustnessRow) same(q RobustnessRow) bool {
	optional := func(a, b *float64) bool { return a == b || a != nil && b != nil && near(*a, *b) }
	return r.Set == q.Set && near(r.Value, q.Value) && near(r.Below, q.Below) && optional(r.Line, q.Line) && optional(r.Effective, q.Effective)
}

// suiteRobustness shows ImageNet beside its relatives.
func suiteRobustness(p *runlog.Page, models []*SuiteModel) {
	if len(models[0].Robustness) == 0 {
		return
	}
	head := []string{"set"}
	for _, name := range modelNames(models) {
		head = append(head, name, "below ImageNet", "effective")
	}
	first := []string{"imagenet"}
	for _, m := range models {
		i := slices.IndexFunc(m.Sets, func(s SuiteSet) bool { return s.Benchmark == "imagenet" })
		first = append(first, percent(m.Sets[i].Value), "", "")
	}
	rows := [][]string{first}
	mean := make([]float64, len(models))
	for i, r := range models[0].Robustness {
		row := []string{r.Set}
		for k, m := range models {
			r := m.Robustness[i]
			effective := "not given"
			if r.Effective != nil {
				effective = fmt.Sprintf("%+.2f", 100**r.Effective)
			}
			row = append(row, percent(r.Value), fmt.Sprintf("%.2f", 100*r.Below), effective)
			mean[k] += r.Value / float64(len(m.Robustness))
		}
		rows = append(rows, row)
	}
	last := []string{"mean of these"}
	for _, v := range mean {
		last = append(last, percent(v), "", "")
	}
	line, _ := published.RobustnessLine("imagenet-v2")
	p.Section("Robustness")
	p.Note(fmt.Sprintf("Accuracy on ImageNet and on sets that ask for its classes on other pictures. Effective robustness is the height, in points, above what %d models that learned from ImageNet alone would have at the same ImageNet accuracy: a line through their logits (%s). It is given between %.0f and %.0f %% on ImageNet, where these models lie, and for ImageNet-V2 and -Sketch. ImageNet-A, -O, -R and ObjectNet ask for a part of the classes: their lines need ImageNet's accuracy among that part alone, which is another run.",
		line.Models, published.TestbedSource, 100*line.Low, 100*line.High))
	p.Table(head, append(rows, last))
}
