package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/trainer"
)

// DemoData is the bundled data of the demo: main sets it.
var DemoData fs.FS

// Steps of the demo's training run: the recipe's own number with XLA, and what
// the Go backend manages in about the same time, with our kernels and without.
const (
	demoSteps     = 300
	demoStepsGo   = 100
	demoStepsSlow = 40
)

func newDemo(app *App) *cobra.Command {
	var out string
	var steps int64
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Convert, train and score on bundled data, in about two minutes",
		Long: `Run evatool's three jobs on bundled data, in about two minutes on two cores:
convert a PyTorch checkpoint and prove it, train a small EVA-CLIP from scratch on
emoji of six art styles, score it zero-shot on a seventh that it never saw, and
write report.html. OUT is made anew when it is a demo's folder.` + exitStatus,
		Example: `  evatool demo
  evatool demo --backend go --out demo-on-go`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if steps < 0 {
				return fault.Usagef("--steps %d: want 0 or more", steps)
			}
			return runDemo(cmd.Context(), app, out, steps)
		},
	}
	cmd.Flags().StringVar(&out, "out", "evatool-demo", "write everything into the folder `DIR`")
	cmd.Flags().Int64Var(&steps, "steps", 0, fmt.Sprintf("train `N` steps (0: %d with XLA, %d on the Go backend)", demoSteps, demoStepsGo))
	return cmd
}

// demo is what the report is written from.
type demo struct {
	out     string
	start   time.Time
	device  device.Info
	convert *convert.Report
	train   *trainer.Result
	score   *eval.Result
	recipe  *trainer.Recipe
	seconds map[string]float64
}

func runDemo(ctx context.Context, app *App, out string, steps int64) error {
	d := &demo{out: out, start: time.Now(), seconds: map[string]float64{}}
	if err := unpackDemo(out); err != nil {
		return err
	}
	dev, err := device.Open(ctx, device.Options{Backend: app.Backend, DeviceCount: app.DeviceCount, Threads: app.Threads})
	if err != nil {
		return err
	}
	d.device = dev.Info()
	dev.Close()
	app.Printf("evatool demo: three jobs on bundled data, on the %s backend (%s)\n\n", d.device.Kind, d.device.Why)

	for i, s := range []struct {
		name, title string
		run         func() error
	}{
		{"convert", "convert a PyTorch checkpoint to safetensors, and prove it", func() error { return d.runConvert(ctx, app) }},
		{"train", "train a small EVA-02-CLIP from scratch on emoji of six art styles", func() error { return d.runTrain(ctx, app, steps) }},
		{"score", "score it zero-shot on Twemoji, a style it never saw", func() error { return d.runScore(ctx, app) }},
	} {
		app.Printf("%d. %s\n", i+1, s.title)
		t0 := time.Now()
		if err := s.run(); err != nil {
			return err
		}
		d.seconds[s.name] = time.Since(t0).Seconds()
		app.Printf("\n")
	}
	report := filepath.Join(out, "report.html")
	if err := d.writeReport(report); err != nil {
		return err
	}
	app.Printf("report: %s   (%.0f seconds in all, peak memory %d MB)\n", report, time.Since(d.start).Seconds(), runlog.PeakRSS()>>20)
	if app.JSON {
		return app.PrintJSON(map[string]any{
			"report": report, "backend": d.device, "convert": d.convert, "train": d.train, "score": d.score, "seconds": d.seconds,
		})
	}
	return nil
}

const demoMark = ".evatool-demo"

