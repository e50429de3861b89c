package eval

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/published"
)

// The figures of a suite stand beside OpenCLIP's of the same weights, or the nearest
// of the architecture; what lies outside the interval is marked, and sets of other
// sizes are not compared.
func TestSuitePublished(t *testing.T) {
	var row published.Row
	for _, r := range published.Rows() {
		if r.Is("openclip-ViT-B-32") && r.Weights == "laion2b_s34b_b79k" {
			row = r
		}
	}
	if row.Average == 0 {
		t.Fatal("no such row")
	}
	const off, few = 3, 5 // places of a figure that is not the published one, and of a set that is not whole
	model := func(weights ...string) *SuiteModel {
		m := &SuiteModel{Model: ModelInfo{File: "b32.safetensors", Config: "openclip-ViT-B-32", Weights: weights}, Missing: []string{}, Of: 38}
		for i, task := range published.Tasks() {
			s := SuiteSet{Key: task.Key, Benchmark: task.Benchmark, Metric: task.MainMetric, Value: row.Values[task.Key], N: task.Images}
			if i == off {
				s.Value += 0.05
			}
			s.CI95 = [2]float64{s.Value - 0.01, s.Value + 0.01}
			s.result = &Result{N: task.Images, Data: DataInfo{N: task.Images}}
			if i == few {
				s.result.Data.N, s.result.N = 10, 10
			}
			m.Sets = append(m.Sets, s)
		}
		m.compare(true)
		return m
	}
	known := model("laion2b_s34b_b79k")
	if known.PublishedBy != "hash or name" || known.PublishedWeights != row.Config+"/laion2b_s34b_b79k" || *known.PublishedAverage != row.Average {
		t.Errorf("%s by %s, average %v, want %v", known.PublishedWeights, known.PublishedBy, *known.PublishedAverage, row.Average)
	}
	if near := model(); near.PublishedBy != "nearest" || near.PublishedWeights != known.PublishedWeights {
		t.Errorf("%s by %s", near.PublishedWeights, near.PublishedBy)
	}
	sum := 0.0
	for i, s := range known.Sets {
		if i == few {
			if s.Published != nil || !strings.Contains(s.NotCompared, "10 images, the set has") {
				t.Errorf("%+v", s)
			}
			continue
		}
		if s.Published == nil || *s.Published != row.Values[s.Key] || *s.InsideCI == (i == off) {
			t.Errorf("%+v", s)
		}
		sum += row.Values[s.Key]
	}
	if math.Abs(*known.PublishedSame-sum/37) > 1e-12 {
		t.Errorf("published over the same sets: %v, want %v", *known.PublishedSame, sum/37)
	}
	table := suiteTable([]*SuiteModel{known})
	for i, line := range table[1:] {
		want := map[bool]string{true: "false", false: "true"}[i == off]
		if i == few {
			want = ""
		}
		if got := line[len(line)-1]; got != want {
			t.Errorf("table.csv, %s: inside_ci95 %q, want %q", line[3], got, want)
		}
	}
	worded := &SuiteModel{Model: known.Model, Sets: []SuiteSet{known.Sets[0]}, Of: 1}
	set := &worded.Sets[0]
	set.Published, set.InsideCI, set.result = nil, nil, &Result{N: set.N, Data: DataInfo{N: set.N}, Words: "other templates"}
	if worded.compare(true); set.Published != nil || set.NotCompared != "other templates" || worded.PublishedSame != nil || worded.PublishedAverage != nil {
		t.Errorf("a set of other templates: %+v", set)
	}
	if err := (&SuiteResult{Suite: "imagenet", Models: []*SuiteModel{worded}}).finish(t.TempDir()); err != nil {
		t.Errorf("none of the sets is compared: %v", err)
	}
	res := &SuiteResult{Suite: DataComp, Models: []*SuiteModel{known}}
	dir := t.TempDir()
	if err := res.finish(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, reportFile))
	if !strings.Contains(string(page), "not compared: 10 images, the set has") {
		t.Error("the report does not say why a set is not compared")
	}
	if err != nil || strings.Count(string(page), "OUTSIDE (&#43;5.00)") != 1 || strings.Count(string(page), "OUTSIDE") != 1 {
		t.Errorf("%d marks, %v", strings.Count(string(page), "OUTSIDE"), err)
	}
}

// Models whose files have the same name, as trainings write them, are told apart.
func TestSuiteOfEqualNames(t *testing.T) {
	if got := modelSlugs([]string{"a/m.pt", "m-3.pt", "b/m.pt", ".pt"}); !slices.Equal(got, []string{"m", "m-3", "m-4", "-4"}) {
		t.Errorf("folders %q", got)
	}
	var models []*SuiteModel
	for _, file := range []string{"a/m.pt", "b/m.pt"} {
		m := &SuiteModel{Model: ModelInfo{File: file}, Sets: []SuiteSet{{Key: "imagenet", Benchmark: "imagenet"}, {Key: "objectnet", Benchmark: "objectnet"}}}
		m.compare(false)
		models = append(models, m)
	}
	res := &SuiteResult{Models: models, Pairs: []Pair{newPair("imagenet", models[0].Model.File, models[1].Model.File, 9, 1, 2)}}
	dir := t.TempDir()
	if err := res.finish(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, reportFile))
	for _, m := range models { // in scores, differences, robustness and the list of models
		if n := strings.Count(string(page), ">"+m.Model.File+"<"); err != nil || n != 4 {
			t.Errorf("%s is named %d times, want 4: %v", m.Model.File, n, err)
		}
	}
}
