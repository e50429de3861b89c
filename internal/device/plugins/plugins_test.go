package plugins

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

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

// pin makes a wheel the pinned one for a test.
func pin(t *testing.T, wheel, library string) {
	t.Helper()
	known := releases["cpu"]
	t.Cleanup(func() { releases["cpu"] = known })
	r := known
	r.wheel, r.library = must[string](t)(fileSHA256(wheel, "a wheel")), fmt.Sprintf("%x", sha256.Sum256([]byte(library)))
	releases["cpu"] = r
}

var quiet = slog.New(slog.DiscardHandler)

// TestInstallWheel: a wheel that is not the pinned one must be vouched for;
// it is installed once; what is no wheel leaves nothing behind.
func TestInstallWheel(t *testing.T) {
	dir := home(t)
	good := writeWheel(t, "good.whl", map[string]string{"x/pjrt_c_api_cpu_plugin.so": "plugin", "x/other.so": "other"})
	sum := must[string](t)(fileSHA256(good, "a wheel"))
	text := filepath.Join(dir, "text.whl")
	if err := os.WriteFile(text, []byte("no zip"), 0o644); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe.whl")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		o       InstallOptions
		code    int
		want    string // in the error
		already bool
	}{
		{"cpu", InstallOptions{Wheel: good}, 2, "give Options.SHA256 " + sum, false},
		{"cpu", InstallOptions{Wheel: good, SHA256: strings.Repeat("0", 64)}, 3, sum, false},
		{"cpu", InstallOptions{Wheel: good, SHA256: sum[1:]}, 2, "64 hexadecimal", false},
		{"cpu", InstallOptions{Wheel: good, SHA256: strings.Repeat("x", 64)}, 2, "64 hexadecimal", false},
		{"cpu", InstallOptions{SHA256: sum}, 2, "apply to Options.Wheel", false},
		{"cpu", InstallOptions{Trust: true}, 2, "apply to Options.Wheel", false},
		{"cuda", InstallOptions{Wheel: good, Trust: true}, 3, "contains no xla_cuda_plugin.so", false},
		{"cpu", InstallOptions{Wheel: text, Trust: true}, 3, "not a wheel", false},
		{"cpu", InstallOptions{Wheel: filepath.Join(dir, "none.whl")}, 3, "no such file", false},
		{"cpu", InstallOptions{Wheel: pipe, Trust: true}, 3, "not a regular file", false},
		{"cpu", InstallOptions{Wheel: dir, Trust: true}, 3, "directory", false},
		{"tpu", InstallOptions{Wheel: good}, 2, "give cpu or cuda", false},
		{"cpu", InstallOptions{Wheel: good, SHA256: strings.ToUpper(sum)}, 0, "", false},
		{"cpu", InstallOptions{Wheel: good, Trust: true}, 0, "", true},
	} {
		c.o.Log = quiet
		in, err := Install(t.Context(), c.what, c.o)
		if fault.Code(err) != c.code || c.code != 0 && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %+v: exit status %d (%v), not %d", c.what, c.o, fault.Code(err), err, c.code)
		}
		if err != nil {
			if left := must[[]string](t)(filepath.Glob(filepath.Join(dir, "evatool", "plugins", "*"))); len(left) > 0 {
				t.Fatalf("%+v: left %v", c.o, left)
			}
			continue
		}
		if data, err := os.ReadFile(in.Path); err != nil || string(data) != "plugin" || in.Already != c.already || in.Trust != Given || !in.Own {
			t.Errorf("%s: %+v holds %q (%v)", c.what, in, data, err)
		}
	}
	found := Find()
	if len(found) != 1 || found[0].Kind != CPU || !found[0].Own || readRecord(found[0].Path).By != "sha256" {
		t.Errorf("found %+v", found)
	}
}

