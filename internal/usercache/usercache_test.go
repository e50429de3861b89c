package usercache

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// TestUseAndClear: entries and files that killed processes left are counted and
// removed; everything else stays.
func TestUseAndClear(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	folder, err := Compiled.Folder()
	if err != nil {
		t.Fatal(err)
	}
	if u, err := Compiled.Use(); err != nil || u.Files != 0 || u.Folder != folder {
		t.Errorf("no folder: %+v, %v", u, err)
	}
	if err := os.MkdirAll(filepath.Join(folder, "folder.xla"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"a.xla": 100, ".evatool-tmp-0123456789abcdef": 20, "README": 3, "folder.xla/c.xla": 4} {
		if err := os.WriteFile(filepath.Join(folder, name), make([]byte, n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("README", filepath.Join(folder, "link.xla")); err != nil {
		t.Fatal(err)
	}
	for _, f := range []func() (Use, error){Compiled.Use, Compiled.Clear} {
		if u, err := f(); err != nil || u.Files != 2 || u.Bytes != 120 {
			t.Errorf("%+v, %v", u, err)
		}
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 3 {
		t.Errorf("left %v, %v", left, err)
	}
	if u, err := Classifiers.Use(); err != nil || u.Files != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if _, err := Compiled.Clear(); fault.Code(err) != 4 {
		t.Errorf("no cache folder: %v", err)
	}
}
