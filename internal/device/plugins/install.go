package plugins

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	pkg, version, wheel string // the wheel's SHA-256
	file, library       string // the plugin in the wheel and its SHA-256
	kind                string
	folder              string // in Folder, without the version
}

func (r release) name() string { return r.folder + "-" + r.version }

var releases = map[string]release{
	"cpu": {"lammps-jax-pjrt-cpu", "0.11.2", "1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1",
		"pjrt_c_api_cpu_plugin.so", "ad1309ac822b1b24d51b7f9947c7c9fa9ef5d67f390584cbc3d1fa2428fed9c2", CPU, "cpu"},
	"cuda": {"jax-cuda13-pjrt", "0.12.0.1", "5899bb6177eda86ea532afb9a26794f2bdd04966f6a01f9028266b16c2b6cf90",
		"xla_cuda_plugin.so", "b6de513893c09af2c77e71afcef46d9706f8c259337cdef4cd5cae2353886f75", CUDA, "cuda13"},
}

// InstallOptions say where a plugin comes from.
type InstallOptions struct {
	Wheel  string // a wheel file; "": the pinned one, downloaded
	SHA256 string // of a wheel other than the pinned one, as the user knows it
	Trust  bool   // the user vouches for the wheel, whatever it is
	Log    *slog.Logger
}

// Installed says what Install did.
type Installed struct {
	Plugin
	Name    string `json:"name"` // under which Remove knows it
	Package string `json:"package"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`  // of the wheel
	Trust   Trust  `json:"trust"`   // pinned or given
	Already bool   `json:"already"` // it was there already; nothing was done
	Method  string `json:"method,omitempty"`
	Before  string `json:"before,omitempty"` // the name of one that is loaded before it
}

