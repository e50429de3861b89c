package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// labels turns what a dataset calls a class into its index.
type labels struct {
	names  []string // nil: any number is a label
	exact  map[string]int
	folded map[string]int
}

const twice = -2 // a name that more than one class has

func newLabels(names []string) *labels {
	if len(names) == 0 {
		return &labels{}
	}
	l := &labels{names: names, exact: map[string]int{}, folded: map[string]int{}}
	for i, name := range names {
		add(l.exact, name, i)
		add(l.folded, fold(name), i)
	}
	return l
}

func add(m map[string]int, name string, i int) {
	if _, ok := m[name]; ok {
		i = twice
	}
	m[name] = i
}

// fold makes "Tabby_Cat" and "tabby cat" the same.
func fold(s string) string {
	return strings.Join(strings.Fields(strings.NewReplacer("_", " ", "-", " ").Replace(strings.ToLower(s))), " ")
}

// named finds a class by name, with its case and separators or without.
func (l *labels) named(s string) (int, bool) {
	for _, try := range []struct {
		m map[string]int
		s string
	}{{l.exact, s}, {l.folded, fold(s)}} {
		if i, ok := try.m[try.s]; ok && i != twice {
			return i, true
		}
	}
	return 0, false
}

// of reads a label: a class number, or a class name.
func (l *labels) of(s string) (int, error) {
	s = strings.TrimSpace(s)
	n, err := strconv.Atoi(s)
	switch {
	case err == nil && n >= 0 && (l.names == nil || n < len(l.names)):
		return n, nil
	case err == nil && l.names != nil:
		return 0, fmt.Errorf("label %d is not in 0..%d", n, len(l.names)-1)
	case err == nil:
		return 0, fmt.Errorf("label %d is negative", n)
	}
	if i, ok := l.named(s); ok {
		return i, nil
	}
	if l.names == nil {
		return 0, fmt.Errorf("label %.80q is not a class number; give the class names", s)
	}
	return 0, fmt.Errorf("label %.80q is none of the %d class names", s, len(l.names))
}

// folders gives each class folder its label: by the caller's class names, or
// else the sorted position. Folders to be left out have none.
func (l *labels) folders(where string, dirs []string, skipOthers bool) (map[string]int, error) {
	out := map[string]int{}
	if l.names == nil {
		for i, d := range dirs {
			out[d] = i
		}
		return out, nil
	}
	var unknown []string
	taken := map[int]string{}
	for _, d := range dirs {
		i, ok := l.named(d)
		if !ok {
			unknown = append(unknown, d)
			continue
		}
		if other, ok := taken[i]; ok {
			return nil, fault.Inputf("%s: folders %q and %q are both class %d, %q; keep one", where, other, d, i, l.names[i])
		}
		taken[i] = d
		out[d] = i
	}
	if len(unknown) == 0 || skipOthers && len(out) > 0 {
		return out, nil
	}
	// Folders named by the class number, as ImageNet-V2 has them.
	if len(unknown) == len(dirs) {
		for _, d := range dirs {
			n, err := strconv.Atoi(d)
			if err != nil || n < 0 || n >= len(l.names) || len(d) > 1 && d[0] == '0' && len(d) != len(dirs[0]) {
				break
			}
			out[d] = n
		}
		if len(out) == len(dirs) {
			return out, nil
		}
	}
	slices.Sort(unknown)
	return nil, fault.Inputf("%s: %d of %d folders are none of the %d classes, such as %q (a class is %q); give the folder of the class folders, and name them after the classes or by class number (0, 1, …)",
		where, len(unknown), len(dirs), len(l.names), unknown[0], l.names[0])
}
