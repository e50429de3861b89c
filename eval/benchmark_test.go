package eval

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
)

// The named sets bring their own words, and folders named by WordNet id or by
// number find their classes.
func TestNamedSets(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	inA, _ := dataset.LookupBenchmark("imagenet-a")
	for _, c := range []struct {
		set     string
		folders map[string]int // folder → class
		classes int
	}{
		{"imagenet", map[string]int{"n01440764": 0, "n04008634": 744, "n15075141": 999}, 1000},
		{"imagenet-v2", map[string]int{"0": 0, "10": 10, "999": 999, "2": 2}, 1000},
		{"imagenet-a", map[string]int{inA.Folders[0]: 0, inA.Folders[199]: 199}, 200},
	} {
		t.Run(c.set, func(t *testing.T) {
			dir := t.TempDir()
			for f := range c.folders {
				writePicture(t, filepath.Join(dir, f, "x.png"), rng)
			}
			res := score(t, newFake(), Options{Benchmark: c.set, Data: dir, OpenOptions: OpenOptions{Batch: 512}})
			if res.N != len(c.folders) || res.Data.Classes != c.classes || res.Data.Templates != 80 {
				t.Errorf("%d images, %d classes, %d templates", res.N, res.Data.Classes, res.Data.Templates)
			}
			for f, id := range c.folders {
				if res.PerClass[id].N != 1 {
					t.Errorf("folder %s is not class %d", f, id)
				}
			}
		})
	}
}

func TestPublished(t *testing.T) {
	res := func(config, benchmark string, correct, n int) *Result {
		r := &Result{Benchmark: benchmark, Metric: dataset.Top1, Model: ModelInfo{Config: config}, Value: ratio(correct, n), N: n}
		r.CI95.Value = Wilson(correct, n)
		return r
	}
	r := res("EVA02-CLIP-B-16", "imagenet", 37360, 50000)
	p := publishedFor(r)
	if p == nil || !p.InsideCI || p.Value != 0.747 || len(p.Others) != 1 || p.Others[0].Value != 0.7472 {
		t.Errorf("EVA02-CLIP-B-16 at 74.72 %%: %+v", p)
	}
	r.Published = p
	if r.outside() {
		t.Error("outside")
	}
	r = res("EVA02-CLIP-B-16", "imagenet", 36500, 50000)
	if r.Published = publishedFor(r); r.Published.InsideCI || !r.outside() {
		t.Errorf("EVA02-CLIP-B-16 at 73 %%: %+v", r.Published)
	}
	// Other images or other words: not compared, and the result says so.
	for want, change := range map[string]func(r *Result){
		"":                              func(r *Result) {},
		"120 images, the set has 50000": func(r *Result) { r.Data.N = 120 },
		"other templates":               func(r *Result) { r.Words = "other templates" },
		"part 1 of 2 of the images":     func(r *Result) { r.Shard = &ShardInfo{1, 2, 0, 9} },
		"50000 of 50001 images":         func(r *Result) { r.Data.Of = 50001 }, // as merged parts have it, too
	} {
		r := res("EVA02-CLIP-B-16", "imagenet", 36500, 50000)
		r.Data.N = 50000
		change(r)
		if r.publish(); r.NotCompared != want || (r.Published == nil) != (want != "") {
			t.Errorf("%q: %q, %+v", want, r.NotCompared, r.Published)
		}
	}
	r2 := res("", "imagenet", 1, 2)
	if r2.publish(); r2.Published != nil || r2.NotCompared != "" {
		t.Error("an unknown model is not compared with anything")
	}
	// Three weights of one architecture are published: the nearest counts.
	r = res("openclip-ViT-B-32", "imagenet", 33280, 50000)
	if p := publishedFor(r); p == nil || p.Weights != "laion2b_s34b_b79k" || !p.InsideCI {
		t.Errorf("openclip-ViT-B-32 at 66.56 %%: %+v", p)
	}
	// A file that says which weights it is has no other figures.
	r = res("openclip-ViT-B-32", "imagenet", 30120, 50000)
	r.Model.Weights = []string{"laion2b_s34b_b79k"}
	if r.Published = publishedFor(r); r.Published.Value != 0.6656 || len(r.Published.Others) != 0 || !r.outside() {
		t.Errorf("laion2b_s34b_b79k at 60.24 %%: %+v", r.Published)
	}
	if publishedFor(res("", "imagenet", 1, 2)) != nil {
		t.Error("an unknown model has a figure")
	}
}

