package dataset

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
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
	var rows []row
	for _, name := range tables {
		data, err := readAll(ctx, st, name, "a CSV or TSV table")
		if err != nil {
			return nil, err
		}
		more, err := csvRows(st, name, data, o)
		if err != nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", name, err))
		}
		rows = append(rows, more...)
	}
	return newTable(ctx, st, "csv", tables[0], rows, o)
}

// separator guesses what stands between columns from the first line.
func separator(name string, data []byte) rune {
	first, _, _ := bytes.Cut(data, []byte("\n"))
	if ext := path.Ext(name); ext == ".tsv" || !bytes.ContainsRune(first, ',') && bytes.ContainsRune(first, '\t') {
		return '\t'
	}
	return ','
}

func csvRows(st storage, name string, data []byte, o Options) ([]row, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	r := csv.NewReader(bytes.NewReader(data))
	r.Comma = separator(name, data)
	r.LazyQuotes = r.Comma == '\t'
	r.ReuseRecord = true
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("empty; want a header line such as path,caption")
	}
	if err != nil {
		return nil, err
	}
	header = slices.Clone(header)
	image := column(header, o.ImageColumn, imageNames)
	caption := column(header, o.CaptionColumn, captionNames)
	label := column(header, o.LabelColumn, labelNames)
	var rows []row
	add := func(rec []string) error {
		n, _ := r.FieldPos(0)
		out := row{line: n}
		p := strings.TrimSpace(rec[image])
		if p == "" {
			return fmt.Errorf("line %d: no image path", n)
		}
		out.file = file{name: p, path: st.join(st.dir(name), p), size: -1}
		if caption >= 0 {
			out.captions = cellCaptions(rec[caption], o.CaptionLines)
		}
		if label >= 0 {
			out.label, out.hasLabel = strings.TrimSpace(rec[label]), true
		}
		rows = append(rows, out)
		return nil
	}
	switch {
	case image < 0 && o.ImageColumn == "" && len(header) == 2 && hasImageSuffix(header[0]):
		// No header: path and label, or path and caption.
		image = 0
		if _, err := strconv.Atoi(strings.TrimSpace(header[1])); err == nil || o.ClassNames != nil {
			label = 1
		} else {
			caption = 1
		}
		if err := add(header); err != nil {
			return nil, err
		}
	case image < 0:
		return nil, missing("image path", o.ImageColumn, header, imageNames)
	case o.CaptionColumn != "" && caption < 0:
		return nil, missing("caption", o.CaptionColumn, header, captionNames)
	case o.LabelColumn != "" && label < 0:
		return nil, missing("label", o.LabelColumn, header, labelNames)
	case caption < 0 && label < 0:
		return nil, missing("caption or label", "", header, append(slices.Clone(captionNames), labelNames...))
	}
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		if err := add(rec); err != nil {
			return nil, err
		}
	}
}

// cellCaptions are the captions in a cell: one, or a JSON list as the Hugging
// Face tables of Flickr30k have it.
func cellCaptions(cell string, lines bool) []string {
	var many []string
	if strings.HasPrefix(cell, "[\"") && json.Unmarshal([]byte(cell), &many) == nil {
		var out []string
		for _, s := range many {
			out = append(out, captionsOf(s, false)...)
		}
		return out
	}
	return captionsOf(cell, lines)
}

func missing(what, want string, header, usual []string) error {
	if want != "" {
		return fault.Inputf("no %s column %q; the columns are %s", what, want, strings.Join(header, ", "))
	}
	return fault.Inputf("no %s column; the columns are %s; name it, or rename it to %s", what, strings.Join(header, ", "), usual[0])
}

// newTable gives rows their labels and, with GroupCaptions, joins the rows of
// one image.
func newTable(ctx context.Context, st storage, what, where string, rows []row, o Options) (Dataset, error) {
	if len(rows) == 0 {
		return nil, fault.Inputf("%s: no rows", where)
	}
	l := newLabels(o.ClassNames)
	if l.names == nil {
		l = newLabels(namesOf(rows))
	}
	byImage := map[string]int{}
	records := make([]record, 0, len(rows))
	for _, r := range rows {
		label := -1
		if r.hasLabel {
			var err error
			if label, err = l.of(r.label); err != nil {
				return nil, fault.Inputf("%s: line %d: %s: %w", where, r.line, r.file.name, err)
			}
		}
		if o.GroupCaptions {
			if i, ok := byImage[r.file.path]; ok {
				records[i].captions = append(records[i].captions, r.captions...)
				continue
			}
			byImage[r.file.path] = len(records)
		}
		records = append(records, record{file: r.file, key: r.file.name, label: label, captions: r.captions})
	}
	return newList(ctx, st, what, records, l.names), nil
}

// namesOf are the sorted class names in the label column, or nil when it holds
// numbers.
func namesOf(rows []row) []string {
	numeric := true
	seen := map[string]bool{}
	for _, r := range rows {
		if r.hasLabel && r.label != "" && !seen[r.label] {
			seen[r.label] = true
			_, err := strconv.Atoi(r.label)
			numeric = numeric && err == nil
		}
	}
	if numeric {
		return nil
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
