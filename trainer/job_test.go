package trainer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// runRanks runs a recipe on ranks of goroutines; change may be nil.
func runRanks(t *testing.T, ranks int, out string, recipe func(rank int) *Recipe, change func(rank int, o *Options)) ([]*Result, []error) {
	t.Helper()
	results, errs := make([]*Result, ranks), make([]error, ranks)
	var wg sync.WaitGroup
	for i, c := range comm.Memory(ranks) {
		o := Options{Out: out, Backend: "go", fakes: fakes{world: c}}
		if change != nil {
			change(i, &o)
		}
		r := recipe(i)
		wg.Go(func() { results[i], errs[i] = Run(t.Context(), r, o) })
	}
	wg.Wait()
	return results, errs
}

func mustRunRanks(t *testing.T, ranks int, out string, stopAfter int64, recipe *Recipe) *Result {
	t.Helper()
	results, errs := runRanks(t, ranks, out, func(int) *Recipe { return recipe }, func(_ int, o *Options) { o.StopAfter = stopAfter })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return results[0]
}

const jobEval = "eval=[{every_steps: 4, benchmark: folder, data: ../testdata/emoji/test-twemoji.tar, classnames: ../testdata/emoji/classnames.txt, templates: ../testdata/emoji/templates.txt, limit: 30}]"

// TestJob: several processes produce the run folder that one produces: the same
// steps, model and evaluations, up to rounding.
func TestJob(t *testing.T) {
	dir := t.TempDir()
	sets := []string{"drop_path=0", "lanes=4"}
	one := filepath.Join(dir, "one")
	mustRun(t, tiny(t, sets...), Options{Out: one})
	for _, ranks := range []int{2, 4} {
		out := filepath.Join(dir, fmt.Sprint(ranks))
		res := mustRunRanks(t, ranks, out, 0, tiny(t, sets...))
		nearRun(t, out, one)
		steps, _ := lines(t, out)
		for _, s := range steps {
			if s.ExchangeBytes == 0 || s.SlowestRank == nil || *s.SlowestRank >= ranks {
				t.Errorf("step %+v says nothing of the exchange", s)
			}
		}
		if res.Rank != 0 || len(res.Curve) != 10 || !exists(filepath.Join(out, reportFile)) {
			t.Errorf("result %+v", res)
		}
		if st := stateOf(t, res.Checkpoint); st.Format != formatParts || st.Processes != ranks || len(st.SHA256) != ranks+1 {
			t.Errorf("state %+v", st)
		}
		if ranks == 4 {
			continue
		}
		again := filepath.Join(dir, fmt.Sprint(ranks, " again"))
		mustRunRanks(t, ranks, again, 3, tiny(t, sets...))
		mustRunRanks(t, ranks, again, 0, tiny(t, sets...))
		if string(readFile(t, again, finalFile)) != string(readFile(t, out, finalFile)) {
			t.Errorf("%d processes, stopped and resumed: other bits", ranks)
		}
	}
}

// TestJobResumesElsewhere: any number of processes that divides the lanes resumes
// from a checkpoint of any other number, including one.
func TestJobResumesElsewhere(t *testing.T) {
	old := modelPieceBytes
	defer func() { modelPieceBytes = old }()
	source := smallTars(t, t.TempDir(), 9, 5, 7, 4, 9, 6)
	recipe := func() *Recipe { return streamed(t, source, "batch=12", "lanes=12", "drop_path=0") }
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	mustRun(t, recipe(), Options{Out: whole})
	for name, counts := range map[string][]int{"shrinks": {4, 2, 3}, "from one": {1, 3}, "to one": {2, 1}, "pieces": {3, 2}} {
		out := filepath.Join(dir, name)
		modelPieceBytes = old
		if name == "pieces" {
			modelPieceBytes = 1000
		}
		for i, ranks := range counts {
			stop := int64(3)
			if i == len(counts)-1 {
				stop = 0
			}
			if ranks == 1 {
				mustRun(t, recipe(), Options{Out: out, StopAfter: stop})
			} else if res := mustRunRanks(t, ranks, out, stop, recipe()); name == "pieces" {
				m, err := checkpoint.OpenModel(t.Context(), res.Checkpoint, checkpoint.ModelOptions{})
				if err != nil || exists(filepath.Join(res.Checkpoint, modelFile)) || !exists(filepath.Join(res.Checkpoint, modelIndex)) {
					t.Fatalf("a checkpoint whose model is in pieces: %v", err)
				}
				m.Close()
			}
		}
		nearRun(t, out, whole)
	}
}

