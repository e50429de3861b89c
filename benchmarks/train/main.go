// Train compares the time of a training step of evatool with the same step in
// PyTorch, eager and compiled: rounds of a few steps each, in turns.
//
//	go run ./benchmarks/train -python PATH/python
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/benchmarks/paired"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/trainer"
)

// setup is one model and batch.
type setup struct {
	name                string
	width, depth, heads int
	dropout             float64
}

var setups = []setup{
	{"width 192, depth 6, 64x64/8, batch 128", 192, 6, 6, 0},
	{"emoji recipe: width 128, depth 4, patch dropout 0.5, batch 128", 128, 4, 4, 0.5},
}

const batch = 128

// timing is what one process measured.
type timing struct {
	Seconds []float64 `json:"seconds"`
	PeakRSS int64     `json:"peak_rss"`
}

func main() {
	var python, backend, only string
	var rounds, steps, index int
	flag.StringVar(&python, "python", "python3", "a Python with torch; empty: evatool alone")
	flag.StringVar(&backend, "backend", "xla", "evatool's backend")
	flag.IntVar(&rounds, "rounds", 7, "rounds for each program")
	flag.IntVar(&steps, "steps", 8, "timed steps per round")
	flag.StringVar(&only, "as", "", "internal: measure once and print JSON")
	flag.IntVar(&index, "setup", 0, "internal: which setup")
	flag.Parse()
	var err error
	if only != "" {
		err = measure(backend, setups[index], steps)
	} else {
		err = compare(python, backend, rounds, steps)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "train:", err)
		os.Exit(1)
	}
}

// measure times evatool's step in this process.
func measure(backend string, s setup, steps int) error {
	ctx := context.Background()
	r, err := trainer.LoadRecipe("emoji-adamw", fmt.Sprintf("patch_dropout=%v", s.dropout),
		fmt.Sprintf("model.vision_cfg.width=%d", s.width), fmt.Sprintf("model.vision_cfg.layers=%d", s.depth),
		fmt.Sprintf("model.vision_cfg.head_width=%d", s.width/s.heads), fmt.Sprintf("batch=%d", batch))
	if err != nil {
		return err
	}
	res, err := trainer.Bench(ctx, r, trainer.BenchOptions{Steps: steps, Backend: backend})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(timing{res.Seconds, runlog.PeakRSS()})
}

// compare runs the programs in turns, several times, and prints the medians of the
// rounds' medians.
func compare(python, backend string, rounds, steps int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	peer := filepath.Join("benchmarks", "train", "peer.py")
	for i, s := range setups {
		fmt.Printf("\n%s\n\n| program | s per step (median) | over evatool, a round's median (95 %%) | samples/s | peak memory MB |\n|---|---|---|---|---|\n", s.name)
		args := []string{fmt.Sprint(s.width), fmt.Sprint(s.depth), fmt.Sprint(s.heads), fmt.Sprint(s.dropout), fmt.Sprint(batch), fmt.Sprint(steps)}
		programs := []struct {
			name string
			cmd  []string
		}{{"evatool, " + backend, []string{self, "-as", "evatool", "-backend", backend, "-setup", fmt.Sprint(i), "-steps", fmt.Sprint(steps)}}}
		if python != "" {
			for _, mode := range []string{"eager", "compile"} {
				programs = append(programs, struct {
					name string
					cmd  []string
				}{"PyTorch, " + mode, append([]string{python, peer, mode}, args...)})
			}
		}
		all := make([][]float64, len(programs))
		rss := make([]int64, len(programs))
		for round := range rounds {
			for k := range programs {
				if round%2 == 1 {
					k = len(programs) - 1 - k
				}
				t, err := run(programs[k].cmd)
				if err != nil {
					return fmt.Errorf("%s: %w", programs[k].name, err)
				}
				all[k] = append(all[k], paired.Median(t.Seconds))
				rss[k] = max(rss[k], t.PeakRSS)
			}
		}
		for k, p := range programs {
			m := paired.Median(all[k])
			fmt.Printf("| %s | %.3f | %v | %.0f | %d |\n", p.name, m, paired.Over(all[k], all[0]), batch/m, rss[k]>>20)
		}
	}
	return nil
}

func run(cmd []string) (timing, error) {
	var t timing
	c := exec.Command(cmd[0], cmd[1:]...)
	var errs bytes.Buffer
	c.Stderr = &errs
	c.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "OPENBLAS_CORETYPE=") })
	out, err := c.Output()
	if err != nil {
		return t, fmt.Errorf("%w: %s", err, errs.String())
	}
	return t, json.Unmarshal(out, &t)
}
