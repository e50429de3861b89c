// Package demo runs evatool's three jobs on bundled data, one after another, and
// writes a report about them.
package demo

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/trainer"
)

// Steps of the training run: the recipe's own number with XLA, and what the Go
// backend does in about the same time, with our kernels and without.
const (
	Steps     = 300
	StepsGo   = 100
	stepsSlow = 40
)

// Options are the choices of a demo.
type Options struct {
	Data fs.FS  // the bundled data
	Out  string // folder for everything; an earlier demo's is replaced

	Steps       int64 // training steps; 0: as many as the backend does in about a minute and a half
	Backend     string
	DeviceCount int
	Threads     int

	Log *slog.Logger
	Say func(format string, args ...any) // prints what people read meanwhile
}

// Result is the outcome of the three jobs.
type Result struct {
	Report  string             `json:"report"`
	Backend device.Info        `json:"backend"`
	Convert *convert.Report    `json:"convert"`
	Train   *trainer.Result    `json:"train"`
	Score   *eval.Result       `json:"score"`
	Seconds map[string]float64 `json:"seconds"` // of each job
}

type job struct {
	o      Options
	say    func(format string, args ...any)
	start  time.Time
	recipe *trainer.Recipe
	res    *Result
}

// Run runs the demo.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Steps < 0 {
		return nil, fault.Usagef("Options.Steps %d: want 0 or more", o.Steps)
	}
	d := &job{o: o, say: o.Say, start: time.Now(), res: &Result{Report: filepath.Join(o.Out, "report.html"), Seconds: map[string]float64{}}}
	if err := unpack(o.Data, o.Out); err != nil {
		return nil, err
	}
	dev, err := device.Open(ctx, device.Options{Backend: o.Backend, DeviceCount: o.DeviceCount, Threads: o.Threads})
	if err != nil {
		return nil, err
	}
	info := dev.Info()
	dev.Close()
	d.res.Backend = info
	d.say("evatool demo: three jobs on bundled data, on the %s backend (%s)\n\n", info.Kind, info.Why)

	for i, s := range []struct {
		name, title string
		run         func(context.Context) error
	}{
		{"convert", "convert a PyTorch checkpoint to safetensors, and prove it", d.convert},
		{"train", "train a small EVA-02-CLIP from scratch on emoji of six art styles", d.train},
		{"score", "score it zero-shot on Twemoji, a style it never saw", d.score},
	} {
		d.say("%d. %s\n", i+1, s.title)
		t0 := time.Now()
		if err := s.run(ctx); err != nil {
			return nil, err
		}
		d.res.Seconds[s.name] = time.Since(t0).Seconds()
		d.say("\n")
	}
	if err := d.writeReport(); err != nil {
		return nil, err
	}
	d.say("report: %s   (%.0f seconds in all, peak memory %d MB)\n", d.res.Report, time.Since(d.start).Seconds(), runlog.PeakRSS()>>20)
	return d.res, nil
}

func (d *job) convert(ctx context.Context) (err error) {
	d.res.Convert, err = convert.Run(ctx, convert.Options{
		Sources: []string{d.data("01_zip_fp32.pt")},
		Config:  d.data("config.json"),
		Output:  filepath.Join(d.o.Out, "eva02-b-tiny.safetensors"),
		Log:     d.o.Log,
	})
	if err != nil {
		return err
	}
	r := d.res.Convert
	d.say("   %s %s: %d tensors in, %d out, %d dropped; read back and compared: %v; %.2f s\n",
		r.Container, r.Family, r.TensorsIn, r.TensorsOut, len(r.Dropped), r.Verified, r.Seconds)
	return nil
}

func (d *job) train(ctx context.Context) (err error) {
	steps := d.o.Steps
	if steps == 0 {
		steps = Steps
		if d.res.Backend.Kind == "go" {
			steps = stepsSlow
			if d.res.Backend.Kernels {
				steps = StepsGo
			}
			d.say("   no XLA plugin: %d steps instead of %d on the Go backend (evatool backend install cpu installs one)\n", steps, Steps)
		}
	}
	d.recipe, err = trainer.LoadRecipe("emoji-lamb",
		fmt.Sprintf("steps=%d", steps),
		fmt.Sprintf("warmup_steps=%d", max(1, steps*40/Steps)),
		fmt.Sprintf("eval.0.every_steps=%d", max(1, steps/6)),
		quoted("data.0.source", d.data("train-{noto,noto-v1,fluent-3d,fluent-flat,fxemoji,emojione}.tar")),
		quoted("eval.0.data", d.data("test-twemoji.tar")),
		quoted("eval.0.classnames", d.data("classnames.txt")),
		quoted("eval.0.templates", d.data("templates.txt")))
	if err != nil {
		return err
	}
	shown := time.Now()
	d.res.Train, err = trainer.Run(ctx, d.recipe, trainer.Options{
		Out:     filepath.Join(d.o.Out, "run"),
		Backend: d.o.Backend, DeviceCount: d.o.DeviceCount, Threads: d.o.Threads,
		Log: d.o.Log,
		Progress: func(s trainer.Step) {
			if time.Since(shown) > 5*time.Second || s.Step == s.Total {
				shown = time.Now()
				d.say("   step %3d of %d   loss %.3f   %4.0f samples/s   left %.0f s\n",
					s.Step, s.Total, s.Loss, s.Rate, float64(s.Total-s.Step)*s.Seconds)
			}
		},
	})
	if err != nil {
		return err
	}
	d.say("   %d steps, %d samples, %.0f s; loss %.2f; waited %.1f s for data\n",
		d.res.Train.Steps, d.res.Train.Samples, d.res.Train.Seconds, d.res.Train.Loss, d.res.Train.DataWait)
	return nil
}

func (d *job) score(ctx context.Context) error {
	names, err := eval.Lines(d.data("classnames.txt"), "class names")
	if err != nil {
		return err
	}
	templates, err := eval.Lines(d.data("templates.txt"), "templates")
	if err != nil {
		return err
	}
	d.res.Score, err = eval.ZeroShot(ctx, eval.Options{
		Benchmark: "folder", Data: d.data("test-twemoji.tar"),
		ClassNames: names, Templates: templates,
		Model: d.res.Train.Model, OpenOptions: eval.OpenOptions{Batch: 187, Backend: d.o.Backend, DeviceCount: d.o.DeviceCount, Threads: d.o.Threads, Log: d.o.Log},
		Out: filepath.Join(d.o.Out, "score"), Predictions: d.predictions(),
		Cache: "off", NoDiagnosis: true, Force: true,
	})
	if err != nil {
		return err
	}
	s := d.res.Score
	d.say("   top-1 %.1f %% (95 %% interval %.1f to %.1f), top-5 %.1f %%; chance %.1f %%; %d pictures, %d classes\n",
		100*s.Top1, 100*s.CI95.Top1[0], 100*s.CI95.Top1[1], 100*s.Top5, 100/float64(len(names)), s.N, len(names))
	return nil
}

// quoted is a recipe setting whose value is a string, whatever it contains.
func quoted(key, value string) string { return key + "=" + strconv.Quote(value) }

func (d *job) data(name string) string { return filepath.Join(d.o.Out, dataFolder, name) }

func (d *job) predictions() string { return filepath.Join(d.o.Out, "predictions.csv") }
