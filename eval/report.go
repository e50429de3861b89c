package eval

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/png"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/runlog"
)

const (
	reportClasses = 40 // bars of the per-class chart at most
	reportImages  = 24 // example mistakes
	reportSkipped = 50 // rows of the table of skipped images
	thumbSize     = 112
)

// writeReport writes report.html. picture gives an image's file, or nil.
func writeReport(dir string, res *Result, entries []entry, picture func(i int) []byte) error {
	p := runlog.NewPage("Zero-shot: "+res.Benchmark, fmt.Sprintf("%s on %s", filepath.Base(res.Model.File), res.Data.Source))
	reportPart(p, res.Shard, res.Data.N, res.Data.Of)
	reportValue(p, res)
	if res.Kind == "" {
		reportScore(p, res)
		reportDiagnosis(p, res)
		reportPerClass(p, res)
		reportMistakes(p, res, entries, picture)
	}
	reportSpeed(p, res)
	reportOrigin(p, res)
	return p.WriteFile(filepath.Join(dir, reportFile))
}

// reportPart says that a result is of a part of n images, or these a part of a set.
func reportPart(p *runlog.Page, s *ShardInfo, n, of int) {
	if of > 0 {
		p.Note(fmt.Sprintf("Not the whole set: a limit took %d of its %d images.", n, of))
	}
	if s != nil {
		p.Note(fmt.Sprintf("This is part %d of %d: images %d to %d of %d. evatool zeroshot merge makes the whole.", s.Index, s.Count, s.Lo, s.Hi-1, n))
	}
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }

func interval(ci [2]float64) string {
	return fmt.Sprintf("95 %%: %.2f to %.2f", 100*ci[0], 100*ci[1])
}

// reportValue shows what a set reports that is not a share of right answers
// alone, and what it is made of.
func reportValue(p *runlog.Page, res *Result) {
	if res.Metric == dataset.Top1 || res.Metric == dataset.MeanPerClass || res.Kind == dataset.Choice && res.Shard != nil {
		return
	}
	p.Section("What the set reports")
	counted := "images"
	if res.Kind == dataset.Choice {
		counted = "questions"
	}
	p.Stats(
		runlog.Stat{Label: res.Metric, Value: percent(res.Value), Note: interval(res.CI95.Value)},
		runlog.Stat{Label: counted, Value: strconv.Itoa(res.N), Note: fmt.Sprintf("%d images skipped", len(res.Skipped))},
		runlog.Stat{Label: "ties", Value: strconv.Itoa(res.Ties), Note: "whose place an equal score decides"},
	)
	if res.Published != nil {
		p.Note(fmt.Sprintf("Published: %s for %s, %s.", percent(res.Published.Value), res.Published.Weights, res.Published.Verdict()))
	}
	if res.NotCompared != "" && res.Kind != "" { // else it stands below the chart
		p.Note("Not compared with what is published: " + res.NotCompared + ".")
	}
	var rows [][]string
	for _, g := range res.Groups {
		rows = append(rows, []string{strconv.Itoa(g.Group), strconv.Itoa(g.N), percent(ratio(g.Correct, g.N)), percent(ratio(g.Correct5, g.N)), interval(Wilson(g.Correct, g.N))})
	}
	if rows != nil {
		p.Table([]string{res.Group.Name, "images", "top-1", "top-5", "of top-1"}, rows)
	}
	if c := res.Choice; c != nil && c.Jaccard == nil {
		rows = [][]string{{"text", percent(ratio(c.TextCorrect, res.N))}, {"image", percent(ratio(c.ImageCorrect, res.N))}, {"group", percent(ratio(c.GroupCorrect, res.N))}}
		for _, part := range c.Parts {
			rows = append(rows, []string{part.Name, percent(part.Value), interval(part.CI95)})
		}
		p.Table([]string{"right", "share", ""}, rows)
	} else if c != nil {
		rows = nil
		for _, name := range slices.Sorted(maps.Keys(c.Jaccard)) {
			rows = append(rows, []string{name, percent(c.Jaccard[name])})
		}
		p.Table([]string{"candidates", "Jaccard index"}, rows)
	}
	if res.Kind == dataset.MultiLabel {
		rows = nil
		for _, c := range res.PerClass {
			rows = append(rows, []string{c.Name, strconv.Itoa(c.N), percent(*c.AP)})
		}
		p.Table([]string{"class", "pictures", "average precision"}, rows)
	}
}

