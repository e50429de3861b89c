package eval

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/runlog/browsertest"
)

const longName = "a/folder/of/models/EVA02_CLIP_L_336_psz14_s6B_and_some_more_of_a_name.safetensors"

// invented is a result with all that a report can show: many classes, some with few
// images, published figures, a diagnosis, images that do not decode.
func invented() (*Result, []entry) {
	pub := Published{Figure: Figure{Value: 0.7472, Weights: "merged2b_s8b_b131k", Source: "EVA-CLIP, table 3", InsideCI: true}}
	pub.Others = []Figure{{Value: 0.812, Weights: "laion2b_s32b_b82k_of_another_place", Source: "a source"}}
	res := &Result{
		Benchmark: "imagenet", Metric: dataset.Top1, N: 50000, Correct1: 37400, Correct5: 46800, Top1: 0.748, Top5: 0.936, Value: 0.748, MeanPerClass: 0.7481,
		Model:     ModelInfo{File: longName, SHA256: strings.Repeat("0123456789abcdef", 4), Config: "EVA02-CLIP-L-14-336"},
		Data:      DataInfo{Source: "/a/folder/of/pictures/imagenet-validation/val", N: 50002, Classes: 1000, Templates: 80, Layout: "folder", Fingerprint: strings.Repeat("89abcdef", 8)},
		Published: &pub, Backend: "xla-cuda", DType: "bf16", Decoder: "libjpeg-turbo 2.1", PeakRSS: 3 << 30, Key: strings.Repeat("f", 64),
		Diagnosis: []Finding{{Cause: "interpolation", Text: "bilinear in place of bicubic gives more right answers", N: 512, Before: 380, After: 390, Suspect: true}},
		Skipped:   []Skipped{{17, "n01440764/ILSVRC2012_val_00000293.JPEG", "unexpected end of the picture's data"}},
		Seconds:   Seconds{Load: 1.5, Classifier: 20, Images: 300, Decode: 1100, Wait: 12, Device: 280, Total: 322}, ImagesPerSecond: 166.6,
		Versions: map[string]string{"evatool": "1.0", "go": "go1.26"},
	}
	res.CI95 = CI95{Top1: Wilson(37400, 50000), Top5: Wilson(46800, 50000), MeanPerClass: [2]float64{0.744, 0.752}, Value: Wilson(37400, 50000)}
	for i := range 1000 {
		res.PerClass = append(res.PerClass, ClassRow{ID: i, Name: fmt.Sprintf("a class with quite a long name, as they are in ImageNet, %d", i), N: 50, Correct: i % 51})
	}
	res.Confused = []Confusion{{Label: 1, Predicted: 2, LabelName: res.PerClass[1].Name, PredictedName: res.PerClass[2].Name, N: 30}}
	var entries []entry
	for i := range 40 {
		e := entry{row: row{Index: i, Label: i, Top: [5]int{i + 1, i, i + 2, i + 3, i + 4}, Probs: [5]float32{0.5, 0.25, 0.1, 0.05, 0.01}}}
		entries = append(entries, e)
	}
	return res, entries
}

