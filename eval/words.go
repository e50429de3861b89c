package eval

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// words are what a benchmark says about its classes.
type words struct {
	name, metric     string
	names, templates []string
	wnids            []string // folder names of the classes, or nil
}

const (
	metricTop1         = "top1"
	metricMeanPerClass = "mean_per_class"
)

// defaultTemplates serve "folder" without --templates.
var defaultTemplates = []string{"a photo of a {c}."}

// wordsFor looks the benchmark up and applies the overrides. Class names may
// stay empty for "folder": the data's own names are used then.
func wordsFor(o Options) (words, error) {
	w := words{name: o.Benchmark, metric: metricTop1, templates: defaultTemplates}
	if w.name == "" {
		w.name = "folder"
	}
	if w.name != "folder" {
		b, ok := dataset.LookupBenchmark(w.name)
		if !ok {
			return w, fault.Usagef("benchmark %q: not known; `evatool zeroshot list` prints the names, folder takes any images", w.name)
		}
		w.names, w.templates, w.wnids = b.ClassNames, b.Templates, b.Wnids
		if b.Metric != "" {
			w.metric = b.Metric
		}
	}
	if len(o.ClassNames) > 0 {
		if len(w.wnids) != len(o.ClassNames) {
			w.wnids = nil
		}
		w.names = o.ClassNames
	}
	if len(o.Templates) > 0 {
		w.templates = o.Templates
	}
	for i, t := range w.templates {
		if !strings.Contains(t, "{c}") && !strings.Contains(t, "{}") {
			return w, fault.Inputf("template %d %q: has no {c} or {} for the class name", i+1, t)
		}
	}
	return w, nil
}

// Lines reads a list file: one entry a line, blank lines and a final newline
// aside.
func Lines(path, what string) ([]string, error) {
	b, err := readFile(path, what)
	if err != nil {
		return nil, err
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

var (
	wnid   = regexp.MustCompile(`^n\d{8}$`)
	spaces = regexp.MustCompile(`[\s_\-]+`)
)

// plain is a name without its spelling: case, underscores, runs of spaces.
func plain(s string) string {
	return strings.ToLower(strings.TrimSpace(spaces.ReplaceAllString(s, " ")))
}

// spoken is a folder name as a class name.
func spoken(folder string) string { return strings.TrimSpace(strings.ReplaceAll(folder, "_", " ")) }

// classIDs maps the data's own label order (its folder names) to the ids of
// w.names: by wnid, by number ("7" is class 7), or by name. Folders named by
// wnid that w does not list count in sorted order, as torchvision counts them.
func (w words) classIDs(src string, folders []string) ([]int, error) {
	ids := make([]int, len(folders))
	for _, lookup := range []func(string) (int, bool){
		index(w.wnids, func(s string) string { return s }),
		func(s string) (int, bool) {
			n, err := strconv.Atoi(s)
			return n, err == nil && n >= 0
		},
		index(w.names, plain),
	} {
		missing := 0
		for i, f := range folders {
			id, ok := lookup(f)
			if !ok {
				missing++
			}
			ids[i] = id
		}
		if missing == 0 {
			return ids, w.inRange(src, folders, ids)
		}
	}
	if len(folders) == len(w.names) && all(folders, wnid.MatchString) {
		for i := range ids {
			ids[i] = i
		}
		return ids, nil
	}
	return nil, w.mismatch(src, folders)
}

func (w words) inRange(src string, folders []string, ids []int) error {
	for i, id := range ids {
		if id >= len(w.names) {
			return fault.Inputf("%s: folder %q is class %d, but there are %d class names (0 to %d); check --classnames", src, folders[i], id, len(w.names), len(w.names)-1)
		}
	}
	return nil
}

// mismatch names the first folder that no class name fits.
func (w words) mismatch(src string, folders []string) error {
	byName := index(w.names, plain)
	unknown := ""
	n := 0
	for _, f := range folders {
		if _, ok := byName(f); !ok {
			if n++; unknown == "" {
				unknown = f
			}
		}
	}
	return fault.Inputf("%s: %d of %d folder names match no class name, the first is %q (the %d class names begin with %q); name the folders after the classes or their numbers, or give the right --classnames",
		src, n, len(folders), unknown, len(w.names), w.names[0])
}

// index looks names up under their spelling; a spelling that occurs twice
// is not an answer.
func index(names []string, spell func(string) string) func(string) (int, bool) {
	m := make(map[string]int, len(names))
	for i, name := range names {
		key := spell(name)
		if _, twice := m[key]; twice {
			m[key] = -1
			continue
		}
		m[key] = i
	}
	return func(s string) (int, bool) {
		i, ok := m[spell(s)]
		return i, ok && i >= 0
	}
}

func all(list []string, ok func(string) bool) bool {
	for _, s := range list {
		if !ok(s) {
			return false
		}
	}
	return true
}
