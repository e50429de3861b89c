package cli

import (
	"errors"
	"io"
	"syscall"

	"github.com/evatool/evatool/internal/fault"
)

// output is standard output. It remembers the first write that failed, which
// whoever prints for people does not look at, and fails all after it.
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

// result is the outcome of a command that ended with err: what it printed has
// to have arrived. A reader that has seen enough and closed the pipe is none
// of the command's troubles.
func (o *output) result(err error) error {
	if o.err == nil || err != nil && !errors.Is(err, o.err) {
		return err
	}
	if errors.Is(o.err, syscall.EPIPE) {
		return nil
	}
	return fault.Envf("standard output: %w; the output is incomplete", o.err)
}
