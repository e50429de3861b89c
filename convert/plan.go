package convert

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// plan says what becomes what, before any tensor byte is read.
type plan struct {
	family, layout, recognised string
	name                       string       // of the architecture
	config                     *arch.Config // nil: unknown
	items                      []*item
	dropped                    []Dropped
	resized                    []Resized
	renamed, cast              int
	warnings                   []string
}

// item is one output tensor: rows of source tensors, one after the other,
// then transposed, resized and cast.
type item struct {
	out       tensorfile.Info
	eva       string            // its name in EVA's layout
	in        tensorfile.Source // where the parts are; nil: the job's source
	parts     []part
	transpose bool
	resize    *resize
}

// part is a run of rows of a source tensor.
type part struct {
	src      tensorfile.Info
	from, to int64 // bytes
}

func (it *item) sources() []string {
	var names []string
	for _, p := range it.parts {
		if !slices.Contains(names, p.src.Name) {
			names = append(names, p.src.Name)
		}
	}
	return names
}

// raw says whether the output bytes are source bytes.
func (it *item) raw() bool {
	return !it.transpose && it.resize == nil && it.out.DType == it.parts[0].src.DType
}

// planOptions are the parts of Options that a plan needs.
type planOptions struct {
	config, layout, dtype, method string
	imageSize                     int
	include, exclude              []string
}

var dtypes = map[string]tensorfile.DType{"keep": "", "fp32": tensorfile.F32, "fp16": tensorfile.F16, "bf16": tensorfile.BF16}

func (o *planOptions) check() error {
	if o.layout == "" {
		o.layout = "eva"
	}
	if o.layout != "source" && layouts[o.layout] == nil {
		return fault.Usagef("--layout %s: want eva, openclip, hf or source", o.layout)
	}
	if o.dtype == "" {
		o.dtype = "keep"
	}
	if _, ok := dtypes[o.dtype]; !ok {
		return fault.Usagef("--dtype %s: want keep, fp32, fp16 or bf16", o.dtype)
	}
	if o.method != "" {
		if _, ok := methods[o.method]; !ok {
			return fault.Usagef("--resize %s: want eva, clip-rei or openclip", o.method)
		}
	}
	if o.imageSize < 0 || o.imageSize > 1<<13 {
		return fault.Usagef("--image-size %d: want 1 to 8192", o.imageSize)
	}
	if o.layout == "source" && (o.imageSize != 0 || o.method != "") {
		return fault.Usagef("--layout source keeps every tensor; it does not go with --image-size or --resize")
	}
	for _, g := range slices.Concat(o.include, o.exclude) {
		if _, err := path.Match(g, ""); err != nil {
			return fault.Usagef("glob %q: %w", g, err)
		}
	}
	return nil
}

// newPlan decides everything. o has been checked.
func newPlan(inv *inventory, o planOptions) (*plan, error) {
	if len(inv.tensors) == 0 && o.layout != "source" {
		return nil, fault.Inputf("no tensors; --key chooses another state dict in the file, inspect lists what is there")
	}
	p := &plan{layout: o.layout}
	if o.layout == "source" {
		p.family, p.recognised = "any", "not needed for --layout source"
		for _, t := range inv.tensors {
			p.items = append(p.items, &item{out: t, eva: t.Name, parts: []part{whole(t)}})
		}
	} else if err := p.mapped(inv, o); err != nil {
		return nil, err
	}
	p.filter(o)
	if len(p.items) == 0 && len(inv.tensors) > 0 {
		return nil, fault.Usagef("--include and --exclude leave no tensor")
	}
	target := dtypes[o.dtype]
	seen := map[string]bool{}
	for _, it := range p.items {
		if seen[it.out.Name] {
			return nil, fault.Inputf("two tensors would be called %s", it.out.Name)
		}
		seen[it.out.Name] = true
		from := it.parts[0].src.DType
		if target != "" && isFloat(from) {
			it.out.DType = target
		}
		if it.out.DType != from {
			p.cast++
		}
		if s := it.sources(); len(s) != 1 || s[0] != it.out.Name {
			p.renamed++
		}
		if it.resize != nil {
			p.resized = append(p.resized, Resized{Name: it.out.Name, From: it.resize.from, To: it.out.Shape, Method: it.resize.method.name})
		}
	}
	return p, nil
}