// Install puts the plugin "cpu" or "cuda" into Folder. It takes it from the
// wheel file when one is given, else from the Python package index, with
// go-xla's downloader or with pip. A wheel other than the pinned one has to be
// vouched for by the user. A second call does nothing; a plugin that is no longer
// what was installed is installed again.
func Install(ctx context.Context, what string, o InstallOptions) (*Installed, error) {
	r, ok := releases[what]
	if !ok {
		return nil, fault.Usagef("backend install %s: unknown; give cpu or cuda", fault.Name(what))
	}
	if o.SHA256 = strings.ToLower(o.SHA256); o.SHA256 != "" {
		if sum, err := hex.DecodeString(o.SHA256); err != nil || len(sum) != sha256.Size {
			return nil, fault.Usagef("Options.SHA256 %s: not a SHA-256; give its 64 hexadecimal digits", fault.Name(o.SHA256))
		}
	}
	if o.Wheel == "" && (o.SHA256 != "" || o.Trust) {
		return nil, fault.Usagef("backend install %s: Options.SHA256 and Options.Trust apply to Options.Wheel; a download is always the pinned one", what)
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil, fault.Envf("backend install %s: there is no plugin for %s/%s; use backend go", what, runtime.GOOS, runtime.GOARCH)
	}
	folder, err := Folder()
	if err != nil {
		return nil, err
	}
	in := &Installed{Name: r.name(), Package: r.pkg, Version: r.version, SHA256: r.wheel, Trust: Pinned}
	known := record{Package: r.pkg, Version: r.version, Wheel: r.wheel, Library: r.library, By: string(Pinned)}
	if o.Wheel != "" {
		in.Method = "wheel"
		if in.SHA256, err = fileSHA256(o.Wheel, "the plugin's wheel"); err != nil {
			return nil, err
		}
		if err := o.vouched(in.SHA256, r); err != nil {
			return nil, err
		}
		if in.SHA256 != r.wheel {
			// The user's own choice of another version: kept apart, by its hash.
			in.Name, in.Version, in.Trust = r.folder+"-"+in.SHA256[:12], "", Given
			known = record{Package: r.pkg, Wheel: in.SHA256, By: "trust"}
			if o.SHA256 != "" {
				known.By = "sha256"
			}
		}
	}
	in.Plugin = Plugin{Path: filepath.Join(folder, in.Name, r.file), Kind: r.kind, From: fromCache, Own: in.Trust == Given}
	defer func() { in.Before = before(in.Plugin) }()
	if in.Already = known.fits(in.Path); in.Already {
		return in, nil
	}
	fail := func(err error) (*Installed, error) {
		return nil, fault.As(fault.Environment, fmt.Errorf("backend install %s: %w", what, err))
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fail(err)
	}
	sweep(folder)
	// Everything is assembled here and then moved into place in one step.
	tmp, err := os.MkdirTemp(folder, ".install-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(tmp)
	wheel := o.Wheel
	if wheel == "" {
		if wheel, in.Method, err = r.download(ctx, tmp, o.Log); err != nil {
			return nil, fault.Envf("backend install %s: %w; on a machine with network access run pip download --no-deps %s==%s, then run evatool backend install %s --wheel FILE here",
				what, err, r.pkg, r.version, what)
		}
	}
	ready := filepath.Join(tmp, in.Name)
	if err := os.Mkdir(ready, 0o755); err != nil {
		return fail(err)
	}
	library, err := extract(wheel, in.SHA256, r.file, filepath.Join(ready, r.file))
	if err != nil {
		return nil, err
	}
	if known.Library != "" && known.Library != library {
		return nil, fault.Envf("backend install %s: the SHA-256 of the wheel's %s is not the pinned one, but %s", what, r.file, library)
	}
	known.Library = library
	data, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(filepath.Join(ready, recordFile), append(data, '\n'), 0o644); err != nil {
		return fail(err)
	}
	dir := filepath.Dir(in.Path)
	if _, err := os.Lstat(dir); err == nil { // an older or a damaged one
		if err := os.Rename(dir, filepath.Join(tmp, "old")); err != nil {
			return fail(err)
		}
	}
	if err := os.Rename(ready, dir); err != nil && !known.fits(in.Path) { // not another process that was faster
		return fail(err)
	}
	return in, nil
}

// vouched says whether a wheel may be installed.
func (o InstallOptions) vouched(sum string, r release) error {
	switch {
	case o.SHA256 != "" && o.SHA256 != sum:
		return fault.Inputf("%s: its SHA-256 is %s, not the %s of Options.SHA256; get the file again", fault.Name(o.Wheel), sum, o.SHA256)
	case sum == r.wheel, o.SHA256 != "", o.Trust:
		return nil
	}
	return fault.Usagef("%s: its SHA-256 is %s, not that of %s %s, which evatool was tested with (%s); its code would run with your permissions: if its publisher states this hash, give Options.SHA256 %s; to install it unchecked, give Options.Trust",
		fault.Name(o.Wheel), sum, r.pkg, r.version, r.wheel, sum)
}

// fits says whether the plugin at a path is the one in the record.
func (r record) fits(path string) bool {
	if there := readRecord(path); there != nil && there.Wheel == r.Wheel && r.Library == "" {
		r.Library = there.Library
	}
	sum, err := fileSHA256(path, "a plugin")
	return err == nil && sum == r.Library
}

// before is the name of an installed plugin that is loaded before p, or "".
func before(p Plugin) string {
	for _, q := range Find() {
		if q.Installed() && q.Kind == p.Kind {
			if q.Path == p.Path {
				return ""
			}
			return q.Name()
		}
	}
	return ""
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
			if sum, err = fileSHA256(wheel, "the plugin's wheel"); err == nil && sum != r.wheel {
				err = fmt.Errorf("SHA-256 is %s, not %s", sum, r.wheel)
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
			if file.Digests["sha256"] == r.wheel {
				return file.URL, nil
			}
		}
		return "", fmt.Errorf("the index has no %s %s with SHA-256 %s", r.pkg, r.version, r.wheel)
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

// extract writes the plugin in a wheel, a zip file, to a new file, and returns
// the SHA-256 of what it wrote. sum is the wheel's: it may not have changed.
func extract(wheel, sum, name, to string) (string, error) {
	file, err := os.Open(wheel)
	if err != nil {
		return "", fault.File(wheel, "the plugin's wheel", err)
	}
	defer file.Close()
	h := sha256.New()
	size, err := io.Copy(h, file)
	if err != nil {
		return "", fault.File(wheel, "the plugin's wheel", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return "", fault.Inputf("%s: changed while it was being read; try again", fault.Name(wheel))
	}
	z, err := zip.NewReader(file, size)
	if err != nil {
		return "", fault.Inputf("%s: not a wheel: %w", fault.Name(wheel), err)
	}
	for _, f := range z.File {
		if path.Base(f.Name) != name || !f.Mode().IsRegular() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return "", fault.Inputf("%s: %s: %w", fault.Name(wheel), fault.Name(f.Name), err)
		}
		defer r.Close()
		w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
		if err != nil {
			return "", fault.As(fault.Environment, err)
		}
		h.Reset()
		_, err = io.Copy(io.MultiWriter(w, h), r) // checks the size and the CRC of the zip entry
		if err == nil {
			err = w.Sync()
		}
		if e := w.Close(); err == nil {
			err = e
		}
		if err != nil {
			return "", fault.As(fault.Environment, fmt.Errorf("%s: %s: %w", fault.Name(wheel), fault.Name(f.Name), err))
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	return "", fault.Inputf("%s: contains no %s; give the wheel of the plugin", fault.Name(wheel), name)
}
