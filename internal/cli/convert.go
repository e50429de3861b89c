package cli

import (
	"math"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/internal/fault"
)

func newConvert(app *App) *cobra.Command {
	var o convert.Options
	var shardSize string
	cmd := &cobra.Command{
		Use:   "convert SRC... -o OUT.safetensors",
		Short: "Turn a checkpoint as published into safe weights, and prove it",
		Long: `Convert a CLIP checkpoint as its authors published it to safetensors: PyTorch
files (zip, legacy, tar, TorchScript), Hugging Face and DeepSpeed folders,
sharded files. Nothing in them is executed. The output is streamed in constant
memory, read back and compared with the source, and appears complete or not at
all. OUT.report.json says what was read, renamed, dropped, cast and resized.

The architecture is recognised from the tensors' names and shapes; if it cannot
be, give --config. Several SRC are the shards of one model.

Layouts: eva (visual.…, text.…, logit_scale, for every family), openclip (what
open_clip loads), hf (transformers' CLIPModel), source (any state dict exactly
as found). With hf, a config.json is written beside the output: name the output
DIR/model.safetensors, and CLIPModel.from_pretrained takes DIR.

--resize interpolates position embeddings as the program of that name does: eva
(bicubic, and the patch kernel with it), clip-rei (bicubic, align_corners) or
openclip (bicubic, antialias).` + exitStatus,
		Example: `  evatool convert EVA02_CLIP_B_psz16_s8B.pt -o eva02-b16.safetensors
  mkdir clip-l336 && evatool convert ViT-L-14-336px.pt --layout hf --dtype fp16 -o clip-l336/model.safetensors`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.ShardSize, err = parseSize("--shard-size", shardSize); err != nil {
				return err
			}
			if o.Resize != "" && o.ImageSize == 0 && o.Config == "" {
				return fault.Usagef("--resize %s: is only the method; give the size too, by --image-size N or a --config of another size", o.Resize)
			}
			if err := checkOutput(o.Output); err != nil {
				return err
			}
			o.Sources, o.Offline, o.Log = args, app.Offline, app.Log
			if !o.DryRun {
				var done func()
				o.Progress, done = app.bytesDone("convert")
				defer done()
			}
			r, err := convert.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(r)
			}
			printReport(app, r)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Output, "out", "o", "", "the file to write")
	f.StringVar(&o.Config, "config", "", "architecture: a `NAME` of evatool models, or a JSON file")
	preprocessFlag(cmd, &o.Preprocess)
	f.StringVar(&o.Layout, "layout", "eva", "names of the output: eva, openclip, hf or source")
	f.StringVar(&o.Key, "key", "", "path of the state dict inside the file, such as state_dict or a/b")
	f.StringVar(&o.Prefix, "prefix", "", "keep only the tensors whose names begin with `WORD` and a dot (such as model.), and drop that prefix")
	f.StringVar(&o.DType, "dtype", "keep", "keep, fp32, fp16 or bf16 (round to nearest even)")
	f.BoolVar(&o.Saturate, "saturate", false, "clamp values that overflow --dtype (otherwise an error)")
	f.IntVar(&o.ImageSize, "image-size", 0, "resize the position embedding for images of `N` pixels")
	f.StringVar(&o.Resize, "resize", "", "how to resize: eva (default), clip-rei or openclip")
	f.StringVar(&shardSize, "shard-size", "", "split the output into files of at most this size, such as 5GB or 500MiB, with an index")
	f.StringArrayVar(&o.Include, "include", nil, "keep only the tensors whose names match `GLOB` (repeatable)")
	f.StringArrayVar(&o.Exclude, "exclude", nil, "leave out the tensors whose names match `GLOB` (repeatable)")
	f.BoolVar(&o.DryRun, "dry-run", false, "print the plan and write nothing")
	f.BoolVar(&o.Force, "force", false, "overwrite the output")
	return cmd
}

// bytesDone is a progress display whose total becomes known with the first call of
// report, which is safe for concurrent use.
func (a *App) bytesDone(label string) (report func(done, total int64), finish func()) {
	var mu sync.Mutex
	var shown int64
	add, end := func(int64) {}, func() {}
	report = func(done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if shown == 0 {
			p := a.Progress(label, total, "B")
			add, end = func(n int64) { p.Add(n) }, p.Done
		}
		if done > shown {
			add(done - shown)
			shown = done
		}
	}
	return report, func() { mu.Lock(); defer mu.Unlock(); end() }
}

func printReport(app *App, r *convert.Report) {
	if r.DryRun {
		for _, line := range r.Plan {
			app.Printf("%s\n", line)
		}
	}
	for _, d := range r.Dropped {
		app.Printf("dropped %s: %s\n", d.Name, d.Reason)
	}
	for _, d := range r.Ignored {
		app.Printf("ignored %s: %s\n", d.Name, d.Reason)
	}
	app.Printf("%s, %s names, %s (%s)\n", r.Container, r.Family, orNone(r.Config), r.Recognised)
	app.Printf("%d tensors in, %d out, %d renamed, %d cast, %d resized, %d dropped, %d bytes\n",
		r.TensorsIn, r.TensorsOut, r.Renamed, r.Cast, len(r.Resized), len(r.Dropped), r.Bytes)
	for _, name := range r.BesideFiles {
		app.Printf("%s: for transformers\n", name)
	}
	if r.Verified {
		app.Printf("%s: written, read back and equal to the source; %.2f s, peak memory %d MB\n", r.Output, r.Seconds, r.PeakRSS>>20)
	}
}

// checkOutput refuses outputs that cannot be read back and compared: standard
// output, and devices, which the file would replace.
func checkOutput(path string) error {
	if path == "-" {
		return fault.Usagef("-o -: the output is read back, so it cannot be standard output; give the name of a file")
	}
	if st, err := os.Stat(path); err == nil && !st.IsDir() && !st.Mode().IsRegular() {
		return fault.Usagef("-o %s: not a regular file; give the name of a file to write", path)
	}
	return nil
}

// parseSize reads the value of a flag that is a size, such as 5GB (10^9) or 5GiB (2^30).
func parseSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRight(s, "KMGTBkmgtbi ")
	unit := strings.ToUpper(strings.TrimSpace(s[len(digits):]))
	factor, ok := map[string]float64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
		"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}[unit]
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !ok || !(n*factor >= 1) || n*factor > math.MaxInt64/2 {
		return 0, fault.Usagef("%s %q: want a size such as 5GB or 500MiB", flag, s)
	}
	return int64(n * factor), nil
}
