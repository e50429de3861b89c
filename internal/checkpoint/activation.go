package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Models of one shape differ in their activation, which a state dict does not
// record: OpenAI's have QuickGELU, OpenCLIP's mostly GELU. It is decided by, in
// this order, the table of published weights, traits that only OpenAI's files
// have, the order of the keys, and what all published weights of the shape have.

var errAmbiguous = errors.New("the architecture is ambiguous")

// activation chooses among architectures of the same names and shapes.
func (m *mapping) activation(inv *inventory, found []architecture) (architecture, error) {
	found = inv.published(found)
	first := found[0]
	for _, a := range found[1:] {
		if !sameButActivation(first.config, a.config) {
			return first, fault.Inputf("%w: %s and %s have the same names and shapes; choose one with Options.Config", errAmbiguous, first.label, a.label)
		}
	}
	if !first.config.HidesQuickGELU() {
		return first, nil
	}
	if w, how, warn := inv.weights(first.config); w != nil {
		a := with(found, quickGELU(w))
		a.how += how
		if a.config.QuickGELU && !w.QuickGELU {
			a.warnings = append(a.warnings, unlisted(w.Architecture, found))
		}
		return a, nil
	} else if warn != "" {
		first.warnings = append(first.warnings, warn)
	}
	from, evidence := origin(m, inv)
	if from == openAI {
		a := with(found, true)
		a.how += evidence
		return a, nil
	}
	quick, plain := activations(first.config)
	var a architecture
	switch {
	case quick && !plain:
		a = with(found, true)
		a.warnings = append(a.warnings, fmt.Sprintf("read as a model with QuickGELU, as all published weights of its architecture are; the file does not record its activation, so if this model has GELU, the default when OpenCLIP trains, give the config %s", orFile(found, false)))
	case from == openCLIP, !quick, !slices.ContainsFunc(found, func(a architecture) bool { return strings.HasPrefix(a.label, "openai-") }):
		a = with(found, false)
		a.warnings = append(a.warnings, fmt.Sprintf("read as an OpenCLIP model with GELU; the file does not record its activation, so if it was trained with QuickGELU (--force-quick-gelu, names that end in -quickgelu), give the config %s", orFile(found, true)))
	default:
		return first, fault.Inputf("%w: %s and %s have the same names and shapes but different activations; choose one with Options.Config", errAmbiguous, with(found, true).label, with(found, false).label)
	}
	a.guessed = true
	a.how += evidence
	a.warnings = append(first.warnings, a.warnings...)
	return a, nil
}

// published narrows several architectures down to those under which the file's
// weights are published, if the table has them.
func (inv *inventory) published(found []architecture) []architecture {
	if len(found) < 2 {
		return found
	}
	var known []architecture
	for _, a := range found {
		if w, how, _ := inv.weights(a.config); w != nil {
			if !a.config.HidesQuickGELU() { // else activation adds it
				a.how += how
			}
			known = append(known, a)
		}
	}
	if len(known) == 0 {
		return found
	}
	return known
}

// remembered is the warning about a file whose activation was assumed when it was
// written.
func remembered(c *arch.Config) string {
	word := map[bool]string{true: "QuickGELU", false: "GELU"}
	return fmt.Sprintf("its activation, %s, was assumed when it was converted; if the model was trained with %s, give the config %s",
		word[c.QuickGELU], word[!c.QuickGELU], orFile(likeIt(c), !c.QuickGELU))
}

// likeIt lists the architectures that equal c in all but the activation.
func likeIt(c *arch.Config) (found []architecture) {
	for _, n := range arch.Names() {
		if like, _ := arch.Named(n); sameButActivation(like, c) {
			found = append(found, architecture{name: n, label: n, config: like})
		}
	}
	return append(found, architecture{name: Custom, config: c})
}

func sameButActivation(a, b *arch.Config) bool {
	x, y := *a, *b
	x.QuickGELU, y.QuickGELU = false, false
	return x.SameModel(&y)
}

// with is the architecture with this activation, made up if none is published.
func with(found []architecture, quick bool) architecture {
	for _, a := range found {
		if a.config.QuickGELU == quick {
			return a
		}
	}
	a, c := found[0], *found[0].config
	c.QuickGELU = quick
	a.config, a.name = &c, canonicalName(&c)
	return a
}

// orFile is what to give as the configuration for this activation: the name of an
// architecture, or a file.
func orFile(found []architecture, quick bool) string {
	if a := with(found, quick); a.name != Custom {
		return a.name
	}
	return fmt.Sprintf("FILE.json with quick_gelu %v", quick)
}

