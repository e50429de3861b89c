package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCompilers(t *testing.T) {
	here := target{os: "linux", arch: "amd64"}
	none := func(string) (string, error) { return "", errors.New("not here") }
	all := func(name string) (string, error) { return "/usr/bin/" + name, nil }
	for _, c := range []struct {
		i       int
		here    target
		look    func(string) (string, error)
		cc, why string
	}{
		{0, here, all, "cc", ""},
		{0, here, none, "", "no C compiler cc"},
		{1, here, all, "aarch64-linux-gnu-gcc", ""},
		{1, here, none, "", "no C compiler aarch64-linux-gnu-gcc (Debian's gcc-aarch64-linux-gnu)"},
		{0, target{os: "linux", arch: "arm64"}, all, "x86_64-linux-gnu-gcc", ""},
		{2, here, all, "", "its C compiler runs only on darwin"},
		{2, target{os: "darwin", arch: "arm64"}, all, "cc", ""},
		{3, target{os: "darwin", arch: "arm64"}, all, "cc -arch x86_64", ""},
		{0, target{os: "darwin", arch: "arm64"}, none, "", "no C compiler x86_64-linux-gnu-gcc (Debian's gcc-x86-64-linux-gnu)"},
	} {
		if cc, why := targets[c.i].cc(c.here, "cc", c.look); cc != c.cc || why != c.why {
			t.Errorf("%v on %v: %q, %q; want %q, %q", targets[c.i], c.here, cc, why, c.cc, c.why)
		}
	}
}

// TestArchive: every command has a man page, every shell its completions, and two
// archives of the same files are byte for byte the same.
func TestArchive(t *testing.T) {
	when := time.Unix(1_700_000_000, 0)
	docs, err := documents(when)
	if err != nil {
		t.Fatal(err)
	}
	again, err := documents(when)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for path, files := range map[string][]file{a: docs, b: again} {
		if err := writeArchive(path, "evatool-1", append([]file{{"evatool", 0o755, []byte("program")}}, files...), when); err != nil {
			t.Fatal(err)
		}
	}
	first, second := read(t, a), read(t, b)
	if !bytes.Equal(first, second) {
		t.Error("two archives differ")
	}
	z, err := gzip.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		members[h.Name] = string(text)
		if h.Name == "evatool-1/evatool" && h.Mode != 0o755 {
			t.Errorf("the program has mode %o", h.Mode)
		}
	}
	for name, want := range map[string]string{
		"evatool-1/evatool":                           "program",
		"evatool-1/man/man1/evatool.1":                ".SH",
		"evatool-1/man/man1/evatool-convert.1":        "saturate",
		"evatool-1/man/man1/evatool-zeroshot.1":       `FOLDER<TAB>NAME`,
		"evatool-1/man/man1/evatool-zeroshot-merge.1": ".SH",
		"evatool-1/completions/evatool.bash":          "evatool",
		"evatool-1/completions/_evatool":              "#compdef evatool",
		"evatool-1/completions/evatool.fish":          "evatool",
	} {
		if !strings.Contains(members[name], want) {
			t.Errorf("%s: no %q in %.100q", name, want, members[name])
		}
	}
	if err := writeSums(dir, []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("sha256sum"); err == nil {
		cmd := exec.CommandContext(context.Background(), "sha256sum", "-c", "SHA256SUMS")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
