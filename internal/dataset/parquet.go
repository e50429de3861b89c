package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"

	"github.com/evatool/evatool/internal/fault"
)

// parquetSet reads images that lie in the rows of Parquet files, as the Hugging
// Face datasets do. Captions and labels are in memory, images are read page by
// page.
type parquetSet struct {
	*list // records without a file: key, label, captions
	files []*bytesColumn
	first []int // row at which each file starts
}

// bytesColumn is the image column of one file. The readers of a file take
// turns: a page is decoded once for all its rows.
type bytesColumn struct {
	name   string
	size   int64 // of the file
	groups []parquet.RowGroup
	leaf   int

	mu    sync.Mutex
	group int           // of pages; -1 before the first read
	pages parquet.Pages // nil when they must be opened again
	next  int64         // row of the group that pages returns next
	kept  []keptPage    // the newest last
}

// keptPage holds the values of a page.
type keptPage struct {
	group int
	row   int64 // of the group
	rows  [][]byte
}

// keepPages is how many decoded pages a file keeps, so that readers a few rows
// apart find theirs.
const keepPages = 4

// storageReader is a file of a storage as an io.ReaderAt.
type storageReader struct {
	ctx  context.Context
	st   storage
	name string
	size int64
}

func (r storageReader) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), r.size-off)
	if n <= 0 {
		return 0, io.EOF
	}
	data, err := r.st.read(r.ctx, r.name, off, n)
	if err != nil {
		return 0, err
	}
	copy(p, data)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// parquetWindow is how much of a column is read at a time.
const parquetWindow = 1 << 20

func openParquet(ctx context.Context, st storage, names []string, o Options) (Dataset, error) {
	d := &parquetSet{}
	var rows []row
	paths := false
	for i, name := range names {
		more, images, classes, err := readParquet(ctx, st, name, o)
		if err != nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", name, err))
		}
		if i > 0 && paths != (images == nil) {
			return nil, fault.Inputf("%s: has images as paths where %s has bytes, or the reverse; give one kind", name, names[0])
		}
		paths = images == nil
		if o.ClassNames == nil {
			o.ClassNames = classes
		}
		d.first = append(d.first, len(rows))
		d.files = append(d.files, images)
		rows = append(rows, more...)
	}
	if paths {
		return newTable(ctx, st, "parquet", names[0], rows, o)
	}
	table, err := newTable(ctx, st, "parquet", names[0], rows, Options{ClassNames: o.ClassNames})
	if err != nil {
		return nil, err
	}
	d.list = table.(*list)
	h := newHash(d.identity)
	for _, f := range d.files {
		h.number(f.size)
	}
	d.identity = h.sum()
	return d, nil
}

// readParquet reads everything of a file but image bytes; names are the class
// names that the file carries, or nil. images is nil when
// the table has paths.
func readParquet(ctx context.Context, st storage, name string, o Options) (rows []row, images *bytesColumn, names []string, err error) {
	defer func() {
		// The library reports some damage by panic.
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged Parquet file: %v", p)
		}
	}()
	size, _, err := st.stat(ctx, name)
	if err != nil {
		return nil, nil, nil, err
	}
	f, err := parquet.OpenFile(storageReader{ctx, st, name, size}, size, parquet.ReadBufferSize(parquetWindow), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("not a Parquet file, or cut short: %w", err)
	}
	c, err := findColumns(f.Schema(), o)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := noLZ4(f.Metadata()); err != nil {
		return nil, nil, nil, err
	}
	if c.label >= 0 {
		names = huggingFaceNames(f, f.Schema().Columns()[c.label][0])
	}
	// The rows grow with what is read: the number in the footer may be anything.
	at := func(i int) *row {
		if i == len(rows) {
			rows = append(rows, row{line: i + 1, file: file{name: fmt.Sprintf("%s#%d", name[strings.LastIndexByte(name, '/')+1:], i), path: name, size: -1}})
		}
		return &rows[i]
	}
	if c.caption < 0 && c.label < 0 {
		return nil, nil, nil, missing("caption or label", "", columnNames(f.Schema()), append(slices.Clone(captionNames), labelNames...))
	}
	if c.caption >= 0 {
		err = eachRow(f, c.caption, func(i int, values []parquet.Value) error {
			r := at(i)
			for _, v := range values {
				if !v.IsNull() {
					r.captions = append(r.captions, captionsOf(v.String(), o.CaptionLines)...)
				}
			}
			return nil
		})
	}
	if err == nil && c.label >= 0 {
		err = eachRow(f, c.label, func(i int, values []parquet.Value) error {
			if len(values) != 1 || values[0].IsNull() {
				return fmt.Errorf("row %d: %d labels; want one", i+1, len(values))
			}
			r := at(i)
			r.label, r.hasLabel = values[0].String(), true
			return nil
		})
	}
	if err == nil && c.path >= 0 {
		err = eachRow(f, c.path, func(i int, values []parquet.Value) error {
			if len(values) != 1 || values[0].IsNull() || len(values[0].ByteArray()) == 0 {
				if c.image >= 0 {
					return nil // the path beside the bytes is only a name
				}
				return fmt.Errorf("row %d: no image path", i+1)
			}
			p := values[0].String()
			if c.image < 0 {
				at(i).file.path = st.join(st.dir(name), p)
			}
			at(i).file.name = p
			return nil
		})
	}
	if err != nil || c.image < 0 {
		return rows, nil, names, err
	}
	return rows, &bytesColumn{name: name, size: size, groups: f.RowGroups(), leaf: c.image, group: -1}, names, nil
}

