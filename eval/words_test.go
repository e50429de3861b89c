package eval

import (
	"fmt"
	"github.com/evatool/evatool/internal/bpe"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// Words come as lines, as JSON lists, by set as CLIP_benchmark has them, and by
// class as CuPL has them.
func TestWordFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		write(t, path, []byte(text))
		return path
	}
	lines := file("t.txt", "a {c}.\nthe {}.\n")
	list := file("list.json", `["a {c}.", "the {}."]`)
	bySet := file("sets.json", `{"imagenet1k": ["a {c}.", "the {}."], "vtab/pets": ["a {c}, a type of pet."]}`)
	cupl := file("cupl.json", `{"imagenet1k": {"ant": ["An ant crawls.", "Ants are small."], "bee": ["A bee."]}}`)
	bare := file("bare.json", `{"ant": ["An ant crawls.", "Ants are small."], "bee": ["A bee."]}`)
	for _, c := range []struct {
		path, set string
		suite     bool
		templates []string
		prompts   int // classes
		want      string
	}{
		{lines, "", false, []string{"a {c}.", "the {}."}, 0, ""},
		{list, "folder", false, []string{"a {c}.", "the {}."}, 0, ""},
		{bySet, "imagenet", false, []string{"a {c}.", "the {}."}, 0, ""},
		{bySet, "pets", false, []string{"a {c}, a type of pet."}, 0, ""},
		{bySet, "dtd", true, nil, 0, ""},
		{bySet, "dtd", false, nil, 0, "has no templates for dtd, only for imagenet1k, vtab/pets"},
		{bySet, "", false, nil, 0, "has no templates for folder"},
		{cupl, "imagenet1k", false, nil, 2, ""},
		{bare, "", false, nil, 2, ""},
		{file("plants.json", `{"flowers": ["a flower"], "trees": ["a tree"], "ferns": ["a fern"]}`), "", false, nil, 3, ""}, // flowers is a set, too
		{file("n.json", `["no place"]`), "", false, nil, 0, "no place for the class name"},
		{file("b.json", `{"ant": ["x", " "]}`), "", false, nil, 0, "number 1 is blank"},
		{file("o.json", `{"ant": "x"}`), "", false, nil, 0, "want a list of texts"},
		{file("e.json", `{}`), "", false, nil, 0, "empty"},
		{file("l.json", "[\"caf\xe9 {c}\"]"), "", false, nil, 0, "not UTF-8"},
		{file("x.json", `{"ant": [`), "", false, nil, 0, "want JSON"},
	} {
		templates, prompts, err := templatesOf(c.path, c.set, c.suite)
		if c.want != "" {
			if err == nil || fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v, want %q", filepath.Base(c.path), c.set, err, c.want)
			}
			continue
		}
		if err != nil || !slices.Equal(templates, c.templates) || len(prompts) != c.prompts {
			t.Errorf("%s, %s: %v, %v, %v", filepath.Base(c.path), c.set, templates, prompts, err)
		}
	}
	names := file("names.json", `{"cifar10": ["plane", "car"], "pets": ["cat"]}`)
	if _, got, err := classNamesOf(names, "cifar10", false); err != nil || !slices.Equal(got, []string{"plane", "car"}) {
		t.Error(got, err)
	}
	if _, got, err := classNamesOf(names, "dtd", true); err != nil || got != nil {
		t.Error(got, err)
	}
	if _, _, err := classNamesOf(names, "dtd", false); err == nil || !strings.Contains(err.Error(), "only for cifar10, pets") {
		t.Error(err)
	}
}

// The vector of a class with prompts of its own is that of these prompts alone.
func TestPromptsByClass(t *testing.T) {
	enc := newFake()
	own := map[string][]string{"ant": {"An ant crawls.", "Ants are small.", "Six legs."}, "bee": {"A bee."}}
	w := prompts{names: []string{"bee", "ant", "bee"}, own: own}
	if w.count() != 5 {
		t.Errorf("%d prompts", w.count())
	}
	for _, batch := range []int{1, 3, 64} {
		c, err := buildClassifier(t.Context(), enc, bpe.New(), w, batch, noMeter{}, partial{})
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range w.names {
			one, err := buildClassifier(t.Context(), enc, bpe.New(), prompts{names: []string{"x"}, templates: own[name]}, 64, noMeter{}, partial{})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(one.w, c.w[8*i:8*i+8]) {
				t.Errorf("batch %d, %s: %v, want %v", batch, name, c.w[8*i:8*i+8], one.w)
			}
		}
	}
	pictures := pictureFolder(t, 14)
	if _, err := ZeroShotWith(t.Context(), public{enc}, Options{Data: pictures, Prompts: own}); err == nil || !strings.Contains(err.Error(), "no prompts for 5 of the 7 classes, such as \"cat\"") {
		t.Error(err)
	}
	for _, name := range fakeClasses[2:] {
		own[name] = []string{name + "."}
	}
	res := score(t, enc, Options{Data: pictures, Prompts: own})
	if res.Data.Prompts != 9 || res.Data.Templates != 0 {
		t.Errorf("%+v", res.Data)
	}
	other := map[string][]string{"gnu": {"gnus"}}
	for k, v := range own {
		if k != "gnu" {
			other[k] = v
		}
	}
	if again := score(t, enc, Options{Data: pictures, Prompts: other}); again.Key == res.Key {
		t.Error("other prompts have the same key")
	}
}

