package dataset

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// made is a storage of tars that are made when they are read: 00012.tar has as
// many samples as tars says, with its number in each picture.
type made struct {
	disk
	tars  []int32
	size  int                                  // of a picture
	fails func(name string, off int64) error   // nil: never
	alter func(name string, tar []byte) []byte // nil: as they are
	stamp func() string                        // nil: always the same
	bytes *atomic.Int64                        // read
	live  *atomic.Int64                        // reads under way
	most  *atomic.Int64                        // of those
}

func newMade(size int, tars ...int32) made {
	return made{tars: tars, size: size, bytes: new(atomic.Int64), live: new(atomic.Int64), most: new(atomic.Int64)}
}

func (m made) tar(name string) ([]byte, error) {
	var i int
	if _, err := fmt.Sscanf(name, "%05d.tar", &i); err != nil || i >= len(m.tars) || strings.HasSuffix(name, ".idx") {
		return nil, fs.ErrNotExist
	}
	var b []byte
	for k := range m.tars[i] {
		key := fmt.Sprintf("%05d-%06d", i, k)
		for _, e := range []struct{ ext, body string }{{".jpg", key + strings.Repeat(".", max(0, m.size-len(key)))}, {".txt", "caption of " + key}} {
			b = append(appendHeader(b, key+e.ext, len(e.body)), e.body...)
			b = append(b, make([]byte, -len(e.body)&511)...)
		}
	}
	b = append(b, make([]byte, 1024)...)
	if m.alter != nil {
		if out := m.alter(name, b); out != nil {
			return out, nil
		}
		return nil, fs.ErrNotExist
	}
	return b, nil
}

// plainHeader is the header of a plain file without its name, size and sum.
var plainHeader = func() (h [512]byte) {
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        0")
	copy(h[257:], "ustar\x0000")
	return h
}()

// appendHeader is the header of a plain file, faster than archive/tar has it.
func appendHeader(b []byte, name string, size int) []byte {
	at := len(b)
	b = append(b, plainHeader[:]...)
	h := b[at:]
	copy(h, name)
	octal := func(to []byte, v int) {
		for i := len(to) - 1; i >= 0; i, v = i-1, v>>3 {
			to[i] = '0' + byte(v&7)
		}
	}
	octal(h[124:135], size)
	sum := 0
	for _, c := range h[:265] {
		sum += int(c)
	}
	octal(h[148:154], sum)
	h[154] = 0
	return b
}

func (m made) stat(_ context.Context, name string) (int64, bool, error) {
	if m.fails != nil {
		if err := m.fails(name, -1); err != nil {
			return 0, false, err
		}
	}
	if m.alter == nil && !strings.HasSuffix(name, ".idx") {
		var i int
		fmt.Sscanf(name, "%05d.tar", &i)
		return int64(m.tars[i])*int64(1536+(max(12, m.size)+511)&^511) + 1024, false, nil
	}
	b, err := m.tar(name)
	return int64(len(b)), false, err
}

func (m made) read(_ context.Context, name string, off, n int64) ([]byte, error) {
	live := m.live.Add(1)
	defer m.live.Add(-1)
	for most := m.most.Load(); live > most && !m.most.CompareAndSwap(most, live); most = m.most.Load() {
	}
	if m.fails != nil {
		if err := m.fails(name, off); err != nil {
			return nil, err
		}
	}
	b, err := m.tar(name)
	if err != nil {
		return nil, err
	}
	m.bytes.Add(n)
	return slices.Clone(b[off : off+n]), nil
}

func (m made) stamped(ctx context.Context, name string) (int64, bool, string, error) {
	stamp := "made"
	if m.stamp != nil {
		stamp = m.stamp()
	}
	size, dir, err := m.stat(ctx, name)
	return size, dir, stamp, err
}

func (m made) readOf(ctx context.Context, name, _ string, off, n int64) ([]byte, error) {
	return m.read(ctx, name, off, n)
}

func (m made) plan() *Plan {
	p := planOf(m.tars...)
	p.st, p.from, p.reads = m, "a test", make(chan struct{}, maxReads)
	return p
}

