// Accumulation compares the time of a training step whose batch is computed in parts
// with the same batch in one program with gradient checkpointing: rounds of a few
// steps each, in turns, each in a process of its own.
//
//	go run ./benchmarks/accumulation
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/evatool/evatool/benchmarks/paired"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/trainer"
)

// ways are the ways to compute a batch. The others are compared with the first.
var ways = []struct {
	name string
	sets []string
}{
	{"one program, checkpointing", []string{"grad_checkpointing=true"}},
	{"parts, residuals", []string{"grad_checkpointing=true", "micro_batch=PART", "accumulation=residuals"}},
	{"parts, recompute", []string{"grad_checkpointing=true", "micro_batch=PART", "accumulation=recompute"}},
	{"parts, recompute, without checkpointing", []string{"micro_batch=PART", "accumulation=recompute"}},
	{"one program, without checkpointing", nil},
}

// timing is what one process measured.
type timing struct {
	Seconds   []float64 `json:"seconds"`
	Processor float64   `json:"processor_seconds"` // per step
	Losses    []float64 `json:"losses"`
	PeakRSS   int64     `json:"peak_rss"`
}

type options struct {
	backend, recipe, sets string
	batch, part           int
	rounds, steps         int
}

func main() {
	var o options
	way := flag.Int("as", -1, "internal: measure one way and print JSON")
	flag.StringVar(&o.backend, "backend", "xla", "evatool's backend")
	flag.StringVar(&o.recipe, "recipe", "emoji-adamw", "a recipe")
	flag.StringVar(&o.sets, "set", "patch_dropout=0,model.vision_cfg.width=192,model.vision_cfg.layers=6,model.vision_cfg.head_width=32", "settings that change it, separated by commas")
	flag.IntVar(&o.batch, "batch", 128, "rows per step")
	flag.IntVar(&o.part, "part", 32, "rows per part")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds for each way")
	flag.IntVar(&o.steps, "steps", 5, "timed steps per round")
	flag.Parse()
	var err error
	if *way >= 0 {
		err = o.measure(*way)
	} else {
		err = o.compare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "accumulation:", err)
		os.Exit(1)
	}
}

func (o options) measure(way int) error {
	sets := []string{fmt.Sprintf("batch=%d", o.batch)}
	if o.sets != "" {
		sets = append(sets, strings.Split(o.sets, ",")...)
	}
	for _, s := range ways[way].sets {
		sets = append(sets, strings.ReplaceAll(s, "PART", fmt.Sprint(o.part)))
	}
	r, err := trainer.LoadRecipe(o.recipe, sets...)
	if err != nil {
		return err
	}
	// What the steps take is the difference of two runs; the first one compiles.
	var res *trainer.BenchResult
	var spent [3]float64
	for i, steps := range []int{0, 0, o.steps} {
		before := processor()
		if res, err = trainer.Bench(context.Background(), r, trainer.BenchOptions{Steps: steps, Backend: o.backend, DeviceCount: 1}); err != nil {
			return err
		}
		spent[i] = processor() - before
	}
	return json.NewEncoder(os.Stdout).Encode(timing{res.Seconds, (spent[2] - spent[1]) / float64(o.steps), res.Losses, runlog.PeakRSS()})
}

// processor is the processor time of this process, in seconds.
func processor() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func (o options) compare() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n := len(ways)
	seconds, spent, losses, rss := make([][]float64, n), make([][]float64, n), make([][]float64, n), make([]int64, n)
	for round := range o.rounds {
		for k := range ways {
			fmt.Fprintf(os.Stderr, "round %d: %s\n", round+1, ways[k].name)
			if round%2 == 1 {
				k = len(ways) - 1 - k
			}
			c := exec.Command(self, append(os.Args[1:], "-as", fmt.Sprint(k))...)
			var errs bytes.Buffer
			c.Stderr = &errs
			out, err := c.Output()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", ways[k].name, err, errs.String())
			}
			var t timing
			if err := json.Unmarshal(out, &t); err != nil {
				return err
			}
			seconds[k], spent[k] = append(seconds[k], paired.Median(t.Seconds)), append(spent[k], t.Processor)
			rss[k], losses[k] = max(rss[k], t.PeakRSS), t.Losses
		}
	}
	fmt.Printf("%s %s, batch %d, parts of %d\n\n| way | s per step (median) | samples/s over the first, a round's median (95 %%) | processor s per step | the same by processor time | peak memory MB | losses' largest relative difference |\n|---|---|---|---|---|---|---|\n", o.recipe, o.sets, o.batch, o.part)
	for k, w := range ways {
		fmt.Printf("| %s | %.3f | %v | %.3f | %v | %d | %.1g |\n", w.name, paired.Median(seconds[k]), paired.Over(seconds[0], seconds[k]),
			paired.Median(spent[k]), paired.Over(spent[0], spent[k]), rss[k]>>20, apart(losses[k], losses[0]))
	}
	return nil
}

// apart is the largest relative difference of two series.
func apart(a, b []float64) (most float64) {
	for i := range a {
		most = max(most, math.Abs(a[i]-b[i])/math.Abs(b[i]))
	}
	return most
}