// noLZ4 refuses LZ4: the library gets whole pages of it wrong, and on a damaged
// one it asks for twice the memory until there is none.
func noLZ4(m *format.FileMetaData) error {
	for _, g := range m.RowGroups {
		for _, c := range g.Columns {
			if c.MetaData.Codec == format.Lz4Raw {
				return fmt.Errorf("column %s is compressed with LZ4, which is not read; write the table with snappy, zstd, gzip or brotli", strings.Join(c.MetaData.PathInSchema, "."))
			}
		}
	}
	return nil
}

// huggingFaceNames are the class names that a Hugging Face table says about
// its label column, nil when it does not.
func huggingFaceNames(f *parquet.File, label string) []string {
	text, ok := f.Lookup("huggingface")
	if !ok {
		return nil
	}
	var about struct {
		Info struct {
			Features map[string]json.RawMessage `json:"features"`
		} `json:"info"`
	}
	var feature struct {
		Names []string `json:"names"`
	}
	if json.Unmarshal([]byte(text), &about) != nil || json.Unmarshal(about.Info.Features[label], &feature) != nil {
		return nil
	}
	return feature.Names
}

// columns are leaf numbers, -1 for none.
type columns struct{ image, path, caption, label int }

// findColumns chooses the columns: image is one of bytes, a struct with bytes
// and path (Hugging Face), or one of path strings.
func findColumns(schema *parquet.Schema, o Options) (columns, error) {
	leaves := schema.Columns() // paths of the leaves, in order
	top := columnNames(schema)
	find := func(what, want string, usual []string) (string, error) {
		i := column(top, want, usual)
		if i < 0 {
			if want != "" {
				return "", missing(what, want, top, usual)
			}
			return "", nil
		}
		return top[i], nil
	}
	leaf := func(name string, last ...string) int {
		return slices.IndexFunc(leaves, func(l []string) bool {
			return l[0] == name && (len(last) == 0 || slices.Contains(last, l[len(l)-1]))
		})
	}
	c := columns{-1, -1, -1, -1}
	image, err := find("image", o.ImageColumn, append([]string{"jpg", "png", "webp"}, imageNames...))
	if err != nil {
		return c, err
	}
	caption, err := find("caption", o.CaptionColumn, captionNames)
	if err != nil {
		return c, err
	}
	label, err := find("label", o.LabelColumn, append([]string{"fine_label"}, labelNames...))
	if err != nil {
		return c, err
	}
	if image == "" {
		return c, missing("image", "", top, imageNames)
	}
	if caption != "" {
		c.caption = leaf(caption)
	}
	if label != "" {
		c.label = leaf(label)
	}
	switch i := leaf(image); {
	case len(leaves[i]) > 1 && leaf(image, "bytes", "path") >= 0:
		c.image, c.path = leaf(image, "bytes"), leaf(image, "path")
	case isText(schema, leaves[i]):
		c.path = i
	default:
		c.image = i
	}
	for what, i := range map[string]int{"image": c.image, "image path": c.path, "caption": c.caption, "label": c.label} {
		if i < 0 {
			continue
		}
		l, _ := schema.Lookup(leaves[i]...)
		if what != "caption" && l.MaxRepetitionLevel > 0 {
			return c, fmt.Errorf("column %s: a list for each row; want one %s", strings.Join(leaves[i], "."), what)
		}
		if kind := l.Node.Type().Kind(); strings.HasPrefix(what, "image") && kind != parquet.ByteArray {
			return c, fmt.Errorf("column %s: type %s; want bytes or a path", strings.Join(leaves[i], "."), l.Node.Type())
		}
	}
	if c.image < 0 && c.path < 0 {
		return c, fmt.Errorf("column %s: has neither bytes nor path", image)
	}
	return c, nil
}

// columnNames are the names of the columns at the top.
func columnNames(schema *parquet.Schema) []string {
	var names []string
	for _, leaf := range schema.Columns() {
		if !slices.Contains(names, leaf[0]) {
			names = append(names, leaf[0])
		}
	}
	return names
}

