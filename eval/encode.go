package eval

import (
	"context"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Open opens a model: a file that convert or train wrote, any checkpoint that
// convert reads, or a name (EVA02-CLIP-B-16, ViT-B-32/laion2b_s34b_b79k,
// openai:ViT-B-32, hf:OWNER/NAME[@REVISION][/FILE]) whose weights are fetched
// once, verified, and kept in the Hugging Face cache. The weights are on the
// device when it returns; a tower is compiled when it is first used, once for
// each size of call.
func Open(ctx context.Context, model string, o OpenOptions) (_ *Model, err error) {
	defer fault.Public(ctx, &err)
	if err := o.check(); err != nil {
		return nil, err
	}
	m, err := open(ctx, model, o)
	if err != nil {
		return nil, err
	}
	if err := m.ready(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// ready prepares what EncodeImages, EncodeTexts and Probabilities need.
func (m *Model) ready(ctx context.Context) (err error) {
	cfg := m.file.Config
	m.transform = newTransform(m.pixels())
	scale, err := tensorfile.Float32s(m.file.Source, "logit_scale")
	if err != nil {
		return err
	}
	m.scale = math.Exp(float64(scale[0]))
	r, _, err := m.runner(ctx, cfg, clip.RunnerOptions{DType: m.o.DType, Images: m.o.Batch, Texts: max(m.o.Batch, textBatch), Fit: true})
	if err != nil {
		return err
	}
	workers := make(chan struct{}, m.o.Workers)
	m.images = newBatcher("image", 3*cfg.Vision.ImageSize*cfg.Vision.ImageSize, m.o.Batch, workers, &m.users,
		func(flat []float32, n int) ([]float32, error) { return r.Images(m.closing, flat, n) })
	m.texts = newBatcher("text", cfg.Text.ContextLength, max(m.o.Batch, textBatch), workers, &m.users,
		func(flat []int32, n int) ([]float32, error) { return r.Texts(m.closing, flat, n) })
	if m.file.Config.LogitBias != nil {
		bias, err := tensorfile.Float32s(m.file.Source, "logit_bias")
		if err != nil {
			return err
		}
		b := float64(bias[0])
		m.bias = &b
	}
	return nil
}

// EncodeImages returns a feature of length 1 [embed_dim] for each picture, given
// as the bytes of its file (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM). Pictures are
// decoded and resized as Embed does it. If one does not decode, the error names
// its index, from 0, and no features are returned.
//
// Concurrent calls are computed together, and the last bits of a feature depend
// on how many pictures are computed at once. When ctx ends EncodeImages returns
// at once; the pictures may be read for a moment longer.
func (m *Model) EncodeImages(ctx context.Context, pictures ...[]byte) (features [][]float32, err error) {
	return encode(ctx, m, m.images, len(pictures), func(i int, row []float32) error {
		return m.transform.pixels(row, pictures[i])
	})
}

// EncodeTexts returns a feature of length 1 [embed_dim] for each text. Texts are
// cleaned and tokenised as OpenCLIP does it; what exceeds the model's context is
// cut off, and one that is not UTF-8 is an error. In all else it is like EncodeImages.
func (m *Model) EncodeTexts(ctx context.Context, texts ...string) (features [][]float32, err error) {
	tok, err := m.enteredTokens(ctx)
	if err != nil {
		return nil, err
	}
	return encode(ctx, m, m.texts, len(texts), func(i int, row []int32) error {
		if !utf8.ValidString(texts[i]) {
			return fault.Inputf("%.80q is not UTF-8; convert it first", texts[i])
		}
		tok.Tokens(row, texts[i], len(row))
		return nil
	})
}

// enteredTokens is textTokens for a caller from outside: Close ends and awaits it.
func (m *Model) enteredTokens(ctx context.Context) (_ checkpoint.Tokenizer, err error) {
	defer fault.Public(ctx, &err)
	inside, leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	tok, err := m.textTokens(inside)
	return tok, m.orClosed(err)
}

func encode[T float32 | int32](ctx context.Context, m *Model, b *batcher[T], n int, prepare func(i int, row []T) error) (features [][]float32, err error) {
	defer fault.Public(ctx, &err)
	inside, leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if n == 0 {
		return [][]float32{}, ctx.Err()
	}
	features, err = b.encode(inside, n, prepare)
	return features, m.orClosed(err)
}

// Probabilities compares images with texts: for each image the softmax over
// the texts of the model's scale times the cosine, as in CLIP's README; for a
// model with a logit bias, such as SigLIP, the sigmoid of that plus the bias, for
// each pair separately. The result is [images][texts]. Features need not have
// length 1. It panics if they differ in their numbers of values.
func (m *Model) Probabilities(images, texts [][]float32) [][]float32 {
	out := make([][]float32, len(images))
	logits := make([]float64, len(texts))
	for i, im := range images {
		top := math.Inf(-1)
		for j, tx := range texts {
			if len(im) != len(tx) {
				panic(fmt.Sprintf("eval: Probabilities: image %d has %d values, text %d has %d", i, len(im), j, len(tx)))
			}
			logits[j] = m.scale * dot(im, tx) / math.Sqrt(dot(im, im)*dot(tx, tx))
			top = max(top, logits[j])
		}
		if m.bias != nil {
			out[i] = make([]float32, len(texts))
			for j, l := range logits {
				out[i][j] = float32(1 / (1 + math.Exp(-l-*m.bias)))
			}
			continue
		}
		sum := 0.0
		for j := range logits {
			logits[j] = math.Exp(logits[j] - top)
			sum += logits[j]
		}
		out[i] = make([]float32, len(texts))
		for j, e := range logits {
			out[i][j] = float32(e / sum)
		}
	}
	return out
}

// Info says what a model is and where it runs.
type Info struct {
	Model        string `json:"model"`        // as it was given to Open
	Architecture string `json:"architecture"` // the published name, such as EVA02-CLIP-B-16; "" when it has none
	SHA256       string `json:"sha256"`       // of the file; of the first, when there are several

	ImageSize     int        `json:"image_size"` // pixels, square
	ContextLength int        `json:"context_length"`
	EmbedDim      int        `json:"embed_dim"` // values of a feature
	LogitScale    float64    `json:"logit_scale"`
	Preprocess    Preprocess `json:"preprocess"`
	// Mode is when a picture becomes RGB: rgb-first, before it is resized.
	Mode string `json:"mode"`

	Backend string `json:"backend"` // go, xla-cpu or xla-cuda
	Devices int    `json:"devices"`
	DType   string `json:"dtype"`
	Batch   int    `json:"batch"` // images of a call
}

// Info says what the model is and where it runs.
func (m *Model) Info() Info {
	c, d := m.file.Config, m.dev.Info()
	return Info{
		Model: m.file.Path, Architecture: m.file.Name, SHA256: m.file.SHA256,
		ImageSize: c.Vision.ImageSize, ContextLength: c.Text.ContextLength, EmbedDim: c.EmbedDim, LogitScale: m.scale,
		Preprocess: Preprocess(m.file.Preprocess), Mode: "rgb-first",
		Backend: d.Kind, Devices: d.Devices, DType: m.o.DType, Batch: m.o.Batch,
	}
}
