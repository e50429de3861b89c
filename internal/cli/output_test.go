package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// limited takes n bytes and then fails.
type limited struct {
	n   int
	err error
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.n {
		n := l.n
		l.n = 0
		return n, l.err
	}
	l.n -= len(p)
	return len(p), nil
}

// TestOutput: a command's output must arrive, however it is printed. A pipe closed by
// its reader is no error.
func TestOutput(t *testing.T) {
	for _, args := range [][]string{
		{"--help"}, {"--version"}, {"version"}, {"version", "--json"}, {"train", "--help"}, {}, {"zeroshot", "list"}, {"models"},
		{"tokenize", "a cat"}, {"tokenize", "--json", "a cat"}, {"train", "EVA02-CLIP-B-16", "--dry-run"}, {"completion", "bash"},
	} {
		for _, room := range []int{0, 3} {
			var said bytes.Buffer
			code := Main(context.Background(), args, nil, &limited{room, fmt.Errorf("write /dev/stdout: %w", syscall.ENOSPC)}, &said)
			if got := said.String(); code != 4 || strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "evatool: standard output: write /dev/stdout: no space") {
				t.Errorf("%v with a full disk: exit status %d, %q", args, code, got)
			}
			said.Reset()
			if code := Main(context.Background(), args, nil, &limited{room, syscall.EPIPE}, &said); code != 0 || said.Len() > 0 {
				t.Errorf("%v with a closed pipe: exit status %d, %q", args, code, said.String())
			}
		}
	}
	// An error of the command itself is not hidden.
	for _, cause := range []error{syscall.EPIPE, syscall.ENOSPC} {
		o := &output{err: cause}
		if err := o.result(fault.Checkf("outside")); fault.Code(err) != 1 {
			t.Errorf("error %v", err)
		}
	}
	if err := (&output{}).result(errors.New("x")); err == nil {
		t.Error("an error is lost")
	}
}
