package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
)

// TestTiny runs every part that needs no GPU, on the CPU plugin.
func TestTiny(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a dozen programs")
	}
	devicetest.Open(t, device.Options{Backend: "xla", DeviceCount: 1}).Close() // or skip
	r, err := run(t.Context(), device.Options{Backend: "xla", DeviceCount: 1, Log: slog.New(slog.DiscardHandler)}, "tiny", "", 10*time.Minute, slog.New(slog.DiscardHandler))
	if err != nil || len(r.Skipped) > 0 {
		t.Fatal(err, r.Skipped)
	}
	if len(r.MatMul) != 2 || len(r.Parity) != 4 || len(r.Forward) != 2 || len(r.Train) != 1 || len(r.Pipeline) != 1 {
		data, _ := json.Marshal(r)
		t.Errorf("parts are missing: %s", data)
	}
	if s := r.Train[0]; s.Samples <= 0 || s.Kept == nil || s.Memory.Peak() <= 0 || s.ToDevice != s.BatchBytes+12 {
		t.Errorf("training: %+v", s)
	}
	if p := r.Pipeline[0]; p.Real <= 0 || p.Wait < 0 || p.Wait > 1 {
		t.Errorf("pipeline: %+v", p)
	}
	var table strings.Builder
	r.table(&table)
	for _, want := range []string{"tiny features bf16", "samples/s from a tar", "fused attention"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, &table)
		}
	}
}

// TestBudget: no part begins after the time, and that is said.
func TestBudget(t *testing.T) {
	b := &bench{report: &Report{}, end: time.Now().Add(-time.Second), sizes: tiny, log: slog.New(slog.DiscardHandler)}
	if err := b.train(); err != nil || len(b.report.Skipped) != 1 || !strings.Contains(b.report.Skipped[0], "out of time") {
		t.Errorf("%v, skipped %v", err, b.report.Skipped)
	}
	if peakOf("NVIDIA H100 80GB HBM3") != 989 || peakOf("NVIDIA H100 PCIe") != 756 || peakOf("other") != 0 {
		t.Error("peaks")
	}
}

// TestScript: gpu.sh finds the plugin in its folder, and says how it is used.
func TestScript(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("bench", "#!/bin/sh\necho \"$@\"\n")
	write("plugins/jax_plugins/xla_cuda13/xla_cuda_plugin.so", "")
	write("empty/README", "")
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{dir + "/bench", dir + "/plugins", dir + "/out"}, "--backend xla:" + dir + "/plugins/jax_plugins/xla_cuda13/xla_cuda_plugin.so --budget", 0},
		{[]string{dir + "/bench", "-", dir + "/out"}, "--backend auto --budget", 0},
		{[]string{dir + "/bench", dir + "/empty", dir + "/out"}, "no *cuda*plugin*.so", 4},
		{nil, "PLUGIN_FOLDER", 2},
	} {
		cmd := exec.Command("../gpu.sh", c.args...)
		cmd.Env = append(os.Environ(), "PYTHON=/nonexistent")
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%v: status %d (%v), output\n%s", c.args, code, err, out)
		}
	}
}
