package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/shard"
	"github.com/evatool/evatool/internal/yamlfile"
)

func newZeroshot(app *App) *cobra.Command {
	var (
		o      eval.Options
		models []string
		part   string
		resume bool
		card   modelCard
	)
	cmd := &cobra.Command{
		Use:   "zeroshot BENCHMARK[,…] --model M --data SRC",
		Short: "Score a model zero-shot on labelled images",
		Long: `Score a CLIP model zero-shot: each class becomes one vector, from its name in
every template, and every image gets the nearest class. BENCHMARK is imagenet,
imagenet-v2, imagenet-a, imagenet-r, imagenet-sketch, objectnet, another name
that "evatool zeroshot list" prints, or folder, which takes any images.

SRC is a folder with one sub-folder per class (wnids, class names or numbers),
the ILSVRC validation tar or folder with its ground truth, WebDataset tars
(x-{000..012}.tar), a CSV or TSV of path and label, Parquet, or a .safetensors
with images (F32, [n,3,S,S], normalised) and labels.

Counts are integers. Classes with equal logits rank by index, lower first, and
images whose answer depends on that are counted as ties. The interval is
Wilson's at 95 %. With --out the folder gets result.json, rows.csv and
report.html; a killed run picks up where it left off, and no image counts twice.

An image that does not decode is skipped, counted and listed; the run fails if
there are more than --max-bad of them.

datacomp scores DataComp's 38 sets: SRC is the folder that its downloader
filled, or one with CLIP_benchmark's wds_… folders; class names and templates
are those beside the data. Several benchmarks (A,B,C, including flickr30k and
coco) and several --model score every model on every set, from one folder. Sets
that are finished in --out are not scored again; table.csv has CLIP_benchmark's
columns, report.html shows the models side by side.

Some sets report something other than top-1: fmow, dollar-street and geode their
worst group, iwildcam macro F1, voc2007-multilabel mAP; sugarcrepe, winoground
and winogavil choices between captions or pictures.` + exitStatus,
		Example: `  evatool zeroshot imagenet --model EVA02_CLIP_B_psz16_s8B.pt --data ILSVRC2012_img_val.tar --out runs/b16
  evatool zeroshot folder --model model.safetensors --data pets/ --classnames names.txt --templates prompts.txt --json
  evatool zeroshot datacomp --model model.safetensors --data evalsets/ --out runs/datacomp
  evatool zeroshot imagenet,imagenet-v2,cifar10 --model a.pt --model b.pt --data sets/ --out runs/ab
  evatool zeroshot merge runs/shard-* -o runs/all`,
		Args: oneBenchmark,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Benchmark = args[0]
			if o.Shard, o.Shards, err = shardOf(app, part); err != nil {
				return err
			}
			words := append([]string{o.ClassNamesFile, o.TemplatesFile}, o.Classifiers...)
			if err := card.check(len(models), o.Shards, append(append(append(dataset.Local(o.Data), words...), models...), o.Config)...); err != nil {
				return err
			}
			if err := atomicfile.Apart([]string{o.Predictions, o.SaveClassifier}, words); err != nil {
				return err
			}
			app.open(&o.OpenOptions)
			o.Meter, o.Fresh = app.meter, !resume
			if sets := strings.Split(args[0], ","); len(sets) > 1 || len(models) > 1 || sets[0] == eval.DataComp {
				res, err := eval.Suite(cmd.Context(), eval.SuiteOptions{Sets: sets, Models: models, Options: o})
				if err != nil {
					return err
				}
				if err := printSuite(app, res, o.Out); err != nil {
					return err
				}
				return card.write(app, res.All()[0].Model, res.All()[0].CardLines())
			}
			o.Model = models[0]
			res, err := eval.ZeroShot(cmd.Context(), o)
			if res == nil {
				return err
			}
			if perr := printZeroShot(app, res, o.Out); perr != nil {
				return perr
			}
			if cerr := card.write(app, res.Model, res.CardLines()); cerr != nil {
				return cerr
			}
			return err
		},
	}
	f := cmd.Flags()
	card.flag(cmd)
	f.StringArrayVar(&models, "model", nil, "a model file, the folder of a training run, any checkpoint that convert reads, or a `NAME` of evatool models, openai:NAME, hf:OWNER/NAME; several are scored one after another")
	openFlags(cmd, &o.OpenOptions)
	computeFlags(cmd, &o.OpenOptions, &o.MaxBad)
	f.StringVar(&o.Data, "data", "", "images with labels: folder, tar, list or .safetensors")
	f.StringVar(&o.ClassNamesFile, "classnames", "", "`FILE` of class names, one per line, in label order; or lines of FOLDER<TAB>NAME if the data has its own words; or .json: a list, or CLIP_benchmark's lists by set")
	f.StringVar(&o.TemplatesFile, "templates", "", "`FILE` of templates, one per line, with {c} or {} for the class name; or .json: a list, CLIP_benchmark's lists by set, or prompts by class (CuPL)")
	f.StringVar(&o.Language, "language", "", "use CLIP_benchmark's names and templates of ImageNet's classes in en, ar, cn, it or jp")
	f.StringArrayVar(&o.Classifiers, "classifier", nil, "class matrix `FILE` that --save-classifier wrote, instead of prompts; several are averaged")
	f.IntVar(&o.Limit, "limit", 0, "score only `N` images: equally many of every class if folders or a list give the classes, else at equal distances (of a .safetensors the first)")
	f.StringVar(&part, "shard", "", "score part `i/n` (0/8 to 7/8), or auto or auto/n: from a Slurm array or a Kubernetes indexed job, whose environment counts even without the flag")
	f.StringVarP(&o.Out, "out", "o", "", "write result.json, rows.csv and report.html into the folder `DIR`")
	f.BoolVar(&resume, "resume", true, "continue the unfinished run in --out")
	forceFlag(cmd, &o.Force)
	f.StringVar(&o.Expect, "expect", "", "exit with 1 when the metric is outside `VALUE±TOLERANCE`, such as 0.747±0.004")
	f.StringVar(&o.Predictions, "predictions", "", "write every image's prediction to the CSV `FILE`")
	f.StringVar(&o.SaveClassifier, "save-classifier", "", "write the class matrix [dim,classes] to the safetensors `FILE`")
	f.StringVar(&o.Cache, "classifier-cache", "", "folder of the classifier cache, or off (default: the user's cache folder)")
	f.BoolVar(&o.NoDiagnosis, "no-diagnosis", false, "do not look for causes if a published figure is outside the interval")
	mustRequire(cmd, "model", "data")
	cmd.AddCommand(newZeroshotMerge(app), newZeroshotList(app), newZeroshotVerify(app))
	return cmd
}

