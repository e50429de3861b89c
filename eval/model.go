package eval

import (
	"context"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/weights"
)

// model is an opened checkpoint.
type model struct{ *checkpoint.Model }

func openModel(ctx context.Context, o Options) (*model, error) {
	m, err := checkpoint.OpenModel(ctx, o.Model, checkpoint.ModelOptions{ConfigName: o.Config, Key: o.Key})
	if err != nil {
		return nil, err
	}
	return &model{m}, nil
}

// rows are how many rows a call of each tower takes. Texts are short: a CPU is
// fastest with few images and many texts.
type rows struct{ images, texts int }

// textRows is the usual number of texts of a call.
const textRows = 64

// rowsFor fits the calls to the work: a call is padded to its full number.
func (o Options) rowsFor(images, texts int) rows {
	return rows{max(1, min(o.Batch, images)), max(1, min(max(o.Batch, textRows), texts))}
}

// towers is a loaded model as an Encoder.
type towers struct {
	image, text *clip.Runner
	blocks      *tensorList // gets every block's output, or nil
}

// encoder loads the weights, seen as architecture cfg, onto the device. free
// gives the device memory back.
func (m *model) encoder(ctx context.Context, dev *device.Device, cfg *arch.Config, dtype string, n rows) (t *towers, free func(), err error) {
	set, err := weights.Load(ctx, dev, cfg, m.Source, dtype)
	if err != nil {
		return nil, func() {}, err
	}
	t = &towers{}
	for _, r := range []struct {
		to *(*clip.Runner)
		n  int
	}{{&t.image, n.images}, {&t.text, n.texts}} {
		if *r.to, err = clip.NewRunner(dev, set, clip.RunnerOptions{DType: dtype, Batch: r.n}); err != nil {
			set.Free()
			return nil, func() {}, err
		}
	}
	return t, set.Free, nil
}

func (t *towers) Config() *arch.Config { return t.image.Config() }

func (t *towers) keep(blocks []clip.Block) {
	for _, b := range blocks {
		t.blocks.extend(b.Name, b.Data, b.Shape)
	}
}

func (t *towers) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	if t.blocks == nil {
		return t.image.Images(ctx, flat, n)
	}
	f, blocks, err := t.image.ImageBlocks(ctx, flat, n)
	t.keep(blocks)
	return f, err
}

func (t *towers) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	if t.blocks == nil {
		return t.text.Texts(ctx, tokens, n)
	}
	f, blocks, err := t.text.TextBlocks(ctx, tokens, n)
	t.keep(blocks)
	return f, err
}
