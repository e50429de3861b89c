package cli

import (
	"github.com/spf13/cobra"

	"github.com/evatool/evatool/eval"
)

func newRetrieval(app *App) *cobra.Command {
	var o eval.RetrievalOptions
	cmd := &cobra.Command{
		Use:   "retrieval flickr30k|coco|csv --model M --data SRC",
		Short: "Score a model on finding captions for images and images for captions",
		Long: `Score a CLIP model on retrieval: recall at 1, 5 and 10 from image to text (any
caption of the image counts) and from text to image (every caption is a query).

flickr30k and coco take the folder with the images and Karpathy's
dataset_flickr30k.json or dataset_coco.json, of which the test split of 1,000 or
5,000 images is scored, or CLIP_benchmark's WebDataset tars. coco also takes
COCO's own captions_val2017.json, a different set from the one that the
published figures are for. csv takes any list of image paths and captions (an
image may have several lines), or WebDataset tars with captions.` + exitStatus,
		Example: `  evatool retrieval coco --model model.safetensors --data coco/ --out runs/coco
  evatool retrieval csv --model model.safetensors --data captions.csv --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Set = args[0]
			o.Backend, o.DeviceCount, o.Threads = app.Backend, app.DeviceCount, app.Threads
			o.Log, o.Meter = app.Log, app.meter
			res, err := eval.Retrieval(cmd.Context(), o)
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(res)
			}
			app.Printf("%s  %s  %d images, %d captions\n", res.Set, res.Model.File, res.Images, res.Captions)
			for _, d := range []struct {
				name string
				r    eval.Recall
			}{{"image to text", res.ImageToText}, {"text to image", res.TextToImage}} {
				app.Printf("%s  R@1 %6.2f %%  R@5 %6.2f %%  R@10 %6.2f %%\n", d.name, 100*d.r.R1, 100*d.r.R5, 100*d.r.R10)
			}
			for _, p := range res.Published {
				app.Printf("published %-18s %6.2f %%  %s\n", p.Metric, 100*p.Value, p.Source)
			}
			return nil
		},
	}
	f := cmd.Flags()
	modelFlags(cmd, &o.Model, &o.Config, &o.Key, &o.Preprocess)
	computeFlags(cmd, &o.DType, &o.Batch, &o.Workers, &o.MaxBad)
	f.StringVar(&o.Data, "data", "", "images with captions")
	f.StringVar(&o.Split, "split", "test", "split of the Karpathy file")
	f.StringVar(&o.ImageColumn, "image-column", "", "column of the image path (csv)")
	f.StringVar(&o.CaptionColumn, "caption-column", "", "column of the caption (csv)")
	f.IntVar(&o.Limit, "limit", 0, "score only the first `N` images")
	f.StringVar(&o.Out, "out", "", "write result.json into the folder `DIR`")
	mustRequire(cmd, "model", "data")
	return cmd
}
