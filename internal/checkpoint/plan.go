package checkpoint

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Plan says what becomes of every tensor, before any tensor byte is read.
type Plan struct {
	Family     string       // of the names in the source
	Layout     string       // of the names in the output
	Name       string       // of the architecture: published, Custom, or empty when unknown
	Config     *arch.Config // nil: unknown, or the file is one tower
	Recognised string       // how the architecture was found
	Items      []*Item
	Dropped    []Dropped
	Resized    []Resized
	Renamed    int // items whose name differs from their source's
	Cast       int // items whose element type differs from their source's
	Warnings   []string
	Assumed    string // says that the preprocessing is unknown and what was assumed, or empty

	in      *Input
	guessed bool // whether the activation was assumed
}

// Dropped is something in a checkpoint that is left out.
type Dropped struct{ Name, Reason string }

// Resized is a tensor that is interpolated to another grid.
type Resized struct {
	Name     string
	From, To []int64 // shapes
	Method   string
}

// Item is one output tensor: rows of source tensors, concatenated, then
// transposed, resized and cast.
type Item struct {
	Out       tensorfile.Info
	EVA       string // its name in EVA's layout
	from      tensorfile.Source
	parts     []part
	transpose bool
	resize    *resize
}

// part is a run of rows of a source tensor.
type part struct {
	src   tensorfile.Info
	start int64 // bytes
	end   int64
}

// Sources are the names of the source tensors.
func (it *Item) Sources() []string {
	var names []string
	for _, p := range it.parts {
		if !slices.Contains(names, p.src.Name) {
			names = append(names, p.src.Name)
		}
	}
	return names
}

// raw reports whether the output bytes are the source's, unchanged.
func (it *Item) raw() bool {
	return !it.transpose && it.resize == nil && it.Out.DType == it.parts[0].src.DType
}

// PlanOptions are the options of Plan. The zero value keeps everything as it is,
// in EVA's layout.
type PlanOptions struct {
	Config     *arch.Config // the architecture; nil: that of ConfigName
	ConfigName string       // published name or JSON file; empty: as the file states, or recognised
	Preprocess string       // preprocessing, as words or a JSON file; empty: as known of the weights
	Layout     string       // eva (default), openclip, hf, source
	DType      string       // keep (default), fp32, fp16, bf16
	ImageSize  int          // new input size in pixels; 0: unchanged
	Resize     string       // eva (default), clip-rei, openclip
	Include    []string     // globs over tensor names; empty: all
	Exclude    []string     // globs over tensor names
}

var dtypes = map[string]tensorfile.DType{"keep": "", "fp32": tensorfile.F32, "fp16": tensorfile.F16, "bf16": tensorfile.BF16}

// Check validates the options and fills in the defaults.
func (o *PlanOptions) Check() error {
	if o.Layout == "" {
		o.Layout = "eva"
	}
	if o.Layout != "source" && layouts[o.Layout] == nil {
		return fault.Usagef("Options.Layout %s: want eva, openclip, hf or source", o.Layout)
	}
	if o.DType == "" {
		o.DType = "keep"
	}
	if _, ok := dtypes[o.DType]; !ok {
		return fault.Usagef("Options.DType %s: want keep, fp32, fp16 or bf16", o.DType)
	}
	if o.Resize != "" {
		if _, ok := methods[o.Resize]; !ok {
			return fault.Usagef("Options.Resize %s: want eva, clip-rei or openclip", o.Resize)
		}
	}
	if o.ImageSize < 0 || o.ImageSize > 1<<13 {
		return fault.Usagef("Options.ImageSize %d: want 1 to 8192", o.ImageSize)
	}
	if o.Layout == "source" && (o.ImageSize != 0 || o.Resize != "") {
		return fault.Usagef("Options.Layout source keeps every tensor as it is and cannot be combined with Options.ImageSize or Options.Resize")
	}
	for _, f := range []struct {
		name  string
		globs []string
	}{{"Include", o.Include}, {"Exclude", o.Exclude}} {
		for _, g := range f.globs {
			if _, err := path.Match(g, ""); err != nil {
				return fault.Usagef("Options.%s %q: not a valid glob: %w", f.name, g, err)
			}
		}
	}
	return nil
}

