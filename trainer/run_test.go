package trainer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gomlx/gomlx/core/tensors"
	"github.com/parquet-go/parquet-go"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/dataset/datasettest"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub/hubtest"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/tensorfile"
)

// tinyRecipe trains a model of one block per tower on emoji pictures.
const tinyRecipe = `
model:
  embed_dim: 16
  vision_cfg: {image_size: 32, patch_size: 8, layers: 1, width: 16, head_width: 8, mlp_ratio: 2, eva_model_name: tiny, rope: true, pt_hw_seq_len: 4, naiveswiglu: true, subln: true}
  text_cfg: {context_length: 16, vocab_size: 49408, width: 8, heads: 1, layers: 1}
data:
  - {source: "../testdata/emoji/train-fxemoji.tar", weight: 2}
  - {source: "../testdata/emoji/train-emojione.tar", weight: 1}
captions: ["{}", "an emoji of a {}."]
image: {scale: [0.6, 1.0]}
augment: {hflip: 0.5}
batch: 8
steps: 10
warmup_steps: 2
optimizer: {name: adamw}
lr: {vision: 1.0e-3, text: 1.0e-3, other: 1.0e-3}
patch_dropout: 0.5
drop_path: 0.1
checkpoint: {every_steps: 3, keep: 2}
`

