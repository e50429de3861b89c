package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/tensorfile"
)

// EmbedOptions say what becomes features.
type EmbedOptions struct {
	// Model is what encodes; what follows is as in OpenOptions.
	Model, Config, Key   string
	Preprocess           string
	Backend              string
	DeviceCount, Threads int
	DType                string
	CompileCache         string
	// Opened is a model that is open already, instead of all these; it stays open.
	Opened *Model

	Images  []string // files and folders
	Texts   string   // file, one text a line; "-" is Stdin
	Tensors string   // .safetensors with images and/or tokens
	Out     string   // .safetensors or .npy

	Stdin  io.Reader // for Texts "-"
	Raw    bool      // features as the model gives them; they have length 1 otherwise
	Blocks bool      // every block's output too; .safetensors only

	Batch, Workers int // as in Options
	MaxBad         int // images that may fail to decode

	Log   *slog.Logger // nil: silent
	Meter Meters       // nil: none
}

func (o *EmbedOptions) opening() OpenOptions {
	return OpenOptions{o.Config, o.Key, o.Preprocess, o.Backend, o.DeviceCount, o.Threads, o.DType, o.Batch, o.Workers, o.CompileCache, o.Log}
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
	case ext != ".safetensors" && ext != ".npy":
		return fault.Usagef("embed: Options.Out %q: want a name that ends in .safetensors or .npy", o.Out)
	case ext == ".npy" && o.Blocks:
		return fault.Usagef("embed: Options.Blocks has many tensors; write to .safetensors")
	case ext == ".npy" && len(o.Images) > 0 && o.Texts != "":
		return fault.Usagef("embed: a .npy holds one array; write images and texts to .safetensors")
	}
	inputs := append(slices.Clone(o.Images), o.Texts, o.Tensors, o.Model, o.Config)
	if err := cmp.Or(atomicfile.Target(o.Out), atomicfile.Apart([]string{o.Out}, inputs)); err != nil {
		return err
	}
	return cmp.Or(checkCounts(o.Batch, o.Workers, 0, o.MaxBad), checkModel(o.Opened, o.Model, o.opening()))
}

func checkDType(d string) error {
	if d != "" && !slices.Contains([]string{"fp32", "bf16", "fp16"}, d) {
		return fault.Usagef("Options.DType %q: want fp32, bf16 or fp16", d)
	}
	return nil
}

// features is a matrix [n,dim] with a name per row.
type features struct {
	rows []float32
	dim  int
	keys []string
	// captions of each row, where the data has them.
	captions [][]string
}

func (f *features) n() int { return len(f.rows) / f.dim }

// unit is a copy with rows of length 1.
func (f *features) unit() (*features, error) {
	u := &features{rows: slices.Clone(f.rows), dim: f.dim, keys: f.keys}
	for i := range u.n() {
		if !normalize(u.rows[i*u.dim : (i+1)*u.dim]) {
			return nil, fault.Inputf("%s: the model gives no finite vector; check the weights", f.key(i))
		}
	}
	return u, nil
}

func (f *features) key(i int) string {
	if i < len(f.keys) {
		return f.keys[i]
	}
	return fmt.Sprintf("row %d", i)
}

// Embed writes the features of images, texts or tensors to a file.
func Embed(ctx context.Context, o EmbedOptions) (_ *EmbedReport, err error) {
	defer fault.Public(ctx, &err)
	if err := o.check(); err != nil {
		return nil, err
	}
	return withModel(ctx, o.Opened, o.Model, o.opening(), func(ctx context.Context, m *Model) (*EmbedReport, error) {
		e := &embedding{o: o, m: m}
		if err := e.inputs(); err != nil {
			return nil, err
		}
		defer e.close()
		return e.run(ctx)
	})
}

type embedding struct {
	o EmbedOptions
	m *Model

	images samples // or nil
	tokens []int32 // [texts,context]
	texts  []string
	nTexts int
}

func (e *embedding) close() {
	if e.images != nil {
		e.images.Close()
	}
}

