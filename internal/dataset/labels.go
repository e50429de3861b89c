package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// labels turns the name that a part of a dataset has for a class into its index.
type labels struct {
	names []string  // of the classes; nil: any number is a label
	find  *spelling // of names

	// What the data says itself, when it has names for its numbers.
	own   *spelling
	to    []int // class of each own number, -1 for none
	where string

	digits reading
	log    *slog.Logger
	said   map[string]bool // what has been logged already
}

// reading says how a label of digits is read.
type reading int

const (
	eitherWay reading = iota // a number or a name; an error where that makes a difference
	asNumber
	asName
)

func newLabels(o Options) *labels {
	l := &labels{log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), said: map[string]bool{}}
	return l.of(o.ClassNames, o.Also)
}

// of is l with these classes.
func (l *labels) of(names []string, also [][]string) *labels {
	out := *l
	out.names, out.find = names, nil
	if len(names) > 0 {
		out.find = newSpelling(names, also)
	} else {
		out.names = nil
	}
	return &out
}

// say logs something once.
func (l *labels) say(odd bool, text, where string) {
	if text == "" || l.said[text] {
		return
	}
	l.said[text] = true
	if odd {
		l.log.Warn(text, "data", where)
	} else {
		l.log.Info(text, "data", where)
	}
}

// with are the labels of a part of the data that has names for its numbers, or
// l when it has none. Without other classes those names are the classes.
func (l *labels) with(own nameList, where string) (*labels, error) {
	if len(own.names) == 0 || l.names == nil && own.sparse && slices.Contains(own.names, "") {
		return l, nil
	}
	for i, name := range own.names {
		if !validText(name) {
			return nil, fault.Inputf("%s: class name %d is not UTF-8; save the names as UTF-8", fault.Name(where), i)
		}
	}
	out := *l
	if l.names == nil {
		out = *l.of(own.names, nil)
	}
	out.own, out.where = newSpelling(own.names, nil), where
	n, err := renumber(own, out.names, out.find.best(own.names), out.find.calls)
	if err != nil {
		return nil, fault.Inputf("%s: %w", fault.Name(where), err)
	}
	if l.own != nil && n.odd { // the classes are another part's names
		return nil, fault.Inputf("%s: its class names (%s) are not those of %s (%s); give parts of one set, or the classes with Options.ClassNames", fault.Name(where), someNames(own.names), fault.Name(l.where), someNames(l.names))
	}
	out.to = n.to
	l.say(n.odd, n.says, where)
	return &out, nil
}

// notAClass is a label that is not one of the classes that were asked for.
type notAClass struct{ what string }

func (e *notAClass) Error() string { return e.what }

// plainNumber is a class number; tables with empty cells have 3.0 for 3.
var plainNumber = regexp.MustCompile(`^(\d{1,9})(?:\.0*)?$`)

