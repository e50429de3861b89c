package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// csvReader reads a table as pandas.read_csv does with its defaults, which most
// tables in this field were written for and checked with:
//
//   - a field is quoted when its first character is a quote; "" is a quote there;
//     what follows the closing quote belongs to the field, quotes and all
//   - a quote anywhere else is a character like any other
//   - lines end with \n, \r\n or \r; blank ones are skipped
//   - a quote that is never closed is an error
type csvReader struct {
	text string
	sep  byte
	at   int
	line int // of at, from 1
}

func newCSVReader(text string, sep byte) *csvReader { return &csvReader{text: text, sep: sep, line: 1} }

// next is the next record and the line on which it begins; ok is false at the
// end of the table.
func (r *csvReader) next() (fields []string, line int, ok bool, err error) {
	r.skipBlank()
	if r.at == len(r.text) {
		return nil, r.line, false, nil
	}
	line = r.line
	for {
		field, more, err := r.field()
		if err != nil {
			return nil, line, false, err
		}
		fields = append(fields, field)
		if !more {
			return fields, line, true, nil
		}
	}
}

// skipBlank skips lines of nothing but spaces and tabs.
func (r *csvReader) skipBlank() {
	for r.at < len(r.text) {
		end := r.at
		for end < len(r.text) && (r.text[end] == ' ' || r.text[end] == '\t') && r.text[end] != r.sep {
			end++
		}
		if end < len(r.text) && r.text[end] != '\n' && r.text[end] != '\r' {
			return
		}
		if end == len(r.text) {
			r.at = end
			return
		}
		r.at = end
		r.endLine()
	}
}

// endLine goes over the line break at r.at.
func (r *csvReader) endLine() {
	if strings.HasPrefix(r.text[r.at:], "\r\n") {
		r.at++
	}
	r.at++
	r.line++
}

// field reads one field and what ends it; more says whether another follows in
// the record.
func (r *csvReader) field() (field string, more bool, err error) {
	var unquoted string
	quoted := false
	if r.at < len(r.text) && r.text[r.at] == '"' {
		quoted = true
		if unquoted, err = r.quoted(); err != nil {
			return "", false, err
		}
	}
	start := r.at
	for r.at < len(r.text) {
		c := r.text[r.at]
		if c == r.sep || c == '\n' || c == '\r' {
			break
		}
		r.at++
	}
	field = r.text[start:r.at]
	if quoted {
		field = unquoted + field
	}
	if r.at == len(r.text) {
		return field, false, nil
	}
	if r.text[r.at] == r.sep {
		r.at++
		return field, true, nil
	}
	r.endLine()
	return field, false, nil
}

// quoted reads from an opening quote over the closing one.
func (r *csvReader) quoted() (string, error) {
	from := r.line
	r.at++
	start := r.at
	var b strings.Builder
	for {
		i := strings.IndexByte(r.text[r.at:], '"')
		if i < 0 {
			return "", fmt.Errorf("line %d: a quote that opens a field is never closed; close it, or double the quotes inside a quoted field", from)
		}
		r.line += lineBreaks(r.text[r.at : r.at+i])
		r.at += i + 1
		if r.at < len(r.text) && r.text[r.at] == '"' {
			b.WriteString(r.text[start:r.at])
			r.at++
			start = r.at
			continue
		}
		b.WriteString(r.text[start : r.at-1])
		return b.String(), nil
	}
}

// lineBreaks counts \n, \r\n and \r.
func lineBreaks(s string) int {
	return strings.Count(s, "\n") + strings.Count(s, "\r") - strings.Count(s, "\r\n")
}

// tableText is the text of a table: UTF-8, with or without its mark.
func tableText(data []byte) (string, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return "", errors.New("UTF-16; save the table as UTF-8")
	case bytes.IndexByte(data[:min(len(data), 4096)], 0) >= 0:
		return "", errors.New("holds NUL bytes, as UTF-16 and binary files do; save the table as UTF-8 text")
	}
	return string(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))), nil
}

// separators are what stands between columns, the usual one of a file first.
func separators(name string) string {
	if strings.EqualFold(path.Ext(name), ".tsv") {
		return "\t,;|"
	}
	return ",\t;|"
}

