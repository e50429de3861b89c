package eval

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// folder is the benchmark that takes any images.
const folder = "folder"

// prompts are what a benchmark says about its classes.
type prompts struct {
	name, metric     string
	kind             string         // of the benchmark, or retrieving
	group            *dataset.Group // what the worst group is one of
	names, templates []string
	own              map[string][]string // whole prompts by class, instead of templates
	matrices         []string            // hashes of the class matrices that take the place of prompts
	labels           []string            // what folders and label columns call the classes; nil: their own names
	also             [][]string          // what else they may call them
	partial          bool                // folders of other classes are left out
	instead          string              // what the caller has put in the benchmark's place, if anything
}

// defaultTemplates serve "folder" without --templates.
var defaultTemplates = []string{"a photo of a {c}."}

// promptsFor looks the benchmark up and applies the overrides. Class names may
// stay empty for "folder": the data's own names are used then.
func promptsFor(o Options) (prompts, error) {
	w := prompts{name: o.Benchmark, metric: dataset.Top1, templates: defaultTemplates}
	if w.name == "" {
		w.name = folder
	}
	var b dataset.Benchmark
	if w.name != folder {
		var ok bool
		if b, ok = dataset.LookupBenchmark(w.name); !ok {
			return w, fault.Usagef("benchmark %q: not known; `evatool zeroshot list` prints the names, folder takes any images", w.name)
		}
		var err error
		if b, err = b.Language(o.Language); err != nil {
			return w, err
		}
		w = prompts{name: b.Name, metric: b.Metric, kind: b.Kind, group: b.Group, names: b.ClassNames, templates: b.Templates, labels: b.Labels(), also: b.Synonyms(), partial: b.Partial}
	}
	switch {
	case w.fromFeatures() && len(o.ClassNames)+len(o.Templates)+len(o.Prompts)+len(o.Classifiers) > 0:
		return w, fault.Usagef("Options.ClassNames, Options.Templates, Options.Classifiers: %s has no classes", w.name)
	case w.fromFeatures():
		return w, nil
	case w.name == folder && o.Language != "" && o.Language != "en":
		return w, fault.Usagef("Options.Language %s: has names of ImageNet's classes only, not of %s", o.Language, folder)
	case len(o.Classifiers) > 0 && len(o.Templates)+len(o.Prompts)+len(o.Language) > 0:
		return w, fault.Usagef("Options.Classifiers: a class matrix has its prompts in it; leave Options.Templates and Options.Language out")
	}
	if len(o.ClassNames) > 0 {
		if err := w.rename(o); err != nil {
			return w, err
		}
	}
	w.instead = o.instead(w, b)
	if len(o.Templates) > 0 {
		w.templates = o.Templates
	}
	if w.own = o.Prompts; w.own != nil {
		w.templates = nil
		return w, w.complete()
	}
	return w, dataset.CheckTemplates("templates", w.templates)
}

// instead says what the caller has put in the place of the benchmark's words.
func (o Options) instead(w prompts, b dataset.Benchmark) string {
	var list []string
	switch {
	case w.name == folder:
		return ""
	case len(o.Classifiers) > 0:
		return "another class matrix"
	case o.Language != "" && o.Language != "en":
		return "the language " + o.Language
	}
	if len(o.ClassNames) > 0 && !slices.Equal(w.names, b.ClassNames) {
		list = append(list, "other class names")
	}
	if len(o.Templates) > 0 && !slices.Equal(o.Templates, b.Templates) || o.Prompts != nil {
		list = append(list, "other templates")
	}
	return strings.Join(list, ", ")
}

// retrieving is the kind of a set whose pictures and captions are found by each
// other.
const retrieving = "retrieval"

// fromFeatures says whether the set is scored once all features are there.
func (w prompts) fromFeatures() bool { return w.kind == dataset.Choice || w.kind == retrieving }