// oneBenchmark checks the argument before any file is opened.
func oneBenchmark(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fault.Usagef("zeroshot: want one benchmark, or several separated by commas, got %d arguments; folder takes any images, evatool zeroshot list prints the other names", len(args))
	}
	return nil
}

// shardOf reads --shard. Without the flag, the environment of a Slurm array or a
// Kubernetes indexed job gives the part; 0/1 overrides it with everything.
func shardOf(app *App, flag string) (i, n int, err error) {
	if flag != "" {
		return shard.Parse(flag)
	}
	i, n, ok, err := shard.FromEnv()
	if err != nil || !ok {
		return 0, 1, err
	}
	app.Log.Warn("scoring one part, given by this job's environment; --shard 0/1 scores everything", "part", i, "of", n)
	return i, n, nil
}

func modelFlags(cmd *cobra.Command, model *string, o *eval.OpenOptions) {
	f := cmd.Flags()
	f.StringVar(model, "model", "", "a model file, the folder of a training run, any checkpoint that convert reads, or a `NAME`: of evatool models, openai:NAME, hf:OWNER/NAME[@REVISION][/FILE]")
	openFlags(cmd, o)
}

// openFlags say how a model file is opened.
func openFlags(cmd *cobra.Command, o *eval.OpenOptions) {
	f := cmd.Flags()
	f.StringVar(&o.Config, "config", "", "architecture `NAME` or JSON file, if the model file does not say")
	f.StringVar(&o.Key, "key", "", "`PATH` of the state dict inside a wrapper")
	preprocessFlag(cmd, &o.Preprocess)
}

