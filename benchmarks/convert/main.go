// Command convert compares evatool convert with PyTorch (torch.load with
// weights_only, then safetensors.torch.save_file) and cp on the same synthetic
// EVA02-CLIP-B-16 checkpoint, and measures the memory for a 10 GB one.
//
//	make build
//	GOEXPERIMENT=simd go run ./benchmarks/convert --python venv/bin/python --dir out/bench
//
// Without --python only evatool and cp are measured.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/evatool/evatool/benchmarks/paired"
	"github.com/evatool/evatool/internal/arch"
)

// torchScript does what users do. With a third argument it also syncs the file to
// disk, as evatool always does; it prints how long it took without the imports.
const torchScript = `
import sys, os, time, torch
from safetensors.torch import save_file
t = time.perf_counter()
d = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
save_file({k: v.contiguous() for k, v in d.items()}, sys.argv[2])
if len(sys.argv) > 3:
    with open(sys.argv[2], "rb") as f:
        os.fsync(f.fileno())
print(time.perf_counter() - t)
`

func main() {
	python := flag.String("python", "", "a Python with torch and safetensors")
	tool := flag.String("evatool", "./evatool", "the binary")
	dir := flag.String("dir", os.TempDir(), "where to write; needs 2 GB of space (30 GB with --large)")
	rounds := flag.Int("rounds", 7, "rounds")
	large := flag.Bool("large", false, "also convert a synthetic checkpoint of 10 GB, to measure memory")
	only := flag.String("make", "", "only write the 600 MB checkpoint to this file")
	flag.Parse()
	if *only != "" {
		c, _ := arch.Named("EVA02-CLIP-B-16")
		if err := writeCheckpoint(*only, c, "FloatStorage", 4, false); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	err := os.MkdirAll(*dir, 0o755)
	if err == nil {
		err = bench(*python, *tool, *dir, *rounds, *large)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type result struct {
	seconds []float64
	rss     int64 // bytes
}

func bench(python, tool, dir string, rounds int, large bool) error {
	src, dst := filepath.Join(dir, "bench-src.pt"), filepath.Join(dir, "bench-out.safetensors")
	defer os.Remove(src)
	c, _ := arch.Named("EVA02-CLIP-B-16")
	if err := writeCheckpoint(src, c, "FloatStorage", 4, false); err != nil {
		return err
	}
	st, err := os.Stat(src)
	if err != nil {
		return err
	}
	fmt.Printf("%s: EVA02-CLIP-B-16, %.0f MB, %d tensors\n\n", src, float64(st.Size())/1e6, len(c.Params()))
	type contender struct {
		name string
		argv []string
		in   bool // prints its own seconds
	}
	contenders := []contender{
		{"evatool convert", []string{tool, "convert", src, "-o", dst, "--force", "--quiet"}, false},
		{"cp", []string{"cp", src, dst}, false},
		{"cp, sync", []string{"sh", "-c", `cp "$0" "$1" && sync "$1"`, src, dst}, false},
	}
	if python != "" {
		contenders = append(contenders,
			contender{"torch, no imports", []string{python, "-c", torchScript, src, dst}, true},
			contender{"torch, no imports, sync", []string{python, "-c", torchScript, src, dst, "sync"}, true},
			contender{"torch, whole process", []string{python, "-c", torchScript, src, dst}, false})
	}
	results := make([]result, len(contenders))
	for range rounds {
		for i, c := range contenders {
			os.Remove(dst)
			if err := measure(c.argv, c.in, &results[i]); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	fmt.Println("| program | s, median (range) | peak MB | over evatool, a round's median (95 %) |\n|---|---|---|---|")
	for i, c := range contenders {
		r := &results[i]
		fmt.Printf("| %s | %.2f (%.2f–%.2f) | %.0f | %v |\n", c.name, paired.Median(r.seconds),
			slices.Min(r.seconds), slices.Max(r.seconds), float64(r.rss)/1e6, paired.Over(r.seconds, results[0].seconds))
	}
	os.Remove(dst)
	if !large {
		return nil
	}
	c, _ = arch.Named("EVA02-CLIP-bigE-14-plus")
	if err := writeCheckpoint(src, c, "HalfStorage", 2, true); err != nil {
		return err
	}
	defer os.Remove(dst)
	var r result
	if err := measure(contenders[0].argv, false, &r); err != nil {
		return err
	}
	fmt.Printf("EVA02-CLIP-bigE-14-plus, 10 GB: evatool convert %.1f s, peak %.0f MB\n", paired.Median(r.seconds), float64(r.rss)/1e6)
	return nil
}

func measure(argv []string, inside bool, r *result) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	if inside {
		if _, err := fmt.Sscan(string(out), &seconds); err != nil {
			return err
		}
	}
	r.seconds = append(r.seconds, seconds)
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.rss = max(r.rss, u.Maxrss*1024) // Linux counts kilobytes
	}
	return nil
}
