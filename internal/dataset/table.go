package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// The column names that tables usually have, best first.
var (
	imageNames   = []string{"filepath", "image", "path", "image_path", "filename", "file_name", "file", "img", "img_path", "image_name"}
	captionNames = []string{"caption", "captions", "text", "title", "txt", "sentence", "description"}
	labelNames   = []string{"label", "labels", "class", "cls", "class_id", "target", "category", "wnid"}
)

func lineError(n int, line string, err error) error {
	return fmt.Errorf("line %d: %.80q: %w", n, line, err)
}

// row is one line of a table before its label is understood.
type row struct {
	file     file
	line     int
	captions []string
	bad      error // why the captions cannot be used
	label    string
	hasLabel bool
}

// column finds a column: the one asked for, or one with a usual name. It is -1
// when there is none.
func column(header []string, want string, usual []string) int {
	if want != "" {
		return slices.Index(header, want)
	}
	for _, name := range usual {
		if i := slices.IndexFunc(header, func(h string) bool { return strings.EqualFold(strings.TrimSpace(h), name) }); i >= 0 {
			return i
		}
	}
	return -1
}

// openCSV reads tables of image paths with captions, labels or both. Paths are
// relative to the table's folder.
func openCSV(ctx context.Context, st storage, tables []string, o Options) (Dataset, error) {
	var parts []part
	for _, name := range tables {
		data, err := readAll(ctx, st, name, "a CSV or TSV table")
		if err != nil {
			return nil, err
		}
		p, label, err := csvRows(st, name, data, o)
		if err == nil && label != "" && len(p.own.names) == 0 {
			p.own, err = namesNear(ctx, st, st.dir(name), false, label)
		}
		if err != nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", fault.Name(name), err))
		}
		parts = append(parts, p)
	}
	return newTable(ctx, st, "csv", parts, o)
}

// cellCaptions are the captions in a cell: one, line breaks and all, or a list
// as JSON or Python write it, as the tables of Flickr30k on Hugging Face have.
func cellCaptions(cell string) ([]string, error) {
	if many, ok := listCell(cell); ok {
		return captionList(many)
	}
	return oneCaption(cell)
}

func missing(what, want string, header, usual []string) error {
	var shown []string
	for _, name := range header {
		shown = append(shown, fault.Name(brief(name)))
	}
	columns := strings.Join(shown, ", ")
	if want != "" {
		return fault.Inputf("no %s column %s; the columns are %s", what, quoted(want), columns)
	}
	return fault.Inputf("no %s column; the columns are %s; say which one it is, or rename it to %s", what, columns, usual[0])
}

// part is one of the files of a table.
type part struct {
	name string
	own  nameList // what it calls its label numbers
	rows []row
}

// newTable gives rows their labels and, with GroupCaptions, joins the rows of
// one image.
func newTable(ctx context.Context, st storage, what string, parts []part, o Options) (*list, error) {
	per, classes, err := tableLabels(parts, o)
	if err != nil {
		return nil, err
	}
	byImage := map[string]int{}
	var records []record
	others, labelled := 0, false
	unit := map[string]string{"csv": "line", "parquet": "row"}[what]
	for k, p := range parts {
		for _, r := range p.rows {
			label := -1
			labelled = labelled || r.hasLabel
			if r.hasLabel {
				label, err = per[k].class(r.label)
				var other *notAClass
				if errors.As(err, &other) && o.SkipOthers {
					others++
					continue
				}
				if err != nil && (o.ClassNames != nil || len(r.captions) == 0) {
					return nil, fault.Inputf("%s: %s %d: %s: %w", fault.Name(p.name), unit, r.line, fault.Name(r.file.name), err)
				}
				if err != nil { // the captions may be what counts
					label = -1
				}
			}
			if o.GroupCaptions {
				if i, ok := byImage[r.file.path]; ok {
					records[i].captions = append(records[i].captions, r.captions...)
					records[i].bad = cmp.Or(records[i].bad, r.bad)
					continue
				}
				byImage[r.file.path] = len(records)
			}
			records = append(records, record{file: r.file, key: r.file.name, label: label, captions: r.captions, bad: r.bad, part: k, row: r.line - 1})
		}
	}
	if len(records) == 0 {
		return nil, fault.Inputf("%s: no rows%s", fault.Name(parts[0].name), leftOut(others))
	}
	per[0].say(false, strings.TrimPrefix(leftOut(others), ", "), parts[0].name)
	d := newList(ctx, st, what, records, classes)
	if labelled {
		d.unit = unit
	}
	return d, nil
}

func leftOut(others int) string {
	if others == 0 {
		return ""
	}
	return fmt.Sprintf(", %s of other classes left out", plural(others, "row"))
}

// tableLabels are the labels of each part and the names of the classes.
func tableLabels(parts []part, o Options) (per []*labels, classes []string, err error) {
	root := newLabels(o)
	if root.names == nil && !slices.ContainsFunc(parts, func(p part) bool { return len(p.own.names) > 0 }) {
		root = root.of(namesOf(parts), nil)
	}
	if per, classes, err = partLabels(root, parts); err != nil {
		return nil, nil, err
	}
	texts := map[string]bool{}
	for _, p := range parts {
		for _, r := range p.rows {
			if r.hasLabel {
				texts[r.label] = true
			}
		}
	}
	per[0].settle(slices.Collect(maps.Keys(texts)))
	return per, classes, nil
}

// partLabels are the labels of each part, by the names that it has for its
// numbers or those of the first that has any, and the names of the classes.
func partLabels(root *labels, parts []part) (per []*labels, classes []string, err error) {
	first := slices.IndexFunc(parts, func(p part) bool { return len(p.own.names) > 0 })
	for _, p := range parts {
		own := p.own
		if len(own.names) == 0 && first >= 0 {
			own = parts[first].own
			root.say(true, fmt.Sprintf("has no names for its label numbers; those of %s are used", fault.Name(parts[first].name)), p.name)
		}
		l, err := root.with(own, p.name)
		if err != nil {
			return nil, nil, err
		}
		if root.names == nil {
			root = l
		}
		per = append(per, l)
	}
	return per, root.names, nil
}

// namesOf are the sorted class names in the label column, or nil when it holds
// numbers.
func namesOf(parts []part) []string {
	numeric := true
	seen := map[string]bool{}
	var names []string
	for _, p := range parts {
		for _, r := range p.rows {
			if name := exact(r.label); r.hasLabel && name != "" && !seen[name] {
				seen[name] = true
				names = append(names, name)
				_, number := classNumber(name)
				numeric = numeric && (number || name == "-1" || strings.EqualFold(name, "nan")) // a number that is missing
			}
		}
	}
	if numeric {
		return nil
	}
	slices.Sort(names)
	return names
}
