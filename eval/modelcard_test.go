package eval

import (
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v4"
)

// The front matter is model-index's schema, whatever the names are: sets keep
// their figures together, nothing of a name becomes YAML or a table's cell.
func TestModelCard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "card.md")
	odd := "a|b: [\n--- <x>"
	lines := []CardLine{
		{Task: zeroShotTask, Set: "imagenet", Title: "ImageNet", Metric: "top1", Value: 0.5, CI95: [2]float64{0.4, 0.6}, N: 10, Data: "f00d"},
		{Task: zeroShotTask, Set: "imagenet", Title: "ImageNet", Metric: "top5", Value: 0.75, CI95: [2]float64{0.7, 0.8}, N: 10, Data: "f00d"},
		{Task: retrievalTask, Set: "coco", Title: odd, Metric: "mean_recall1", Value: 1, CI95: [2]float64{1, 1}, N: 3},
	}
	if err := WriteModelCard(path, ModelInfo{File: odd, SHA256: "beef"}, lines, "evatool zeroshot", map[string]string{"evatool": "1"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := 4 + len(yamlOf(t, b))
	var head cardHead
	if err := yaml.Unmarshal(b[4:end], &head); err != nil {
		t.Fatal(err)
	}
	r := head.Index[0].Results
	if len(r) != 2 || len(r[0].Metrics) != 2 || r[0].Metrics[0].Type != "accuracy" || r[0].Metrics[1].Value != 0.75 || r[0].Task.Type != zeroShotTask || r[0].Dataset.Args["fingerprint"] != "f00d" || r[1].Dataset.Name != odd {
		t.Errorf("%+v", r)
	}
	if err := CheckModelCard(path); err != nil {
		t.Error(err)
	}
	write(t, path, []byte("# mine"))
	if err := WriteModelCard(path, ModelInfo{}, lines, "", nil); err == nil {
		t.Error("another's file is written over")
	}
}

// yamlOf is the front matter: up to the first line that is ---, from the second on.
func yamlOf(t *testing.T, b []byte) []byte {
	t.Helper()
	for i := 4; i+5 <= len(b); i++ {
		if string(b[i:i+5]) == "\n---\n" {
			return b[4 : i+1]
		}
	}
	t.Fatalf("no front matter: %s", b)
	return nil
}
