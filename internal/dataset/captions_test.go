package dataset

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// A caption with a line break is one caption in CSV and Parquet, whatever the
// set is read for; only .txt files hold several.
func TestLineBreaksInCaptions(t *testing.T) {
	dir := t.TempDir()
	type line struct {
		Path    string `parquet:"path"`
		Caption string `parquet:"caption"`
	}
	type lists struct {
		Path    string   `parquet:"path"`
		Caption []string `parquet:"caption,list"`
	}
	table, rows, many := "path,caption\n", []line{}, []lists{}
	for i := range 10 {
		name, text := fmt.Sprintf("%d.jpg", i), fmt.Sprintf("first %d\nsecond %d", i, i)
		write(t, filepath.Join(dir, name), "x")
		table += fmt.Sprintf("%s,%q\n", name, "@")
		table = strings.ReplaceAll(table, "@", text)
		rows = append(rows, line{name, text})
		many = append(many, lists{name, []string{text, "third"}})
	}
	for src, each := range map[string]int{
		write(t, filepath.Join(dir, "t.csv"), table):                                1,
		write(t, filepath.Join(dir, "t.tsv"), strings.ReplaceAll(table, ",", "\t")): 1,
		writeParquet(t, filepath.Join(dir, "t.parquet"), rows, 4):                   1,
		writeParquet(t, filepath.Join(dir, "l.parquet"), many, 4):                   2,
	} {
		for _, o := range []Options{{}, {CaptionLines: true, GroupCaptions: true}} {
			d, err := Open(context.Background(), src, o)
			if err != nil {
				t.Fatal(err)
			}
			for i := range d.Len() {
				ex, err := d.Read(i)
				want := []string{fmt.Sprintf("first %d second %d", i, i), "third"}[:each]
				if err != nil || !slices.Equal(ex.Captions, want) {
					t.Errorf("%s: %q, %v; want %q", filepath.Base(src), ex.Captions, err, want)
				}
			}
		}
	}
}

// Captions in another encoding are no captions, whatever holds them.
func TestCaptionEncodings(t *testing.T) {
	type line struct {
		Image   []byte `parquet:"image"`
		Caption string `parquet:"caption"`
	}
	for name, c := range map[string]struct{ text, want string }{
		"utf-16":         {"\xff\xfea\x00 \x00c\x00a\x00t\x00", "UTF-16"},
		"utf-16 big":     {"\xfe\xff\x00a\x00 \x00c", "UTF-16"},
		"utf-16 no mark": {"a\x00 \x00c\x00a\x00t\x00", "NUL"},
		"shift-jis":      {"\x94\x4c\x82\xaa\x8d\xc0\x82\xc1", "not UTF-8: byte 0x94 at position 0"},
		"latin-1":        {"caf\xe9 au lait", "not UTF-8: byte 0xe9 at position 3"},
		"cut":            {"caf\xc3", "not UTF-8"},
		"surrogate":      {"a\xed\xa0\xbd", "not UTF-8"},
		"good":           {"猫が座っている", ""},
		"good with mark": {"\ufeffa cat", ""},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a.jpg"), "x")
		sources := []string{
			writeTar(t, filepath.Join(dir, "t.tar"), []entry{{"a.jpg", "x"}, {"a.txt", c.text}, {"b.jpg", "x"}, {"b.txt", "fine"}}),
			writeTar(t, filepath.Join(dir, "j.tar"), []entry{{"a.jpg", "x"}, {"a.json", `{"caption": "` + strings.ReplaceAll(c.text, "\x00", `\u0000`) + `"}`}, {"b.jpg", "x"}, {"b.txt", "fine"}}),
			writeParquet(t, filepath.Join(dir, "t.parquet"), []line{{[]byte("x"), c.text}, {[]byte("x"), "fine"}}, 2),
		}
		if !strings.Contains(c.text, "\x00") { // a table of UTF-16 is refused as a whole
			sources = append(sources, write(t, filepath.Join(dir, "t.csv"), "path,caption\na.jpg,\""+c.text+"\"\na.jpg,fine\n"))
		}
		for _, src := range sources {
			for _, o := range []Options{{}, {CaptionLines: true}} {
				d, err := Open(context.Background(), src, o)
				if err != nil {
					t.Errorf("%s %s: %v", name, filepath.Base(src), err)
					continue
				}
				ex, err := d.Read(0)
				want := c.want
				if filepath.Base(src) == "j.tar" && want != "" && want != "NUL" {
					want = "not UTF-8"
				}
				switch {
				case want == "" && (err != nil || len(ex.Captions) != 1 || ex.Captions[0] != strings.TrimPrefix(c.text, "\ufeff")):
					t.Errorf("%s %s: %q, %v", name, filepath.Base(src), ex.Captions, err)
				case want != "" && (err == nil || !strings.Contains(err.Error(), want) || fault.Code(err) != int(fault.Input)):
					t.Errorf("%s %s: %q, %v; want an error about %s", name, filepath.Base(src), ex.Captions, err, want)
				}
				if ex, err := d.Read(1); err != nil || !slices.Equal(ex.Captions, []string{"fine"}) {
					t.Errorf("%s %s: the next: %q, %v", name, filepath.Base(src), ex.Captions, err)
				}
			}
		}
	}
}

