package convert

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"

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
	SHA256     string // of the file (of the first, for a sharded model)
	Config     *arch.Config
	Preprocess arch.Preprocess
	Source     tensorfile.Source // exactly Config.Params(), by their names
}

// Close closes the files.
func (m *Model) Close() error { return m.Source.Close() }

// OpenModel opens a model file or any checkpoint that Run reads, without
// converting it on disk. It reads no tensor bytes except to hash the file.
func OpenModel(ctx context.Context, path string, o ModelOptions) (*Model, error) {
	in, err := openInput([]string{path}, o.Key)
	if err != nil {
		return nil, err
	}
	m, err := in.model(path, o.Config)
	if err == nil {
		var sum SourceFile
		sum, err = hashFile(ctx, in.files[0])
		m.SHA256 = sum.SHA256
	}
	if err != nil {
		in.Close()
		return nil, about([]string{path}, err)
	}
	return m, nil
}

func (in *input) model(path, config string) (*Model, error) {
	p, err := newPlan(in.inventory(), planOptions{config: config, layout: "eva", dtype: "keep"})
	if err != nil {
		return &Model{}, err
	}
	if p.config == nil {
		switch {
		case p.lacks("visual."):
			return &Model{}, fault.Inputf("%s has no vision tower, only a text tower; evatool init builds a CLIP model from it and a vision tower", path)
		case p.lacks("text.") && (p.name == "" || p.name == custom):
			return &Model{}, fault.Inputf("%s has no text tower, only a vision tower; evatool init builds a CLIP model from it and a text tower", path)
		case p.lacks("text."):
			return &Model{}, fault.Inputf("%s has no text tower, only the vision tower %s; evatool init builds a CLIP model from it and a text tower", path, p.name)
		}
		return &Model{}, fault.Inputf("%s does not say its architecture, and it is not a published one; give --config NAME or FILE.json", path)
	}
	m := &Model{Path: path, Config: p.config, Preprocess: p.config.Preprocess(), Source: newMapped(in, p)}
	if p.name != custom {
		m.Name = p.name
	}
	return m, nil
}

// lacks says whether no tensor is of this tower.
func (p *plan) lacks(tower string) bool {
	return !slices.ContainsFunc(p.items, func(it *item) bool { return strings.HasPrefix(it.eva, tower) })
}

// mapped is a checkpoint seen through a plan.
type mapped struct {
	in      *input
	items   map[string]*item
	tensors []tensorfile.Info
	meta    map[string]string
}

func newMapped(in *input, p *plan) *mapped {
	m := &mapped{in: in, items: map[string]*item{}, meta: ModelMetadata(p.config)}
	for _, it := range p.items {
		m.items[it.out.Name] = it
		m.tensors = append(m.tensors, it.out)
	}
	return m
}

func (m *mapped) Tensors() []tensorfile.Info { return m.tensors }

func (m *mapped) Metadata() map[string]string { return m.meta }

func (m *mapped) Open(name string) (io.ReadCloser, error) {
	it := m.items[name]
	if it == nil {
		return nil, fault.Inputf("no tensor %s in the model", name)
	}
	return it.open(m.in, false)
}

// Extent is the source's when the tensor is one of its tensors as it stands.
func (m *mapped) Extent(name string) (*os.File, int64, bool) {
	it := m.items[name]
	if it == nil || !it.raw() || len(it.parts) != 1 || it.bytesIn() != it.parts[0].src.NumBytes() {
		return nil, 0, false
	}
	return m.in.Extent(it.parts[0].src.Name)
}

func (m *mapped) Close() error { return m.in.Close() }
