//go:build !linux

package atomicfile

import (
	"errors"
	"os"
)

// reserve gives f its full size at once.
func reserve(f *os.File, size int64) error { return f.Truncate(size) }

// renameNoReplace exists on Linux only.
func renameNoReplace(string, string) error { return errors.ErrUnsupported }

// noInodes is known on Linux only.
func noInodes(string) bool { return false }
