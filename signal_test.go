//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const quickRecipe = `
model:
  embed_dim: 8
  vision_cfg: {image_size: 16, patch_size: 8, layers: 1, width: 8, head_width: 8}
  text_cfg: {context_length: 8, vocab_size: 49408, width: 8, heads: 1, layers: 1}
data: [{source: %s}]
batch: 4
steps: %d
warmup_steps: 0
checkpoint: {every_steps: 0, keep: 1}
`

// training is evatool training as a process.
func training(t *testing.T, steps int, before string) (cmd *exec.Cmd, out string) {
	t.Helper()
	dir := t.TempDir()
	data, err := filepath.Abs("testdata/emoji/train-fxemoji.tar")
	if err != nil {
		t.Fatal(err)
	}
	recipe := filepath.Join(dir, "recipe.yaml")
	if err := os.WriteFile(recipe, fmt.Appendf(nil, quickRecipe, data, steps), 0o644); err != nil {
		t.Fatal(err)
	}
	out = filepath.Join(dir, "out")
	// If the tests themselves run under nohup, a child would inherit the ignored
	// signal; one that is handled here has its default action there.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGINT)
	t.Cleanup(func() { signal.Stop(caught) })
	cmd = exec.Command("sh", "-c", before+`exec evatool train "$0" --backend go --out "$1"`, recipe, out)
	t.Cleanup(func() {
		if cmd.ProcessState == nil && cmd.Process != nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd, out
}

// stepsDone waits until a training has done more than n steps.
func stepsDone(t *testing.T, out string, n int) int {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(filepath.Join(out, "metrics.jsonl"))
		if done := bytes.Count(text, []byte("\n")); done > n {
			return done
		}
	}
	t.Fatalf("no more than %d steps in a minute", n)
	return 0
}

func exitStatus(t *testing.T, err error) int {
	t.Helper()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	if err == nil {
		return 0
	}
	return e.ExitCode()
}

// TestSignals: a closed terminal is a request to stop as Ctrl-C is, and leaves
// a checkpoint; what was ignored at the start stays ignored.
func TestSignals(t *testing.T) {
	for name, c := range map[string]struct {
		before  string
		ignored syscall.Signal
		stop    syscall.Signal
	}{
		"SIGHUP":     {"", 0, syscall.SIGHUP},
		"SIGINT":     {"", 0, syscall.SIGINT},
		"nohup":      {"trap '' HUP; ", syscall.SIGHUP, syscall.SIGTERM},
		"background": {"trap '' INT; ", syscall.SIGINT, syscall.SIGTERM},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, out := training(t, 1_000_000, c.before)
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			n := stepsDone(t, out, 3)
			if c.ignored != 0 {
				cmd.Process.Signal(c.ignored)
				stepsDone(t, out, n+20)
			}
			cmd.Process.Signal(c.stop)
			if code := exitStatus(t, cmd.Wait()); code != 130 {
				t.Errorf("exit status %d\n%s", code, said.String())
			}
			if found, _ := filepath.Glob(filepath.Join(out, "checkpoints", "step-*", "state.json")); len(found) != 1 {
				t.Errorf("checkpoints %v\n%s", found, said.String())
			}
			if text, err := os.ReadFile(filepath.Join(out, "report.html")); err != nil || !strings.Contains(string(text), "Contrastive loss") {
				t.Errorf("no report with curves: %v\n%s", err, said.String())
			}
		})
	}
}

// TestNobodyReads: a training whose terminal or reader is gone runs to its end; if it
// could not print because the disk is full, it then ends in an error.
func TestNobodyReads(t *testing.T) {
	closed := func(t *testing.T) *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		t.Cleanup(func() { w.Close() })
		return w
	}
	full := func(t *testing.T) *os.File {
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip("no /dev/full here")
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for name, c := range map[string]struct {
		stdout, stderr func(t *testing.T) *os.File
		code           int
	}{
		"closed": {closed, closed, 0}, "stderr closed": {nil, closed, 0}, "stderr full": {nil, full, 0}, "stdout full": {full, nil, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, out := training(t, 5, "")
			var said bytes.Buffer
			cmd.Stderr = &said
			if c.stdout != nil {
				cmd.Stdout = c.stdout(t)
			}
			if c.stderr != nil {
				cmd.Stderr = c.stderr(t)
			}
			if code := exitStatus(t, cmd.Run()); code != c.code {
				t.Errorf("exit status %d, want %d\n%s", code, c.code, said.String())
			}
			if c.code != 0 && strings.Count(said.String(), "evatool: standard output: ") != 1 {
				t.Errorf("said %s", said.String())
			}
			if _, err := os.Stat(filepath.Join(out, "final.safetensors")); err != nil {
				t.Error(err)
			}
		})
	}
}
