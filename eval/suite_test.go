package eval

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// The metrics of sets are scikit-learn's, WILDS' and CLIP_benchmark's, on scores
// with ties, absent classes, empty groups and pictures without a class.
func TestMetricsAgree(t *testing.T) {
	b, err := os.ReadFile("../testdata/suite/metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Logits           [][]float32
		Labels, Groups   []int
		Many             [][]int
		Top1, Top5       float64
		MeanPerClass     float64   `json:"mean_per_class"`
		F1Macro          float64   `json:"f1_macro"`
		WorstGroupTop1   float64   `json:"worst_group_top1"`
		WorstGroupTop5   float64   `json:"worst_group_top5"`
		AveragePrecision []float64 `json:"average_precision"`
		Questions        []struct {
			Scores  []float32
			Right   []int
			Jaccard float64
		}
		Retrieval struct {
			CaptionsOf  int         `json:"captions_of"`
			Scores      [][]float32 // [captions,images]
			TextToImage []float64   `json:"text_to_image"` // at 1, 5, 10
			ImageToText []float64   `json:"image_to_text"`
		}
		Choices []struct {
			Images      int
			Scores      []float32
			Text, Image bool
		}
	}
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) < 3 {
		t.Fatal(err, len(cases))
	}
	near := func(what string, got, want float64, ci [2]float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		if ci[0] > got || ci[1] < got || ci[0] < 0 || ci[1] > 1 {
			t.Errorf("%s: %v is not in %v", what, got, ci)
		}
	}
	for i, c := range cases {
		names := make([]string, len(c.Logits[0]))
		var rows, many []row
		for k, logits := range c.Logits {
			r := row{Index: k, Label: c.Labels[k], Meta: []int{7, c.Groups[k]}}
			r.rank(logits)
			rows = append(rows, r)
			r.Label, r.Meta, r.Scores = -1, nil, logits
			for class, yes := range c.Many[k] {
				if yes == 1 {
					r.Meta = append(r.Meta, class)
				}
			}
			many = append(many, r)
		}
		for metric, want := range map[string]float64{
			dataset.Top1: c.Top1, dataset.MeanPerClass: c.MeanPerClass, dataset.F1Macro: c.F1Macro,
			dataset.WorstGroupTop1: c.WorstGroupTop1, dataset.WorstGroupTop5: c.WorstGroupTop5,
		} {
			res := &Result{Metric: metric, Group: &GroupInfo{Column: 1}}
			res.tally(names, rows)
			near(fmt.Sprintf("case %d, %s", i, metric), res.Value, want, res.CI95.Value)
			near("top5", res.Top5, c.Top5, res.CI95.Top5)
		}
		res := &Result{Kind: dataset.MultiLabel, Metric: dataset.MAP}
		res.tally(names, many)
		mean := 0.0
		for class, want := range c.AveragePrecision {
			near(fmt.Sprintf("case %d, class %d", i, class), *res.PerClass[class].AP, want, [2]float64{0, 1})
			mean += want / float64(len(names))
		}
		near("mAP", res.Value, mean, res.CI95.Value)
		if (res.Ties > 0) != (i < 3) {
			t.Errorf("case %d: %d ties", i, res.Ties)
		}
		for k, q := range c.Questions {
			a := answer{question: question{Images: make([]int, len(q.Scores)), Texts: []string{"cue"}, Right: q.Right}, scores: q.Scores}
			near(fmt.Sprintf("case %d, question %d", i, k), a.jaccard(), q.Jaccard, [2]float64{0, 1})
		}
		for k, q := range c.Choices {
			a := answer{question: question{Images: make([]int, q.Images), Texts: make([]string, len(q.Scores)/q.Images)}, scores: q.Scores}
			if a.textRight() != q.Text || a.imageRight() != q.Image || a.right() != (q.Text && q.Image) {
				t.Errorf("case %d, choice %d: %v: text %v, image %v", i, k, q.Scores, a.textRight(), a.imageRight())
			}
		}
		r := c.Retrieval
		var toImage, toText []int
		for caption, scores := range r.Scores {
			toImage = append(toImage, bestRank(scores, []int{caption / r.CaptionsOf}))
		}
		for image := range r.Scores[0] {
			var scores []float32
			var own []int
			for caption := range r.Scores {
				scores = append(scores, r.Scores[caption][image])
				if caption/r.CaptionsOf == image {
					own = append(own, caption)
				}
			}
			toText = append(toText, bestRank(scores, own))
		}
		for _, d := range []struct {
			ranks []int
			want  []float64
		}{{toImage, r.TextToImage}, {toText, r.ImageToText}} {
			got := recallOf(d.ranks)
			for k, v := range []float64{got.R1, got.R5, got.R10} {
				near(fmt.Sprintf("case %d, recall %d", i, k), v, d.want[k], [2]float64{0, 1})
			}
		}
	}
}