// fromData takes the words that lie beside the data, where the benchmark has
// none or o asks for them. What o itself says counts more.
func (w *prompts) fromData(ctx context.Context, o Options) error {
	if w.fromFeatures() || w.name == folder && !o.DataWords || !o.DataWords && len(w.names) > 0 {
		return nil
	}
	names, templates, err := dataset.Words(ctx, o.Data)
	if err != nil {
		return err
	}
	if len(o.ClassNames) == 0 && len(names) > 0 {
		w.names, w.labels, w.also, w.partial = names, names, nil, false
	}
	if len(o.Templates)+len(o.Prompts) == 0 && len(templates) > 0 {
		if err := dataset.CheckTemplates(dataset.TemplatesFile, templates); err != nil {
			return err
		}
		w.templates = templates
	}
	switch {
	case len(w.names) == 0 && w.name != folder:
		return fault.Inputf("%s: no classnames.txt there or above it, and %s has no names built in; give Options.ClassNames", fault.Name(o.Data), w.name)
	case len(w.templates) == 0 && w.own == nil:
		return fault.Inputf("%s: no %s there or above it, and %s has no templates built in; give Options.Templates", fault.Name(o.Data), dataset.TemplatesFile, w.name)
	}
	return nil
}

// rename puts the caller's names in place of the benchmark's. As many of them
// keep the benchmark's order, which is that of the data's numbers.
func (w *prompts) rename(o Options) error {
	builtIn := append([][]string{w.labels}, w.also...)
	fits := len(w.labels) == len(o.ClassNames)
	w.names = o.ClassNames
	switch {
	case len(o.Folders) > 0 && len(o.Folders) != len(o.ClassNames):
		return fault.Usagef("Folders has %d entries for %d ClassNames; want one a class", len(o.Folders), len(o.ClassNames))
	case len(o.Folders) > 0:
		w.labels, w.also = o.Folders, [][]string{o.ClassNames}
	case !fits:
		w.labels, w.also = o.ClassNames, nil
	default:
		if i, class, ok := dataset.Misplaced(o.ClassNames, w.labels, w.also); ok {
			return fault.Inputf("class names: they are those of %s in another order (number %d, %.80q, is number %d there); put them in its order, or score folder instead of %s", w.name, i, o.ClassNames[i], class, w.name)
		}
		w.also = append(builtIn[1:], o.ClassNames)
	}
	return nil
}

// ClassNames reads a file of class names, one a line in label order. Where the
// data calls the classes otherwise, every line is FOLDER<TAB>NAME, and folders
// are those words; else folders are nil.
func ClassNames(path string) (folders, names []string, err error) {
	defer fault.Public(context.Background(), &err)
	lines, err := Lines(path, "class names")
	if err != nil {
		return nil, nil, err
	}
	for i, line := range lines {
		folder, name, tab := strings.Cut(line, "\t")
		if tab != strings.Contains(lines[0], "\t") {
			return nil, nil, fault.Inputf("%s: class %d, %.80q: some lines are FOLDER<TAB>NAME and some are not; write all of them one way", fault.Name(path), i, line)
		}
		if !tab {
			continue
		}
		folder, name = strings.TrimSpace(folder), strings.TrimSpace(name)
		if folder == "" || name == "" || strings.Contains(name, "\t") {
			return nil, nil, fault.Inputf("%s: class %d, %.80q: want FOLDER<TAB>NAME", fault.Name(path), i, line)
		}
		if slices.Contains(folders, folder) {
			return nil, nil, fault.Inputf("%s: class %d: folder %.80q is there twice; a folder is one class", fault.Name(path), i, folder)
		}
		folders, names = append(folders, folder), append(names, name)
	}
	if folders == nil {
		return nil, lines, nil
	}
	return folders, names, nil
}

// Lines reads a list file: one entry a line, blank lines aside.
func Lines(path, what string) (_ []string, err error) {
	defer fault.Public(context.Background(), &err)
	b, err := fault.ReadFile(path, "a file of "+what+", one a line", 64<<20)
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
func Templates(path string) (_ []string, err error) {
	defer fault.Public(context.Background(), &err)
	list, err := Lines(path, "templates")
	if err != nil {
		return nil, err
	}
	return list, dataset.CheckTemplates(path, list)
}

// spoken is a folder name as a class name.
func spoken(folder string) string { return strings.TrimSpace(strings.ReplaceAll(folder, "_", " ")) }
