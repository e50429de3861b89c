package trainer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// sick is a data set on failing storage: after the first good reads, bad reads fail.
type sick struct {
	dataset.Dataset
	good, bad *atomic.Int64
	err       error
}

func (s sick) Read(i int) (dataset.Example, error) {
	if s.good.Add(-1) < 0 && s.bad.Add(-1) >= 0 {
		return dataset.Example{}, fmt.Errorf("x.tar: reading 9 bytes at offset 512: %w", s.err)
	}
	return s.Dataset.Read(i)
}

// sickReading fails bad times with err after good reads.
func sickReading(good, bad int64, err error, pause time.Duration) reading {
	var g, b atomic.Int64
	g.Store(good)
	b.Store(bad)
	return reading{pause: pause, open: func(ctx context.Context, src string, o dataset.Options) (dataset.Dataset, error) {
		d, e := dataset.Open(ctx, src, o)
		return sick{d, &g, &b, err}, e
	}}
}

// TestReadErrors: a sample that storage fails to deliver is not bad. The read is
// retried; if the storage does not come back the run stops with a checkpoint, and
// resumes to the same bits.
func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	mustRun(t, tiny(t), Options{Out: whole})

	t.Run("for a while", func(t *testing.T) {
		var log bytes.Buffer
		out := filepath.Join(dir, "while")
		res := mustRun(t, tiny(t), Options{Out: out, Workers: 1, Log: runlog.NewLogger(&log, false, false),
			fakes: fakes{reading: sickReading(40, attempts-1, syscall.EIO, time.Microsecond)}})
		sameRun(t, out, whole)
		if res.Bad != 0 || exists(filepath.Join(out, badFile)) || strings.Count(log.String(), "cannot read the data") != 1 {
			t.Errorf("%d bad samples; log:\n%s", res.Bad, log.String())
		}
	})
	for name, cause := range map[string]error{
		"I/O": syscall.EIO, "stale": syscall.ESTALE, "too many files": syscall.EMFILE, "timeout": context.DeadlineExceeded,
		"permission": syscall.EACCES, "storage": fault.Envf("s3://b/x.tar: storage: 503"),
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(dir, name)
			_, err := Run(t.Context(), tiny(t), Options{Out: out, Workers: 2, Backend: "go", fakes: fakes{reading: sickReading(40, 1<<40, cause, time.Microsecond)}})
			if err == nil || fault.Code(err) != 4 || !strings.Contains(err.Error(), "x.tar") || !strings.Contains(err.Error(), "the state after step") {
				t.Fatalf("error %v has exit status %d", err, fault.Code(err))
			}
			if list, e := listCheckpoints(out); e != nil || len(list) == 0 || !strings.Contains(err.Error(), list[len(list)-1].path) {
				t.Errorf("checkpoints %v, %v; error %v", list, e, err)
			}
			if exists(filepath.Join(out, badFile)) {
				t.Errorf("bad samples:\n%s", readFile(t, out, badFile))
			}
			mustRun(t, tiny(t), Options{Out: out})
			sameRun(t, out, whole)
		})
	}
	t.Run("stopped while it waits", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		out := filepath.Join(dir, "stopped")
		time.AfterFunc(300*time.Millisecond, cancel)
		_, err := Run(ctx, tiny(t), Options{Out: out, Backend: "go", fakes: fakes{reading: sickReading(40, 1<<40, syscall.EIO, time.Hour)}})
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "resumes from") {
			t.Errorf("error %v", err)
		}
		mustRun(t, tiny(t), Options{Out: out})
		sameRun(t, out, whole)
	})
}

