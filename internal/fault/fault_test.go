package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What is silent for ever is left when the context ends.
func TestReadAll(t *testing.T) {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if b, err := ReadAll(ctx, r); b != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v", b, err)
	}
	w.Close()
	if b, err := ReadAll(t.Context(), io.MultiReader(strings.NewReader("ab"), r)); string(b) != "ab" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{Checkf("x"), 1},
		{fmt.Errorf("wrapped: %w", Usagef("x")), 2},
		{Inputf("x"), 3},
		{errors.New("no kind"), 3},
		{Envf("x"), 4},
		{&fs.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}, 4},
		{fmt.Errorf("rename: %w", fs.ErrPermission), 4},
		{As(Input, Envf("keeps its own kind")), 4},
		{fmt.Errorf("stop: %w", context.Canceled), 130},
		{Inputf("a.tar: reading 8 bytes: %w", syscall.EIO), 4},
		{As(Input, &fs.PathError{Op: "read", Path: "f", Err: syscall.ESTALE}), 4},
		{fmt.Errorf("open: %w", syscall.EMFILE), 4},
		{Inputf("s3://b/k: %w", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}), 4},
		{Inputf("f: %w", &net.DNSError{IsTimeout: true}), 4},
		{fs.ErrNotExist, 3},
		{fmt.Errorf("f: %w", syscall.EISDIR), 3},
		{fmt.Errorf("f: %w", io.ErrUnexpectedEOF), 3},
		{Usagef("--out: %w", syscall.EACCES), 2},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("Code(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

// What the machine lacks is never the input's fault, whoever reports it.
func TestErrorsOfTheMachine(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.EIO,
		syscall.EFBIG, syscall.EMFILE, syscall.ENFILE, syscall.ESTALE, syscall.ETIMEDOUT, syscall.ENOMEM} {
		cause := &fs.PathError{Op: "read", Path: "f", Err: errno}
		for name, err := range map[string]error{
			"plain": cause, "wrapped": fmt.Errorf("tensor x: %w", cause), "File": File("f", "a thing", cause),
			"Inputf": Inputf("tensor x: %w", cause), "As": As(Input, fmt.Errorf("x: %w", cause)), "joined": errors.Join(errors.New("x"), cause),
		} {
			if Code(err) != 4 || !errors.Is(err, errno) {
				t.Errorf("%v, %s: status %d, %v", errno, name, Code(err), err)
			}
		}
		if text := File("f", "a thing", cause).Error(); !strings.Contains(text, "; ") {
			t.Errorf("%v: no next step in %q", errno, text)
		}
	}
	if err := As(Input, fmt.Errorf("x: %w", syscall.ENOENT)); Code(err) != 3 {
		t.Errorf("%v: status %d", err, Code(err))
	}
	if err := Usagef("--out %s: %w", "f", syscall.EACCES); Code(err) != 2 {
		t.Errorf("%v: status %d", err, Code(err))
	}
}

// An error that leaves a public function has the kind of its exit status, whatever it
// wraps, and is still found by errors.Is.
func TestPublic(t *testing.T) {
	late, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{context.Background(), Usagef("x"), "usage"},
		{context.Background(), fmt.Errorf("wrapped: %w", Checkf("x")), "check"},
		{context.Background(), errors.New("no kind"), "input"},
		{context.Background(), &fs.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}, "environment"},
		{context.Background(), Inputf("reading: %w", context.Canceled), "interrupted"},
		{context.Background(), Envf("the server: %w", context.DeadlineExceeded), "environment"}, // a deadline of its own
		{late, Inputf("reading: %w", context.DeadlineExceeded), "interrupted"},
		{late, Usagef("x"), "usage"},
	} {
		err := c.err
		Public(c.ctx, &err)
		var e interface {
			error
			Kind() string
		}
		if !errors.As(err, &e) || e.Kind() != c.want || !errors.Is(err, c.err) || err.Error() != c.err.Error() {
			t.Errorf("%v: %v; want the kind %s", c.err, err, c.want)
		}
	}
	var none error
	if Public(late, &none); none != nil {
		t.Error(none)
	}
}

func TestLineIsOneLine(t *testing.T) {
	if got := Line(errors.New("a\nb\t c\n")); strings.ContainsAny(got, "\n\t") || got != "a; b c;" {
		t.Errorf("Line = %q", got)
	}
}

func TestRegularFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                         "",
		dir:                          "is a directory; give a thing",
		filepath.Join(dir, "absent"): "no such file; give the path of a thing",
		"/dev/null":                  "not a regular file; give a thing",
	} {
		err := RegularFile(path, "a thing")
		if want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || Code(err) != 3 {
			t.Errorf("RegularFile(%s) = %v (exit %d), want %q, exit 3", path, err, Code(err), want)
		}
	}
}

func TestName(t *testing.T) {
	for _, clean := range []string{"", "a b.jpg", "naïve café", "日本語/犬.png", "say \"hi\"", `back\slash`, "e\u0301", "🦊", "\ufffd", "a\u00a0b"} {
		if got := Name(clean); got != clean {
			t.Errorf("Name(%q) = %q", clean, got)
		}
	}
	for s, want := range map[string]string{
		"a\x1b[2Jb":     `"a\x1b[2Jb"`,
		"two\nlines":    `"two\nlines"`,
		"nul\x00":       `"nul\x00"`,
		"bell\a":        `"bell\a"`,
		"del\x7f":       `"del\x7f"`,
		"c1\u009b31m":   `"c1\u009b31m"`,
		"gpj.\u202ea":   `"gpj.\u202ea"`,
		"iso\u2066late": `"iso\u2066late"`,
		"zero\u200bgap": `"zero\u200bgap"`,
		"mark\u200f":    `"mark\u200f"`,
		"bom\ufeff":     `"bom\ufeff"`,
		"tag\U000e0041": `"tag\U000e0041"`,
		"line\u2028":    `"line\u2028"`,
		"soft\u00adhy":  `"soft\u00adhy"`,
		"latin\xe9":     `"latin\xe9"`,
		"\"q\"\t":       `"\"q\"\t"`,
		"日本\u202e語":     `"日本\u202e語"`,
	} {
		if got := Name(s); got != want {
			t.Errorf("Name(%q) = %s, want %s", s, got, want)
		}
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(file, "a thing", 5); err != nil || string(b) != "12345" {
		t.Errorf("%q, %v", b, err)
	}
	for path, want := range map[string]string{
		file:                         "more than 4 bytes; give a thing",
		dir:                          "is a directory",
		filepath.Join(dir, "absent"): "no such file",
		"/dev/zero":                  "not a regular file",
	} {
		if _, err := ReadFile(path, "a thing", 4); err == nil || !strings.Contains(err.Error(), want) || Code(err) != 3 {
			t.Errorf("ReadFile(%s) = %v (exit %d), want %q, exit 3", path, err, Code(err), want)
		}
	}
	if _, err := ReadFile(filepath.Join(dir, "absent"), "a thing", 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünï, 猫, 👩‍🚀":    "plain, ünï, 猫, 👩‍🚀",
		"a\tb\nc":               "a\tb\nc",
		"\x1b[2Jgone\a":         `\x1b[2Jgone\x07`,
		"c1 \u009b31m nul \x00": `c1 \u009b31m nul \x00`,
		"txt.\u202egpj.exe":     `txt.\u202egpj.exe`,
		"isolate\u2066x\u2069":  `isolate\u2066x\u2069`,
		"broken \xff\xfe":       `broken \xff\xfe`,
		"line\u2028separator\r": `line\u2028separator\x0d`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := Line(Inputf("%s: bad\n%s", "\x1b]0;title\a", "next")); got != `\x1b]0;title\x07: bad; next` {
		t.Errorf("%q", got)
	}
}

func TestMasked(t *testing.T) {
	for in, want := range map[string]string{
		"GET https://me:pass@h/x.tar?q=a:b@c: refused": "GET https://me:xxxxx@h/x.tar?q=a:b@c: refused",
		"http://me:p@ss@h and http://:t@h":             "http://me:xxxxx@h and http://:xxxxx@h",
		"s3://bucket/a:b@c":                            "s3://bucket/a:b@c",
		"https://h:80/x@y":                             "https://h:80/x@y",
		"hf:a/b@main/x:y":                              "hf:a/b@main/x:y",
	} {
		if got := Masked(in); got != want {
			t.Errorf("Masked(%q) = %q, want %q", in, got, want)
		}
	}
}
