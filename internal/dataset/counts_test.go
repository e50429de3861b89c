package dataset

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// counts are those of a plan's tars.
func (p *Plan) counted() (out []int64) {
	for s := range p.Shards() {
		_, n := p.Shard(s)
		out = append(out, n)
	}
	return out
}

// smallTars writes tars of 1, 2, 3 … samples.
func smallTars(t *testing.T, dir string, n int) {
	for i := range n {
		var entries []entry
		for k := range i + 1 {
			key := fmt.Sprintf("%d-%d", i, k)
			entries = append(entries, entry{key + ".jpg", "picture"}, entry{key + ".txt", "caption"})
		}
		writeTar(t, filepath.Join(dir, fmt.Sprintf("%05d.tar", i)), entries)
	}
}

// TestCounts: numbers of samples are taken from what sets come with, in the
// form that each tool writes; other numbers than the tars' show who was asked.
func TestCounts(t *testing.T) {
	index := func(n int, end uint64) string { // of n samples
		return string(binary.LittleEndian.AppendUint64(make([]byte, 8*n), end))
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  []int64
		from  string
	}{
		"nothing": {nil, []int64{1, 2, 3}, "their headers"},
		"wids": {map[string]string{"shardindex.json": `{"name": "x", "shardlist": [{"url": "00000.tar", "nsamples": 11, "filesize": 5},
			{"url": "s3://elsewhere/00001.tar", "nsamples": 12}, {"url": "./00002.tar", "nsamples": 13}]}`}, []int64{11, 12, 13}, "shardindex.json"},
		"sizes.json":      {map[string]string{"sizes.json": `{"00002.tar": 23, "00000.tar": 21, "00001.tar": "22", "other.tar": 5}`}, []int64{21, 22, 23}, "sizes.json"},
		"img2dataset":     {map[string]string{"00000_stats.json": `{"count": 99, "successes": 31}`, "00001_stats.json": `{"successes": 32}`, "00002_stats.json": `{"successes": 33}`}, []int64{31, 32, 33}, "_stats.json"},
		"Energon":         {map[string]string{".nv-meta/.info.json": `{"energon_version": "7", "shard_counts": {"00000.tar": 41, "00001.tar": 42, "00002.tar": 43}}`}, []int64{41, 42, 43}, ".info.json"},
		"Energon's index": {map[string]string{"00000.tar.idx": index(51, 2048), "00001.tar.idx": index(52, 4096), "00002.tar.idx": index(53, 6144)}, []int64{51, 52, 53}, ".tar.idx"},
		"in part":         {map[string]string{"sizes.json": `{"00001.tar": 22}`}, []int64{1, 22, 3}, "their headers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_CACHE_HOME", t.TempDir())
			dir := t.TempDir()
			smallTars(t, dir, 3)
			for file, text := range c.files {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			p, err := OpenPlan(t.Context(), filepath.Join(dir, "{00000..00002}.tar"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.counted(); !slices.Equal(got, c.want) || !strings.Contains(p.from, c.from) {
				t.Errorf("%v by %s; want %v by %s", got, p.from, c.want, c.from)
			}
		})
	}
}

// TestCountsRefused: a file of counts that cannot be right is one error, not a guess.
func TestCountsRefused(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for file, text := range map[string]string{
		"sizes.json": `{"00000.tar": -4}`, "shardindex.json": `{"shardlist": [{"url": "00000.tar", "nsamples": 1e99}]}`,
		"00000_stats.json": `{"successes": "many"}`, "00000.tar.idx": "1234567", "index.json": `{"shardlist": [{"url":`,
	} {
		dir := t.TempDir()
		smallTars(t, dir, 1)
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := OpenPlan(t.Context(), filepath.Join(dir, "00000.tar"), Options{})
		if err == nil || fault.Code(err) != 3 || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestStaleIndex: an index of offsets that is not the tar's, as it was written
// again, appended to or cut since then, is found out, both where it counts
// samples and where a reader begins in the middle of the tar.
func TestStaleIndex(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := t.TempDir()
	name := filepath.Join(dir, "00000.tar")
	tarOf := func(n, size int) []byte { return mustTar(t, newMade(size, int32(n))) }
	offsets := func(n, size int) (b []byte) {
		sample := 3*512 + (max(12, size)+511)&^511
		for i := range n + 1 {
			b = binary.LittleEndian.AppendUint64(b, uint64(i*sample))
		}
		return b
	}
	ending := func(n int, end uint64) []byte { // with n samples of 1000 bytes, as it says
		return binary.LittleEndian.AppendUint64(offsets(n-1, 1000)[:8*n], end)
	}
	swapped := slices.Concat(tarOf(30, 100)[:30*2048], tarOf(20, 1000)) // other samples before the same end
	for what, c := range map[string]struct {
		tar, idx         []byte
		counted, started string
	}{
		"as it is":         {tarOf(30, 1000), offsets(30, 1000), "", ""},
		"written again":    {tarOf(30, 2000), offsets(30, 1000), "entries end at offset 76800", "entries end at offset 76800"},
		"longer":           {tarOf(31, 1000), offsets(30, 1000), "entries end at offset 76800", "entries end at offset 76800"},
		"shorter":          {tarOf(29, 1000), offsets(30, 1000), "entries end at offset 76800", "entries end at offset 76800"},
		"other inside":     {swapped, ending(50, uint64(len(swapped)-1024)), "", "it has sample"},
		"an end far away":  {tarOf(30, 1000), ending(30, 1<<40), "entries end at offset 1099511627776", "entries end at offset 1099511627776"},
		"an end inside":    {tarOf(30, 1000), ending(30, 77), "entry 30, 77, is not an offset", "entry 30, 77, is not an offset"},
		"half an entry":    {tarOf(30, 1000), offsets(30, 1000)[:100], "100 bytes are not an index", "100 bytes are not an index"},
		"of fewer samples": {tarOf(30, 1000), ending(9, 30*2560), "", "it has 9 samples"},
	} {
		t.Run(what, func(t *testing.T) {
			if err := errors.Join(os.WriteFile(name, c.tar, 0o644), os.WriteFile(name+".idx", c.idx, 0o644)); err != nil {
				t.Fatal(err)
			}
			p, err := OpenPlan(t.Context(), name, Options{})
			refused(t, err, c.counted)
			if err != nil {
				p = planOf(30) // counted by another file
				p.names, p.st, p.index, p.reads = []string{name}, disk{}, true, make(chan struct{}, 9)
			}
			_, err = p.openTar(t.Context(), 0, 15, 0, "")
			refused(t, err, c.started)
		})
	}
}

// refused checks a line about an index; empty for none.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "00000.tar.idx: ") || fault.Code(err) != 3) {
		t.Errorf("%v; want %q", err, want)
	}
}

func mustTar(t *testing.T, m made) []byte {
	t.Helper()
	data, err := m.tar("00000.tar")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestCountsAreKept: the walk over headers is not made again for a tar of the
// same size and time, and is for one that has changed.
func TestCountsAreKept(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := t.TempDir()
	smallTars(t, dir, 2)
	src, first := filepath.Join(dir, "*.tar"), filepath.Join(dir, "00000.tar")
	open := func() []int64 {
		p, err := OpenPlan(t.Context(), src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return p.counted()
	}
	if got := open(); !slices.Equal(got, []int64{1, 2}) {
		t.Fatal(got)
	}
	info, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, bytes.Repeat([]byte("x"), int(info.Size())), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(first, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got := open(); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("%v: walked again", got)
	}
	if err := os.Chtimes(first, time.Now(), info.ModTime().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPlan(t.Context(), src, Options{}); err == nil {
		t.Error("a changed tar was not looked at")
	}
}

// TestManyTars: a set of 232,000 tars opens by its list of counts within 64 MB,
// without a look at any tar.
func TestManyTars(t *testing.T) {
	const n = 232000
	dir := t.TempDir()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%c\n\"%06d.tar\": %d", "{,"[min(i, 1)], i, 8500+i%300)
	}
	b.WriteString("}")
	if err := os.WriteFile(filepath.Join(dir, "sizes.json"), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var most uint64 // that was in use at any time
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	start := time.Now()
	p, err := OpenPlan(context.Background(), filepath.Join(dir, fmt.Sprintf("{%06d..%06d}.tar", 0, n-1)), Options{})
	took := time.Since(start)
	close(done)
	<-stopped
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tars, %d samples: %v, %d MB at most, %d MB kept", p.Shards(), p.Len(), took, (most-before.HeapAlloc)>>20, (now.HeapAlloc-before.HeapAlloc)>>20)
	if held := int64(most) - int64(before.HeapAlloc); held > 64<<20 || held < 10<<20 {
		t.Errorf("opening the plan takes %d MB", held>>20)
	}
	if kept := int64(now.HeapAlloc) - int64(before.HeapAlloc); kept > 40<<20 {
		t.Errorf("the plan keeps %d MB", kept>>20)
	}
	if p.Shards() != n || p.Len() < 2e9 {
		t.Errorf("%d tars of %d samples", p.Shards(), p.Len())
	}
	runtime.KeepAlive(p)
}
