package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/dataset"
)

func newRetrieval(app *App) *cobra.Command {
	var o eval.RetrievalOptions
	var part string
	var resume bool
	var card modelCard
	cmd := &cobra.Command{
		Use:   "retrieval flickr30k|coco|csv --model M --data SRC",
		Short: "Score a model on finding captions for images and images for captions",
		Long: `Score a CLIP model on retrieval: recall at 1, 5 and 10 from image to text (any
caption of the image counts) and from text to image (every caption is a query).

flickr30k and coco take the folder with the images and Karpathy's
dataset_flickr30k.json or dataset_coco.json, whose test split of 1,000 or 5,000
images is scored, or CLIP_benchmark's WebDataset tars. coco also takes COCO's
own captions_val2017.json, which is not the set that the published figures are for. csv takes any list of image paths and captions (an image may
have several lines), or WebDataset tars with captions.` + exitStatus,
		Example: `  evatool retrieval coco --model model.safetensors --data coco/ --out runs/coco
  evatool retrieval csv --model model.safetensors --data captions.csv --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Set = args[0]
			if o.Shard, o.Shards, err = shardOf(app, part); err != nil {
				return err
			}
			if err := card.check(1, o.Shards, append(dataset.Local(o.Data), o.Model, o.Config)...); err != nil {
				return err
			}
			o.Fresh = !resume
			app.open(&o.OpenOptions)
			o.Meter = app.meter
			res, err := eval.Retrieval(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := printRetrieval(app, res, o.Out); err != nil {
				return err
			}
			return card.write(app, res.Model, res.CardLines())
		},
	}
	f := cmd.Flags()
	card.flag(cmd)
	modelFlags(cmd, &o.Model, &o.OpenOptions)
	computeFlags(cmd, &o.OpenOptions, &o.MaxBad)
	f.StringVar(&o.Data, "data", "", "images with captions")
	f.StringVar(&o.Split, "split", "test", "split of the Karpathy file")
	f.StringVar(&o.ImageColumn, "image-column", "", "column of the image path (csv)")
	f.StringVar(&o.CaptionColumn, "caption-column", "", "column of the caption (csv)")
	f.IntVar(&o.Limit, "limit", 0, "search among `N` images only, at equal distances")
	f.StringVar(&part, "shard", "", "encode part `i/n` of the images (0/8 to 7/8), or auto; \"zeroshot merge\" ranks the whole")
	f.StringVarP(&o.Out, "out", "o", "", "write result.json, rows.csv and report.html into the folder `DIR`, and the journal from which a run continues")
	f.BoolVar(&resume, "resume", true, "continue the unfinished run in --out")
	forceFlag(cmd, &o.Force)
	mustRequire(cmd, "model", "data")
	return cmd
}

func printRetrieval(app *App, res *eval.RetrievalResult, out string) error {
	if app.JSON {
		return app.PrintJSON(res)
	}
	if s := res.Shard; s != nil {
		app.Printf("%s  part %d of %d: %d images, %d captions encoded; merge the parts for the whole\n", res.Set, s.Index, s.Count, res.Images, res.Captions)
		return nil
	}
	app.Printf("%s  %s  %d images, %d captions\n", res.Set, res.Model.File, res.Images, res.Captions)
	if n := len(res.Skipped); n > 0 {
		app.Printf("skipped %d images and their captions\n", n)
	}
	if res.Of > 0 {
		app.Printf("limit   %d of %d images\n", res.N, res.Of)
	}
	for _, d := range []struct {
		name string
		r    eval.Recall
	}{{"image to text", res.ImageToText}, {"text to image", res.TextToImage}} {
		app.Printf("%s  R@1 %6.2f %%  95 %%: %.2f to %.2f  R@5 %6.2f %%  R@10 %6.2f %%\n", d.name, 100*d.r.R1, 100*d.r.CI95[0], 100*d.r.CI95[1], 100*d.r.R5, 100*d.r.R10)
	}
	app.Printf("mean R@1  %6.2f %%  95 %%: %.2f to %.2f\n", 100*res.MeanRecall1, 100*res.MeanCI95[0], 100*res.MeanCI95[1])
	for _, p := range res.Published {
		app.Printf("published %-18s %6.2f %%  %s by %s\n", p.Metric, 100*p.Value, p.Weights, p.Source)
	}
	if res.NotCompared != "" {
		app.Printf("published not compared: %s\n", res.NotCompared)
	}
	if out != "" {
		app.Printf("report  %s/report.html\n", strings.TrimSuffix(out, "/"))
	}
	return nil
}