// TestJobSaysItsSize: a run that continues with another number of processes says that
// its last bits differ, and one with the same number does not.
func TestJobSaysItsSize(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		ranks int
		want  string
	}{{2, ""}, {2, ""}, {4, `before="go × 1, 2 processes" now="go × 1, 4 processes"`}} {
		var log bytes.Buffer
		_, errs := runRanks(t, c.ranks, out, func(int) *Recipe { return tiny(t, "drop_path=0") }, func(rank int, o *Options) {
			o.StopAfter = 2
			if rank == 0 {
				o.Log = runlog.NewLogger(&log, false, false)
			}
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if text := log.String(); strings.Contains(text, "last bits differ") != (c.want != "") || !strings.Contains(text, c.want) {
			t.Errorf("%d processes: want %q\n%s", c.ranks, c.want, text)
		}
	}
}

// TestJobEvaluates: the pictures of an evaluation are split over the processes, and
// their counts added.
func TestJobEvaluates(t *testing.T) {
	dir := t.TempDir()
	sets := []string{"batch=9", "drop_path=0", "steps=4", "checkpoint={every_steps: 0}", jobEval}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	mustRun(t, tiny(t, sets...), Options{Out: one})
	mustRunRanks(t, 3, two, 0, tiny(t, sets...))
	_, a := lines(t, one)
	_, b := lines(t, two)
	if len(a) != 1 || len(b) != 1 || b[0].N != 30 || a[0].Top1 != b[0].Top1 || a[0].Top5 != b[0].Top5 {
		t.Errorf("evaluations %+v and %+v", a, b)
	}
}

// TestJobStops: when one process is told to stop or fails, all end at the same step,
// with a checkpoint.
func TestJobStops(t *testing.T) {
	dir := t.TempDir()
	recipe := func(int) *Recipe { return tiny(t, "drop_path=0") }
	whole := filepath.Join(dir, "whole")
	mustRunRanks(t, 2, whole, 0, recipe(0))
	out := filepath.Join(dir, "out")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, c := range comm.Memory(2) {
		o := Options{Out: out, Backend: "go", fakes: fakes{world: c}}
		its := t.Context()
		if i == 0 {
			o.Progress = func(s Step) {
				if s.Step == 4 {
					cancel()
				}
			}
		} else {
			its = ctx // rank 1 alone is asked
		}
		wg.Go(func() { _, errs[i] = Run(its, recipe(i), o) })
	}
	wg.Wait()
	for i, err := range errs {
		var e interface{ Said() bool }
		if fault.Code(err) != 130 || !errors.As(err, &e) || e.Said() != (i == 1) {
			t.Errorf("rank %d: %v", i, err)
		}
	}
	list, err := listCheckpoints(out)
	if err != nil || len(list) == 0 || !strings.Contains(errs[0].Error(), list[len(list)-1].path) {
		t.Fatalf("checkpoints %v, %v; %v", list, err, errs[0])
	}
	mustRunRanks(t, 2, out, 0, recipe(0))
	if string(readFile(t, out, finalFile)) != string(readFile(t, whole, finalFile)) {
		t.Error("stopped and resumed: other bits")
	}
}

// TestJobRefuses: every rank ends with the error of the one that fails; rank 0
// reports it.
func TestJobRefuses(t *testing.T) {
	dir := t.TempDir()
	damaged := filepath.Join(dir, "damaged")
	mustRunRanks(t, 2, damaged, 2, tiny(t, "drop_path=0"))
	file := filepath.Join(damaged, checkpointDir, "step-2", "optimizer-1-of-2.safetensors")
	b := readFile(t, file)
	b[len(b)-1] ^= 1
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ranks  int
		out    string
		recipe func(rank int) *Recipe
		change func(rank int, o *Options)
		want   string
		kind   fault.Kind
	}{
		"recipe": {2, "", func(rank int) *Recipe { return tiny(t, fmt.Sprintf("lr.vision=%g", 1e-3*float64(1+rank))) }, nil,
			"recipe: on rank 1", fault.Usage},
		"data": {2, "", func(rank int) *Recipe {
			return tiny(t, "data.0.source="+[]string{"../testdata/emoji/train-fxemoji.tar", "nowhere.tar"}[rank])
		}, nil, "nowhere.tar", fault.Input},
		"batch":   {3, "", nil, nil, "batch 8 cannot be split over 3 processes", fault.Usage},
		"damaged": {2, damaged, nil, nil, "optimizer-1-of-2.safetensors: damaged", fault.Input},
	} {
		t.Run(name, func(t *testing.T) {
			recipe := c.recipe
			if recipe == nil {
				recipe = func(int) *Recipe { return tiny(t, "drop_path=0") }
			}
			out := c.out
			if out == "" {
				out = filepath.Join(dir, name)
			}
			_, errs := runRanks(t, c.ranks, out, recipe, c.change)
			for i, err := range errs {
				var e interface{ Said() bool }
				if err == nil || fault.Code(err) != int(c.kind) || !strings.Contains(err.Error(), c.want) || !errors.As(err, &e) || e.Said() != (i > 0) {
					t.Errorf("rank %d: %v", i, err)
				}
			}
		})
	}
}

