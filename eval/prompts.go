package eval

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
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

// defaultTemplates serve "folder" without Options.Templates.
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
			return w, fault.Usagef("benchmark %q: unknown; `evatool zeroshot list` prints the names, and folder takes any images", w.name)
		}
		var err error
		if b, err = b.Language(o.Language); err != nil {
			return w, err
		}
		w = prompts{name: b.Name, metric: b.Metric, kind: b.Kind, group: b.Group, names: b.ClassNames, templates: b.Templates, labels: b.Labels(), also: b.Synonyms(), partial: b.Partial}
	}
	switch {
	case w.fromFeatures() && len(o.ClassNames)+len(o.Templates)+len(o.Prompts)+len(o.Classifiers) > 0:
		return w, fault.Usagef("Options.ClassNames, Options.Templates, Options.Classifiers: %s has no classes; leave them out", w.name)
	case w.fromFeatures():
		return w, nil
	case w.name == folder && o.Language != "" && o.Language != "en":
		return w, fault.Usagef("Options.Language %s: there are names for ImageNet's classes only, not for %s", o.Language, folder)
	case len(o.Classifiers) > 0 && len(o.Templates)+len(o.Prompts)+len(o.Language) > 0:
		return w, fault.Usagef("Options.Classifiers: a class matrix already contains its prompts; leave out Options.Templates and Options.Language")
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

// retrieving is the kind of a set that searches captions by pictures and
// pictures by captions.
const retrieving = "retrieval"

// fromFeatures says whether the set is scored only once all features are known.
func (w prompts) fromFeatures() bool { return w.kind == dataset.Choice || w.kind == retrieving }

// fromData takes the words that lie beside the data, where the benchmark has
// none or o asks for them. What o itself gives takes precedence.
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
		return fault.Inputf("%s: no classnames.txt in or above it, and %s has no built-in class names; give Options.ClassNames", fault.Name(o.Data), w.name)
	case len(w.templates) == 0 && w.own == nil:
		return fault.Inputf("%s: no %s in or above it, and %s has no built-in templates; give Options.Templates", fault.Name(o.Data), dataset.TemplatesFile, w.name)
	}
	return nil
}

// rename puts the caller's names in place of the benchmark's. If there are as
// many, they keep the benchmark's order, which is that of the data's numbers.
func (w *prompts) rename(o Options) error {
	builtIn := append([][]string{w.labels}, w.also...)
	fits := len(w.labels) == len(o.ClassNames)
	w.names = o.ClassNames
	switch {
	case len(o.Folders) > 0 && len(o.Folders) != len(o.ClassNames):
		return fault.Usagef("Folders has %d entries for %d ClassNames; want one per class", len(o.Folders), len(o.ClassNames))
	case len(o.Folders) > 0:
		w.labels, w.also = o.Folders, [][]string{o.ClassNames}
	case !fits:
		w.labels, w.also = o.ClassNames, nil
	default:
		if i, class, ok := dataset.Misplaced(o.ClassNames, w.labels, w.also); ok {
			return fault.Inputf("class names: these are the classes of %s in another order (number %d, %.80q, is number %d there); put them in its order, or score the benchmark folder instead of %s", w.name, i, o.ClassNames[i], class, w.name)
		}
		w.also = append(builtIn[1:], o.ClassNames)
	}
	return nil
}

// ClassNames reads a file of class names, one a line in label order. Where the
// data has other words for the classes, every line is FOLDER<TAB>NAME, and
// folders are those words; otherwise folders is nil.
func ClassNames(path string) (folders, names []string, err error) {
	defer fault.Public(context.Background(), &err)
	lines, err := Lines(path, "class names")
	if err != nil {
		return nil, nil, err
	}
	for i, line := range lines {
		folder, name, tab := strings.Cut(line, "\t")
		if tab != strings.Contains(lines[0], "\t") {
			return nil, nil, fault.Inputf("%s: class %d, %.80q: some lines are FOLDER<TAB>NAME and some are not; write all lines the same way", fault.Name(path), i, line)
		}
		if !tab {
			continue
		}
		folder, name = strings.TrimSpace(folder), strings.TrimSpace(name)
		if folder == "" || name == "" || strings.Contains(name, "\t") {
			return nil, nil, fault.Inputf("%s: class %d, %.80q: want FOLDER<TAB>NAME", fault.Name(path), i, line)
		}
		if slices.Contains(folders, folder) {
			return nil, nil, fault.Inputf("%s: class %d: folder %.80q is listed twice; a folder is one class", fault.Name(path), i, folder)
		}
		folders, names = append(folders, folder), append(names, name)
	}
	if folders == nil {
		return nil, lines, nil
	}
	return folders, names, nil
}

// Lines reads a list file: one entry a line, without the blank lines.
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