func whole(t tensorfile.Info) part { return part{t, 0, t.NumBytes()} }

func isFloat(d tensorfile.DType) bool {
	switch d {
	case tensorfile.F16, tensorfile.BF16, tensorfile.F32, tensorfile.F64:
		return true
	}
	return false
}

// mapped plans a CLIP model: to EVA's names, then to the layout's.
func (p *plan) mapped(inv *inventory, o planOptions) error {
	v, err := see(inv)
	if err != nil {
		return err
	}
	p.family, p.dropped = v.family.name, v.dropped
	v.unknown = slices.DeleteFunc(v.unknown, func(name string) bool {
		out := matchAny(o.exclude, name)
		if out {
			p.dropped = append(p.dropped, Dropped{name, "--exclude"})
		}
		return out
	})
	if err := v.foreign(); err != nil {
		return err
	}
	a, err := identify(v, inv, o.config)
	if err != nil {
		return err
	}
	p.name, p.config, p.recognised = a.name, a.config, a.how
	if v.prefix != "" {
		p.recognised += ", behind " + v.prefix
	}
	if a.warn != "" {
		p.warnings = append(p.warnings, a.warn)
	}
	items := make([]*item, 0, len(v.exprs))
	for _, e := range v.exprs {
		items = append(items, e.item())
	}
	if err := p.shape(v, items, o); err != nil {
		return err
	}
	return p.rename(items)
}

func (e *expr) item() *item {
	it := &item{eva: e.eva, transpose: e.transpose}
	for _, t := range e.parts {
		it.parts = append(it.parts, whole(t))
	}
	it.out = tensorfile.Info{Name: e.eva, DType: e.parts[0].DType, Shape: e.shape}
	return it
}

// shape holds the tensors against the architecture and plans the resizes.
func (p *plan) shape(v *view, items []*item, o planOptions) error {
	if p.config == nil {
		if o.imageSize != 0 {
			return fault.Inputf("--image-size needs the architecture, which is not recognised; give --config")
		}
		if err := v.consistent(); err != nil {
			return err
		}
		if v.alone() == "" {
			p.warnings = append(p.warnings, "the architecture is not a published one, so the output does not describe itself; give --config FILE.json to change that")
		}
		return nil
	}
	if o.imageSize != 0 {
		c := *p.config
		c.Vision.ImageSize = o.imageSize
		checked, err := arch.Parse(c.JSON())
		if err != nil {
			return fault.Usagef("--image-size %d: %w", o.imageSize, err)
		}
		if string(checked.JSON()) != string(p.config.JSON()) {
			p.config, p.name = checked, canonicalName(checked)
		}
	}
	m := methods["eva"]
	if o.method != "" {
		m = methods[o.method]
	}
	allowed := o.imageSize != 0 || o.method != ""
	only := v.alone()
	tower := only == "visual."
	want := map[string][]int64{}
	for _, q := range p.config.Params() {
		if !strings.HasPrefix(q.Name, only) && v.byName[q.Name] == nil {
			continue
		}
		want[q.Name] = q.Shape
	}
	for _, it := range items {
		shape, ok := want[it.eva]
		if !ok {
			if o.excludes(it) {
				continue
			}
			return fault.Inputf("%s is in the file, but the architecture %s has no such tensor; give the right --config, or leave it out with --exclude", it.sources()[0], p.name)
		}
		delete(want, it.eva)
		if tower && strings.HasPrefix(it.eva, "visual.head.") {
			continue // a classifier's, or the projection of the CLIP it comes from
		}
		if sameShape(it.out.Shape, shape) {
			it.out.Shape = shape
			continue
		}
		r, err := planResize(it, shape, m)
		if err != nil {
			return fault.Inputf("%s has shape %v, but the architecture %s wants %v; give the right --config", it.sources()[0], it.out.Shape, p.name, shape)
		}
		if !allowed {
			return fault.Inputf("%s has a grid of %s, but the architecture %s wants %s; --resize eva|clip-rei|openclip resizes it", it.sources()[0], r.grids()[0], p.name, r.grids()[1])
		}
		it.resize, it.out.Shape = r, shape
	}
	if err := onlyKernel(items); err != nil {
		return err
	}
	for _, q := range p.config.Params() {
		if _, missing := want[q.Name]; missing && !(tower && strings.HasPrefix(q.Name, "visual.head.")) {
			return fault.Inputf("%s is missing, which the architecture %s has; give the right --config", q.Name, p.name)
		}
	}
	if only != "" {
		p.config = nil // the file is no model
	}
	return nil
}

