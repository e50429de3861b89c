package trainer

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// TestInTraining: the model being trained has the features of its weights, on any
// number of devices, and after a step those of the new weights.
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

// Words of a recipe's evaluations are read as zeroshot reads them: lists, JSON by
// set as CLIP_benchmark has it, prompts by class as CuPL has them. A wrong file is
// found before the training starts.
func TestEvaluationWords(t *testing.T) {
	emoji, err := filepath.Abs(filepath.Join(testdata, "emoji"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	_, names, err := eval.ClassNames(filepath.Join(emoji, "classnames.txt"))
	if err != nil {
		t.Fatal(err)
	}
	templates, err := eval.Templates(filepath.Join(emoji, "templates.txt"))
	if err != nil {
		t.Fatal(err)
	}
	own := map[string][]string{}
	for _, name := range names {
		for _, template := range templates {
			own[name] = append(own[name], dataset.Prompt(template, name))
		}
	}
	few := maps.Clone(own)
	delete(few, names[3])
	other := map[string][]string{}
	for name := range own {
		other[name] = []string{"one of " + name}
	}
	set := func(names, templates string) []string {
		return []string{fmt.Sprintf("eval=[{benchmark: folder, data: %s/test-twemoji.tar, classnames: %s, templates: %s, limit: 40}]", emoji, names, templates)}
	}
	score := func(names, templates string) float64 {
		t.Helper()
		res := mustRun(t, tiny(t, set(names, templates)...), Options{Out: t.TempDir()})
		if len(res.Evals) != 1 || res.Evals[0].N != 40 {
			t.Fatalf("%+v", res.Evals)
		}
		return res.Evals[0].Top1 + res.Evals[0].Top5
	}
	list, by := filepath.Join(emoji, "classnames.txt"), filepath.Join(emoji, "templates.txt")
	want := score(list, by)
	for _, c := range [][2]string{
		{file("names.json", names), file("templates.json", templates)},
		{file("sets.json", map[string]any{"folder": names, "cifar10": names[:2]}), file("templatesets.json", map[string]any{"folder": templates, "cifar10": templates[:1]})},
		{list, file("cupl.json", own)},
	} {
		if got := score(c[0], c[1]); got != want {
			t.Errorf("%v: top-1 and top-5 are %v together, of lists %v", c, got, want)
		}
	}
	if got := score(list, file("other.json", other)); got == want {
		t.Error("other prompts change nothing: this model cannot show a difference")
	}
	for _, c := range []struct{ names, templates, want string }{
		{list, file("few.json", few), "eval.0: templates: no prompts for 1 of the"},
		{list, file("blank.json", []string{" "}), "number 0 is blank"},
		{list, file("fixed.json", []string{"no place"}), "no place for the class name"},
		{file("cifar.json", map[string]any{"cifar10": names}), by, "only for cifar10"},
	} {
		_, err := Run(t.Context(), tiny(t, set(c.names, c.templates)...), Options{Out: t.TempDir(), Backend: "go"})
		if fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", filepath.Base(c.templates), err, c.want)
		}
	}
}
