package cli

import (
	"testing"

	"github.com/evatool/evatool/internal/arch"
)

// The list shows the authors' figure, though a re-evaluation is higher.
func TestHeadline(t *testing.T) {
	for name, want := range map[string]float64{
		"EVA02-CLIP-bigE-14": 0.819, "openai-RN50": 0.596, "openclip-ViT-L-14": 0.7921, "EVA01-CLIP-B-16": 0,
	} {
		c, _ := arch.Named(name)
		if f, ok := headline(newModelEntry(name, c).Published); f.Top1 != want || ok != (want > 0) {
			t.Errorf("%s: %+v, want %v", name, f, want)
		}
	}
}
