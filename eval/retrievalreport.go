package eval

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/evatool/evatool/internal/runlog"
)

// writeRetrievalReport writes report.html.
func writeRetrievalReport(dir string, res *RetrievalResult, ranks []imageRanks) error {
	p := runlog.NewPage("Retrieval: "+res.Set, fmt.Sprintf("%s on %s", filepath.Base(res.Model.File), res.Source))
	reportPart(p, res.Shard, res.N, res.Of)
	if res.Shard == nil { // a part has no ranks
		retrievalScores(p, res, ranks)
	}
	p.Section("What was scored")
	pre := res.Model.Preprocess
	p.Table(nil, [][]string{
		{"model", res.Model.File}, {"model SHA-256", res.Model.SHA256}, {"architecture", res.Model.Config},
		{"data", res.Source}, {"layout", res.Layout}, {"data fingerprint", res.Fingerprint},
		{"preprocessing", fmt.Sprintf("%s, mean %v, std %v", pre.prompts(), pre.Mean, pre.Std)},
		{"backend", res.Backend + ", " + res.DType}, {"seconds", fmt.Sprintf("%.1f", res.Seconds)}, {"key", res.Key},
	})
	return p.WriteFile(filepath.Join(dir, reportFile))
}

// retrievalScores shows the recalls and ranks.
func retrievalScores(p *runlog.Page, res *RetrievalResult, ranks []imageRanks) {
	p.Stats(
		runlog.Stat{Label: "image to text, R@1", Value: percent(res.ImageToText.R1), Note: interval(res.ImageToText.CI95)},
		runlog.Stat{Label: "text to image, R@1", Value: percent(res.TextToImage.R1), Note: interval(res.TextToImage.CI95)},
		runlog.Stat{Label: "mean R@1", Value: percent(res.MeanRecall1), Note: interval(res.MeanCI95)},
		runlog.Stat{Label: "images", Value: strconv.Itoa(res.Images), Note: fmt.Sprintf("%d captions, %d skipped", res.Captions, len(res.Skipped))},
	)
	p.Section("Recall")
	chart := runlog.BarChart{Title: "Share of queries whose right answer is among the best k, with its 95 % interval", Unit: "%"}
	published := map[string]PublishedFigure{}
	for _, f := range res.Published {
		if _, there := published[f.Metric]; !there {
			published[f.Metric] = f
		}
	}
	var rows [][]string
	for _, d := range []struct {
		name, metric string
		r            Recall
		right        int // answers that are right for a query, on average
	}{
		{"image to text", "image_to_text", res.ImageToText, max(1, res.Captions/max(1, res.Images))},
		{"text to image", "text_to_image", res.TextToImage, 1},
	} {
		among := res.Captions
		if d.metric == "text_to_image" {
			among = res.Images
		}
		for _, k := range []struct{ k, hits int }{{1, d.r.Hits1}, {5, d.r.Hits5}, {10, d.r.Hits10}} {
			ci := Wilson(k.hits, d.r.N)
			chart.Bars = append(chart.Bars, barOf(fmt.Sprintf("%s, R@%d", d.name, k.k), ratio(k.hits, d.r.N), ci))
			row := []string{d.name, fmt.Sprintf("R@%d", k.k), fmt.Sprintf("%d of %d", k.hits, d.r.N), percent(ratio(k.hits, d.r.N)), fmt.Sprintf("%.2f to %.2f", 100*ci[0], 100*ci[1]),
				percent(min(1, float64(k.k*d.right)/float64(max(1, among)))), "", ""}
			if f, ok := published[fmt.Sprintf("%s_r%d", d.metric, k.k)]; ok {
				row[6], row[7] = percent(f.Value), f.Weights+" by "+f.Source
			}
			rows = append(rows, row)
		}
	}
	p.Bars(chart)
	p.Table([]string{"direction", "recall", "right", "share", "95 %", "chance, about", "published", "weights"}, rows)
	if res.NotCompared != "" {
		p.Note("Not compared with what is published: " + res.NotCompared + ".")
	}
	p.Section("Ranks")
	p.Note("Place of the best right answer among all candidates, counted from 1; rows.csv has every one, counted from 0.")
	var places [][]string
	steps := []struct {
		name   string
		lo, hi int
	}{{"1", 0, 1}, {"2 to 5", 1, 5}, {"6 to 10", 5, 10}, {"11 to 100", 10, 100}, {"above 100", 100, 1 << 62}}
	for _, s := range steps {
		toText, toImage := 0, 0
		for _, r := range ranks {
			if r.image >= s.lo && r.image < s.hi {
				toText++
			}
			for _, c := range r.captions {
				if c >= s.lo && c < s.hi {
					toImage++
				}
			}
		}
		places = append(places, []string{s.name, strconv.Itoa(toText), strconv.Itoa(toImage)})
	}
	p.Table([]string{"place", "images", "captions"}, places)
}
