package checkpoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// A key family is one naming of CLIP's tensors. EVA's own layout ("visual.…",
// "text.…", "logit_scale") is the common language: every family is a table
// between its names and these, used in both directions.
type family struct {
	name  string
	has   []string // names that a state dict of the family must have
	fits  string   // a name without which the family cannot express the model (when writing)
	rules []rule   // the first match counts
}

// rule relates a tensor of EVA's layout to the tensors of a family. In a
// pattern, # is a decimal number and a final * is any rest.
type rule struct {
	eva string
	src []string // more than one: they are eva's consecutive row blocks
	op  op
	// rows are the shares of eva's rows that the sources have; nil: equal ones.
	rows []int64
	one  int  // leading axes of length 1 that eva has and the source lacks
	list bool // the source is a list of one number where eva has a scalar
}

// share is the number of shares of eva's rows that the nth source has.
func (r *rule) share(n int) int64 {
	if r.rows == nil {
		return 1
	}
	return r.rows[n]
}

func (r *rule) shares() (sum int64) {
	for n := range r.src {
		sum += r.share(n)
	}
	return sum
}

type op int

const (
	same      op = iota
	transpose    // a matrix, transposed
)

// families in the order of recognition: the first of which all marks are present.
var families = slices.Concat(hfTexts, timmOthers, timmCLIPs, []*family{hfSigLIP, hfEVA, hfCLIP, cocaCLIP, evaCLIP, flatCLIP}, timmTowers, []*family{evaTower, bareTower}, flatTowers, hfTowers)

// timmOthers are OpenCLIP's models whose vision tower is timm's under timm's own
// names: one line for each kind of tower, with a file of its own if its names
// need more than that.
var timmOthers = []*family{timmSigLIP,
	timmFlat("timm-convnext", "stages.0.blocks.0.conv_dw.weight"), timmOther("timm-convnext", "stages.0.blocks.0.conv_dw.weight"),
	timmOther("timm-vitamin", "patch_embed.backbone.stem.conv1.weight"),
	timmOther("timm-mobileclip-b", "patch_embed.backbone.0.conv.weight"),
	timmOther("timm-mobileclip-l", "norm_pre.weight"),
	timmOther("timm-fastvit", "stem.0.conv_kxk.0.conv.weight"),
}

// cocaCLIP is OpenCLIP's CoCa.
var cocaCLIP = &family{name: "coca", has: []string{"text.cls_emb", "text.token_embedding.weight"}, rules: evaCLIP.rules}

// layouts are the families that each layout writes.
var layouts = map[string][]*family{
	"eva":      {evaCLIP},
	"openclip": slices.Concat(hfTexts, timmOthers, timmCLIPs, []*family{cocaCLIP, flatCLIP}),
	"hf":       {hfSigLIP, hfCLIP},
}

// notCLIP recognises another kind of model that shares most of CLIP's names, by a
// name that CLIP does not have.
func notCLIP(unknown []string) (kind, name string) {
	for _, n := range unknown {
		switch {
		case strings.HasPrefix(n, "visual.trunk."):
			return "a model with a vision tower of timm's that evatool does not support", n
		}
	}
	return "", ""
}

// match applies a pattern to a name and returns what its # and * stand for.
func match(pattern, name string) (caps []string, ok bool) {
	for {
		i := strings.IndexAny(pattern, "#*")
		if i < 0 {
			return caps, pattern == name
		}
		if !strings.HasPrefix(name, pattern[:i]) {
			return nil, false
		}
		kind := pattern[i]
		pattern, name = pattern[i+1:], name[i:]
		if kind == '*' {
			return append(caps, name), name != ""
		}
		n := 0
		for n < len(name) && name[n] >= '0' && name[n] <= '9' {
			n++
		}
		if n == 0 {
			return nil, false
		}
		caps, name = append(caps, name[:n]), name[n:]
	}
}

// fill puts captures into a pattern.
func fill(pattern string, caps []string) string {
	var b strings.Builder
	for _, c := range caps {
		i := strings.IndexAny(pattern, "#*")
		b.WriteString(pattern[:i])
		b.WriteString(c)
		pattern = pattern[i+1:]
	}
	b.WriteString(pattern)
	return b.String()
}

// toEVA returns the EVA name of a family's tensor, its rule, and which of the
// rule's sources it is.
func (f *family) toEVA(name string) (eva string, r *rule, nth int, ok bool) {
	for i := range f.rules {
		r := &f.rules[i]
		for nth, pattern := range r.src {
			if caps, ok := match(pattern, name); ok {
				return fill(r.eva, caps), r, nth, true
			}
		}
	}
	return "", nil, 0, false
}

// fromEVA returns the family's names for an EVA name.
func (f *family) fromEVA(eva string) (names []string, r *rule, ok bool) {
	for i := range f.rules {
		r := &f.rules[i]
		if caps, ok := match(r.eva, eva); ok {
			for _, pattern := range r.src {
				names = append(names, fill(pattern, caps))
			}
			return names, r, true
		}
	}
	return nil, nil, false
}

// wrappers are the words that programs insert into the names of modules they
// wrap, anywhere: torch.compile, FSDP, activation checkpointing, DeepSpeed and
// Lightning, and data parallelism.
var wrappers = []string{"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module", "module"}