// unpackDemo makes out anew and writes the bundled data into out/data.
func unpackDemo(out string) error {
	if DemoData == nil {
		return fault.Envf("this build carries no demo data; build evatool from its repository root")
	}
	entries, err := os.ReadDir(out)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0:
	case err != nil:
		return fault.File(out, "a folder for the demo's output", err)
	default:
		if _, err := os.Stat(filepath.Join(out, demoMark)); err != nil {
			return fault.Usagef("%s: holds other files than a demo's; name an empty or a new folder with --out", out)
		}
		if err := os.RemoveAll(out); err != nil {
			return fault.File(out, "a folder for the demo's output", err)
		}
	}
	data := filepath.Join(out, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return fault.File(out, "a folder for the demo's output", err)
	}
	if err := os.WriteFile(filepath.Join(out, demoMark), nil, 0o644); err != nil {
		return err
	}
	return fs.WalkDir(DemoData, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(DemoData, path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(data, filepath.Base(path)), b, 0o644)
	})
}

func (d *demo) data(name string) string { return filepath.Join(d.out, "data", name) }

func (d *demo) runConvert(ctx context.Context, app *App) (err error) {
	d.convert, err = convert.Run(ctx, convert.Options{
		Sources: []string{d.data("01_zip_fp32.pt")},
		Config:  d.data("config.json"),
		Output:  filepath.Join(d.out, "eva02-b-tiny.safetensors"),
		Log:     app.Log,
	})
	if err != nil {
		return err
	}
	r := d.convert
	app.Printf("   %s %s: %d tensors in, %d out, %d dropped; read back and compared: %v; %.2f s\n",
		r.Container, r.Family, r.TensorsIn, r.TensorsOut, len(r.Dropped), r.Verified, r.Seconds)
	return nil
}

func (d *demo) runTrain(ctx context.Context, app *App, steps int64) (err error) {
	if steps == 0 {
		steps = demoSteps
		if d.device.Kind == "go" {
			steps = demoStepsSlow
			if d.device.Kernels {
				steps = demoStepsGo
			}
			app.Printf("   no XLA plugin: %d steps instead of %d on the Go backend (evatool backend install cpu brings it)\n", steps, demoSteps)
		}
	}
	d.recipe, err = trainer.LoadRecipe("emoji-lamb",
		fmt.Sprintf("steps=%d", steps),
		fmt.Sprintf("warmup_steps=%d", max(1, steps*40/demoSteps)),
		fmt.Sprintf("eval.0.every_steps=%d", max(1, steps/6)),
		"data.0.source="+d.data("train-{noto,noto-v1,fluent-3d,fluent-flat,fxemoji,emojione}.tar"),
		"eval.0.data="+d.data("test-twemoji.tar"),
		"eval.0.classnames="+d.data("classnames.txt"),
		"eval.0.templates="+d.data("templates.txt"))
	if err != nil {
		return err
	}
	shown := time.Now()
	d.train, err = trainer.Run(ctx, d.recipe, trainer.Options{
		Out:     filepath.Join(d.out, "run"),
		Backend: app.Backend, DeviceCount: app.DeviceCount, Threads: app.Threads,
		Log: app.Log,
		Progress: func(s trainer.Step) {
			if time.Since(shown) > 5*time.Second || s.Step == s.Total {
				shown = time.Now()
				app.Printf("   step %3d of %d   loss %.3f   %4.0f samples/s   left %.0f s\n",
					s.Step, s.Total, s.Loss, s.Rate, float64(s.Total-s.Step)*s.Seconds)
			}
		},
	})
	if err != nil {
		return err
	}
	app.Printf("   %d steps, %d samples, %.0f s; loss %.2f; waited %.1f s for data\n",
		d.train.Steps, d.train.Samples, d.train.Seconds, d.train.Loss, d.train.DataWait)
	return nil
}

