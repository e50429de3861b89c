package checkpoint

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// ModelOptions tell OpenModel how to read a checkpoint that does not describe
// itself.
type ModelOptions struct {
	Config     *arch.Config // the architecture; nil: that of ConfigName
	ConfigName string       // architecture name or JSON file; empty: as the file states, or recognised
	Key        string       // path of the state dict inside a wrapper
	Preprocess string       // preprocessing, as words or a JSON file; empty: as known of the weights
}

// Model is an opened checkpoint in EVA's key layout, whatever layout the file has.
type Model struct {
	Path       string
	Name       string // published name, or empty
	SHA256     string // of the file (of the first, for a sharded model)
	Config     *arch.Config
	Preprocess arch.Preprocess
	Source     tensorfile.Source // exactly the tensors of Config.Params()
	Warnings   []string
	file       string // the first file of the weights
	Assumed    string // says that the preprocessing is unknown and what was assumed, or empty
}

// Close closes the files.
func (m *Model) Close() error { return m.Source.Close() }

// OpenModel opens any checkpoint that Open takes, without converting it on disk.
// It reads no tensor bytes except to hash the file.
func OpenModel(ctx context.Context, path string, o ModelOptions) (*Model, error) {
	in, err := Open([]string{path}, o.Key)
	if err != nil {
		return nil, err
	}
	m, err := in.model(path, o)
	if err == nil || in.HashTells(nil, err) {
		sum, herr := in.Hash(ctx)
		switch {
		case herr != nil:
			err = herr
		case err != nil || in.named():
			m, err = in.model(path, o)
		}
		if err == nil {
			m.SHA256 = sum
		}
	}
	if err != nil {
		in.Close()
		return nil, About([]string{path}, err)
	}
	return m, nil
}

// About prefixes an error about a file's content with the file's name, unless the
// error has it.
func About(files []string, err error) error {
	if len(files) == 0 || fault.Code(err) != int(fault.Input) {
		return err
	}
	for _, f := range files {
		if strings.Contains(err.Error(), filepath.Base(f)) {
			return err
		}
	}
	return fmt.Errorf("%s: %w", files[0], err)
}

func (in *Input) model(path string, o ModelOptions) (*Model, error) {
	p, err := in.Plan(PlanOptions{Config: o.Config, ConfigName: o.ConfigName, Preprocess: o.Preprocess, Layout: "eva", DType: "keep"})
	if err != nil {
		return nil, err
	}
	if p.Config == nil {
		switch {
		case p.lacks("visual."):
			return nil, fault.Inputf("%s has no vision tower, only a text tower; evatool init builds a CLIP model from it and a vision tower", path)
		case p.lacks("text.") && (p.Name == "" || p.Name == Custom):
			return nil, fault.Inputf("%s has no text tower, only a vision tower; evatool init builds a CLIP model from it and a text tower", path)
		case p.lacks("text."):
			return nil, fault.Inputf("%s has no text tower, only the vision tower %s; evatool init builds a CLIP model from it and a text tower", path, p.Name)
		}
		return nil, fault.Inputf("%s does not state its architecture, which is not a published one; give Options.Config NAME or FILE.json", path)
	}
	m := &Model{Path: path, file: in.Files[0], Config: p.Config, Preprocess: p.Config.Preprocess(), Warnings: p.Warnings, Assumed: p.Assumed,
		Source: newItemSource(p.Items, p.Config, in.Close)}
	if p.Name != Custom {
		m.Name = p.Name
	}
	return m, nil
}

// lacks reports whether the plan has no tensor of this tower.
func (p *Plan) lacks(tower string) bool {
	return !slices.ContainsFunc(p.Items, func(it *Item) bool { return strings.HasPrefix(it.EVA, tower) })
}

// itemSource shows items as a tensorfile.Source.
type itemSource struct {
	items    map[string]*Item
	tensors  []tensorfile.Info
	metadata map[string]string
	close    func() error
}

func newItemSource(items []*Item, c *arch.Config, close func() error) *itemSource {
	s := &itemSource{items: map[string]*Item{}, metadata: ModelMetadata(c), close: close}
	for _, it := range items {
		s.items[it.Out.Name] = it
		s.tensors = append(s.tensors, it.Out)
	}
	return s
}

func (s *itemSource) Tensors() []tensorfile.Info { return s.tensors }

func (s *itemSource) Metadata() map[string]string { return s.metadata }

func (s *itemSource) Open(name string) (io.ReadCloser, error) {
	it := s.items[name]
	if it == nil {
		return nil, fault.Inputf("no tensor %s in the model", name)
	}
	return it.Open(false)
}

func (s *itemSource) Extent(name string) (*os.File, int64, bool) {
	it := s.items[name]
	if it == nil {
		return nil, 0, false
	}
	return it.Extent()
}

func (s *itemSource) Close() error { return s.close() }