// maxWords is how large a file of names or prompts may be: CuPL's for ImageNet
// has 10 MB.
const maxWords = 256 << 20

// isJSON says whether a file of words is JSON, by its name.
func isJSON(path string) bool { return strings.EqualFold(filepath.Ext(path), ".json") }

// readWords puts the words of the files o names into o. A set that the files of a
// suite do not name keeps its own.
func (o Options) readWords(suite bool) (Options, error) {
	if o.ClassNamesFile != "" {
		if len(o.ClassNames)+len(o.Folders) > 0 {
			return o, fault.Usagef("ClassNamesFile and ClassNames: give only one of them")
		}
		folders, names, err := classNamesOf(o.ClassNamesFile, o.Benchmark, suite)
		if err != nil {
			return o, err
		}
		o.Folders, o.ClassNames = folders, names
	}
	if o.TemplatesFile != "" {
		if len(o.Templates)+len(o.Prompts) > 0 {
			return o, fault.Usagef("TemplatesFile and Templates: give only one of them")
		}
		templates, prompts, err := templatesOf(o.TemplatesFile, o.Benchmark, suite)
		if err != nil {
			return o, err
		}
		o.Templates, o.Prompts = templates, prompts
	}
	o.ClassNamesFile, o.TemplatesFile = "", ""
	return o, nil
}

// Ready finds what is wrong about the data and the words of an evaluation before
// there is a model to score: a file that is missing, class names that do not fit,
// a first image without a label, or with one that has no name. size is the width of
// the model's images, in pixels; ctx ends it early.
func (o Options) Ready(ctx context.Context, size int) (err error) {
	defer fault.Public(ctx, &err)
	if o, err = o.readWords(false); err != nil {
		return err
	}
	r := &run{o: o, pre: arch.Preprocess{Size: size}}
	if r.w, err = promptsFor(o); err != nil {
		return err
	}
	if err := r.w.fromData(ctx, o); err != nil {
		return err
	}
	if r.data, err = r.source(ctx); err != nil {
		return err
	}
	defer r.data.Close()
	if r.w.fromFeatures() {
		return nil
	}
	if err := r.nameClasses(); err != nil {
		return err
	}
	switch data := r.data.(type) {
	case *tensorSource:
		r.choose()
		return r.checkLabels()
	case *pictures:
		ex, err := data.Read(0)
		if err == nil && r.w.kind != dataset.MultiLabel {
			_, err = r.label(sample{Key: ex.Key, Label: ex.Label, Hint: ex.Hint})
		}
		return err
	}
	return nil
}

// classNamesOf reads a list as ClassNames does, or JSON: a list of names, or
// CLIP_benchmark's lists by set.
func classNamesOf(path, set string, suite bool) (folders, names []string, err error) {
	if !isJSON(path) {
		return ClassNames(path)
	}
	list, err := wordsOf(path, "class names", set, suite)
	if err != nil || list == nil {
		return nil, nil, err
	}
	if names, err = stringsOf(path, "class names", list); err != nil {
		return nil, nil, err
	}
	return nil, names, nil
}

// templatesOf reads a list as Templates does, or JSON: a list of templates,
// CLIP_benchmark's lists by set, or prompts by class, which may be a set's too.
func templatesOf(path, set string, suite bool) (templates []string, prompts map[string][]string, err error) {
	if !isJSON(path) {
		templates, err = Templates(path)
		return templates, nil, err
	}
	list, err := wordsOf(path, "templates", set, suite)
	switch {
	case err != nil || list == nil:
		return nil, nil, err
	case bytes.HasPrefix(list, []byte("[")):
		if templates, err = stringsOf(path, "templates", list); err != nil {
			return nil, nil, err
		}
		return templates, nil, dataset.CheckTemplates(fault.Name(path), templates)
	}
	// CuPL's form. That no class is missing is checked once the classes are known.
	var classes map[string]json.RawMessage
	if err := json.Unmarshal(list, &classes); err != nil {
		return nil, nil, fault.Inputf("%s: neither templates nor prompts by class: %w", fault.Name(path), err)
	}
	prompts = map[string][]string{}
	for class, own := range classes {
		if prompts[class], err = stringsOf(path, "prompts for class "+fault.Name(class), own); err != nil {
			return nil, nil, err
		}
	}
	if len(prompts) == 0 {
		return nil, nil, fault.Inputf("%s: empty; want templates, or prompts by class", fault.Name(path))
	}
	return nil, prompts, nil
}

