package device

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// home gives the test an empty user: no cache, no Python.
func home(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "PATH", "VIRTUAL_ENV", "CONDA_PREFIX"} {
		t.Setenv(name, dir)
	}
	return dir
}

// TestBadPlugins: a file that is no library, a library that is no plugin, or one of a version that this
// program does not understand, is one line and exit status 4; auto goes on.
func TestBadPlugins(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("needs a C compiler")
	}
	source := func(size, major string) string {
		return `#include <stddef.h>
static struct { size_t size; void* ext; size_t vsize; void* vext; int major, minor; void* fn[200]; } api = {` + size + `, 0, 24, 0, ` + major + `, 1};
const void* GetPjrtApi(void) { return &api; }`
	}
	check := func(t *testing.T, so, want string) {
		_, err := Open(t.Context(), Options{Backend: "xla:" + so})
		if fault.Code(err) != 4 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: exit status %d: %v", so, fault.Code(err), err)
		}
	}
	dir := home(t)
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/bin:/bin")
	for _, c := range []struct{ name, source, want string }{
		{"text", "", "cannot load the plugin"},
		{"none", "int f;", "no GetPjrtApi"},
		{"old", source("400", "0"), "PJRT version"},
		{"other", source("sizeof api", "1"), "PJRT version"},
		{"nothing", "const void* GetPjrtApi(void) { return 0; }", "no GetPjrtApi"},
	} {
		folder := filepath.Join(dir, "evatool", "plugins", c.name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		so := filepath.Join(folder, "cpu.so")
		if c.source == "" {
			if err := os.WriteFile(so, []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
			check(t, so, c.want)
			continue
		}
		cmd := exec.Command(cc, "-shared", "-fPIC", "-x", "c", "-o", so, "-")
		cmd.Stdin = strings.NewReader(c.source)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		check(t, so, c.want)
	}
	d, err := Open(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Info().Kind != KindGo || !strings.Contains(d.Info().Why, "PJRT version") {
		t.Errorf("auto: %+v", d.Info())
	}
}
