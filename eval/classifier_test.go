package eval

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/evatool/evatool/internal/runlog"
)

// The cache gives back the bits it was given, and nothing when it does not fit.
func TestClassifierCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "c.safetensors")
	built := 0
	get := func(key string, dim, classes int) *classifier {
		t.Helper()
		c, err := cachedClassifier(path, key, dim, classes, runlog.Discard(), func() (*classifier, error) {
			built++
			return &classifier{2, []float32{0.6, 0.8, 1, 0, -0.28, 0.96}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	get("k", 2, 3)
	c := get("k", 2, 3)
	if built != 1 {
		t.Errorf("built %d times", built)
	}
	for i, v := range []float32{0.6, 0.8, 1, 0, -0.28, 0.96} {
		if c.w[i] != v {
			t.Errorf("value %d is %v, want %v", i, c.w[i], v)
		}
	}
	get("other", 2, 3)
	if built != 2 {
		t.Error("another key was taken from the cache")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	write(t, path, b)
	get("other", 2, 3)
	if built != 3 {
		t.Error("a damaged cache was used")
	}
	write(t, path, []byte("short"))
	get("other", 2, 3)
	if built != 4 {
		t.Error("a broken cache was used")
	}
	if cacheFile("off", "k") != "" {
		t.Error("off is a folder")
	}
}