// preprocessFlag says how images are prepared.
func preprocessFlag(cmd *cobra.Command, preprocess *string) {
	cmd.Flags().StringVar(preprocess, "preprocess", "", "how images are prepared, if the model does not say: openai, inception or imagenet (mean and std), mean=…,std=…,interpolation=…,resize=shortest|longest|squash, or a JSON `FILE` of OpenCLIP or transformers")
}

// computeFlags say how images are decoded and encoded.
func computeFlags(cmd *cobra.Command, o *eval.OpenOptions, maxBad *int) {
	f := cmd.Flags()
	f.StringVar(&o.DType, "dtype", "fp32", "compute type: fp32, bf16 or fp16")
	f.IntVar(&o.Batch, "batch", 0, "images per call (0: 8 on a CPU, 256 on a GPU); does not affect results")
	f.IntVar(&o.Workers, "workers", 0, "decode on `N` goroutines (0: one per core)")
	decodeMemoryFlag(cmd)
	f.IntVar(maxBad, "max-bad", 0, "how many images may fail to decode; they are left out")
}

// forceFlag lets an evaluation replace another one.
func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "replace the result of another evaluation in --out")
}

// mustRequire marks flags that the command cannot do without.
func mustRequire(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the command does not have the flag
		}
	}
}

// open fills in how a model is opened from the common flags.
func (a *App) open(o *eval.OpenOptions) {
	o.Backend, o.DeviceCount, o.Threads, o.Offline, o.Log = a.Backend, a.DeviceCount, a.Threads, a.Offline, a.Log
}

func (a *App) meter(label string, total int64, unit string) eval.Meter {
	return a.Progress(label, total, unit)
}

func printZeroShot(app *App, res *eval.Result, out string) error {
	if app.JSON {
		return app.PrintJSON(res)
	}
	pct := func(v float64) string { return fmt.Sprintf("%6.2f %%", 100*v) }
	if res.Kind == dataset.Choice && res.Shard != nil { // a question's pictures may lie in other parts
		s := res.Shard
		app.Printf("%s  part %d of %d: images %d to %d encoded; merge the parts for the whole\n", res.Benchmark, s.Index, s.Count, s.Lo, s.Hi-1)
		return nil
	}
	if res.Kind == dataset.Choice {
		app.Printf("%s  %s  %d questions about %d images\n", res.Benchmark, res.Model.File, res.N, res.Data.N)
	} else {
		app.Printf("%s  %s  %d images, %d classes, %d templates\n", res.Benchmark, res.Model.File, res.N, res.Data.Classes, res.Data.Templates)
	}
	if res.Data.Of > 0 {
		app.Printf("limit   %d of %d images\n", res.Data.N, res.Data.Of)
	}
	if s := res.Shard; s != nil {
		app.Printf("part    %d of %d: images %d to %d; merge the parts for the whole\n", s.Index, s.Count, s.Lo, s.Hi-1)
	}
	if res.Metric != dataset.Top1 && res.Metric != dataset.MeanPerClass && res.Shard == nil {
		printValue(app, res)
	}
	app.Printf("top-1   %s  (%d)  95 %%: %s to %s\n", pct(res.Top1), res.Correct1, pct(res.CI95.Top1[0]), pct(res.CI95.Top1[1]))
	if res.Kind != dataset.Choice {
		app.Printf("top-5   %s  (%d)  95 %%: %s to %s\n", pct(res.Top5), res.Correct5, pct(res.CI95.Top5[0]), pct(res.CI95.Top5[1]))
	}
	if res.Kind == "" {
		app.Printf("classes %s  mean per class\n", pct(res.MeanPerClass))
	}
	app.Printf("ties    %d   skipped %d\n", res.Ties, len(res.Skipped))
	if p := res.Published; p != nil {
		for i, f := range append([]eval.Figure{p.Figure}, p.Others...) {
			app.Printf("%-9s %s  %s by %s: %s\n", []string{"published", ""}[min(i, 1)], pct(f.Value), f.Weights, f.Source, f.Verdict())
		}
	} else if res.NotCompared != "" {
		app.Printf("published not compared: %s\n", res.NotCompared)
	}
	if len(res.Diagnosis) > 0 {
		app.Printf("why     the usual causes, each tried alone on some of the images:\n")
	}
	for _, d := range res.Diagnosis {
		mark := "       "
		if d.Suspect {
			mark = "SUSPECT"
		}
		app.Printf("%s %s\n", mark, d.Text)
	}
	app.Printf("speed   %.1f images/s (model %.1f s, waiting for images %.1f s, decoding %.1f s over the workers, all %.1f s) on %s, JPEG by %s\n",
		res.ImagesPerSecond, res.Seconds.Device, res.Seconds.Wait, res.Seconds.Decode, res.Seconds.Total, res.Backend, res.Decoder)
	if out != "" {
		app.Printf("report  %s/report.html\n", strings.TrimSuffix(out, "/"))
	}
	return nil
}

