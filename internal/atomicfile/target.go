package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// Target checks that a file can be written at path, before there is work to
// lose: the folder must exist, and the path be free or a plain file. The new file
// takes the name, so a link, a pipe or a device would be lost.
func Target(path string) error {
	dir := filepath.Dir(path)
	if st, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fault.Envf("%s: no such folder for the output; create it first", fault.Name(dir))
	} else if err != nil {
		return Explain(path, err)
	} else if !st.IsDir() {
		return fault.Envf("%s: not a folder; give another output", fault.Name(dir))
	}
	st, err := os.Lstat(path)
	if err != nil {
		return nil // free, or creating the file will report what is wrong
	}
	what := ""
	switch m := st.Mode(); {
	case m.IsRegular():
		return nil
	case m.IsDir():
		what = "a folder"
	case m&fs.ModeSymlink != 0:
		what = "a symbolic link, which the file would replace"
	case m&fs.ModeNamedPipe != 0:
		what = "a named pipe"
	default:
		what = "a device or a socket"
	}
	return fault.Envf("%s: is %s, not a regular file; give the name of a file to write", fault.Name(path), what)
}

// Apart checks that the outputs are different files from the inputs and from
// each other. It compares files, not names: through links, and in any letter case
// that the file system takes as the same. Empty names are skipped. An input may
// be a folder, whose files an output may not replace either.
func Apart(outputs, inputs []string) error {
	for i, out := range outputs {
		if out == "" {
			continue
		}
		for _, other := range outputs[:i] {
			if other != "" && same(out, other) {
				return fault.Usagef("%s: two outputs would be written to this file; give each its own name", fault.Name(out))
			}
		}
		st, err := os.Stat(out)
		if err != nil {
			continue // it replaces nothing
		}
		for _, in := range inputs {
			if in == "" {
				continue
			}
			read, err := os.Stat(in)
			switch {
			case err != nil:
			case os.SameFile(st, read):
				return fault.Usagef("%s: is the input %s, which the output would replace; choose another output", fault.Name(out), fault.Name(in))
			case read.IsDir() && !st.IsDir() && within(out, read):
				return fault.Usagef("%s: is a file in the input folder %s, which the output would replace; choose another output", fault.Name(out), fault.Name(in))
			}
		}
	}
	return nil
}

// Folder is Target and Apart for files of these names in a folder that evatool
// fills. That folder may lie inside an input folder, so only inputs that are
// files are compared.
func Folder(dir string, names []string, inputs []string) error {
	var outputs, plain []string
	for _, n := range names {
		path := filepath.Join(dir, n)
		if _, err := os.Lstat(path); err == nil {
			if err := Target(path); err != nil {
				return err
			}
		}
		outputs = append(outputs, path)
	}
	for _, in := range inputs {
		if st, err := os.Stat(in); err == nil && !st.IsDir() {
			plain = append(plain, in)
		}
	}
	return Apart(outputs, plain)
}

// same reports whether two outputs, which may not exist yet, are one file.
func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	if err1 == nil && err2 == nil {
		return os.SameFile(x, y)
	}
	dirs := func() bool {
		x, err1 := os.Stat(filepath.Dir(a))
		y, err2 := os.Stat(filepath.Dir(b))
		return err1 == nil && err2 == nil && os.SameFile(x, y)
	}
	return err1 != nil && err2 != nil && strings.EqualFold(filepath.Base(a), filepath.Base(b)) && dirs()
}

// within reports whether a path is below a folder.
func within(path string, folder fs.FileInfo) bool {
	abs, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	for dir := filepath.Dir(abs); ; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && os.SameFile(st, folder) {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}
