//go:build cgo

package pjrt

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
// bits; a whole entry that the plugin does not take, and entries that changed
// places, are compiled again.
func TestCompileCache(t *testing.T) {
	dir := t.TempDir()
	want, first := cached(t, dir)
	if h, m := first.CacheUse(); h != 0 || m != 1 {
		t.Fatalf("first start: %d hits, %d misses", h, m)
	}
	files := must[[]string](t)(filepath.Glob(filepath.Join(dir, "*")))
	if len(files) != 1 {
		t.Fatalf("cache holds %v", files)
	}
	check := func(name string, hits int64) {
		t.Helper()
		got, c := cached(t, dir)
		if !slices.Equal(got, want) {
			t.Errorf("%s: other bits", name)
		}
		if h, m := c.CacheUse(); h != hits || m != 1-hits {
			t.Errorf("%s: %d hits, %d misses", name, h, m)
		}
	}
	check("whole", 1)
	key := strings.TrimSuffix(filepath.Base(files[0]), ".xla")
	first.cache.put(key, []byte("not a program"))
	check("not a program", 0)

	// A second program of two inputs: executed in the place of the first it
	// would fail, or worse.
	two, _, err := compiled(t, first, false, func(x *graph.Node) *graph.Node {
		return graph.Add(x, graph.Parameter(x.Graph(), "y", x.Shape()))
	}, 8, 8)
	if err != nil || two == nil {
		t.Fatal(err)
	}
	files = must[[]string](t)(filepath.Glob(filepath.Join(dir, "*")))
	if len(files) != 2 {
		t.Fatalf("cache holds %v", files)
	}
	for _, move := range [][2]string{{files[0], "x"}, {files[1], files[0]}, {"x", files[1]}} {
		for i := range move {
			if move[i] == "x" {
				move[i] = filepath.Join(dir, "x")
			}
		}
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
	check("changed places", 0)
	check("compiled again", 1)
}

// TestCacheEntries: whatever lies in an entry's place is found out without
// waiting, and is no program; it makes room for one, or is ignored.
func TestCacheEntries(t *testing.T) {
	var log strings.Builder
	c := &cache{dir: t.TempDir(), max: 1 << 20, log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	c.put("good", []byte("program"))
	good := must[[]byte](t)(os.ReadFile(c.path("good")))
	write := func(data []byte) func(string) error {
		return func(path string) error { return os.WriteFile(path, data, 0o600) }
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, e := range []struct {
		name  string
		make  func(path string) error
		stays bool // it cannot be removed
	}{
		{"flipped bit", write(flipped), false},
		{"cut", write(good[:len(good)-3]), false},
		{"longer", write(append(bytes.Clone(good), 0)), false},
		{"empty", write(nil), false},
		{"text", write([]byte("text")), false},
		{"header alone", write([]byte(cacheMagic)), false},
		{"of an older version", write(append([]byte("evatool program 1\n"), good...)), false},
		{"of another key", func(path string) error { return os.Link(c.path("good"), path) }, false},
		{"link to a good one", func(path string) error { return os.Symlink(c.path("good"), path) }, false},
		{"link to zeros", func(path string) error { return os.Symlink("/dev/zero", path) }, false},
		{"link to nothing", func(path string) error { return os.Symlink("nothing", path) }, false},
		{"link to itself", func(path string) error { return os.Symlink(filepath.Base(path), path) }, false},
		{"pipe", func(path string) error { return syscall.Mkfifo(path, 0o600) }, false},
		{"link to a pipe", func(path string) error {
			if err := syscall.Mkfifo(path+".pipe", 0o600); err != nil {
				return err
			}
			return os.Symlink(path+".pipe", path)
		}, false},
		{"socket", func(path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}, false},
		{"device", func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|5) }, false},
		{"empty folder", func(path string) error { return os.Mkdir(path, 0o700) }, false},
		{"folder", func(path string) error { return os.MkdirAll(filepath.Join(path, "kept"), 0o700) }, true},
		{"huge", func(path string) error {
			if err := os.WriteFile(path, good, 0o600); err != nil {
				return err
			}
			return os.Truncate(path, 1<<40)
		}, false},
		{"not readable", func(path string) error { return os.WriteFile(path, nil, 0) }, false},
	} {
		log.Reset()
		path := c.path(strings.ReplaceAll(e.name, " ", "-"))
		key := strings.TrimSuffix(filepath.Base(path), ".xla")
		if err := e.make(path); err != nil {
			t.Logf("%s: not on this machine: %v", e.name, err)
			continue
		}
		done := make(chan []byte)
		go func() { done <- c.get(key) }()
		select {
		case got := <-done:
			if got != nil {
				t.Errorf("%s: taken for a program: %q", e.name, got)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: still waiting", e.name)
		}
		if !strings.Contains(log.String(), "level=DEBUG msg=\"cached program dropped\"") {
			t.Errorf("%s: logged %q", e.name, &log)
		}
		if _, err := os.Lstat(path); (err == nil) != e.stays {
			t.Errorf("%s: left: %v", e.name, err)
		}
		c.put(key, []byte("program"))
		if got := string(c.get(key)); got != "program" && !e.stays {
			t.Errorf("%s: afterwards %q", e.name, got)
		}
		if _, err := os.Lstat(filepath.Join(path, "kept")); e.stays && err != nil {
			t.Errorf("%s: its content is gone: %v", e.name, err)
		}
	}
	if got := string(c.get("good")); got != "program" {
		t.Errorf("a good one beside them: %q", got)
	}
}

// TestCacheOwner: another user's program is not run, and stays for its owner.
func TestCacheOwner(t *testing.T) {
	c := &cache{dir: t.TempDir(), max: 1 << 20, log: slog.New(slog.DiscardHandler)}
	c.put("a", []byte("program"))
	if err := os.Chown(c.path("a"), 12345, -1); err != nil {
		t.Skip("needs the right to give files away:", err)
	}
	if got := c.get("a"); got != nil {
		t.Errorf("taken: %q", got)
	}
	if _, err := os.Stat(c.path("a")); err != nil {
		t.Error(err)
	}
}

// TestCacheTwoProcesses: processes that compile the same program at once all
// finish and leave a good entry.
func TestCacheTwoProcesses(t *testing.T) {
	if dir := os.Getenv("EVATOOL_TEST_CACHE"); dir != "" {
		for range 2 {
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

// TestNoCacheFolder: a folder that cannot be made, written to or filled costs
// the cache, nothing else, and a line of the log says so.
func TestNoCacheFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	plugin := &Plugin{path: file} // has a hash, like any file
	for _, folder := range []string{file, filepath.Join(file, "cache"), pipe, "/dev/null", "/proc/nothing/here"} {
		var log strings.Builder
		c := openCache(Options{Cache: folder, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, plugin)
		if c != nil || !strings.Contains(log.String(), "no compile cache") {
			t.Errorf("%s: %+v, logged %q", folder, c, &log)
		}
	}
	if _, c := cached(t, filepath.Join(file, "cache")); c.cache != nil {
		t.Error("a cache inside a file")
	}
	for _, folder := range []string{"/proc/self", "/dev/full", "/nothing/here"} { // not writable for anyone
		var log strings.Builder
		c := &cache{dir: folder, max: 1 << 20, log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		c.put("key", []byte("program"))
		if c.get("key") != nil || !strings.Contains(log.String(), "compiled program not cached") {
			t.Errorf("%s: logged %q", folder, &log)
		}
	}
}
