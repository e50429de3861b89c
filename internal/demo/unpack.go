package demo

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

const (
	// mark is the file that marks a folder as a demo's.
	mark       = ".evatool-demo"
	dataFolder = "data"
)

// unpack replaces out and writes the bundled data into out/data.
func unpack(bundle fs.FS, out string) error {
	if bundle == nil {
		return fault.Envf("this build has no demo data; build evatool from its repository root")
	}
	if st, err := os.Stat(out); err == nil && !st.IsDir() {
		return fault.Envf("%s: is a file, but the demo needs a folder; give another Options.Out", out)
	}
	entries, err := os.ReadDir(out)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0:
	case err != nil:
		return fault.File(out, "a folder for the demo's output", err)
	default:
		if _, err := os.Stat(filepath.Join(out, mark)); err != nil {
			return fault.Usagef("%s: holds files that are not a demo's; give an empty or new folder with Options.Out", out)
		}
		if err := os.RemoveAll(out); err != nil {
			return fault.File(out, "a folder for the demo's output", err)
		}
	}
	data := filepath.Join(out, dataFolder)
	if err := os.MkdirAll(data, 0o755); err != nil {
		return atomicfile.Explain(out, err)
	}
	if err := os.WriteFile(filepath.Join(out, mark), nil, 0o644); err != nil {
		return atomicfile.Explain(out, err)
	}
	return fs.WalkDir(bundle, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(bundle, path)
		if err != nil {
			return err
		}
		to := filepath.Join(data, filepath.Base(path))
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return atomicfile.Explain(to, err)
		}
		return nil
	})
}
