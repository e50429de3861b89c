package convert

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// inventory is what a checkpoint holds, without its bytes: all that a plan
// needs.
type inventory struct {
	tensors  []tensorfile.Info // in file order
	metadata map[string]string // safetensors __metadata__
	config   *arch.Config      // from a config.json beside the weights, or nil
}

// expr says what a tensor of EVA's layout is made of.
type expr struct {
	eva       string
	parts     []tensorfile.Info // consecutive row blocks
	transpose bool
	shape     []int64
}

// view is a state dict seen in EVA's layout.
type view struct {
	family  *family
	prefix  string  // that all names have before the family's
	exprs   []*expr // in file order
	byName  map[string]*expr
	dropped []Dropped
	unknown []string // names that the family does not know
}

// alone is "visual." or "text." when there is only this tower, else "".
func (v *view) alone() string {
	for _, t := range []struct{ has, lacks string }{{"visual.", "text."}, {"text.", "visual."}} {
		if !slices.ContainsFunc(v.exprs, func(e *expr) bool { return strings.HasPrefix(e.eva, t.lacks) }) {
			return t.has
		}
	}
	return ""
}

// foreign is an error when the tensors are not those of a CLIP model.
func (v *view) foreign() error {
	if kind, name := notCLIP(v.unknown); kind != "" {
		return fault.Inputf("%s (it has %s); --layout source converts any state dict as it is", kind, name)
	}
	if len(v.unknown) > 0 {
		return fault.Inputf("the file has the names of %s, but not for %s; --exclude leaves tensors out, --layout source keeps all as they are", v.family.name, list(v.unknown))
	}
	return nil
}

// see recognises the key family and maps every tensor.
func see(inv *inventory) (*view, error) {
	f, prefix := recognise(inv.tensors)
	if f == nil {
		return nil, fault.Inputf("%s are no CLIP tensor names that evatool knows (EVA, OpenAI, OpenCLIP, Hugging Face, timm); --layout source converts any state dict as it is, --key chooses another one in the file", sample(inv.tensors))
	}
	v := &view{family: f, prefix: prefix, byName: map[string]*expr{}}
	for _, t := range inv.tensors {
		if err := v.add(t); err != nil {
			return nil, err
		}
	}
	for _, e := range v.exprs {
		if err := e.join(f); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *view) add(t tensorfile.Info) error {
	name := strings.TrimPrefix(t.Name, v.prefix)
	if reason, ok := dropReason(name); ok {
		v.dropped = append(v.dropped, Dropped{t.Name, reason})
		return nil
	}
	eva, r, part, ok := v.family.toEVA(name)
	if !ok || strings.HasPrefix(eva, "visual.trunk.") { // no name of EVA's layout
		v.unknown = append(v.unknown, t.Name)
		return nil
	}
	e := v.byName[eva]
	if e == nil {
		e = &expr{eva: eva, parts: make([]tensorfile.Info, len(r.src)), transpose: r.op == transpose}
		v.byName[eva], v.exprs = e, append(v.exprs, e)
	}
	switch old := e.parts[part].Name; {
	case old == "":
		e.parts[part] = t
	case eva == "logit_scale":
		// EVA-CLIP's loader prefers the text tower's.
		keep, drop := t, old
		if strings.TrimPrefix(old, v.prefix) == "text.logit_scale" {
			keep, drop = e.parts[part], t.Name
		}
		e.parts[part] = keep
		v.dropped = append(v.dropped, Dropped{drop, keep.Name + " takes its place"})
	default:
		return fault.Inputf("%s and %s both stand for %s", old, t.Name, eva)
	}
	return nil
}

// join checks the parts and computes the shape.
func (e *expr) join(f *family) error {
	names, _, _ := f.fromEVA(e.eva)
	first := e.parts[0]
	for i, p := range e.parts {
		if p.Name == "" {
			return fault.Inputf("%s is missing: it belongs to %s", names[i], e.eva)
		}
		if p.DType != first.DType || !slices.Equal(p.Shape, first.Shape) {
			return fault.Inputf("%s is %s %v, but %s is %s %v; they belong to one tensor", p.Name, p.DType, p.Shape, first.Name, first.DType, first.Shape)
		}
	}
	e.shape = slices.Clone(first.Shape)
	if len(e.parts) > 1 {
		if len(e.shape) == 0 {
			return fault.Inputf("%s is a scalar; want rows of %s", first.Name, e.eva)
		}
		e.shape[0] *= int64(len(e.parts))
	}
	if e.transpose {
		if len(e.shape) != 2 {
			return fault.Inputf("%s has shape %v; want a matrix", first.Name, e.shape)
		}
		e.shape[0], e.shape[1] = e.shape[1], e.shape[0]
	}
	return nil
}

// sample names a few tensors for a message.
func sample(ts []tensorfile.Info) string {
	var names []string
	for _, t := range ts {
		names = append(names, t.Name)
	}
	return list(names)
}

// list shortens a list of names for a message.
func list(names []string) string {
	const most = 4
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
