package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/convert"
)

func newInit(app *App) *cobra.Command {
	var o convert.InitOptions
	var skip string
	cmd := &cobra.Command{
		Use:   "init --config C --vision FILE --text FILE -o OUT.safetensors",
		Short: "Build the recipe's starting CLIP from an EVA vision tower and a CLIP text tower",
		Long: `Build a starting CLIP: the vision tower from an EVA checkpoint (masked image
modelling or CLIP), the text tower from a CLIP checkpoint (OpenAI, OpenCLIP,
EVA-CLIP or Hugging Face, whatever the container). What neither provides comes
from --base, or is drawn from --seed as the original initialises it.

--skip lists the tensors not to load, by their names in the tower or in the
result (a trailing * matches any rest); --skip '' skips nothing. The original
reads the wrong file for OpenCLIP text towers and cannot read Hugging Face ones;
here every file is read as what it is.` + exitStatus,
		Example: `  evatool init --config EVA02-CLIP-B-16 --vision EVA02_B_psz14to16.pt --text ViT-B-16.pt -o start.safetensors
  evatool init --config EVA01-CLIP-g-14-plus --vision EVA01_g_psz14.pt --text open_clip_pytorch_model.bin --seed 4096 -o start.safetensors`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(o.Output); err != nil {
				return err
			}
			o.Offline, o.Log = app.Offline, app.Log
			o.Skip = append([]string{}, strings.FieldsFunc(skip, func(r rune) bool { return r == ',' || r == ' ' })...)
			r, err := convert.Init(cmd.Context(), o)
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(r)
			}
			for _, d := range r.Skipped {
				app.Printf("skipped %s: %s\n", d.Name, d.Reason)
			}
			for _, t := range r.Resized {
				app.Printf("resized %s: %v to %v (%s)\n", t.Name, t.From, t.To, t.Method)
			}
			for _, n := range r.Random {
				app.Printf("random %s\n", n)
			}
			app.Printf("%s: %d tensors loaded, %d of them resized, %d skipped in the files, %d from the base or random; read back and equal\n",
				r.Output, len(r.Loaded), len(r.Resized), len(r.Skipped), len(r.Random)+len(r.FromBase))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Config, "config", "", "architecture: a `NAME` of evatool models, or a JSON file")
	f.StringVar(&o.Vision, "vision", "", "checkpoint for the vision tower")
	f.StringVar(&o.Text, "text", "", "checkpoint for the text tower")
	f.StringVar(&o.Base, "base", "", "take from this model whatever would be random")
	f.StringVar(&skip, "skip", strings.Join(convert.DefaultSkip, ","), "tensors not to load, separated by commas or spaces")
	f.StringVar(&o.Resize, "resize", "eva", "how to resize position embeddings: eva, clip-rei or openclip")
	f.Uint64Var(&o.Seed, "seed", 0, "seed for whatever is random")
	f.StringVarP(&o.Output, "out", "o", "", "the file to write")
	f.BoolVar(&o.Force, "force", false, "overwrite the output")
	return cmd
}