func TestListCells(t *testing.T) {
	for cell, want := range map[string][]string{
		`["one", "two, three"]`:                 {"one", "two, three"},
		`['one', 'two']`:                        {"one", "two"},
		`['it is', "it's"]`:                     {"it is", "it's"},
		`['a \'b\' c', 'd\n\\e', '\xe9\u732b']`: {"a 'b' c", "d\n\\e", "é猫"},
		"['one' 'two'\n 'three']":               {"one", "two", "three"},
		`["it's" 'two']`:                        {"it's", "two"},
		`["one"`:                                nil,
		`['one', 'two`:                          nil,
		`['one'] and ['two']`:                   nil,
		`[sic] 'x'`:                             nil,
		`['unended \']`:                         nil,
	} {
		got, ok := listCell(cell)
		if ok != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("listCell(%s) = %q, %v; want %q", cell, got, ok, want)
		}
	}
}

// WebDataset ends a key at the first dot and reads what follows each other.
func TestWebDatasetKeys(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []entry
		want    string // key label caption, or a part of the error or hint
	}{
		{"plain", []entry{{"d.v1/a.jpg", "x"}, {"d.v1/a.txt", "cat"}, {"d.v1/a.cls", "1"}}, "d.v1/a 1 cat"},
		{"dots in all names", []entry{{"a.b.jpg", "x"}, {"a.b.txt", "cat"}, {"a.b.cls", "1"}}, `a.b.txt is the "b.txt" of the key a`},
		{"dot in the label's name", []entry{{"a.jpg", "x"}, {"a.txt", "cat"}, {"a.7.cls", "1"}}, `a.7.cls is the "7.cls" of the key a`},
		{"several pictures under a key", []entry{{"a.1.jpg", "x"}, {"a.1.txt", "cat"}, {"a.2.jpg", "y"}, {"a.2.txt", "dog"}}, "several images (1.jpg, 2.jpg)"},
		{"a mask beside the picture", []entry{{"a.seg.png", "x"}, {"a.jpg", "y"}, {"a.cls", "1"}}, "a 1 "},
		{"sorted by kind", []entry{{"a.jpg", "x"}, {"b.jpg", "x"}, {"a.txt", "cat"}, {"b.txt", "dog"}}, "the members of the key a are not adjacent: a.jpg is at offset 0, a.txt at offset 2048"},
		{"sorted by kind in folders", []entry{{"n01/a.jpg", "x"}, {"n01/b.jpg", "x"}, {"n01/a.json", `{"caption": "x"}`}, {"n01/b.json", "{}"}}, "the members of the key n01/a are not adjacent"},
		{"labels at the end", []entry{{"a.jpg", "x"}, {"a.txt", "cat"}, {"b.jpg", "x"}, {"b.txt", "dog"}, {"a.cls", "1"}}, "a.cls at offset 4096"},
		{"captions first", []entry{{"a.txt", "cat"}, {"b.txt", "dog"}, {"a.jpg", "x"}, {"b.jpg", "x"}}, "a.txt is at offset 0, a.jpg at offset 2048"},
		{"underscores", []entry{{"__1.jpg", "x"}, {"__1.cls", "4"}}, "__1 4 "},
		{"a .caption after the .txt", []entry{{"a.jpg", "x"}, {"a.txt", "cat"}, {"a.caption", "dog"}}, "a -1 cat"},
		{"a .caption before the .txt", []entry{{"a.caption", "dog"}, {"a.jpg", "x"}, {"a.txt", "cat"}}, "a -1 cat"},
		{"a mark before the .json", []entry{{"a.jpg", "x"}, {"a.json", "\ufeff{\"caption\": \"cat\"}"}}, "a -1 cat"},
		{"its own files", []entry{{"__meta__/a.txt", "x"}, {"a.jpg", "x"}, {"a.cls", "4"}, {"__last__", "x"}}, "a 4 "},
	} {
		d, err := Open(context.Background(), writeTar(t, filepath.Join(t.TempDir(), "x.tar"), tt.entries), Options{})
		got := ""
		if err == nil {
			var ex Example
			ex, err = d.Read(0)
			got = fmt.Sprintf("%s %d %s", ex.Key, ex.Label, strings.Join(ex.Captions, "|")) + "@" + ex.Hint
		}
		said := got
		if err != nil {
			said = err.Error()
		}
		if !strings.HasPrefix(got, tt.want+"@") && !strings.Contains(said, tt.want) {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

// A size near 2^63 overflows where it is added to an offset.
func TestHugeMembers(t *testing.T) {
	data := tarBytes(t, []entry{{"a.jpg", "image"}, {"a.txt", "caption"}})
	for _, size := range []string{"9223372036854775807", "9223372036854775296", "9223372036854774272"} {
		record := " size=" + size + "\n"
		n := len(record) + 2
		pax := fmt.Sprintf("%d%s", n, record)
		header := tarBytes(t, []entry{{"x", pax}})[:1024]
		header[156] = 'x'
		checksum(header)
		src := write(t, filepath.Join(t.TempDir(), "x.tar"), string(header)+string(data))
		_, err := Open(context.Background(), src, Options{})
		if err == nil || !strings.Contains(err.Error(), "truncated: the file ends at offset") || strings.Contains(err.Error(), "-") && strings.Contains(err.Error(), "offset -") {
			t.Errorf("size %s: %v", size, err)
		}
	}
}

// checksum corrects that of a tar's header that was changed.
func checksum(header []byte) {
	copy(header[148:], "        ")
	sum := 0
	for _, b := range header[:512] {
		sum += int(b)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// What a file calls things is quoted where a terminal would obey it, and its
// content is not shown.
func TestNamesInMessages(t *testing.T) {
	const evil = "\x1b[2J\u202egpj\nfake: line\x07"
	dir := t.TempDir()
	sources := map[string]Options{
		writeTar(t, filepath.Join(dir, "1.tar"), []entry{{"a" + evil + ".jpg", "x"}, {"a" + evil + ".cls", evil}}):                   {},
		writeTar(t, filepath.Join(dir, "2.tar"), []entry{{evil + ".jpg", "x"}, {"b.jpg", "x"}, {evil + ".txt", "x"}}):                {},
		writeTar(t, filepath.Join(dir, "3.tar"), []entry{{evil + "/1.jpg", "x"}, {evil + "2/2.jpg", "x"}}):                           {ClassNames: classes},
		write(t, filepath.Join(dir, "1.csv"), "path,label\n\"a"+evil+"\",\"x"+evil+"\"\n"):                                           {ClassNames: classes},
		write(t, filepath.Join(dir, "2.csv"), "path,caption\n\"a"+evil+"\",x\n"):                                                     {},
		write(t, filepath.Join(dir, "3.csv"), "\"u"+evil+"\",label\nx,y\n"):                                                          {},
		write(t, filepath.Join(dir, "x"+strings.ReplaceAll(evil, "/", "")+".csv"), "path,label\n"):                                   {},
		writeParquet(t, filepath.Join(dir, "1.parquet"), []parquetNamed{{[]byte("x"), evil}}, 1):                                     {ClassNames: classes},
		write(t, filepath.Join(dir, "s", "classnames.txt"), "cat\n"+strings.ReplaceAll(evil, "\n", "")+"\n")[:len(dir)+2] + "/x.tar": {ClassNames: classes},
	}
	writeTar(t, filepath.Join(dir, "s", "x.tar"), []entry{{"a.jpg", "x"}, {"a.cls", "1"}})
	for src, o := range sources {
		d, err := Open(context.Background(), src, o)
		if err == nil {
			_, err = d.Read(0)
		}
		if err == nil {
			t.Errorf("%q: no error", src)
			continue
		}
		if strings.ContainsAny(err.Error(), "\x1b\u202e\n\x07") {
			t.Errorf("%q: %q", src, err)
		}
	}
}

type parquetNamed struct {
	Image []byte `parquet:"image"`
	Label string `parquet:"label"`
}

// TestCaptionKey: a key that the caller names is where a tar's captions are, and no
// .txt takes its place.
func TestCaptionKey(t *testing.T) {
	src := writeTar(t, filepath.Join(t.TempDir(), "t.tar"), []entry{
		{"a.jpg", "x"}, {"a.txt", "caf\xe9"}, {"a.json", `{"alt": "by key", "caption": "usual"}`},
		{"b.jpg", "x"}, {"b.json", `{"caption": "usual"}`}, {"b.txt", "beside"},
		{"c.jpg", "x"}, {"c.txt", "beside"},
	})
	d, err := Open(t.Context(), src, Options{CaptionColumn: "alt"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, want := range [][]string{{"by key"}, nil, nil} {
		ex, err := d.Read(i)
		if err != nil || !slices.Equal(ex.Captions, want) {
			t.Errorf("example %d: captions %q, %v; want %q", i, ex.Captions, err, want)
		}
		if hint := fmt.Sprintf("%s has no \"alt\" in a .json", ex.Key); want == nil && ex.Hint != hint {
			t.Errorf("example %d: hint %q, want %q", i, ex.Hint, hint)
		}
	}
}

// A .json as Python writes it, NaN and all, is read; one that nothing is needed from
// is not.
func TestPythonJSON(t *testing.T) {
	src := writeTar(t, filepath.Join(t.TempDir(), "t.tar"), []entry{
		{"a.jpg", "x"}, {"a.json", `{"similarity": NaN, "caption": "a \"NaN\" here", "x": [-Infinity, Infinity], "label": 3}`},
		{"b.jpg", "x"}, {"b.json", `{"caption": NaN}`}, {"b.txt", "beside"}, {"b.cls", "4"},
		{"c.jpg", "x"}, {"c.json", "not JSON"}, {"c.txt", "beside"}, {"c.cls", "5"},
		{"d.jpg", "x"}, {"d.json", `{"caption": "x", "y": NaNs}`},
	})
	d, err := Open(t.Context(), src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, want := range []string{`3 a "NaN" here`, "4 beside", "5 beside"} {
		ex, err := d.Read(i)
		if got := fmt.Sprintf("%d %s", ex.Label, strings.Join(ex.Captions, "|")); err != nil || got != want {
			t.Errorf("example %d: %q, %v; want %q", i, got, err, want)
		}
	}
	if ex, err := d.Read(3); err == nil {
		t.Errorf("%q: no error", ex.Captions)
	}
}