// quickGELU reports whether published weights have QuickGELU, according to
// OpenCLIP's list of them or its configuration of the architecture.
func quickGELU(w *published.Weights) bool {
	c, ok := arch.Named(w.Architecture)
	return w.QuickGELU || ok && c.QuickGELU
}

// unlisted is the warning about an architecture that has QuickGELU in OpenCLIP's
// configuration but not in its list of weights.
func unlisted(name string, found []architecture) string {
	return fmt.Sprintf("read with QuickGELU: OpenCLIP's configuration of %s says so, though its list of published weights does not; if the model has GELU, give the config %s", name, orFile(found, false))
}

// activations says which of the two the published weights of a shape have.
func activations(c *arch.Config) (quick, plain bool) {
	for _, w := range published.AllWeights() {
		if named, ok := arch.Named(w.Architecture); ok && sameButActivation(named, c) {
			quick, plain = quick || quickGELU(&w), plain || !quickGELU(&w)
		}
	}
	return quick, plain
}

// weights returns the published weights that the file holds, by its hash if that
// is known, else by its name. warn says that the two contradict each other.
func (inv *inventory) weights(c *arch.Config) (w *published.Weights, how, warn string) {
	fits := func(w published.Weights) bool {
		named, ok := arch.Named(w.Architecture)
		return ok && sameButActivation(named, c)
	}
	if inv.sha256 != "" {
		list := published.BySHA256(inv.sha256)
		if i := slices.IndexFunc(list, fits); i >= 0 {
			return &list[i], fmt.Sprintf(" and the file's hash: %s", list[i].Name()), ""
		}
	}
	if inv.path == "" {
		return nil, "", ""
	}
	list := published.ByName(inv.path)
	i := slices.IndexFunc(list, fits)
	if i < 0 || slices.ContainsFunc(list, func(w published.Weights) bool {
		return fits(w) && (quickGELU(&w) != quickGELU(&list[i]) || w.Preprocess != list[i].Preprocess)
	}) {
		return nil, "", ""
	}
	w = &list[i]
	// The hash in the table is that of the file at URL, which has this name.
	if named := strings.HasSuffix(w.URL, "/"+base(inv.path)); named && inv.sha256 != "" && w.SHA256 != "" {
		return nil, "", fmt.Sprintf("the file has the name of %s, but its SHA-256 is %.8s…, not %.8s…, so it is not treated as these weights", w.Name(), inv.sha256, w.SHA256)
	}
	return w, fmt.Sprintf(" and the file's name: %s", w.Name()), ""
}

// stated is the architecture that the file, or one beside it, says it has; nil if none
// does.
func (inv *inventory) stated() *arch.Config {
	if b := inv.metadata[metaConfig]; b != "" {
		if c, err := arch.ParseStored([]byte(b), []byte(inv.metadata[metaPreprocess])); err == nil {
			return c
		}
	}
	return inv.beside.config
}

