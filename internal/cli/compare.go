package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/compare"
)

func newCompare(app *App) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "compare RUN...",
		Short: "Show training runs or evaluations side by side",
		Long: `Show several training runs, evaluations, or both side by side: losses,
differences between the recipes, and scores with their intervals. RUN is a
folder that train, zeroshot, retrieval or probe wrote with --out; a training run
need not be finished.

With --out, one page also has the curves of all of them.` + exitStatus,
		Example: `  evatool compare runs/lr-1e-4 runs/lr-5e-4 --out lr.html
  evatool compare runs/b16 runs/l14 --json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if out != "" {
				if err := atomicfile.Target(out); err != nil {
					return err
				}
			}
			c, err := compare.Load(args)
			if err != nil {
				return err
			}
			if out != "" {
				if err := c.Write(out); err != nil {
					return err
				}
			}
			if app.JSON {
				return app.PrintJSON(c)
			}
			printComparison(app, c)
			if out != "" {
				app.Printf("report  %s\n", out)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "write a page with the curves to `FILE`.html")
	return cmd
}

func printComparison(app *App, c *compare.Comparison) {
	if runs := c.Trainings(); len(runs) > 0 {
		app.Printf("%-24s %9s %12s %9s %10s\n", "training", "steps", "samples", "loss", "samples/s")
		for _, r := range runs {
			loss := "-"
			if r.Loss != nil {
				loss = fmt.Sprintf("%.4f", *r.Loss)
			}
			app.Printf("%-24s %9d %12d %9s %10.0f\n", r.Name, r.Steps, r.Samples, loss, r.Rate)
		}
		for _, d := range c.Differences {
			app.Printf("  %-22s %s\n", d.Key, strings.Join(d.Values, " | "))
		}
	}
	first := true
	for _, r := range c.Runs {
		for _, s := range r.Scores {
			if first {
				app.Printf("%-24s %-30s %-18s %9s  %s\n", "run", "benchmark", "metric", "value", "95 %")
				first = false
			}
			app.Printf("%-24s %-30s %-18s %7.2f %%", r.Name, c.Title(s), s.Metric, 100*s.Value)
			if s.CI95 != nil {
				app.Printf("  %.2f to %.2f", 100*s.CI95[0], 100*s.CI95[1])
			}
			app.Printf("  %s\n", s.Model)
		}
	}
}