// An equal score is not right: Winoground's and SugarCrepe's authors compare so.
func TestChoiceCounts(t *testing.T) {
	two := question{Images: []int{0, 1}, Texts: []string{"a", "b"}}
	for _, c := range []struct {
		q                        question
		scores                   []float32
		text, image, right, tied bool
	}{
		{two, []float32{2, 1, 1, 2}, true, true, true, false},
		{two, []float32{2, 1, 3, 4}, true, false, false, false},
		{two, []float32{2, 3, 1, 4}, false, true, false, false},
		{two, []float32{1, 1, 1, 1}, false, false, false, true},
		{question{Images: []int{0}, Texts: []string{"a", "b"}}, []float32{2, 1}, true, true, true, false},
		{question{Images: []int{0}, Texts: []string{"a", "b"}}, []float32{1, 1}, false, true, false, true},
		{question{Images: []int{0}, Texts: []string{"a", "b"}}, []float32{1, 2}, false, true, false, false},
	} {
		a := answer{c.q, c.scores}
		if a.textRight() != c.text || a.imageRight() != c.image || a.right() != c.right || a.tied() != c.tied {
			t.Errorf("%v: text %v, image %v, right %v, tied %v", c.scores, a.textRight(), a.imageRight(), a.right(), a.tied())
		}
	}
}

// npy is a NumPy file of int64.
func npy(values ...int) []byte {
	head := fmt.Sprintf("{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }", len(values))
	head += strings.Repeat(" ", 64-(10+len(head)+1)%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), byte(len(head)>>8))
	b = append(b, head...)
	for _, v := range values {
		for k := range 8 {
			b = append(b, byte(v>>(8*k)))
		}
	}
	return b
}

