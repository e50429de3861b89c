package plugins

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// Remove removes installed plugins: one by its name, the last folder of its
// path, or all of a kind, "cpu" or "cuda". It returns the paths of the files
// that are gone. Plugins that Install did not put there stay.
func Remove(name string) ([]string, error) {
	var names, removed []string
	for _, p := range Find() {
		if !p.Installed() {
			continue
		}
		names = append(names, p.Name())
		if name != p.Name() && name != strings.TrimPrefix(p.Kind, "xla-") {
			continue
		}
		dir := filepath.Dir(p.Path)
		if slices.ContainsFunc(removed, func(path string) bool { return filepath.Dir(path) == dir }) {
			continue // a second library in one folder
		}
		// Out of sight in one step: no plugin without its record is ever found.
		gone := filepath.Join(filepath.Dir(dir), ".remove-"+filepath.Base(dir))
		_ = os.RemoveAll(gone)
		if err := os.Rename(dir, gone); err != nil {
			return removed, fault.As(fault.Environment, err)
		}
		removed = append(removed, p.Path)
		if err := os.RemoveAll(gone); err != nil {
			return removed, fault.As(fault.Environment, err)
		}
	}
	switch {
	case len(removed) > 0:
		return removed, nil
	case len(names) == 0:
		return nil, fault.Usagef("backend remove %s: no plugin is installed; remove one that backend list shows elsewhere with the tool that installed it", fault.Name(name))
	}
	slices.Sort(names)
	return nil, fault.Usagef("backend remove %s: not installed; give cpu, cuda or one of %s", fault.Name(name), strings.Join(slices.Compact(names), ", "))
}

// sweep removes what killed installations left behind.
func sweep(folder string) {
	left, _ := filepath.Glob(filepath.Join(folder, ".[ir]*-*"))
	for _, path := range left {
		base := filepath.Base(path)
		if !strings.HasPrefix(base, ".install-") && !strings.HasPrefix(base, ".remove-") {
			continue
		}
		if st, err := os.Lstat(path); err == nil && time.Since(st.ModTime()) > time.Hour {
			_ = os.RemoveAll(path)
		}
	}
}
