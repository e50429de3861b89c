package eval

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/runlog"
)

// The cache gives back the bits it was given, and nothing when it does not fit.
func TestClassifierCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "c.safetensors")
	built := 0
	get := func(key string, dim, classes int) *classifier {
		t.Helper()
		c, err := cachedClassifier(path, key, dim, classes, runlog.Discard(), func(partial) (*classifier, error) {
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

// stopping is a fake that is stopped while it encodes texts.
type stopping struct {
	*fake
	stop func()
	at   int // texts after which it is stopped
	n    int
}

func (s *stopping) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	if s.n += n; s.n >= s.at {
		s.stop()
	}
	return s.fake.Texts(ctx, tokens, n)
}

// Class vectors that were begun are continued, to the same bits.
func TestClassifierStopped(t *testing.T) {
	templates := []string{"a {}", "the {}", "one {}"}
	path := filepath.Join(t.TempDir(), "c.safetensors")
	build := func(ctx context.Context, enc encoder, path string) (*classifier, error) {
		return cachedClassifier(path, "k", 8, len(fakeClasses), runlog.Discard(), func(part partial) (*classifier, error) {
			return buildClassifier(ctx, enc, bpe.New(), prompts{names: fakeClasses, templates: templates}, 2, noMeter{}, part)
		})
	}
	want, err := build(t.Context(), newFake(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	enc := &stopping{newFake(), stop, 7, 0}
	if _, err := build(ctx, enc, path); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the class vectors of 8 of 21 prompts are kept; run the same evaluation again to continue") {
		t.Fatal(err)
	}
	enc = &stopping{newFake(), func() {}, 0, 0}
	got, err := build(t.Context(), enc, path)
	if err != nil || !slices.Equal(got.w, want.w) {
		t.Errorf("not the same vectors: %v", err)
	}
	if enc.n != 13 {
		t.Errorf("%d prompts encoded after the stop, want 13", enc.n)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*part*")); len(left) > 0 {
		t.Error(left)
	}
	// Without a cache nothing is kept, and the error does not claim it.
	ctx, stop = context.WithCancel(t.Context())
	if _, err := build(ctx, &stopping{newFake(), stop, 7, 0}, ""); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "kept") {
		t.Error(err)
	}
}
