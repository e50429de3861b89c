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
	if found := Find(); len(found) != 1 || found[0].Kind != CPU {
		t.Errorf("found %v", found)
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
	wheel := string(must[[]byte](t)(os.ReadFile(writeWheel(t, "w.whl", map[string]string{"x/pjrt_c_api_cpu_plugin.so": "plugin"}))))
	transport, known := http.DefaultTransport, releases["cpu"]
	defer func() { http.DefaultTransport, releases["cpu"] = transport, known }()
	r := known
	r.sha256 = fmt.Sprintf("%x", sha256.Sum256([]byte(wheel)))
	releases["cpu"] = r
	listing := fmt.Sprintf(`{"releases":{"%s":[{"url":"https://files.test/w.whl","digests":{"sha256":"%s"}}]}}`, r.version, r.sha256)
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
		in, err := Install(c.ctx, "cpu", "", slog.New(slog.DiscardHandler))
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