// wordsOf is the part of a JSON file that is about a set, or the whole of one that
// is not by sets. It is nil where the file has other sets only and the set is one
// of a suite.
func wordsOf(path, what, set string, suite bool) (json.RawMessage, error) {
	b, err := fault.ReadFile(path, "a file of "+what, maxWords)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(b) { // encoding/json would take it
		return nil, fault.Inputf("%s: not UTF-8; save %s as UTF-8", fault.Name(path), what)
	}
	whole := bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
	if bytes.HasPrefix(whole, []byte("[")) {
		return whole, nil
	}
	var sets map[string]json.RawMessage
	if err := json.Unmarshal(whole, &sets); err != nil {
		return nil, fault.Inputf("%s: want JSON: a list of %s, or lists by set: %w", fault.Name(path), what, err)
	}
	own, known := dataset.LookupBenchmark(set)
	keys, ofSets := slices.Sorted(maps.Keys(sets)), 0
	for _, key := range keys {
		other, ok := dataset.LookupBenchmark(key)
		if key == set || known && ok && other.Name == own.Name {
			return bytes.TrimSpace(sets[key]), nil
		}
		if ok || key == folder {
			ofSets++
		}
	}
	bySet := 2*ofSets > len(keys) // a class may be called flowers, too
	switch {
	case bySet && suite:
		return nil, nil
	case bySet:
		return nil, fault.Inputf("%s: has no %s for %s, only for %s", fault.Name(path), what, fault.Name(cmp.Or(set, folder)), fault.Name(first(keys)))
	}
	return whole, nil
}

// first are some words, for a message.
func first(list []string) string {
	more := ""
	if len(list) > 8 {
		more = fmt.Sprintf(" and %d more", len(list)-8)
	}
	return strings.Join(list[:min(8, len(list))], ", ") + more
}

// stringsOf is a JSON list of texts that are not blank.
func stringsOf(path, what string, b json.RawMessage) ([]string, error) {
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fault.Inputf("%s: %s: want a list of texts: %w", fault.Name(path), what, err)
	}
	for i, s := range list {
		if strings.TrimSpace(s) == "" {
			return nil, fault.Inputf("%s: %s: number %d is blank", fault.Name(path), what, i)
		}
	}
	if len(list) == 0 {
		return nil, fault.Inputf("%s: %s: empty; want a list of texts", fault.Name(path), what)
	}
	return list, nil
}

// texts are the prompts of a class.
func (w prompts) texts(class string) []string {
	if w.own != nil {
		return w.own[class]
	}
	out := make([]string, len(w.templates))
	for i, t := range w.templates {
		out[i] = dataset.Prompt(t, class)
	}
	return out
}

// count is how many prompts there are, with each name counted once.
func (w prompts) count() int {
	if w.own == nil {
		return len(w.names) * len(w.templates)
	}
	n := 0
	for _, class := range w.names {
		n += len(w.own[class])
	}
	return n
}

// key is a hash of the names and their prompts.
func (w prompts) key() []string {
	parts := []string{contentKey(w.names...), contentKey(w.templates...)}
	if w.own != nil {
		var all []string
		for _, class := range w.names {
			all = append(all, contentKey(w.own[class]...))
		}
		parts = append(parts, contentKey(all...))
	}
	return append(parts, w.matrices...)
}

// complete says whether every class has prompts, where they are by class.
func (w *prompts) complete() error {
	if w.own == nil {
		return nil
	}
	var missing []string
	for _, class := range w.names {
		if len(w.own[class]) == 0 && !slices.Contains(missing, class) {
			missing = append(missing, class)
		}
	}
	if len(missing) > 0 {
		return fault.Inputf("Options.Templates: no prompts for %d of the %d classes, such as %.80q; give a list for each class, under the class names in use", len(missing), len(w.names), missing[0])
	}
	return nil
}

// sayable refuses a language if more than one in a hundred of its prompts would
// be cut at the model's context.
func (w prompts) sayable(language string, tok checkpoint.Tokenizer, context int) error {
	if language == "" || language == "en" {
		return nil
	}
	cut, n, example := 0, 0, ""
	for _, class := range w.names {
		for _, text := range w.texts(class) {
			if n++; len(tok.Encode(text)) > context {
				cut++
				example = text
			}
		}
	}
	if 100*cut > n {
		return fault.Inputf("Options.Language %s: %d of %d prompts are longer than the model's %d tokens, such as %.80q; use a model made for the language", language, cut, n, context, example)
	}
	return nil
}

// meanClassifier is the mean of class matrices that were saved, as CLIP_benchmark
// takes it: not normalised again.
func meanClassifier(paths []string, dim, classes int) (*classifier, error) {
	c := &classifier{dim: dim, w: make([]float32, dim*classes)}
	sums := make([]float64, dim*classes)
	for _, path := range paths {
		one, err := readClassifier(path, dim, classes)
		if err != nil {
			return nil, err
		}
		for i, v := range one.w {
			sums[i] += float64(v)
		}
	}
	for i, s := range sums {
		c.w[i] = float32(s / float64(len(paths)))
	}
	return c, nil
}
