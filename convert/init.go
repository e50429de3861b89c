package convert

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// InitOptions says from what Init builds a starting model.
type InitOptions struct {
	Config string   // architecture name or JSON file
	Vision string   // checkpoint for the vision tower; empty: not loaded
	Text   string   // checkpoint for the text tower; empty: not loaded
	Base   string   // what neither gives comes from this model; empty: drawn from Seed
	Skip   []string // globs of tensors that are not loaded; nil: DefaultSkip
	Resize string   // eva (default), clip-rei, openclip
	Seed   uint64
	Output string
	Force  bool
	Log    *slog.Logger // may be nil
}

// DefaultSkip is the recipe's skip list. Names are matched as they stand in
// the vision file (so head.* is the head of a bare tower, not the projection
// visual.head of a CLIP checkpoint) and by their name in the text tower.
var DefaultSkip = []string{"head.*", "lm_head.*", "mask_token", "text_projection", "logit_scale"}

// InitReport says where every tensor of the starting model comes from.
type InitReport struct {
	Output   string       `json:"output"`
	Config   string       `json:"config"`
	Loaded   []string     `json:"loaded"` // from the towers, resized ones included
	Resized  []Resized    `json:"resized"`
	Skipped  []Dropped    `json:"skipped"` // in the files, but not loaded
	FromBase []string     `json:"from_base"`
	Random   []string     `json:"random"`
	Source   []SourceFile `json:"source"`
	Tensors  []Tensor     `json:"tensors"`
	Warnings []string     `json:"warnings"`
	Seconds  float64      `json:"seconds"`
	Verified bool         `json:"verified"` // read back and compared with the sources
}

// Init builds the recipe's starting CLIP: an EVA vision tower and a CLIP text
// tower; what neither gives comes from Base or from Seed. All tensors of the
// output are F32.
func Init(ctx context.Context, o InitOptions) (*InitReport, error) {
	start := time.Now()
	s, err := newStarter(o)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for _, t := range []struct {
		path   string
		prefix string
		flag   string
	}{{o.Vision, "visual.", "--vision"}, {o.Text, "text.", "--text"}} {
		if t.path == "" {
			continue
		}
		if err := s.load(t.path, t.prefix, t.flag); err != nil {
			return nil, about([]string{t.path}, err)
		}
	}
	if err := s.fill(o); err != nil {
		return nil, err
	}
	if err := s.write(ctx, o); err != nil {
		return nil, err
	}
	for _, w := range s.report.Warnings {
		if o.Log != nil {
			o.Log.Warn(w)
		}
	}
	s.report.finish(start)
	return s.report, writeAtomic(reportName(o.Output), append(mustIndent(s.report), '\n'))
}

// starter is a starting model in the making.
type starter struct {
	config *arch.Config
	skip   []string
	method method
	items  map[string]*item // by EVA name
	open   []tensorfile.Source
	files  []string
	report *InitReport
}

func newStarter(o InitOptions) (*starter, error) {
	switch {
	case o.Config == "":
		return nil, fault.Usagef("init needs --config, a name of evatool models or a JSON file")
	case o.Vision == "" && o.Text == "":
		return nil, fault.Usagef("init needs --vision or --text, the checkpoints to start from")
	}
	if err := checkTarget(o.Output, o.Force, []string{o.Vision, o.Text, o.Base}); err != nil {
		return nil, err
	}
	c, name, err := loadConfig(o.Config)
	if err != nil {
		return nil, err
	}
	if o.Resize == "" {
		o.Resize = "eva"
	}
	m, ok := methods[o.Resize]
	if !ok {
		return nil, fault.Usagef("--resize %s: want eva, clip-rei or openclip", o.Resize)
	}
	if o.Skip == nil {
		o.Skip = DefaultSkip
	}
	for _, g := range o.Skip {
		if _, err := path.Match(g, ""); err != nil {
			return nil, fault.Usagef("--skip %q: %w", g, err)
		}
	}
	return &starter{config: c, skip: o.Skip, method: m, items: map[string]*item{}, report: &InitReport{Output: o.Output, Config: name}}, nil
}

func (s *starter) close() {
	for _, src := range s.open {
		src.Close()
	}
}