// Every language names every class of ImageNet's sets, in ImageNet's order.
func TestLanguages(t *testing.T) {
	for language, want := range map[string][3]string{ // class 0, class 999, a template
		"cn": {"丁鲷", "卫生纸", "{c}的照片。"}, "jp": {"テンチ", "トイレットペーパー", "{c}の悪い写真"},
		"it": {"una tinca", "una carta igienica", "una brutta foto di {c}"}, "ar": {"سمك التنش", "ورق المرحاض", "{c}"},
	} {
		w, err := promptsFor(Options{Benchmark: "imagenet", Language: language})
		if err != nil {
			t.Fatal(err)
		}
		got := [3]string{w.names[0], w.names[999], w.templates[0]}
		if got != want || len(w.names) != 1000 {
			t.Errorf("%s: %q, want %q", language, got, want)
		}
		if err := dataset.CheckTemplates(language, w.templates); err != nil {
			t.Error(err)
		}
		a, err := promptsFor(Options{Benchmark: "imagenet-a", Language: language})
		if err != nil || len(a.names) != 200 || !slices.Contains(w.names, a.names[7]) {
			t.Error(len(a.names), err)
		}
		// CLIP's tokenizer says them in 77 tokens, but not in 8.
		a.names = a.names[:40]
		if err := a.sayable(language, bpe.New(), 77); err != nil {
			t.Error(err)
		}
		if err := a.sayable(language, bpe.New(), 8); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "longer than the model's 8 tokens") {
			t.Errorf("%s: %v", language, err)
		}
	}
	for _, c := range []struct{ set, language, want string }{
		{"imagenet", "de", `Options.Language "de": want en, ar, cn, it, jp`},
		{"pets", "cn", "there are names for ImageNet's classes only, not for pets"},
		{"folder", "cn", "not for folder"},
		{"objectnet", "it", "not for objectnet"},
	} {
		if _, err := promptsFor(Options{Benchmark: c.set, Language: c.language}); err == nil || fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s in %s: %v", c.set, c.language, err)
		}
	}
}

// Class matrices that were saved average, and one alone gives what it was saved of.
func TestSavedClassifiers(t *testing.T) {
	dir, enc, pictures := t.TempDir(), newFake(), pictureFolder(t, 35)
	var saved []string
	var kept []*classifier
	var first *Result
	for i, template := range []string{"a {c}.", "the {c}!"} {
		path := filepath.Join(dir, fmt.Sprint(i, ".safetensors"))
		res := score(t, enc, Options{Data: pictures, Templates: []string{template}, SaveClassifier: path})
		if first == nil {
			first = res
		}
		c, err := readClassifier(path, 8, 7)
		if err != nil {
			t.Fatal(err)
		}
		saved, kept = append(saved, path), append(kept, c)
	}
	one := score(t, enc, Options{Data: pictures, Classifiers: saved[:1]})
	if one.Correct1 != first.Correct1 || one.Key == first.Key || len(one.Data.Classifiers) != 1 {
		t.Errorf("%d right, was %d; %v", one.Correct1, first.Correct1, one.Data.Classifiers)
	}
	mean, err := meanClassifier(saved, 8, 7)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range mean.w {
		if want := (float64(kept[0].w[i]) + float64(kept[1].w[i])) / 2; math.Abs(float64(v)-want) > 1e-7 {
			t.Fatalf("%d: %v, want %v", i, v, want)
		}
	}
	if both := score(t, enc, Options{Data: pictures, Classifiers: saved}); both.Key == one.Key || len(both.Data.Classifiers) != 2 {
		t.Error(both.Data.Classifiers)
	}
	_, err = ZeroShotWith(t.Context(), public{enc}, Options{Data: pictures, ClassNames: fakeClasses[:7], Classifiers: saved, Templates: []string{"{c}"}})
	if fault.Code(err) != int(fault.Usage) {
		t.Error(err)
	}
	if _, err = meanClassifier(saved, 8, 6); err == nil || !strings.Contains(err.Error(), "for 6 classes") {
		t.Error(err)
	}
}
