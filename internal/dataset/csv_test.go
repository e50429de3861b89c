package dataset

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// tableCase is a table and what pandas makes of it.
type tableCase struct {
	Name, Sep, Data, Error string
	Header                 []string
	Rows                   [][]string
}

func tableCases(t testing.TB) (cases []tableCase) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/tables/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// readTable reads all records, those after the first as long as it.
func readTable(data []byte, sep byte) (header []string, rows [][]string, err error) {
	text, err := tableText(data)
	if err != nil {
		return nil, nil, err
	}
	r := newCSVReader(text, sep)
	for {
		rec, _, ok, err := r.next()
		if err != nil || !ok {
			return header, rows, err
		}
		if header == nil {
			header = rec
			continue
		}
		if len(rec) > len(header) {
			return nil, nil, fmt.Errorf("%d fields", len(rec))
		}
		rows = append(rows, append(rec, make([]string, len(header)-len(rec))...))
	}
}

func TestTablesAsPandas(t *testing.T) {
	for _, c := range tableCases(t) {
		data, err := hex.DecodeString(c.Data)
		if err != nil {
			t.Fatal(err)
		}
		header, rows, err := readTable(data, c.Sep[0])
		switch {
		case c.Name == "utf-8 broken": // its row is a bad sample, the others are not
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		case c.Error != "":
			if err == nil {
				t.Errorf("%s: %q is read as %q; pandas: %s", c.Name, data, rows, c.Error)
			}
		case err != nil:
			t.Errorf("%s: %q: %v; pandas reads %q", c.Name, data, err, c.Rows)
		case !slices.Equal(header, c.Header) || !slices.EqualFunc(rows, c.Rows, slices.Equal[[]string]):
			t.Errorf("%s: %q is read as %q %q; pandas %q %q", c.Name, data, header, rows, c.Header, c.Rows)
		}
	}
}

// The separator is found; what is wrong is said with its line.
func TestTableHeads(t *testing.T) {
	for _, tt := range []struct {
		name, table string
		options     Options
		want        string // captions or labels of the rows, or a part of the error
	}{
		{"t.csv", "path;caption\na.jpg;one, two\n", Options{}, "one, two"},
		{"t.csv", "path|caption\na.jpg|one; two\n", Options{}, "one; two"},
		{"t.csv", "path\tcaption\na.jpg\tone\n", Options{}, "one"},
		{"t.tsv", "path,caption\na.jpg,one\n", Options{}, "one"},
		{"t.tsv", "path\ttitle, long\tcaption\na.jpg\tx\tone\n", Options{}, "one"},
		{"t.csv", "a.jpg;3\nb.jpg;4\n", Options{}, "3|4"},
		{"t.csv", "where;what\na.jpg;one\n", Options{ImageColumn: "where", CaptionColumn: "what"}, "one"},
		{"T.TSV", "path\tcaption\na.jpg\ta, b\n", Options{}, "a, b"},
		{"t.csv", "url;text\nx;y\n", Options{}, "no image path column; the columns are url, text;"},
		{"t.csv", "path;caption\na.jpg;x;y\n", Options{}, `line 2: 3 fields where the first line has 2; quote fields that contain ";"`},
		{"t.tsv", "path\tcaption\n\n\na.jpg\tx\ty\n", Options{}, "line 4: 3 fields where the first line has 2; quote fields that contain a tab"},
		{"t.csv", "path,caption\na.jpg,\"two\nlines\"\nb.jpg,\"x\n", Options{}, "line 4: a quote that opens a field is never closed"},
		{"t.csv", "path,caption\n,x\n", Options{}, "line 2: no image path"},
		{"t.csv", "path,label\na.jpg\n", Options{ClassNames: []string{"a"}}, "line 2: a.jpg: the label is null or empty"},
		{"t.csv", "\xff\xfep\x00a\x00", Options{}, "UTF-16"},
		{"t.csv", "p\x00a\x00t\x00h\x00", Options{}, "NUL bytes"},
		{"t.csv", "\n \n", Options{}, "empty"},
		{"t.csv", "a\x1b[31m,b\u202ec\n1,2\n", Options{}, `the columns are "a\x1b[31m", "b\u202ec";`},
	} {
		dir := t.TempDir()
		d, err := Open(context.Background(), write(t, filepath.Join(dir, tt.name), tt.table), tt.options)
		var got []string
		for i := 0; err == nil && i < d.Len(); i++ {
			r := d.(*list).records[i]
			if r.captions == nil {
				got = append(got, fmt.Sprint(r.label))
			}
			got = append(got, r.captions...)
		}
		if err == nil && strings.Join(got, "|") != tt.want || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %q: %q, %v; want %q", tt.name, tt.table, got, err, tt.want)
		}
	}
}

// FuzzTable: no table makes the reader panic, reach beyond its text, or give
// more than it read.
func FuzzTable(f *testing.F) {
	for _, c := range tableCases(f)[:60] {
		data, _ := hex.DecodeString(c.Data)
		f.Add(data)
	}
	f.Add([]byte("path,label,class_name\na.jpg,1,cat\nb.jpg,99999999999,dog\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, sep := range []byte(",\t") {
			header, rows, err := readTable(data, sep)
			if err != nil {
				continue
			}
			n := len(header)
			for _, r := range rows {
				n += len(r)
			}
			if n > len(data)*max(1, len(header))+1 {
				t.Fatalf("%d fields of %d bytes", n, len(data))
			}
		}
		for _, o := range []Options{{}, {ClassNames: []string{"cat", "dog"}}} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p, _, err := csvRows(disk{}, "t.csv", data, o)
			if err == nil {
				newTable(context.Background(), disk{}, "csv", []part{p}, o)
			}
			runtime.ReadMemStats(&after)
			// The tables of known class names, some megabytes, are made once.
			if got, most := after.TotalAlloc-before.TotalAlloc, uint64(16<<20+2000*len(data)); got > most {
				t.Errorf("%d bytes for a table of %d; at most %d", got, len(data), most)
			}
		}
	})
}