// tableHead is what the first record says about a table.
type tableHead struct {
	names                 []string
	sep                   byte
	image, caption, label int
	bare                  bool // the first record is no header
}

// headOf finds the separator with which the first record makes sense, and the
// columns it names.
func headOf(name, text string, o Options) (tableHead, error) {
	var best tableHead
	for i, sep := range []byte(separators(name)) {
		names, _, ok, err := newCSVReader(text, sep).next()
		if err != nil {
			return best, err
		}
		if !ok {
			return best, errors.New("empty; want a header line such as path,caption")
		}
		h := tableHead{names: names, sep: sep}
		h.image = column(names, o.ImageColumn, imageNames)
		h.caption = column(names, o.CaptionColumn, captionNames)
		h.label = column(names, o.LabelColumn, labelNames)
		if h.image >= 0 && (h.caption >= 0 || h.label >= 0) {
			return h, h.check(o)
		}
		if o.ImageColumn == "" && len(names) == 2 && hasImageSuffix(strings.TrimSpace(names[0])) {
			h.headless(o)
			return h, nil
		}
		if i == 0 || len(best.names) < 2 && len(names) > 1 {
			best = h
		}
	}
	return best, best.check(o)
}

// headless gives a table without a header its columns: path and label, or path
// and caption.
func (h *tableHead) headless(o Options) {
	h.bare, h.image, h.caption, h.label = true, 0, -1, -1
	if _, number := classNumber(strings.TrimSpace(h.names[1])); number || o.ClassNames != nil {
		h.label = 1
	} else {
		h.caption = 1
	}
}

// check says which column is missing.
func (h tableHead) check(o Options) error {
	switch {
	case h.image < 0:
		return missing("image path", o.ImageColumn, h.names, imageNames)
	case o.CaptionColumn != "" && h.caption < 0:
		return missing("caption", o.CaptionColumn, h.names, captionNames)
	case o.LabelColumn != "" && h.label < 0:
		return missing("label", o.LabelColumn, h.names, labelNames)
	case h.caption < 0 && h.label < 0:
		return missing("caption or label", "", h.names, append(append([]string{}, captionNames...), labelNames...))
	}
	return nil
}

// csvRows reads a table, and the name of its label column, "" when it has none.
// A record with fewer fields than the first lacks the last columns; one with
// more is an error.
func csvRows(st storage, name string, data []byte, o Options) (p part, label string, err error) {
	p.name = name
	text, err := tableText(data)
	if err != nil {
		return p, "", err
	}
	h, err := headOf(name, text, o)
	if err != nil {
		return p, "", err
	}
	r := newCSVReader(text, h.sep)
	if !h.bare {
		r.next()
		if h.label >= 0 {
			label = h.names[h.label]
		}
	}
	beside := newCompanions(h)
	for {
		rec, line, ok, err := r.next()
		if err != nil {
			return p, "", err
		}
		if !ok {
			break
		}
		if len(rec) > len(h.names) {
			return p, "", fmt.Errorf("line %d: %d fields where the first line has %d; quote fields that contain %s", line, len(rec), len(h.names), separatorName(h.sep))
		}
		cell := func(i int) string {
			if i < 0 || i >= len(rec) {
				return ""
			}
			return rec[i]
		}
		out := row{line: line}
		path := strings.TrimSpace(cell(h.image))
		if path == "" {
			return p, "", fmt.Errorf("line %d: no image path", line)
		}
		out.file = file{name: path, path: st.join(st.dir(name), path), size: -1}
		if h.caption >= 0 {
			out.captions, out.bad = cellCaptions(cell(h.caption))
		}
		if h.label >= 0 {
			out.label, out.hasLabel = strings.TrimSpace(cell(h.label)), true
			beside.add(out.label, cell)
		}
		p.rows = append(p.rows, out)
	}
	p.own = beside.list()
	return p, label, nil
}

func separatorName(sep byte) string {
	if sep == '\t' {
		return "a tab"
	}
	return fmt.Sprintf("%q", string(sep))
}

// validText says that a text is UTF-8, and not UTF-16 taken for it.
func validText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