// load takes the tensors of one tower from a checkpoint.
func (s *starter) load(file, prefix, flag string) error {
	in, err := openInput([]string{file}, "")
	if err != nil {
		return err
	}
	s.open = append(s.open, in)
	s.files = append(s.files, in.files...)
	v, err := see(in.inventory())
	if err != nil {
		return err
	}
	shapes := map[string][]int64{}
	for _, p := range s.config.Params() {
		shapes[p.Name] = p.Shape
	}
	for _, d := range v.dropped {
		s.skipped(d.Name, d.Reason)
	}
	var items []*item
	for _, e := range v.exprs {
		inTower, ok := strings.CutPrefix(e.eva, prefix)
		src := e.parts[0].Name
		switch {
		case !ok:
			if e.eva == "logit_scale" && flag == "--text" {
				s.skipped(src, "belongs to no tower")
			}
			continue
		case matchAny(s.skip, strings.TrimPrefix(src, v.prefix)), prefix == "text." && matchAny(s.skip, inTower):
			s.skipped(src, "--skip")
			continue
		case shapes[e.eva] == nil:
			s.skipped(src, "the architecture has no such tensor")
			s.warn("%s: %s: the architecture %s has no such tensor; it is left out", file, src, s.report.Config)
			continue
		}
		it := e.item()
		it.in = in
		if want := shapes[e.eva]; !sameShape(e.shape, want) {
			r, err := planResize(it, want, s.method)
			if err != nil {
				return fault.Inputf("%s has shape %v, but %s of the architecture %s has %v; choose the --config of the file, or leave it at its start value with --skip %s", src, e.shape, e.eva, s.report.Config, want, src)
			}
			it.resize = r
			s.report.Resized = append(s.report.Resized, Resized{e.eva, e.shape, want, s.method.name})
		}
		it.out.Shape, it.out.DType = shapes[e.eva], tensorfile.F32
		items = append(items, it)
		s.items[e.eva] = it
		s.report.Loaded = append(s.report.Loaded, e.eva)
	}
	for _, name := range v.unknown {
		s.skipped(name, "no name of "+v.family.name)
		s.warn("%s: %s is no name of %s; it is left out", file, name, v.family.name)
	}
	if len(items) == 0 {
		return fault.Inputf("no tensor of it is loaded for %s: it has the names of %s, but none for the %stower of the architecture %s", flag, v.family.name, strings.TrimSuffix(prefix, ".")+" ", s.report.Config)
	}
	return onlyKernel(items)
}

func (s *starter) skipped(name, reason string) {
	s.report.Skipped = append(s.report.Skipped, Dropped{name, reason})
}

func (s *starter) warn(format string, args ...any) {
	s.report.Warnings = append(s.report.Warnings, fmt.Sprintf(format, args...))
}

// originalHeadScale is what the original multiplies a fresh vision head with.
const originalHeadScale = 0.001

// fill takes what the towers have not given from the base, or draws it.
func (s *starter) fill(o InitOptions) error {
	var rest tensorfile.Source
	if o.Base == "" {
		r := newRandomSource(s.config, o.Seed)
		r.scale["visual.head.weight"] = originalHeadScale
		rest = r
	} else {
		in, err := openInput([]string{o.Base}, "")
		if err != nil {
			return err
		}
		s.open, s.files = append(s.open, in), append(s.files, in.files...)
		m, err := in.model(o.Base, o.Config)
		if err != nil {
			return about([]string{o.Base}, err)
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
		src := infos[p.Name]
		it := &item{eva: p.Name, in: rest, parts: []part{whole(src)}, out: tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape}}
		s.items[p.Name] = it
		if o.Base == "" {
			s.report.Random = append(s.report.Random, p.Name)
		} else {
			s.report.FromBase = append(s.report.FromBase, p.Name)
		}
	}
	return nil
}

func (s *starter) write(ctx context.Context, o InitOptions) error {
	removeStale(filepath.Dir(o.Output))
	var notes []sourceNote
	for _, f := range s.files {
		sum, err := hashFile(ctx, f)
		if err != nil {
			return err
		}
		s.report.Source = append(s.report.Source, sum)
		notes = append(notes, sourceNote{filepath.Base(f), sum.SHA256})
	}
	j := &job{metadata: ModelMetadata(s.config)}
	j.metadata[metaSource] = string(mustJSON(notes))
	for _, p := range s.config.Params() {
		j.items = append(j.items, s.items[p.Name])
	}
	defer j.discard()
	if err := j.create(o.Output, 0); err != nil {
		return err
	}
	if err := j.transfer(ctx); err != nil {
		return err
	}
	if _, err := j.commit(o.Output); err != nil {
		return err
	}
	s.report.Verified = true
	s.report.Tensors = j.tensors()
	return nil
}

func (r *InitReport) finish(start time.Time) {
	r.Seconds = time.Since(start).Seconds()
	r.Loaded, r.Random, r.FromBase = notNil(r.Loaded), notNil(r.Random), notNil(r.FromBase)
	r.Resized, r.Skipped, r.Source = notNil(r.Resized), notNil(r.Skipped), notNil(r.Source)
	r.Warnings = notNil(r.Warnings)
}