// inputs opens everything that goes in.
func (e *embedding) inputs() (err error) {
	if e.o.Tensors != "" {
		return e.openTensors()
	}
	if len(e.o.Images) > 0 {
		if e.images, err = openFiles(e.o.Images, e.m.pixels()); err != nil {
			return err
		}
	}
	if e.o.Texts == "" {
		return nil
	}
	if err := textTower(e.m.file.Config, e.m.file.Path); err != nil {
		return err
	}
	if e.texts, err = readTexts(e.o.Texts, e.o.Stdin); err != nil {
		return err
	}
	width := e.m.file.Config.Text.ContextLength
	e.nTexts = len(e.texts)
	e.tokens = make([]int32, len(e.texts)*width)
	tok := bpe.New()
	for i, t := range e.texts {
		tok.Tokens(e.tokens[i*width:(i+1)*width], t, width)
	}
	return nil
}

// readTexts reads one text a line; an empty line is an empty text.
func readTexts(path string, stdin io.Reader) ([]string, error) {
	var b []byte
	var err error
	if path == "-" {
		b, err = io.ReadAll(stdin)
	} else {
		b, err = readFile(path, "texts, one a line")
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
		out = append(out, strings.TrimRight(line, "\r\n"))
	}
	if len(out) == 0 {
		return nil, fault.Inputf("%s: empty; want texts, one a line", path)
	}
	return out, nil
}

// openTensors reads the tokens and opens the images of --tensors.
func (e *embedding) openTensors() error {
	path := e.o.Tensors
	if err := fault.RegularFile(path, "a .safetensors with images and/or tokens"); err != nil {
		return err
	}
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, images := findTensor(f, "images")
	tokens, texts := findTensor(f, "tokens")
	if !images && !texts {
		return fault.Inputf("%s: has neither a tensor \"images\" nor \"tokens\"", path)
	}
	if texts {
		if err := e.readTokens(f, path, tokens); err != nil {
			return err
		}
	}
	if images {
		e.images, err = openTensorSamples(path, e.m.file.Preprocess.Size, false)
	}
	return err
}

func (e *embedding) readTokens(f *tensorfile.File, path string, t tensorfile.Info) error {
	text := e.m.file.Config.Text
	if len(t.Shape) != 2 || t.Shape[1] != int64(text.ContextLength) {
		return fault.Inputf("%s: tokens has shape %v; the model takes [n,%d]", path, t.Shape, text.ContextLength)
	}
	ids, err := tensorfile.Int64s(f, t.Name)
	if err != nil {
		return fault.As(fault.Input, fmt.Errorf("%s: %w", path, err))
	}
	e.nTexts = int(t.Shape[0])
	e.tokens = make([]int32, len(ids))
	for i, id := range ids {
		if id < 0 || id >= int64(text.VocabSize) {
			return fault.Inputf("%s: tokens[%d,%d] is %d; the vocabulary has 0 to %d", path, i/text.ContextLength, i%text.ContextLength, id, text.VocabSize-1)
		}
		e.tokens[i] = int32(id)
	}
	return nil
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
	a, b := units[0], units[1]
	logits := make([]float32, a.n()*b.n())
	for i := range a.n() {
		for j := range b.n() {
			logits[i*b.n()+j] = float32(scale * dot(a.rows[i*a.dim:(i+1)*a.dim], b.rows[j*b.dim:(j+1)*b.dim]))
		}
	}
	out.add("logits_per_image", logits, a.n(), b.n())
	out.add("logit_scale_exp", []float32{float32(scale)})
	return nil
}

// feed is how images and texts are brought to an encoder.
type feed struct {
	images, texts int // of a call
	workers       int
	limit         int // images; 0: all
	maxBad        int
	meter         Meters
}

func (f feed) start(label string, total int64, unit string) Meter {
	if f.meter == nil {
		return noMeter{}
	}
	return f.meter(label, total, unit)
}

// blocks is a runner that adds every block's output to a list.
type blocks struct {
	*clip.Runner
	to *tensorList
}

func (b blocks) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	return b.keep(b.ImageBlocks(ctx, flat, n))
}

func (b blocks) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	return b.keep(b.TextBlocks(ctx, tokens, n))
}

func (b blocks) keep(features []float32, list []clip.Block, err error) ([]float32, error) {
	for _, x := range list {
		b.to.extend(x.Name, x.Data, x.Shape)
	}
	return features, err
}