// Plan decides what becomes of every tensor. o must have passed Check.
func (in *Input) Plan(o PlanOptions) (*Plan, error) {
	if in.missing != "" && o.Layout != "source" {
		return nil, fault.Inputf("%s; give all shards, or the index.json beside them", in.missing)
	}
	p, err := newPlan(in.inventory(), o)
	if err != nil {
		return nil, err
	}
	p.in, p.Dropped = in, slices.Concat(in.left, in.outside, p.Dropped)
	for _, it := range p.Items {
		it.from = in
	}
	return p, nil
}

// newPlan decides everything but where the bytes are. o must have passed Check.
func newPlan(inv *inventory, o PlanOptions) (*Plan, error) {
	if len(inv.tensors) == 0 && o.Layout != "source" {
		return nil, fault.Inputf("the state dict has no tensors; choose another one in the file with Options.Key (evatool inspect lists what is there)")
	}
	p := &Plan{Layout: o.Layout}
	if o.Layout == "source" {
		p.Family, p.Recognised = "any", "not needed for the layout source"
		for _, t := range inv.tensors {
			p.Items = append(p.Items, asNamed(t))
		}
	} else if err := p.mapped(inv, o); err != nil {
		return nil, err
	}
	p.filter(o)
	if len(p.Items) == 0 && len(inv.tensors) > 0 {
		return nil, fault.Usagef("Options.Include and Options.Exclude leave no tensor to write")
	}
	target := dtypes[o.DType]
	seen := map[string]bool{}
	for _, it := range p.Items {
		if seen[it.Out.Name] {
			return nil, fault.Inputf("two tensors would be named %s; leave one out with Options.Exclude", it.Out.Name)
		}
		seen[it.Out.Name] = true
		from := it.parts[0].src.DType
		switch {
		case target == "":
		case from.IsFloat():
			it.Out.DType = target
		case from == tensorfile.C64:
			return nil, fault.Inputf("%s is complex (%s) and cannot be cast to %s; leave it out with Options.Exclude, or keep the types", it.Out.Name, from, target)
		}
		if it.Out.DType != from {
			p.Cast++
		}
		if s := it.Sources(); len(s) != 1 || s[0] != it.Out.Name {
			p.Renamed++
		}
		if it.resize != nil {
			p.Resized = append(p.Resized, Resized{Name: it.Out.Name, From: it.resize.from, To: it.Out.Shape, Method: it.resize.method.name})
		}
	}
	return p, nil
}

// asNamed is a tensor as it is in the source.
func asNamed(t tensorfile.Info) *Item {
	return &Item{Out: t, EVA: t.Name, parts: []part{whole(t)}}
}

func whole(t tensorfile.Info) part { return part{t, 0, t.NumBytes()} }

// mapped plans a CLIP model: to EVA's names, then to those of the layout.
func (p *Plan) mapped(inv *inventory, o PlanOptions) error {
	// Filters choose from a model's tensors. If all tensors together are not a
	// model, the filters come first.
	m, err := mapToEVA(inv)
	if err != nil {
		less, out := inv.narrowed(&o)
		if less == nil {
			return err
		}
		if m, err = mapToEVA(less); err != nil {
			return err
		}
		p.Dropped = out
	}
	p.Family, p.Dropped = m.family.name, append(p.Dropped, m.dropped...)
	m.unknown = slices.DeleteFunc(m.unknown, func(name string) bool {
		reason := ""
		switch {
		case matchAny(o.Exclude, name):
			reason = "excluded"
		case len(o.Include) > 0 && !matchAny(o.Include, name):
			reason = "not included"
		default:
			return false
		}
		p.Dropped = append(p.Dropped, Dropped{name, reason})
		return true
	})
	if err := m.foreign(); err != nil {
		return err
	}
	a, err := identify(m, inv, o)
	if err != nil {
		return err
	}
	p.Name, p.Config, p.Recognised = a.name, a.config, a.how
	if m.prefix != "" {
		p.Recognised += ", under the prefix " + m.prefix
	}
	p.Warnings, p.Assumed, p.guessed = append(p.Warnings, a.warnings...), a.assumed, a.guessed
	if err := p.shape(m, o); err != nil {
		return err
	}
	return p.rename(m.items)
}

