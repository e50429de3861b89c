package clip

import (
	"context"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/weights"
)

// RunnerOptions configure a Runner.
type RunnerOptions struct {
	DType string // fp32 (default), bf16 or fp16: the compute dtype
	Batch int    // rows of a call at most; every call is padded to it
}

// Runner computes features with loaded weights.
type Runner struct{ cfg *arch.Config }

// NewRunner prepares the two towers; nothing is compiled before its first use.
func NewRunner(dev *device.Device, set *weights.Set, o RunnerOptions) (*Runner, error) {
	return &Runner{cfg: set.Config}, nil
}

// Config is the model's architecture.
func (r *Runner) Config() *arch.Config { return r.cfg }

// Batch is the number of rows of a call.
func (r *Runner) Batch() int { return 0 }

// Images gives the features [n,embed] of n images, flat [n,3,H,W],
// normalised pixels; features are not L2-normalised.
func (r *Runner) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	return nil, fault.Envf("not built yet")
}

// Texts gives the features [n,embed] of n texts, flat tokens [n,context].
func (r *Runner) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	return nil, fault.Envf("not built yet")
}