// embedImages encodes all images; those that do not decode have no row.
func embedImages(ctx context.Context, enc encoder, s samples, o feed) (*features, []Skipped, error) {
	f := &features{dim: enc.Config().EmbedDim}
	skipped := []Skipped{}
	n := s.Len()
	if o.limit > 0 {
		n = min(n, o.limit)
	}
	ids := make([]int, n)
	for i := range ids {
		ids[i] = i
	}
	meter := o.start("images", int64(len(ids)), "images")
	defer meter.Done()
	size := enc.Config().Vision.ImageSize
	pixels := 3 * size * size
	_, err := load(ctx, s, ids, o.images, pixels, o.workers, func(b *batchOf) error {
		rows, err := enc.Images(ctx, b.pixels[:len(b.ids)*pixels], len(b.ids))
		if err != nil {
			return err
		}
		for i := range b.ids {
			if b.bad[i] != nil {
				skipped = append(skipped, Skipped{b.ids[i], b.got[i].Key, fault.Line(b.bad[i])})
				continue
			}
			f.rows = append(f.rows, rows[i*f.dim:(i+1)*f.dim]...)
			f.keys = append(f.keys, b.got[i].Key)
			f.captions = append(f.captions, b.got[i].Captions)
		}
		meter.Add(int64(len(b.ids)))
		if len(skipped) > o.maxBad {
			return fault.Inputf("%d of the images do not decode, Options.MaxBad allows %d; the first is %s: %s", len(skipped), o.maxBad, skipped[0].Key, skipped[0].Reason)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if len(f.rows) == 0 {
		return nil, nil, fault.Inputf("no image decodes; the first is %s: %s", skipped[0].Key, skipped[0].Reason)
	}
	return f, skipped, nil
}

// embedTokens encodes n rows of tokens.
func embedTokens(ctx context.Context, enc encoder, tokens []int32, n int, o feed) (*features, error) {
	f := &features{dim: enc.Config().EmbedDim}
	width := enc.Config().Text.ContextLength
	meter := o.start("texts", int64(n), "texts")
	defer meter.Done()
	for lo := 0; lo < n; lo += o.texts {
		k := min(o.texts, n-lo)
		rows, err := enc.Texts(ctx, tokens[lo*width:(lo+k)*width], k)
		if err != nil {
			return nil, err
		}
		f.rows = append(f.rows, rows[:k*f.dim]...)
		meter.Add(int64(k))
	}
	return f, nil
}

// tensorList is what goes into the output file.
type tensorList []tensorfile.Tensor

func (l *tensorList) add(name string, flat []float32, shape ...int) {
	dims := make([]int64, len(shape))
	for i, d := range shape {
		dims[i] = int64(d)
	}
	*l = append(*l, tensorfile.Tensor{Info: tensorfile.Info{Name: name, DType: tensorfile.F32, Shape: dims}, Data: tensorfile.EncodeFloat32s(flat)})
}

// extend appends rows to the tensor of that name, or adds it.
func (l *tensorList) extend(name string, flat []float32, shape []int64) {
	for i := range *l {
		if t := &(*l)[i]; t.Name == name {
			t.Data = append(t.Data, tensorfile.EncodeFloat32s(flat)...)
			t.Shape[0] += shape[0]
			return
		}
	}
	*l = append(*l, tensorfile.Tensor{Info: tensorfile.Info{Name: name, DType: tensorfile.F32, Shape: slices.Clone(shape)}, Data: tensorfile.EncodeFloat32s(flat)})
}

// pictureFiles walks the paths for image files, in order of name.
func pictureFiles(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, fault.File(p, "an image or a folder of images", err)
		}
		if !st.IsDir() {
			out = append(out, p)
			continue
		}
		err = filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return fault.File(path, "a folder that can be read", err)
			}
			if !d.IsDir() && pictureExt[strings.ToLower(filepath.Ext(path))] {
				out = append(out, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, fault.Inputf("%s: no images; want .jpg .png .webp .gif .bmp .tif or .ppm files", strings.Join(paths, " "))
	}
	return out, nil
}

var pictureExt = map[string]bool{".jpg": true, ".jpeg": true, ".png": true, ".webp": true, ".gif": true, ".bmp": true, ".tif": true, ".tiff": true, ".ppm": true, ".pgm": true}
