package device

import (
	"archive/zip"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

func writeWheel(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f := must[*os.File](t)(os.Create(path))
	defer f.Close()
	z := zip.NewWriter(f)
	for name, text := range files {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// home gives the test an empty user: no cache, no Python.
func home(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "PATH", "VIRTUAL_ENV", "CONDA_PREFIX"} {
		t.Setenv(name, dir)
	}
	return dir
}

// TestInstallWheel: a wheel is installed once, found afterwards, and what is
// no wheel leaves nothing behind.
func TestInstallWheel(t *testing.T) {
	dir := home(t)
	log := slog.New(slog.DiscardHandler)
	good := writeWheel(t, "good.whl", map[string]string{"x/pjrt_c_api_cpu_plugin.so": "plugin", "x/other.so": "other"})
	text := filepath.Join(dir, "text.whl")
	if err := os.WriteFile(text, []byte("no zip"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, wheel string
		code        int
		already     bool
	}{
		{"cpu", good, 0, false},
		{"cpu", good, 0, true},
		{"cuda", good, 3, false}, // holds another plugin
		{"cpu", text, 3, false},
		{"cpu", filepath.Join(dir, "none.whl"), 3, false},
		{"tpu", good, 2, false},
	} {
		in, err := Install(t.Context(), c.what, c.wheel, log)
		if fault.Code(err) != c.code {
			t.Errorf("%s from %s: exit status %d (%v), not %d", c.what, c.wheel, fault.Code(err), err, c.code)
		}
		if err != nil {
			continue
		}
		if data, err := os.ReadFile(in.Path); err != nil || string(data) != "plugin" || in.Already != c.already {
			t.Errorf("%s: %+v holds %q (%v)", c.what, in, data, err)
		}
	}
	left := must[[]string](t)(filepath.Glob(filepath.Join(dir, "evatool", "plugins", "*")))
	hidden := must[[]string](t)(filepath.Glob(filepath.Join(dir, "evatool", "plugins", ".*")))
	if len(left) != 1 || len(hidden) != 0 {
		t.Errorf("the plugin folder holds %v and %v", left, hidden)
	}
	if found := FindPlugins(); len(found) != 1 || found[0].Kind != KindCPU {
		t.Errorf("found %v", found)
	}
	// The folder's plugin does not load, so auto falls back and says why.
	d, err := Open(t.Context(), Options{CompileCache: "off"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Info().Kind != KindGo || !strings.Contains(d.Info().Why, "cannot load the plugin") {
		t.Errorf("auto: %+v", d.Info())
	}
	if _, err := Open(t.Context(), Options{Backend: "xla"}); fault.Code(err) != 4 {
		t.Errorf("xla: %v", err)
	}
}

// TestInstallOffline: without a network and without pip the error says how to
// go on.
func TestInstallOffline(t *testing.T) {
	home(t)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9") // nothing listens there
	_, err := Install(t.Context(), "cpu", "", slog.New(slog.DiscardHandler))
	if fault.Code(err) != 4 || !strings.Contains(err.Error(), "--wheel FILE") || !strings.Contains(err.Error(), "pip: not on PATH") {
		t.Errorf("exit status %d: %v", fault.Code(err), err)
	}
}

// TestFindPlugins: the order, and that no Python is run.
func TestFindPlugins(t *testing.T) {
	dir := home(t)
	put := func(parts ...string) string {
		path := filepath.Join(append([]string{dir}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("py", "bin", "python3")
	t.Setenv("PATH", filepath.Join(dir, "py", "bin"))
	want := []string{
		put("evatool", "plugins", "cpu-0.12", "pjrt_c_api_cpu_plugin.so"),
		put("evatool", "plugins", "cpu-0.11", "pjrt_c_api_cpu_plugin.so"),
		put("py", "lib", "python3.12", "site-packages", "jax_plugins", "xla_cuda13", "xla_cuda_plugin.so"),
		put("py", "lib", "python3.12", "site-packages", "lammps_jax_pjrt_cpu", "pjrt_c_api_cpu_plugin.so"),
		put(".local", "lib", "go-xla", "pjrt_c_api_cpu_v0.83_plugin.so"),
	}
	put("evatool", "plugins", "cpu-0.11", "README")
	var got, kinds []string
	for _, p := range FindPlugins() {
		got = append(got, p.Path)
		kinds = append(kinds, p.Kind)
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.Equal(kinds, []string{KindCPU, KindCPU, KindCUDA, KindCPU, KindCPU}) {
		t.Errorf("kinds %v", kinds)
	}
}

// TestReexec: the program starts again once with the tunables, the same
// arguments and exit status; signals reach it.
func TestReexec(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "reexec" {
		Reexec("xla:"+os.Getenv("EVATOOL_TEST_BACKEND"), slog.New(slog.DiscardHandler))
		os.Stdout.WriteString(strings.Join(os.Args[1:], " ") + "|" + os.Getenv(tunablesEnv) + "\n")
		if os.Getenv("EVATOOL_TEST_WAIT") != "" {
			time.Sleep(time.Minute)
		}
		os.Exit(7)
	}
	if why := whyNotReexec("go"); why != "the backend is not the CPU plugin" {
		t.Skip("not on this machine:", why)
	}
	child := func(env ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReexec$", "an argument")
		cmd.Env = append(os.Environ(), append(env, "EVATOOL_TEST_CHILD=reexec")...)
		return cmd
	}
	for _, c := range []struct{ name, backend, before, want string }{
		{"cpu plugin", "/x/cpu.so", "", tunables},
		{"other tunables", "/x/cpu.so", "glibc.malloc.check=0", "glibc.malloc.check=0:" + tunables},
		{"set already", "/x/cpu.so", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"},
		{"gpu", "/x/cuda.so", "", ""},
	} {
		out, err := child("EVATOOL_TEST_BACKEND="+c.backend, tunablesEnv+"="+c.before).Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("%s: %v", c.name, err)
		}
		if want := "-test.run=^TestReexec$ an argument|" + c.want + "\n"; string(out) != want {
			t.Errorf("%s: %q, not %q", c.name, out, want)
		}
	}
	cmd := child("EVATOOL_TEST_BACKEND=/x/cpu.so", "EVATOOL_TEST_WAIT=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdout.Read(make([]byte, 1)) // started again
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestBadPlugins: a library that is no plugin, or one of a version that this
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
	dir := home(t)
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/bin:/bin")
	for _, c := range []struct{ name, source, want string }{
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
		cmd := exec.Command(cc, "-shared", "-fPIC", "-x", "c", "-o", so, "-")
		cmd.Stdin = strings.NewReader(c.source)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, err := Open(t.Context(), Options{Backend: "xla:" + so})
		if fault.Code(err) != 4 || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: exit status %d: %v", c.name, fault.Code(err), err)
		}
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

// TestMissingNVIDIA: the libraries that the CUDA plugin lacks are named.
func TestMissingNVIDIA(t *testing.T) {
	dir := home(t)
	if preload("libcudnn.so.9") {
		t.Skip("cuDNN is here")
	}
	_, err := prepareCUDA(filepath.Join(dir, "xla_cuda13", "plugin.so"))
	if fault.Code(err) != 4 || !strings.Contains(err.Error(), "libcudnn.so.9") || !strings.Contains(err.Error(), "pip install") {
		t.Errorf("%v", err)
	}
	for text, want := range map[string]string{
		"RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes": "not enough memory",
		"INTERNAL: CUDA driver version is insufficient for CUDA runtime":     "driver is too old",
		"No visible GPU devices.": "no NVIDIA GPU",
	} {
		if err := explain(errors.New(text)); fault.Code(err) != 4 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
