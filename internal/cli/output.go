package cli

import (
	"errors"
	"io"
	"syscall"

	"github.com/evatool/evatool/internal/fault"
)

// output is standard output. It remembers the first failed write, which code that
// prints for people does not check, and fails all later ones.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(p)
	o.err = err
	return n, err
}

// result is the outcome of a command that ended with err: it fails too if its output
// could not be written. A reader that has seen enough and closed the pipe is no
// error.
func (o *output) result(err error) error {
	if o.err == nil || err != nil && !errors.Is(err, o.err) {
		return err
	}
	if errors.Is(o.err, syscall.EPIPE) {
		return nil
	}
	return fault.Envf("standard output: %w; the output is incomplete", o.err)
}