func reportScore(p *runlog.Page, res *Result) {
	p.Stats(
		runlog.Stat{Label: "top-1", Value: percent(res.Top1), Note: interval(res.CI95.Top1)},
		runlog.Stat{Label: "top-5", Value: percent(res.Top5), Note: interval(res.CI95.Top5)},
		runlog.Stat{Label: "mean per class", Value: percent(res.MeanPerClass), Note: fmt.Sprintf("%d of %d classes have images", res.Data.ClassesWithImages, res.Data.Classes)},
		runlog.Stat{Label: "images", Value: strconv.Itoa(res.N), Note: fmt.Sprintf("%d skipped", len(res.Skipped))},
		runlog.Stat{Label: "ties", Value: strconv.Itoa(res.Ties), Note: "the lower class index won"},
	)
	p.Section("Accuracy")
	chance := 1 / float64(max(1, res.Data.Classes))
	chart := runlog.BarChart{Title: "Accuracy with its 95 % interval, beside chance and what is published", Unit: "%", Bars: []runlog.Bar{
		barOf("this run, top-1", res.Top1, res.CI95.Top1),
		barOf("this run, top-5", res.Top5, res.CI95.Top5),
		barOf("this run, mean per class", res.MeanPerClass, res.CI95.MeanPerClass),
		{Label: "chance, top-1", Value: 100 * chance, Aside: true},
		{Label: "chance, top-5", Value: 100 * min(1, 5*chance), Aside: true},
	}}
	if res.Published == nil {
		p.Bars(chart)
		if res.NotCompared != "" {
			p.Note("Not compared with what is published: " + res.NotCompared + ".")
		} else {
			p.Note("Nothing is published for this model on these images.")
		}
		return
	}
	figures := append([]Figure{res.Published.Figure}, res.Published.Others...)
	var rows [][]string
	for _, f := range figures {
		chart.Bars = append(chart.Bars, runlog.Bar{Label: "published, " + f.Weights, Value: 100 * f.Value, Aside: true})
		rows = append(rows, []string{percent(f.Value), f.Weights, f.Source, f.Verdict()})
	}
	p.Bars(chart)
	p.Table([]string{"published " + res.Metric, "weights", "source", "verdict"}, rows)
}

func reportDiagnosis(p *runlog.Page, res *Result) {
	if len(res.Diagnosis) == 0 {
		return
	}
	p.Section("Why it differs")
	p.Note(fmt.Sprintf("The published figure is outside the interval. The usual causes, each tried alone on %d images:", res.Diagnosis[len(res.Diagnosis)-1].N))
	var rows [][]string
	for _, f := range res.Diagnosis {
		mark := ""
		if f.Suspect {
			mark = "suspect"
		}
		rows = append(rows, []string{f.Cause, strconv.Itoa(f.Before), strconv.Itoa(f.After), mark, f.Text})
	}
	p.Table([]string{"change", "right before", "right after", "", "in words"}, rows)
}

func reportPerClass(p *runlog.Page, res *Result) {
	var seen []ClassRow
	for _, c := range res.PerClass {
		if c.N > 0 {
			seen = append(seen, c)
		}
	}
	if len(seen) == 0 {
		return
	}
	slices.SortStableFunc(seen, func(a, b ClassRow) int {
		return cmp.Compare(ratio(a.Correct, a.N), ratio(b.Correct, b.N))
	})
	title := "Top-1 per class (its images), with 95 % intervals"
	shown := seen
	if len(seen) > reportClasses {
		worst := reportClasses * 3 / 4
		shown = append(slices.Clone(seen[:worst]), seen[len(seen)-(reportClasses-worst):]...)
		title = fmt.Sprintf("Top-1 per class (its images), with 95 %% intervals: the %d worst and the %d best of %d", worst, reportClasses-worst, len(seen))
	}
	p.Section("Classes")
	chart := runlog.BarChart{Title: title, Unit: "%"}
	for _, c := range shown {
		chart.Bars = append(chart.Bars, barOf(fmt.Sprintf("%s (%d)", c.Name, c.N), ratio(c.Correct, c.N), Wilson(c.Correct, c.N)))
	}
	p.Bars(chart)
	if len(res.Confused) == 0 {
		return
	}
	p.Section("Most confused")
	var rows [][]string
	for _, c := range res.Confused {
		n := res.PerClass[c.Label].N
		rows = append(rows, []string{c.LabelName, c.PredictedName, strconv.Itoa(c.N), strconv.Itoa(n), fmt.Sprintf("%.0f %%", 100*ratio(c.N, n))})
	}
	p.Table([]string{"is", "taken for", "images", "of", "share"}, rows)
}