// shape checks the tensors against the architecture and plans the resizes.
func (p *Plan) shape(m *mapping, o PlanOptions) error {
	if p.Config == nil {
		if o.ImageSize != 0 {
			return fault.Inputf("Options.ImageSize needs the architecture, which is not recognised; give Options.Config")
		}
		if err := m.consistent(); err != nil {
			return err
		}
		if m.alone() == "" {
			p.Warnings = append(p.Warnings, "the architecture is not a published one, so the output does not describe itself; to change that, give its config, FILE.json")
		}
		return nil
	}
	if o.ImageSize != 0 && o.ImageSize != p.Config.Vision.ImageSize {
		c := *p.Config
		if was := c.Preprocess(); was.Resize != [2]int{} && o.Preprocess == "" {
			return fault.Usagef("Options.ImageSize %d: the model's images are resized to %d×%d and then cropped to %d; say with Options.Preprocess what to do at the new size, such as resize=shortest", o.ImageSize, was.Resize[0], was.Resize[1], was.Size)
		}
		c.Vision.ImageSize = o.ImageSize
		checked, err := arch.Parse(c.JSON())
		if err != nil {
			return fault.Usagef("Options.ImageSize %d: %w", o.ImageSize, err)
		}
		if string(checked.JSON()) != string(p.Config.JSON()) {
			p.Config, p.Name = checked, canonicalName(checked)
		}
	}
	way := methods["eva"]
	if o.Resize != "" {
		way = methods[o.Resize]
	}
	allowed := o.ImageSize != 0 || o.Resize != ""
	only := m.alone()
	tower := only == "visual."
	want := map[string][]int64{}
	for _, q := range p.Config.Params() {
		if !strings.HasPrefix(q.Name, only) && m.byName[q.Name] == nil {
			continue
		}
		want[q.Name] = q.Shape
	}
	for _, it := range m.items {
		shape, ok := want[it.EVA]
		if !ok {
			if o.excludes(it) {
				continue
			}
			return fault.Inputf("%s is in the file, but the architecture %s has no such tensor; give the right Options.Config, or leave it out with Options.Exclude", it.Sources()[0], p.Name)
		}
		delete(want, it.EVA)
		if tower && strings.HasPrefix(it.EVA, "visual.head.") {
			continue // a classifier's, or the projection of the CLIP model it was taken from
		}
		if SameShape(it.Out.Shape, shape) {
			it.Out.Shape = shape
			continue
		}
		r, err := planResize(it, shape, way)
		if err != nil {
			return fault.Inputf("%s has shape %v, but the architecture %s wants %v; give the right Options.Config", it.Sources()[0], it.Out.Shape, p.Name, shape)
		}
		if !allowed {
			return fault.Inputf("%s has a grid of %s, but the architecture %s wants %s; Options.Resize eva|clip-rei|openclip resizes it", it.Sources()[0], r.grids()[0], p.Name, r.grids()[1])
		}
		it.resize, it.Out.Shape = r, shape
	}
	if err := onlyKernel(m.items); err != nil {
		return err
	}
	for _, q := range p.Config.Params() {
		if _, missing := want[q.Name]; missing && !(tower && strings.HasPrefix(q.Name, "visual.head.")) {
			return fault.Inputf("%s is missing, but the architecture %s has it; give the right Options.Config", q.Name, p.Name)
		}
	}
	if only != "" {
		p.Config, p.Assumed = nil, "" // the file is not a model
	}
	return nil
}

// rename gives the tensors their names in the layout, splitting them if need be.
func (p *Plan) rename(items []*Item) error {
	if p.Layout == "eva" {
		p.Items = items
		return nil
	}
	for _, f := range layouts[p.Layout] {
		if named, ok := f.write(items); ok {
			p.Items = named
			return nil
		}
	}
	what := p.Name
	if what == "" || what == Custom {
		what = "this model"
	}
	return fault.Usagef("Options.Layout %s has no names for the tensors of %s, such as %s; use Options.Layout eva", p.Layout, what, items[len(items)/2].EVA)
}

