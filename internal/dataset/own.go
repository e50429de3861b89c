package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// This file finds what data calls its own label numbers: in columns beside the
// labels, in classnames.txt, in what Hugging Face writes about a set.

// companionNames are columns that give in words what a label column gives in
// numbers, best first.
var companionNames = []string{"wnid", "synset", "synset_id", "class_name", "classname", "label_name", "label_text", "category_name", "class_label", "class", "category", "label_names"}

// companions collects the names beside label numbers.
type companions struct {
	columns []companion
	numbers bool // all labels so far are
}

// companion is a column that may name the label numbers: each has one name, and
// each name one number.
type companion struct {
	column int
	of     map[int]string
	number map[string]int
}

// maxClasses bounds the numbers for which names are collected.
const maxClasses = 1 << 20

func newCompanions(h tableHead) *companions {
	c := &companions{numbers: true}
	if h.bare || h.label < 0 {
		return c
	}
	for _, name := range companionNames {
		if i := column(h.names, "", []string{name}); i >= 0 && i != h.label && i != h.caption && i != h.image {
			c.columns = append(c.columns, companion{i, map[int]string{}, map[string]int{}})
		}
	}
	return c
}

// add takes a row's label and the other cells. A column that contradicts itself,
// holds numbers, or is empty anywhere names nothing.
func (c *companions) add(label string, cell func(int) string) {
	if !c.numbers || len(c.columns) == 0 {
		return
	}
	n, ok := classNumber(label)
	if !ok || n >= maxClasses {
		c.numbers = false
		return
	}
	c.columns = slices.DeleteFunc(c.columns, func(k companion) bool {
		name := exact(cell(k.column))
		if _, isNumber := classNumber(name); isNumber || name == "" {
			return true
		}
		had, known := k.of[n]
		at, used := k.number[name]
		if known && had != name || used && at != n {
			return true
		}
		k.of[n], k.number[name] = name, n
		return false
	})
}

func (c *companions) list() nameList {
	if !c.numbers || len(c.columns) == 0 || len(c.columns[0].of) == 0 {
		return nameList{}
	}
	var names []string
	for n, name := range c.columns[0].of {
		if n >= len(names) {
			names = append(names, make([]string, n+1-len(names))...)
		}
		names[n] = name
	}
	return nameList{names, true}
}

// Numbers maps the label numbers of the file src by the classnames.txt beside it,
// where there is one: to returns the class of a number. It is nil when the
// numbers are the classes' own. classes are the names of the classes.
func Numbers(ctx context.Context, src string, o Options) (to func(n int) (int, error), classes []string, err error) {
	st, err := storageFor(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	names, err := classNamesFile(ctx, st, st.join(st.dir(src), "classnames.txt"))
	if err != nil {
		return nil, nil, err
	}
	l, err := newLabels(o).with(nameList{names: names}, src)
	if err != nil || l.own == nil {
		return nil, l.names, err
	}
	return l.ownNumber, l.names, nil
}

// maxList bounds a file of names.
const maxList = 16 << 20

// namesNear reads the names of the label numbers out of the files that lie
// beside data: classnames.txt, as CLIP_benchmark has it, or what Hugging Face
// writes about the columns. up looks for classnames.txt in the folder above,
// too.
func namesNear(ctx context.Context, st storage, dir string, up bool, columns ...string) (nameList, error) {
	above := st.join(dir, "..")
	folders := []string{dir, above}
	if strings.HasSuffix(above, "://.") { // above a bucket
		folders = folders[:1]
	}
	for _, where := range folders {
		if up || where == dir {
			names, err := classNamesFile(ctx, st, st.join(where, "classnames.txt"))
			if err != nil || len(names) > 0 {
				return nameList{names: names}, err
			}
		}
	}
	for _, where := range folders {
		for _, f := range []struct {
			name string
			read func([]byte, string) []string
		}{{"dataset_infos.json", infosNames}, {"dataset_info.json", infosNames}, {"README.md", cardNames}} {
			data, err := readSmall(ctx, st, st.join(where, f.name))
			if err != nil {
				return nameList{}, err
			}
			for _, column := range columns {
				if names := f.read(data, column); len(names) > 0 {
					return nameList{names: names}, nil
				}
			}
		}
	}
	return nameList{}, nil
}

// readSmall reads a file of at most maxList bytes; one that is missing, or
// longer, is empty.
func readSmall(ctx context.Context, st storage, name string) ([]byte, error) {
	size, dir, err := st.stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (dir || size > maxList) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(name, "a list of names", err)
	}
	return st.read(ctx, name, 0, size)
}

// classNamesFile reads a list of class names, one a line; there is none when
// the file is not there.
func classNamesFile(ctx context.Context, st storage, name string) ([]string, error) {
	data, err := readSmall(ctx, st, name)
	if err != nil || len(data) == 0 {
		return nil, err
	}
	text, err := tableText(data)
	if err == nil && !validText(text) {
		err = errors.New("not UTF-8; save the class names as UTF-8")
	}
	if err != nil {
		return nil, fault.Inputf("%s: %w", fault.Name(name), err)
	}
	names := lines([]byte(text))
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names, nil
}

