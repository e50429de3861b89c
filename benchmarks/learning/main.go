// Learning trains the small emoji recipes and prints their scores, as in the tables of
// this folder's README.
//
//	go run ./benchmarks/learning                  # three seeds, ablations
//	go run ./benchmarks/learning -only seeds -steps 300
//	go run ./benchmarks/learning -full DIR        # adds the 1,282-class set
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/trainer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{}
	var only string
	flag.StringVar(&b.data, "data", "testdata/emoji", "folder of the mini set")
	flag.StringVar(&b.full, "full", "", "folder of the full set: train-*.tar, test-twemoji.tar, classnames.txt")
	flag.StringVar(&b.out, "out", "", "keep the run folders here (default: a temporary folder)")
	flag.StringVar(&only, "only", "", "comma-separated: seeds, stream, dropout, time, tower, full")
	flag.StringVar(&b.backend, "backend", "auto", "backend")
	flag.Int64Var(&b.steps, "steps", 300, "steps of a run")
	flag.IntVar(&b.nSeeds, "seeds", 3, "seeds of the first table")
	flag.Parse()
	b.log = runlog.NewLogger(os.Stderr, false, true)
	if err := b.run(ctx, only); err != nil {
		fmt.Fprintln(os.Stderr, "learning:", err)
		os.Exit(1)
	}
}

type bench struct {
	data, full, out string
	steps           int64
	nSeeds          int
	backend         string
	log             *slog.Logger
}

// outcome is one run.
type outcome struct{ top1, top5, loss, seconds, wait float64 }

func (b *bench) run(ctx context.Context, only string) (err error) {
	dev, err := device.Open(ctx, device.Options{Backend: b.backend, Log: b.log})
	if err != nil {
		return err
	}
	kind := dev.Info().Kind
	dev.Close()
	if b.out == "" {
		if b.out, err = os.MkdirTemp("", "evatool-learning"); err != nil {
			return err
		}
		defer os.RemoveAll(b.out)
	}
	fmt.Printf("%s backend, %s\n", kind, time.Now().Format("2006-01-02"))
	for _, part := range []struct {
		name string
		fn   func(context.Context) error
	}{{"seeds", b.seeds}, {"stream", b.stream}, {"dropout", b.dropout}, {"time", b.equalTime}, {"tower", b.tower}, {"full", b.fullSet}} {
		if only != "" && !strings.Contains(","+only+",", ","+part.name+",") {
			continue
		}
		if err := part.fn(ctx); err != nil {
			return err
		}
	}
	return nil
}

// train runs a bundled recipe with settings.
func (b *bench) train(ctx context.Context, name, recipe string, sets ...string) (outcome, error) {
	base := []string{
		fmt.Sprintf("steps=%d", b.steps), fmt.Sprintf("warmup_steps=%d", max(1, b.steps*2/15)),
		"data.0.source=" + filepath.Join(b.data, "train-*.tar"), "eval.0.every_steps=0",
		"eval.0.data=" + filepath.Join(b.data, "test-twemoji.tar"),
		"eval.0.classnames=" + filepath.Join(b.data, "classnames.txt"),
		"eval.0.templates=" + filepath.Join(b.data, "templates.txt"),
		"checkpoint.every_steps=0",
	}
	r, err := trainer.LoadRecipe(recipe, append(base, sets...)...)
	if err != nil {
		return outcome{}, err
	}
	res, err := trainer.Run(ctx, r, trainer.Options{Out: filepath.Join(b.out, name), Backend: b.backend, Log: b.log})
	if err != nil {
		return outcome{}, err
	}
	e := res.Evals[len(res.Evals)-1]
	return outcome{100 * e.Top1, 100 * e.Top5, res.Loss, res.Seconds, res.DataWait}, nil
}

func head(title string) {
	fmt.Printf("\n%s\n\n| run | top-1 %% | top-5 %% | loss | seconds | waited for data %% |\n|---|---|---|---|---|---|\n", title)
}

func row(name string, o outcome) {
	fmt.Printf("| %s | %.1f | %.1f | %.2f | %.0f | %.1f |\n", name, o.top1, o.top5, o.loss, o.seconds, 100*o.wait/o.seconds)
}

func mean(list []outcome) (m outcome) {
	n := float64(len(list))
	for _, o := range list {
		m.top1, m.top5, m.loss = m.top1+o.top1/n, m.top5+o.top5/n, m.loss+o.loss/n
		m.seconds, m.wait = m.seconds+o.seconds/n, m.wait+o.wait/n
	}
	return m
}

// seeds is the reference's measure: three seeds of both optimizers.
func (b *bench) seeds(ctx context.Context) error {
	head("Mini set, three seeds (PyTorch: AdamW 29.2 / 60.8, LAMB 23.0 / 54.0; chance 0.5 / 2.7)")
	for _, recipe := range []string{"emoji-adamw", "emoji-lamb"} {
		var all []outcome
		for seed := 1; seed <= b.nSeeds; seed++ {
			o, err := b.train(ctx, fmt.Sprintf("%s-%d", recipe, seed), recipe, fmt.Sprintf("seed=%d", seed))
			if err != nil {
				return err
			}
			row(fmt.Sprintf("%s, seed %d", recipe, seed), o)
			all = append(all, o)
		}
		row("**"+recipe+", mean**", mean(all))
	}
	return nil
}

// stream compares the order of a stream with a shuffle of all samples.
func (b *bench) stream(ctx context.Context) error {
	head("Order of the samples: read as a stream of tars, at random over all")
	for _, read := range []string{"stream", "random"} {
		var all []outcome
		for seed := 1; seed <= b.nSeeds; seed++ {
			o, err := b.train(ctx, fmt.Sprintf("%s-%d", read, seed), "emoji-adamw", fmt.Sprintf("seed=%d", seed), "data.0.read="+read)
			if err != nil {
				return err
			}
			row(fmt.Sprintf("%s, seed %d", read, seed), o)
			all = append(all, o)
		}
		row("**"+read+", mean**", mean(all))
	}
	return nil
}

// dropout compares half of the patches with all.
func (b *bench) dropout(ctx context.Context) error {
	head("Patch dropout (paper, ViT-B/16: −0.7 points, about half the time)")
	for _, p := range []string{"0.5", "0"} {
		o, err := b.train(ctx, "dropout-"+p, "emoji-adamw", "patch_dropout="+p)
		if err != nil {
			return err
		}
		row("patch dropout "+p, o)
	}
	return nil
}

// equalTime compares the optimizers after the same number of steps, which take the
// same time, and at twice the length.
func (b *bench) equalTime(ctx context.Context) error {
	head("LAMB against AdamW, equal steps (paper, batch 32k: LAMB +0.7)")
	for _, x := range []struct {
		recipe, lr string
		times      int64
	}{{"emoji-adamw", "1e-3", 2}, {"emoji-lamb", "3e-3", 2}} {
		steps := b.steps * x.times
		o, err := b.train(ctx, x.recipe+"-long", x.recipe, fmt.Sprintf("steps=%d", steps), fmt.Sprintf("warmup_steps=%d", max(1, steps*2/15)))
		if err != nil {
			return err
		}
		row(fmt.Sprintf("%s, %d steps", x.recipe, steps), o)
	}
	return nil
}
