package device

import (
	"errors"
	"fmt"
	"strings"

	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/evatool/evatool/internal/fault"
)

// catch runs f and turns a panic into an error: GoMLX panics on a graph that
// it cannot build.
func catch(what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(error)
			if !ok {
				e = fmt.Errorf("%v", r)
			}
			err = fault.As(fault.Environment, fmt.Errorf("%s: %w", what, e))
		}
	}()
	if err := f(); err != nil {
		return fault.As(fault.Environment, fmt.Errorf("%s: %w", what, err))
	}
	return nil
}

// OutOfMemory says whether an error of this package means that the device's
// memory is too small.
func OutOfMemory(err error) bool { return err != nil && strings.Contains(err.Error(), pjrt.NoMemory) }

var errConsumed = errors.New("the array was donated or freed")
