//go:build unix

package atomicfile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// A new file has the permissions that the umask leaves; a replaced one keeps its own.
func TestPermissions(t *testing.T) {
	dir := t.TempDir()
	mode := func(path string) os.FileMode {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode().Perm()
	}
	for umask, want := range map[int]os.FileMode{0o077: 0o600, 0o022: 0o644, 0o002: 0o664} {
		old := syscall.Umask(umask)
		path := filepath.Join(dir, want.String())
		err := WriteFile(path, nil)
		syscall.Umask(old)
		if got := mode(path); err != nil || got != want {
			t.Errorf("umask %o: %v, want %v; %v", umask, got, want, err)
		}
		for _, there := range []os.FileMode{0o640, 0o666, 0o400} {
			if err := os.Chmod(path, there); err != nil {
				t.Fatal(err)
			}
			if err := WriteFile(path, nil); err != nil || mode(path) != there {
				t.Errorf("%v becomes %v; %v", there, mode(path), err)
			}
		}
	}
}

// limited runs f with a limit of the process lowered.
func limited(t *testing.T, resource int, to uint64, f func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(resource, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = to
	if err := syscall.Setrlimit(resource, &low); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(resource, &old)
	f()
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	var size, files error
	limited(t, syscall.RLIMIT_FSIZE, 1<<12, func() { size = WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<13)) })
	limited(t, syscall.RLIMIT_NOFILE, 0, func() { files = WriteFile(filepath.Join(dir, "a"), nil) })
	for want, err := range map[string]error{"8192 bytes are more than the limit for a file": size, "too many open files": files} {
		if fault.Code(err) != int(fault.Environment) || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if names := left(t, dir); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}
