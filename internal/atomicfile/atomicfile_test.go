package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// left returns the names in a folder.
func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCommitAndDiscard(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	for _, want := range []string{"first", "second, longer"} {
		f, err := Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Reserve(int64(len(want))); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(want), 0); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(want))
		if _, err := f.ReadAt(back, 0); err != nil || string(back) != want {
			t.Errorf("reads back %q, %v", back, err)
		}
		if err := f.Commit(); err != nil || !f.Named() {
			t.Fatal(err)
		}
		f.Discard()
		if got := content(t, path); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("never"))
	f.Discard()
	if got := content(t, path); got != "second, longer" {
		t.Errorf("a discarded file has changed the target to %q", got)
	}
	if err := WriteJSON(filepath.Join(dir, "b"), map[string]int{"x": 1}); err != nil || content(t, filepath.Join(dir, "b")) != "{\n  \"x\": 1\n}\n" {
		t.Errorf("%v", err)
	}
	if names := left(t, dir); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

// The last writer wins, and the file is always one of those written, whole.
func TestManyWriters(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for range 10 {
				if err := WriteFile(path, bytes.Repeat([]byte{'0' + byte(i)}, 1<<16)); err != nil {
					t.Error(err)
				}
				b, err := os.ReadFile(path)
				if err != nil || len(b) != 1<<16 || strings.Trim(string(b), string(b[:1])) != "" {
					t.Errorf("%d bytes, %v", len(b), err)
				}
			}
		})
	}
	g.Wait()
	if names := left(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// Of several that write the same new file, exactly one succeeds.
func TestNew(t *testing.T) {
	defer func(old func(from, to string) error) { noReplace = old }(noReplace)
	for name, rename := range map[string]func(from, to string) error{
		"by rename": noReplace,
		"by link":   func(from, to string) error { return syscall.EINVAL },
	} {
		noReplace = rename
		dir := t.TempDir()
		path := filepath.Join(dir, "a")
		var files []*File
		for i := range 3 {
			f, err := Create(path)
			if err != nil {
				t.Fatal(err)
			}
			f.New = true
			f.Write([]byte{'0' + byte(i)})
			files = append(files, f)
		}
		for i, f := range files {
			if err := f.Commit(); (i == 0) != (err == nil) || i > 0 && (fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), path)) {
				t.Errorf("%s, file %d: %v", name, i, err)
			}
			f.Discard()
		}
		if content(t, path) != "0" || len(left(t, dir)) != 1 {
			t.Errorf("%s: the last is %q, left %v", name, content(t, path), left(t, dir))
		}
	}
}

func TestStaleFilesAreRemovedAndLockedOnesKept(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, tempMark+"stale")
	if err := os.WriteFile(stale, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Discard()
	if _, err := os.Stat(stale); err == nil {
		t.Error("the file of a killed run is still there")
	}
	// As another process would see it.
	cleaned.Clear()
	if err := WriteFile(filepath.Join(dir, "b"), nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Errorf("the file of a running one is gone: %v", err)
	}
}

func TestNoPlainFile(t *testing.T) {
	for _, path := range []string{t.TempDir(), os.DevNull} {
		if _, err := Create(path); fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// The system reports a failed write once, to the next sync.
func TestSyncFails(t *testing.T) {
	defer func(old func(*os.File) error) { Fsync = old }(Fsync)
	for name, folder := range map[string]bool{"file": false, "folder": true} {
		dir := t.TempDir()
		Fsync = func(f *os.File) error {
			if st, err := f.Stat(); err == nil && st.IsDir() == folder {
				return &fs.PathError{Op: "sync", Path: f.Name(), Err: syscall.EIO}
			}
			return nil
		}
		err := WriteFile(filepath.Join(dir, "a"), []byte("x"))
		if fault.Code(err) != int(fault.Environment) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
		if names := left(t, dir); !folder && len(names) > 0 || folder && len(names) != 1 {
			t.Errorf("%s: left behind: %v", name, names)
		}
	}
	Fsync = func(f *os.File) error { return syscall.EINVAL } // a folder of some network file systems
	if err := SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for err, says := range map[error]string{
		syscall.ENOSPC:    "/d/x: no space for 7 bytes in /d",
		syscall.EDQUOT:    "quota",
		syscall.EACCES:    "no permission to write in /d",
		syscall.EPERM:     "no permission to write in /d",
		syscall.EROFS:     "/d is read-only",
		syscall.EFBIG:     "7 bytes are more than the limit for a file there",
		syscall.EIO:       "/d/x: input/output error",
		syscall.EMFILE:    "ulimit -n",
		syscall.ENOENT:    "no folder /d",
		syscall.ENOTDIR:   "is a file, not a folder",
		syscall.EISDIR:    "is a folder",
		syscall.ENOTEMPTY: "/d/x: ",
	} {
		got := explain("/d/x", 7, &os.PathError{Op: "write", Path: "x", Err: err})
		if fault.Code(got) != int(fault.Environment) || !strings.Contains(got.Error(), says) || !errors.Is(got, err) {
			t.Errorf("%v: %v", err, got)
		}
		if again := Explain("/elsewhere", fmt.Errorf("wrapped: %w", got)); strings.Contains(again.Error(), "elsewhere") {
			t.Errorf("explained twice: %v", again)
		}
	}
	if got := explain("/d/x", 0, syscall.ENOSPC); strings.Contains(got.Error(), " 0 ") {
		t.Errorf("%v", got)
	}
}

func TestMissingFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no", "a")
	if err := WriteFile(path, nil); fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "create it first") {
		t.Errorf("%v", err)
	}
}