func tiny(t testing.TB, sets ...string) *Recipe {
	t.Helper()
	r, err := ParseRecipe("tiny", []byte(tinyRecipe), sets...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustRun(t *testing.T, r *Recipe, o Options) *Result {
	t.Helper()
	if o.Backend == "" {
		o.Backend = "go"
	}
	res, err := Run(t.Context(), r, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func readFile(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lines reads metrics.jsonl.
func lines(t *testing.T, dir string) (steps []Step, evals []Eval) {
	t.Helper()
	for line := range strings.Lines(string(readFile(t, dir, metricsFile))) {
		var e Eval
		var s Step
		if json.Unmarshal([]byte(line), &e) == nil && e.Benchmark != "" {
			evals = append(evals, e)
		} else if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("line %q: %v", line, err)
		} else {
			steps = append(steps, s)
		}
	}
	return steps, evals
}

// sameRun: the same model, optimizer and losses, and every step exactly once.
func sameRun(t *testing.T, got, want string) {
	t.Helper()
	for _, f := range []string{finalFile, checkpointDir + "/step-10/" + optimizerFile} {
		if !bytes.Equal(readFile(t, got, f), readFile(t, want, f)) {
			t.Errorf("%s: the bytes differ from those of the run that was not stopped", f)
		}
	}
	a, _ := lines(t, got)
	b, _ := lines(t, want)
	if len(a) != len(b) {
		t.Fatalf("%d lines, want %d", len(a), len(b))
	}
	for i := range a {
		if a[i].Step != int64(i+1) || a[i].Loss != b[i].Loss || a[i].GradNorm != b[i].GradNorm || a[i].LogitScale != b[i].LogitScale {
			t.Errorf("line %d: step %d loss %v, want step %d loss %v", i, a[i].Step, a[i].Loss, i+1, b[i].Loss)
		}
	}
}

// TestReplay runs the reference through Run: ready batches, a model to start from,
// LAMB.
func TestReplay(t *testing.T) {
	family := families[0]
	var want referenceRun
	readJSON(t, &want, "train", family, "lamb.json")
	f := newFixture(t, family, func(r *Recipe) {
		r.Data = []Source{{Tensors: filepath.Join(testdata, "train", family, "batches.safetensors")}}
		r.Init.Model = archtest.Weights(filepath.Join(testdata, "models", family))
	})
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, f.cfg.JSON(), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "run")
	if _, err := Run(t.Context(), f.recipe, Options{Out: filepath.Join(dir, "long"), Backend: "go"}); err == nil || !strings.Contains(err.Error(), "holds 5 batches, but the run needs 20") {
		t.Errorf("a source that ends: error %v", err)
	}
	res := mustRun(t, f.recipe, Options{Out: out, StopAfter: 5})
	steps, _ := lines(t, out)
	if len(steps) != 5 || res.Steps != 5 {
		t.Fatalf("%d lines and %d steps, want 5", len(steps), res.Steps)
	}
	for i, s := range steps {
		near(t, fmt.Sprintf("loss of step %d", i), s.Loss, want.Steps[i].Loss, 1e-4)
	}
	near(t, "lr", steps[0].LR["vision"], 1e-4, 1e-18)
	final := openTensorFile(t, "train", family, "lamb_final.safetensors")
	model, err := tensorfile.OpenFile(res.Model)
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	for _, ti := range final.Tensors() {
		end := floats(t, final, ti.Name)
		if d, u := l2diff(floats(t, model, ti.Name), end), l2diff(end, floats(t, f.model, ti.Name)); d > 0.02*u {
			t.Errorf("%s: off by %.2g of the update", ti.Name, d/u)
		}
	}
	if model.Metadata()["evatool.config"] == "" {
		t.Error("the model file does not describe itself")
	}
	for _, name := range []string{recipeFile, runFile, reportFile, "checkpoints/step-5/" + modelFile} {
		if !exists(filepath.Join(out, name)) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestResume(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	res := mustRun(t, tiny(t), Options{Out: whole})
	list, err := listCheckpoints(whole)
	if err != nil || len(list) != 2 || list[0].step != 9 || list[1].step != 10 {
		t.Errorf("checkpoints %v, want 9 and 10 (keep 2); %v", list, err)
	}
	if len(res.Curve) != 10 || res.Samples != 80 {
		t.Errorf("result %+v", res)
	}
	parts := filepath.Join(dir, "parts")
	mustRun(t, tiny(t), Options{Out: parts, StopAfter: 4, Workers: 3})
	mustRun(t, tiny(t), Options{Out: parts, StopAfter: 1})
	last := mustRun(t, tiny(t), Options{Out: parts})
	sameRun(t, parts, whole)
	if len(last.Curve) != 10 {
		t.Errorf("the resumed run's curve has %d steps", len(last.Curve))
	}
	// From an older checkpoint on purpose.
	mustRun(t, tiny(t), Options{Out: parts, Resume: filepath.Join(parts, checkpointDir, "step-9")})
	sameRun(t, parts, whole)
	// The checkpoints that it goes back behind give way to the new one, whose steps
	// metrics.jsonl has.
	back := filepath.Join(dir, "back")
	mustRun(t, tiny(t), Options{Out: back, StopAfter: 8})
	mustRun(t, tiny(t, "checkpoint.keep=1"), Options{Out: back, StopAfter: 1, Resume: filepath.Join(back, checkpointDir, "step-6")})
	if list, err := listCheckpoints(back); err != nil || len(list) != 1 || list[0].step != 7 {
		t.Errorf("checkpoints %v, want that of step 7; %v", list, err)
	}
	mustRun(t, tiny(t), Options{Out: back})
	sameRun(t, back, whole)
	// A finished run stays as it is: nothing is written again, and the result is the
	// same.
	files := []string{reportFile, runFile, finalFile, metricsFile, recipeFile}
	before := map[string]string{}
	for _, name := range files {
		before[name] = string(readFile(t, parts, name))
	}
	events, _ := filepath.Glob(filepath.Join(parts, "events.*"))
	again := mustRun(t, tiny(t), Options{Out: parts})
	for _, name := range files {
		if string(readFile(t, parts, name)) != before[name] {
			t.Errorf("%s of a finished run was written again", name)
		}
	}
	if after, _ := filepath.Glob(filepath.Join(parts, "events.*")); len(after) != len(events) {
		t.Errorf("event files %v, before %v", after, events)
	}
	if again.Steps != 10 || len(again.Curve) != 10 || again.Model == "" || again.Loss != lastLoss(again.Curve) {
		t.Errorf("the result of a finished run: %+v", again)
	}
	// Without its report it is finished again.
	os.Remove(filepath.Join(parts, reportFile))
	mustRun(t, tiny(t), Options{Out: parts})
	sameRun(t, parts, whole)
	if !exists(filepath.Join(parts, reportFile)) {
		t.Error("no report")
	}
}

// TestDamagedCheckpoint: a run never goes back by itself from a checkpoint that is
// damaged; its error names the older one that is not.
func TestDamagedCheckpoint(t *testing.T) {
	whole := t.TempDir()
	mustRun(t, tiny(t), Options{Out: whole, StopAfter: 8})
	for name, c := range map[string]struct {
		file   string
		damage func(path string) error
		want   string
	}{
		"no state":    {stateFile, os.Remove, "state.json: missing; "},
		"half a one":  {stateFile, func(path string) error { return os.Truncate(path, 40) }, "unexpected end of JSON input; "},
		"no weights":  {modelFile, os.Remove, "model.safetensors: missing; "},
		"cut weights": {modelFile, func(path string) error { return os.Truncate(path, 4000) }, "damaged (its SHA-256 is "},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			if err := os.CopyFS(out, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			list, err := listCheckpoints(out)
			if err != nil || len(list) != 2 {
				t.Fatal(list, err)
			}
			if err := c.damage(filepath.Join(list[1].path, c.file)); err != nil {
				t.Fatal(err)
			}
			ready := Check(t.Context(), tiny(t), Options{Out: out, Backend: "go"})
			_, err = Run(t.Context(), tiny(t), Options{Out: out, Backend: "go"})
			next := "Options.Resume (the next older one is " + list[0].path + ")"
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasSuffix(err.Error(), next) || fault.Code(err) != 3 {
				t.Errorf("error %v", err)
			}
			checkSays(t, ready, err)
			mustRun(t, tiny(t), Options{Out: out, Resume: list[0].path})
		})
	}
}

// TestInterrupt stops a run in the middle as Ctrl-C does.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	whole, cut := filepath.Join(dir, "whole"), filepath.Join(dir, "cut")
	mustRun(t, tiny(t), Options{Out: whole})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Run(ctx, tiny(t), Options{Out: cut, Backend: "go", Progress: func(s Step) {
		if s.Step == 4 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || fault.Code(err) != 130 {
		t.Fatalf("error %v; want it to say interrupted", err)
	}
	if report := string(readFile(t, cut, reportFile)); !strings.Contains(report, "of 10, batch 8") || !strings.Contains(report, "none yet; the newest checkpoint is") {
		t.Error("the report of an interrupted run does not say what it is")
	}
	if !strings.Contains(err.Error(), "step-5") || !exists(filepath.Join(cut, checkpointDir, "step-5", stateFile)) {
		t.Errorf("no checkpoint of the step under way: %v", err)
	}
	mustRun(t, tiny(t), Options{Out: cut})
	sameRun(t, cut, whole)
}

// A run that stops at a deadline says so, and is interrupted as any other.
func TestDeadline(t *testing.T) {
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := Run(ctx, tiny(t), Options{Out: out, Backend: "go", Progress: func(Step) { <-ctx.Done() }})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, context.Canceled) || fault.Code(err) != 130 || !strings.Contains(err.Error(), "stopped after step") {
		t.Errorf("error %v", err)
	}
}

// TestKill kills a run at random moments until it finishes.
func TestKill(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_TRAIN") != "" {
		t.Skip("only for the parent")
	}
	t.Run("random", func(t *testing.T) { killed(t, *killsFlag, "") })
	t.Run("stream", func(t *testing.T) { killed(t, (*killsFlag+1)/2, smallTars(t, t.TempDir(), 5, 5, 5, 5, 9, 1, 5, 5)) })
}

// killed kills a run so many times; source is that of a stream, "" for none.
func killed(t *testing.T, most int, source string) {
	dir := t.TempDir()
	t.Setenv("EVATOOL_TEST_STREAM", source)
	whole, cut := filepath.Join(dir, "whole"), filepath.Join(dir, "cut")
	start := time.Now()
	mustRun(t, killable(t), Options{Out: whole})
	took := time.Since(start) + 300*time.Millisecond
	kills := 0
	for try := 0; ; try++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
		cmd.Env = append(os.Environ(), "EVATOOL_TEST_TRAIN="+cut)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		if kills == most {
			if err := <-done; err != nil {
				t.Fatalf("the last process: %v\n%s", err, out.Bytes())
			}
			break
		}
		// The moments spread over the life of the process.
		after := took * time.Duration(dataset.MixKey(1, uint64(try), 2)%1000) / 1000
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("process %d: %v\n%s", try, err, out.Bytes())
			}
			os.RemoveAll(cut) // it was through: begin again
		case <-time.After(after):
			if err := cmd.Process.Signal(syscall.SIGKILL); err == nil {
				kills++
			}
			<-done
		}
	}
	sameRun(t, cut, whole)
	entries, err := os.ReadDir(filepath.Join(cut, checkpointDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "step-") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// TestSweep: a process that was killed in the middle of a file leaves it under
// another name; the next one removes it, and nothing else.
func TestSweep(t *testing.T) {
	out := t.TempDir()
	mustRun(t, tiny(t), Options{Out: out, StopAfter: 1})
	left := []string{temporary + finalFile, checkpointDir + "/" + temporary + "step-2/" + modelFile}
	keep := []string{".notes", "." + metricsFile + "1", "note.txt"}
	for _, name := range slices.Concat(left, keep) {
		path := filepath.Join(out, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, tiny(t), Options{Out: out, StopAfter: 0, Resume: "auto"})
	for _, name := range left {
		if exists(filepath.Join(out, name)) {
			t.Errorf("left behind: %s", name)
		}
	}
	for _, name := range keep {
		if !exists(filepath.Join(out, name)) {
			t.Errorf("removed: %s", name)
		}
	}
}

// TestKillChild is the process that TestKill kills.
func TestKillChild(t *testing.T) {
	out := os.Getenv("EVATOOL_TEST_TRAIN")
	if out == "" {
		t.Skip("only as a child of TestKill")
	}
	mustRun(t, killable(t), Options{Out: out})
}

func killable(t *testing.T) *Recipe {
	if source := os.Getenv("EVATOOL_TEST_STREAM"); source != "" {
		return streamed(t, source)
	}
	return tiny(t)
}

func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	done := filepath.Join(dir, "done")
	mustRun(t, tiny(t), Options{Out: done, StopAfter: 3})
	damaged := filepath.Join(dir, "damaged")
	mustRun(t, tiny(t), Options{Out: damaged, StopAfter: 3})
	file := filepath.Join(damaged, checkpointDir, "step-3", modelFile)
	b := readFile(t, file)
	b[len(b)-1] ^= 1
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	emoji := "data.1.source=" + filepath.Join(testdata, "emoji", "train-emojione.tar")
	// The same recipe, but the contents of its source have changed.
	changed, source := filepath.Join(dir, "changed"), filepath.Join(dir, "source.tar")
	swap := func(tar string) {
		if err := os.WriteFile(source, readFile(t, testdata, "emoji", tar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	swap("train-fxemoji.tar")
	ofSource := []string{"data.0.source=" + source, "model.vision_cfg.intp_freq=true"}
	start := mustRun(t, tiny(t, append(ofSource, "steps=2")...), Options{Out: filepath.Join(dir, "start")}).Model
	mustRun(t, tiny(t, ofSource...), Options{Out: changed, StopAfter: 1})
	swap("train-noto-v1.tar")
	for name, c := range map[string]struct {
		recipe *Recipe
		o      Options
		want   string
		kind   fault.Kind
	}{
		"other recipe":    {tiny(t, "lr.vision=2e-3"), Options{Out: done}, "holds a run of another recipe: lr.vision was 0.001 and is now 0.002; to continue with the change, give Options.Resume " + filepath.Join(done, checkpointDir, "step-3"), fault.Usage},
		"never":           {tiny(t), Options{Out: done, Resume: "never"}, "holds a run up to step 3", fault.Usage},
		"no checkpoint":   {tiny(t), Options{Out: done, Resume: done}, "not a checkpoint; want auto", fault.Input},
		"damaged":         {tiny(t), Options{Out: damaged}, "damaged (its SHA-256", fault.Input},
		"missing tar":     {tiny(t, "data.1.source=../testdata/emoji/{train-emojione,train-none}.tar"), Options{Out: filepath.Join(dir, "a")}, "train-none.tar", fault.Input},
		"missing source":  {tiny(t, "data.0.source=nowhere.tar"), Options{Out: filepath.Join(dir, "b")}, "data.0: nowhere.tar", fault.Input},
		"NaN":             {tiny(t, "lr.vision=1e30", "lr.text=1e30", "warmup_steps=0", emoji), Options{Out: filepath.Join(dir, "c")}, "the run stops; its last good state is", fault.Input},
		"changed data":    {tiny(t, ofSource...), Options{Out: changed}, "not the data that " + filepath.Join(changed, checkpointDir, "step-1"), fault.Input},
		"other size":      {tiny(t, append(ofSource, "model.vision_cfg.image_size=48", "init.model="+start)...), Options{Out: filepath.Join(dir, "h")}, "takes images of 32 pixels, but the recipe's model takes 48; evatool convert " + start + " --image-size 48 -o FILE", fault.Input},
		"other width":     {tiny(t, append(ofSource, "model.vision_cfg.width=32", "init.model="+start)...), Options{Out: filepath.Join(dir, "i")}, "another architecture than the recipe's model", fault.Input},
		"tower's width":   {tiny(t, append(ofSource, "model.text_cfg.width=16", "init.text="+start)...), Options{Out: filepath.Join(dir, "l")}, "give the model that fits the file, or leave the tensor at its initial value with init.skip text.positional_embedding", fault.Input},
		"tower's kind":    {tiny(t, append(ofSource, "model={embed_dim: 16, vision_cfg: {image_size: 32, patch_size: 8, layers: 1, width: 16, head_width: 8}, text_cfg: {context_length: 16, vocab_size: 49408, width: 8, heads: 1, layers: 1}}", "patch_dropout=0", "init.vision="+start)...), Options{Out: filepath.Join(dir, "m")}, "init.vision takes none of its tensors", fault.Input},
		"skip":            {tiny(t, append(ofSource, "init.text="+start, "init.skip=['[']")...), Options{Out: filepath.Join(dir, "n")}, `init.skip "["`, fault.Usage},
		"missing model":   {tiny(t, "init.model=none.safetensors"), Options{Out: filepath.Join(dir, "d")}, "none.safetensors", fault.Input},
		"eval data":       {tiny(t, "eval=[{every_steps: 1, benchmark: folder, data: nowhere}]"), Options{Out: filepath.Join(dir, "e")}, "nowhere", fault.Input},
		"eval unlabelled": {tiny(t, fmt.Sprintf("eval=[{benchmark: folder, data: %s/train-noto.tar}]", filepath.Join(testdata, "emoji"))), Options{Out: filepath.Join(dir, "j")}, "eval.0: ", fault.Input},
		"eval labels":     {tiny(t, fmt.Sprintf("eval=[{benchmark: cifar10, data: %s/test-twemoji.tar}]", filepath.Join(testdata, "emoji"))), Options{Out: filepath.Join(dir, "k")}, "eval.0: ", fault.Input},
		"eval name":       {tiny(t, "eval=[{every_steps: 1, benchmark: imagenot, data: nowhere}]"), Options{Out: filepath.Join(dir, "g")}, `unknown benchmark "imagenot"`, fault.Usage},
		"micro batch":     {tiny(t, "micro_batch=3"), Options{Out: filepath.Join(dir, "f")}, "batch 8 is not a multiple of 1 devices × micro_batch 3", fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Backend = "go"
			_, before := os.Stat(c.o.Out)
			ready := Check(t.Context(), c.recipe, c.o)
			if _, after := os.Stat(c.o.Out); before != nil && after == nil {
				t.Error("the check left a folder")
			}
			_, err := Run(t.Context(), c.recipe, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v; want it to contain %q", err, c.want)
			}
			if name != "NaN" { // which is seen in the first step
				checkSays(t, ready, err)
			}
			if _, after := os.Stat(c.o.Out); before != nil && after == nil && name != "NaN" {
				t.Error("a run that did not begin left its folder")
			}
			if got := fault.Code(err); got != int(c.kind) {
				t.Errorf("error %q has exit status %d, want %d", err, got, c.kind)
			}
		})
	}
	// Nothing of the refused runs touched the old one.
	mustRun(t, tiny(t), Options{Out: done})
}

// checkSays: the run's error is the first problem that Check found.
func checkSays(t *testing.T, ready Readiness, err error) {
	t.Helper()
	if len(ready.Problems) == 0 {
		t.Errorf("the check found nothing, the run said %v", err)
	} else if p := ready.Problems[0]; p.Error() != err.Error() || fault.Code(p) != fault.Code(err) {
		t.Errorf("the check said %v (%d), the run %v (%d)", p, fault.Code(p), err, fault.Code(err))
	}
}

// badTar holds six good pictures of a source, one that does not decode and
// one with an empty caption.
func badTar(t *testing.T, path string) {
	t.Helper()
	in, err := os.Open(filepath.Join(testdata, "emoji", "train-fxemoji.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	n := 0
	for r := tar.NewReader(in); n < 16; n++ {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case n/2 == 4 && strings.HasSuffix(h.Name, ".png"):
			data = []byte("\x89PNG\r\n\x1a\nbroken")
		case n/2 == 5 && strings.HasSuffix(h.Name, ".txt"):
			data = []byte("  \n")
		}
		h.Size = int64(len(data))
		if err := errors.Join(w.WriteHeader(h)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(path, out.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestBadSamples(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Run("random", func(t *testing.T) { badSamplesOf(t, "") })
	t.Run("stream", func(t *testing.T) { badSamplesOf(t, ", read: stream", "lanes=1") })
}

func badSamplesOf(t *testing.T, read string, more ...string) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bad.tar")
	badTar(t, path)
	sets := append([]string{"data=[{source: " + path + read + "}]", "max_bad=0.9"}, more...)
	out := filepath.Join(dir, "run")
	res := mustRun(t, tiny(t, sets...), Options{Out: out})
	// Each pass over the eight has two bad ones; substitutes may hit them again.
	if res.Bad < 20 || res.Bad > 60 {
		t.Errorf("%d bad samples of 80", res.Bad)
	}
	list := string(readFile(t, out, badFile))
	if n := strings.Count(list, "\n"); n != 2 || !strings.Contains(list, "empty caption") || !strings.Contains(list, "PNG") {
		t.Errorf("list of bad samples, %d lines:\n%s", n, list)
	}
	again := filepath.Join(dir, "again")
	mustRun(t, tiny(t, sets...), Options{Out: again, StopAfter: 5, Workers: 4})
	resumed := mustRun(t, tiny(t, sets...), Options{Out: again, Workers: 1})
	sameRun(t, again, out)
	if n := strings.Count(string(readFile(t, again, badFile)), "\n"); resumed.Bad != res.Bad || n != 2 {
		t.Errorf("resumed: %d bad samples, %d of them listed; want %d and 2", resumed.Bad, n, res.Bad)
	}
	state := filepath.Join(checkpointDir, "step-10", stateFile)
	if got, want := readFile(t, again, state), readFile(t, out, state); !bytes.Equal(got, want) {
		t.Errorf("state of the resumed run:\n%s\nwant:\n%s", got, want)
	}
	sets[1] = "max_bad=0.01"
	_, err := Run(t.Context(), tiny(t, sets...), Options{Out: filepath.Join(dir, "strict"), Backend: "go"})
	if err == nil || !strings.Contains(err.Error(), "more than max_bad 0.01 allows") || fault.Code(err) != 3 ||
		!strings.Contains(err.Error(), "the state after step") {
		t.Errorf("too many bad samples: error %v", err)
	}
}

// pictures are the PNG files of a bundled tar, by their names.
func pictures(t *testing.T) (names []string, files [][]byte) {
	t.Helper()
	in, err := os.Open(filepath.Join(testdata, "emoji", "train-fxemoji.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, files
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".png") {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			names, files = append(names, h.Name), append(files, data)
		}
	}
}

// TestTable trains on a CSV of paths and captions, mixed with tars by weight.
func TestTable(t *testing.T) {
	dir := t.TempDir()
	names, files := pictures(t)
	var table strings.Builder
	table.WriteString("path,text\n")
	for i, data := range files {
		file := filepath.Join(dir, names[i])
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&table, "%s,a thing\n", file)
	}
	path := filepath.Join(dir, "pairs.csv")
	if err := os.WriteFile(path, []byte(table.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	set := "data.0={source: " + path + ", image: path, caption: text, weight: 1.6}"
	res := mustRun(t, tiny(t, set, "steps=2"), Options{Out: filepath.Join(dir, "run")})
	if res.Bad != 0 || res.Steps != 2 {
		t.Errorf("result %+v", res)
	}
	_, err := Run(t.Context(), tiny(t, "data.0={source: "+path+", image: path, caption: words, weight: 1}"), Options{Out: filepath.Join(dir, "b"), Backend: "go"})
	if err == nil || !strings.Contains(err.Error(), "words") {
		t.Errorf("a column that is not there: error %v", err)
	}
}

// TestStorage trains on tars and a Parquet table of pictures and captions in a
// bucket. Stopped, resumed and with broken connections it writes the bytes of
// a run on local files that was not stopped.
func TestStorage(t *testing.T) {
	bucket := datasettest.StartBucket(t)
	type row struct {
		Image []byte `parquet:"image"`
		Text  string `parquet:"text"`
	}
	var rows []row
	_, files := pictures(t)
	for i, data := range files {
		rows = append(rows, row{data, fmt.Sprint("thing ", i)})
	}
	if err := parquet.WriteFile(filepath.Join(bucket.Dir, "pairs.parquet"), rows); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"train-emojione.tar", "train-noto-v1.tar"} {
		if err := os.WriteFile(filepath.Join(bucket.Dir, fmt.Sprintf("x-%d.tar", i)), readFile(t, testdata, "emoji", name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := func(root string) *Recipe {
		return tiny(t, "data.0={source: "+root+"/pairs.parquet, caption: text, weight: 1.6}",
			"data.1={source: '"+root+"/x-{0..1}.tar', weight: 0.4}")
	}
	dir := t.TempDir()
	whole, parts := filepath.Join(dir, "whole"), filepath.Join(dir, "parts")
	if res := mustRun(t, at(bucket.Dir), Options{Out: whole}); res.Bad != 0 {
		t.Errorf("%d bad samples", res.Bad)
	}
	mustRun(t, at("s3://data"), Options{Out: parts, StopAfter: 4})
	bucket.Cut.Store(2)
	mustRun(t, at("s3://data"), Options{Out: parts})
	if bucket.Cut.Load() >= 0 {
		t.Error("no connection broke")
	}
	sameRun(t, parts, whole)
	// Data that has moved out of the bucket is the same data.
	home := filepath.Join(dir, "home")
	mustRun(t, at("s3://data"), Options{Out: home, StopAfter: 4})
	mustRun(t, at(bucket.Dir), Options{Out: home})
	sameRun(t, home, whole)

	t.Setenv("AWS_ACCESS_KEY_ID", "stranger")
	_, err := Run(t.Context(), at("s3://data"), Options{Out: filepath.Join(dir, "stranger"), Backend: "go"})
	if err == nil || fault.Code(err) != 4 || !strings.Contains(err.Error(), "data.0: s3://data/pairs.parquet: access denied") {
		t.Errorf("a wrong key: error %v", err)
	}
}

// full stands for a disk that is full for a while.
type full struct{ io.WriteCloser }

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestDiskFull(t *testing.T) {
	m := newFixture(t, families[0], nil).machine(t, onDevice(t, 0), false)
	s, err := m.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	dir := t.TempDir()
	v := newSaver(dir, 3, runlog.NewLogger(&log, false, false))
	v.retry = time.Millisecond
	var fails atomic.Int64
	real := v.open
	v.open = func(path string) (io.WriteCloser, error) {
		f, err := real(path)
		if fails.Add(-1) >= 0 {
			return full{f}, err
		}
		return f, err
	}
	fails.Store(3)
	s.state.Step = 7
	if err := errors.Join(v.start(t.Context(), s), v.wait()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "the disk is full") || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("log: %q", log.String())
	}
	if st, err := readState(filepath.Join(dir, checkpointDir, "step-7")); err != nil || st.Step != 7 {
		t.Errorf("state %+v, %v", st, err)
	}
	// It stays full: Ctrl-C ends the wait, and the older checkpoint is complete.
	fails.Store(math.MaxInt64)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s.state.Step = 8
	err = errors.Join(v.start(ctx, s), v.wait())
	if err == nil || fault.Code(err) != 130 || !strings.Contains(err.Error(), "the same command resumes from") {
		t.Errorf("error %v", err)
	}
	if list, err := listCheckpoints(dir); err != nil || len(list) != 1 {
		t.Errorf("checkpoints %v, %v", list, err)
	}
}

// fullLines is metrics.jsonl on a disk that has room for some lines; wait is called at
// every attempt after that.
type fullLines struct {
	jsonLines
	room *int
	wait func()
}

func (l fullLines) Write(v any) error {
	if *l.room--; *l.room < 0 {
		l.wait()
		return fmt.Errorf("write: %w", syscall.ENOSPC)
	}
	return l.jsonLines.Write(v)
}

// TestDiskFullMetrics: the wait for space for a line of metrics.jsonl ends at once with
// the run, and leaves nothing that resuming does not repair.
func TestDiskFullMetrics(t *testing.T) {
	dir := t.TempDir()
	whole, cut := filepath.Join(dir, "whole"), filepath.Join(dir, "cut")
	mustRun(t, tiny(t), Options{Out: whole})
	room, tries := 5, 0
	full := func(wait func()) fakes {
		return fakes{retry: time.Millisecond, lines: func(path string, keep int64) (jsonLines, error) {
			l, err := openLines(path, keep)
			return fullLines{l, &room, wait}, err
		}}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	_, err := Run(ctx, tiny(t), Options{Out: cut, Backend: "go", Log: runlog.NewLogger(&log, false, false), fakes: full(func() {
		if tries++; tries == 3 {
			cancel()
		}
	})})
	if fault.Code(err) != 130 || !strings.Contains(err.Error(), "no space for the metrics.jsonl") || !strings.Contains(err.Error(), "step-3") {
		t.Fatalf("error %v", err)
	}
	if tries > 5 || !strings.Contains(log.String(), "the disk is full") {
		t.Errorf("%d tries; log:\n%s", tries, log.String())
	}
	// Space for lines, none for the checkpoint that stopping writes.
	ctx, cancel = context.WithCancel(t.Context())
	_, err = Run(ctx, tiny(t), Options{Out: filepath.Join(dir, "early"), Backend: "go", Progress: func(Step) { cancel() },
		fakes: fakes{retry: time.Hour, create: func(string) (io.WriteCloser, error) { return nil, syscall.ENOSPC }}})
	if fault.Code(err) != 130 || !strings.Contains(err.Error(), "no space for the checkpoint") || !strings.Contains(err.Error(), "resumes from the start") {
		t.Errorf("error %v", err)
	}
	// Space again.
	mustRun(t, tiny(t), Options{Out: cut})
	sameRun(t, cut, whole)
	// Space becomes free while the run waits.
	waited := filepath.Join(dir, "waited")
	room, tries = 5, 0
	mustRun(t, tiny(t), Options{Out: waited, fakes: full(func() {
		if tries++; tries == 3 {
			room = 1 << 40
		}
	})})
	sameRun(t, waited, whole)
}

// TestEvaluation scores during the run, and not twice after a resume.
func TestEvaluation(t *testing.T) {
	dir := t.TempDir()
	emoji := filepath.Join(testdata, "emoji")
	set := fmt.Sprintf("eval=[{every_steps: 4, benchmark: folder, data: %s/test-twemoji.tar, classnames: %s/classnames.txt, templates: %s/templates.txt, limit: 40}]", emoji, emoji, emoji)
	whole, cut := filepath.Join(dir, "whole"), filepath.Join(dir, "cut")
	var phases []string
	const long = time.Second // of an evaluation, at least
	res := mustRun(t, tiny(t, set), Options{Out: whole, Phase: func(s string) {
		if phases = append(phases, s); strings.HasPrefix(s, "evaluating") {
			time.Sleep(long)
		}
	}})
	if after := min(res.Curve[4].Seconds, res.Curve[8].Seconds); after >= long.Seconds() {
		t.Errorf("the steps after an evaluation took %.2g s or more; its own time counts", after)
	}
	if got := strings.Join(phases, ","); got != "opening,,compiling,,evaluating folder,,evaluating folder,,evaluating folder," {
		t.Errorf("phases %q", got)
	}
	if len(res.Evals) != 3 || res.Evals[0].Step != 4 || res.Evals[2].Step != 10 || res.Evals[0].N != 40 {
		t.Fatalf("evaluations %+v", res.Evals)
	}
	mustRun(t, tiny(t, set), Options{Out: cut, StopAfter: 4})
	mustRun(t, tiny(t, set), Options{Out: cut})
	sameRun(t, cut, whole)
	_, a := lines(t, cut)
	if len(a) != 3 {
		t.Fatalf("%d evaluation lines, want 3", len(a))
	}
	for i := range a {
		if a[i].Step != res.Evals[i].Step || a[i].Top1 != res.Evals[i].Top1 || a[i].Top5 != res.Evals[i].Top5 {
			t.Errorf("evaluation %d: %+v, want %+v", i, a[i], res.Evals[i])
		}
	}
}

// TestHalf: an overflow changes nothing but the loss scale. On XLA (with
// -evatool.full) the products are in half precision where the processor has it; the Go backend has the
// rule alone, and overflows in fp32.
func TestHalf(t *testing.T) {
	// Too much for float32 too, in which a CPU without half-precision
	// instructions computes.
	const over = float32(1 << 127)
	for i := range 2 {
		t.Run(where[i].name, func(t *testing.T) {
			if i > 0 && !*fullFlag {
				t.Skip("only with -evatool.full")
			}
			dev := onDevice(t, i)
			machineOf := func(precision string) (*machine, *fixture) {
				f := newFixture(t, families[0], func(r *Recipe) { r.Precision = precision })
				return f.machine(t, dev, false), f
			}
			m, f := machineOf("bf16")
			near(t, "bf16 loss", float64(m.must(t, &f.batches.batches[0], 0)[metricLoss]), 3.26226, 0.05)

			m, f = machineOf("fp16")
			set := func(scale float32) {
				a, err := dev.Put(device.Replicated, tensors.FromScalar(scale))
				if err != nil {
					t.Fatal(err)
				}
				m.state.scale = a
			}
			set(64)
			v := m.must(t, &f.batches.batches[0], 0)
			near(t, "fp16 loss", float64(v[metricLoss]), 3.26226, 0.01)
			near(t, "fp16 gradient norm", float64(v[metricGradNorm]), 32.138, 0.5)
			near(t, "loss scale", float64(v[metricLossScale]), 64, 0)
			before := m.value(t, "visual.head.weight")
			set(over) // skipped twice, halved at the second
			for k := range 2 {
				v := m.must(t, &f.batches.batches[1], 1)
				near(t, fmt.Sprintf("loss scale of overflow %d", k), float64(v[metricLossScale]), float64(over), 0)
				near(t, "finite", float64(v[metricFinite]), 0, 0)
				near(t, "skipped", float64(v[metricSkipped]), float64(k+1), 0)
			}
			scale, err := m.state.scale.Float32s()
			if err != nil {
				t.Fatal(err)
			}
			near(t, "loss scale after two overflows", float64(scale[0]), float64(over/2), 0)
			if d := l2diff(m.value(t, "visual.head.weight"), before); d != 0 {
				t.Errorf("a skipped step moved a parameter by %g", d)
			}
		})
	}
}

// TestCheckpointing: for every kind of tower, recomputing blocks, and starting them at
// kept inputs, changes no gradient.
func TestCheckpointing(t *testing.T) {
	dev := onDevice(t, 0)
	models, err := filepath.Glob(filepath.Join(testdata, "models", "*", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	trained := 0
	for _, path := range models {
		family := filepath.Base(filepath.Dir(path))
		t.Run(family, func(t *testing.T) {
			var config map[string]any
			readJSON(t, &config, "models", family, "config.json")
			run := func(checkpointing bool, micro int) (grads map[string][]float32) {
				r := defaults()
				r.Model, r.Data = config, []Source{{Tensors: "x"}}
				r.Batch, r.MicroBatch, r.Accumulation, r.GradCheckpointing = 4, micro, accumulateResiduals, checkpointing
				r.Steps, r.WarmupSteps, r.DropPath = 1, 0, 0.3
				// β1 = 0 and no clipping leave the gradient in the first moment.
				r.Optimizer = Optimizer{Name: "adamw", Betas: [2]float64{0, 0.98}, Eps: 1e-6}
				if err := r.check("test"); err != nil {
					if !strings.Contains(err.Error(), "does not train a model of this kind") {
						t.Error(err)
					}
					return nil
				}
				trained++
				m, err := newMachine(dev, r, true, false)
				if err != nil {
					t.Fatal(err)
				}
				defer m.close()
				if err := m.start(func(p arch.Param) ([]float32, error) { return checkpoint.RandomTensor(m.cfg, p, 1), nil }); err != nil {
					t.Fatal(err)
				}
				m.must(t, m.randomBatch(), 0)
				grads = map[string][]float32{}
				for k, p := range m.params {
					if grads[p.Name], err = m.state.m[k].Float32s(); err != nil {
						t.Fatal(err)
					}
				}
				return grads
			}
			plain := run(false, 0)
			for what, other := range map[string]map[string][]float32{"checkpointing": run(true, 0), "residuals": run(true, 2)} {
				for name, g := range plain {
					if d := l2diff(other[name], g); !(d <= 1e-4*l2(g)+1e-8) {
						t.Errorf("%s: %s: off by %.2g of %.2g", what, name, d, l2(g))
					}
				}
			}
		})
	}
	if trained < 3*10 {
		t.Errorf("%d machines", trained)
	}
}

// TestQueueIsBounded: the pipeline never has more than its queue of batches,
// and nothing of it is left after close. In a bubble both are exact: Wait
// returns when every goroutine is stuck or gone, and one that stays is a panic.
// (runtime.NumGoroutine counts goroutines on their way out, and more.)
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tiny(t, "steps=200")
		cfg, err := r.config()
		if err != nil {
			t.Fatal(err)
		}
		p, err := openPairs(t.Context(), r, cfg, newBadSamples(filepath.Join(t.TempDir(), badFile), 0, 0, runlog.Discard()), reading{})
		if err != nil {
			t.Fatal(err)
		}
		pl := startPipeline(context.WithoutCancel(t.Context()), p, 0, 200, 2)
		b, _, err := pl.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(pl.ready); n != prefetch {
			t.Errorf("%d batches ready, want %d", n, prefetch)
		}
		pl.done(b)
		pl.close()
	})
}

// TestTowers starts from a vision and a text tower; with learning rates of zero
// the final model is the start.
func TestTowers(t *testing.T) {
	const dir = testdata + "/init/d_both_from_eva_clip_checkpoint/"
	tmp := t.TempDir()
	var config struct {
		Vision struct {
			Size int `json:"image_size"`
		} `json:"vision_cfg"`
		Text struct {
			Context int `json:"context_length"`
		} `json:"text_cfg"`
	}
	readJSON(t, &config, "init", "d_both_from_eva_clip_checkpoint", "config.json")
	s, c := config.Vision.Size, config.Text.Context
	images, tokens := make([]byte, 2*3*s*s*4), make([]byte, 2*c*8)
	batches := filepath.Join(tmp, "batches.safetensors")
	err := tensorfile.WriteFile(batches, []tensorfile.Tensor{
		{Info: tensorfile.Info{Name: "tokens", DType: tensorfile.I64, Shape: []int64{1, 2, int64(c)}}, Data: tokens},
		{Info: tensorfile.Info{Name: "images", DType: tensorfile.F32, Shape: []int64{1, 2, 3, int64(s), int64(s)}}, Data: images},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tower, err := os.ReadFile(filepath.Join(dir, "EVA02_CLIP.pt"))
	if err != nil {
		t.Fatal(err)
	}
	hubtest.New(t, "some/towers", map[string][]byte{"EVA02_CLIP.pt": tower})
	t.Setenv("HF_HOME", filepath.Join(tmp, "hub"))
	r, err := ParseRecipe("towers", []byte(fmt.Sprintf(`
model: %sconfig.json
init: {vision: "hf:some/towers", text: %sEVA02_CLIP.pt}
data: [{tensors: %s}]
batch: 2
steps: 1
warmup_steps: 0
lr: {vision: 0, text: 0, other: 0}
`, dir, dir, batches)))
	if err != nil {
		t.Fatal(err)
	}
	res := mustRun(t, r, Options{Out: filepath.Join(tmp, "run")})
	got, err := tensorfile.OpenFile(res.Model)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	var want map[string]struct{ SHA256 string }
	readJSON(t, &want, "init", "d_both_from_eva_clip_checkpoint", "expected.json")
	same := 0
	for name, w := range want {
		if strings.Contains(name, "blocks.") {
			same++
			data, err := tensorfile.ReadAll(got, name)
			if err != nil {
				t.Fatal(err)
			}
			if sum := fmt.Sprintf("%x", sha256.Sum256(data)); sum != w.SHA256 {
				t.Errorf("%s: %s, want %s", name, sum, w.SHA256)
			}
		}
	}
	if same < 20 {
		t.Errorf("only %d tensors compared", same)
	}
	for _, name := range []string{"config.json", "init.safetensors", "init.report.json"} {
		if exists(filepath.Join(tmp, "run", name)) {
			t.Errorf("%s in the run's folder: the start is not written", name)
		}
	}
}

// TestWarnings: a run warns of what its model's configuration suggests and training
// does not do.
func TestWarnings(t *testing.T) {
	const resnet = "model={embed_dim: 32, vision_cfg: {image_size: 32, layers: [1, 1, 1, 1], width: 8, head_width: 32}, text_cfg: {context_length: 16, vocab_size: 49408, width: 16, heads: 2, layers: 1}}"
	const keeps, patches, path = "BatchNorm keeps the means and variances", "vision_cfg.patch_dropout 0.25, which has no effect", "vision_cfg.drop_path_rate 0.4, which has no effect"
	for name, c := range map[string]struct {
		sets []string
		want string
	}{
		"none":                   {[]string{"steps=12"}, ""},
		"ResNet":                 {[]string{resnet, "patch_dropout=0", "drop_path=0"}, keeps},
		"patch dropout":          {[]string{"model.vision_cfg.patch_dropout=0.25", "patch_dropout=0"}, patches},
		"patch dropout, both":    {[]string{"model.vision_cfg.patch_dropout=0.25"}, ""},
		"stochastic depth":       {[]string{"model.vision_cfg.drop_path_rate=0.4", "drop_path=0"}, path},
		"stochastic depth, both": {[]string{"model.vision_cfg.drop_path_rate=0.4"}, ""},
	} {
		var log bytes.Buffer
		mustRun(t, tiny(t, c.sets...), Options{Out: filepath.Join(t.TempDir(), "run"), StopAfter: 1, Log: runlog.NewLogger(&log, false, false)})
		for _, w := range []string{keeps, patches, path} {
			if got := strings.Contains(log.String(), w); got != (w == c.want) {
				t.Errorf("%s: warning %q: %v\n%s", name, w, got, &log)
			}
		}
	}
}

// TestOverflowAtTheEnd: steps of fp16 whose loss overflows are null in metrics.jsonl,
// and the run ends with a result whether or not it was resumed among them.
func TestOverflowAtTheEnd(t *testing.T) {
	sets := []string{"precision=fp16", "lr=1e30", "steps=3", "warmup_steps=0"}
	whole, again := t.TempDir(), t.TempDir()
	res := mustRun(t, tiny(t, sets...), Options{Out: whole})
	if n := len(res.Curve); n != 3 || !math.IsNaN(res.Curve[2].Loss) {
		t.Fatalf("curve %+v; want a last step that overflows", res.Curve)
	}
	if res.Loss != res.Curve[0].Loss {
		t.Errorf("loss %v; want that of the only step that has one, %v", res.Loss, res.Curve[0].Loss)
	}
	mustRun(t, tiny(t, sets...), Options{Out: again, StopAfter: 2})
	if got := mustRun(t, tiny(t, sets...), Options{Out: again}); got.Loss != res.Loss || !math.IsNaN(got.Curve[1].Loss) {
		t.Errorf("resumed: loss %v, step 2 %v; want %v and NaN", got.Loss, got.Curve[1].Loss, res.Loss)
	}
}

// TestStepTimes: every step has its own time, the last one too.
func TestStepTimes(t *testing.T) {
	for _, backend := range []string{"go", "xla"} {
		t.Run(backend, func(t *testing.T) {
			devicetest.Need(t, backend)
			r := tiny(t, "batch=64", "steps=8", "checkpoint.every_steps=0")
			steps := mustRun(t, r, Options{Out: t.TempDir(), Backend: backend, DeviceCount: 1}).Curve[2:]
			var times []float64
			for _, s := range steps {
				times = append(times, s.Seconds)
			}
			// A busy machine slows some steps down, but speeds none up.
			if last, least := times[len(times)-1], slices.Min(times[:len(times)-1]); last < least/5 {
				t.Errorf("the last step took %.2g s, the others %.2g", last, times[:len(times)-1])
			}
		})
	}
}
