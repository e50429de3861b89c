package cli

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/runlog"
)

func newVersion(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what this evatool was built from, and what it lacks",
		Long: `Print the versions of evatool, Go and the compute libraries, as every report
records them: with the revision if the build knew it, cgo (XLA plugins are C
libraries) and Go's experiments (simd makes the Go backend fast).` + exitStatus,
		Example: `  evatool version
  evatool version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := runlog.Versions()
			if app.JSON {
				return app.PrintJSON(v)
			}
			for _, n := range slices.Sorted(maps.Keys(v)) {
				app.Printf("%-12s %s\n", n, v[n])
			}
			for _, l := range device.Lacks() {
				app.Printf("%s\n", l)
			}
			return nil
		},
	}
}
