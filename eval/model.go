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

// encoder loads the weights, seen as architecture cfg, onto the device.
func (m *model) encoder(ctx context.Context, dev *device.Device, cfg *arch.Config, dtype string, batch int) (Encoder, error) {
	set, err := weights.Load(ctx, dev, cfg, m.Source, dtype)
	if err != nil {
		return nil, err
	}
	return clip.NewRunner(dev, set, clip.RunnerOptions{DType: dtype, Batch: batch})
}
