package eval

import (
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// folder is the benchmark that takes any images.
const folder = "folder"

// words are what a benchmark says about its classes.
type words struct {
	name, metric     string
	names, templates []string
	labels           []string // what folders and label columns call the classes; nil: their own names
	partial          bool     // folders of other classes are left out
}

// defaultTemplates serve "folder" without --templates.
var defaultTemplates = []string{"a photo of a {c}."}

// wordsFor looks the benchmark up and applies the overrides. Class names may
// stay empty for "folder": the data's own names are used then.
func wordsFor(o Options) (words, error) {
	w := words{name: o.Benchmark, metric: dataset.Top1, templates: defaultTemplates}
	if w.name == "" {
		w.name = folder
	}
	if w.name != folder {
		b, ok := dataset.LookupBenchmark(w.name)
		if !ok {
			return w, fault.Usagef("benchmark %q: not known; `evatool zeroshot list` prints the names, folder takes any images", w.name)
		}
		w = words{b.Name, b.Metric, b.ClassNames, b.Templates, b.Labels(), b.Partial}
	}
	if len(o.ClassNames) > 0 {
		w.names = o.ClassNames
		if len(w.labels) != len(w.names) {
			w.labels = labelsFor(o.Data, w.names)
		}
	}
	if len(o.Templates) > 0 {
		w.templates = o.Templates
	}
	return w, dataset.CheckTemplates("templates", w.templates)
}

var wnid = regexp.MustCompile(`^n\d{8}$`)

// labelsFor says what the data calls the classes of names. Folders named by
// WordNet id say nothing about other names: they count in sorted order, as
// torchvision counts them.
func labelsFor(src string, names []string) []string {
	entries, err := os.ReadDir(src)
	if err != nil {
		return names
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && wnid.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	switch {
	case len(ids) == len(names):
		return ids
	case len(ids) > 0 && len(names) == len(dataset.Wnids()):
		return dataset.Wnids()
	}
	return names
}

// Lines reads a list file: one entry a line, blank lines aside.
func Lines(path, what string) ([]string, error) {
	b, err := readFile(path, "a file of "+what+", one a line")
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(b) {
		return nil, fault.Inputf("%s: not UTF-8; save %s as UTF-8, one a line", path, what)
	}
	var out []string
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return nil, fault.Inputf("%s: empty; want %s, one a line", path, what)
	}
	return out, nil
}

// Templates reads a file of templates, one a line, and checks them.
func Templates(path string) ([]string, error) {
	list, err := Lines(path, "templates")
	if err != nil {
		return nil, err
	}
	return list, dataset.CheckTemplates(path, list)
}

// spoken is a folder name as a class name.
func spoken(folder string) string { return strings.TrimSpace(strings.ReplaceAll(folder, "_", " ")) }