// feature is what Hugging Face's "datasets" says about a column.
type feature struct {
	Names nameField `json:"names"`
}

// nameField is a list of names, or a map from "0", "1", … to them.
type nameField []string

func (n *nameField) UnmarshalJSON(b []byte) error {
	var list []string
	if json.Unmarshal(b, &list) == nil {
		*n = list
		return nil
	}
	var byNumber map[string]string
	if err := json.Unmarshal(b, &byNumber); err != nil {
		return nil // of another kind
	}
	*n = inOrder(byNumber)
	return nil
}

// inOrder is the list of a map from numbers, nil when one is missing.
func inOrder(byNumber map[string]string) []string {
	list := make([]string, len(byNumber))
	for key, name := range byNumber {
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(list) {
			return nil
		}
		list[i] = name
	}
	return list
}

// featureNames are the class names of a column in a map of features.
func featureNames(features map[string]json.RawMessage, column string) []string {
	var f feature
	if json.Unmarshal(features[column], &f) != nil {
		return nil
	}
	return f.Names
}

// infosNames reads dataset_infos.json, which describes each configuration, or
// dataset_info.json, which describes one. Configurations that disagree say
// nothing.
func infosNames(data []byte, column string) []string {
	type info struct {
		Features map[string]json.RawMessage `json:"features"`
	}
	var one info
	if json.Unmarshal(data, &one) == nil && one.Features != nil {
		return featureNames(one.Features, column)
	}
	var many map[string]json.RawMessage
	if json.Unmarshal(data, &many) != nil {
		return nil
	}
	var lists [][]string
	for _, raw := range many {
		var c info
		if json.Unmarshal(raw, &c) == nil {
			if names := featureNames(c.Features, column); len(names) > 0 {
				lists = append(lists, names)
			}
		}
	}
	return agreed(lists)
}

// agreed is the list that all are, or nil.
func agreed(lists [][]string) []string {
	for _, l := range lists {
		if !slices.Equal(l, lists[0]) {
			return nil
		}
	}
	if len(lists) == 0 {
		return nil
	}
	return lists[0]
}

// cardNames reads a dataset card: the YAML at the top of README.md, in the form
// in which "datasets" writes class labels there:
//
//   - name: label
//     dtype:
//     class_label:
//     names:
//     '0': airplane
//     '1': automobile
func cardNames(data []byte, column string) []string {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	rest, ok := bytes.CutPrefix(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("---\n"))
	if !ok {
		return nil
	}
	head, _, ok := bytes.Cut(rest, []byte("\n---"))
	if !ok {
		return nil
	}
	var lists [][]string
	var raw map[string]string // of the names below "names:", which is indented by at
	var last string
	inColumn, at, entry := false, -1, -1
	flush := func() {
		if len(raw) > 0 {
			names := map[string]string{}
			for key, value := range raw {
				names[unquoteYAML(key)] = unquoteYAML(value)
			}
			lists = append(lists, inOrder(names))
		}
		raw, at = nil, -1
	}
	for line := range strings.Lines(string(head)) {
		line = strings.TrimRight(line, " \n")
		text := strings.TrimLeft(line, " ")
		indent := len(line) - len(text)
		if at >= 0 && indent > at {
			if entry < 0 {
				entry = indent
			}
			if key, value, ok := strings.Cut(text, ": "); ok && indent == entry {
				last, raw[key] = key, value
			} else if indent > entry && last != "" {
				raw[last] += " " + text // a long name goes on
			}
			continue
		}
		if at >= 0 {
			flush()
			inColumn = false
		}
		if item, ok := strings.CutPrefix(text, "- "); ok {
			value, named := strings.CutPrefix(item, "name: ")
			inColumn = named && unquoteYAML(value) == column
		}
		if inColumn && text == "names:" {
			raw, at, entry, last = map[string]string{}, indent, -1, ""
		}
	}
	flush()
	return agreed(lists)
}

// unquoteYAML reads a plain or quoted scalar of one line.
func unquoteYAML(s string) string {
	s = strings.TrimSpace(s)
	switch {
	case len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'':
		return strings.ReplaceAll(s[1:len(s)-1], "''", "'")
	case len(s) >= 2 && s[0] == '"':
		if u, err := strconv.Unquote(s); err == nil {
			return u
		}
	}
	return s
}

// parquetNames are the class names that the "huggingface" entry of a Parquet
// file has for a column, nil when it has none.
func parquetNames(entry, column string) ([]string, error) {
	var about struct {
		Info struct {
			Features map[string]json.RawMessage `json:"features"`
		} `json:"info"`
	}
	if json.Unmarshal([]byte(entry), &about) != nil {
		return nil, nil
	}
	names := featureNames(about.Info.Features, column)
	for i, name := range names {
		if !validText(name) {
			return nil, fmt.Errorf("class name %d of column %s is not text", i, fault.Name(column))
		}
	}
	return names, nil
}
