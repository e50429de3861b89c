package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
)

// modelEntry is one row of the list.
type modelEntry struct {
	Name       string          `json:"name"`
	Family     string          `json:"family"`
	ImageSize  int             `json:"image_size"`
	Context    int             `json:"context_length"`
	EmbedDim   int             `json:"embed_dim"`
	Params     modelParams     `json:"params"`
	GFLOPs     modelGFLOPs     `json:"gflops"`
	Preprocess arch.Preprocess `json:"preprocess"`
	Published  []modelFigure   `json:"published"` // ImageNet top-1
	Config     json.RawMessage `json:"config"`
}

type modelParams struct {
	Total  int64 `json:"total"`
	Visual int64 `json:"visual"`
	Text   int64 `json:"text"`
}

type modelGFLOPs struct {
	Image float64 `json:"image"`
	Text  float64 `json:"text"`
}

type modelFigure struct {
	Weights string  `json:"weights"`
	Top1    float64 `json:"top1"`
	Source  string  `json:"source"`
}

func newModelEntry(name string, c *arch.Config) modelEntry {
	image, text := c.GFLOPs()
	e := modelEntry{
		Name: name, Family: c.Family(), ImageSize: c.Vision.ImageSize, Context: c.Text.ContextLength, EmbedDim: c.EmbedDim,
		Params:     modelParams{c.TotalParams(), c.NumParams(arch.VisualTower), c.NumParams(arch.TextTower)},
		GFLOPs:     modelGFLOPs{image, text},
		Preprocess: c.Preprocess(), Published: []modelFigure{}, Config: c.JSON(),
	}
	for _, f := range published.Find(name, "imagenet") {
		if f.Metric == "top1" && f.Config == name {
			e.Published = append(e.Published, modelFigure{f.Weights, f.Value, f.Source})
		}
	}
	return e
}

func newModels(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "models [NAME]",
		Short: "List the published architectures that are built in",
		Long: `List the architectures that are built in: parameters, work per image and per
text (two operations per multiply-add), image size, and a published ImageNet
zero-shot top-1: that of the model's authors or, where they gave none, the best
of OpenCLIP's re-evaluations. --json has all of them. With NAME, print that
configuration as JSON: a starting point for --config FILE.

Every name works as --config NAME and as a recipe's model; so do the names that
OpenCLIP, EVA-CLIP and OpenAI use for the same models (EVA02-B-16, ViT-B/32).
ViT-B-32 is OpenCLIP's, with GELU; OpenAI's weights need openai-ViT-B-32 or
ViT-B-32-quickgelu.` + exitStatus,
		Example: `  evatool models
  evatool models EVA02-CLIP-B-16 > my-model.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return printModel(app, args[0])
			}
			return listModels(app)
		},
	}
}

func printModel(app *App, name string) error {
	c, ok := arch.Named(name)
	if !ok {
		return fault.Usagef("no built-in model %q; known: %s", name, strings.Join(arch.Names(), " "))
	}
	if app.JSON {
		return app.PrintJSON(newModelEntry(name, c))
	}
	return app.PrintJSON(json.RawMessage(c.JSON()))
}

func listModels(app *App) error {
	var entries []modelEntry
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		entries = append(entries, newModelEntry(n, c))
	}
	if app.JSON {
		return app.PrintJSON(entries)
	}
	w := tabwriter.NewWriter(app.Out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "name\tparams M\timage\tGFLOPs image\tGFLOPs text\tImageNet top-1\tof weights\tsource\t")
	for _, e := range entries {
		top, weights, source := "-", "", ""
		if f, ok := headline(e.Published); ok {
			source, _, _ = strings.Cut(f.Source, " (")
			top, weights = fmt.Sprintf("%.1f", 100*f.Top1), f.Weights
		}
		fmt.Fprintf(w, "%s\t%.1f\t%d\t%.1f\t%.1f\t%s\t%s\t%s\t\n", e.Name, float64(e.Params.Total)/1e6, e.ImageSize, e.GFLOPs.Image, e.GFLOPs.Text, top, weights, source)
	}
	return w.Flush()
}

// headline is the authors' own figure, else the best re-evaluation.
func headline(list []modelFigure) (best modelFigure, ok bool) {
	for _, f := range list {
		if !strings.HasPrefix(f.Source, published.Reevaluation) {
			return f, true
		}
		if f.Top1 > best.Top1 {
			best, ok = f, true
		}
	}
	return best, ok
}
