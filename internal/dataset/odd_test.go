//go:build unix

package dataset

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A pipe named in a table must not be opened: nobody may ever write into it.
func TestPipeInTable(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "a.png"), 0o600); err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(dir, "t.csv")
	if err := os.WriteFile(table, []byte("path,label\na.png,0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(context.Background(), table, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(0); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("Read: %v, want an error about the pipe", err)
	}
}

// A mask beside the picture is not the picture, whatever comes first.
func TestMaskBesideImage(t *testing.T) {
	for _, entries := range [][]entry{
		{{"a.seg.png", "mask"}, {"a.jpg", "picture"}, {"a.cls", "0"}},
		{{"a.jpg", "picture"}, {"a.seg.png", "mask"}, {"a.cls", "0"}},
		{{"a.img.png", "picture"}, {"a.cls", "0"}},
		// Of several plain ones that of OpenCLIP's "jpg;png;jpeg;webp" that comes first there.
		{{"a.jpeg", "other"}, {"a.jpg", "picture"}, {"a.png", "other"}, {"a.txt", "x"}},
		{{"a.webp", "other"}, {"a.png", "picture"}, {"a.jpeg", "other"}, {"a.txt", "x"}},
		{{"a.gif", "other"}, {"a.webp", "picture"}, {"a.seg.png", "mask"}, {"a.txt", "x"}},
	} {
		name := filepath.Join(t.TempDir(), "t.tar")
		write(t, name, string(tarBytes(t, entries)))
		d, err := Open(context.Background(), name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if ex, err := d.Read(0); err != nil || string(ex.Image) != "picture" {
			t.Errorf("%v: image %q, %v; want the picture", entries, ex.Image, err)
		}
	}
}

// Of train/ and test/ only test/ is read, and of a tree whose test/ has no
// classes val/.
func TestFolderParts(t *testing.T) {
	for _, c := range []struct{ have, want string }{
		{"train/cat/1.png train/dog/2.png test/cat/3.png test/dog/4.png", "cat/3.png dog/4.png"},
		{"train/cat/1.png test/5.png val/dog/6.png", ""}, // pictures that lie loose: not a tree of classes
		{"train/cat/1.png test/x/5.png val/dog/6.png", "dog/6.png"},
		{"train/cat/1.png validation/dog/6.png", "dog/6.png"},
		{"test/cat/1.png", "cat/1.png"},
	} {
		dir := t.TempDir()
		for name := range strings.FieldsSeq(c.have) {
			write(t, filepath.Join(dir, name), "x")
		}
		d, err := newFolders(context.Background(), disk{}, dir, mustList(t, dir), Options{ClassNames: []string{"cat", "dog"}})
		var got []string
		if err == nil {
			for i := range d.Len() {
				ex, _ := d.Read(i)
				got = append(got, ex.Key)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, %v; want %s", c.have, got, err, c.want)
		}
	}
}

func mustList(t *testing.T, dir string) []file {
	t.Helper()
	files, err := disk{}.list(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
