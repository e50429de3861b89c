package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/published"
)

// modelEntry is an architecture in the list.
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
	Weights    []modelWeights  `json:"weights"`   // by name
	Config     json.RawMessage `json:"config"`
}

// modelWeights are published weights with a name.
type modelWeights struct {
	Name       string   `json:"name"` // for --model and fetch
	State      string   `json:"state"`
	Why        string   `json:"why,omitempty"` // if State is not "works"
	Repository string   `json:"repository,omitempty"`
	Files      []string `json:"files,omitempty"`
	URL        string   `json:"url,omitempty"`
	SHA256     string   `json:"sha256,omitempty"` // of the file at URL, or its first eight digits
	Cached     string   `json:"cached,omitempty"` // its path
	Bytes      int64    `json:"bytes,omitempty"`  // in the cache
	About      int64    `json:"about_bytes,omitempty"`
	Top1       *float64 `json:"top1,omitempty"` // published, ImageNet
	Source     string   `json:"source,omitempty"`

	config string // of arch.Names
	params int64
	image  int
}

// allWeights lists the weights that have a name, and whether they are in the cache.
func allWeights() (list []modelWeights) {
	counted := map[string]int64{}
	cached := hub.Cache(hub.Options{})
	for _, e := range hub.Entries() {
		w := e.Weights
		state, why := hub.StateOf(w)
		m := modelWeights{Name: e.Name, State: string(state), Why: why, URL: w.URL, SHA256: w.SHA256}
		each := int64(4)
		if w.Own() && !strings.HasPrefix(w.Architecture, "EVA-CLIP-8B") || strings.HasPrefix(e.Name, "openai:") {
			each = 2
		}
		if !strings.HasPrefix(e.Name, "openai:") {
			m.Repository, m.Files = w.Repo, w.Files
		}
		c, _ := arch.Named(w.Architecture) // always found
		m.config, m.image = arch.Canonical(w.Architecture), c.Vision.ImageSize
		if counted[m.config] == 0 {
			counted[m.config] = c.TotalParams()
		}
		m.params = counted[m.config]
		m.About = each * m.params
		m.Cached, m.Bytes = cached(e)
		if f, ok := w.Top1(); ok {
			m.Top1, m.Source = &f.Value, f.Source
		}
		list = append(list, m)
	}
	return list
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
	var architectures bool
	cmd := &cobra.Command{
		Use:   "models [NAME]",
		Short: "List published weights by name, and the built-in architectures",
		Long: `List the published weights that have a name, for --model and fetch: parameters,
image size, the size of the file, whether it is in the cache, and the published
ImageNet zero-shot top-1, by the authors or else OpenCLIP's re-evaluation. A size
with ~ is an estimate: 2 bytes per parameter for the files of EVA (except 8B) and
OpenAI, 4 for others.

--architectures lists the built-in architectures: parameters, work per image and
per text (two operations per multiply-add), image size and the best published
top-1. --json prints everything about both. With NAME, print the configuration of
an architecture, or of weights, as JSON: a starting point for --config FILE.

Every architecture's name works as --config NAME and as a recipe's model; so do
the names that OpenCLIP, EVA-CLIP and OpenAI use for the same models
(EVA02-B-16, ViT-B/32). ViT-B-32 is OpenCLIP's, with GELU; OpenAI's weights need
openai-ViT-B-32 or ViT-B-32-quickgelu.` + exitStatus,
		Example: `  evatool models
  evatool models --architectures
  evatool models EVA02-CLIP-B-16 > my-model.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return printModel(app, args[0])
			}
			if architectures && !app.JSON {
				return listArchitectures(app)
			}
			return listModels(app)
		},
	}
	cmd.Flags().BoolVar(&architectures, "architectures", false, "list architectures instead of weights")
	return cmd
}

func printModel(app *App, name string) error {
	c, ok := arch.Named(name)
	if !ok {
		var err error
		if c, err = ofWeights(name); err != nil {
			return err
		}
	}
	if app.JSON {
		return app.PrintJSON(newModelEntry(name, c))
	}
	return app.PrintJSON(json.RawMessage(c.JSON()))
}

// ofWeights is the configuration of the weights with a name of the list: their
// architecture with their activation and preprocessing.
func ofWeights(name string) (*arch.Config, error) {
	entries := hub.Entries()
	i := slices.IndexFunc(entries, func(e hub.Entry) bool { return e.Name == name })
	if i < 0 {
		return nil, fault.Usagef("%q is the name of neither an architecture nor weights; evatool models lists the weights, evatool models --architectures the architectures", name)
	}
	w := entries[i].Weights
	if state, why := hub.StateOf(w); state == hub.Refused {
		return nil, fault.Usagef("%s: %s", name, why)
	}
	c, _ := arch.Named(w.Architecture)
	c.QuickGELU = c.QuickGELU || w.QuickGELU
	if w.Preprocess != "" {
		p, err := arch.OpenAIPreprocess().With(w.Preprocess)
		if err != nil {
			return nil, err
		}
		c.SetPreprocess(p)
	}
	return c, nil
}

func architectureEntries() (entries []modelEntry) {
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		entries = append(entries, newModelEntry(n, c))
	}
	return entries
}

func listModels(app *App) error {
	weights := allWeights()
	if app.JSON {
		of := map[string][]modelWeights{}
		for _, w := range weights {
			of[w.config] = append(of[w.config], w)
		}
		list := architectureEntries()
		for i, e := range list {
			list[i].Weights = append([]modelWeights{}, of[e.Name]...)
		}
		return app.PrintJSON(list)
	}
	w := tabwriter.NewWriter(app.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "name\tparams M\timage\tGB\tcached\tImageNet top-1\tsource\tstate")
	for _, m := range weights {
		top, cached := "-", "no"
		if m.Top1 != nil {
			top = fmt.Sprintf("%.1f", 100**m.Top1)
		}
		size := fmt.Sprintf("~%.2f", float64(m.About)/1e9)
		if m.Cached != "" {
			size, cached = fmt.Sprintf("%.2f", float64(m.Bytes)/1e9), "yes"
		}
		source, _, _ := strings.Cut(m.Source, " (")
		fmt.Fprintf(w, "%s\t%.1f\t%d\t%s\t%s\t%s\t%s\t%s\n", m.Name, float64(m.params)/1e6, m.image, size, cached, top, source, m.State)
	}
	return w.Flush()
}

func listArchitectures(app *App) error {
	entries := architectureEntries()
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
