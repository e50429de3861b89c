package eval

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A model on the line has no effective robustness, one above it its height; it is
// not given for sets without a line, nor outside of the models the line is of.
func TestRobustness(t *testing.T) {
	m := func(imagenet, v2, a float64) *SuiteModel {
		m := &SuiteModel{Model: ModelInfo{File: "m.pt"}, Sets: []SuiteSet{
			{Benchmark: "imagenet-a", Value: a, N: 1}, {Benchmark: "imagenet", Value: imagenet, N: 1}, {Benchmark: "imagenet-v2", Value: v2, N: 1}, {Benchmark: "pets", N: 1},
		}}
		m.compare(false)
		return m
	}
	resnet, clip, bad := m(0.7613, 0.6321, 0), m(0.762, 0.701, 0.771), m(0.4, 0.3, 0.1) // ResNet-50; CLIP's ViT-L/14 at 336
	if len(resnet.Robustness) != 2 || resnet.Robustness[0].Set != "imagenet-v2" || math.Abs(*resnet.Robustness[0].Effective) > 0.01 || resnet.Robustness[1].Effective != nil {
		t.Errorf("%+v", resnet.Robustness)
	}
	if r := clip.Robustness[0]; math.Abs(*r.Effective-0.063) > 0.005 || math.Abs(r.Below-0.061) > 1e-9 || math.Abs(*r.Line+*r.Effective-r.Value) > 1e-12 {
		t.Errorf("%+v, effective %v", r, *r.Effective)
	}
	if bad.Robustness[0].Effective != nil {
		t.Errorf("%+v", bad.Robustness[0])
	}
	page := t.TempDir()
	if err := writeSuiteReport(page, &SuiteResult{Suite: "x"}, []*SuiteModel{resnet, clip, bad}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(page, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	b := string(raw)
	for _, want := range []string{"Robustness", "6.", "not given", "85 models"} {
		if !strings.Contains(b, want) {
			t.Errorf("no %q in the report", want)
		}
	}
	none := &SuiteModel{Sets: []SuiteSet{{Benchmark: "imagenet-v2", N: 1}}}
	if none.compare(false); none.Robustness != nil {
		t.Errorf("%+v", none.Robustness)
	}
}
