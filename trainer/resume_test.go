package trainer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/tensorfile"
)

// runRecord is run.json.
func runRecord(t *testing.T, out string) (f struct {
	Recipe   string    `json:"recipe_sha256"`
	Fork     *fork     `json:"forked_from"`
	Sessions []session `json:"sessions"`
}) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, out, runFile), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func stateOf(t *testing.T, path string) *savedState {
	t.Helper()
	s, err := readState(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// copied is a file of the test data in another folder.
func copied(t *testing.T, dir string, from ...string) string {
	t.Helper()
	path := filepath.Join(dir, filepath.Base(from[len(from)-1]))
	if err := os.WriteFile(path, readFile(t, from...), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestResumeElsewhere: where the data is and how a step is split does not affect the
// result, so a run may resume with other values.
func TestResumeElsewhere(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	mustRun(t, tiny(t), Options{Out: whole})
	moved := copied(t, dir, testdata, "emoji", "train-fxemoji.tar")
	for name, c := range map[string]struct {
		sets []string
		same bool // to the bit
		log  string
	}{
		"data":     {[]string{"data.0.source=" + moved, "max_bad=0.5"}, true, "the data has moved"},
		"samples":  {[]string{"samples=80"}, true, ""},
		"init":     {[]string{"init.model=gone.safetensors"}, true, "the weights come from the checkpoint"},
		"zero":     {[]string{"zero_stage=0"}, true, "its last bits may differ"}, // one device
		"segments": {[]string{"grad_checkpointing=true"}, true, "its last bits may differ"},
		"parts":    {[]string{"micro_batch=4"}, false, "its last bits may differ"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(dir, name)
			mustRun(t, tiny(t), Options{Out: out, StopAfter: 4})
			var log strings.Builder
			mustRun(t, tiny(t, c.sets...), Options{Out: out, StopAfter: 2, Log: runlog.NewLogger(&log, false, false)})
			if !strings.Contains(log.String(), c.log) {
				t.Errorf("log:\n%s", log.String())
			}
			mustRun(t, tiny(t), Options{Out: out}) // and back
			if c.same {
				sameRun(t, out, whole)
			} else {
				nearRun(t, out, whole)
			}
			if f := runRecord(t, out); f.Fork != nil || len(f.Sessions) != 3 {
				t.Errorf("run.json: %+v", f)
			}
		})
	}
	// The same path with other contents is no move.
	out := filepath.Join(dir, "swapped")
	mustRun(t, tiny(t, "data.0.source="+moved), Options{Out: out, StopAfter: 1})
	if err := os.WriteFile(moved, readFile(t, testdata, "emoji", "train-noto-v1.tar"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Run(t.Context(), tiny(t, "data.0.source="+moved), Options{Out: out, Backend: "go"})
	if err == nil || fault.Code(err) != 3 || !strings.Contains(err.Error(), "not the data that ") {
		t.Errorf("error %v", err)
	}
}

// nearRun: the same losses and weights, up to rounding.
func nearRun(t *testing.T, got, want string) {
	t.Helper()
	a, _ := lines(t, got)
	b, _ := lines(t, want)
	if len(a) != len(b) {
		t.Fatalf("%d lines, want %d", len(a), len(b))
	}
	for i := range a {
		near(t, "loss", a[i].Loss, b[i].Loss, 1e-5)
	}
	x, err := tensorfile.OpenFile(filepath.Join(got, finalFile))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	y, err := tensorfile.OpenFile(filepath.Join(want, finalFile))
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	for _, info := range x.Tensors() {
		w, v := floats(t, y, info.Name), floats(t, x, info.Name)
		if strings.HasSuffix(info.Name, "in_proj_bias") { // that of keys has no gradient but rounding
			n := len(w) / 3
			copy(v[n:2*n], w[n:])
		}
		if d := l2diff(v, w); d > 1e-3*l2(w)+1e-6 {
			t.Errorf("%s: off by %.2g", info.Name, d/l2(w))
		}
	}
}

// TestFork continues from a checkpoint in a folder of its own, with and without
// changes, and leaves the original run as it is.
func TestFork(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	mustRun(t, tiny(t, "checkpoint={every_steps: 5, keep: 9}"), Options{Out: whole})
	at := filepath.Join(whole, checkpointDir, "step-5")
	before := readFile(t, whole, runFile)
	final := readFile(t, whole, finalFile)

	t.Run("nothing changed", func(t *testing.T) {
		out := filepath.Join(dir, "same")
		mustRun(t, tiny(t), Options{Out: out, Resume: at})
		if string(readFile(t, out, finalFile)) != string(final) {
			t.Error("the bytes differ from those of the run before")
		}
		f := runRecord(t, out)
		if f.Fork == nil || f.Fork.Path != at || f.Fork.Step != 5 || f.Fork.Samples != 40 || len(f.Fork.Changed) != 0 || f.Fork.Recipe != runRecord(t, whole).Recipe {
			t.Errorf("run.json: %+v", f.Fork)
		}
	})
	t.Run("stopped and the same command again", func(t *testing.T) {
		recipe := func() *Recipe {
			return tiny(t, "lr.vision=2e-3", "steps=12", "batch=4", "data.1.source=../testdata/emoji/train-noto-v1.tar")
		}
		once, parts := filepath.Join(dir, "once"), filepath.Join(dir, "parts")
		mustRun(t, recipe(), Options{Out: once, Resume: at})
		mustRun(t, recipe(), Options{Out: parts, Resume: at, StopAfter: 2})
		mustRun(t, recipe(), Options{Out: parts, Resume: at, StopAfter: 1})
		mustRun(t, recipe(), Options{Out: parts}) // or without
		for _, out := range []string{once, parts} {
			if string(readFile(t, out, finalFile)) != string(readFile(t, once, finalFile)) {
				t.Error("a fork that was stopped ends with other bytes")
			}
			steps, _ := lines(t, out)
			if len(steps) != 7 || steps[0].Step != 6 || steps[0].Samples != 44 || steps[6].Samples != 68 || steps[0].LR["vision"] == steps[0].LR["text"] {
				t.Errorf("steps %+v", steps)
			}
			if s := stateOf(t, filepath.Join(out, checkpointDir, "step-12")); s.Samples != 68 || s.Sources[0]+s.Sources[1] != 68 {
				t.Errorf("state %+v", s)
			}
			f := runRecord(t, out).Fork
			var keys []string
			for _, c := range f.Changed {
				keys = append(keys, c.Key)
			}
			if !slices.Equal(keys, []string{"batch", "data.1.source", "lr.vision", "steps"}) || f.Changed[0].Before != 8.0 || f.Changed[0].Now != 4.0 {
				t.Errorf("changed: %+v", f.Changed)
			}
		}
	})
	t.Run("the position", func(t *testing.T) { // batches of 4, from the sample after the 40th on
		r := tiny(t, "batch=4", "steps=9")
		var mu sync.Mutex
		got, want := map[string]int{}, map[string]int{}
		o := Options{Out: filepath.Join(dir, "position"), Resume: at}
		o.fakes.reading.open = func(ctx context.Context, src string, do dataset.Options) (dataset.Dataset, error) {
			d, err := dataset.Open(ctx, src, do)
			return watched{d, func(i int) {
				mu.Lock()
				defer mu.Unlock()
				got[fmt.Sprint(filepath.Base(src), i)]++
			}}, err
		}
		cfg, err := r.config()
		if err != nil {
			t.Fatal(err)
		}
		p, err := openPairs(t.Context(), r, cfg, newBadSamples("", 0, 0, runlog.Discard()), reading{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		for pos := int64(40); pos < 56; pos++ {
			source, example := p.order.at(pos)
			want[fmt.Sprint(filepath.Base(r.Data[source].Source), example)]++
		}
		for _, s := range r.Data { // hasCaptions looks at the first one
			want[fmt.Sprint(filepath.Base(s.Source), 0)]++
		}
		mustRun(t, r, o)
		if !maps.Equal(got, want) {
			t.Errorf("read %v, want %v", got, want)
		}
	})
	t.Run("killed before a checkpoint", func(t *testing.T) {
		out := filepath.Join(dir, "early")
		for _, resume := range []string{at, "auto", at} {
			mustRun(t, tiny(t, "lr.vision=2e-3"), Options{Out: out, Resume: resume, StopAfter: 2})
			if steps, _ := lines(t, out); len(steps) != 2 || steps[0].Step != 6 {
				t.Errorf("steps %+v", steps)
			}
			os.RemoveAll(filepath.Join(out, checkpointDir))
		}
	})
	t.Run("samples", func(t *testing.T) { // 60 in all: 40 are seen, 5 steps of 4 are left
		res := mustRun(t, tiny(t, "samples=60", "batch=4"), Options{Out: filepath.Join(dir, "samples"), Resume: at})
		if res.Steps != 10 || res.Samples != 60 {
			t.Errorf("%d steps, %d samples", res.Steps, res.Samples)
		}
		res = mustRun(t, tiny(t, "samples=60", "batch=4"), Options{Out: filepath.Join(dir, "samples")})
		if res.Steps != 10 || res.Samples != 60 {
			t.Errorf("again: %d steps, %d samples", res.Steps, res.Samples)
		}
	})
	for name, c := range map[string]struct {
		sets []string
		o    Options
		want string
		kind fault.Kind
	}{
		"into another run": {[]string{"lr.vision=2e-3"}, Options{Out: filepath.Join(dir, "same"), Resume: filepath.Join(whole, checkpointDir, "step-10")}, "already holds a run", fault.Usage},
		"in its own":       {[]string{"batch=4"}, Options{Out: whole, Resume: at}, "batch was 8 and is now 4; to continue with the change, give Options.Resume " + at, fault.Usage},
		"other data":       {[]string{"data.1.source=../testdata/emoji/train-noto-v1.tar"}, Options{Out: whole, Resume: at}, "not the data that ", fault.Input},
		"other shape":      {[]string{"model.vision_cfg.width=32"}, Options{Out: filepath.Join(dir, "x"), Resume: at}, "has another architecture: vision_cfg.width was 16 and is now 32", fault.Usage},
		"other meaning":    {[]string{"model.vision_cfg.intp_freq=true"}, Options{Out: filepath.Join(dir, "x"), Resume: at}, "has another architecture: vision_cfg.intp_freq", fault.Usage},
		"its model":        {[]string{"model.vision_cfg.intp_freq=true"}, Options{Out: whole}, "has another architecture: vision_cfg.intp_freq", fault.Usage},
		"too few steps":    {[]string{"steps=4"}, Options{Out: filepath.Join(dir, "x"), Resume: at}, "at step 5, past the end of a run of 4 steps", fault.Input},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Backend = "go"
			_, err := Run(t.Context(), tiny(t, c.sets...), c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.Code(err) != int(c.kind) {
				t.Errorf("error %v with status %d; want %q", err, fault.Code(err), c.want)
			}
			if exists(filepath.Join(dir, "x")) {
				t.Error("a fork that did not begin left its folder")
			}
		})
	}
	if string(readFile(t, whole, runFile)) != string(before) || string(readFile(t, whole, finalFile)) != string(final) {
		t.Error("the run before is not as it was")
	}
}

// watched records which examples are read.
type watched struct {
	dataset.Dataset
	read func(i int)
}

func (w watched) Read(i int) (dataset.Example, error) {
	w.read(i)
	return w.Dataset.Read(i)
}

// TestOldCheckpoint: a checkpoint without a recipe uses that of its run folder.
func TestOldCheckpoint(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "run")
	mustRun(t, tiny(t), Options{Out: out, StopAfter: 4})
	at := filepath.Join(out, checkpointDir, "step-4")
	if err := os.Remove(filepath.Join(at, recipeFile)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, tiny(t, "lr.text=1e-4"), Options{Out: filepath.Join(dir, "fork"), Resume: at, StopAfter: 1})
	if f := runRecord(t, filepath.Join(dir, "fork")).Fork; len(f.Changed) != 1 || f.Changed[0].Key != "lr.text" {
		t.Errorf("fork %+v", f)
	}
	mustRun(t, tiny(t), Options{Out: out, StopAfter: 1})
	// Alone, it can only tell that the recipe is another one.
	alone := filepath.Join(dir, "alone", "step-4")
	if err := os.CopyFS(alone, os.DirFS(at)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, tiny(t), Options{Out: filepath.Join(dir, "fork2"), Resume: alone, StopAfter: 1})
	if f := runRecord(t, filepath.Join(dir, "fork2")).Fork; f == nil || f.Step != 4 {
		t.Errorf("fork %+v", f)
	}
}

// TestRescale: a fork into fp16 gets a loss scale, one out of it loses it.
func TestRescale(t *testing.T) {
	for _, c := range []struct {
		precision   string
		scale, want float32
	}{{"fp16", 1, scaleStart}, {"fp16", 512, 512}, {"fp32", 1, 1}, {"bf16", 512, 1}} {
		m := newFixture(t, families[0], func(r *Recipe) { r.Precision = c.precision }).machine(t, onDevice(t, 0), false)
		a, err := m.dev.Put(device.Replicated, tensors.FromScalar(c.scale))
		if err != nil {
			t.Fatal(err)
		}
		m.state.scale = a
		if err := m.rescale(); err != nil {
			t.Fatal(err)
		}
		v, err := m.state.scale.Float32s()
		if err != nil || v[0] != c.want {
			t.Errorf("%s from %v: %v, %v; want %v", c.precision, c.scale, v, err, c.want)
		}
	}
}

// TestContinuedInAnotherType: a processor without bfloat16 instructions goes on in
// float32, and that is said.
func TestContinuedInAnotherType(t *testing.T) {
	var log bytes.Buffer
	m := newFixture(t, families[0], func(r *Recipe) { r.Precision = "bf16" }).machine(t, onDevice(t, 0), false)
	r := &run{out: t.TempDir(), recipe: m.recipe, machine: m, first: 1, log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.BFloat16, dtypes.Float32} {
		if log.Len() > 0 {
			t.Errorf("the same type: %s", &log)
		}
		m.compute = dtype
		if err := r.writeRunFile(false); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(log.String(), "in BFloat16") {
		t.Errorf("another type: %q", &log)
	}
}
