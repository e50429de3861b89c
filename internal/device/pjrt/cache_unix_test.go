//go:build cgo && unix

package pjrt

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestCacheForeignEntries: what is no plain file is not waited for, nor read
// without an end; a pipe or a link makes room for the program.
func TestCacheForeignEntries(t *testing.T) {
	c := &cache{dir: t.TempDir(), max: 1 << 20, log: slog.New(slog.DiscardHandler)}
	if err := syscall.Mkfifo(c.path("pipe"), 0o644); err != nil {
		t.Skip(err)
	}
	for key, make := range map[string]func(path string) error{
		"pipe":      func(string) error { return nil },
		"zero":      func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder":    func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o755) },
		"oversized": func(path string) error { return os.WriteFile(path, nil, 0o644) },
	} {
		if err := make(c.path(key)); err != nil {
			t.Fatal(err)
		}
		if key == "oversized" {
			if err := os.Truncate(c.path(key), 2<<20); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.get(key); got != nil {
			t.Errorf("%s: read as %d bytes", key, len(got))
		}
		c.put(key, []byte("program"))
		if got := string(c.get(key)); got != "program" && key != "folder" {
			t.Errorf("%s: then %q", key, got)
		}
	}
}
