package cli

import (
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/demo"
	"github.com/evatool/evatool/internal/fault"
)

// DemoData is the bundled data of the demo: main sets it.
var DemoData fs.FS

func newDemo(app *App) *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Convert, train and score on bundled data, in about two minutes",
		Long: `Run evatool's three jobs on bundled data, in about two minutes on two cores:
convert a PyTorch checkpoint and prove it, train a small EVA-CLIP from scratch on
emoji of six art styles, score it zero-shot on a seventh that it never saw, and
write report.html. The folder of an earlier demo is replaced.` + exitStatus,
		Example: `  evatool demo
  evatool demo --backend go --out demo-on-go`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Steps < 0 {
				return fault.Usagef("--steps %d: want 0 or more", o.Steps)
			}
			o.Data, o.Log, o.Say = DemoData, app.Log, app.Printf
			o.Backend, o.DeviceCount, o.Threads = app.Backend, app.DeviceCount, app.Threads
			res, err := demo.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(res)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&o.Out, "out", "o", "evatool-demo", "write everything to the folder `DIR`")
	cmd.Flags().Int64Var(&o.Steps, "steps", 0, fmt.Sprintf("train `N` steps (0: %d with XLA, %d on the Go backend)", demo.Steps, demo.StepsGo))
	return cmd
}
