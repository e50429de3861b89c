package checkpoint

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// StartOptions say what a starting model is made from.
type StartOptions struct {
	Config     *arch.Config // the architecture; nil: that of ConfigName
	ConfigName string       // published name or JSON file
	Vision     string       // checkpoint for the vision tower; empty: not loaded
	Text       string       // checkpoint for the text tower; empty: not loaded
	Base       string       // model for the tensors of neither tower file; empty: they are drawn from Seed
	Skip       []string     // globs of tensors that are not loaded; nil: DefaultSkip
	Resize     string       // eva (default), clip-rei, openclip
	Seed       uint64
}

// DefaultSkip is the skip list of the recipe. Globs match names as they are in the
// vision file (so head.* is the head of a bare tower, not the projection
// visual.head of a CLIP checkpoint), names within the text tower, and those of the
// eva layout.
var DefaultSkip = []string{"head.*", "lm_head.*", "mask_token", "text_projection", "logit_scale"}

// Start is a starting model: a vision tower and a text tower, with the tensors of
// neither from a base or drawn at random.
type Start struct {
	Name     string // of the architecture: published, or Custom
	Items    []*Item
	Loaded   []string // names from the towers, resized ones included
	Resized  []Resized
	Skipped  []Dropped // in the files, but not loaded
	FromBase []string
	Random   []string
	Files    []string // that were read
	Warnings []string

	// Source is the model: exactly the architecture's tensors, F32.
	Source tensorfile.Source

	config *arch.Config
	items  map[string]*Item // by EVA name
	open   []*Input
}

// Check validates the options before any file is opened.
func (o *StartOptions) Check() error {
	switch {
	case o.Config == nil && o.ConfigName == "":
		return fault.Usagef("init needs Options.Config, a name that evatool models lists or a JSON file")
	case o.Vision == "" && o.Text == "":
		return fault.Usagef("init needs Options.Vision or Options.Text, the checkpoints to start from")
	}
	if o.Resize != "" {
		if _, ok := methods[o.Resize]; !ok {
			return fault.Usagef("Options.Resize %s: want eva, clip-rei or openclip", o.Resize)
		}
	}
	for _, g := range o.Skip {
		if _, err := path.Match(g, ""); err != nil {
			return fault.Usagef("Options.Skip %q: %w", g, err)
		}
	}
	return nil
}

