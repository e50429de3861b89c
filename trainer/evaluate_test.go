package trainer

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

// TestInTraining: the model in training has the features of its weights, on
// any number of devices, and after a step those of the new ones.
func TestInTraining(t *testing.T) {
	f := newFixture(t, families[0], func(r *Recipe) { r.ZeroStage = 1 })
	in, err := tensorfile.OpenFile(filepath.Join(testdata, "models", families[0], "forward.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	read := func(name string) []float32 {
		v, err := tensorfile.Float32s(in, name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	images, wantImages := read("images"), read("expected.image_features")
	n := len(wantImages) / f.cfg.EmbedDim
	tokens := f.batches.batches[0].tokens
	for _, i := range []int{0, 2} {
		t.Run(where[i].name, func(t *testing.T) {
			m := f.machine(t, onDevice(t, i), false)
			enc, err := newEncoder(m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := enc.Images(t.Context(), images, n)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "image features", l2diff(got, wantImages), 0, 1e-4*l2(wantImages))
			before, err := enc.Texts(t.Context(), tokens, m.recipe.Batch)
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 { // the step takes seconds to compile
				return
			}
			m.must(t, &f.batches.batches[0], 5)
			after, err := enc.Texts(t.Context(), tokens, m.recipe.Batch)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Equal(before, after) {
				t.Error("a step changed no feature: the encoder has old weights")
			}
		})
	}
}
