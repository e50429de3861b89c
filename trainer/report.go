package trainer

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// maxPoints bounds the points of a curve in the report.
const maxPoints = 2000

// report writes report.html: what was trained, the curves, the scores.
func (r *run) report() error {
	res, cfg := r.result, r.machine.cfg
	name, _ := r.recipe.Model.(string)
	name = cmp.Or(name, cfg.Vision.EVAName, "the recipe's model")
	p := runlog.NewPage("Training "+name, fmt.Sprintf("evatool train, %s, %s backend", time.Now().Format("2 January 2006 15:04"), r.machine.dev.Info().Kind))
	stats := []runlog.Stat{
		{Label: "Steps", Value: fmt.Sprint(res.Steps), Note: fmt.Sprintf("of %d, batch %d", r.recipe.Steps, r.recipe.Batch)},
		{Label: "Loss", Value: fmt.Sprintf("%.3f", res.Loss), Note: "mean of the last 10 steps"},
		{Label: "Parameters", Value: fmt.Sprintf("%.1f M", float64(cfg.TotalParams())/1e6)},
	}
	if n := len(res.Evals); n > 0 {
		e := res.Evals[n-1]
		note := fmt.Sprintf("top-5 %.1f %%, %d images", 100*e.Top5, e.N)
		if c := chance(e); c != "" {
			note = "chance " + c + ", " + note
		}
		stats = append(stats, runlog.Stat{Label: "Zero-shot top-1, " + e.Benchmark, Value: fmt.Sprintf("%.1f %%", 100*e.Top1), Note: note})
	}
	p.Stats(stats...)

	p.Section("Curves")
	line := func(title, y string, names []string, of func(s Step, i int) float64, levels ...runlog.Level) {
		c := runlog.LineChart{Title: title, XLabel: "step", YLabel: y, Levels: levels, Noisy: len(names) == 1}
		every := len(res.Curve)/maxPoints + 1
		for i, n := range names {
			s := runlog.Series{Name: n}
			for k := 0; k < len(res.Curve); k += every {
				s.X, s.Y = append(s.X, float64(res.Curve[k].Step)), append(s.Y, of(res.Curve[k], i))
			}
			c.Series = append(c.Series, s)
		}
		p.Line(c)
	}
	line("Contrastive loss", "nats", []string{"loss"}, func(s Step, _ int) float64 { return s.Loss },
		runlog.Level{Name: "chance, ln of the batch", Y: math.Log(float64(r.recipe.Batch))})
	if n := len(res.Evals); n > 0 && res.Evals[0].Step != res.Evals[n-1].Step {
		p.Line(r.accuracies())
	}
	rates := []string{"vision", "text", "other"}
	line("Learning rate", "", rates, func(s Step, i int) float64 { return s.LR[rates[i]] })
	line("Gradient norm", "before clipping", []string{"norm"}, func(s Step, _ int) float64 { return s.GradNorm })
	line("Logit scale", "exp", []string{"logit scale"}, func(s Step, _ int) float64 { return s.LogitScale })
	line("Speed", "samples/s", []string{"samples per second"}, func(s Step, _ int) float64 { return s.Rate })

	if len(res.Evals) > 0 {
		p.Section("Evaluations")
		var rows [][]string
		for _, e := range res.Evals {
			rows = append(rows, []string{fmt.Sprint(e.Step), e.Benchmark, fmt.Sprintf("%.2f %%", 100*e.Top1), interval(e), fmt.Sprintf("%.2f %%", 100*e.Top5), chance(e), fmt.Sprint(e.N)})
		}
		p.Table([]string{"step", "benchmark", "top-1", "95 %", "top-5", "top-1 by chance", "images"}, rows)
	}
	p.Section("How it ran")
	info := r.machine.dev.Info()
	p.Table(nil, [][]string{
		{"samples", fmt.Sprint(res.Samples)},
		{"seconds of all steps", fmt.Sprintf("%.1f", stepSeconds(res.Curve))},
		{"seconds of this process", fmt.Sprintf("%.1f", res.Seconds)},
		{"seconds waited for data", fmt.Sprintf("%.2f", res.DataWait)},
		{"bad samples", fmt.Sprint(res.Bad)},
		{"backend", fmt.Sprintf("%s (devices: %d); %s", info.Kind, info.Devices, info.Why)},
		{"peak memory", fmt.Sprintf("%d MB", runlog.PeakRSS()>>20)},
		{"model file", cmp.Or(res.Model, "none yet; the newest checkpoint is "+res.Checkpoint)},
	})
	var versions [][]string
	for k, v := range runlog.Versions() {
		versions = append(versions, []string{k, v})
	}
	slices.SortFunc(versions, slices.Compare)
	p.Table([]string{"program", "version"}, versions)
	p.Section("Recipe")
	p.Pre(string(r.recipe.YAML()))
	return fault.As(fault.Environment, p.WriteFile(filepath.Join(r.out, reportFile)))
}

// stepSeconds is the time of all steps, in all processes of the run.
func stepSeconds(curve []Step) (sum float64) {
	for _, s := range curve {
		sum += s.Seconds
	}
	return sum
}

// accuracies are the evaluation curves, one pair per benchmark.
func (r *run) accuracies() runlog.LineChart {
	c := runlog.LineChart{Title: "Zero-shot accuracy", XLabel: "step", YLabel: "%"}
	at := map[string]int{}
	add := func(name string, step int64, v float64) {
		i, ok := at[name]
		if !ok {
			i = len(c.Series)
			at[name] = i
			c.Series = append(c.Series, runlog.Series{Name: name})
		}
		c.Series[i].X, c.Series[i].Y = append(c.Series[i].X, float64(step)), append(c.Series[i].Y, 100*v)
	}
	for _, e := range r.result.Evals {
		add(e.Benchmark+" top-1", e.Step, e.Top1)
		add(e.Benchmark+" top-5", e.Step, e.Top5)
	}
	c.Levels = chanceLevels(r.result.Evals)
	return c
}

// chanceLevels are what guessing would score in each evaluation.
func chanceLevels(evals []Eval) (list []runlog.Level) {
	done := map[string]bool{}
	for _, e := range evals {
		if e.Classes > 0 && !done[e.Benchmark] {
			done[e.Benchmark] = true
			c := 100 / float64(e.Classes)
			list = append(list, runlog.Level{Name: e.Benchmark + " top-1 by chance", Y: c}, runlog.Level{Name: e.Benchmark + " top-5 by chance", Y: min(100, 5*c)})
		}
	}
	return list
}

// chance is the top-1 of guessing, "" if the run is of an earlier version, which did
// not record the number of classes.
func chance(e Eval) string {
	if e.Classes == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f %%", 100/float64(e.Classes))
}

// interval is the 95 % interval of an evaluation's top-1.
func interval(e Eval) string {
	ci := eval.Wilson(int(math.Round(e.Top1*float64(e.N))), e.N)
	return fmt.Sprintf("%.2f to %.2f", 100*ci[0], 100*ci[1])
}