// rename gives the tensors their names in the layout, splitting where it must.
func (p *plan) rename(items []*item) error {
	if p.layout == "eva" {
		p.items = items
		return nil
	}
	for _, f := range layouts[p.layout] {
		if named, ok := f.write(items); ok {
			p.items = named
			return nil
		}
	}
	what := p.name
	if what == "" || what == custom {
		what = "this model"
	}
	return fault.Usagef("--layout %s has no names for %s (its tensor %s, for example); --layout eva has", p.layout, what, items[len(items)/2].eva)
}

// write names the items as f does.
func (f *family) write(items []*item) (out []*item, ok bool) {
	names := map[string]bool{}
	for _, it := range items {
		parts, r, ok := f.fromEVA(it.eva)
		if !ok {
			return nil, false
		}
		split, ok := it.split(parts, r.op == transpose)
		if !ok {
			return nil, false
		}
		out = append(out, split...)
		for _, s := range split {
			names[s.out.Name] = true
		}
	}
	return out, f.marked(names) && (f.fits == "" || names[f.fits])
}

// split makes an item into equal row blocks with the given names.
func (it *item) split(names []string, flip bool) ([]*item, bool) {
	n := int64(len(names))
	rank := len(it.out.Shape)
	if flip && rank != 2 || n > 1 && (rank == 0 || it.transpose || it.resize != nil || it.out.Shape[0]%n != 0) {
		return nil, false
	}
	var out []*item
	for i, name := range names {
		s := &item{out: it.out, eva: it.eva, transpose: it.transpose != flip, resize: it.resize}
		s.out.Name, s.out.Shape = name, slices.Clone(it.out.Shape)
		if flip {
			slices.Reverse(s.out.Shape)
		}
		s.parts = it.parts
		if n > 1 {
			s.out.Shape[0] /= n
			size := s.out.NumBytes()
			s.parts = cut(it.parts, int64(i)*size, int64(i+1)*size)
		}
		out = append(out, s)
	}
	return out, true
}

// cut is the byte range [from, to) of consecutive parts.
func cut(parts []part, from, to int64) []part {
	var out []part
	for _, p := range parts {
		n := p.to - p.from
		a, b := max(from, 0), min(to, n)
		if a < b || (n == 0 && from == 0) {
			out = append(out, part{p.src, p.from + a, p.from + b})
		}
		from, to = from-n, to-n
	}
	return out
}

// matchAny says whether a glob matches the name. Tensor names have no
// slashes, so * spans dots; bad globs were refused before.
func matchAny(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(g string) bool {
		ok, _ := path.Match(g, name)
		return ok
	})
}

// excludes and includes go by the output name and by those in the source.
func (o *planOptions) excludes(it *item) bool {
	return matchAny(o.exclude, it.out.Name) || slices.ContainsFunc(it.sources(), func(s string) bool { return matchAny(o.exclude, s) })
}

func (o *planOptions) includes(it *item) bool {
	return len(o.include) == 0 || matchAny(o.include, it.out.Name) ||
		slices.ContainsFunc(it.sources(), func(s string) bool { return matchAny(o.include, s) })
}

// filter applies --include and --exclude.
func (p *plan) filter(o planOptions) {
	p.items = slices.DeleteFunc(p.items, func(it *item) bool {
		reason := ""
		switch {
		case o.excludes(it):
			reason = "--exclude"
		case !o.includes(it):
			reason = "not in --include"
		default:
			return false
		}
		for _, s := range it.sources() {
			if d := (Dropped{s, reason}); !slices.Contains(p.dropped, d) {
				p.dropped = append(p.dropped, d)
			}
		}
		return true
	})
}

// String is the plan for people, one line per output tensor.
func (it *item) String() string {
	s := fmt.Sprintf("%s %s %v <- %s", it.out.Name, it.out.DType, it.out.Shape, strings.Join(it.sources(), " + "))
	if it.transpose {
		s += ", transposed"
	}
	if it.resize != nil {
		s += fmt.Sprintf(", resized from %v (%s)", it.resize.from, it.resize.method.name)
	}
	if from := it.parts[0].src.DType; from != it.out.DType {
		s += ", from " + string(from)
	}
	return s
}
