package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/fault"
)

// TestMain is also the process of a row, and one that goes wrong if TEST_ROW says how.
func TestMain(m *testing.M) {
	if i := slices.Index(os.Args, "--row"); i > 0 {
		switch os.Getenv("TEST_ROW") {
		case "crash " + os.Args[i+1]:
			fmt.Fprintln(os.Stderr, "F0000 tiling.cc:627] Check failed: 4 == 3\n    @ 0x5ce57c054414")
			syscall.Kill(os.Getpid(), syscall.SIGABRT) // Go prints all goroutines, then
			select {}
		case "hang " + os.Args[i+1]:
			select {}
		}
		main()
		return
	}
	os.Exit(m.Run())
}

var quiet = slog.New(slog.DiscardHandler)

// TestTiny runs every row that needs no GPU, on the CPU plugin.
func TestTiny(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a dozen programs")
	}
	devicetest.Open(t, device.Options{Backend: "xla", DeviceCount: 1}).Close() // or skip
	file := filepath.Join(t.TempDir(), "gpu.json")
	saves := 0
	r, err := measure(t.Context(), tiny, "", 10*time.Minute, child([]string{"--backend", "xla", "--size", "tiny"}), func(r *Report) {
		saves++
		r.write(file, quiet)
	}, quiet)
	if err != nil || len(r.Skipped) > 0 {
		t.Fatal(err, r.Skipped)
	}
	if len(r.MatMul) != 2 || len(r.Parity) != 4 || len(r.Forward) != 2 || len(r.Train) != 1 || len(r.Pipeline) != 1 || saves != 8 {
		data, _ := json.Marshal(r)
		t.Errorf("parts are missing: %s, %d saves", data, saves)
	}
	if s := r.Train[0]; s.Samples <= 0 || s.Kept == nil || s.Memory.Peak() <= 0 || s.ToDevice != s.BatchBytes+12 {
		t.Errorf("training: %+v", s)
	}
	if p := r.Pipeline[0]; p.Real <= 0 || p.Wait < 0 || p.Wait > 1 {
		t.Errorf("pipeline: %+v", p)
	}
	read, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	read.table(&table)
	for _, want := range []string{"tiny features bf16", "samples/s from a tar", "fused attention"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, &table)
		}
	}
}

// TestRowFails: a row that crashes or hangs affects no other row.
func TestRowFails(t *testing.T) {
	s := sizes{matmul: 64, forward: []forwardCase{{tinyModel, "fp99", 4}, {tinyModel, "fp32", 1}}}
	grace = time.Second
	defer func() { grace = 45 * time.Second }()
	for mode, want := range map[string]string{
		"crash 1": "matrix product: F0000 tiling.cc:627] Check failed: 4 == 3",
		"hang 1":  "out of time, ended while it ran",
	} {
		t.Setenv("TEST_ROW", mode)
		r, err := measure(t.Context(), s, "matmul", 3*time.Second, child([]string{"--backend", "go", "--size", "tiny"}), func(*Report) {}, quiet)
		if err != nil || r.Device.Kind != device.KindGo || len(r.Skipped) != 1 || !strings.Contains(r.Skipped[0], want) {
			t.Errorf("%s: %v, %+v", mode, err, r)
		}
	}
	// In this process: a child's presets cannot be changed.
	run := func(ctx context.Context, i int, before *Report, end time.Time) (part *Report, err error) {
		err = measureRow(ctx, device.Options{Backend: "go", Log: quiet}, s, i, before, end, func(r *Report) { part = r })
		return part, err
	}
	r, err := measure(t.Context(), s, "", time.Minute, run, func(*Report) {}, quiet)
	if err != nil || len(r.MatMul) == 0 || len(r.Forward) != 1 || len(r.Skipped) != 1 || !strings.Contains(r.Skipped[0], "fp99") {
		t.Errorf("%v, %+v", err, r)
	}
	// Without a device nothing else is tried.
	r, err = measure(t.Context(), s, "", time.Minute, child([]string{"--backend", "xla:/nowhere/cpu.so", "--size", "tiny"}), func(*Report) {}, quiet)
	if fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "/nowhere/cpu.so") || len(r.Skipped) > 0 {
		t.Errorf("%v, %+v", err, r)
	}
	r, err = measure(t.Context(), s, "", 0, run, func(*Report) {}, quiet)
	if err != nil || len(r.Skipped) != 4 || !strings.Contains(r.Skipped[3], "out of time") {
		t.Errorf("%v, %+v", err, r)
	}
	if peakOf("NVIDIA H100 80GB HBM3") != 989 || peakOf("NVIDIA H100 PCIe") != 756 || peakOf("other") != 0 {
		t.Error("peaks")
	}
}

// TestScript: gpu.sh finds the plugin in its folder, says how it is used, and
// goes on after what fails.
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
	write("dies", `#!/bin/sh
if [ "$1" = --show ]; then echo the table; exit; fi
while [ "$1" != --json ]; do shift; done
echo '{}' >"$2"
echo "F0000 Check failed" >&2
exit 134
`)
	write("python", "#!/bin/sh\n[ \"$1\" = -c ] || { echo torch on \"$2\"; exit 139; }\n")
	write("plugins/jax_plugins/xla_cuda13/xla_cuda_plugin.so", "")
	write("empty/README", "")
	for _, c := range []struct {
		args   []string
		python string
		want   []string
		code   int
	}{
		{[]string{"bench", "plugins", "out"}, "/nonexistent", []string{"--backend xla:" + dir + "/plugins/jax_plugins/xla_cuda13/xla_cuda_plugin.so,preallocate=true,memory_fraction=0.9 --budget"}, 0},
		{[]string{"bench", "-", "out"}, "/nonexistent", []string{"--backend auto --budget"}, 0},
		{[]string{"bench", "empty", "out"}, "/nonexistent", []string{"no *cuda*plugin*.so"}, 4},
		{[]string{"dies", "-", "out"}, "/nonexistent", []string{"Check failed", "ended with status 134", "no PyTorch"}, 134},
		{[]string{"dies", "-", "out"}, dir + "/python", []string{"torch on " + dir + "/out/gpu.json", "status 139", "results in"}, 134},
		{[]string{"nothing", "-", "out"}, dir + "/python", []string{"ended with status 127"}, 127},
		{nil, "", []string{"PLUGIN_FOLDER"}, 2},
	} {
		var args []string
		for _, a := range c.args {
			if a != "-" {
				a = filepath.Join(dir, a)
			}
			args = append(args, a)
		}
		cmd := exec.Command("../gpu.sh", args...)
		cmd.Env = append(os.Environ(), "PYTHON="+c.python)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("%v: status %d (%v), output\n%s", c.args, code, err, out)
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, out)
			}
		}
	}
	if table, err := os.ReadFile(filepath.Join(dir, "out", "table.txt")); string(table) != "the table\n" {
		t.Errorf("table.txt: %q, %v", table, err)
	}
}
