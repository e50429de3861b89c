package cli

import "github.com/spf13/cobra"

func newModels(app *App) *cobra.Command {
	return &cobra.Command{Use: "models", Short: "List the published architectures"}
}
