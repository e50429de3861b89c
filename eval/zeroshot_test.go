package eval

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/tensorfile"
)

const fixture = "../testdata/zeroshot"

// expected is expected.json of the fixture.
type expected struct {
	ClassNames  []string `json:"classnames"`
	Templates   []string `json:"templates"`
	Top1        int      `json:"top1_correct"`
	Top5        int      `json:"top5_correct"`
	Predictions []int    `json:"predictions_top1"`
}

func readExpected(t *testing.T) expected {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixture, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var e expected
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func floats(t *testing.T, file, name string) []float32 {
	t.Helper()
	f, err := tensorfile.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := tensorfile.Float32s(f, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// eachBackend runs f on the Go backend and on XLA where it is installed.
func eachBackend(t *testing.T, f func(t *testing.T, backend string)) {
	for _, b := range []string{"go", "xla"} {
		t.Run(b, func(t *testing.T) {
			devicetest.Need(t, b)
			f(t, b)
		})
	}
}

func fixtureOptions(t *testing.T, e expected) Options {
	t.Helper()
	return Options{
		Model: archtest.ZeroShotModel(t, fixture), OpenOptions: OpenOptions{Config: filepath.Join(fixture, "config.json")},
		Data: filepath.Join(fixture, "inputs.safetensors"), ClassNames: e.ClassNames, Templates: e.Templates,
		Cache: "off",
	}
}

// The fixture is the original code's run: counts, ranking and predictions are
// exact, the class matrix within 1e-5.
func TestFixture(t *testing.T) {
	e := readExpected(t)
	eachBackend(t, func(t *testing.T, backend string) {
		o := fixtureOptions(t, e)
		o.Backend, o.CompileCache = backend, compileCache
		o.Out = t.TempDir()
		o.SaveClassifier = filepath.Join(o.Out, "classifier.safetensors")
		res, err := ZeroShot(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if res.Correct1 != e.Top1 || res.Correct5 != e.Top5 || res.N != 20 {
			t.Errorf("got %d and %d of %d, want %d and %d of 20", res.Correct1, res.Correct5, res.N, e.Top1, e.Top5)
		}
		rows, err := readRows(filepath.Join(o.Out, rowsFile), res)
		if err != nil {
			t.Fatal(err)
		}
		ranking := integersOf(t, filepath.Join(fixture, "expected.safetensors"), "ranking")
		logits := floats(t, filepath.Join(fixture, "expected.safetensors"), "logits")
		for i, r := range rows {
			for k, c := range r.Top {
				if c != int(ranking[i*7+k]) {
					t.Errorf("image %d: rank %d is class %d, want %d", i, k, c, ranking[i*7+k])
				}
			}
			if d := math.Abs(float64(r.Logit - logits[i*7+r.Top[0]])); d > 2e-3 {
				t.Errorf("image %d: logit %v, off by %g", i, r.Logit, d)
			}
			if r.Top[0] != e.Predictions[i] {
				t.Errorf("image %d: predicted %d, want %d", i, r.Top[0], e.Predictions[i])
			}
		}
		closeTo(t, "classifier", floats(t, o.SaveClassifier, "classifier"), floats(t, filepath.Join(fixture, "expected.safetensors"), "classifier"), 1e-5)
	})
}

func integersOf(t *testing.T, file, name string) []int64 {
	t.Helper()
	f, err := tensorfile.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, ok := findTensor(f, name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	v, err := tensorfile.Int64s(f, info.Name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func closeTo(t *testing.T, name string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", name, len(got), len(want))
	}
	worst := 0.0
	for i := range got {
		worst = max(worst, math.Abs(float64(got[i]-want[i])))
	}
	if worst > tolerance || math.IsNaN(worst) {
		t.Errorf("%s: off by %g, want at most %g", name, worst, tolerance)
	}
	t.Logf("%s: off by %g", name, worst)
}