// tarred writes a set of n pictures as CLIP_benchmark lays it out.
func tarred(t *testing.T, n int, more func(i int) map[string][]byte, words ...string) string {
	t.Helper()
	dir := t.TempDir()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range n {
		path := filepath.Join(t.TempDir(), "x.png")
		writeFilled(t, path, color.RGBA{uint8(37 * i), uint8(11 * i), uint8(101 * i), 255})
		png, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		members := more(i)
		members["png"] = png
		for _, ext := range []string{"cls", "npy", "png", "txt"} {
			if data, ok := members[ext]; ok {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("s%03d.%s", i, ext), Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(data); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "test", "0.tar"), b.Bytes())
	if len(words) > 0 {
		write(t, filepath.Join(dir, "classnames.txt"), []byte(strings.Join(words, "\n")+"\n"))
		write(t, filepath.Join(dir, dataset.TemplatesFile), []byte("a photo of a {c}.\n{c}\n"))
	}
	return dir
}

// Sets of each kind: parts merge to the same counts and rows as the whole, and
// counts that do not follow from the rows are refused.
func TestPartsOfEveryKind(t *testing.T) {
	groups := tarred(t, 31, func(i int) map[string][]byte {
		return map[string][]byte{"cls": []byte(fmt.Sprint(i % 5)), "npy": npy(i%4, 2016)}
	}, "ant", "bee", "cat", "dog", "dog") // a name twice, and words that only the data has
	voc, _ := dataset.LookupBenchmark("voc2007-multilabel")
	several := tarred(t, 31, func(i int) map[string][]byte {
		has := make([]int, len(voc.ClassNames))
		for c := range has {
			if c != 3 && (i+1)*(c+2)%7 == 0 {
				has[c] = 1
			}
		}
		return map[string][]byte{"npy": npy(has...)}
	})
	pairs := winoground(t, 9)
	for _, o := range []Options{
		{Benchmark: "fmow", Data: groups},
		{Benchmark: "iwildcam", Data: groups},
		{Benchmark: "voc2007-multilabel", Data: several},
		{Benchmark: "winoground", Data: pairs},
	} {
		t.Run(o.Benchmark, func(t *testing.T) {
			o.Out = t.TempDir()
			want := score(t, newFake(), o)
			if want.Value == want.Top1 && o.Benchmark != "winoground" || want.N == 0 {
				t.Errorf("%d images, %s %v: this data cannot show a difference", want.N, want.Metric, want.Value)
			}
			rows, err := os.ReadFile(filepath.Join(o.Out, rowsFile))
			if err != nil {
				t.Fatal(err)
			}
			enc := newFake()
			if again := score(t, enc, o); enc.images.Load() != 0 || again.Value != want.Value {
				t.Errorf("a finished run encoded %d images: %v", enc.images.Load(), again.Value)
			}
			var dirs []string
			for i := range 3 {
				part := o
				part.Shard, part.Shards, part.Out, part.Batch = i, 3, t.TempDir(), 2+i
				score(t, newFake(), part)
				dirs = append(dirs, part.Out)
			}
			out := t.TempDir()
			got, err := Merge(dirs, MergeOptions{Out: out})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(countsOf(want), countsOf(got)); d != "" || got.Value != want.Value || !cmp.Equal(got.Groups, want.Groups) || !cmp.Equal(got.Choice, want.Choice) {
				t.Errorf("%s\n%v, want %v", d, got.Value, want.Value)
			}
			if b, err := os.ReadFile(filepath.Join(out, rowsFile)); err != nil || string(b) != string(rows) {
				t.Error("rows.csv differs", err)
			}
			path := filepath.Join(dirs[1], resultFile)
			if o.Benchmark == "winoground" { // whose parts are their journals
				path, dirs = filepath.Join(o.Out, resultFile), []string{o.Out}
				if _, err := Merge(dirs, MergeOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var res Result
			if err := json.Unmarshal(b, &res); err != nil {
				t.Fatal(err)
			}
			if o.Benchmark == "winoground" {
				res.Correct1++
			}
			res.Correct5++
			if b, err = json.Marshal(res); err != nil {
				t.Fatal(err)
			}
			write(t, path, b)
			if _, err := Merge(dirs, MergeOptions{}); err == nil || !strings.Contains(err.Error(), "correct5 do not follow from rows.csv") && !strings.Contains(err.Error(), "n and correct1 do not follow") || fault.Code(err) != int(fault.Input) {
				t.Errorf("a count that is not the rows': %v", err)
			}
		})
	}
}

// winoground writes n questions in the layout of its authors.
func winoground(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	lines := ""
	for i := range n {
		for k := range 2 {
			writeFilled(t, filepath.Join(dir, "images", fmt.Sprintf("ex_%d_img_%d.png", i, k)), color.RGBA{uint8(53 * i), uint8(91 * k), uint8(17*i + 40*k), 255})
		}
		lines += fmt.Sprintf(`{"id": %d, "image_0": "ex_%d_img_0", "image_1": "ex_%d_img_1", "caption_0": "dog %d bites man", "caption_1": "man %d bites dog"}`+"\n", i, i, i, i, i)
	}
	write(t, filepath.Join(dir, "examples.jsonl"), []byte(lines))
	return dir
}

func TestRetrievalParts(t *testing.T) {
	dir := tarred(t, 20, func(i int) map[string][]byte {
		return map[string][]byte{"txt": []byte(fmt.Sprintf("view %d\nanother view %d\n", i, i))}
	})
	o := RetrievalOptions{Set: "coco", Data: dir, Out: t.TempDir()}
	want, err := retrieveWith(t, newFake(), o)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for i := range 3 {
		part := o
		part.Shard, part.Shards, part.Out = i, 3, t.TempDir()
		if res, err := retrieveWith(t, newFake(), part); err != nil || res.ImageToText.N != 0 {
			t.Fatal(res, err)
		}
		dirs = append(dirs, part.Out)
	}
	got, err := MergeRetrieval(dirs, MergeOptions{Out: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if got.ImageToText != want.ImageToText || got.TextToImage != want.TextToImage || got.MeanRecall1 != want.MeanRecall1 || got.MeanCI95 != want.MeanCI95 || got.Captions != 40 {
		t.Errorf("%+v\n%+v", got, want)
	}
	if _, err := MergeRetrieval(dirs[:2], MergeOptions{}); err == nil || !strings.Contains(err.Error(), "are in no shard") {
		t.Error(err)
	}
}

func TestSuiteRefuses(t *testing.T) {
	two := tarred(t, 4, func(i int) map[string][]byte {
		return map[string][]byte{"cls": []byte("0"), "npy": npy(i, 2016, 3)}
	}, "ant", "bee")
	short := tarred(t, 4, func(i int) map[string][]byte { return map[string][]byte{"cls": []byte("0")} }, "ant", "bee")
	bare := tarred(t, 4, func(i int) map[string][]byte { return map[string][]byte{"cls": []byte("0"), "npy": npy(0)} })
	broken := winoground(t, 2)
	write(t, filepath.Join(broken, "examples.jsonl"), []byte(`{"id": 0, "image_0": "../x", "image_1": "y", "caption_0": "a", "caption_1": "b"}`))
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Benchmark: "fmow", Data: short}, "has the metadata []"},
		{Options{Benchmark: "fmow", Data: bare}, "no classnames.txt"},
		{Options{Benchmark: "voc2007-multilabel", Data: two}, "has 3 labels for 20 classes"},
		{Options{Benchmark: "winoground", Data: broken}, "in this folder"},
		{Options{Benchmark: "winoground", Data: two}, "no examples.jsonl"},
		{Options{Benchmark: "sugarcrepe", Data: two}, "no add_att.json"},
		{Options{Benchmark: "winogavil", Data: two}, "no winogavil_dataset.csv"},
	} {
		c.o.ModelID = "fake"
		if _, err := ZeroShotWith(t.Context(), public{newFake()}, c.o); err == nil || fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.o.Benchmark, err, c.want)
		}
	}
	for _, c := range []struct {
		o    SuiteOptions
		want string
		code fault.Kind
	}{
		{SuiteOptions{Sets: []string{"nope"}, Models: []string{"m"}, Options: Options{Data: two}}, "unknown", fault.Usage},
		{SuiteOptions{Sets: []string{"datacomp", "pets"}, Models: []string{"m"}, Options: Options{Data: two}}, "suite of its own", fault.Usage},
		{SuiteOptions{Sets: []string{"pets", "pets"}, Models: []string{"m"}, Options: Options{Data: two}}, "is given twice", fault.Usage},
		{SuiteOptions{Sets: []string{"pets"}, Models: []string{"m", "m"}, Options: Options{Data: two}}, "is given twice", fault.Usage},
		{SuiteOptions{Sets: []string{"pets", "dtd"}, Models: []string{"m"}, Options: Options{Data: two}}, "no set vtab/pets in it", fault.Input},
		{SuiteOptions{Sets: []string{"datacomp"}, Models: []string{"m"}, Options: Options{Data: two}}, "holds none of the 38 sets", fault.Input},
	} {
		if _, err := Suite(t.Context(), c.o); err == nil || fault.Code(err) != int(c.code) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.o.Sets, err, c.want)
		}
	}
}

// McNemar's exact p of 10 against 3 is 0.0923 (binom.test(3, 13) in R).
func TestMcNemar(t *testing.T) {
	for _, c := range []struct {
		b, c int
		p    float64
	}{{10, 3, 0.09228515625}, {0, 0, 1}, {5, 5, 1}, {0, 10, 2. / 1024}, {1, 7, 2 * 9. / 256}} {
		if got := mcNemar(c.b, c.c); math.Abs(got-c.p) > 1e-12 {
			t.Errorf("%d, %d: %v, want %v", c.b, c.c, got, c.p)
		}
	}
	if p := newPair("s", "a", "b", 100, 3, 10); math.Abs(p.Difference-0.07) > 1e-12 || p.CI95[0] >= 0.07 || p.CI95[1] <= 0.07 {
		t.Errorf("%+v", p)
	}
}
