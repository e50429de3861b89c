package pjrt

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/gomlx/core/graph"
)

// cached opens the CPU plugin with a compile cache in dir, runs a program of
// some size and returns its result and the client.
func cached(t *testing.T, dir string) ([]float32, *Client) {
	t.Helper()
	c := open(t, dir)
	e, _, err := compiled(t, c, false, func(x *graph.Node) *graph.Node {
		return graph.Gradient(graph.ReduceAllSum(graph.Square(graph.Tanh(graph.MulScalar(graph.Dot(x, x).Product(), 1e-4)))), x)[0]
	}, 8, 8)
	if err != nil {
		t.Fatal(err)
	}
	return result(t, c, e, 8, 8), c
}

// TestCompileCache: the second start compiles nothing and gives the same
// bits; a damaged entry is compiled again.
func TestCompileCache(t *testing.T) {
	dir := t.TempDir()
	want, client := cached(t, dir)
	if h, m := client.CacheUse(); h != 0 || m != 1 {
		t.Fatalf("first start: %d hits, %d misses", h, m)
	}
	files := must[[]string](t)(filepath.Glob(filepath.Join(dir, "*")))
	if len(files) != 1 {
		t.Fatalf("cache holds %v", files)
	}
	good := must[[]byte](t)(os.ReadFile(files[0]))
	// A whole entry that is no program of this plugin.
	c := client.cache
	c.put("0", []byte("not a program"))
	foreign := must[[]byte](t)(os.ReadFile(c.path("0")))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for _, e := range []struct {
		name string
		data []byte
		hits int64
	}{
		{"whole", good, 1}, {"flipped bit", flipped, 0}, {"cut", good[:len(good)/2], 0},
		{"empty", nil, 0}, {"foreign", foreign, 0},
	} {
		if err := os.WriteFile(files[0], e.data, 0o644); err != nil {
			t.Fatal(err)
		}
		got, c := cached(t, dir)
		if !slices.Equal(got, want) {
			t.Errorf("%s: other bits", e.name)
		}
		if h, _ := c.CacheUse(); h != e.hits {
			t.Errorf("%s: %d hits, not %d", e.name, h, e.hits)
		}
	}
}

// TestCacheTwoProcesses: processes that compile the same program at once all
// finish and leave a good entry.
func TestCacheTwoProcesses(t *testing.T) {
	if dir := os.Getenv("EVATOOL_TEST_CACHE"); dir != "" {
		for range 5 {
			cached(t, dir)
			os.Remove(filepath.Join(dir, "gone")) // other files do no harm
		}
		return
	}
	cpuPlugin(t)
	dir := t.TempDir()
	var cmds []*exec.Cmd
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCacheTwoProcesses$")
		cmd.Env = append(os.Environ(), "EVATOOL_TEST_CACHE="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	_, c := cached(t, dir)
	if h, _ := c.CacheUse(); h != 1 {
		t.Error("no good entry was left")
	}
}

// TestCacheTrim: the folder stays under its bound, least recently used first.
func TestCacheTrim(t *testing.T) {
	c := &cache{dir: t.TempDir(), max: 2500, log: slog.New(slog.DiscardHandler)}
	for i, key := range []string{"a", "b", "c"} {
		c.put(key, bytes.Repeat([]byte{1}, 1000))
		at := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(c.path(key), at, at); err != nil {
			t.Fatal(err)
		}
		if i == 1 && c.get("a") == nil { // used: b is older now
			t.Fatal("a is gone too early")
		}
	}
	c.put("d", bytes.Repeat([]byte{1}, 1000))
	var left []string
	for _, key := range []string{"a", "b", "c", "d"} {
		if c.get(key) != nil {
			left = append(left, key)
		}
	}
	if strings.Join(left, "") != "ad" {
		t.Errorf("left: %v, not a and d", left)
	}
}

// TestCacheKey: every part of the key counts, and where parts end.
func TestCacheKey(t *testing.T) {
	seen := map[string]string{}
	for _, k := range [][3]string{{"s", "p", "o"}, {"x", "p", "o"}, {"s", "x", "o"}, {"s", "p", "x"}, {"s", "po", ""}, {"sp", "", "o"}} {
		key := (&cache{salt: []byte(k[0])}).key([]byte(k[1]), []byte(k[2]))
		if other, ok := seen[key]; ok {
			t.Errorf("%v has the key of %v", k, other)
		}
		seen[key] = fmt.Sprint(k)
	}
}

// TestNoCacheFolder: a folder that cannot be made costs the cache, nothing else.
func TestNoCacheFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, c := cached(t, filepath.Join(file, "cache")); c.cache != nil {
		t.Error("a cache inside a file")
	}
}