// Every published figure belongs to an architecture and a benchmark that exist.
func TestFiguresNameThings(t *testing.T) {
	sets := []string{"flickr30k", "coco"}
	for _, b := range dataset.Benchmarks() {
		sets = append(sets, b.Name)
	}
	all := published.All()
	if len(all) < 1000 {
		t.Errorf("%d figures", len(all))
	}
	for _, f := range all {
		// OpenCLIP's table has architectures that evatool does not know yet.
		_, ok := arch.Named(f.Config)
		ok = ok || strings.HasPrefix(f.Source, published.Reevaluation)
		if !ok || !slices.Contains(sets, f.Benchmark) || !(f.Value >= 0 && f.Value <= 1) {
			t.Errorf("%+v", f)
		}
	}
	for _, e := range List() {
		for _, f := range e.Published {
			if f.Metric != e.Metric {
				t.Errorf("%s: the set's metric is %s, the figure's %s", e.Name, e.Metric, f.Metric)
			}
		}
	}
}

func TestWordsForWnidFolders(t *testing.T) {
	dir := t.TempDir()
	for i, id := range []string{"n01440764", "n02102040", "n02979186"} {
		writePicture(t, filepath.Join(dir, id, fmt.Sprint(i)+".png"), rand.New(rand.NewPCG(7, 8)))
	}
	res := score(t, newFake(), Options{Data: dir, ClassNames: []string{"tench", "English springer", "cassette player"}})
	for _, c := range res.PerClass {
		if c.N != 1 {
			t.Errorf("%+v", c)
		}
	}
	if _, err := ZeroShotWith(t.Context(), public{newFake()}, Options{Data: dir, ClassNames: []string{"tench", "church"}}); fault.Code(err) != int(fault.Input) {
		t.Errorf("two names for three folders: %v", err)
	}
}

// A limit takes as many images of every class where the data says the classes.
func TestLimitTakesClassesEvenly(t *testing.T) {
	o := Options{Data: pictureFolder(t, 40), Limit: 15, Out: t.TempDir()}
	res := score(t, newFake(), o)
	for _, c := range res.PerClass {
		if c.N != 2 && c.N != 3 {
			t.Errorf("%s: %d images", c.Name, c.N)
		}
	}
	if res.N != 15 || res.Data.N != 15 {
		t.Errorf("%d of %d images", res.N, res.Data.N)
	}
	page, err := os.ReadFile(filepath.Join(o.Out, reportFile))
	if err != nil || !strings.Contains(string(page), "a limit took 15 of its 40 images") {
		t.Errorf("the report does not say that a part was scored: %v", err)
	}
	if o.Limit, o.Out = 40, ""; score(t, newFake(), o).Data.Of != 0 {
		t.Error("a limit that takes all of them makes a part")
	}
	if got := classesEvenly([]int{4, 4, 4, 4, 7, 7, 1}, 5); !slices.Equal(got, []int{0, 1, 4, 5, 6}) {
		t.Error(got)
	}
}

func TestRetrievalFiguresInOrder(t *testing.T) {
	list := retrievalFigures(ModelInfo{Config: "EVA01-CLIP-g-14"}, "coco")
	if len(list) < 6 {
		t.Fatal(list)
	}
	for i, want := range []string{"image_to_text_r1", "image_to_text_r5", "image_to_text_r10", "text_to_image_r1", "text_to_image_r5", "text_to_image_r10"} {
		if list[i].Metric != want || list[i].Weights == "" {
			t.Errorf("%d: %+v", i, list[i])
		}
	}
}
