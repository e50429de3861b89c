package dataset

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestGroupedCaptions(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.jpg", "b.jpg"} {
		write(t, filepath.Join(dir, name), name)
	}
	table := write(t, filepath.Join(dir, "t.csv"), "image,raw\n"+
		"a.jpg,first\n"+
		"b.jpg,\"[\"\"third\"\", \"\"fourth, too\"\"]\"\n"+
		"a.jpg,\"second\nlast\"\n")
	for _, tt := range []struct {
		options Options
		want    [][]string
	}{
		{Options{CaptionColumn: "raw", GroupCaptions: true, CaptionLines: true}, [][]string{{"first", "second last"}, {"third", "fourth, too"}}},
		{Options{CaptionColumn: "raw"}, [][]string{{"first"}, {"third", "fourth, too"}, {"second last"}}},
	} {
		d, err := Open(context.Background(), table, tt.options)
		if err != nil {
			t.Fatal(err)
		}
		if d.Len() != len(tt.want) {
			t.Fatalf("%d examples, want %d", d.Len(), len(tt.want))
		}
		for i, want := range tt.want {
			if ex, err := d.Read(i); err != nil || !slices.Equal(ex.Captions, want) {
				t.Errorf("Read(%d): %q, %v; want %q", i, ex.Captions, err, want)
			}
		}
	}
}

func TestSortedLikeTorchvision(t *testing.T) {
	dir := t.TempDir()
	// sorted(os.walk()) compares whole folder paths; "-" and "." come before "/".
	want := []string{"A/Z.jpg", "a/b.JPG", "a/z.png", "a/-/2.jpg", "a/c/1.jpg", "a/c/9.jpg", "a/c-/0.webp", "b/10.tiff", "b/9.ppm"}
	for _, name := range want {
		write(t, filepath.Join(dir, name), name)
	}
	for _, ignored := range []string{"a/x.gif", "a/x.txt", ".cache/x.jpg", "root.jpg"} {
		write(t, filepath.Join(dir, ignored), "ignored")
	}
	d, err := Open(context.Background(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range d.Len() {
		ex, err := d.Read(i)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ex.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
	if !slices.Equal(d.Classes(), []string{"A", "a", "b"}) {
		t.Errorf("classes %q", d.Classes())
	}
}

func TestCaptionLinesOfTars(t *testing.T) {
	src := writeTar(t, filepath.Join(t.TempDir(), "0.tar"), []entry{{"a.jpg", "1"}, {"a.txt", "first\n\n second \nthird"}})
	for _, tt := range []struct {
		lines bool
		want  []string
	}{{true, []string{"first", "second", "third"}}, {false, []string{"first   second  third"}}} {
		d, err := Open(context.Background(), src, Options{CaptionLines: tt.lines})
		if err != nil {
			t.Fatal(err)
		}
		if ex, err := d.Read(0); err != nil || !slices.Equal(ex.Captions, tt.want) {
			t.Errorf("lines %v: %q, %v; want %q", tt.lines, ex.Captions, err, tt.want)
		}
	}
}

// A number that is missing does not make names of the others.
func TestMissingNumber(t *testing.T) {
	for _, nan := range []string{"nan", "NaN"} {
		src := write(t, filepath.Join(t.TempDir(), "t.csv"), "path,label\na.jpg,10\nb.jpg,2.0\nc.jpg,"+nan+"\n")
		if d, err := Open(t.Context(), src, Options{}); err == nil || !strings.Contains(err.Error(), "line 4: c.jpg: label \""+nan+"\" is not a class number") {
			t.Errorf("%s: %v, %v", nan, d, err)
		}
	}
}