// printValue prints a metric other than top-1, and what it is made of.
func printValue(app *App, res *eval.Result) {
	app.Printf("%s  %.2f %%  95 %%: %.2f to %.2f\n", res.Metric, 100*res.Value, 100*res.CI95.Value[0], 100*res.CI95.Value[1])
	for _, g := range res.Groups {
		mark := ""
		if g.Group == res.Group.Worst {
			mark = "worst"
		}
		app.Printf("  %s %d  top-1 %d, top-5 %d of %d  %s\n", res.Group.Name, g.Group, g.Correct, g.Correct5, g.N, mark)
	}
	c := res.Choice
	if c == nil {
		return
	}
	if c.Jaccard != nil {
		for _, name := range slices.Sorted(maps.Keys(c.Jaccard)) {
			app.Printf("  %s candidates  Jaccard %.2f %%\n", name, 100*c.Jaccard[name])
		}
		return
	}
	app.Printf("  text right %d, image right %d, both %d of %d\n", c.TextCorrect, c.ImageCorrect, c.GroupCorrect, res.N)
	for _, p := range c.Parts {
		app.Printf("  %s  %.2f %%  %d of %d\n", p.Name, 100*p.Value, p.Correct, p.N)
	}
}

// printSuite prints a table: the models side by side.
func printSuite(app *App, res *eval.SuiteResult, out string) error {
	if app.JSON {
		return app.PrintJSON(res)
	}
	pct := func(v float64) string { return fmt.Sprintf("%6.2f", 100*v) }
	models := res.All()
	if s := res.Shard; s != nil {
		app.Printf("part %d of %d of %d sets, %d models; merge the parts for the whole\n", s.Index, s.Count, len(models[0].Sets), len(models))
		return nil
	}
	for i, m := range models {
		app.Printf("model %d  %s  %s\n", i+1, m.Model.File, m.Model.Config)
	}
	app.Printf("%-52s %-22s %7s", "set", "metric", "n")
	for i := range models {
		app.Printf("  %s", fmt.Sprintf("model %d  95 %%              published", i+1))
	}
	app.Printf("\n")
	for i, s := range models[0].Sets {
		app.Printf("%-52s %-22s %7d", s.Key, s.Metric, s.N)
		for _, m := range models {
			s := m.Sets[i]
			pub, mark := "", ""
			if s.Published != nil {
				pub = pct(*s.Published)
				if !*s.InsideCI {
					mark = "*"
				}
			}
			app.Printf("  %s  %s to %s  %6s%-1s", pct(s.Value), pct(s.CI95[0]), pct(s.CI95[1]), pub, mark)
		}
		app.Printf("\n")
	}
	for i, m := range models {
		app.Printf("model %d  average %s over %d of %d sets, 95 %%: %s to %s\n", i+1, pct(m.Average), m.N, m.Of, pct(m.AverageCI95[0]), pct(m.AverageCI95[1]))
		if m.PublishedSame != nil {
			app.Printf("         published %s over %d of these sets, for %s, known by %s; * is outside the interval\n", pct(*m.PublishedSame), m.Compared(), m.PublishedWeights, m.PublishedBy)
		}
		if m.PublishedAverage != nil {
			app.Printf("         published %s over all %d, for %s\n", pct(*m.PublishedAverage), m.Of, m.PublishedWeights)
		}
	}
	if len(models[0].Missing) > 0 {
		app.Printf("missing  %s\n", strings.Join(models[0].Missing, ", "))
	}
	number := map[string]int{}
	for i, m := range models {
		number[m.Model.File] = i + 1
	}
	for _, p := range res.Pairs {
		app.Printf("%-52s model %d - model %d  %+.2f points, 95 %%: %+.2f to %+.2f, McNemar's p %.2g\n", p.Set, number[p.B], number[p.A], 100*p.Difference, 100*p.CI95[0], 100*p.CI95[1], p.P)
	}
	if out != "" {
		app.Printf("report  %s/report.html, table.csv\n", strings.TrimSuffix(out, "/"))
	}
	return nil
}

