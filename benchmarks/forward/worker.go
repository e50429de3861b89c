package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/weights"
)

// A worker measures one thing. It prints "ready" after warming up; then for each line
// on stdin it runs once and prints the wall and processor seconds of that run. So
// several workers can take turns.

// cpuSeconds is the processor time of this process on all cores.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return math.NaN()
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// work is what a worker measures.
type work struct {
	model, tower, dtype string
	batch, tokens       int // tokens: length of the texts
	backend             string
	threads             int
}

func (w work) run(ctx context.Context) error {
	cfg, ok := arch.Named(w.model)
	if !ok {
		return fmt.Errorf("unknown model %s", w.model)
	}
	if w.threads > 0 {
		runtime.GOMAXPROCS(w.threads)
	}
	d, err := device.Open(ctx, device.Options{Backend: w.backend, Threads: w.threads, CompileCache: "off", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer d.Close()
	set, err := weights.Load(ctx, d, cfg, checkpoint.RandomSource(cfg, 1), w.dtype)
	if err != nil {
		return err
	}
	runner, err := clip.NewRunner(d, set, clip.RunnerOptions{DType: w.dtype, Images: w.batch, Texts: w.batch})
	if err != nil {
		return err
	}
	s, c := cfg.Vision.ImageSize, cfg.Text.ContextLength
	pixels := make([]float32, w.batch*3*s*s)
	for i := range pixels {
		pixels[i] = float32(math.Sin(float64(i)))
	}
	tokens, n := make([]int32, w.batch*c), min(w.tokens, c)
	for i := range w.batch {
		row := tokens[i*c : (i+1)*c]
		for k := range n {
			row[k] = int32(1000 + 7*i + k)
		}
		row[0], row[n-1] = int32(cfg.Text.VocabSize-2), int32(cfg.Text.VocabSize-1)
	}
	once := func() error {
		if w.tower == "image" {
			_, err = runner.Images(ctx, pixels, w.batch)
		} else {
			_, err = runner.Texts(ctx, tokens, w.batch)
		}
		return err
	}
	for range 2 {
		if err := once(); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		start, used := time.Now(), cpuSeconds()
		if err := once(); err != nil {
			return err
		}
		fmt.Println(time.Since(start).Seconds(), cpuSeconds()-used)
	}
	return in.Err()
}
