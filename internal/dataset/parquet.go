package dataset

import (
	"cmp"
	"context"
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
	*list // records whose file is only where the path says
	files []*bytesColumn
}

// bytesColumn is the image column of one file. The readers of a file take
// turns: a page is decoded once for all its rows.
type bytesColumn struct {
	f      *parquetFile
	groups []parquet.RowGroup
	leaf   int

	mu    sync.Mutex
	group int        // of chunk
	chunk *chunk     // nil before the first read
	pages *openPages // nil when they must be opened again
	next  int        // page that pages returns next
	kept  []keptPage // the newest last
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

// parquetWindow is how much of a column is read at a time.
const parquetWindow = 1 << 20

func openParquet(ctx context.Context, st storage, names []string, o Options) (Dataset, error) {
	d := &parquetSet{}
	var parts []part
	paths := false
	near := map[string]nameList{} // by folder
	for i, name := range names {
		p, images, label, err := readParquet(ctx, st, name, o)
		if dir := st.dir(name); err == nil && label != "" && len(p.own.names) == 0 {
			own, known := near[dir]
			if !known {
				own, err = namesNear(ctx, st, dir, false, label)
				near[dir] = own
			}
			p.own = own
		}
		if err != nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", fault.Name(name), err))
		}
		if i > 0 && paths != (images == nil) {
			return nil, fault.Inputf("%s: has images as paths where %s has bytes, or the reverse; give one kind", fault.Name(name), fault.Name(names[0]))
		}
		paths = images == nil
		d.files = append(d.files, images)
		parts = append(parts, p)
	}
	if !paths {
		o.GroupCaptions = false // bytes have no name
	}
	table, err := newTable(ctx, st, "parquet", parts, o)
	if err != nil || paths {
		return table, err
	}
	d.list = table
	h := newHash(d.identity)
	for _, f := range d.files {
		h.number(f.f.size)
	}
	d.identity = h.sum()
	return d, nil
}

// readParquet reads everything in a file but image bytes; label is the name of
// the label column. images is nil when the table has paths.
func readParquet(ctx context.Context, st storage, name string, o Options) (p part, images *bytesColumn, label string, err error) {
	defer func() {
		// The library reports some damage by panicking.
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged Parquet file: %v", p)
		}
	}()
	p.name = name
	size, _, err := st.stat(ctx, name)
	if err != nil {
		return p, nil, "", err
	}
	f, err := openParquetFile(ctx, st, name, size)
	if err != nil {
		return p, nil, "", err
	}
	c, err := findColumns(f.Schema(), o)
	if err != nil {
		return p, nil, "", err
	}
	if c.caption < 0 && c.label < 0 {
		return p, nil, "", missing("caption or label", "", columnNames(f.Schema()), append(slices.Clone(captionNames), labelNames...))
	}
	if c.label >= 0 {
		label = f.Schema().Columns()[c.label][0]
		if entry, ok := f.Lookup("huggingface"); ok {
			if p.own.names, err = parquetNames(entry, label); err != nil {
				return p, nil, "", err
			}
		}
	}
	if p.rows, err = parquetRows(f, st, name, c); err != nil {
		return p, nil, "", err
	}
	if len(p.own.names) == 0 && c.label >= 0 {
		if p.own, err = parquetCompanions(f, c, p.rows); err != nil {
			return p, nil, "", err
		}
	}
	if c.image >= 0 {
		images = &bytesColumn{f: f, groups: f.RowGroups(), leaf: c.image}
	}
	return p, images, label, nil
}

