package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// tower trains first on the full set without the mini classes, then on mini from that
// model, compared with random weights: each start with every seed.
func (b *bench) tower(ctx context.Context) error {
	if b.full == "" {
		fmt.Printf("\nTower start: needs -full DIR, skipped\n")
		return nil
	}
	rest := filepath.Join(b.out, "rest")
	if err := b.withoutMini(rest); err != nil {
		return err
	}
	head("A trained vision tower against random weights, mini set (paper: +1.8 points at half the samples)")
	if _, err := b.train(ctx, "tower", "emoji-adamw", "data.0.source="+filepath.Join(rest, "train-*.tar")); err != nil {
		return err
	}
	model := filepath.Join(b.out, "tower", "final.safetensors")
	for _, steps := range []int64{b.steps / 6, b.steps / 2, b.steps} {
		for _, x := range []struct{ name, set string }{
			{"random", "init.model="},
			{"vision tower", "init.vision=" + model},
			{"whole model", "init.model=" + model},
		} {
			var all []outcome
			for seed := 1; seed <= b.nSeeds; seed++ {
				o, err := b.train(ctx, fmt.Sprintf("start-%s-%d-%d", strings.ReplaceAll(x.name, " ", "-"), steps, seed), "emoji-adamw",
					fmt.Sprintf("steps=%d", steps), fmt.Sprintf("warmup_steps=%d", max(1, steps*2/15)), fmt.Sprintf("seed=%d", seed), x.set)
				if err != nil {
					return err
				}
				all = append(all, o)
			}
			row(fmt.Sprintf("%s, %d steps, mean of %d seeds", x.name, steps, len(all)), mean(all))
		}
	}
	return nil
}

// fullSet is the reference's long run on all classes.
func (b *bench) fullSet(ctx context.Context) error {
	if b.full == "" {
		fmt.Printf("\nFull set: needs -full DIR, skipped\n")
		return nil
	}
	head("Full set, 1,282 classes, AdamW, 1,000 steps (PyTorch: 16.1 / 40.1)")
	o, err := b.train(ctx, "full", "emoji-adamw", "steps=1000", "warmup_steps=40",
		"data.0.source="+filepath.Join(b.full, "train-*.tar"),
		"eval.0.data="+filepath.Join(b.full, "test-twemoji.tar"),
		"eval.0.classnames="+filepath.Join(b.full, "classnames.txt"))
	if err != nil {
		return err
	}
	row("full set", o)
	return nil
}

// withoutMini copies the full set's training tars without the keys of mini.
func (b *bench) withoutMini(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mini := map[string]bool{}
	err := eachMember(filepath.Join(b.data, "test-twemoji.tar"), func(h *tar.Header, _ io.Reader) error {
		mini[key(h.Name)] = true
		return nil
	})
	if err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(b.full, "train-*.tar"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		f, err := os.Create(filepath.Join(dir, filepath.Base(p)))
		if err != nil {
			return err
		}
		w := tar.NewWriter(f)
		err = eachMember(p, func(h *tar.Header, r io.Reader) error {
			if mini[key(h.Name)] {
				return nil
			}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			_, err := io.Copy(w, r)
			return err
		})
		if err := errors.Join(err, w.Close(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func key(name string) string {
	k, _, _ := strings.Cut(filepath.Base(name), ".")
	return k
}

func eachMember(path string, fn func(h *tar.Header, r io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = fn(h, r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}