// sequence reads n samples of a lane: their keys, a # before bad ones.
func sequence(t testing.TB, p *Plan, lane, lanes int, from, n int64, o LaneOptions) ([]string, error) {
	r := p.Read(t.Context(), p.Lane(5, lane, lanes), from, o)
	defer r.Close()
	var out []string
	for i := range n {
		s, err := r.Next(t.Context())
		if err != nil {
			return out, err
		}
		key := s.Example.Key
		switch {
		case s.Pos != from+i:
			t.Fatalf("position %d, want %d", s.Pos, from+i)
		case s.Err != nil:
			key = "#" + key
		case !strings.HasPrefix(string(s.Example.Image), key) || s.Example.Captions[0] != "caption of "+key:
			t.Fatalf("%s has the picture %.20s and the caption %s", key, s.Example.Image, s.Example.Captions)
		}
		if other := s.Instead(uint64(i)); other.Example.Key == "" {
			t.Fatalf("%s has no other one", key)
		}
		out = append(out, key)
	}
	return out, nil
}

// planned is what a lane's order says that it gives.
func planned(p *Plan, lane, lanes int, from, n int64) (out []string) {
	l := p.Lane(5, lane, lanes)
	for pos := from; pos < from+n; pos++ {
		s, o := l.At(pos)
		out = append(out, fmt.Sprintf("%05d-%06d", s, o))
	}
	return out
}

