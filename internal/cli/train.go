package cli

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/trainer"
)

func newTrain(app *App) *cobra.Command {
	var (
		sets   []string
		o      trainer.Options
		dryRun bool
		rate   float64
		price  trainer.DryRunOptions
		memory string
	)
	cmd := &cobra.Command{
		Use:   "train RECIPE.yaml",
		Short: "Train a CLIP model from a recipe, exactly resumable",
		Long: `Train a model by a recipe: a YAML file that gives the model, the data, the
optimizer and the schedule, or the name of a bundled one. The run folder gets
metrics.jsonl, TensorBoard events, checkpoints (complete or absent),
final.safetensors and report.html.

On Ctrl-C, SIGTERM, SIGUSR1 or a closed terminal (SIGHUP, unless nohup ignores
it) a checkpoint is written and the exit status is 130. The same command resumes
from there, and a run killed at any moment ends with the same bits as one that was
not. On a full disk it waits for space. Reads that fail are retried for half a
minute, then the run stops with a checkpoint and exit status 4.

Several processes that mpirun or srun starts together train one recipe together,
with --out on storage that all hosts share. --dry-run --hosts N --net 100 says
what they would exchange.

A resumed run may change checkpoint, eval, max_bad, --workers and the location of
its data, and micro_batch, accumulation, grad_checkpointing and zero_stage (the
last bits may differ). Everything else except the model (lr, steps, batch, data,
…) may change in a fork: --resume with a checkpoint of the old run, --out with a
new folder. It keeps the step and the samples seen, which with the seed determine
the next example. run.json records where it came from and what changed.
--set init.model=MODEL takes only the weights, of a file, a run's folder or a name.

Every key of a recipe with its default and unit is in docs/recipe.md,
https://github.com/evatool/evatool/blob/main/docs/recipe.md; docs/training.md is
about resuming, forking and training on several machines.` + exitStatus,
		Example: `  evatool train recipe.yaml --out runs/one
  mpirun -n 8 --map-by ppr:1:node --bind-to none evatool train recipe.yaml --out /shared/run
  evatool train EVA02-CLIP-B-16 --dry-run --rate 20000
  evatool train EVA02-CLIP-B-16 --dry-run --device-count 64 --memory 80GiB --card A100 --mfu 0.4
  evatool train recipe.yaml --out runs/two --set lr.vision=1e-4 --set data.0.weight=2
  evatool train recipe.yaml --out runs/three --resume runs/one/checkpoints/step-3000 --set lr.vision=1e-5
  evatool train recipe.yaml --out runs/four --set init.model=runs/one --set lr=1e-5`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := trainer.LoadRecipe(args[0], sets...)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			o.DeviceCount, o.Threads = app.DeviceCount, app.Threads
			o.Log, o.Offline = app.Log, app.Offline
			if o.Backend = app.Backend; o.Out == "" {
				name := filepath.Base(args[0])
				o.Out = filepath.Join("runs", strings.TrimSuffix(name, filepath.Ext(name)))
			}
			if dryRun {
				price.DeviceCount, price.Rate = app.DeviceCount, rate
				if o.Hosts != "auto" && o.Hosts != "off" {
					if price.Hosts, err = strconv.Atoi(o.Hosts); err != nil || price.Hosts < 1 {
						return fault.Usagef("--hosts %q: want auto, off or, with --dry-run, a number of hosts", o.Hosts)
					}
				}
				if price.Memory, err = parseSize("--memory", memory); err != nil {
					return err
				}
				plan, err := trainer.DryRun(r, price)
				if err != nil {
					return err
				}
				return printPlan(cmd, app, plan, trainer.Check(ctx, r, o))
			}
			for _, name := range []string{"rate", "memory", "card", "mfu", "net"} {
				if cmd.Flags().Changed(name) { // the question was what a run would cost
					return fault.Usagef("--%s: only with --dry-run; add that, or leave it out to train", name)
				}
			}
			// Of several processes only one shows progress.
			progress := sync.OnceValue(func() *runlog.Progress { return app.Progress("train", r.Steps, "steps") })
			var bar *runlog.Progress
			done := func() {
				if bar != nil {
					bar.Done()
				}
			}
			defer done()
			o.Phase = func(what string) {
				bar = progress()
				bar.Phase(what)
			}
			var shown int64
			o.Progress = func(s trainer.Step) {
				bar = progress()
				if shown == 0 {
					shown = s.Step - 1
					bar.Begin(shown)
				}
				bar.Add(s.Step - shown)
				shown = s.Step
				bar.Note(fmt.Sprintf("loss %.3f", s.Loss), "lr "+rates(s.LR))
			}
			res, err := trainer.Run(ctx, r, o)
			if err != nil {
				return err
			}
			done()
			if res.Rank > 0 {
				return nil
			}
			if app.JSON {
				return app.PrintJSON(res)
			}
			app.Printf("%d steps, %d samples, loss %.4f, %s\n", res.Steps, res.Samples, res.Loss,
				time.Duration(res.Seconds*float64(time.Second)).Round(time.Second))
			for _, e := range res.Evals {
				app.Printf("step %d  %s  top-1 %.2f %%  top-5 %.2f %%\n", e.Step, e.Benchmark, 100*e.Top1, 100*e.Top5)
			}
			if res.Model != "" {
				app.Printf("model   %s\n", res.Model)
			}
			if res.Steps < r.Steps {
				app.Printf("stopped before step %d; the same command resumes from %s\n", r.Steps, res.Checkpoint)
			}
			app.Printf("report  %s/report.html\n", res.Out)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&sets, "set", nil, "change a recipe key: `a.b=v` (repeatable)")
	f.StringVarP(&o.Out, "out", "o", "", "run folder (default runs/NAME of the recipe)")
	f.StringVar(&o.Resume, "resume", "auto", "auto, never, or a checkpoint folder (of another run: a fork)")
	f.Int64Var(&o.StopAfter, "stop-after", 0, "stop with a checkpoint after `N` more steps; final.safetensors holds the model of that step")
	f.StringVar(&o.Hosts, "hosts", "auto", "auto: processes that mpirun or srun started together train one recipe together; off: each trains by itself, with its own --out; with --dry-run, a number of hosts to plan for")
	f.Float64Var(&price.Net, "net", 100, "with --dry-run --hosts N: Gb/s between the hosts")
	f.DurationVar(&o.ExchangeTimeout, "exchange-timeout", 10*time.Minute, "in a job of several processes: how long one waits for the others before it names those that hang and ends the job; six times as long until the first step is done")
	f.IntVar(&o.Workers, "workers", 0, "decoding goroutines (0: one per core)")
	decodeMemoryFlag(cmd)
	f.BoolVar(&dryRun, "dry-run", false, "make all checks of a start (of the backend too if --backend names one), print parameters, FLOP, memory per device, steps and hours, and stop")
	f.Float64Var(&rate, "rate", 0, "with --dry-run: samples per second of all devices together")
	f.StringVar(&memory, "memory", "", "with --dry-run: memory of a device, such as `80GiB`, to say whether the run fits, and which micro_batch would")
	f.StringVar(&price.Card, "card", "", "with --dry-run: a GPU by `NAME` ("+strings.Join(trainer.Cards(), ", ")+"), whose published peak is used for MFU (default H100)")
	f.Float64Var(&price.MFU, "mfu", 0, "with --dry-run: the share of the card's peak that the run reaches, instead of --rate")
	return cmd
}