// isText reports that a column holds strings.
func isText(schema *parquet.Schema, path []string) bool {
	l, ok := schema.Lookup(path...)
	if !ok {
		return false
	}
	t := l.Node.Type()
	if logical := t.LogicalType(); logical != nil {
		_, text := logical.Value.(*format.StringType)
		return text
	}
	converted := t.ConvertedType()
	return converted != nil && *converted == deprecated.UTF8
}

// eachRow calls f with the values of a column in each row of a file.
func eachRow(file *parquet.File, leaf int, f func(i int, values []parquet.Value) error) error {
	i := 0
	for _, g := range file.RowGroups() {
		err := func() error {
			pages := g.ColumnChunks()[leaf].Pages()
			defer pages.Close()
			var row []parquet.Value
			started := false
			for {
				page, err := pages.ReadPage()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
				values, err := valuesOf(page)
				if err != nil {
					return err
				}
				for _, v := range values {
					if v.RepetitionLevel() == 0 && started {
						if err := f(i, row); err != nil {
							return err
						}
						i++
						row = row[:0]
					}
					started = true
					row = append(row, v)
				}
			}
			if !started {
				return nil
			}
			err := f(i, row)
			i++
			return err
		}()
		if err != nil {
			return err
		}
	}
	if int64(i) != file.NumRows() {
		return fmt.Errorf("column %d has %d rows, the file %d", leaf, i, file.NumRows())
	}
	return nil
}

// maxPageValues bounds a page: a number in its header could be anything.
const maxPageValues = 1 << 24

// valuesOf copies the values out of a page and lets go of it.
func valuesOf(page parquet.Page) ([]parquet.Value, error) {
	defer parquet.Release(page)
	if page.NumValues() > maxPageValues {
		return nil, fmt.Errorf("a page says it has %d values; at most %d are read", page.NumValues(), maxPageValues)
	}
	values := make([]parquet.Value, page.NumValues())
	n, err := page.Values().ReadValues(values)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	values = values[:n]
	for i := range values {
		values[i] = values[i].Clone()
	}
	return values, nil
}

func (d *parquetSet) Read(i int) (Example, error) {
	r := d.records[i]
	f := max(0, sortSearch(d.first, i))
	ex := Example{Index: i, Key: r.key, Path: d.files[f].name + "/" + r.key, Label: r.label, Captions: r.captions}
	var err error
	ex.Image, err = d.files[f].read(int64(i - d.first[f]))
	if err != nil {
		return ex, fault.As(fault.Input, fmt.Errorf("%s: row %d: %w", d.files[f].name, i-d.first[f]+1, err))
	}
	return ex, nil
}

// sortSearch is the last place of first that is at most i.
func sortSearch(first []int, i int) int {
	at, found := slices.BinarySearch(first, i)
	if !found {
		at--
	}
	return at
}

func (c *bytesColumn) read(row int64) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged Parquet file: %v", p)
		}
	}()
	group := 0
	for row >= c.groups[group].NumRows() {
		row -= c.groups[group].NumRows()
		group++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	whole := false
	defer func() {
		if !whole && c.pages != nil { // where it stopped is not known: begin anew
			c.pages.Close()
			c.pages = nil
		}
	}()
	for i := len(c.kept) - 1; i >= 0; i-- {
		if k := c.kept[i]; k.group == group && row >= k.row && row < k.row+int64(len(k.rows)) {
			whole = true
			return k.rows[row-k.row], nil
		}
	}
	if err := c.seek(group, row); err != nil {
		return nil, err
	}
	for {
		page, err := c.pages.ReadPage()
		if err != nil {
			return nil, err
		}
		values, err := valuesOf(page)
		if err != nil {
			return nil, err
		}
		k := keptPage{group, c.next, make([][]byte, len(values))}
		for i, v := range values {
			k.rows[i] = v.ByteArray()
		}
		c.next += int64(len(values))
		if len(c.kept) == keepPages {
			c.kept = slices.Delete(c.kept, 0, 1)
		}
		c.kept = append(c.kept, k)
		if row < c.next {
			whole = true
			return k.rows[row-k.row], nil
		}
	}
}

// seek makes pages return a page at or before row; going on forwards in the
// same group is free.
func (c *bytesColumn) seek(group int, row int64) error {
	const near = 256 // rows that are cheaper to read over than to seek to
	if c.pages != nil && c.group == group && row >= c.next && row-c.next < near {
		return nil
	}
	if c.pages != nil && c.group != group {
		c.pages.Close()
		c.pages = nil
	}
	if c.pages == nil {
		c.pages, c.group = c.groups[group].ColumnChunks()[c.leaf].Pages(), group
	}
	c.next = row
	return c.pages.SeekToRow(row)
}

func (d *parquetSet) Close() error {
	for _, f := range d.files {
		if f.pages != nil {
			f.pages.Close()
		}
	}
	return nil
}