// reportMistakes shows wrong answers at equal distances over the run.
func reportMistakes(p *runlog.Page, res *Result, entries []entry, picture func(i int) []byte) {
	if picture == nil {
		return
	}
	var wrong []entry
	for _, e := range entries {
		if e.Bad == "" && e.Top[0] != e.Label {
			wrong = append(wrong, e)
		}
	}
	var figures []runlog.Figure
	n := min(reportImages, len(wrong))
	for k := range n {
		e := wrong[k*len(wrong)/n]
		thumb := thumbnail(picture(e.Index))
		if thumb == nil {
			continue
		}
		f := runlog.Figure{PNG: thumb, Caption: res.PerClass[e.Label].Name}
		for i, c := range e.Top[:3] {
			if c >= 0 {
				f.Lines = append(f.Lines, fmt.Sprintf("%.0f %% %s", 100*e.Probs[i], res.PerClass[c].Name))
			}
		}
		figures = append(figures, f)
	}
	if len(figures) == 0 {
		return
	}
	p.Section("Mistakes")
	p.Note(fmt.Sprintf("%d of %d wrong answers: the right class, and the three best guesses.", len(figures), len(wrong)))
	p.Images(figures)
}

// thumbnail is a small PNG of an image file, nil when there is none.
func thumbnail(file []byte) []byte {
	if file == nil {
		return nil
	}
	im, err := img.Parse(file)
	if err != nil {
		return nil
	}
	c, err := im.Crop(img.Preprocess{Size: thumbSize})
	if err != nil {
		return nil
	}
	out := image.NewRGBA(image.Rect(0, 0, c.W, c.H))
	for i := range c.W * c.H {
		copy(out.Pix[4*i:], c.Pix[3*i:3*i+3])
		out.Pix[4*i+3] = 255
	}
	var b bytes.Buffer
	if png.Encode(&b, out) != nil {
		return nil
	}
	return b.Bytes()
}

func reportSpeed(p *runlog.Page, res *Result) {
	p.Section("Speed")
	s := res.Seconds
	p.Stats(
		runlog.Stat{Label: "images per second", Value: fmt.Sprintf("%.1f", res.ImagesPerSecond), Note: "decoding included"},
		runlog.Stat{Label: "backend", Value: res.Backend, Note: res.DType},
		runlog.Stat{Label: "peak memory", Value: fmt.Sprintf("%.2f GB", float64(res.PeakRSS)/1e9)},
	)
	chart := runlog.BarChart{Title: "Where the time went", Unit: "s"}
	for _, part := range []struct {
		name string
		v    float64
	}{
		{"loading the model", s.Load}, {"class vectors", s.Classifier}, {"images, all", s.Images},
		{"model on images", s.Device}, {"waiting for decoded images", s.Wait}, {"decoding, all workers", s.Decode}, {"the whole run", s.Total},
	} {
		chart.Bars = append(chart.Bars, runlog.Bar{Label: part.name, Value: part.v})
	}
	p.Bars(chart)
	if s.Images > 0 {
		p.Note(fmt.Sprintf("While images were scored the model was busy %.0f %% of the time and waited for decoded images %.0f %%; decoding runs beside it.", 100*min(1, s.Device/s.Images), 100*min(1, s.Wait/s.Images)))
	}
}

func reportOrigin(p *runlog.Page, res *Result) {
	p.Section("What was scored")
	pre := res.Model.Preprocess
	rows := [][]string{
		{"model", res.Model.File}, {"model SHA-256", res.Model.SHA256}, {"architecture", res.Model.Config},
		{"data", res.Data.Source}, {"layout", res.Data.Layout}, {"data fingerprint", res.Data.Fingerprint},
		{"classes, templates", fmt.Sprintf("%d, %d", res.Data.Classes, res.Data.Templates)},
		{"preprocessing", fmt.Sprintf("%s, mean %v, std %v", pre.prompts(), pre.Mean, pre.Std)},
		{"backend", res.Backend + ", " + res.DType}, {"JPEG decoder", res.Decoder}, {"key", res.Key},
	}
	for _, name := range slices.Sorted(maps.Keys(res.Versions)) {
		rows = append(rows, []string{name, res.Versions[name]})
	}
	p.Table(nil, rows)
	if len(res.Skipped) == 0 {
		return
	}
	p.Section("Skipped images")
	rows = nil
	for _, s := range res.Skipped[:min(reportSkipped, len(res.Skipped))] {
		rows = append(rows, []string{strconv.Itoa(s.Index), s.Key, s.Reason})
	}
	p.Table([]string{"index", "key", "why"}, rows)
}

// barOf is the bar of a share with its interval.
func barOf(label string, v float64, ci [2]float64) runlog.Bar {
	return runlog.Bar{Label: label, Value: 100 * v, Interval: &[2]float64{100 * ci[0], 100 * ci[1]}}
}
