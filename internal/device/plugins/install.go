package plugins

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/go-xla/installer"
)

// release is the plugin that Install gets: a Python wheel, pinned.
type release struct {
	pkg, version, sha256 string
	file                 string // the plugin in the wheel
	kind                 string
	folder               string // in Folder, without the version
}

var releases = map[string]release{
	"cpu": {"lammps-jax-pjrt-cpu", "0.11.2", "1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1",
		"pjrt_c_api_cpu_plugin.so", CPU, "cpu"},
	"cuda": {"jax-cuda13-pjrt", "0.12.0.1", "5899bb6177eda86ea532afb9a26794f2bdd04966f6a01f9028266b16c2b6cf90",
		"xla_cuda_plugin.so", CUDA, "cuda13"},
}

// Installed says what Install did.
type Installed struct {
	Plugin
	Package string `json:"package"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`  // of the wheel
	Already bool   `json:"already"` // it was there, nothing was done
	Method  string `json:"method,omitempty"`
}

// Install puts the plugin "cpu" or "cuda" into Folder. It takes it from
// the wheel file when one is given, else from the Python package index, with
// go-xla's downloader or with pip. Done twice it does nothing the second time.
func Install(ctx context.Context, what, wheel string, log *slog.Logger) (*Installed, error) {
	r, ok := releases[what]
	if !ok {
		return nil, fault.Usagef("backend install %s: unknown; give cpu or cuda", what)
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil, fault.Envf("backend install %s: there is no plugin for %s/%s; use backend go", what, runtime.GOOS, runtime.GOARCH)
	}
	folder, err := Folder()
	if err != nil {
		return nil, err
	}
	name := r.folder + "-" + r.version
	in := &Installed{Plugin: Plugin{filepath.Join(folder, name, r.file), r.kind, "cache"}, Package: r.pkg, Version: r.version, SHA256: r.sha256}
	if wheel == "" {
		if _, err := os.Stat(in.Path); err == nil {
			in.Already = true
			return in, nil
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fault.As(fault.Environment, fmt.Errorf("backend install %s: %w", what, err))
	}
	// Everything is put together here and then moved into place in one step.
	tmp, err := os.MkdirTemp(folder, ".install-")
	if err != nil {
		return nil, fault.As(fault.Environment, fmt.Errorf("backend install %s: %w", what, err))
	}
	defer os.RemoveAll(tmp)
	if wheel != "" {
		in.Method = "wheel"
		const want = "the plugin's wheel"
		if err := fault.RegularFile(wheel, want); err != nil {
			return nil, err
		}
		if in.SHA256, err = fileSHA256(wheel); err != nil {
			return nil, fault.File(wheel, want, err)
		}
		if in.SHA256 != r.sha256 {
			// The user's own choice of another version: kept apart, by its hash.
			log.Warn("not the wheel that evatool was tested with", "wheel", wheel, "sha256", in.SHA256, "tested", r.sha256)
			name = r.folder + "-" + in.SHA256[:12]
			in.Version, in.Path = "", filepath.Join(folder, name, r.file)
		}
		if _, err := os.Stat(in.Path); err == nil {
			in.Already = true
			return in, nil
		}
	} else if wheel, in.Method, err = r.download(ctx, tmp, log); err != nil {
		return nil, fault.Envf("backend install %s: %w; on a machine with a network run pip download --no-deps %s==%s, then here evatool backend install %s --wheel FILE",
			what, err, r.pkg, r.version, what)
	}
	ready := filepath.Join(tmp, name)
	if err := os.Mkdir(ready, 0o755); err != nil {
		return nil, fault.As(fault.Environment, err)
	}
	if err := extract(wheel, r.file, filepath.Join(ready, r.file)); err != nil {
		return nil, err
	}
	if err := os.Rename(ready, filepath.Dir(in.Path)); err != nil {
		if _, e := os.Stat(in.Path); e != nil { // not another process that was faster
			return nil, fault.As(fault.Environment, fmt.Errorf("backend install %s: %w", what, err))
		}
	}
	return in, nil
}

// download gets the pinned wheel into folder.
func (r release) download(ctx context.Context, folder string, log *slog.Logger) (wheel, method string, err error) {
	var failed []string
	for _, m := range []struct {
		name string
		get  func(context.Context, string) (string, error)
	}{{"download", r.fetch}, {"pip", r.pip}} {
		log.Info("getting the plugin", "package", r.pkg, "version", r.version, "with", m.name)
		wheel, err := m.get(ctx, folder)
		if err == nil {
			var sum string
			if sum, err = fileSHA256(wheel); err == nil && sum != r.sha256 {
				err = fmt.Errorf("SHA-256 is %s, not %s", sum, r.sha256)
			}
			if err == nil {
				return wheel, m.name, nil
			}
		}
		if ctx.Err() != nil {
			return "", "", ctx.Err()
		}
		failed = append(failed, m.name+": "+fault.Line(err))
	}
	return "", "", errors.New(strings.Join(failed, "; "))
}

// fetch downloads the wheel from where the package index says it is.
func (r release) fetch(ctx context.Context, folder string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	url, err := r.url(ctx)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, resp.Status)
	}
	to := filepath.Join(folder, "plugin.whl")
	w, err := os.Create(to)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(w, resp.Body)
	if e := w.Close(); err == nil {
		err = e
	}
	return to, err
}

// url asks the index. go-xla's function takes no context: it may go on for a
// while in the background when ctx ends.
func (r release) url(ctx context.Context) (string, error) {
	type answer struct {
		info *installer.PipPackageInfo
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		info, err := installer.GetPipInfo(r.pkg)
		done <- answer{info, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return "", a.err
		}
		for _, file := range a.info.Releases[r.version] {
			if file.Digests["sha256"] == r.sha256 {
				return file.URL, nil
			}
		}
		return "", fmt.Errorf("the index has no %s %s with SHA-256 %s", r.pkg, r.version, r.sha256)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (r release) pip(ctx context.Context, folder string) (string, error) {
	for _, name := range []string{"pip", "pip3"} {
		pip, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", folder, r.pkg+"=="+r.version)
		if out, err := cmd.CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			return "", fmt.Errorf("%w: %s", err, lines[len(lines)-1])
		}
		m, _ := filepath.Glob(filepath.Join(folder, "*.whl"))
		if len(m) != 1 {
			return "", fmt.Errorf("pip left %d wheels", len(m))
		}
		return m[0], nil
	}
	return "", errors.New("not on PATH")
}

// extract writes the plugin in a wheel, a zip file, to a new file.
func extract(wheel, name, to string) error {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return fault.Inputf("%s: not a wheel: %w", wheel, err)
	}
	defer z.Close()
	for _, f := range z.File {
		if path.Base(f.Name) != name || !f.Mode().IsRegular() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fault.Inputf("%s: %s: %w", wheel, f.Name, err)
		}
		defer r.Close()
		w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
		if err != nil {
			return fault.As(fault.Environment, err)
		}
		_, err = io.Copy(w, r) // checks the size and the CRC of the zip entry
		if err == nil {
			err = w.Sync()
		}
		if e := w.Close(); err == nil {
			err = e
		}
		if err != nil {
			return fault.As(fault.Environment, fmt.Errorf("%s: %s: %w", wheel, f.Name, err))
		}
		return nil
	}
	return fault.Inputf("%s: holds no %s; give the wheel of the plugin", wheel, name)
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
