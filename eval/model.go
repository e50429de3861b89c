package eval

import (
	"context"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/weights"
)

// model is an opened checkpoint.
type model struct{ *convert.Model }

func openModel(ctx context.Context, o Options) (*model, error) {
	m, err := convert.OpenModel(ctx, o.Model, convert.ModelOptions{Config: o.Config, Key: o.Key})
	if err != nil {
		return nil, err
	}
	return &model{m}, nil
}

// encoder is runner as the interface.
func (m *model) encoder(ctx context.Context, dev *device.Device, cfg *arch.Config, dtype string, batch int) (Encoder, func(), error) {
	return m.runner(ctx, dev, cfg, dtype, batch)
}

// runner loads the weights, seen as architecture cfg, onto the device. free
// gives the device memory back.
func (m *model) runner(ctx context.Context, dev *device.Device, cfg *arch.Config, dtype string, batch int) (r *clip.Runner, free func(), err error) {
	set, err := weights.Load(ctx, dev, cfg, m.Source, dtype)
	if err != nil {
		return nil, func() {}, err
	}
	r, err = clip.NewRunner(dev, set, clip.RunnerOptions{DType: dtype, Batch: batch})
	if err != nil {
		set.Free()
		return nil, func() {}, err
	}
	return r, set.Free, nil
}

// capturing is a Runner that keeps every block's output.
type capturing struct {
	*clip.Runner
	out *tensorList
}

// capture makes enc append every block's output to out, when blocks are asked for.
func capture(enc *clip.Runner, out *tensorList, blocks bool) Encoder {
	if !blocks {
		return enc
	}
	return capturing{enc, out}
}

func (c capturing) keep(blocks []clip.Block) {
	for _, b := range blocks {
		c.out.extend(b.Name, b.Data, b.Shape)
	}
}

func (c capturing) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	f, blocks, err := c.ImageBlocks(ctx, flat, n)
	c.keep(blocks)
	return f, err
}

func (c capturing) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	f, blocks, err := c.TextBlocks(ctx, tokens, n)
	c.keep(blocks)
	return f, err
}
