package eval

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// maxWords is how large a file of names or prompts may be: CuPL's of ImageNet
// has 10 MB.
const maxWords = 256 << 20

// isJSON says whether a file of words is JSON, by its name.
func isJSON(path string) bool { return strings.EqualFold(filepath.Ext(path), ".json") }

// readWords puts the words of the files o names into o. A set that the files of a
// suite do not name keeps its own.
func (o Options) readWords(suite bool) (Options, error) {
	if o.ClassNamesFile != "" {
		if len(o.ClassNames)+len(o.Folders) > 0 {
			return o, fault.Usagef("ClassNamesFile and ClassNames: give one of them")
		}
		folders, names, err := classNamesOf(o.ClassNamesFile, o.Benchmark, suite)
		if err != nil {
			return o, err
		}
		o.Folders, o.ClassNames = folders, names
	}
	if o.TemplatesFile != "" {
		if len(o.Templates)+len(o.Prompts) > 0 {
			return o, fault.Usagef("TemplatesFile and Templates: give one of them")
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
	// CuPL's form. Whether it has all classes is known once they are.
	var classes map[string]json.RawMessage
	if err := json.Unmarshal(list, &classes); err != nil {
		return nil, nil, fault.Inputf("%s: not templates, nor prompts by class: %w", fault.Name(path), err)
	}
	prompts = map[string][]string{}
	for class, own := range classes {
		if prompts[class], err = stringsOf(path, "prompts of class "+fault.Name(class), own); err != nil {
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
	whole := bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
	if bytes.HasPrefix(whole, []byte("[")) {
		return whole, nil
	}
	var sets map[string]json.RawMessage
	if err := json.Unmarshal(whole, &sets); err != nil {
		return nil, fault.Inputf("%s: want JSON, a list of %s or lists by set: %w", fault.Name(path), what, err)
	}
	own, known := dataset.LookupBenchmark(set)
	keys, bySet := slices.Sorted(maps.Keys(sets)), false
	for _, key := range keys {
		other, ok := dataset.LookupBenchmark(key)
		if key == set || known && ok && other.Name == own.Name {
			return bytes.TrimSpace(sets[key]), nil
		}
		bySet = bySet || ok
	}
	switch {
	case bySet && suite:
		return nil, nil
	case bySet:
		return nil, fault.Inputf("%s: no %s of %s; it has those of %s", fault.Name(path), what, fault.Name(cmp.Or(set, folder)), fault.Name(first(keys)))
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
		return nil, fault.Inputf("%s: %s: empty", fault.Name(path), what)
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

// count is how many prompts there are, of names that are counted once.
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
		return fault.Inputf("Options.Templates: no prompts of %d of the %d classes, such as %.80q; want a list for each class, by the names in use", len(missing), len(w.names), missing[0])
	}
	return nil
}

// sayable refuses a language whose prompts the tokenizer cannot say within the
// context of the model: more than one in a hundred would be cut.
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
		return fault.Inputf("Options.Language %s: %d of %d prompts are longer than the model's %d tokens, such as %.80q", language, cut, n, context, example)
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