// TestWatch: what a rank's watch concludes from the others' files, on hosts whose
// clocks differ by an hour.
func TestWatch(t *testing.T) {
	world := comm.Memory(3)
	j := &job{Comm: world[0], measured: &meter{Comm: world[0]}, hosts: []string{"a", "b", "c"}}
	w := &watch{j: j, timeout: time.Minute, dir: t.TempDir(), here: "here", seen: map[int]sight{}}
	j.watch = w
	j.at(atStep, 7)
	w.first.Store(true)
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dead := gone.Process.Pid
	skew := []time.Duration{0, time.Hour, -time.Hour}
	ago := func(s int) time.Time { return time.Now().Add(-time.Duration(s) * time.Second) }
	for _, c := range []struct {
		waits  int // seconds
		others []pulse
		want   string
	}{
		{30, []pulse{{Phase: atExchange, Since: ago(30), Now: ago(1)}, {Phase: atData, Step: 7, Since: ago(31), Now: ago(1)}}, ""},
		{61, []pulse{{Phase: atExchange, Since: ago(61), Now: ago(1)}, {Phase: atData, Step: 7, Since: ago(62), Now: ago(1)}}, `no answer for 61 s: rank 2 (c) has been in phase "data" of step 7 for 62 s;`},
		{61, []pulse{{Phase: atExchange, Step: 7, Since: ago(61), Now: ago(60)}, {Phase: atExchange, Since: ago(61), Now: ago(1)}}, `rank 1 (b) has been in phase "exchange" of step 7 for 61 s;`},
		{61, []pulse{{Phase: atExchange, Since: ago(61), Now: ago(1)}, {Phase: atExchange, Since: ago(61), Now: ago(1)}}, ""},
		{91, []pulse{{Phase: atExchange, Since: ago(91), Now: ago(1)}, {Phase: atExchange, Since: ago(91), Now: ago(1)}}, "all ranks are waiting for each other"},
		{6000, []pulse{{Phase: atExchange, Since: ago(61), Now: ago(1)}, {Phase: atSpace, Since: ago(6000), Now: ago(1)}}, ""},
		{2, []pulse{{Phase: atExchange, Here: "elsewhere", PID: dead, Now: ago(1)}, {Phase: atExchange, Here: "here", PID: os.Getpid(), Now: ago(1)}}, ""},
		{2, []pulse{{Phase: atStep, Step: 7, Here: "here", PID: dead, Now: ago(1)}}, fmt.Sprintf(`rank 1 (b), process %d, is gone; its last phase was "compute" of step 7`, dead)},
	} {
		for i, p := range c.others {
			p.Rank = i + 1
			found := p.Now
			p.Spent = p.Now.Sub(p.Since).Seconds()
			p.Since, p.Now = p.Since.Add(skew[p.Rank]), p.Now.Add(skew[p.Rank])
			w.seen[p.Rank] = sight{p, found}
			text, err := json.Marshal(p)
			if err == nil {
				err = os.WriteFile(w.path(p.Rank), text, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		since := ago(c.waits)
		j.measured.since.Store(&since)
		if got := w.trouble(); got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("after %d s: %q, want %q", c.waits, got, c.want)
		}
	}
	w.first.Store(false) // programs are compiled
	since := ago(61)
	j.measured.since.Store(&since)
	os.Remove(w.path(1))
	if got := w.trouble(); got != "" {
		t.Errorf("before the end of the first step: %q", got)
	}
}

// TestPulse: a rank that cannot write another file, as on a full disk, still says
// where it is; half a file is as good as the one before.
func TestPulse(t *testing.T) {
	dir := t.TempDir()
	var ranks []*watch
	for _, c := range comm.Memory(2) {
		j := &job{Comm: c, measured: &meter{Comm: c}, hosts: []string{"a", "b"}}
		j.watch = &watch{j: j, timeout: time.Minute, dir: dir, seen: map[int]sight{}}
		ranks = append(ranks, j.watch)
	}
	w := ranks[1]
	for step, phase := range []string{atCheckpoint, atSpace, atData} {
		w.j.at(phase, int64(step))
		w.write()
		if got := ranks[0].read(); len(got) != 1 || got[0].Phase != phase || got[0].Step != int64(step) {
			t.Errorf("read %+v, want phase %q of step %d", got, phase, step)
		}
		if err := os.MkdirAll(w.path(1)+".new", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(w.path(1), 10); err != nil {
		t.Fatal(err)
	}
	if got := ranks[0].read(); len(got) != 1 || got[0].Phase != atData {
		t.Errorf("half a file: %+v", got)
	}
}

// TestWire: exchanges as bfloat16 are half as large and train alike; a step exchanges
// what the dry run says, to the byte.
func TestWire(t *testing.T) {
	dir := t.TempDir()
	sets := []string{"drop_path=0", "optimizer={name: lamb}", "lr=1e-4"}
	one := filepath.Join(dir, "one")
	mustRun(t, tiny(t, sets...), Options{Out: one})
	want, _ := lines(t, one)
	var whole int64
	for name, wire := range map[string]string{"fp32": "comm={grads: fp32}", "bf16": "comm={grads: bf16, features: bf16}"} {
		r := tiny(t, append(sets, wire)...)
		out := filepath.Join(dir, name)
		mustRunRanks(t, 2, out, 0, r)
		cfg, err := r.config()
		if err != nil {
			t.Fatal(err)
		}
		plan, err := r.planExchange(cfg, 2, 1, 100)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := lines(t, out)
		for i, s := range got {
			if s.ExchangeBytes != plan.Bytes {
				t.Errorf("%s, step %d: %d bytes, the plan says %d: %v", name, s.Step, s.ExchangeBytes, plan.Bytes, plan)
			}
			tol := 1e-5
			if name == "bf16" {
				tol = 5e-3
			}
			near(t, name+" loss", s.Loss, want[i].Loss, tol)
		}
		if name == "fp32" {
			whole = plan.Gradients
			if r.identity() != tiny(t, sets...).identity() {
				t.Error("fp32 is another recipe than the default")
			}
		} else if plan.Gradients*2 != whole && whole > 0 {
			t.Errorf("gradients as bf16: %d bytes, as fp32 %d", plan.Gradients, whole)
		}
	}
	if _, err := ParseRecipe("tiny", []byte(tinyRecipe), "comm.grads=fp8"); err == nil || !strings.Contains(err.Error(), "want fp32 or bf16") {
		t.Errorf("fp8: %v", err)
	}
}

// TestJobFullDisk: when a disk has no space for one rank's part, or for the state, all
// wait; then the run ends as if nothing had happened.
func TestJobFullDisk(t *testing.T) {
	dir := t.TempDir()
	recipe := func(int) *Recipe { return tiny(t, "drop_path=0", "steps=6") }
	whole, full := filepath.Join(dir, "whole"), filepath.Join(dir, "full")
	mustRunRanks(t, 2, whole, 0, recipe(0))
	var refused, refusedState atomic.Int32
	_, errs := runRanks(t, 2, full, recipe, func(rank int, o *Options) {
		o.fakes.retry = time.Millisecond
		o.fakes.create = func(path string) (io.WriteCloser, error) {
			if rank == 1 && refused.Add(1) < 5 || filepath.Base(path) == stateFile && refusedState.Add(1) < 5 {
				return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOSPC}
			}
			return os.Create(path)
		}
	})
	if err := errors.Join(errs...); err != nil || refused.Load() < 5 || refusedState.Load() < 5 {
		t.Fatalf("%v, refused %d and %d times", err, refused.Load(), refusedState.Load())
	}
	if !bytes.Equal(readFile(t, full, finalFile), readFile(t, whole, finalFile)) {
		t.Error("other bits")
	}
	if list, err := listCheckpoints(full); err != nil || len(list) != 2 {
		t.Errorf("checkpoints %v, %v", list, err)
	}
}

// failingLines is metrics.jsonl on storage that fails after some lines.
type failingLines struct {
	jsonLines
	room *int
}

func (l failingLines) Write(v any) error {
	if *l.room--; *l.room < 0 {
		return fmt.Errorf("write: %w", syscall.EIO)
	}
	return l.jsonLines.Write(v)
}

// TestJobLineFails: a line of metrics.jsonl that rank 0 cannot write ends the job,
// also when rank 0 is told to stop while it waits for space: the others do not go on
// to a checkpoint without it.
func TestJobLineFails(t *testing.T) {
	dir := t.TempDir()
	recipe := func(int) *Recipe { return tiny(t, "drop_path=0") }
	for name, want := range map[string]int{"full": 130, "broken": 4} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		room := 3 // the fourth line is written while the fifth step is taken
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, c := range comm.Memory(2) {
			o := Options{Out: filepath.Join(dir, name), Backend: "go", fakes: fakes{world: c, retry: time.Millisecond}}
			its := t.Context()
			if i == 0 {
				its = ctx
				o.fakes.lines = func(path string, keep int64) (jsonLines, error) {
					l, err := openLines(path, keep)
					if name == "broken" {
						return failingLines{l, &room}, err
					}
					return fullLines{l, &room, cancel}, err
				}
			}
			wg.Go(func() { _, errs[i] = Run(its, recipe(i), o) })
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the job hangs", name)
		}
		for i, err := range errs {
			var e interface{ Said() bool }
			if fault.Code(err) != want || !errors.As(err, &e) || e.Said() != (i == 1) || strings.Contains(err.Error(), "has left") {
				t.Errorf("%s, rank %d: %d, %v", name, i, fault.Code(err), err)
			}
		}
	}
}

// TestJobOverflows: a run that cannot go on names the checkpoint that was still being
// written, and completes it.
func TestJobOverflows(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	_, errs := runRanks(t, 2, out, func(int) *Recipe { return tiny(t, "lr=1e30", "checkpoint.every_steps=1") }, func(rank int, o *Options) {
		o.fakes.create = func(path string) (io.WriteCloser, error) {
			time.Sleep(time.Duration(rank) * 500 * time.Millisecond)
			return os.Create(path)
		}
	})
	list, err := listCheckpoints(out)
	if err != nil || len(list) == 0 {
		t.Fatalf("checkpoints %v, %v; %v", list, err, errs)
	}
	for i, err := range errs {
		if fault.Code(err) != 3 || !strings.Contains(err.Error(), list[len(list)-1].path) {
			t.Errorf("rank %d: %v", i, err)
		}
	}
}

// TestExamples: the scripts parse, and the numbers in them agree.
func TestExamples(t *testing.T) {
	list, err := filepath.Glob("examples/*.sh")
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, path := range list {
		if text, err := exec.Command("sh", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", path, err, text)
		}
	}
	var job struct {
		Kind string
		Spec struct {
			SlotsPerWorker  int `yaml:"slotsPerWorker"`
			MPIReplicaSpecs map[string]struct {
				Replicas int
				Template struct {
					Spec struct{ Containers []struct{ Args []string } }
				}
			} `yaml:"mpiReplicaSpecs"`
		}
	}
	if err := yaml.Unmarshal(readFile(t, "examples", "kubernetes.yaml"), &job); err != nil {
		t.Fatal(err)
	}
	workers, launcher := job.Spec.MPIReplicaSpecs["Worker"], job.Spec.MPIReplicaSpecs["Launcher"]
	if job.Kind != "MPIJob" || job.Spec.SlotsPerWorker != 1 || len(launcher.Template.Spec.Containers) != 1 {
		t.Fatalf("%+v", job)
	}
	if args := strings.Join(launcher.Template.Spec.Containers[0].Args, " "); !strings.HasPrefix(args, fmt.Sprintf("-n %d ", workers.Replicas)) || !strings.Contains(args, "evatool train ") {
		t.Errorf("%d workers, mpirun %s", workers.Replicas, args)
	}
}

// TestBadSamplesOfAJob: max_bad is of the job, whose processes have few bad samples
// each; the error names the files of all.
func TestBadSamplesOfAJob(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	path := filepath.Join(t.TempDir(), "bad.tar")
	badTar(t, path)
	for limit, status := range map[string]int{"0.01": 3, "0.9": 0} {
		out := t.TempDir()
		_, errs := runRanks(t, 4, out, func(int) *Recipe {
			return tiny(t, "data=[{source: "+path+"}]", "max_bad="+limit)
		}, nil)
		lists := filepath.Join(out, badFiles)
		for _, err := range errs {
			if fault.Code(err) != status || status != 0 && (!strings.Contains(err.Error(), "samples drawn cannot be used, more than max_bad 0.01 allows; "+lists+" lists them") || !strings.Contains(err.Error(), "the state after step")) {
				t.Errorf("max_bad %s: %v", limit, err)
			}
		}
		if found, err := filepath.Glob(lists); err != nil || len(found) < 2 {
			t.Errorf("max_bad %s: lists %v, %v", limit, found, err)
		}
	}
}