// TestDataGone: a tar that is gone, or another one, since the run started is no bad
// sample, however many max_bad allows: the run stops with a checkpoint, and with the
// tar back it resumes to the same bits.
func TestDataGone(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("../testdata/emoji/train-fxemoji.tar")
	if err != nil {
		t.Fatal(err)
	}
	tar := filepath.Join(dir, "x.tar")
	restore := func() {
		if err := os.WriteFile(tar, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	restore()
	recipe := func() *Recipe {
		return tiny(t, "data=[{source: "+tar+"}, {source: ../testdata/emoji/train-emojione.tar}]", "max_bad=1")
	}
	whole := filepath.Join(dir, "whole")
	mustRun(t, recipe(), Options{Out: whole})
	for name, spoil := range map[string]func() error{
		"gone":   func() error { return os.Remove(tar) },
		"cut":    func() error { return os.Truncate(tar, 1000) },
		"zeroes": func() error { return os.WriteFile(tar, bytes.Repeat([]byte{1}, len(text)), 0o644) },
	} {
		restore()
		out := filepath.Join(dir, name)
		_, err := Run(t.Context(), recipe(), Options{Out: out, Backend: "go", Workers: 1,
			Progress: func(s Step) {
				if s.Step == 2 {
					if err := spoil(); err != nil {
						t.Error(err)
					}
				}
			},
			fakes: fakes{reading: reading{open: dataset.Open, pause: time.Microsecond}}})
		if err == nil || fault.Code(err) != 4 || !strings.Contains(err.Error(), "since the run started") || !strings.Contains(err.Error(), "the state after step") {
			t.Errorf("%s: error %v has exit status %d", name, err, fault.Code(err))
		}
		restore()
		mustRun(t, recipe(), Options{Out: out})
		sameRun(t, out, whole)
	}
}

// cut is a data set in which every third picture is truncated.
type cut struct{ dataset.Dataset }

func (c cut) Read(i int) (dataset.Example, error) {
	ex, err := c.Dataset.Read(i)
	if i%3 == 0 {
		ex.Image = ex.Image[:len(ex.Image)*3/4]
	}
	return ex, err
}

// TestCropFromMemory: a picture gives the same crops whether it stays in memory or
// its rows are resized as they come, and the same substitute when it is damaged.
func TestCropFromMemory(t *testing.T) {
	r := tiny(t)
	cfg, err := r.config()
	if err != nil {
		t.Fatal(err)
	}
	size, words := r.Image.Size*r.Image.Size*3, cfg.Text.ContextLength
	bad := newBadSamples(filepath.Join(t.TempDir(), badFile), 1e9, 0, runlog.Discard())
	how := reading{open: func(ctx context.Context, src string, o dataset.Options) (dataset.Dataset, error) {
		d, err := dataset.Open(ctx, src, o)
		return cut{d}, err
	}}
	var pixels [2][]byte
	for i := range pixels {
		p, err := openPairs(t.Context(), r, cfg, bad, how)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if i == 1 {
			p.room = -1
		}
		for pos := range int64(60) {
			px, tokens := make([]byte, size), make([]int32, words)
			if err := p.fill(t.Context(), draw{pos: pos, example: pos % p.pools[0].n}, px, tokens); err != nil {
				t.Fatal(err)
			}
			pixels[i] = append(pixels[i], px...)
		}
		if kept := len(p.cached) > 0; kept != (i == 0) {
			t.Errorf("pictures are kept: %v", kept)
		}
	}
	if !bytes.Equal(pixels[0], pixels[1]) {
		t.Error("the crops differ")
	}
}

// TestStart: a run does not start with fewer samples than a batch, nor from weights
// that are not finite.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	few := filepath.Join(dir, "few.tar")
	badTar(t, few)
	res := mustRun(t, tiny(t, "steps=2"), Options{Out: filepath.Join(dir, "ok")})
	broken := filepath.Join(dir, "broken.safetensors")
	data := readFile(t, res.Model)
	for i := len(data) - 400; i < len(data)-396; i++ {
		data[i] = 0xff // NaN
	}
	if err := os.WriteFile(broken, data, 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.Mkdir(taken, 0o755); err != nil {
		t.Fatal(err)
	}
	lock := flock.New(filepath.Join(taken, lockFile))
	if ok, err := lock.TryLock(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer lock.Unlock()
	for name, c := range map[string]struct {
		recipe *Recipe
		out    string
		want   string
		code   int
	}{
		"taken":  {tiny(t), taken, "another evatool train is using this folder", 4},
		"few":    {tiny(t, "data=[{source: "+few+"}]", "batch=9"), filepath.Join(dir, "a"), "8 samples do not fill a batch of 9", 3},
		"NaN":    {tiny(t, "init.model="+broken), filepath.Join(dir, "b"), "init: " + broken + ": tensor ", 3},
		"a file": {tiny(t), file, "cannot be used as a run folder", 4},
	} {
		ready := Check(t.Context(), c.recipe, Options{Out: c.out, Backend: "go"})
		_, err := Run(t.Context(), c.recipe, Options{Out: c.out, Backend: "go"})
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.Code(err) != c.code {
			t.Fatalf("%s: error %v has exit status %d", name, err, fault.Code(err))
		}
		checkSays(t, ready, err)
		if name != "a file" && name != "taken" && exists(c.out) {
			t.Errorf("%s: left its folder", name)
		}
	}
	there := t.TempDir()
	_, err := Run(t.Context(), tiny(t, "data=[{source: "+few+"}]", "batch=9"), Options{Out: there, Backend: "go"})
	if left, _ := os.ReadDir(there); err == nil || len(left) > 0 {
		t.Errorf("a folder that was there: %v, holds %v", err, left)
	}
	for _, out := range []string{filepath.Join(dir, "job", "run"), there} {
		_, errs := runRanks(t, 2, out, func(int) *Recipe { return tiny(t, "data=[{source: "+few+"}]", "batch=10") }, nil)
		if errs[0] == nil || errs[1] == nil {
			t.Fatal(errs)
		}
	}
	if left, _ := os.ReadDir(there); len(left) > 0 || exists(filepath.Join(dir, "job")) {
		t.Errorf("a job left %v", left)
	}
	for weight, warns := range map[int]bool{1: true, 9: false} { // 4 and 0.8 of 8 rows, of 3 samples
		var log strings.Builder
		three := filepath.Join(dir, "three.csv")
		if err := os.WriteFile(three, []byte("image,caption\n"+strings.Repeat(filepath.Join(dir, "none.png")+",one\n", 3)), 0o644); err != nil {
			t.Fatal(err)
		}
		r := tiny(t, fmt.Sprintf("data=[{source: %s, weight: %d}, {source: %s, weight: 1}]", few, weight, three), "batch=8")
		if ready := Check(t.Context(), r, Options{Out: filepath.Join(dir, "c"), Backend: "go", Log: slog.New(slog.NewTextHandler(&log, nil))}); ready.Problems != nil {
			t.Fatal(ready.Problems)
		}
		if got := strings.Contains(log.String(), "fewer samples than its share of a batch"); got != warns {
			t.Errorf("weight %d: %s", weight, log.String())
		}
	}
	if v := []float32{1, 0, float32(math.Inf(1))}; notANumber(v) != 2 || notANumber(v[:2]) != -1 {
		t.Error("notANumber")
	}
}