// parquetRows reads captions, labels and paths.
func parquetRows(f *parquetFile, st storage, name string, c columns) ([]row, error) {
	var rows []row
	base := name[strings.LastIndexByte(name, '/')+1:]
	// The rows grow with what is read: the number in the footer may be anything.
	at := func(i int) *row {
		if i == len(rows) {
			rows = append(rows, row{line: i + 1, file: file{name: fmt.Sprintf("%s#%d", base, i), path: name, size: -1}})
		}
		return &rows[i]
	}
	var err error
	if c.caption >= 0 {
		err = eachRow(f, c.caption, func(i int, values []parquet.Value) error {
			r := at(i)
			for _, v := range values {
				if v.IsNull() {
					continue
				}
				more, bad := cellCaptions(v.String())
				r.captions, r.bad = append(r.captions, more...), cmp.Or(r.bad, bad)
			}
			return nil
		})
	}
	if err == nil && c.label >= 0 {
		err = eachRow(f, c.label, func(i int, values []parquet.Value) error {
			r := at(i)
			r.hasLabel = true
			number := values[0].Kind() == parquet.Float || values[0].Kind() == parquet.Double
			if s := values[0].String(); !values[0].IsNull() && !(number && s == "NaN") { // which stands for null
				r.label = s
			}
			return nil
		})
	}
	if err == nil && c.path >= 0 {
		err = eachRow(f, c.path, func(i int, values []parquet.Value) error {
			if values[0].IsNull() || len(values[0].ByteArray()) == 0 {
				if c.image >= 0 {
					return nil // the bytes are what counts
				}
				return fmt.Errorf("row %d: no image path", i+1)
			}
			r, p := at(i), values[0].String()
			r.file.path, r.file.name = st.join(st.dir(name), p), p
			return nil
		})
	}
	return rows, err
}

