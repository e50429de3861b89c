package checkpoint

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
	beside   beside            // what the files beside the weights say
	path     string            // of the (first) file, or empty
	sha256   string            // of the file, empty where it is not known or there are several
}

// mapping relates a state dict to EVA's layout.
type mapping struct {
	family  *family
	prefix  string  // that all names have before the family's
	items   []*Item // tensors of EVA's layout, in file order
	byName  map[string]*Item
	dropped []Dropped
	unknown []string // names that the family does not know
}

// bare is a tensor's name as its family knows it.
func (m *mapping) bare(name string) string { return strings.TrimPrefix(unwrapped(name), m.prefix) }

// alone is "visual." or "text." when there is only this tower, else "".
func (m *mapping) alone() string {
	for _, t := range []struct{ has, lacks string }{{"visual.", "text."}, {"text.", "visual."}} {
		if !slices.ContainsFunc(m.items, func(it *Item) bool { return strings.HasPrefix(it.EVA, t.lacks) }) {
			return t.has
		}
	}
	return ""
}

// foreign is an error when the tensors are not those of a CLIP model.
func (m *mapping) foreign() error {
	if kind, name := notCLIP(m.unknown); kind != "" {
		return fault.Inputf("%s (it has %s); Options.Layout source converts any state dict as it is", kind, name)
	}
	if len(m.unknown) > 0 {
		return fault.Inputf("the file has the names of %s, but not for %s; Options.Exclude leaves tensors out, Options.Layout source keeps all as they are", m.family.name, list(m.unknown))
	}
	return nil
}

// mapToEVA recognises the key family and maps every tensor.
func mapToEVA(inv *inventory) (*mapping, error) {
	f, prefix := recognise(inv.tensors)
	if f == nil {
		if c := choices(inv.tensors); c != "" {
			return nil, fault.Inputf("not all tensors belong to one CLIP model%s", c)
		}
		return nil, fault.Inputf("%s are no CLIP tensor names that evatool knows (EVA, OpenAI, OpenCLIP, Hugging Face, timm); Options.Layout source converts any state dict as it is, Options.Key chooses another one in the file", sample(inv.tensors))
	}
	m := &mapping{family: f, prefix: prefix, byName: map[string]*Item{}}
	for _, t := range inv.tensors {
		if err := m.add(t); err != nil {
			return nil, err
		}
	}
	for _, it := range m.items {
		if err := it.join(f); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *mapping) add(t tensorfile.Info) error {
	name := m.bare(t.Name)
	if reason, ok := arch.NotWeight(name); ok {
		m.dropped = append(m.dropped, Dropped{t.Name, reason})
		return nil
	}
	if m.family == cocaCLIP && strings.HasPrefix(name, "text_decoder.") {
		m.dropped = append(m.dropped, Dropped{t.Name, "CoCa's captioning decoder, no part of the towers"})
		return nil
	}
	eva, r, nth, ok := m.family.toEVA(name)
	if !ok || strings.HasPrefix(eva, "visual.trunk.") { // no name of EVA's layout
		m.unknown = append(m.unknown, t.Name)
		return nil
	}
	it := m.byName[eva]
	if it == nil {
		it = &Item{EVA: eva, parts: make([]part, len(r.src)), transpose: r.op == transpose}
		m.byName[eva], m.items = it, append(m.items, it)
	}
	switch old := it.parts[nth].src; {
	case old.Name == "":
		it.parts[nth] = whole(t)
	case eva == "logit_scale":
		// EVA-CLIP's loader prefers the text tower's.
		keep, drop := t, old.Name
		if m.bare(old.Name) == "text.logit_scale" {
			keep, drop = old, t.Name
		}
		it.parts[nth] = whole(keep)
		m.dropped = append(m.dropped, Dropped{drop, keep.Name + " takes its place"})
	default:
		return fault.Inputf("%s and %s both stand for %s", old.Name, t.Name, eva)
	}
	return nil
}

// join checks the parts and computes what they make together.
func (it *Item) join(f *family) error {
	names, r, _ := f.fromEVA(it.EVA)
	first := it.parts[0].src
	for i, p := range it.parts {
		if p.src.Name == "" {
			return fault.Inputf("%s is missing: it belongs to %s", names[i], it.EVA)
		}
		want := slices.Clone(first.Shape)
		if len(want) > 0 {
			want[0] = want[0] / r.share(0) * r.share(i)
		}
		if p.src.DType != first.DType || !slices.Equal(p.src.Shape, want) {
			return fault.Inputf("%s is %s %v, but %s is %s %v; they belong to one tensor", p.src.Name, p.src.DType, p.src.Shape, first.Name, first.DType, first.Shape)
		}
	}
	shape := slices.Clone(first.Shape)
	if len(it.parts) > 1 {
		if len(shape) == 0 {
			return fault.Inputf("%s is a scalar; want rows of %s", first.Name, it.EVA)
		}
		shape[0] = shape[0] / r.share(0) * r.shares()
	}
	if it.transpose {
		if len(shape) != 2 {
			return fault.Inputf("%s has shape %v; want a matrix", first.Name, shape)
		}
		shape[0], shape[1] = shape[1], shape[0]
	}
	if r.one > 0 {
		shape = append(slices.Repeat([]int64{1}, r.one), shape...)
	}
	it.Out = tensorfile.Info{Name: it.EVA, DType: first.DType, Shape: shape}
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
