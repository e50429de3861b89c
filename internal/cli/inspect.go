package cli

import (
	"github.com/spf13/cobra"

	"github.com/evatool/evatool/convert"
)

func newInspect(app *App) *cobra.Command {
	var o convert.InspectOptions
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "List what a checkpoint holds, without executing anything",
		Long: `List the tensors of a checkpoint (PyTorch, TorchScript, safetensors, a Hugging
Face or DeepSpeed folder), what else it holds, and which model it is. Nothing in
the file is executed.` + exitStatus,
		Example: `  evatool inspect EVA02_CLIP_B_psz16_s8B.pt
  evatool inspect epoch_5.pt --json --hash=false`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Offline, o.Log = app.Offline, app.Log
			r, err := convert.Inspect(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			r.Recognised = flagged(cmd, r.Recognised) // may be the error that convert would end with
			if app.JSON {
				return app.PrintJSON(r)
			}
			app.Printf("container  %s\nfamily     %s\nconfig     %s (%s)\n", r.Container, orNone(r.Family), orNone(r.Config), r.Recognised)
			for _, w := range r.Warnings {
				app.Printf("warning    %s\n", w)
			}
			if r.StateDictKey != nil {
				app.Printf("key        %s\n", *r.StateDictKey)
			}
			if r.StripPrefix != "" {
				app.Printf("prefix     %s\n", r.StripPrefix)
			}
			for _, t := range r.Tensors {
				app.Printf("%-60s %-7s %v %d bytes %.12s\n", t.Name, t.DType, t.Shape, t.Bytes, t.SHA256)
			}
			for _, t := range r.Outside {
				app.Printf("(outside) %-50s %-7s %v\n", t.Name, t.DType, t.Shape)
			}
			for _, e := range r.Other {
				app.Printf("%s (%s) %s\n", e.Path, e.Kind, e.Value)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&o.Hash, "hash", true, "hash every tensor; --hash=false reads no tensor bytes")
	cmd.Flags().StringVar(&o.Key, "key", "", "path of the state dict inside the file, such as state_dict or a/b")
	cmd.Flags().StringVar(&o.Prefix, "prefix", "", "keep only the tensors whose names begin with `WORD` and a dot (such as model.), and drop that prefix")
	return cmd
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
