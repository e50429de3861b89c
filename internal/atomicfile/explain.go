package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/evatool/evatool/internal/fault"
)

func (f *File) explain(err error) error {
	if err == io.EOF { // ReadAt promises exactly this
		return err
	}
	return explain(f.path, f.want, err)
}

// Explain says in plain words why writing to path failed. The kind is
// fault.Environment unless err has one; errors.Is still finds the cause.
func Explain(path string, err error) error { return explain(path, 0, err) }

// explain is Explain with the number of bytes to be written, or 0.
func explain(path string, want int64, err error) error {
	var kind *fault.Error
	if err == nil || errors.As(err, &kind) {
		return err
	}
	dir, name := fault.Name(filepath.Dir(path)), fault.Name(path)
	says := func(format string, args ...any) error {
		return fault.Because(fault.Environment, err, "%s: "+format, append([]any{name}, args...)...)
	}
	bytes := ""
	if want > 0 {
		bytes = fmt.Sprintf(" for %d bytes", want)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC) && noInodes(filepath.Dir(path)):
		return says("the file system of %s has no free inodes; remove some files or choose another folder", dir)
	case errors.Is(err, syscall.ENOSPC):
		return says("no space%s in %s; free some or choose another folder", bytes, dir)
	case errors.Is(err, syscall.EDQUOT):
		return says("no space%s in %s: the disk quota is used up; free some or choose another folder", bytes, dir)
	case errors.Is(err, syscall.EFBIG) && want > 0:
		return says("%d bytes are more than the limit for a file there (ulimit -f, or the file system); choose another folder", want)
	case errors.Is(err, syscall.EROFS):
		return says("%s is read-only; choose another folder", dir)
	case errors.Is(err, fs.ErrPermission):
		return says("no permission to write in %s; choose another folder", dir)
	case errors.Is(err, fs.ErrNotExist):
		return says("no folder %s; create it first", dir)
	case errors.Is(err, syscall.ENOTDIR):
		return says("a part of %s is a file, not a folder; choose another folder", dir)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		return says("is a folder; give the name of a file to write")
	}
	if advice := fault.Advice(err); advice != "" {
		return says("%s", advice)
	}
	return fault.As(fault.Environment, fmt.Errorf("%s: %w", name, err))
}

// cannotSync reports whether an error of fsync means that the file system does
// not support it for folders.
func cannotSync(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission)
}
