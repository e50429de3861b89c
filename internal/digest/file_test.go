package digest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	for _, n := range []int{0, 1, 1<<18 - 1, 1 << 18, 5<<18 + 7} {
		b := bytes.Repeat([]byte("evatool"), n/7+1)[:n]
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		want := sha256.Sum256(b)
		if sum, size, err := File(t.Context(), path, "a file"); err != nil || size != int64(n) || sum != hex.EncodeToString(want[:]) {
			t.Errorf("%d bytes: %s, %d, %v", n, sum, size, err)
		}
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := File(stopped, path, "a file"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{path + "x", t.TempDir(), os.DevNull} {
		if _, _, err := File(t.Context(), bad, "a file"); fault.Code(err) != int(fault.Input) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