func newZeroshotMerge(app *App) *cobra.Command {
	var o eval.MergeOptions
	cmd := &cobra.Command{
		Use:   "merge DIR... -o OUT",
		Short: "Add the parts of a sharded run",
		Long: `Add the parts that "zeroshot --shard i/n --out DIR" wrote, of a benchmark, of a
suite such as datacomp, or of "retrieval --shard i/n". The counts are those
of one run over everything. Parts that differ in model, data, class list,
prompts or preprocessing are refused, and so are overlaps and gaps. Folders of
features from "probe --shard i/n --features DIR" are put together into one, which
probe then takes with --features.` + exitStatus,
		Example: `  evatool zeroshot merge runs/shard-0 runs/shard-1 -o runs/all
  evatool zeroshot merge runs/shard-* -o runs/all --json --expect 0.747±0.004`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			switch kind := args[0]; {
			case eval.IsFeatures(args...):
				res, err := eval.MergeFeatures(args, o)
				if err != nil {
					return err
				}
				if app.JSON {
					return app.PrintJSON(res)
				}
				app.Printf("features of %d images, %d files of %d sets, are in %s\n", res.Images, res.Files, res.Sets, res.Out)
				return nil
			case eval.IsSuite(kind):
				res, err := eval.MergeSuite(args, o)
				if err != nil {
					return err
				}
				return printSuite(app, res, o.Out)
			case eval.IsRetrieval(kind):
				res, err := eval.MergeRetrieval(args, o)
				if err != nil {
					return err
				}
				return printRetrieval(app, res, o.Out)
			}
			res, err := eval.Merge(args, o)
			if res == nil {
				return err
			}
			if perr := printZeroShot(app, res, o.Out); perr != nil {
				return perr
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&o.Out, "out", "o", "", "write the whole result to the folder `DIR`")
	cmd.Flags().StringVar(&o.Expect, "expect", "", "exit with 1 when the metric is outside `VALUE±TOLERANCE`")
	forceFlag(cmd, &o.Force)
	mustRequire(cmd, "out")
	return cmd
}

func newZeroshotVerify(app *App) *cobra.Command {
	var o eval.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify DIR --model M --data SRC",
		Short: "Score a sample of a result's rows again",
		Long: `Score a random sample of the rows of a result folder again: label, the first five
answers and the logit; for choices the scores; for a retrieval the features of an
image and its captions, which determine its ranks; for a probe the answers of its
stored head (not how the head was learned, few shots, neighbours or zero-shot). A
folder whose counts do not follow from its rows is refused. Rows that differ give
status 1; otherwise it says, with 95 % confidence, how many of all rows can differ
at most.

A suite's folder (datacomp, or several benchmarks) is checked set by set, with
--sample rows of each; --data is the folder of the sets, and of several models
the one given as --model is checked. Give class names, templates and saved class
matrices as in the run; a probe's folder has its own.` + exitStatus,
		Example: `  evatool zeroshot verify runs/b16 --model b16.safetensors --data ILSVRC2012_img_val.tar
  evatool zeroshot verify runs/b16 --model b16.safetensors --data val/ --sample 2000 --seed 7 --json
  evatool zeroshot verify runs/datacomp --model b16.safetensors --data evalsets/ --sample 50`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Dir = args[0]
			app.open(&o.OpenOptions)
			o.Meter = app.meter
			v, err := eval.Verify(cmd.Context(), o)
			if v == nil {
				return err
			}
			if app.JSON {
				if perr := app.PrintJSON(v); perr != nil {
					return perr
				}
				return err
			}
			for _, v := range append([]*eval.Verification{v}, v.Sets...) {
				app.Printf("%s  %d of %d rows scored anew, %d differ; logits within %.3g of %.3g\n", v.Dir, v.Sample, v.Rows, v.Differs, v.MaxLogit, v.Tolerance)
				for _, d := range v.Differing {
					app.Printf("  %d %s  %s\n", d.Index, d.Key, d.What)
				}
			}
			if len(v.NotCovered) > 0 {
				app.Printf("covered are the rows of the linear probe, as its head answers; not covered: %s\n", strings.Join(v.NotCovered, ", "))
			}
			app.Printf("with 95 %% confidence at most %.2f %% of the rows differ\n", 100*v.AtMost)
			return err
		},
	}
	f := cmd.Flags()
	modelFlags(cmd, &o.Model, &o.OpenOptions)
	computeFlags(cmd, &o.OpenOptions, &o.MaxBad)
	f.StringVar(&o.Data, "data", "", "the images that were scored")
	f.StringVar(&o.ClassNamesFile, "classnames", "", "`FILE` of class names, as in the run")
	f.StringVar(&o.TemplatesFile, "templates", "", "`FILE` of templates, as in the run")
	f.StringArrayVar(&o.Classifiers, "classifier", nil, "class matrix `FILE`, as in the run")
	f.BoolVar(&o.DataWords, "data-words", false, "class names and templates beside the data, as datacomp takes them")
	f.StringVar(&o.Split, "split", "", "for retrieval: as in the run")
	f.StringVar(&o.ImageColumn, "image-column", "", "for retrieval: as in the run")
	f.StringVar(&o.CaptionColumn, "caption-column", "", "for retrieval: as in the run")
	f.IntVar(&o.Sample, "sample", 500, "score `N` rows, drawn at random; in a suite, N from each set")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of the random sample")
	mustRequire(cmd, "model", "data")
	return cmd
}

