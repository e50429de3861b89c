package cli

import (
	"github.com/spf13/cobra"

	"github.com/evatool/evatool/eval"
)

func newProbe(app *App) *cobra.Command {
	var o eval.ProbeOptions
	var part string
	cmd := &cobra.Command{
		Use:   "probe --model M --train SRC --data SRC",
		Short: "Score a model's features by a linear probe, few shots and nearest neighbours",
		Long: `Fit a multinomial logistic regression to the features of the images of --train
and score it on those of --data: a linear probe. With --shots it is also fitted
to that many images per class, --seeds times; the nearest neighbours vote as in
DINO's protocol (cosine, exp(cosine/0.07)). If the classes have names, the
zero-shot score of the same images is shown too.

The objective is that of scikit-learn's LogisticRegression with C = 1/l2, on
features of length 1: the sum of -log p over the images plus l2/2 times the sum of
the squared weights, with a free intercept. It is minimised by L-BFGS until it converges.
Without --l2 the penalty is chosen on --val, or on a held-out fifth of --train, as
in CLIP's paper (A.3: 1e-6 to 1e6 in 96 steps), and the final fit is to both.

Features are computed once and kept in --features; a killed run resumes where it
was. With --shard only that part of them is computed; the command without it does
the rest, from the same folder or from what "zeroshot merge" put together. --out
gets rows.csv and the regression (head.safetensors), which "zeroshot verify"
checks. SRC is what zeroshot reads; class numbers in --data and --val mean the
classes of --train.` + exitStatus,
		Example: `  evatool probe --model model.safetensors --train pets/train --data pets/test
  evatool probe --model model.safetensors --train train/ --data test/ --val val/ --shots 1,2,4,8,16 --seeds 3 --out runs/probe
  evatool probe --model model.safetensors --train train/ --data test/ --l2 0.1 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Shard, o.Shards, err = shardOf(app, part); err != nil {
				return err
			}
			app.open(&o.OpenOptions)
			o.Meter = app.meter
			res, err := eval.Probe(cmd.Context(), o)
			if err != nil {
				return err
			}
			return printProbe(app, res, o.Out)
		},
	}
	f := cmd.Flags()
	modelFlags(cmd, &o.Model, &o.OpenOptions)
	computeFlags(cmd, &o.OpenOptions, &o.MaxBad)
	f.StringVar(&o.Train, "train", "", "images with labels to learn from")
	f.StringVar(&o.Data, "data", "", "images with labels to score")
	f.StringVar(&o.Val, "val", "", "images with labels to choose the penalty by (default: a fifth of --train)")
	f.StringVar(&o.ClassNamesFile, "classnames", "", "`FILE` of class names, one per line, in label order; or lines of FOLDER<TAB>NAME; or a list as .json")
	f.StringVar(&o.TemplatesFile, "templates", "", "`FILE` of templates for the zero-shot score, one per line; or .json: a list, or prompts by class (CuPL)")
	f.Float64Var(&o.L2, "l2", 0, "the penalty, 1/C of scikit-learn (0: swept)")
	f.IntSliceVar(&o.Shots, "shots", nil, "also learn from this many images per class: `1,2,4,…`")
	f.IntVar(&o.Seeds, "seeds", 1, "draw the images for --shots `N` times")
	f.IntVar(&o.Neighbours, "neighbours", 20, "how many of the nearest images vote")
	f.StringVar(&o.Features, "features", "", "folder `DIR` for the features (default: the user's cache folder)")
	f.StringVar(&part, "shard", "", "only compute part `i/n` of the features (0/8 to 7/8), or auto")
	f.StringVarP(&o.Out, "out", "o", "", "write result.json, rows.csv, head.safetensors and report.html into the folder `DIR`")
	forceFlag(cmd, &o.Force)
	mustRequire(cmd, "model", "train", "data")
	return cmd
}

func printProbe(app *App, res *eval.ProbeResult, out string) error {
	if app.JSON {
		return app.PrintJSON(res)
	}
	if s := res.Shard; s != nil {
		app.Printf("part %d of %d of the features is in %s\n", s.Index, s.Count, res.Features)
		return nil
	}
	s := res.Probe
	app.Printf("%s  %d images to learn from, %d to score, %d classes\n", res.Model.File, s.NTrain, s.N, res.Classes)
	learn, score := len(res.Train.Skipped), len(res.Data.Skipped)
	if res.Val != nil {
		learn += len(res.Val.Skipped)
	}
	if learn+score > 0 {
		app.Printf("skipped       %d images to learn from, %d to score\n", learn, score)
	}
	app.Printf("linear probe  top-1 %6.2f %%  95 %%: %.2f to %.2f  top-5 %6.2f %%  mean per class %6.2f %%\n", 100*s.Top1, 100*s.CI95[0], 100*s.CI95[1], 100*s.Top5, 100*s.MeanPerClass)
	app.Printf("              l2 %.4g, loss %.8g after %d steps\n", s.L2, s.Loss, s.Iterations)
	for _, k := range res.Shots {
		app.Printf("%5d shots   top-1 %6.2f %%  seed %d, l2 %.4g\n", k.K, 100*k.Top1, k.Seed, k.L2)
	}
	n := res.Neighbours
	app.Printf("%d neighbours  top-1 %6.2f %%  95 %%: %.2f to %.2f\n", n.K, 100*n.Top1, 100*n.CI95[0], 100*n.CI95[1])
	if z := res.ZeroShot; z != nil {
		app.Printf("zero-shot     top-1 %6.2f %%  95 %%: %.2f to %.2f  %d templates\n", 100*z.Top1, 100*z.CI95[0], 100*z.CI95[1], z.Templates)
	}
	if out != "" {
		app.Printf("report  %s/report.html\n", out)
	}
	return nil
}
