// Library measures the speed of package eval for callers with one picture at a time:
// many goroutines share the model's calls. It compares them, in turns, with one
// caller with full batches.
//
//	go run ./benchmarks/library --data PHOTOS
//
// PHOTOS is a folder of pictures. The model has random weights.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/evatool/evatool/benchmarks/made"
	"github.com/evatool/evatool/benchmarks/paired"
	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/arch"
)

type bench struct {
	data, config, backend       string
	callers, rounds, n, workers int
	batch                       int
	dtype                       string
}

func main() {
	var b bench
	flag.StringVar(&b.data, "data", "testdata/preprocess/images", "a folder of pictures")
	flag.StringVar(&b.config, "config", "EVA02-CLIP-B-16", "architecture")
	flag.StringVar(&b.backend, "backend", "xla", "")
	flag.StringVar(&b.dtype, "dtype", "fp32", "")
	flag.IntVar(&b.callers, "callers", 8, "goroutines with one picture at a time")
	flag.IntVar(&b.batch, "batch", 0, "images per call (0: the default)")
	flag.IntVar(&b.workers, "workers", 0, "decoding goroutines (0: one per core)")
	flag.IntVar(&b.n, "n", 64, "pictures per round")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of each side")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "library:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "evatool-bench-library-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	model := filepath.Join(dir, "model.safetensors")
	cfg, ok := arch.Named(b.config)
	if !ok {
		return fmt.Errorf("unknown model %s", b.config)
	}
	if err := made.Model(cfg, model); err != nil {
		return err
	}
	m, err := eval.Open(ctx, model, eval.OpenOptions{Backend: b.backend, DType: b.dtype, Batch: b.batch, Workers: b.workers})
	if err != nil {
		return err
	}
	defer m.Close()
	pictures, err := b.pictures()
	if err != nil {
		return err
	}
	full := m.Info().Batch
	sides := []struct {
		name string
		run  func() error
		rate []float64
	}{
		{name: fmt.Sprintf("one caller, %d pictures a call", full), run: func() error {
			for part := range slices.Chunk(pictures, full) {
				if _, err := m.EncodeImages(ctx, part...); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: fmt.Sprintf("%d callers, one picture a call", b.callers), run: func() error { return b.together(ctx, m, pictures) }},
		{name: "one caller, one picture a call", run: func() error {
			for _, p := range pictures {
				if _, err := m.EncodeImages(ctx, p); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "one caller, all pictures in a call", run: func() error {
			_, err := m.EncodeImages(ctx, pictures...)
			return err
		}},
	}
	for round := range b.rounds + 1 { // the first compiles
		for i := range sides {
			if round%2 == 1 {
				i = len(sides) - 1 - i
			}
			start := time.Now()
			if err := sides[i].run(); err != nil {
				return err
			}
			if round > 0 {
				sides[i].rate = append(sides[i].rate, float64(len(pictures))/time.Since(start).Seconds())
			}
		}
	}
	fmt.Println("| side | images/s, median (range) | of the first, a round's median (95 %) |\n|---|---|---|")
	for _, s := range sides {
		fmt.Printf("| %s | %.1f (%.1f–%.1f) | %v |\n", s.name, paired.Median(s.rate), slices.Min(s.rate), slices.Max(s.rate),
			paired.Over(s.rate, sides[0].rate))
	}
	return nil
}

// together distributes the pictures over the callers.
func (b *bench) together(ctx context.Context, m *eval.Model, pictures [][]byte) error {
	todo := make(chan []byte)
	errs := make(chan error, b.callers)
	var wg sync.WaitGroup
	for range b.callers {
		wg.Go(func() {
			for p := range todo {
				if _, err := m.EncodeImages(ctx, p); err != nil {
					errs <- err
					for range todo {
					}
				}
			}
		})
	}
	for _, p := range pictures {
		todo <- p
	}
	close(todo)
	wg.Wait()
	close(errs)
	return <-errs
}

func (b *bench) pictures() ([][]byte, error) {
	var files [][]byte
	err := filepath.WalkDir(b.data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.ReadFile(path)
		files = append(files, f)
		return err
	})
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("%s: %d pictures, %v", b.data, len(files), err)
	}
	out := make([][]byte, b.n)
	for i := range out {
		out[i] = files[i%len(files)]
	}
	return out, nil
}