// TestTrust: what is known of a plugin, which comes first, and what is
// removed.
func TestTrust(t *testing.T) {
	dir := home(t)
	pinned := writeWheel(t, "pinned.whl", map[string]string{"pjrt_c_api_cpu_plugin.so": "pinned"})
	pin(t, pinned, "pinned")
	install := func(wheel string, trust bool) *Installed {
		t.Helper()
		in, err := Install(t.Context(), "cpu", InstallOptions{Wheel: wheel, Trust: trust, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	// An older evatool's, without a record; by its name it would be the newest.
	byHand := filepath.Join(dir, "evatool", "plugins", "cpu-ffffffffffff", "pjrt_c_api_cpu_plugin.so")
	if err := os.MkdirAll(filepath.Dir(byHand), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(byHand, []byte("by hand"), 0o755); err != nil {
		t.Fatal(err)
	}
	first := install(pinned, false)
	if first.Trust != Pinned || first.Own || first.Already || first.Before != "" {
		t.Errorf("pinned: %+v", first)
	}
	own := install(writeWheel(t, "own.whl", map[string]string{"pjrt_c_api_cpu_plugin.so": "own"}), true)
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(filepath.Dir(own.Path), recordFile), past, past); err != nil {
		t.Fatal(err)
	}
	newer := install(writeWheel(t, "newer.whl", map[string]string{"pjrt_c_api_cpu_plugin.so": "newer"}), true)
	if again := install(pinned, false); !again.Already || again.Before != newer.Name {
		t.Errorf("pinned again: %+v", again)
	}
	check := func(want ...string) { // path and trust, in order
		t.Helper()
		var got []string
		for _, p := range Find() {
			sum, trust, err := p.Trust()
			if err != nil || len(sum) != 64 {
				t.Errorf("%s: %q, %v", p.Path, sum, err)
			}
			got = append(got, p.Path+" "+string(trust))
		}
		if !slices.Equal(got, want) {
			t.Errorf("found\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	check(newer.Path+" given", own.Path+" given", first.Path+" pinned", byHand+" unknown")

	for _, path := range []string{first.Path, newer.Path} {
		if err := os.WriteFile(path, []byte("other"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	check(newer.Path+" changed", own.Path+" given", first.Path+" changed", byHand+" unknown")
	if again := install(pinned, false); again.Already {
		t.Errorf("damaged, and installed already: %+v", again)
	}
	check(newer.Path+" changed", own.Path+" given", first.Path+" pinned", byHand+" unknown")

	for _, name := range []string{"", ".", "..", "gpu", "/", "cpu-0", "../plugins/" + own.Name, filepath.Join(dir, "evatool")} {
		if _, err := Remove(name); fault.Code(err) != 2 || !strings.Contains(err.Error(), own.Name) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if got, err := Remove(newer.Name); err != nil || !slices.Equal(got, []string{newer.Path}) {
		t.Errorf("%v, %v", got, err)
	}
	check(own.Path+" given", first.Path+" pinned", byHand+" unknown")
	if got, err := Remove("cpu"); err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
	check()
	if left := must[[]os.DirEntry](t)(os.ReadDir(filepath.Join(dir, "evatool", "plugins"))); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if _, err := Remove("cpu"); fault.Code(err) != 2 || !strings.Contains(err.Error(), "no plugin is installed") {
		t.Errorf("nothing to remove: %v", err)
	}
}

// TestRecords: a record that is none says nothing, whatever it is.
func TestRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plugin.so")
	file := filepath.Join(filepath.Dir(path), recordFile)
	for name, make := range map[string]func() error{
		"text":  func() error { return os.WriteFile(file, []byte("text"), 0o644) },
		"pipe":  func() error { return syscall.Mkfifo(file, 0o644) },
		"zeros": func() error { return os.Symlink("/dev/zero", file) },
		"huge": func() error {
			if err := os.WriteFile(file, []byte("{}"), 0o644); err != nil {
				return err
			}
			return os.Truncate(file, 1<<40)
		},
		"folder": func() error { return os.Mkdir(file, 0o755) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if r := readRecord(path); r != nil {
			t.Errorf("%s: %+v", name, r)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInstallOffline: without a network and without pip the error says how to
// go on.
func TestInstallOffline(t *testing.T) {
	home(t)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9") // nothing listens there
	_, err := Install(t.Context(), "cpu", InstallOptions{Log: quiet})
	if fault.Code(err) != 4 || !strings.Contains(err.Error(), "--wheel FILE") || !strings.Contains(err.Error(), "pip: not on PATH") {
		t.Errorf("exit status %d: %v", fault.Code(err), err)
	}
}

// TestFind: the order, and that no Python is run.
func TestFind(t *testing.T) {
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
	for _, p := range Find() {
		got = append(got, p.Path)
		kinds = append(kinds, p.Kind)
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.Equal(kinds, []string{CPU, CPU, CUDA, CPU, CPU}) {
		t.Errorf("kinds %v", kinds)
	}
}

// index answers in place of the package index and its files.
type index map[string]string

func (x index) RoundTrip(r *http.Request) (*http.Response, error) {
	for suffix, body := range x {
		if strings.HasSuffix(r.URL.Path, suffix) {
			if body == "hang" {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return &http.Response{StatusCode: 200, Status: "200 OK", Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		}
	}
	return &http.Response{StatusCode: 404, Status: "404 Not Found", Body: http.NoBody, Request: r}, nil
}

// TestInstallDownload: the pinned wheel is taken from where the index says;
// another wheel under its name is not; nothing is printed; it can be stopped.
func TestInstallDownload(t *testing.T) {
	file := writeWheel(t, "w.whl", map[string]string{"x/pjrt_c_api_cpu_plugin.so": "plugin"})
	pin(t, file, "plugin")
	wheel, r := string(must[[]byte](t)(os.ReadFile(file))), releases["cpu"]
	transport := http.DefaultTransport
	defer func() { http.DefaultTransport = transport }()
	listing := fmt.Sprintf(`{"releases":{"%s":[{"url":"https://files.test/w.whl","digests":{"sha256":"%s"}}]}}`, r.version, r.wheel)
	page := "/" + r.pkg + "/json"
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		x    index
		want string // "" is success
	}{
		{"another wheel", t.Context(), index{page: listing, "/w.whl": "other"}, "SHA-256 is"},
		{"no wheel", t.Context(), index{page: listing}, "404"},
		{"not listed", t.Context(), index{page: "{}"}, "the index has no"},
		{"stopped", ctx, index{page: listing, "/w.whl": "hang"}, "deadline"},
		{"good", t.Context(), index{page: listing, "/w.whl": wheel}, ""},
	} {
		dir := home(t)
		http.DefaultTransport = c.x
		in, err := Install(c.ctx, "cpu", InstallOptions{Log: quiet})
		if c.want == "" {
			if err != nil || string(must[[]byte](t)(os.ReadFile(in.Path))) != "plugin" {
				t.Errorf("%s: %+v, %v", c.name, in, err)
			}
			continue
		}
		if fault.Code(err) != 4 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: exit status %d: %v", c.name, fault.Code(err), err)
		}
		if left := must[[]string](t)(filepath.Glob(filepath.Join(dir, "evatool", "plugins", "*"))); len(left) > 0 {
			t.Errorf("%s: left %v", c.name, left)
		}
	}
}
