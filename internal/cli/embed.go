package cli

import (
	"github.com/spf13/cobra"

	"github.com/evatool/evatool/eval"
)

func newEmbed(app *App) *cobra.Command {
	var o eval.EmbedOptions
	var normalize bool
	cmd := &cobra.Command{
		Use:   "embed --model M (--images PATH... | --texts FILE | --tensors IN.safetensors) -o OUT",
		Short: "Turn images and texts into features",
		Long: `Turn images and texts into a CLIP model's features.

--images takes files and folders (searched for pictures), --texts a file with
one text per line, --tensors a .safetensors with images (F32, [n,3,S,S], already
normalised) and/or tokens (I64, [n,context]).

OUT.safetensors has image_features and text_features, L2-normalised unless
--normalize=false; with both also logits_per_image (the learned scale times the
cosine, whatever --normalize says) and logit_scale_exp. --blocks adds every
block's output. OUT.npy has only the features, of images or of texts.` + exitStatus,
		Example: `  evatool embed --model model.safetensors --images photos/ -o photos.safetensors
  evatool embed --model EVA02_CLIP_B_psz16_s8B.pt --texts captions.txt -o captions.npy
  evatool embed --model model.safetensors --tensors in.safetensors --normalize=false --blocks -o out.safetensors`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Images = append(o.Images, args...)
			app.open(&o.OpenOptions)
			o.Meter, o.Stdin, o.Raw = app.meter, app.In, !normalize
			rep, err := eval.Embed(cmd.Context(), o)
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(rep)
			}
			app.Printf("%s  %d images, %d texts, %d dimensions, on %s\n", rep.Out, rep.Images, rep.Texts, rep.Dim, rep.Backend)
			for _, s := range rep.Skipped { // rows of the output do not say which file they are
				app.Printf("skipped %s: %s\n", s.Key, s.Reason)
			}
			return nil
		},
	}
	f := cmd.Flags()
	modelFlags(cmd, &o.Model, &o.OpenOptions)
	computeFlags(cmd, &o.OpenOptions, &o.MaxBad)
	f.StringArrayVar(&o.Images, "images", nil, "image `PATH`: a file or a folder; further paths may follow as arguments")
	f.StringVar(&o.Texts, "texts", "", "`FILE` of texts, one per line; - is stdin")
	f.StringVar(&o.Tensors, "tensors", "", "safetensors `FILE` with images and/or tokens")
	f.StringVarP(&o.Out, "out", "o", "", "write to `FILE`, .safetensors or .npy")
	f.BoolVar(&normalize, "normalize", true, "L2-normalise the features")
	f.BoolVar(&o.Blocks, "blocks", false, "write every block's output too")
	mustRequire(cmd, "model", "out")
	return cmd
}
