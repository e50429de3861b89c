//go:build cgo

package pjrt

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/gomlx/gomlx/core/graph"
)

// TestWithEnv: variables are there while f runs, and afterwards what was there before.
func TestWithEnv(t *testing.T) {
	t.Setenv("EVATOOL_TEST_A", "before")
	t.Setenv("EVATOOL_TEST_B", "")
	before := os.Environ()
	failed := errors.New("failed")
	for _, want := range []error{nil, failed} {
		err := withEnv(map[string]string{"EVATOOL_TEST_A": "1", "EVATOOL_TEST_B": "2", "EVATOOL_TEST_C": "3"}, func() error {
			if got := os.Getenv("EVATOOL_TEST_A") + os.Getenv("EVATOOL_TEST_B") + os.Getenv("EVATOOL_TEST_C"); got != "123" {
				t.Errorf("inside: %q", got)
			}
			return want
		})
		if err != want {
			t.Errorf("%v, not %v", err, want)
		}
		after := os.Environ()
		slices.Sort(before)
		slices.Sort(after)
		if !slices.Equal(after, before) {
			t.Errorf("after: %v, was %v", after, before)
		}
	}
}

// TestUnknownVersions: linked with versions of go-xla and GoMLX that nobody
// has looked into, a program runs and gives the same; only what reaches inside
// is left out.
func TestUnknownVersions(t *testing.T) {
	twice := func(x *graph.Node) *graph.Node {
		y := graph.MulScalar(x, 2)
		Alias(x.Graph(), 0, 0)
		return y
	}
	known := open(t, "off")
	e, _, err := compiled(t, known, false, twice, 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := result(t, known, e, 1000)
	if got := MemoryOf(e); got.Aliased != 4000 {
		t.Errorf("known: %+v", got)
	}
	pinned = false
	defer func() { pinned = true }()
	link := filepath.Join(t.TempDir(), "cpu.so") // the same plugin, loaded anew
	if err := os.Symlink(cpuPlugin(t), link); err != nil {
		t.Fatal(err)
	}
	p := must[*Plugin](t)(Load(link, plugins.CPU))
	c := must[*Client](t)(p.NewClient(Options{Cache: "off"}))
	defer c.Close()
	e, _, err = compiled(t, c, false, twice, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if got := result(t, c, e, 1000); !slices.Equal(got, want) {
		t.Error("other results")
	}
	if got := MemoryOf(e); got != (MemoryUse{}) {
		t.Errorf("unknown: %+v", got)
	}
	pinned = true
	if got := MemoryOf(e); got.Aliased != 0 || got.Inputs != 4000 {
		t.Errorf("unknown: %+v", got)
	}
}