// Reports with all that they can show are opened in a browser.
func TestReportsInABrowser(t *testing.T) {
	if browsertest.Find() == "" {
		t.Skip(browsertest.Missing)
	}
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 50, 80))); err != nil {
		t.Fatal(err)
	}
	b := browsertest.New(t)
	dir := t.TempDir()
	look := func(name string, charts, pictures int, write func(dir string) error) {
		t.Helper()
		if err := write(dir); err != nil {
			t.Fatal(name, err)
		}
		p, err := b.Look(filepath.Join(dir, reportFile))
		if err != nil {
			t.Fatal(name, err)
		}
		for _, f := range p.Faults {
			t.Errorf("%s: %s", name, f)
		}
		if p.Charts != charts || p.Pictures != pictures || p.Texts < 20 {
			t.Errorf("%s: %d charts and %d pictures, want %d and %d", name, p.Charts, p.Pictures, charts, pictures)
		}
	}
	single := func(name string, charts, pictures int, change func(*Result)) {
		t.Helper()
		res, entries := invented()
		change(res)
		look(name, charts, pictures, func(dir string) error {
			return writeReport(dir, res, entries, func(int) []byte { return picture.Bytes() })
		})
	}
	single("imagenet", 3, reportImages, func(*Result) {})
	single("few images a class", 3, reportImages, func(r *Result) {
		for i := range r.PerClass {
			r.PerClass[i].N, r.PerClass[i].Correct = 3, i%4
		}
		r.Published, r.NotCompared = nil, "120 of 50,000 images were scored"
	})
	single("nothing right", 3, reportImages, func(r *Result) {
		r.Top1, r.Top5, r.MeanPerClass, r.CI95 = 0, 0, 0, CI95{}
	})
	single("several labels", 1, 0, func(r *Result) {
		r.Kind, r.Metric, r.Data.Classes = dataset.MultiLabel, "mean_average_precision", 20
		r.PerClass = r.PerClass[:20]
		for i := range r.PerClass {
			ap := float64(i) / 20
			r.PerClass[i].AP = &ap
		}
	})
	single("questions", 1, 0, func(r *Result) {
		r.Kind, r.Metric = dataset.Choice, "group"
		r.Choice = &ChoiceScore{TextCorrect: 100, ImageCorrect: 90, GroupCorrect: 80, Parts: []PartRow{{"replace-attribute", 100, 70, 0.7, Wilson(70, 100)}}}
	})
	single("worst group", 3, reportImages, func(r *Result) {
		r.Metric, r.Group = "worst_region", &GroupInfo{Name: "region", Worst: 2}
		r.Groups = []GroupRow{{0, 100, 50, 80}, {1, 200, 120, 180}, {2, 300, 100, 200}}
	})
	var models []*SuiteModel
	for m := range 3 {
		res, _ := invented()
		s := &SuiteModel{Model: res.Model, N: 12, Of: 38, Average: 0.6, AverageCI95: [2]float64{0.59, 0.61}, Missing: []string{"vtab/kitti_closest_vehicle_distance"}}
		s.Model.File = fmt.Sprintf("%s-%d.safetensors", strings.TrimSuffix(longName, ".safetensors"), m)
		for _, key := range append([]string{"imagenet"}, relatives...) {
			v, in := 0.7, m == 0
			s.Sets = append(s.Sets, SuiteSet{Key: key, Benchmark: key, Metric: "mean_per_class_recall", Value: 0.7, N: 10000, CI95: Wilson(7000, 10000), Published: &v, InsideCI: &in})
		}
		s.Robustness = s.robustness()
		v := 0.66
		s.PublishedAverage, s.PublishedSame, s.PublishedWeights, s.PublishedBy = &v, &v, "merged2b_s8b_b131k", "name"
		models = append(models, s)
	}
	pairs := []Pair{newPair("imagenet", models[0].Model.File, models[1].Model.File, 50000, 900, 1000)}
	look("suite", 0, 0, func(dir string) error {
		return writeSuiteReport(dir, &SuiteResult{Suite: "datacomp", Data: "sets", Models: models, Pairs: pairs}, models)
	})
	look("suite of one", 0, 0, func(dir string) error {
		return writeSuiteReport(dir, &SuiteResult{Suite: "datacomp", Data: "sets", SuiteModel: models[0]}, models[:1])
	})
	recall := Recall{R1: 0.7, R5: 0.9, R10: 0.95, Hits1: 700, Hits5: 900, Hits10: 950, N: 1000, CI95: Wilson(700, 1000)}
	look("retrieval", 1, 0, func(dir string) error {
		return writeRetrievalReport(dir, &RetrievalResult{
			Set: "flickr30k", Model: models[0].Model, Source: "a/folder/of/flickr30k", Images: 1000, Captions: 5000, ImageToText: recall, TextToImage: recall, MeanRecall1: 0.7, MeanCI95: Wilson(700, 1000),
			Published: []PublishedFigure{{Config: "EVA02-CLIP-L-14-336", Weights: "merged2b_s6b_b61k", Metric: "image_to_text_r1", Value: 0.897, Source: "EVA-CLIP, table 6"}},
		}, []imageRanks{{captions: []int{0, 3, 7, 50, 500}}})
	})
	look("probe", 1, 0, func(dir string) error {
		p := &probe{o: ProbeOptions{Out: dir}, res: &ProbeResult{
			Model: models[0].Model, Data: ProbeSet{Source: "a/folder/of/pictures"}, Classes: 100,
			Probe:      &ProbeScore{L2: 0.1, Top1: 0.8, Top5: 0.95, MeanPerClass: 0.79, N: 10000, CI95: Wilson(8000, 10000), NTrain: 50000, Loss: 0.6, Iterations: 40},
			Neighbours: &NeighbourScore{K: 20, Top1: 0.75, CI95: Wilson(7500, 10000)}, ZeroShot: &ZeroShotLine{Top1: 0.7, CI95: Wilson(7000, 10000), Templates: 80},
		}}
		for _, k := range []int{1, 2, 4, 8, 16} {
			for seed := range 3 {
				p.res.Shots = append(p.res.Shots, ShotScore{K: k, Seed: seed, L2: 0.1, N: 100 * k, Top1: 0.5 + math.Log2(float64(k))/20})
			}
			p.res.Sweep = append(p.res.Sweep, SweepStep{L2: math.Pow(10, float64(-k)), Top1: 0.7})
		}
		return p.writeReport()
	})
}

// What a mean or a share leaves out stands beside it.
func TestReportsSayWhatIsLeftOut(t *testing.T) {
	holds := func(dir, text string) {
		t.Helper()
		page, err := os.ReadFile(filepath.Join(dir, reportFile))
		if err != nil || !strings.Contains(string(page), text) {
			t.Errorf("the report lacks %q: %v", text, err)
		}
	}
	dir := t.TempDir()
	res, entries := invented()
	res.Data.ClassesWithImages = 998
	if err := writeReport(dir, res, entries, nil); err != nil {
		t.Fatal(err)
	}
	holds(dir, "998 of 1000 classes have images")
	res.Kind, res.Metric, res.Published, res.NotCompared = dataset.Choice, "text", nil, "3 images, the set has 400"
	if err := writeReport(dir, res, entries, nil); err != nil {
		t.Fatal(err)
	}
	holds(dir, "Not compared with what is published: 3 images")
	holds(dir, "<span>questions</span>")
	holds(dir, "1 images skipped")
	bad := []Skipped{{Index: 1, Key: "a", Reason: "no picture"}}
	p := &probe{o: ProbeOptions{Out: dir}, res: &ProbeResult{
		Train: ProbeSet{Skipped: bad}, Val: &ProbeSet{Skipped: bad}, Data: ProbeSet{Skipped: bad},
		Probe: &ProbeScore{N: 9, NTrain: 20}, Neighbours: &NeighbourScore{},
	}}
	if err := p.writeReport(); err != nil {
		t.Fatal(err)
	}
	holds(dir, "9 images, 1 skipped")
	holds(dir, "20 images (2 skipped)")
}
