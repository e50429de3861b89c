package fault

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// environmental lists the errors of a system in trouble, whatever the data:
// storage that fails, is full or is gone, limits, permissions, the network. They
// mean exit status 4 wherever they surface. advice is the cause in plain words
// and what to do; where it is empty, the system's own words will do.
var environmental = []struct {
	is     error
	advice string
}{
	{syscall.EIO, "input/output error: the disk or its connection is failing; check the system log"},
	{syscall.ESTALE, "the network file system has lost the file; try again"},
	{syscall.ENOSPC, "no space left on the disk (or no free inodes); free some, or choose another folder"},
	{syscall.EDQUOT, "the disk quota is used up; free some space, or choose another folder"},
	{syscall.EFBIG, "larger than the limit for a file there; raise it (ulimit -f), or choose another folder"},
	{syscall.EROFS, "the file system is read-only; choose another folder"},
	{syscall.EMFILE, "too many open files; raise the limit (ulimit -n)"},
	{syscall.ENFILE, "too many open files on the whole system; close some programs"},
	{syscall.ENOMEM, "not enough memory; close some programs, or raise the limit (ulimit -v)"},
	{fs.ErrPermission, "permission denied; change the permissions, or give another path"}, // EACCES, EPERM
	{syscall.ETIMEDOUT, "the storage does not respond; try again"},
	{is: syscall.ENODEV}, {is: syscall.ENOLCK}, {is: syscall.EBUSY}, {is: syscall.EAGAIN}, {is: syscall.EINTR},
	{is: os.ErrDeadlineExceeded}, {is: context.DeadlineExceeded},
	{is: syscall.ECONNRESET}, {is: syscall.ECONNREFUSED}, {is: syscall.ECONNABORTED}, {is: syscall.EPIPE},
	{is: syscall.EHOSTUNREACH}, {is: syscall.EHOSTDOWN}, {is: syscall.ENETUNREACH}, {is: syscall.ENETDOWN}, {is: syscall.ENETRESET},
}

// FromEnvironment reports whether err is about the machine, its storage or its
// network rather than the data: what could not be read today may be good. An
// error of kind Environment is, and so is any other with such a cause, even one
// of kind Input.
func FromEnvironment(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var e *Error
	if errors.As(err, &e) && e.Status != Input {
		return e.Status == Environment
	}
	for _, known := range environmental {
		if errors.Is(err, known.is) {
			return true
		}
	}
	var late interface{ Timeout() bool } // net.Error
	return errors.As(err, &late) && late.Timeout()
}

// Advice is the cause of an environment error in plain words, and what to do;
// empty where the system's own words are best.
func Advice(err error) string {
	for _, known := range environmental {
		if known.advice != "" && errors.Is(err, known.is) {
			return known.advice
		}
	}
	return ""
}
