package dataset

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/evatool/evatool/internal/fault"
)

// spelling finds a class by what it may be called. Exact names count before
// those that differ in case and separators, and these before those that agree
// in their letters and digits only; the names of the lists count before the
// single words of a synonym list such as "great white shark, white shark". A
// name that several classes share at the level at which it is found counts as
// none.
type spelling struct {
	lists  [][]string // lists[k][i] names class i, "" when list k does not
	levels [2][len(levels)]map[string]int
}

// levels are the ways to compare two names.
var levels = [...]func(string) string{exact, fold, letters}

const twice = -2 // a name that more than one class has

// newSpelling takes the lists in which the classes are named: the caller's own
// first, then any others of the same length.
func newSpelling(own []string, also [][]string) *spelling {
	s := &spelling{lists: append([][]string{own}, also...)}
	for tier := range s.levels {
		for k := range levels {
			s.levels[tier][k] = map[string]int{}
		}
	}
	for k, list := range s.lists {
		for i, name := range list {
			s.add(0, name, i)
			if k > 0 {
				for _, word := range synonyms(name) {
					s.add(1, word, i)
				}
			}
		}
	}
	return s
}

func (s *spelling) add(tier int, name string, i int) {
	for k, form := range levels {
		key := form(name)
		if key == "" {
			continue
		}
		if other, ok := s.levels[tier][k][key]; ok && other != i {
			s.levels[tier][k][key] = twice
		} else if !ok {
			s.levels[tier][k][key] = i
		}
	}
}

// synonyms are the words of an entry that has several.
func synonyms(name string) []string {
	if !strings.Contains(name, ", ") {
		return nil
	}
	return strings.Split(name, ", ")
}

// find is the class called name.
func (s *spelling) find(name string) (class int, ok bool) {
	for tier := range s.levels {
		for k, form := range levels {
			if key := form(name); key != "" {
				if i, ok := s.levels[tier][k][key]; ok {
					return i, i != twice
				}
			}
		}
	}
	if m := leadingWnid.FindStringSubmatch(name); m != nil {
		i, ok := s.levels[0][0][m[1]]
		return i, ok && i != twice
	}
	return 0, false
}

// best is the way of finding classes that knows the most of names: all lists,
// or one alone, in which a name may be unique that is not unique among all.
func (s *spelling) best(names []string) func(string) (int, bool) {
	known := func(find func(string) (int, bool)) (n int) {
		for _, name := range names {
			if _, ok := find(name); ok {
				n++
			}
		}
		return n
	}
	find, most := s.find, known(s.find)
	if most == len(names) {
		return find
	}
	for _, list := range s.lists {
		alone := newSpelling(list, nil)
		if n := known(alone.find); n > most {
			find, most = alone.find, n
		}
	}
	return find
}

// leadingWnid is a name such as n02085620-Chihuahua.
var leadingWnid = regexp.MustCompile(`^(n\d{8})[^0-9A-Za-z]`)

// calls says whether class i may be called name, whatever else goes by it.
func (s *spelling) calls(i int, name string) bool {
	for k, list := range s.lists {
		if sameName(list[i], name) {
			return true
		}
		if k > 0 && slices.ContainsFunc(synonyms(list[i]), func(word string) bool { return sameName(word, name) }) {
			return true
		}
	}
	return false
}

func sameName(a, b string) bool {
	for _, form := range levels {
		if key := form(a); key != "" && key == form(b) {
			return true
		}
	}
	return false
}

// exact is a name in Unicode's composed form, as most systems write it; macOS
// decomposes the names of files.
func exact(s string) string { return norm.NFC.String(strings.TrimSpace(s)) }

// fold makes "Tabby_Cat" and "tabby cat" the same.
func fold(s string) string {
	return strings.Join(strings.Fields(strings.NewReplacer("_", " ", "-", " ").Replace(strings.ToLower(exact(s)))), " ")
}

// letters makes "AnnualCrop", "annual-crop" and "Annual Crop." the same. It is
// empty for a name without letters: 1-0 is not 10.
func letters(s string) string {
	some := false
	out := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r) || unicode.IsMark(r):
			some = true
			return r
		case unicode.IsNumber(r):
			return r
		}
		return -1
	}, fold(s))
	if !some {
		return ""
	}
	return out
}