// unwrapped is a name without wrappers.
func unwrapped(name string) string {
	for _, w := range wrappers {
		for strings.HasPrefix(name, w+".") {
			name = name[len(w)+1:]
		}
	}
	if !strings.Contains(name, "._") && !strings.Contains(name, ".module.") {
		return name
	}
	words := slices.DeleteFunc(strings.Split(name, "."), func(w string) bool { return slices.Contains(wrappers, w) })
	return strings.Join(words, ".")
}

// recognise finds the family from the names alone, or nil. A prefix that a program
// puts before every name of a model it holds ("model.") is returned apart.
func recognise(tensors []tensorfile.Info) (f *family, prefix string) {
	var names []string
	for _, t := range tensors {
		name := unwrapped(t.Name)
		if _, drop := arch.NotWeight(name); !drop || strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	for len(names) > 0 {
		set := map[string]bool{}
		for _, name := range names {
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				return nil, ""
			}
			set[rest] = true
		}
		if f := familyOf(set); f != nil {
			return f, prefix
		}
		word, _, ok := strings.Cut(names[0][len(prefix):], ".")
		if !ok {
			break
		}
		prefix += word + "."
	}
	return nil, ""
}

// familyOf is the first family of which names has all marks, or nil.
func familyOf(names map[string]bool) *family {
	for _, f := range families {
		if f.marked(names) {
			return f
		}
	}
	return nil
}

// inside lists the prefixes under which models lie beside other tensors, the
// shortest for each model.
func inside(tensors []tensorfile.Info) (prefixes []string) {
	const deepest = 6 // words
	under := map[string]map[string]bool{}
	var order []string
	for _, t := range tensors {
		name, at := unwrapped(t.Name), 0
		for range deepest {
			word, _, ok := strings.Cut(name[at:], ".")
			if !ok {
				break
			}
			at += len(word) + 1
			if p := name[:at]; under[p] == nil {
				under[p] = map[string]bool{}
				order = append(order, p)
			}
			under[name[:at]][name[at:]] = true
		}
	}
	slices.SortStableFunc(order, func(a, b string) int { return strings.Count(a, ".") - strings.Count(b, ".") })
	for _, p := range order {
		within := func(q string) bool { return strings.HasPrefix(p, q) }
		if !slices.ContainsFunc(prefixes, within) && familyOf(under[p]) != nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

func (f *family) marked(names map[string]bool) bool {
	for _, n := range f.has {
		if !names[n] {
			return false
		}
	}
	return true
}

// inventory is what a checkpoint holds without its bytes, which is all that a
// plan needs.
type inventory struct {
	tensors  []tensorfile.Info // in file order
	metadata map[string]string // safetensors __metadata__
	beside   beside            // what the files beside the weights say
	path     string            // of the (first) file, or empty
	sha256   string            // of the file; empty if unknown or there are several
}

// mapping relates a state dict to EVA's layout.
type mapping struct {
	family  *family
	prefix  string  // of all names, before the family's
	items   []*Item // tensors of EVA's layout, in file order
	byName  map[string]*Item
	dropped []Dropped
	unknown []string // names that the family does not know
}

// bare is a tensor's name as its family knows it.
func (m *mapping) bare(name string) string { return strings.TrimPrefix(unwrapped(name), m.prefix) }

// alone is "visual." or "text." if that tower is the only one, else "".
func (m *mapping) alone() string {
	for _, t := range []struct{ has, lacks string }{{"visual.", "text."}, {"text.", "visual."}} {
		if !slices.ContainsFunc(m.items, func(it *Item) bool { return strings.HasPrefix(it.EVA, t.lacks) }) {
			return t.has
		}
	}
	return ""
}

// foreign returns an error if the tensors are not all those of a CLIP model.
func (m *mapping) foreign() error {
	if kind, name := notCLIP(m.unknown); kind != "" {
		return fault.Inputf("%s (it has %s); convert the state dict as it is with Options.Layout source", kind, name)
	}
	if len(m.unknown) > 0 {
		return fault.Inputf("the tensor names are those of %s, except for %s; leave tensors out with Options.Exclude, or keep all as they are with Options.Layout source", m.family.name, list(m.unknown))
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
		return nil, fault.Inputf("the tensor names (%s) are not those of a CLIP model that evatool knows (EVA, OpenAI, OpenCLIP, Hugging Face, timm); convert the state dict as it is with Options.Layout source, or choose another one in the file with Options.Key", sample(inv.tensors))
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
		m.dropped = append(m.dropped, Dropped{t.Name, "CoCa's captioning decoder, not part of the towers"})
		return nil
	}
	eva, r, nth, ok := m.family.toEVA(name)
	if !ok || strings.HasPrefix(eva, "visual.trunk.") { // not a name in EVA's layout
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
		return fault.Inputf("%s and %s both map to %s", old.Name, t.Name, eva)
	}
	return nil
}

// join checks the parts and computes the tensor that they make up.
func (it *Item) join(f *family) error {
	names, r, _ := f.fromEVA(it.EVA)
	first := it.parts[0].src
	for i, p := range it.parts {
		if p.src.Name == "" {
			return fault.Inputf("%s is missing; it is a part of %s", names[i], it.EVA)
		}
		want := slices.Clone(first.Shape)
		if len(want) > 0 {
			want[0] = want[0] / r.share(0) * r.share(i)
		}
		if p.src.DType != first.DType || !slices.Equal(p.src.Shape, want) {
			return fault.Inputf("%s is %s %v, but %s is %s %v; as parts of one tensor they must match", p.src.Name, p.src.DType, p.src.Shape, first.Name, first.DType, first.Shape)
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