// OpenStart opens the towers and plans where every tensor comes from. It reads
// no tensor bytes.
func OpenStart(o StartOptions) (*Start, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	s := &Start{items: map[string]*Item{}}
	if err := s.plan(o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Start) plan(o StartOptions) (err error) {
	if s.config, s.Name, _, err = chosenConfig(o.Config, o.ConfigName); err != nil {
		return err
	}
	if o.Skip == nil {
		o.Skip = DefaultSkip
	}
	if o.Resize == "" {
		o.Resize = "eva"
	}
	for _, t := range []struct{ file, prefix, flag string }{{o.Vision, "visual.", "Options.Vision"}, {o.Text, "text.", "Options.Text"}} {
		if t.file == "" {
			continue
		}
		if err := s.load(t.file, t.prefix, t.flag, o); err != nil {
			return About([]string{t.file}, err)
		}
	}
	if err := s.fill(o); err != nil {
		return err
	}
	for _, p := range s.config.Params() {
		s.Items = append(s.Items, s.items[p.Name])
	}
	s.Source = newItemSource(s.Items, s.config, s.Close)
	return nil
}

// Close closes the files.
func (s *Start) Close() error {
	var errs []error
	for _, in := range s.open {
		errs = append(errs, in.Close())
	}
	return errors.Join(errs...)
}

// Metadata describes the model as a file. sums are the SHA-256 of Files.
func (s *Start) Metadata(sums []string) map[string]string {
	m := ModelMetadata(s.config)
	m[metaSource] = string(mustJSON(sourceNotes(s.Files, sums)))
	return m
}

func (s *Start) openFile(file string) (*Input, error) {
	in, err := Open([]string{file}, "")
	if err != nil {
		return nil, err
	}
	s.open, s.Files = append(s.open, in), append(s.Files, in.Files...)
	return in, nil
}

// load takes the tensors of one tower from a checkpoint.
func (s *Start) load(file, tower, flag string, o StartOptions) error {
	in, err := s.openFile(file)
	if err != nil {
		return err
	}
	if in.missing != "" {
		return fault.Inputf("%s; give the index.json beside the shards, or the folder", in.missing)
	}
	m, err := mapToEVA(in.inventory())
	if err != nil {
		return err
	}
	shapes := map[string][]int64{}
	for _, p := range s.config.Params() {
		shapes[p.Name] = p.Shape
	}
	s.Skipped = append(s.Skipped, m.dropped...)
	acts := map[bool]string{true: "quick_gelu", false: "gelu"}
	act := in.act
	if c := in.inventory().stated(); c != nil {
		assumed := in.Metadata()[metaActivation] == "assumed"
		if !assumed && (tower == "text." || c.HidesQuickGELU()) { // EVA's vision tower has neither
			act = acts[c.QuickGELU]
		}
		which := map[string]arch.Tower{"visual.": arch.VisualTower, "text.": arch.TextTower}[tower]
		if d := s.config.Contradiction(c, which); d != "" {
			s.warn("%s: was trained as another architecture than %s: its %s", file, s.Name, d)
		}
	}
	if quick := act == "quick_gelu"; act != "" && quick != s.config.QuickGELU {
		s.warn("%s: was trained with %s, but the architecture %s has %s", file, act, s.Name, acts[s.config.QuickGELU])
	}
	var items []*Item
	there := map[string]bool{}
	for _, it := range m.items {
		there[it.EVA] = true
		inTower, ok := strings.CutPrefix(it.EVA, tower)
		src, shape, want := it.parts[0].src.Name, it.Out.Shape, shapes[it.EVA]
		switch {
		case !ok:
			if it.EVA == "logit_scale" && tower == "text." {
				s.skipped(src, "belongs to no tower")
			}
			continue
		case matchAny(o.Skip, m.bare(src)), matchAny(o.Skip, it.EVA), tower == "text." && matchAny(o.Skip, inTower):
			s.skipped(src, "skipped as asked")
			continue
		case want == nil:
			s.skipped(src, "the architecture has no such tensor")
			s.warn("%s: %s: the architecture %s has no such tensor; it is left out", file, src, s.Name)
			continue
		}
		if !SameShape(shape, want) {
			if it.resize, err = planResize(it, want, methods[o.Resize]); err != nil {
				return fault.Inputf("%s has shape %v, but %s of the architecture %s has %v; give the Options.Config that fits the file, or leave the tensor at its initial value with Options.Skip %s", src, shape, it.EVA, s.Name, want, src)
			}
			s.Resized = append(s.Resized, Resized{it.EVA, shape, want, o.Resize})
		}
		it.from, it.Out.Shape, it.Out.DType = in, want, tensorfile.F32
		items = append(items, it)
		s.items[it.EVA] = it
		s.Loaded = append(s.Loaded, it.EVA)
	}
	for _, name := range m.unknown {
		s.skipped(name, "not a name of "+m.family.name)
		s.warn("%s: %s is not a name of %s; it is left out", file, name, m.family.name)
	}
	if len(items) == 0 {
		return fault.Inputf("%s takes none of its tensors: their names are those of %s, but none is in the %s tower of the architecture %s; give a checkpoint of that tower", flag, m.family.name, strings.TrimSuffix(tower, "."), s.Name)
	}
	s.lacks(file, tower, there, o)
	return onlyKernel(items)
}

// lacks warns of tensors of the tower that are not in its file and were not to be skipped.
func (s *Start) lacks(file, tower string, there map[string]bool, o StartOptions) {
	var names []string
	for _, p := range s.config.Params() {
		if inTower, ok := strings.CutPrefix(p.Name, tower); ok && !there[p.Name] && !matchAny(o.Skip, inTower) && !matchAny(o.Skip, p.Name) {
			names = append(names, p.Name)
		}
	}
	if len(names) > 0 {
		stay := "keep their initial values"
		if o.Base != "" {
			stay = "are the base's"
		}
		s.warn("%s: has no %s, which the architecture %s has; they %s", file, list(names), s.Name, stay)
	}
}

func (s *Start) skipped(name, reason string) {
	s.Skipped = append(s.Skipped, Dropped{name, reason})
}

func (s *Start) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

// originalHeadScale is the factor of the original for a fresh vision head.
const originalHeadScale = 0.001

// fill takes the tensors that the towers lack from the base, or draws them.
func (s *Start) fill(o StartOptions) error {
	var rest tensorfile.Source
	if o.Base == "" {
		r := newRandomSource(s.config, o.Seed)
		r.scale["visual.head.weight"] = originalHeadScale
		rest = r
	} else {
		in, err := s.openFile(o.Base)
		if err != nil {
			return err
		}
		m, err := in.model(o.Base, ModelOptions{Config: s.config})
		if err != nil {
			return About([]string{o.Base}, err)
		}
		rest = m.Source
	}
	infos := map[string]tensorfile.Info{}
	for _, t := range rest.Tensors() {
		infos[t.Name] = t
	}
	for _, p := range s.config.Params() {
		if s.items[p.Name] != nil {
			continue
		}
		it := asNamed(infos[p.Name])
		it.from, it.Out.DType, it.Out.Shape = rest, tensorfile.F32, p.Shape
		s.items[p.Name] = it
		if o.Base == "" {
			s.Random = append(s.Random, p.Name)
		} else {
			s.FromBase = append(s.FromBase, p.Name)
		}
	}
	return nil
}
