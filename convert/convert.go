// Package convert turns CLIP checkpoints as their authors published them into
// safetensors: it reads the container without executing anything, recognises
// the key family and the architecture, plans every output tensor before it
// reads a byte, streams in constant memory, and proves the result by reading
// it back. It also builds a starting model from two towers (Init), opens any
// checkpoint as a model in EVA's key layout (OpenModel), and looks into and
// compares files (Inspect, Diff).
package convert

import (
	"context"
	"log/slog"

	"github.com/evatool/evatool/internal/fault"
)

// Options says what Run does. The zero value of every field but Sources and
// Output is the default.
type Options struct {
	Sources []string // files or one folder; several files are shards of one model
	Output  string   // the safetensors file to write
	Config  string   // architecture name or JSON file; empty: recognised
	Layout  string   // eva (default), openclip, hf, source
	Key     string   // path of the state dict inside a wrapper, such as a/b

	DType    string // keep (default), fp32, fp16, bf16
	Saturate bool   // clamp what overflows fp16 instead of refusing it

	ImageSize int    // new input size in pixels; 0: unchanged
	Resize    string // eva (default), clip-rei, openclip

	ShardSize int64    // split the output into files of at most this many bytes of tensors; 0: one file
	Include   []string // globs over tensor names; empty: all
	Exclude   []string // globs over tensor names
	DryRun    bool     // plan only
	Force     bool     // overwrite

	Progress func(done, total int64) // bytes written so far; may be nil
	Log      *slog.Logger            // may be nil
}

// Run converts a checkpoint and returns what it did. The output is complete
// and proven, or absent.
func Run(ctx context.Context, o Options) (*Report, error) {
	return nil, fault.Envf("convert: not built yet")
}