func classNumber(s string) (int, bool) {
	m := plainNumber.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

// class reads a label: a class number, or a class name.
func (l *labels) class(s string) (int, error) {
	s = strings.TrimSpace(s)
	n, number := classNumber(s)
	switch {
	case s == "":
		return 0, errors.New("the label is null or empty; fill it in, or leave out the rows without one")
	case s == "-1":
		return 0, errors.New("label -1, which means that the class is unknown; give the part of the set that has labels")
	case number && l.own != nil:
		return l.ownNumber(n)
	case number:
		return l.numberOrName(n, s)
	case l.names == nil:
		return 0, fmt.Errorf("label %s is not a class number; give the class names", quoted(s))
	}
	if l.own != nil {
		if i, ok := l.own.find(s); ok {
			return l.ownNumber(i)
		}
	}
	if i, ok := l.find.find(s); ok {
		return i, nil
	}
	return 0, &notAClass{fmt.Sprintf("label %s is not one of the %d classes (%s)", quoted(s), len(l.names), someNames(l.names))}
}

// quoted is a value of the data in a message.
func quoted(s string) string { return strconv.QuoteToGraphic(brief(s)) }

func (l *labels) ownNumber(n int) (int, error) {
	own := l.own.lists[0]
	switch {
	case n >= len(own):
		return 0, fmt.Errorf("label %d has no name: the data names %s, 0 to %d", n, plural(len(own), "number"), len(own)-1)
	case l.to[n] < 0:
		return 0, &notAClass{fmt.Sprintf("label %d, %s, is not one of the %d classes (%s), or fits several; give lines of FOLDER<TAB>NAME with Options.ClassNames, the data's names first", n, quoted(own[n]), len(l.names), someNames(l.names))}
	}
	return l.to[n], nil
}

// numberOrName reads digits where the data does not name its numbers.
func (l *labels) numberOrName(n int, s string) (int, error) {
	if l.names == nil {
		return n, nil
	}
	name, named := l.numeral(s)
	inRange := n < len(l.names)
	switch {
	case named && (l.digits == asName || !inRange):
		return name, nil
	case named && l.digits == eitherWay && name != n:
		return 0, fmt.Errorf("label %s is the number of class %s and the name of class %d; give lines of FOLDER<TAB>NAME with Options.ClassNames, the data's labels first", quoted(s), quoted(l.names[n]), name)
	case inRange:
		return n, nil
	}
	return 0, &notAClass{fmt.Sprintf("label %d is not in 0..%d%s", n, len(l.names)-1, countedFromOne(n, len(l.names)))}
}

// numeral is the class whose name is the digits s, as they are written.
func (l *labels) numeral(s string) (int, bool) {
	i, ok := l.find.levels[0][0][exact(s)]
	return i, ok && i != twice
}

// countedFromOne explains the number n of n classes.
func countedFromOne(n, classes int) string {
	switch {
	case n != classes:
		return ""
	case n == len(Wnids()):
		return "; numbers from 1 to 1000 look like ILSVRC2012_IDs, whose order is not that of the classes, or are counted from one: give WordNet ids"
	}
	return "; are the labels counted from one? (class numbers start at 0)"
}

// settle decides how digits are read in all of texts: as names when every one is
// a class name and they cannot be numbers too.
func (l *labels) settle(texts []string) {
	if l.names == nil || l.own != nil {
		return
	}
	asNames, asNumbers, differ := true, true, ""
	for _, s := range texts {
		n, number := classNumber(s)
		if !number {
			_, ok := l.find.find(s)
			asNames = asNames && ok
			asNumbers = false
			continue
		}
		name, named := l.numeral(s)
		asNames = asNames && named
		asNumbers = asNumbers && n < len(l.names)
		if named && name != n {
			differ = s
		}
	}
	switch {
	case asNames && asNumbers && differ != "":
		// class says so, with the row
	case asNames:
		l.digits = asName
	default:
		l.digits = asNumber
	}
}

// folders gives each class folder its label: by the caller's class names, or
// else the sorted position. Folders to be left out have none.
func (l *labels) folders(where string, dirs []string, skipOthers bool) (map[string]int, error) {
	out := map[string]int{}
	if l.names == nil {
		composed := map[string]string{}
		for i, d := range dirs {
			if other, ok := composed[exact(d)]; ok {
				return nil, fault.Inputf("%s: folders %q and %q are the same name in two Unicode forms; merge them", fault.Name(where), other, d)
			}
			composed[exact(d)] = d
			out[d] = i
		}
		return out, nil
	}
	var unknown []string
	taken := map[int]string{}
	for _, d := range dirs {
		i, ok := l.find.find(d)
		if !ok {
			unknown = append(unknown, d)
			continue
		}
		if other, ok := taken[i]; ok {
			return nil, fault.Inputf("%s: folders %q and %q are both class %d, %q; keep one", fault.Name(where), other, d, i, l.names[i])
		}
		taken[i] = d
		out[d] = i
	}
	if len(unknown) == 0 || skipOthers && len(out) > 0 {
		return out, nil
	}
	if len(unknown) == len(dirs) {
		switch {
		case allMatch(dirs, digitsOnly):
			return l.numbered(where, dirs)
		case allMatch(dirs, wholeWnid):
			if to, err := l.wnidFolders(where, dirs); to != nil || err != nil {
				return to, err
			}
		}
	}
	slices.Sort(unknown)
	return nil, fault.Inputf("%s: %d of %d folders, such as %q, are not among the %d classes, such as %q; give the folder that holds the class folders, name them after the classes or by class number (0, 1, …), or map them with Options.ClassNames, in lines of FOLDER<TAB>NAME",
		fault.Name(where), len(unknown), len(dirs), unknown[0], len(l.names), l.names[0])
}

var (
	digitsOnly = regexp.MustCompile(`^\d{1,9}$`)
	wholeWnid  = regexp.MustCompile(`^n\d{8}$`)
)

func allMatch(names []string, re *regexp.Regexp) bool {
	return !slices.ContainsFunc(names, func(s string) bool { return !re.MatchString(s) })
}

// numbered reads folders named by class number, counted from 0, as ImageNet-V2
// has them. Numbers that seem to be counted from one are refused: 0 is missing,
// and most of 1 to the highest are there.
func (l *labels) numbered(where string, dirs []string) (map[string]int, error) {
	out := map[string]int{}
	seen := map[int]string{}
	highest := 0
	for _, d := range dirs {
		n, _ := strconv.Atoi(d)
		if other, ok := seen[n]; ok {
			return nil, fault.Inputf("%s: folders %q and %q are the same number; keep one", fault.Name(where), other, d)
		}
		seen[n], out[d] = d, n
		highest = max(highest, n)
	}
	_, zero := seen[0]
	classes := len(l.names)
	switch {
	case highest > classes || highest == classes && zero:
		return nil, fault.Inputf("%s: folder %q is not a class number from 0 to %d; give the classes of this data with Options.ClassNames", fault.Name(where), seen[highest], classes-1)
	case !zero && (highest == classes || 2*len(dirs) > highest):
		what := "they seem to be counted from one"
		if classes == len(Wnids()) {
			what += ", or to be ILSVRC2012_IDs, whose order is not that of the classes"
		}
		return nil, fault.Inputf("%s: the folders are numbers up to %d without 0, but class numbers are 0 to %d: %s; name the folders after the classes, or give lines of FOLDER<TAB>NAME with Options.ClassNames", fault.Name(where), highest, classes-1, what)
	case !zero:
		l.say(true, fmt.Sprintf("the folders are taken as class numbers counted from 0, though none of the %d is 0", len(dirs)), where)
	}
	return out, nil
}

// wnidFolders matches folders named by WordNet id with classes that go by other
// names: by ImageNet's names, or in sorted order when no class is an ImageNet
// name and the number is right, as torchvision counts them.
func (l *labels) wnidFolders(where string, dirs []string) (map[string]int, error) {
	out := map[string]int{}
	index := map[string]int{}
	for i, id := range Wnids() {
		index[id] = i
	}
	if len(l.names) == len(Wnids()) { // names for all of ImageNet, in its order
		for _, d := range dirs {
			i, ok := index[d]
			if !ok {
				return nil, nil
			}
			out[d] = i
		}
		return out, nil
	}
	imagenet := imagenetSpelling()
	ofClass := map[int]int{} // of the classes asked for, by ImageNet's class
	for i, name := range l.names {
		if class, ok := imagenet.find(name); ok {
			ofClass[class] = i
		}
	}
	n, err := renumber(nameList{names: dirs}, l.names, func(d string) (int, bool) {
		class, known := index[d]
		i, ok := ofClass[class]
		return i, known && ok
	}, func(i int, d string) bool {
		class, ok := index[d]
		return ok && imagenet.calls(class, l.names[i])
	})
	if err != nil {
		return nil, nil // the caller's message is clearer
	}
	for i, d := range dirs {
		if n.to[i] < 0 {
			return nil, fault.Inputf("%s: folder %s is not one of the %d classes (%s), while others are; give lines of FOLDER<TAB>NAME with Options.ClassNames", fault.Name(where), d, len(l.names), someNames(l.names))
		}
		out[d] = n.to[i]
	}
	l.say(n.odd, n.says, where)
	return out, nil
}
