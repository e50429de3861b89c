// Package fault gives errors a kind, which is an exit status on the command line
// and a word in Go.
//
// Every error that reaches the user is one line: what, where (file, tensor or
// key, value), what to do next.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Kind is a documented exit status.
type Kind int

// The documented exit statuses.
const (
	Done        Kind = 0
	CheckFailed Kind = 1 // the check that the user asked for failed
	Usage       Kind = 2 // flag or recipe key
	Input       Kind = 3 // file or dataset
	Environment Kind = 4 // no such backend, no space, no permission
	Interrupted Kind = 130
)

// Word is the kind's name in Go, and empty for Done.
func (k Kind) Word() string {
	switch k {
	case CheckFailed:
		return "check"
	case Usage:
		return "usage"
	case Input:
		return "input"
	case Environment:
		return "environment"
	case Interrupted:
		return "interrupted"
	}
	return ""
}

// Error is an error with a kind.
type Error struct {
	Status Kind
	err    error
}

func (e *Error) Error() string { return Masked(e.err.Error()) }

// Kind is the status as a word, as the errors of the public packages return it.
func (e *Error) Kind() string { return e.Status.Word() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// Usagef reports a bad option or recipe key. Like Inputf, Envf and Checkf it
// supports %w.
func Usagef(format string, args ...any) error { return &Error{Usage, fmt.Errorf(format, args...)} }

// Inputf reports bad input: a file, a dataset, a tensor. If the environment is
// the cause, the error has that kind instead.
func Inputf(format string, args ...any) error {
	return inputOr(fmt.Errorf(format, args...))
}

func inputOr(err error) error {
	if FromEnvironment(err) {
		return &Error{Environment, err}
	}
	return &Error{Input, err}
}

// Envf reports what the machine lacks: a backend, space, a permission.
func Envf(format string, args ...any) error { return &Error{Environment, fmt.Errorf(format, args...)} }

// Checkf reports that a check the user asked for failed.
func Checkf(format string, args ...any) error {
	return &Error{CheckFailed, fmt.Errorf(format, args...)}
}

// As gives err a kind unless it, or one of its causes, already has one. What the
// environment caused is never bad input.
func As(kind Kind, err error) error {
	var e *Error
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case kind == Input:
		return inputOr(err)
	}
	return &Error{kind, err}
}

// Because returns an error whose text does not repeat its cause; errors.Is and
// errors.As still find the cause.
func Because(kind Kind, cause error, format string, args ...any) error {
	return &Error{kind, &because{fmt.Sprintf(format, args...), cause}}
}

type because struct {
	text  string
	cause error
}

func (b *because) Error() string { return b.text }

func (b *because) Unwrap() error { return b.cause }

// Code returns the exit status for err.
func Code(err error) int { return int(kindOf(err)) }

func kindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return Done
	case errors.Is(err, context.Canceled):
		return Interrupted
	case FromEnvironment(err):
		return Environment
	case errors.As(err, &e):
		return e.Status
	default:
		return Input
	}
}

// Public gives *err, on its way out of a public function, the kind of its exit
// status, so that errors.As finds one in every error. The error with which ctx
// ended is an interruption, even a deadline. Call it with defer.
func Public(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	kind := kindOf(*err)
	if cause := ctx.Err(); cause != nil && errors.Is(*err, cause) {
		kind = Interrupted
	}
	var e *Error
	if !errors.As(*err, &e) || e.Status != kind {
		*err = &Error{kind, *err}
	}
}

// password matches the name and password of an address up to the @.
var password = regexp.MustCompile(`(://[^/?#\s:@]*):[^/?#\s]*@`)

// Masked is s without the passwords of the addresses in it, as
// [url.URL.Redacted] writes them.
func Masked(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	return password.ReplaceAllString(s, "$1:xxxxx@")
}

// Line is err as one line that is safe to show on a terminal: what comes from a
// file or a server is escaped unless it is quoted already.
func Line(err error) string {
	return Escape(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " "))
}

// Escape writes characters that a terminal or a browser would act on, and bytes
// that are not UTF-8, as Go escapes. Line breaks, tabs and the joiners of letters
// and emoji stay.
func Escape(s string) string {
	s = Masked(s)
	var b strings.Builder
	from := 0 // start of what is not in b yet
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		bad := r == utf8.RuneError && n == 1
		if bad || obeyed(r) && r != '\n' && r != '\t' && r != '\u200c' && r != '\u200d' {
			b.WriteString(s[from:i])
			if bad || r < utf8.RuneSelf {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			} else {
				quoted := strconv.QuoteRuneToASCII(r)
				b.WriteString(quoted[1 : len(quoted)-1])
			}
			from = i + n
		}
		i += n
	}
	if from == 0 {
		return s
	}
	b.WriteString(s[from:])
	return b.String()
}

// Name is s as a message may show it. A name from a file, a server or a user
// stays as it is when a terminal prints it as written. One with control
// characters, marks that change the direction of writing, zero-width characters,
// or bytes that are not UTF-8 is quoted, with those escaped.
func Name(s string) string {
	s = Masked(s)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || obeyed(r) {
			return strconv.QuoteToGraphic(s)
		}
		i += n
	}
	return s
}

// obeyed reports whether a terminal acts on or hides r rather than showing it:
// Unicode's Cc and Cf, which include the bidirectional marks and zero-width
// characters, and the line and paragraph separators.
func obeyed(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// File explains a failed open or stat of path in the user's words.
// want is what was expected there, such as "a checkpoint". errors.Is still finds
// fs.ErrNotExist.
func File(path, want string, err error) error {
	path = Name(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Because(Input, err, "%s: no such file; give the path of %s", path, want)
	case errors.Is(err, syscall.ENOTDIR):
		return Inputf("%s: a part of this path is a file, not a folder; give the path of %s", path, want)
	case errors.Is(err, syscall.EISDIR):
		return Inputf("%s: is a directory; give %s", path, want)
	}
	if advice := Advice(err); advice != "" {
		return Because(Environment, err, "%s: %s", path, advice)
	}
	return As(Input, fmt.Errorf("%s: %w", path, err))
}

// RegularFile checks that path is an existing regular file.
func RegularFile(path, want string) error {
	st, err := os.Stat(path)
	if err != nil {
		return File(path, want, err)
	}
	if st.IsDir() {
		return File(path, want, syscall.EISDIR)
	}
	if !st.Mode().IsRegular() {
		return Inputf("%s: not a regular file; give %s", Name(path), want)
	}
	return nil
}

// ReadAll reads r to its end, or until ctx ends: a terminal or a pipe may be silent
// for ever. It leaves such a read behind.
func ReadAll(ctx context.Context, r io.Reader) ([]byte, error) {
	var text []byte
	done := make(chan error, 1)
	go func() {
		var err error
		text, err = io.ReadAll(r)
		done <- err
	}()
	select {
	case err := <-done:
		return text, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReadFile reads a plain file of at most limit bytes: not a pipe, which may
// never end, nor a device. want is what was expected there.
func ReadFile(path, want string, limit int64) ([]byte, error) {
	if err := RegularFile(path, want); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, File(path, want, err)
	}
	defer f.Close()
	// The size is not checked first: a file can grow, and in /proc it is 0.
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, File(path, want, err)
	}
	if int64(len(text)) > limit {
		return nil, Inputf("%s: more than %d bytes; give %s", Name(path), limit, want)
	}
	return text, nil
}