// doubt warns if another source contradicts the configuration in use: the user's,
// called name if it has one, or the one beside the file.
func (m *mapping) doubt(a *architecture, inv *inventory, name string, users bool) {
	type saying struct {
		who   string
		quick bool
	}
	var said []saying
	if users {
		if b := inv.metadata[metaConfig]; b != "" {
			if c, err := arch.ParseStored([]byte(b), []byte(inv.metadata[metaPreprocess])); err == nil {
				said = append(said, saying{"the file's own configuration", c.QuickGELU})
			}
		}
		if c := inv.beside.config; c != nil {
			said = append(said, saying{inv.beside.file, c.QuickGELU})
		}
	}
	if a.config.HidesQuickGELU() {
		if w, _, warn := inv.weights(a.config); w != nil {
			said = append(said, saying{"the table of published weights, for " + w.Name() + ",", quickGELU(w)})
		} else if warn != "" {
			a.warnings = append(a.warnings, warn)
		}
		if from, evidence := origin(m, inv); from == openAI && users {
			said = append(said, saying{"the file, which has" + strings.TrimPrefix(evidence, " and") + ",", true})
		}
	}
	if c := inv.stated(); c != nil && users {
		for _, t := range []arch.Tower{arch.VisualTower, arch.TextTower} {
			if d := a.config.Contradiction(c, t); d != "" {
				a.warnings = append(a.warnings, fmt.Sprintf("the configuration in use (%s) is not the one that the file states: its %s; if that is right, the features are wrong", a.how, d))
			}
		}
	}
	word := map[bool]string{true: "QuickGELU", false: "GELU"}
	for _, s := range said {
		if s.quick != a.config.QuickGELU {
			a.warnings = append(a.warnings, fmt.Sprintf("the configuration in use (%s) has %s, but %s says %s; if that is right, the features are wrong", a.how, word[a.config.QuickGELU], s.who, word[s.quick]))
			return
		}
	}
	if len(said) > 0 {
		return
	}
	if c, ok := arch.Named(name); ok && c.QuickGELU && a.config.QuickGELU && slices.ContainsFunc(published.AllWeights(), func(w published.Weights) bool { return w.Architecture == name && !w.QuickGELU }) {
		a.warnings = append(a.warnings, unlisted(name, []architecture{*a}))
	}
	// OpenCLIP lists weights with QuickGELU under names whose configuration has GELU.
	var tags []string
	for _, w := range published.AllWeights() {
		if w.Architecture == name && quickGELU(&w) != a.config.QuickGELU {
			tags = append(tags, w.Tag)
		}
	}
	if len(tags) > 0 {
		a.warnings = append(a.warnings, fmt.Sprintf("%s has %s, but published weights under that name have %s (%s): for those, give the config %s", name, word[a.config.QuickGELU], word[!a.config.QuickGELU], list(tags), orFile([]architecture{*a}, !a.config.QuickGELU)))
	}
	if plain, ok := arch.Shared(name); ok {
		a.warnings = append(a.warnings, fmt.Sprintf("%s is a name of OpenAI's and of OpenCLIP's: read with QuickGELU, as in all its published weights; for a model trained by OpenCLIP with GELU, give the config %s", name, plain))
	}
}

// Where a file comes from, told by traits of one origin only.
const (
	openAI   = "openai"
	openCLIP = "openclip"
)

// origin tells OpenAI's files from OpenCLIP's, which have the same names and
// shapes; empty if nothing tells them apart.
func origin(m *mapping, inv *inventory) (from, evidence string) {
	index := map[string]int{}
	half, full := false, false
	for i, t := range inv.tensors {
		index[m.bare(t.Name)] = i + 1
		half = half || t.DType == tensorfile.F16 && strings.HasSuffix(t.Name, ".weight")
		full = full || t.DType == tensorfile.F32 && strings.Contains(t.Name, "ln_")
	}
	if index["input_resolution"] > 0 && index["context_length"] > 0 {
		return openAI, " and OpenAI's attributes"
	}
	if half && full {
		return openAI, " and OpenAI's mix of fp16 and fp32"
	}
	if m.family == hfCLIP {
		return "", ""
	}
	// The original classes define their modules in different orders, which a state
	// dict keeps unless it is sorted.
	prefix := "transformer.resblocks.0."
	if m.family == evaCLIP {
		prefix = "text." + prefix
	}
	weight, bias, ln := index[prefix+"attn.in_proj_weight"], index[prefix+"attn.in_proj_bias"], index[prefix+"ln_1.weight"]
	switch {
	case ln > 0 && ln < weight:
		return openCLIP, " and the order of the keys"
	case weight > 0 && weight < bias && bias < ln:
		return openAI, " and the order of the keys"
	}
	return "", ""
}

// Hash is the SHA-256 of the (first) file. The next plan uses it to tell which
// published weights the file may be.
func (in *Input) Hash(ctx context.Context) (string, error) {
	sum, _, err := digest.File(ctx, in.Files[0], Want)
	if err == nil && len(in.Files) == 1 {
		in.sha256 = sum
	}
	return sum, err
}

// named reports whether the table of published weights knows the file, by its hash
// or its name.
func (in *Input) named() bool {
	return len(published.BySHA256(in.sha256)) > 0 || len(published.ByName(in.Files[0])) > 0
}

// HashTells reports whether the file's hash could change a plan, or the error in
// place of one: it could if the activation is unknown and the table of published
// weights has the hash of a file of this kind with the other activation.
func (in *Input) HashTells(p *Plan, err error) bool {
	if len(in.Files) != 1 || err != nil && !errors.Is(err, errAmbiguous) || err == nil && !p.guessed {
		return false
	}
	return slices.ContainsFunc(published.AllWeights(), func(w published.Weights) bool {
		if w.SHA256 == "" || strings.HasSuffix(w.URL, ".safetensors") != (in.Container == "safetensors") {
			return false
		}
		if err != nil {
			return true
		}
		named, ok := arch.Named(w.Architecture)
		return ok && quickGELU(&w) != p.Config.QuickGELU && sameButActivation(named, p.Config)
	})
}