// parquetCompanions are the names of label numbers in a column beside them.
func parquetCompanions(f *parquetFile, c columns, rows []row) (nameList, error) {
	schema := f.Schema()
	leaves := schema.Columns()
	head := tableHead{image: -1, caption: -1, label: c.label}
	for _, l := range leaves {
		name := ""
		if leaf, ok := schema.Lookup(l...); ok && len(l) == 1 && leaf.MaxRepetitionLevel == 0 && isText(schema, l) {
			name = l[0]
		}
		head.names = append(head.names, name)
	}
	beside := newCompanions(head)
	for len(beside.columns) > 0 { // the best one that names them all
		one := &companions{numbers: true, columns: beside.columns[:1]}
		err := eachRow(f, one.columns[0].column, func(i int, values []parquet.Value) error {
			if i < len(rows) && rows[i].hasLabel {
				one.add(rows[i].label, func(int) string { return values[0].String() })
			}
			return nil
		})
		if err != nil {
			return nameList{}, err
		}
		if names := one.list(); len(names.names) > 0 || !one.numbers {
			return names, nil
		}
		beside.columns = beside.columns[1:]
	}
	return nameList{}, nil
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
	var noCaption, noLabel error
	if caption != "" {
		c.caption, noCaption = oneValue(schema, leaf(caption))
	}
	if label != "" {
		c.label, noLabel = oneValue(schema, leaf(label))
	}
	switch { // what nobody asked for may be anything
	case noCaption != nil && (o.CaptionColumn != "" || c.label < 0):
		return c, noCaption
	case noLabel != nil && (o.LabelColumn != "" || c.caption < 0):
		return c, noLabel
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
			return c, fmt.Errorf("column %s: holds a list per row; want one %s", strings.Join(leaves[i], "."), what)
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

// oneValue is a leaf whose values are a text or a number each; -1 with the reason for
// one of several parts, or of numbers that are not what is stored.
func oneValue(schema *parquet.Schema, leaf int) (int, error) {
	leaves := schema.Columns()
	name := leaves[leaf][0]
	var parts []string
	for _, l := range leaves {
		if l[0] == name {
			parts = append(parts, fault.Name(brief(l[len(l)-1])))
		}
	}
	if len(parts) > 1 {
		return -1, fmt.Errorf("column %s: has the fields %s; want one text or number, or a list of texts", fault.Name(name), strings.Join(parts, ", "))
	}
	l, _ := schema.Lookup(leaves[leaf]...)
	t := l.Node.Type()
	if logical := t.LogicalType(); logical != nil {
		d, ok := logical.Value.(*format.DecimalType)
		if ok && (d.Scale != 0 || t.Kind() != parquet.Int32 && t.Kind() != parquet.Int64) {
			return -1, fmt.Errorf("column %s: type %s; write it as whole numbers or as text", fault.Name(name), t)
		}
	}
	return leaf, nil
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
func eachRow(file *parquetFile, leaf int, f func(i int, values []parquet.Value) error) error {
	i := 0
	unpacked, limit := int64(0), unpackRatio*file.size+4*spareBytes
	for group := range file.RowGroups() {
		err := func() error {
			c := file.chunk(group, leaf)
			pages := c.open(0)
			defer pages.Close()
			var row []parquet.Value
			started := false
			for {
				page, err := pages.read()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
				if unpacked += page.Size(); unpacked > limit {
					return fmt.Errorf("%s: unpacks to more than %d bytes, in a file of %d", c.what, limit, file.size)
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
		return fmt.Errorf("column %d has %d rows, but the file has %d", leaf, i, file.NumRows())
	}
	return nil
}

// maxPageValues bounds a page: a number in its header could be anything.
const maxPageValues = 1 << 24

// valuesOf copies the values out of a page and releases it.
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
	c := d.files[r.part]
	ex := d.example(i)
	ex.Path = c.f.name + "/" + r.key
	if r.bad != nil {
		return ex, fault.Inputf("%s: row %d: %w", fault.Name(c.f.name), r.row+1, r.bad)
	}
	var err error
	ex.Image, err = c.read(int64(r.row))
	switch {
	case err != nil:
		return ex, lost(c.f.name, fault.As(fault.Input, fmt.Errorf("%s: row %d: %w", fault.Name(c.f.name), r.row+1, err)))
	case ex.Image != nil:
		return ex, nil
	case r.file.path == c.f.name: // no path either
		return ex, fault.Inputf("%s: row %d: no image: its bytes are null", fault.Name(c.f.name), r.row+1)
	}
	// Hugging Face's Image without its bytes: the file lies where the path says.
	ex.Path, ex.Image, err = readImage(d.ctx, d.st, r.file, r.file.path)
	return ex, err
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
		if !whole && c.pages != nil { // where it stopped is unknown: start over
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
	if c.chunk == nil || c.group != group {
		c.close()
		c.chunk, c.group = c.f.chunk(group, c.leaf), group
	}
	i, err := c.chunk.pageOf(row)
	if err != nil {
		return nil, err
	}
	if c.pages == nil || c.next != i {
		c.close()
		c.pages = c.chunk.open(i)
	}
	c.next = i + 1
	page, err := c.pages.read()
	if err != nil {
		c.close()
		return nil, err
	}
	c.chunk.trim()
	values, err := valuesOf(page)
	if err != nil {
		return nil, err
	}
	k := keptPage{group, c.chunk.pages[i].row, make([][]byte, len(values))}
	for i, v := range values {
		if k.rows[i] = v.ByteArray(); k.rows[i] == nil && !v.IsNull() {
			k.rows[i] = []byte{} // nil is null
		}
	}
	if len(c.kept) == keepPages {
		c.kept = slices.Delete(c.kept, 0, 1)
	}
	c.kept = append(c.kept, k)
	if row-k.row >= int64(len(k.rows)) {
		return nil, fmt.Errorf("damaged Parquet file: a page has %d rows and says that it has more", len(k.rows))
	}
	return k.rows[row-k.row], nil
}

// close lets go of the library's reader.
func (c *bytesColumn) close() {
	if c.pages != nil {
		c.pages.Close()
		c.pages = nil
	}
}

func (d *parquetSet) Close() error {
	for _, f := range d.files {
		f.close()
	}
	return nil
}