// nameList is what a part of the data calls its label numbers.
type nameList struct {
	names []string // names[i] is that of number i
	// sparse lists come from rows: they know the numbers that occur; "" stands for
	// the others.
	sparse bool
}

// numbering says which class each number of a part of the data is.
type numbering struct {
	to []int // -1: none of the classes
	// says is what was found, for the log; odd when somebody should check it.
	says string
	odd  bool
}

// renumber compares the names that data has for its label numbers with the
// classes that were asked for. find and calls are as in a spelling.
//
// Names of the classes, all or some of them, in whatever order, decide. Foreign
// names, as many as there are classes, decide nothing, and this is logged; any
// other number of them is an error. A number whose name is not one of the
// classes, while others are, is no class.
func renumber(own nameList, classes []string, find func(string) (int, bool), calls func(int, string) bool) (numbering, error) {
	n, m, known := len(classes), 0, 0
	same := numbering{to: make([]int, len(own.names))}
	to := make([]int, len(own.names))
	agree, inPlace := true, true
	taken := map[int]int{}
	for i, name := range own.names {
		same.to[i], to[i] = i, -1
		if i >= n {
			same.to[i] = -1
		}
		if own.sparse && name == "" {
			continue
		}
		m++
		agree = agree && i < n && calls(i, name)
		class, ok := find(name)
		if first, again := taken[class]; ok && again { // two names of one class: neither is sure
			to[first], inPlace = -1, false
		} else if ok {
			taken[class], to[i] = i, class
		}
	}
	for i, class := range to {
		if class >= 0 {
			known++
			inPlace = inPlace && class == i
		}
	}
	odd := slices.IndexFunc(own.names, func(name string) bool { _, ok := find(name); return !ok && !(own.sparse && name == "") })
	rightCount := m == n || own.sparse && len(own.names) <= n
	switch {
	case agree && rightCount:
		return same, nil
	case known == m:
		return numbering{to: to, says: fmt.Sprintf("the data names its label numbers: they are mapped by name to %d of the %d classes", known, n)}, nil
	case numerals(own.names) && m == n:
		return same, nil
	case len(taken) == 0 && !rightCount:
		return same, fmt.Errorf("the data has %s for its label numbers (%s), none of which is among the %d classes in use (%s); give the names of the data's classes with Options.ClassNames, or correct the list", plural(m, "name"), someNames(own.names), n, someNames(classes))
	case inPlace && rightCount && odd >= 0:
		return numbering{to: same.to, odd: true, says: fmt.Sprintf("%d of the data's %d names for its label numbers are not among the classes (number %d is %q there, %q here): the numbers are used as they are; check that the order is the same", m-known, m, odd, brief(own.names[odd]), brief(classes[odd]))}, nil
	}
	says := fmt.Sprintf("the data names its label numbers: %d of %s are mapped by name to the %d classes", known, plural(m, "name"), n)
	if odd >= 0 {
		says += fmt.Sprintf(", the others match none, such as number %d, %q", odd, brief(own.names[odd]))
	}
	return numbering{to: to, odd: true, says: says}, nil
}

// Misplaced finds a name that is another class than the one at its place, when
// every one of names is one of the classes, which may be called by also too.
func Misplaced(names, classes []string, also [][]string) (place, class int, ok bool) {
	find := newSpelling(classes, also)
	place = -1
	for i, name := range names {
		k, known := find.find(name)
		if !known && !(i < len(classes) && find.calls(i, name)) {
			return 0, 0, false
		}
		if known && k != i && place < 0 && !(i < len(classes) && find.calls(i, name)) {
			place, class = i, k
		}
	}
	return place, class, place >= 0
}

// numerals says that names are only the numbers 0, 1, … themselves.
func numerals(names []string) bool {
	for i, name := range names {
		if strings.TrimSpace(name) != strconv.Itoa(i) {
			return false
		}
	}
	return true
}

// brief is a name of bounded length.
func brief(name string) string {
	if r := []rune(name); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return name
}

// someNames are the first of a list, for a message.
func someNames(names []string) string {
	const few = 3
	var out []string
	for _, name := range names[:min(few, len(names))] {
		out = append(out, fault.Name(brief(name)))
	}
	if len(names) > few {
		out = append(out, "…")
	}
	return strings.Join(out, ", ")
}