// write names the items as f does.
func (f *family) write(items []*Item) (out []*Item, ok bool) {
	names := map[string]bool{}
	for _, it := range items {
		parts, r, ok := f.fromEVA(it.EVA)
		if !ok {
			return nil, false
		}
		split, ok := it.split(parts, r)
		if !ok {
			return nil, false
		}
		out = append(out, split...)
		for _, s := range split {
			names[s.Out.Name] = true
		}
	}
	return out, f.marked(names) && (f.fits == "" || names[f.fits])
}

// split cuts an item into row blocks with the given names, as r says.
func (it *Item) split(names []string, r *rule) ([]*Item, bool) {
	n, flip := r.shares(), r.op == transpose
	rank := len(it.Out.Shape)
	if flip && rank != 2 || n > 1 && (rank == 0 || it.transpose || it.resize != nil || it.Out.Shape[0]%n != 0) {
		return nil, false
	}
	if rank < r.one || slices.ContainsFunc(it.Out.Shape[:r.one], func(d int64) bool { return d != 1 }) {
		return nil, false
	}
	var out []*Item
	var at int64 // bytes
	for i, name := range names {
		s := &Item{Out: it.Out, EVA: it.EVA, transpose: it.transpose != flip, resize: it.resize}
		s.Out.Name, s.Out.Shape = name, slices.Clone(it.Out.Shape)
		if flip {
			slices.Reverse(s.Out.Shape)
		}
		s.parts = it.parts
		s.Out.Shape = s.Out.Shape[r.one:]
		if r.list && len(s.Out.Shape) == 0 {
			s.Out.Shape = []int64{1}
		}
		if n > 1 {
			s.Out.Shape[0] = s.Out.Shape[0] / n * r.share(i)
			size := s.Out.NumBytes()
			s.parts = cut(it.parts, at, at+size)
			at += size
		}
		out = append(out, s)
	}
	return out, true
}

// cut is the byte range [from, to) of consecutive parts.
func cut(parts []part, from, to int64) []part {
	var out []part
	for _, p := range parts {
		n := p.end - p.start
		a, b := max(from, 0), min(to, n)
		if a < b || (n == 0 && from == 0) {
			out = append(out, part{p.src, p.start + a, p.start + b})
		}
		from, to = from-n, to-n
	}
	return out
}

// matchAny reports whether a glob matches the name. Tensor names have no
// slashes, so * spans dots; bad globs were refused before.
func matchAny(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(g string) bool {
		ok, _ := path.Match(g, name)
		return ok
	})
}

// excludes and includes match the output name and those in the source.
func (o *PlanOptions) excludes(it *Item) bool {
	return matchAny(o.Exclude, it.Out.Name) || slices.ContainsFunc(it.Sources(), func(s string) bool { return matchAny(o.Exclude, s) })
}

func (o *PlanOptions) includes(it *Item) bool {
	return len(o.Include) == 0 || matchAny(o.Include, it.Out.Name) ||
		slices.ContainsFunc(it.Sources(), func(s string) bool { return matchAny(o.Include, s) })
}

// filter applies Include and Exclude.
func (p *Plan) filter(o PlanOptions) {
	p.Items = slices.DeleteFunc(p.Items, func(it *Item) bool {
		reason := ""
		switch {
		case o.excludes(it):
			reason = "excluded"
		case !o.includes(it):
			reason = "not included"
		default:
			return false
		}
		for _, s := range it.Sources() {
			if d := (Dropped{s, reason}); !slices.Contains(p.Dropped, d) {
				p.Dropped = append(p.Dropped, d)
			}
		}
		return true
	})
}

// String is the item as one line of a plan, for people.
func (it *Item) String() string {
	s := fmt.Sprintf("%s %s %v <- %s", it.Out.Name, it.Out.DType, it.Out.Shape, strings.Join(it.Sources(), " + "))
	if it.transpose {
		s += ", transposed"
	}
	if it.resize != nil {
		s += fmt.Sprintf(", resized from %v (%s)", it.resize.from, it.resize.method.name)
	}
	if from := it.parts[0].src.DType; from != it.Out.DType {
		s += ", from " + string(from)
	}
	return s
}