func (d *demo) runScore(ctx context.Context, app *App) error {
	names, err := readLines(d.data("classnames.txt"))
	if err != nil {
		return err
	}
	templates, err := readLines(d.data("templates.txt"))
	if err != nil {
		return err
	}
	d.score, err = eval.ZeroShot(ctx, eval.Options{
		Benchmark: "folder", Data: d.data("test-twemoji.tar"),
		ClassNames: names, Templates: templates,
		Model: d.train.Model, Batch: 187,
		Backend: app.Backend, DeviceCount: app.DeviceCount, Threads: app.Threads,
		Out: filepath.Join(d.out, "score"), Predictions: d.predictions(),
		Cache: "off", NoDiagnosis: true, Log: app.Log,
	})
	if err != nil {
		return err
	}
	s := d.score
	app.Printf("   top-1 %.1f %% (95 %% interval %.1f to %.1f), top-5 %.1f %%; chance %.1f %%; %d pictures, %d classes\n",
		100*s.Top1, 100*s.CI95.Top1[0], 100*s.CI95.Top1[1], 100*s.Top5, 100/float64(len(names)), s.N, len(names))
	return nil
}

func (d *demo) predictions() string { return filepath.Join(d.out, "predictions.csv") }

// readLines returns the non-empty lines of a text file.
func readLines(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.File(path, "a text file, one entry a line", err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}

func (d *demo) writeReport(path string) error {
	s, c, t := d.score, d.convert, d.train
	chance := 100 / float64(s.Data.Classes)
	p := runlog.NewPage("A CLIP model, trained and scored without Python",
		fmt.Sprintf("evatool demo, %s, %s backend", time.Now().Format("2 January 2006 15:04"), d.device.Kind))
	p.Stats(
		runlog.Stat{Label: "Zero-shot top-1 on an unseen style", Value: fmt.Sprintf("%.1f %%", 100*s.Top1),
			Note: fmt.Sprintf("95 %% interval %.1f to %.1f", 100*s.CI95.Top1[0], 100*s.CI95.Top1[1])},
		runlog.Stat{Label: "Top-5", Value: fmt.Sprintf("%.1f %%", 100*s.Top5),
			Note: fmt.Sprintf("95 %% interval %.1f to %.1f", 100*s.CI95.Top5[0], 100*s.CI95.Top5[1])},
		runlog.Stat{Label: "Chance", Value: fmt.Sprintf("%.1f %%", chance), Note: fmt.Sprintf("%d classes, %d pictures", s.Data.Classes, s.N)},
		runlog.Stat{Label: "Whole demo", Value: fmt.Sprintf("%.0f s", time.Since(d.start).Seconds()), Note: fmt.Sprintf("training %.0f s", t.Seconds)},
	)

	p.Section("Training")
	p.Note(fmt.Sprintf("An EVA-02-style CLIP, from random weights: %d steps of %d picture–caption pairs of six emoji styles, LAMB, warm-up and cosine, half of the patches dropped. %d samples, %.1f s of waiting for data.",
		t.Steps, d.recipe.Batch, t.Samples, t.DataWait))
	loss := runlog.Series{Name: "loss"}
	for _, st := range t.Curve {
		loss.X, loss.Y = append(loss.X, float64(st.Step)), append(loss.Y, st.Loss)
	}
	p.Line(runlog.LineChart{Title: "Contrastive loss", XLabel: "step", YLabel: "loss", Series: []runlog.Series{loss}})
	top1, top5 := runlog.Series{Name: "top-1"}, runlog.Series{Name: "top-5"}
	for _, e := range t.Evals {
		top1.X, top1.Y = append(top1.X, float64(e.Step)), append(top1.Y, 100*e.Top1)
		top5.X, top5.Y = append(top5.X, float64(e.Step)), append(top5.Y, 100*e.Top5)
	}
	even := runlog.Series{Name: "chance", X: []float64{0, float64(t.Steps)}, Y: []float64{chance, chance}}
	p.Line(runlog.LineChart{Title: "Zero-shot accuracy on Twemoji, never seen in training", XLabel: "step", YLabel: "%", Series: []runlog.Series{top1, top5, even}})

	p.Section("What it says")
	figs, err := d.figures()
	if err != nil {
		return err
	}
	p.Note("Pictures of the unseen style with the model's three best guesses and their probabilities: green is right, orange is wrong.")
	p.Images(figs)

	p.Section("Conversion")
	p.Note(fmt.Sprintf("A checkpoint as torch.save wrote it, read without executing anything in it, written as safetensors in %.2f s, then read back and compared with the source byte for byte.", c.Seconds))
	rows := [][]string{
		{"container", c.Container}, {"family", c.Family},
		{"tensors in", strconv.Itoa(c.TensorsIn)}, {"tensors out", strconv.Itoa(c.TensorsOut)},
		{"dropped (recomputed tables)", strconv.Itoa(len(c.Dropped))},
		{"bytes written", strconv.FormatInt(c.Bytes, 10)},
		{"read back and compared", strconv.FormatBool(c.Verified)},
	}
	for _, src := range c.Source {
		rows = append(rows, []string{"source", filepath.Base(src.File)}, []string{"source SHA-256", src.SHA256})
	}
	p.Table(nil, rows)

	p.Section("How it ran")
	run := [][]string{
		{"backend", d.device.Kind}, {"why", d.device.Why}, {"plugin", d.device.Version},
		{"picture decoder", s.Decoder}, {"peak memory", fmt.Sprintf("%d MB", runlog.PeakRSS()>>20)},
	}
	for _, k := range []string{"convert", "train", "score"} {
		run = append(run, []string{"seconds: " + k, fmt.Sprintf("%.1f", d.seconds[k])})
	}
	v := runlog.Versions()
	for _, k := range []string{"evatool", "go", "gomlx", "compute", "go-xla", "gopickle"} {
		run = append(run, []string{k, v[k]})
	}
	p.Table(nil, run)
	return p.WriteFile(path)
}

// figuresShown is how many right and how many wrong guesses the report shows.
const figuresShown = 12

// figures picks right and wrong pictures in the order of the test set.
func (d *demo) figures() ([]runlog.Figure, error) {
	png, err := tarMembers(d.data("test-twemoji.tar"), ".png")
	if err != nil {
		return nil, err
	}
	f, err := os.Open(d.predictions())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, err
	}
	names, err := readLines(d.data("classnames.txt"))
	if err != nil {
		return nil, err
	}
	col := map[string]int{}
	for i, h := range rows[0] {
		col[h] = i
	}
	var right, wrong []runlog.Figure
	for _, r := range rows[1:] {
		label, err := strconv.Atoi(r[col["label"]])
		if err != nil || label >= len(names) {
			return nil, fault.Inputf("%s: label %q is not a class", d.predictions(), r[col["label"]])
		}
		fig := runlog.Figure{PNG: png[r[col["key"]]], Caption: names[label]}
		for k := 1; k <= 3; k++ {
			id, err := strconv.Atoi(r[col[fmt.Sprintf("top%d", k)]])
			if err != nil || id >= len(names) {
				return nil, fault.Inputf("%s: prediction %q is not a class", d.predictions(), r[col[fmt.Sprintf("top%d", k)]])
			}
			prob, err := strconv.ParseFloat(r[col[fmt.Sprintf("prob%d", k)]], 64)
			if err != nil {
				prob = math.NaN()
			}
			fig.Lines = append(fig.Lines, fmt.Sprintf("%s %.0f %%", names[id], 100*prob))
			fig.Good = fig.Good || k == 1 && id == label
		}
		if fig.Good {
			right = append(right, fig)
		} else {
			wrong = append(wrong, fig)
		}
	}
	return append(right[:min(len(right), figuresShown)], wrong[:min(len(wrong), figuresShown)]...), nil
}

// tarMembers reads the members of a small tar that end in ext, by their key.
func tarMembers(path, ext string) (map[string][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.File(path, "a tar", err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fault.Inputf("%s: %w", path, err)
		}
		if key, ok := strings.CutSuffix(h.Name, ext); ok {
			if out[key], err = io.ReadAll(r); err != nil {
				return nil, fault.Inputf("%s: %s: %w", path, h.Name, err)
			}
		}
	}
}
