package convert

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve gives f its full size at once, so that a full disk is an error
// before the work and not after it.
func reserve(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINTR) {
		return f.Truncate(size)
	}
	return err
}
