// Package plugins finds, installs and removes the XLA plugins (PJRT) of this
// machine. It loads none.
package plugins

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/evatool/evatool/internal/fault"
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
	From string `json:"from"` // where it was found: cache, python, go-xla
}

// KindOf is the kind that a plugin's path tells, or "".
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

// HasNVIDIA tells whether the kernel shows an NVIDIA GPU.
var HasNVIDIA = sync.OnceValue(func() bool {
	gpus, _ := filepath.Glob("/dev/nvidia[0-9]*")
	wsl, _ := filepath.Glob("/usr/lib/wsl/lib/libcuda.so*")
	return len(gpus)+len(wsl) > 0
})

// Folder is where Install puts plugins.
func Folder() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fault.Envf("no cache folder: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "evatool", "plugins"), nil
}

// Find lists the plugins on this machine in the order of preference:
// the user's cache folder, the packages of a Python on PATH, go-xla's folder.
// Within a folder the newest version is first. No Python is run.
func Find() []Plugin {
	var found []Plugin
	add := func(from, folder string, patterns ...string) {
		for _, pattern := range patterns {
			m, _ := filepath.Glob(filepath.Join(folder, pattern))
			slices.Reverse(m)
			for _, path := range m {
				// Only what was added to folder counts: the folder may be anywhere.
				if kind := KindOf(strings.TrimPrefix(path, folder)); kind != "" {
					found = append(found, Plugin{path, kind, from})
				}
			}
		}
	}
	if folder, err := Folder(); err == nil {
		add("cache", folder, "*/*.so")
	}
	for _, site := range SitePackages() {
		add("python", site, "jax_plugins/xla_cuda*/xla_cuda_plugin.so", "*/pjrt_c_api_cpu_plugin.so")
	}
	if home, err := os.UserHomeDir(); err == nil {
		add("go-xla", filepath.Join(home, ".local", "lib", "go-xla"), "nvidia/pjrt_c_api_cuda*_plugin.so", "pjrt_c_api_cpu*_plugin.so")
	}
	return found
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
