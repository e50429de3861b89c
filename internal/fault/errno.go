package fault

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// environmental are the errors of a system that is in trouble, whatever the
// data are: storage that fails, is full or went away, limits, permissions, the
// network.
var environmental = []error{
	syscall.EIO, syscall.ESTALE, syscall.ENODEV, syscall.ENOLCK, syscall.EBUSY,
	syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS,
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EINTR,
	fs.ErrPermission, // EACCES, EPERM
	syscall.ETIMEDOUT, os.ErrDeadlineExceeded, context.DeadlineExceeded,
	syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED, syscall.EPIPE,
	syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.ENETRESET,
}

// FromEnvironment reports whether err says something about the machine, its
// storage or its network, and nothing about the data: what could not be read
// today may be good. An error of kind Environment does, and so does every
// other one with such a cause, also below kind Input.
func FromEnvironment(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var e *Error
	if errors.As(err, &e) && e.Kind != Input {
		return e.Kind == Environment
	}
	for _, known := range environmental {
		if errors.Is(err, known) {
			return true
		}
	}
	var late interface{ Timeout() bool } // net.Error
	return errors.As(err, &late) && late.Timeout()
}