func newZeroshotList(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "list [NAME]",
		Short: "List the benchmarks, or what has been published on one",
		Long: `List the benchmarks, one per line: what they measure, classes, templates and how
many published figures evatool knows. With NAME, print everything about that
one: where the data comes from, and the figures with their weights. --json
prints everything.` + exitStatus,
		Example: `  evatool zeroshot list
  evatool zeroshot list imagenet
  evatool zeroshot list --json`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return begin(benchmarks(), begun), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			list := eval.List()
			if len(args) == 1 {
				return printBenchmark(app, list, args[0])
			}
			if app.JSON {
				return app.PrintJSON(list)
			}
			app.Printf("%-30s %-16s %7s %9s %9s  %s\n", "benchmark", "metric", "classes", "templates", "published", "title")
			for _, b := range list {
				app.Printf("%-30s %-16s %7d %9d %9d  %s\n", b.Name, b.Metric, b.Classes, b.Templates, len(b.Published), b.Title)
			}
			app.Printf("\nfolder takes any images; datacomp is a suite of 38 of these; evatool zeroshot list NAME prints everything about one\n")
			return nil
		},
	}
}

// printBenchmark prints what is known about one benchmark.
func printBenchmark(app *App, list []eval.ListEntry, name string) error {
	i := slices.IndexFunc(list, func(b eval.ListEntry) bool { return b.Name == name })
	if i < 0 {
		near := ""
		names := benchmarks()
		if like := yamlfile.Nearest(name, names); like != "" {
			near = "; did you mean " + like + "?"
		}
		return fault.Usagef("benchmark %q: unknown%s; evatool zeroshot list prints the names", name, near)
	}
	b := list[i]
	if app.JSON {
		return app.PrintJSON(b)
	}
	app.Printf("%s  %s\n", b.Name, b.Title)
	app.Printf("metric     %s\nclasses    %d\ntemplates  %d\ndata       %s\n", b.Metric, b.Classes, b.Templates, b.Source)
	if len(b.Published) == 0 {
		return nil
	}
	app.Printf("\n%-28s %-38s %-18s %8s  %s\n", "published", "weights", "metric", "", "by")
	for _, f := range b.Published {
		app.Printf("%-28s %-38s %-18s %6.2f %%  %s\n", f.Config, f.Weights, f.Metric, 100*f.Value, f.Source)
	}
	return nil
}
