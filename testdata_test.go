package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/SHA256SUMS anew")

// A golden that changes by accident makes a check that cannot fail; this names the
// golden.
func TestTestdataIsWhatWasReviewed(t *testing.T) {
	const sums = "testdata/SHA256SUMS"
	var got strings.Builder
	err := filepath.WalkDir("testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == sums {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(&got, "%x  %s\n", sha256.Sum256(b), strings.TrimPrefix(filepath.ToSlash(path), "testdata/"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(sums, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for line := range strings.Lines(got.String()) {
		have[line] = true
	}
	for line := range strings.Lines(string(want)) {
		if !have[line] {
			t.Errorf("changed or missing: testdata/%s", strings.TrimSpace(line[66:]))
		}
		delete(have, line)
	}
	for line := range have {
		t.Errorf("not in %s, or changed: testdata/%s (go test -run Testdata . -update)", sums, strings.TrimSpace(line[66:]))
	}
}
