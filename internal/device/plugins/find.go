// Package plugins finds, installs and removes the XLA plugins (PJRT) of this
// machine. It loads none.
package plugins

import (
	"cmp"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evatool/evatool/internal/usercache"
)

// The kinds of plugins.
const (
	CPU  = "xla-cpu"
	CUDA = "xla-cuda"
)

// Plugin is a PJRT plugin file.
type Plugin struct {
	Path string `json:"path"`
	Kind string `json:"kind"`
	From string `json:"from"`          // where it was found: cache, python, go-xla
	Own  bool   `json:"own,omitempty"` // installed from a wheel of the user's own choice
}

const fromCache = "cache"

// Installed says whether the plugin lies where Install puts plugins.
func (p Plugin) Installed() bool { return p.From == fromCache }

// Name is the name under which Remove knows a plugin of the cache folder.
func (p Plugin) Name() string { return filepath.Base(filepath.Dir(p.Path)) }

// KindOf is the kind that a plugin's path implies, or "".
func KindOf(path string) string {
	p := strings.ToLower(path)
	switch {
	case strings.Contains(p, "cuda"), strings.Contains(p, "nvidia"):
		return CUDA
	case strings.Contains(p, "cpu"):
		return CPU
	}
	return ""
}

// HasNVIDIA says whether the kernel shows an NVIDIA GPU.
var HasNVIDIA = sync.OnceValue(func() bool {
	gpus, _ := filepath.Glob("/dev/nvidia[0-9]*")
	wsl, _ := filepath.Glob("/usr/lib/wsl/lib/libcuda.so*")
	return len(gpus)+len(wsl) > 0
})

// Folder is where Install puts plugins.
func Folder() (string, error) {
	base, err := usercache.Base()
	return filepath.Join(base, "plugins"), err
}

// Find lists the plugins on this machine in the order of preference:
// the user's cache folder, the packages of a Python on PATH, go-xla's folder.
// In the cache folder those of the user's own choice are first, the last
// installed before the others, then the pinned ones; else the newest version
// is first. No Python is run.
func Find() []Plugin {
	var found []Plugin
	add := func(from, folder string, patterns ...string) {
		for _, pattern := range patterns {
			m, _ := filepath.Glob(filepath.Join(folder, pattern))
			slices.Reverse(m)
			for _, path := range m {
				// Only what was added to folder counts: the folder may be anywhere.
				if kind := KindOf(strings.TrimPrefix(path, folder)); kind != "" {
					found = append(found, Plugin{Path: path, Kind: kind, From: from})
				}
			}
		}
	}
	if folder, err := Folder(); err == nil {
		add(fromCache, folder, "[^.]*/*.so")
		order(found)
	}
	for _, site := range SitePackages() {
		add("python", site, "jax_plugins/xla_cuda*/xla_cuda_plugin.so", "*/pjrt_c_api_cpu_plugin.so")
	}
	if home, err := os.UserHomeDir(); err == nil {
		add("go-xla", filepath.Join(home, ".local", "lib", "go-xla"), "nvidia/pjrt_c_api_cuda*_plugin.so", "pjrt_c_api_cpu*_plugin.so")
	}
	return found
}

// order sorts the plugins of the cache folder.
func order(found []Plugin) {
	type place struct {
		rank int
		at   time.Time
	}
	places := map[string]place{}
	for i, p := range found {
		r := readRecord(p.Path)
		switch {
		case r != nil && r.By != string(Pinned):
			found[i].Own = true
			st, err := os.Stat(filepath.Join(filepath.Dir(p.Path), recordFile))
			if err == nil {
				places[p.Path] = place{0, st.ModTime()}
			}
		case slices.ContainsFunc(slices.Collect(maps.Values(releases)), func(r release) bool { return r.name() == p.Name() }):
			places[p.Path] = place{rank: 1}
		default:
			places[p.Path] = place{rank: 2}
		}
	}
	slices.SortStableFunc(found, func(a, b Plugin) int {
		x, y := places[a.Path], places[b.Path]
		return cmp.Or(cmp.Compare(x.rank, y.rank), y.at.Compare(x.at))
	})
}

// SitePackages are the package folders of the Pythons on PATH.
func SitePackages() []string {
	var prefixes []string
	for _, env := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if v := os.Getenv(env); v != "" {
			prefixes = append(prefixes, v)
		}
	}
	for _, name := range []string{"python3", "python"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		prefixes = append(prefixes, filepath.Dir(filepath.Dir(path)))
		if real, err := filepath.EvalSymlinks(path); err == nil {
			prefixes = append(prefixes, filepath.Dir(filepath.Dir(real)))
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		prefixes = append(prefixes, filepath.Join(home, ".local"))
	}
	var sites []string
	for _, prefix := range prefixes {
		for _, pattern := range []string{"lib/python3*/site-packages", "lib64/python3*/site-packages",
			"lib/python3*/dist-packages", "local/lib/python3*/dist-packages"} {
			m, _ := filepath.Glob(filepath.Join(prefix, pattern))
			for _, site := range m {
				if !slices.Contains(sites, site) {
					sites = append(sites, site)
				}
			}
		}
	}
	return sites
}
