package convert

import (
	"context"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// ModelOptions says how OpenModel reads a checkpoint that does not describe
// itself.
type ModelOptions struct {
	Config string // architecture name or JSON file; empty: the file's own, or recognised
	Key    string // path of the state dict inside a wrapper
}

// Model is an opened checkpoint, seen in EVA's key layout whatever it holds.
type Model struct {
	Path       string
	Name       string // published name, or empty
	SHA256     string // of the file (of the index, for a sharded model)
	Config     *arch.Config
	Preprocess arch.Preprocess
	Source     tensorfile.Source // exactly Config.Params(), by their names
}

// Close closes the files.
func (m *Model) Close() error { return m.Source.Close() }

// OpenModel opens a model file or any checkpoint that Run reads. It reads no
// tensor bytes except to hash the file.
func OpenModel(ctx context.Context, path string, o ModelOptions) (*Model, error) {
	return nil, fault.Envf("%s: opening models: not built yet", path)
}