// TestLanesGiveEverySampleOnce: 10,000 tars of 10 for 1, 2, 4 and 8 readers, which
// own the same eight lanes.
func TestLanesGiveEverySampleOnce(t *testing.T) {
	tens := make([]int32, 10000)
	for i := range tens {
		tens[i] = 10
	}
	m := newMade(0, tens...)
	p := m.plan()
	const lanes = 8
	var first [][]string
	for _, readers := range []int{1, 2, 4, 8} {
		got := make([][]string, lanes)
		var wg sync.WaitGroup
		for reader := range readers {
			wg.Go(func() { // a reader goes round its lanes, as the rows of batches do
				var rs []*LaneReader
				for lane := reader * lanes / readers; lane < (reader+1)*lanes/readers; lane++ {
					r := p.Read(t.Context(), p.Lane(5, lane, lanes), 0, LaneOptions{})
					defer r.Close()
					rs = append(rs, r)
				}
				for range p.Len() / lanes {
					for i, r := range rs {
						s, err := r.Next(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						lane := reader*lanes/readers + i
						got[lane] = append(got[lane], s.Example.Key)
					}
				}
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for _, keys := range got {
			for _, k := range keys {
				if seen[k] {
					t.Fatalf("%d readers: %s comes twice", readers, k)
				}
				seen[k] = true
			}
		}
		if len(seen) != int(p.Len()) {
			t.Fatalf("%d readers gave %d of %d samples", readers, len(seen), p.Len())
		}
		if first == nil {
			first = got
		}
		for lane := range got {
			if !slices.Equal(got[lane], first[lane]) {
				t.Fatalf("%d readers: lane %d gives another sequence", readers, lane)
			}
		}
	}
	if most := m.most.Load(); most > maxReads {
		t.Errorf("%d reads at a time", most)
	}
}

// TestLaneFollowsPlan: a lane gives what At says, from any position on, over
// the end of a pass, with an index of offsets or without.
func TestLaneFollowsPlan(t *testing.T) {
	m := newMade(2000, 700, 0, 900, 3, 1500, 40, 2000)
	var read [2]int64
	for i, p := range []*Plan{m.plan(), m.plan()} {
		if i == 1 {
			p.st, p.index = idx{m}, true
		}
		m.bytes.Store(0)
		for _, lanes := range []int{1, 3} {
			n := p.Lane(5, 0, lanes).Len()
			for _, from := range []int64{0, 1, 1023, n - 1, n + n/2} {
				got, err := sequence(t, p, 0, lanes, from, 1500, LaneOptions{})
				if err != nil || !slices.Equal(got, planned(p, 0, lanes, from, 1500)) {
					t.Errorf("index %v, %d lanes from %d: %v, %.4v; want %.4v", p.index, lanes, from, err, got, planned(p, 0, lanes, from, 4))
				}
			}
		}
		read[i] = m.bytes.Load()
	}
	if read[1] >= read[0] {
		t.Errorf("%d bytes read with an index, %d without", read[1], read[0])
	}
}

// idx is a storage with Energon's index beside its tars.
type idx struct{ made }

func (x idx) index(name string) ([]byte, bool) {
	tarName, ok := strings.CutSuffix(name, ".idx")
	if !ok {
		return nil, false
	}
	data, _ := x.tar(tarName)
	var out []byte
	sample := 3*512 + (x.size+511)&^511 // two headers, a picture, a caption
	for at := 0; at+1024 <= len(data); at += sample {
		out = binary.LittleEndian.AppendUint64(out, uint64(at))
	}
	return out, true
}

func (x idx) stat(ctx context.Context, name string) (int64, bool, error) {
	if b, ok := x.index(name); ok {
		return int64(len(b)), false, nil
	}
	return x.made.stat(ctx, name)
}

func (x idx) read(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if b, ok := x.index(name); ok {
		return b[off : off+n], nil
	}
	return x.made.read(ctx, name, off, n)
}

// TestLaneFaults: what fails for a while changes nothing but time. What fails
// for good ends the lane, or is a gap that another process repeats.
func TestLaneFaults(t *testing.T) {
	counts := []int32{300, 300, 300, 300, 300, 300, 300, 300}
	want := planned(newMade(0, counts...).plan(), 1, 2, 0, 1200)
	count := func() (func(string, int64) error, *atomic.Int64) {
		var n atomic.Int64
		return func(string, int64) error {
			if n.Add(1)%3 == 0 {
				return syscall.EIO
			}
			return nil
		}, &n
	}
	t.Run("for a while", func(t *testing.T) {
		m := newMade(0, counts...)
		m.fails, _ = count()
		var said atomic.Int32
		got, err := sequence(t, m.plan(), 1, 2, 0, 1200, LaneOptions{Attempts: 6, Pause: time.Microsecond, Retry: func(error, time.Duration) { said.Add(1) }})
		if err != nil || !slices.Equal(got, want) || said.Load() == 0 {
			t.Errorf("%v, %d retries, %d samples", err, said.Load(), len(got))
		}
	})
	gone := map[string]func(name string, b []byte) []byte{
		"missing":   func(name string, b []byte) []byte { return nil },
		"short":     func(name string, b []byte) []byte { return append(b[:100*2048:100*2048], make([]byte, 1024)...) },
		"truncated": func(name string, b []byte) []byte { return b[:100*2048+700] },
		"corrupt": func(name string, b []byte) []byte {
			return append(b[:100*2048:100*2048], bytes.Repeat([]byte("x"), 9000)...)
		},
		"gzip": func(name string, b []byte) []byte { return append([]byte("\x1f\x8b"), b...) },
	}
	says := map[string]string{"missing": "no such file", "short": "holds 100 samples, not the 300 of a test", "truncated": "truncated", "corrupt": "not a tar header at offset 204800", "gzip": "is gzip-compressed"}
	first := map[string]int{"short": 100, "truncated": 100, "corrupt": 99} // that is lost
	for name, alter := range gone {
		t.Run(name, func(t *testing.T) {
			m := newMade(0, counts...)
			m.alter = func(tar string, b []byte) []byte {
				if tar == "00003.tar" || tar == "00005.tar" {
					return alter(tar, b)
				}
				return b
			}
			p := m.plan()
			tries := 0
			_, err := sequence(t, p, 0, 1, 0, 2400, LaneOptions{Attempts: 3, Pause: time.Microsecond, Retry: func(error, time.Duration) { tries++ }})
			if err == nil || !strings.Contains(err.Error(), says[name]) || fault.Code(err) != 3 || tries != 2 {
				t.Errorf("error %v has status %d after %d retries; want %q", err, fault.Code(err), tries, says[name])
			}
			var gaps []Gap
			o := LaneOptions{Attempts: 1, Gap: func(g Gap, cause error) error { gaps = append(gaps, g); return nil }}
			var all [2][]string
			for lane := range all {
				if all[lane], err = sequence(t, p, lane, 2, 0, 1200, o); err != nil {
					t.Fatal(err)
				}
			}
			seen := map[string]int{}
			for _, key := range slices.Concat(all[:]...) {
				seen[key]++
			}
			for k := range counts {
				for i := range 300 {
					key := fmt.Sprintf("%05d-%06d", k, i)
					lost := (k == 3 || k == 5) && i >= first[name]
					if lost != (seen[key] == 0) {
						t.Fatalf("%s comes %d times", key, seen[key])
					}
				}
			}
			if len(gaps) < 2 || gaps[0].Shard == "" {
				t.Errorf("gaps %+v", gaps)
			}
			// The tars are back: a process that knows the gaps repeats them.
			back := newMade(0, counts...).plan()
			for lane := range all {
				for _, from := range []int64{0, 700} {
					again, err := sequence(t, back, lane, 2, from, 1200-from, LaneOptions{Gaps: gaps})
					if err != nil || !slices.Equal(again, all[lane][from:]) {
						t.Errorf("lane %d from %d: another sequence (%v)", lane, from, err)
					}
				}
			}
		})
	}
	t.Run("all gone", func(t *testing.T) {
		m := newMade(0, counts...)
		m.alter = func(string, []byte) []byte { return nil }
		_, err := sequence(t, m.plan(), 0, 2, 0, 1, LaneOptions{Attempts: 1, Gap: func(Gap, error) error { return nil }})
		if err == nil || !strings.Contains(err.Error(), "none of the tars read side by side is readable") || fault.Code(err) != 3 {
			t.Error(err)
		}
	})
	t.Run("more", func(t *testing.T) {
		m := newMade(0, counts...)
		p := m.plan()
		p.counts, p.total = []int32{300, 300, 200, 300, 300, 300, 300, 300}, 2300
		var more []string
		_, err := sequence(t, p, 0, 1, 0, 2300, LaneOptions{More: func(name string, n int64) { more = append(more, fmt.Sprint(name, n)) }})
		// The lane reads ahead, perhaps as far as the same tar in the next pass.
		if err != nil || len(more) > 2 || !slices.Equal(slices.Compact(more), []string{"00002.tar200"}) {
			t.Error(err, more)
		}
	})
	t.Run("another tar", func(t *testing.T) { // after a fault, so that what follows is none of the first one's
		m := newMade(40000, 300) // of two parts
		var fails, n atomic.Int64
		m.fails = func(_ string, off int64) error {
			if off > 0 && fails.Add(1) == 1 {
				return syscall.EIO
			}
			return nil
		}
		m.stamp = func() string { return fmt.Sprint(n.Load()) }
		o := LaneOptions{Attempts: 3, Pause: time.Microsecond}
		if _, err := sequence(t, m.plan(), 0, 1, 0, 300, o); err != nil || fails.Load() < 2 {
			t.Error(err)
		}
		fails.Store(0)
		m.stamp = func() string { return fmt.Sprint(n.Add(1)) }
		_, err := sequence(t, m.plan(), 0, 1, 0, 300, o)
		if err == nil || !strings.Contains(err.Error(), ".tar: changed while it was being read") || fault.Code(err) != 3 {
			t.Error(err)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		m := newMade(0, counts...)
		m.fails = func(string, int64) error { return syscall.EIO }
		ctx, cancel := context.WithCancel(t.Context())
		p := m.plan()
		r := p.Read(ctx, p.Lane(5, 0, 1), 0, LaneOptions{Attempts: 9, Pause: time.Hour})
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		r.Close()
	})
}

// virtual is a storage of tars whose bytes are made when they are read.
type virtual struct {
	made
	two []byte // samples of all tars, in turn
}

func (v virtual) stat(context.Context, string) (int64, bool, error) {
	return int64(v.tars[0]/2)*int64(len(v.two)) + 1024, false, nil
}

func (v virtual) stamped(ctx context.Context, name string) (int64, bool, string, error) {
	size, dir, err := v.stat(ctx, name)
	return size, dir, "", err
}

func (v virtual) read(_ context.Context, _ string, off, n int64) ([]byte, error) {
	out := make([]byte, 0, n)
	for len(out) < cap(out) {
		at := off + int64(len(out))
		if at >= int64(v.tars[0]/2)*int64(len(v.two)) { // the end of the tar
			return out[:cap(out)], nil
		}
		from := v.two[at%int64(len(v.two)):]
		out = append(out, from[:min(len(from), cap(out)-len(out))]...)
	}
	return out, nil
}

func (v virtual) readOf(ctx context.Context, name, _ string, off, n int64) ([]byte, error) {
	return v.read(ctx, name, off, n)
}

// TestLaneMemory: lanes keep what LaneBytes says and no more, however long they
// read and wait.
func TestLaneMemory(t *testing.T) {
	const lanes, size = 2, 48 << 10 // whole pages, as the heap gives them
	counts := make([]int32, 40)
	for i := range counts {
		counts[i] = 2000
	}
	v := virtual{made: newMade(size, counts...)}
	for _, name := range []string{"a.jpg", "b.jpg"} {
		v.two = append(appendHeader(v.two, name, size), make([]byte, (size+511)&^511)...)
	}
	p := v.plan()
	p.st = v
	var all []*LaneReader
	live := func() int64 { // once all is read that may be
		for _, r := range all {
			for len(r.room) < liveSamples {
				time.Sleep(10 * time.Millisecond)
			}
		}
		time.Sleep(50 * time.Millisecond)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	for i := range lanes {
		r := p.Read(t.Context(), p.Lane(1, i, lanes), 0, LaneOptions{})
		defer r.Close()
		all = append(all, r)
	}
	bound := lanes * LaneBytes(size)
	for round := range 3 {
		for range 700 {
			for _, r := range all {
				if _, err := r.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		kept := live() - before
		t.Logf("round %d: %d MB of %d MB", round, kept>>20, bound>>20)
		if kept > bound+bound/20 || kept < bound/2 {
			t.Errorf("round %d: %d lanes keep %d bytes; want at most %d, and more than half of it", round, lanes, kept, bound)
		}
	}
	if want := int64(4*16<<20 + 1024*size); bound/lanes != want {
		t.Errorf("LaneBytes says %d, want %d", bound/lanes, want)
	}
}

// TestLaneBadSamples: a sample that cannot be used says why, and its tar goes on.
func TestLaneBadSamples(t *testing.T) {
	type e struct{ name, body string }
	tarOf := func(entries ...e) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, e := range entries {
			w.WriteHeader(&tar.Header{Name: e.name, Size: int64(len(e.body)), Mode: 0o644})
			w.Write([]byte(e.body))
		}
		w.Close()
		return b.Bytes()
	}
	m := newMade(0, 6)
	m.alter = func(string, []byte) []byte {
		return tarOf(e{"a.jpg", "a"}, e{"a.txt", "x"}, e{"__meta__/x.json", "{}"}, e{"README", ""}, e{"b.txt", "no picture"},
			e{"c.jpg", "1"}, e{"c.jpg", "2"}, e{"c.json", "{"}, e{"d.jpg", "d"}, e{"d.txt", "\xff"}, e{"e.seg.png", "no"}, e{"e.png", "e"}, e{"e.json", `{"caption": "from json"}`},
			e{strings.Repeat("long/", 60) + "f.jpg", "f"}, e{strings.Repeat("long/", 60) + "f.txt", "y"})
	}
	p := m.plan()
	r := p.Read(t.Context(), p.Lane(5, 0, 1), 0, LaneOptions{})
	defer r.Close()
	got := map[string]string{}
	for range 6 {
		s, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got[s.Example.Key[max(0, len(s.Example.Key)-1):]] = fmt.Sprint(string(s.Example.Image), s.Example.Captions, s.Err)
	}
	for key, want := range map[string]string{"a": "a[x] <nil>", "b": "no image among its members (txt)", "c": "c at offset 4608: the extension jpg occurs twice", "d": "not UTF-8", "e": "e[from json] <nil>", "f": "f[y] <nil>"} {
		if !strings.Contains(got[key], want) {
			t.Errorf("%s: %s; want %s", key, got[key], want)
		}
	}
}
