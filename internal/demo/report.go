package demo

import (
	"archive/tar"
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// writeReport writes the page: a headline, curves, pictures with guesses, tables.
func (d *job) writeReport() error {
	s, c, t := d.res.Score, d.res.Convert, d.res.Train
	chance := 100 / float64(s.Data.Classes)
	p := runlog.NewPage("A CLIP model, trained and scored without Python",
		fmt.Sprintf("evatool demo, %s, %s backend", time.Now().Format("2 January 2006 15:04"), d.res.Backend.Kind))
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
	p.Line(runlog.LineChart{Title: "Contrastive loss", XLabel: "step", YLabel: "nats", Series: []runlog.Series{loss}, Noisy: true, Levels: []runlog.Level{{Name: "chance, ln of the batch", Y: math.Log(float64(d.recipe.Batch))}}})
	top1, top5 := runlog.Series{Name: "top-1"}, runlog.Series{Name: "top-5"}
	for _, e := range t.Evals {
		top1.X, top1.Y = append(top1.X, float64(e.Step)), append(top1.Y, 100*e.Top1)
		top5.X, top5.Y = append(top5.X, float64(e.Step)), append(top5.Y, 100*e.Top5)
	}
	p.Line(runlog.LineChart{Title: "Zero-shot accuracy on Twemoji, never seen in training", XLabel: "step", YLabel: "%", Series: []runlog.Series{top1, top5}, Levels: []runlog.Level{{Name: "top-1 by chance", Y: chance}, {Name: "top-5 by chance", Y: min(100, 5*chance)}}})

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
		{"backend", d.res.Backend.Kind}, {"why", d.res.Backend.Why}, {"plugin", d.res.Backend.Version},
		{"picture decoder", s.Decoder}, {"peak memory", fmt.Sprintf("%d MB", runlog.PeakRSS()>>20)},
	}
	for _, k := range []string{"convert", "train", "score"} {
		run = append(run, []string{"seconds: " + k, fmt.Sprintf("%.1f", d.res.Seconds[k])})
	}
	v := runlog.Versions()
	for _, k := range []string{"evatool", "go", "gomlx", "compute", "go-xla", "gopickle"} {
		run = append(run, []string{k, v[k]})
	}
	p.Table(nil, run)
	return p.WriteFile(d.res.Report)
}

// figuresShown is the number of right and of wrong guesses in the report.
const figuresShown = 12

// figures picks rightly and wrongly classified pictures in the order of the test set.
func (d *job) figures() ([]runlog.Figure, error) {
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
	names, err := eval.Lines(d.data("classnames.txt"), "class names")
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
			return nil, fault.Inputf("%s: label %q is not the number of a class", d.predictions(), r[col["label"]])
		}
		fig := runlog.Figure{PNG: png[r[col["key"]]], Caption: names[label]}
		for k := 1; k <= 3; k++ {
			id, err := strconv.Atoi(r[col[fmt.Sprintf("top%d", k)]])
			if err != nil || id >= len(names) {
				return nil, fault.Inputf("%s: prediction %q is not the number of a class", d.predictions(), r[col[fmt.Sprintf("top%d", k)]])
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

// tarMembers reads the members of a small tar that end in ext, by key.
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