// rates are the learning rates of a step: one if all groups have the same, else those
// of vision, text and the rest.
func rates(lr map[string]float64) string {
	if lr["vision"] == lr["text"] && lr["text"] == lr["other"] {
		return fmt.Sprintf("%.2g", lr["other"])
	}
	return fmt.Sprintf("%.2g/%.2g/%.2g", lr["vision"], lr["text"], lr["other"])
}

// printPlan prints what a run would cost and whether it would start. The error is the
// one that the run itself would return.
func printPlan(cmd *cobra.Command, app *App, plan *trainer.Plan, ready trainer.Readiness) error {
	var first error
	problems := []string{}
	for i, p := range ready.Problems {
		if i == 0 {
			first = p
		}
		problems = append(problems, flagged(cmd, fault.Line(p)))
	}
	if app.JSON {
		err := app.PrintJSON(struct {
			*trainer.Plan
			Starts    bool     `json:"starts"`
			Problems  []string `json:"problems"`
			Unchecked []string `json:"unchecked,omitempty"`
			Finished  bool     `json:"finished,omitempty"`
			FromStep  int64    `json:"from_step"`
		}{plan, first == nil, problems, ready.Unchecked, ready.Finished, ready.Step})
		if err != nil {
			return err
		}
		return first
	}
	fmt.Fprint(app.Out, flagged(cmd, fault.Escape(plan.String())))
	row := func(name, text string) { app.Printf("%-22s %s\n", name, text) }
	for _, text := range ready.Unchecked {
		row("not checked", text)
	}
	switch {
	case first != nil:
	case len(ready.Unchecked) > 0:
		row("start", "everything else is ready")
	case ready.Finished:
		row("start", fmt.Sprintf("none: the run is finished, after %d steps", ready.Step))
	case ready.From != "":
		row("start", fmt.Sprintf("resumes from step %d, %s", ready.Step, ready.From))
	default:
		row("start", "run folder, data, weights, evaluations and memory of this host are ready")
	}
	for _, text := range problems {
		row("would not start", text)
	}
	return first
}
