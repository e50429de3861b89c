package cli

import (
	"sort"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/runlog"
)

func newVersion(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of evatool, Go and the compute libraries",
		Long:  "Print the versions of evatool, Go and the compute libraries, as every report records them." + exitStatus,
		Example: `  evatool version
  evatool version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := runlog.Versions()
			if app.JSON {
				return app.PrintJSON(v)
			}
			names := make([]string, 0, len(v))
			for n := range v {
				names = append(names, n)
			}
			sort.Strings(names)
			for _, n := range names {
				app.Printf("%-12s %s\n", n, v[n])
			}
			return nil
		},
	}
}
