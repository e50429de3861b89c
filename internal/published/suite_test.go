package published

import (
	"math"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
)

// The table is complete: the weights have 38 values with the stated average, and
// architectures that evatool knows have its names.
func TestSuite(t *testing.T) {
	// Three of OpenAI's models appear twice.
	if len(Tasks()) != 38 || len(table("openclip38.csv", openclip38)) != 121 || len(Rows()) != 121-3 {
		t.Fatalf("%d tasks, %d weights", len(Tasks()), len(Rows()))
	}
	known := 0
	seen := map[string]bool{}
	for _, r := range Rows() {
		sum := 0.0
		for _, task := range Tasks() {
			v, ok := r.Values[task.Key]
			if !ok || v < 0 || v > 1 {
				t.Errorf("%s/%s: %s: %v %v", r.Config, r.Weights, task.Key, v, ok)
			}
			sum += v
		}
		if math.Abs(sum/38-r.Average) > 6e-5 {
			t.Errorf("%s/%s: average %.5f, table says %.4f", r.Config, r.Weights, sum/38, r.Average)
		}
		if seen[r.Config+"/"+r.Weights] {
			t.Errorf("%s/%s: twice", r.Config, r.Weights)
		}
		seen[r.Config+"/"+r.Weights] = true
		if _, ok := arch.Named(r.Config); ok {
			known++
		}
	}
	if known < 60 {
		t.Errorf("%d of the weights have an architecture that is known", known)
	}
	for _, name := range []string{"openai-ViT-B-32/openai", "openclip-ViT-B-32/laion2b_s34b_b79k", "EVA02-CLIP-bigE-14-plus/laion2b_s9b_b144k", "openclip-ViT-H-14-378-quickgelu/dfn5b", "openai-ViT-L-14/dfn2b", "openclip-RN50/yfcc15m"} {
		if !seen[name] {
			t.Errorf("no %s", name)
		}
	}
}

// Names convert to OpenCLIP's and back.
func TestOpenCLIPName(t *testing.T) {
	for _, line := range table("openclip38.csv", openclip38) {
		name := OpenCLIPName(configName(line[0], line[1]), line[1])
		if line[1] == "openai" {
			name = strings.TrimSuffix(name, "-quickgelu")
			line[0] = strings.TrimSuffix(line[0], "-quickgelu")
		}
		if name != line[0] {
			t.Errorf("%s/%s: %s", line[0], line[1], name)
		}
	}
}
