package cli

import (
	"github.com/spf13/cobra"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/internal/fault"
)

func newDiff(app *App) *cobra.Command {
	var o convert.DiffOptions
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two checkpoints by value, across formats and layouts",
		Long: `Compare two checkpoints by value, whatever their containers, element types and
key layouts. For every tensor: whether it is equal, and the largest absolute and
relative difference. The exit status is 1 when they differ.` + exitStatus,
		Example: `  evatool diff EVA02_CLIP_B_psz16_s8B.pt model.safetensors
  evatool diff fp32.safetensors fp16.safetensors --atol 1e-3`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Offline, o.Log = app.Offline, app.Log
			d, err := convert.Diff(cmd.Context(), args[0], args[1], o)
			if err != nil {
				return err
			}
			if app.JSON {
				if err := app.PrintJSON(d); err != nil {
					return err
				}
			}
			different := 0
			for _, t := range d.Tensors {
				if !t.Equal {
					different++
					app.Printf("%s: max abs %g, max rel %g %s\n", t.Name, t.MaxAbs, t.MaxRel, t.Problem)
				}
			}
			for _, n := range d.OnlyA {
				app.Printf("%s: only in %s\n", n, d.A)
			}
			for _, n := range d.OnlyB {
				app.Printf("%s: only in %s\n", n, d.B)
			}
			if !d.Equal {
				return fault.Checkf("%s and %s differ: %d of %d tensors are not equal, and %d more are in only one of them", d.A, d.B, different, len(d.Tensors), len(d.OnlyA)+len(d.OnlyB))
			}
			app.Printf("equal: %d tensors\n", len(d.Tensors))
			return nil
		},
	}
	cmd.Flags().Float64Var(&o.ATol, "atol", 0, "largest absolute difference that counts as equal")
	cmd.Flags().StringVar(&o.Map, "map", "auto", "auto: compare CLIP models by EVA's names; none: by the names as they are")
	cmd.Flags().StringVar(&o.Key, "key", "", "path of the state dict inside the files, such as state_dict or a/b")
	return cmd
}
