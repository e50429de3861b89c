package dataset

import (
	"archive/tar"
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// Entries that are no plain files move no others: a dump of a folder has bytes
// behind its header, a hard link may have a size and none.
func TestTarEntryKinds(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range []struct {
		kind byte
		name string
		data string
	}{
		{'D', "dump", strings.Repeat("Ya.jpg\x00", 100)},
		{tar.TypeReg, "a.jpg", "picture a"}, {'Z', "a.vendor", strings.Repeat("z", 600)}, {tar.TypeReg, "a.txt", "cat"},
		{tar.TypeCont, "b.jpg", strings.Repeat("picture b", 100)}, {tar.TypeReg, "b.txt", "dog"},
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: e.kind, Name: e.name, Size: int64(len(e.data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	src := write(t, filepath.Join(t.TempDir(), "t.tar"), buf.String())
	d, err := Open(t.Context(), src, Options{Unlabelled: true})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := OpenPlan(t.Context(), src, Options{Unlabelled: true})
	if err != nil {
		t.Fatal(err)
	}
	streamed, err := plan.First(t.Context(), 3)
	if err != nil || len(streamed) != 2 || d.Len() != 2 || plan.Len() != 2 {
		t.Fatalf("%d and %d samples, %v; want 2", d.Len(), plan.Len(), err)
	}
	for i, want := range []string{"a picture a [cat]", "b " + strings.Repeat("picture b", 100) + " [dog]"} {
		ex, err := d.Read(i)
		if got := ex.Key + " " + string(ex.Image) + " [" + strings.Join(ex.Captions, "|") + "]"; err != nil || got != want {
			t.Errorf("sample %d: %s, %v; want %s", i, got, err, want)
		}
		s := streamed[i]
		if got := s.Example.Key + " " + string(s.Example.Image) + " [" + strings.Join(s.Example.Captions, "|") + "]"; s.Err != nil || got != want {
			t.Errorf("streamed sample %d: %s, %v; want %s", i, got, s.Err, want)
		}
	}
}

// A sparse file as tar --sparse-version=0.1 writes it is refused: its bytes are not
// one after the other.
func TestTarSparse(t *testing.T) {
	header := tarBytes(t, []entry{{"x", "29 GNU.sparse.map=0,1,1024,1\n24 GNU.sparse.size=1025\n26 GNU.sparse.numblocks=2\n"}})[:1024]
	header[156] = 'x'
	checksum(header)
	src := write(t, filepath.Join(t.TempDir(), "t.tar"), string(header)+string(tarBytes(t, []entry{{"a.jpg", "JK"}, {"a.txt", "cat"}, {"b.jpg", strings.Repeat("x", 4096)}})))
	_, err := Open(t.Context(), src, Options{})
	_, streamed := OpenPlan(t.Context(), src, Options{})
	for _, err := range []error{err, streamed} {
		if err == nil || !strings.Contains(err.Error(), "a.jpg at offset 0 is stored sparse") {
			t.Errorf("%v", err)
		}
	}
}

// Nothing may follow the end of a tar, however far behind.
func TestTarAfterEnd(t *testing.T) {
	data := tarBytes(t, []entry{{"a.jpg", "x"}, {"a.txt", "cat"}})
	src := write(t, filepath.Join(t.TempDir(), "t.tar"), string(data)+strings.Repeat("\x00", 256<<10)+string(data))
	if _, err := Open(t.Context(), src, Options{}); err == nil || !strings.Contains(err.Error(), "data after the end-of-archive block, at offset 265216") {
		t.Errorf("%v", err)
	}
}

// A picture that a tar of class folders holds twice, as after tar --append, is not
// counted twice; pictures of one name in two tars are two.
func TestTarFoldersTwice(t *testing.T) {
	dir := t.TempDir()
	once := writeTar(t, filepath.Join(dir, "1.tar"), []entry{{"x/cat/1.jpg", "a"}, {"x/dog/2.jpg", "b"}})
	if d, err := Open(t.Context(), once+"::"+writeTar(t, filepath.Join(dir, "2.tar"), []entry{{"x/cat/1.jpg", "c"}}), Options{}); err != nil || d.Len() != 3 {
		t.Errorf("two tars: %v", err)
	}
	twice := writeTar(t, filepath.Join(dir, "3.tar"), []entry{{"x/cat/1.jpg", "a"}, {"x/dog/2.jpg", "b"}, {"x/cat/1.jpg", "new"}})
	if _, err := Open(t.Context(), twice, Options{}); err == nil || !strings.Contains(err.Error(), "3.tar: cat/1.jpg is in it twice, with its bytes at offsets 512 and 2560") {
		t.Errorf("%v", err)
	}
}
