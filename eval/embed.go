package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/tensorfile"
)

// EmbedOptions say what to encode.
type EmbedOptions struct {
	// Model is what encodes; OpenOptions say how it is opened.
	Model string
	OpenOptions
	// Opened is a model that is already open, instead of all these; it stays open.
	Opened *Model

	Images  []string // files and folders
	Texts   string   // file, one text a line; "-" is Stdin
	Tensors string   // .safetensors with images and/or tokens
	Out     string   // .safetensors or .npy

	Stdin  io.Reader // for Texts "-"
	Raw    bool      // features as the model gives them; they have length 1 otherwise
	Blocks bool      // every block's output too; .safetensors only

	MaxBad int // images that may fail to decode

	Meter Meters // nil: none
}

// EmbedReport says what Embed wrote.
type EmbedReport struct {
	Out        string    `json:"out"`
	Model      ModelInfo `json:"model"`
	Images     int       `json:"images"`
	Texts      int       `json:"texts"`
	Dim        int       `json:"dim"`
	Normalized bool      `json:"normalized"`
	Tensors    []string  `json:"tensors"`
	Skipped    []Skipped `json:"skipped"`
	Backend    string    `json:"backend"`
	DType      string    `json:"dtype"`
}

// check finds what is wrong with the options before anything is opened.
func (o *EmbedOptions) check() error {
	from := len(o.Images) > 0 || o.Texts != ""
	switch ext := strings.ToLower(filepath.Ext(o.Out)); {
	case from == (o.Tensors != ""):
		return fault.Usagef("embed: give Options.Images and/or Options.Texts, or Options.Tensors")
	case o.Texts == "-" && o.Stdin == nil:
		return fault.Usagef("embed: Options.Texts is - without a reader for it; give one, or the name of a file")
	case ext != ".safetensors" && ext != ".npy":
		return fault.Usagef("embed: Options.Out %q: want a name that ends in .safetensors or .npy", o.Out)
	case ext == ".npy" && o.Blocks:
		return fault.Usagef("embed: Options.Blocks writes many tensors and a .npy holds one array; write to .safetensors")
	case ext == ".npy" && len(o.Images) > 0 && o.Texts != "":
		return fault.Usagef("embed: a .npy holds one array; write images and texts to .safetensors")
	}
	inputs := append(slices.Clone(o.Images), o.Texts, o.Tensors, o.Model, o.Config)
	if err := cmp.Or(atomicfile.Target(o.Out), atomicfile.Apart([]string{o.Out}, inputs)); err != nil {
		return err
	}
	return cmp.Or(checkCounts(o.Batch, o.Workers, 0, o.MaxBad), checkModel(o.Opened, o.Model, o.OpenOptions))
}

func checkDType(d string) error {
	if d != "" && !slices.Contains([]string{"fp32", "bf16", "fp16"}, d) {
		return fault.Usagef("Options.DType %q: want fp32, bf16 or fp16", d)
	}
	return nil
}

// Embed writes the features of images, texts or tensors to a file.
func Embed(ctx context.Context, o EmbedOptions) (_ *EmbedReport, err error) {
	defer fault.Public(ctx, &err)
	if err := o.check(); err != nil {
		return nil, err
	}
	return withModel(ctx, o.Opened, o.Model, o.OpenOptions, func(ctx context.Context, m *Model) (*EmbedReport, error) {
		e := &embedding{o: o, m: m}
		if err := e.inputs(ctx); err != nil {
			return nil, err
		}
		defer e.close()
		return e.run(ctx)
	})
}

type embedding struct {
	o EmbedOptions
	m *Model

	images source  // or nil
	tokens []int32 // [texts,context]
	texts  []string
	nTexts int
}

func (e *embedding) run(ctx context.Context) (*EmbedReport, error) {
	images := 0
	if e.images != nil {
		images = e.images.Len()
	}
	n := calls(cmp.Or(e.o.Batch, e.m.o.Batch), e.m.o.DType, images, e.nTexts)
	r, free, err := e.m.runner(ctx, e.m.file.Config, n)
	if err != nil {
		return nil, err
	}
	defer free()
	var out tensorList
	rep := &EmbedReport{
		Out: e.o.Out, Dim: r.Config().EmbedDim, Normalized: !e.o.Raw, DType: e.m.o.DType, Backend: e.m.backend(),
		Model: e.m.info(), Skipped: []Skipped{},
	}
	var enc encoder = r
	if e.o.Blocks {
		enc = blocks{r, &out}
	}
	f := feed{n.Images, n.Texts, cmp.Or(e.o.Workers, e.m.o.Workers), 0, e.o.MaxBad, e.o.Meter}
	var imf, txf *features
	if e.images != nil {
		if imf, rep.Skipped, err = embedImages(ctx, enc, e.images, f); err != nil {
			return nil, err
		}
		rep.Images = imf.n()
	}
	if e.nTexts > 0 {
		if txf, err = embedTokens(ctx, enc, e.tokens, e.nTexts, f); err != nil {
			return nil, err
		}
		txf.keys = e.texts
		rep.Texts = txf.n()
	}
	if err := e.collect(&out, imf, txf); err != nil {
		return nil, err
	}
	meta := map[string]string{"evatool.version": runlog.Version, "evatool.model_sha256": e.m.file.SHA256, "evatool.normalized": fmt.Sprint(!e.o.Raw)}
	for name, f := range map[string]*features{"evatool.images": imf, "evatool.texts": txf} {
		if f != nil && len(f.keys) > 0 {
			list, err := json.Marshal(f.keys)
			if err != nil {
				return nil, err
			}
			meta[name] = string(list)
		}
	}
	for _, t := range out {
		rep.Tensors = append(rep.Tensors, t.Name)
	}
	if strings.EqualFold(filepath.Ext(e.o.Out), ".npy") {
		return rep, tensorfile.WriteNPY(e.o.Out, out[0])
	}
	return rep, tensorfile.WriteFile(e.o.Out, out, meta)
}

// collect puts features and, with both towers, logits into out.
func (e *embedding) collect(out *tensorList, imf, txf *features) error {
	var units [2]*features
	for i, f := range []*features{imf, txf} {
		if f == nil {
			continue
		}
		u, err := f.unit()
		if err != nil {
			return err
		}
		units[i] = u
		if !e.o.Raw {
			f = u
		}
		out.add([]string{"image_features", "text_features"}[i], f.rows, f.n(), f.dim)
	}
	if imf == nil || txf == nil {
		return nil
	}
	s, err := tensorfile.Float32s(e.m.file.Source, "logit_scale")
	if err != nil {
		return err
	}
	scale := math.Exp(float64(s[0]))
	bias := 0.0
	if e.m.file.Config.LogitBias != nil {
		b, err := tensorfile.Float32s(e.m.file.Source, "logit_bias")
		if err != nil {
			return err
		}
		bias = float64(b[0])
		out.add("logit_bias", b[:1])
	}
	a, b := units[0], units[1]
	logits := make([]float32, a.n()*b.n())
	for i := range a.n() {
		for j := range b.n() {
			logits[i*b.n()+j] = float32(scale*dot(a.row(i), b.row(j)) + bias)
		}
	}
	out.add("logits_per_image", logits, a.n(), b.n())
	out.add("logit_scale_exp", []float32{float32(scale)})
	return nil
}

var pictureExt = map[string]bool{".jpg": true, ".jpeg": true, ".png": true, ".webp": true, ".gif": true, ".bmp": true, ".tif": true, ".tiff": true, ".ppm": true, ".pgm": true}
