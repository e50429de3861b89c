package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// architecture is what is known about the model in a checkpoint.
type architecture struct {
	name     string       // published name, or Custom; empty: unknown
	config   *arch.Config // nil: unknown, or the file is one tower
	label    string       // for messages about several
	how      string
	guessed  bool // whether the activation was assumed
	warnings []string
	assumed  string // says that the preprocessing is unknown, or empty
}

// chosenConfig is the architecture that the user gives, as a value, a published
// name or a JSON file, and its published name. pixels reports whether it describes
// the preprocessing.
func chosenConfig(c *arch.Config, s string) (_ *arch.Config, name string, pixels bool, err error) {
	if c != nil {
		return c, canonicalName(c), true, nil
	}
	if c, ok := arch.Named(s); ok {
		return c, canonicalName(c), false, nil
	}
	data, err := fault.ReadFile(s, "a model configuration (JSON)", maxConfig)
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(s, ".json") {
		return nil, "", false, fault.Usagef("Options.Config %s: no such architecture and no such file; evatool models lists the names", s)
	}
	if err != nil {
		return nil, "", false, err
	}
	if c, err = parseConfig(s, data); err != nil {
		return nil, "", false, err
	}
	return c, canonicalName(c), arch.DescribesPixels(data), nil
}

// canonicalName is the published name of a configuration, or Custom.
func canonicalName(c *arch.Config) string {
	for _, n := range arch.Names() {
		if named, _ := arch.Named(n); named.SameModel(c) {
			return n
		}
	}
	return Custom
}

// identify finds the architecture and its preprocessing: as the user says, as the
// file states, or from the tensors' shapes.
func identify(m *mapping, inv *inventory, o PlanOptions) (architecture, error) {
	a, pixels, err := m.find(inv, o)
	if err != nil || a.config == nil {
		return a, err
	}
	c := *a.config // the one found may be shared
	a.config = &c
	a.fitHead(m)
	return a, a.setPixels(m, inv, o, pixels)
}

// fitHead sees from the file whether EVA's projection has a bias if query and value
// have none: the two versions of the original code differ here, and a
// configuration does not say which of them it is for.
func (a *architecture) fitHead(m *mapping) {
	v := &a.config.Vision
	if !a.config.IsEVA() || v.QKVBias || m.byName["visual.head.weight"] == nil {
		return
	}
	if none := m.byName["visual.head.bias"] == nil; none != v.NoHeadBias {
		v.NoHeadBias = none
		a.name = canonicalName(a.config)
	}
}

// find finds the architecture. pixels reports whether it comes with its
// preprocessing.
func (m *mapping) find(inv *inventory, o PlanOptions) (a architecture, pixels bool, err error) {
	switch {
	case o.Config != nil || o.ConfigName != "":
		a.how = "given"
		if a.config, a.name, pixels, err = chosenConfig(o.Config, o.ConfigName); err == nil {
			m.doubt(&a, inv, o.ConfigName, true)
		}
	case inv.metadata[metaConfig] != "":
		a.how, pixels = "stated in the file", true
		if a.config, err = arch.ParseStored([]byte(inv.metadata[metaConfig]), []byte(inv.metadata[metaPreprocess])); err != nil {
			return a, false, fmt.Errorf("the file's own %s: %w", metaConfig, err)
		}
		a.name = canonicalName(a.config)
		if inv.metadata[metaActivation] == "assumed" {
			a.guessed = true
			a.warnings = append(a.warnings, remembered(a.config))
		}
	case inv.beside.config != nil:
		a = architecture{name: canonicalName(inv.beside.config), config: inv.beside.config, how: "stated in the " + filepath.Base(inv.beside.file) + " beside it"}
		pixels = inv.beside.pixels
		m.doubt(&a, inv, "", false)
	case m.alone() == "visual.":
		a = m.identifyTower()
	case m.alone() == "text.":
		a.how = "a text tower alone; evatool init builds a CLIP model from it and a vision tower"
	default:
		a, err = m.identifyModel(inv)
		a.transformersGELU(m)
	}
	return a, pixels, err
}

// transformersGELU sets the GELU of SigLIP's weights in transformers, where all
// towers have the tanh approximation; of OpenCLIP's towers only some do.
func (a *architecture) transformersGELU(m *mapping) {
	if m.family != hfSigLIP || a.config == nil {
		return
	}
	c := *a.config
	c.Vision.Act, c.Text.ActKwargs = "gelu_tanh", &arch.Act{Approximate: "tanh"}
	if a.config, a.name = &c, canonicalName(&c); a.name == Custom {
		a.how += " with transformers' GELU"
	}
}

func (m *mapping) identifyModel(inv *inventory) (architecture, error) {
	var found, resized []architecture
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		name, label := n, n
		if m.byName["logit_bias"] != nil && c.LogitBias == nil { // trained with SigLIP's loss
			start := -10.
			c.LogitBias, name, label = &start, Custom, n+" with a logit bias"
		}
		if m.differs(c, true) == nil {
			found = append(found, architecture{name: name, label: label, config: c, how: "keys and shapes" + strings.TrimPrefix(label, n)})
		} else if c := m.atItsSize(c); c != nil && m.differs(c, true) == nil {
			label = fmt.Sprintf("%s at %d pixels", label, c.Vision.ImageSize)
			resized = append(resized, architecture{name: Custom, label: label, config: c, how: "keys and shapes as " + label})
		}
	}
	if len(found) == 0 {
		found = resized
	}
	if len(found) == 0 {
		return architecture{how: "not recognised"}, m.nearly()
	}
	a, err := m.activation(inv, found)
	a.how = "recognised from " + a.how
	return a, err
}

// atItsSize is c for images of the size that the position embedding was made for,
// or nil if that is c's own.
func (m *mapping) atItsSize(c *arch.Config) *arch.Config {
	name, pixels := c.PositionEmbedding()
	e := m.byName[name]
	if e == nil || len(e.Out.Shape) < 2 {
		return nil
	}
	side, class := grid(e.Out.Shape[len(e.Out.Shape)-2])
	if side == 0 || side == c.Grid() || side*side+class != c.Tokens()-c.Grid()*c.Grid()+side*side {
		return nil
	}
	c.Vision.ImageSize = side * pixels
	resized, err := arch.Parse(c.JSON())
	if err != nil {
		return nil
	}
	return resized
}

// namedParams lists the tensors of every published architecture, built on first
// use.
var namedParams = sync.OnceValue(func() map[string][]arch.Param {
	m := map[string][]arch.Param{}
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		m[n] = c.Params()
	}
	return m
})

// nearly returns an error if the tensors are almost those of a published
// architecture, so that something is missing or damaged.
func (m *mapping) nearly() error {
	for _, n := range arch.Names() {
		same, all := 0, namedParams()[n]
		for _, p := range all {
			if e := m.byName[p.Name]; e != nil && SameShape(e.Out.Shape, p.Shape) {
				same++
			}
		}
		if 10*same > 9*max(len(all), len(m.items)) {
			c, _ := arch.Named(n)
			return fault.Inputf("the tensors are almost those of %s, but %w; the file is damaged, or holds another model: give its Options.Config", n, m.differs(c, true))
		}
	}
	return nil
}

// differs is nil if the tensors are exactly those of c (without head: those of the
// vision tower less its head), else the first difference.
func (m *mapping) differs(c *arch.Config, head bool) error {
	// Most architectures are ruled out here, before all their tensors are listed.
	if e := m.byName[c.TokenEmbedding()]; head && (e == nil || !slices.Equal(e.Out.Shape, []int64{int64(c.Text.VocabSize), int64(c.Text.Width)})) {
		return fmt.Errorf("%s differs", c.TokenEmbedding())
	}
	if e := m.byName["text.text_projection"]; head && c.TextTower() == "clip" && (e == nil || !slices.Equal(e.Out.Shape, []int64{int64(c.Text.Width), int64(c.EmbedDim)})) {
		return fmt.Errorf("text.text_projection differs")
	}
	n := 0
	for _, p := range c.Params() {
		e := m.byName[p.Name]
		if e == nil {
			if !head && (p.Tower != arch.VisualTower || strings.HasPrefix(p.Name, "visual.head.")) {
				continue
			}
			return fmt.Errorf("%s is missing", p.Name)
		}
		n++
		if !SameShape(e.Out.Shape, p.Shape) {
			if !head && strings.HasPrefix(p.Name, "visual.head.") {
				continue
			}
			return fmt.Errorf("%s has shape %v, not %v", p.Name, e.Out.Shape, p.Shape)
		}
	}
	if n != len(m.items) {
		return fmt.Errorf("there are %d extra tensors", len(m.items)-n)
	}
	return nil
}

// SameShape compares shapes; a scalar may be written as [1].
func SameShape(a, b []int64) bool {
	return slices.Equal(a, b) || len(a)+len(b) == 1 && slices.Concat(a, b)[0] == 1
}

// clipTowers are the published models with this vision tower, projection aside.
func (m *mapping) clipTowers() (names []string) {
	all := 0
	for _, it := range m.items {
		if strings.HasPrefix(it.EVA, "visual.") && it.EVA != "visual.proj" {
			all++
		}
	}
	for _, n := range arch.Names() {
		if c, _ := arch.Named(n); c.Text.Tower != "" {
			continue // another kind of text tower, with one of these vision towers
		}
		same := 0
		for _, p := range namedParams()[n] {
			e := m.byName[p.Name]
			if p.Tower == arch.VisualTower && p.Name != "visual.proj" {
				if e == nil || !SameShape(e.Out.Shape, p.Shape) {
					same = -1
					break
				}
				same++
			}
		}
		if same == all {
			names = append(names, n)
		}
	}
	// Variants with the same tower need no mention: ViT-H-14-quickgelu, -worldwide.
	return slices.DeleteFunc(names, func(n string) bool {
		return slices.ContainsFunc(names, func(other string) bool { return strings.HasPrefix(n, other+"-") })
	})
}

// towers are the published EVA vision towers by width, blocks and patch size.
var towers = map[[3]int64]string{
	{1408, 40, 14}: "EVA01_g_psz14",
	{768, 12, 14}:  "EVA02_B_psz14",
	{768, 12, 16}:  "EVA02_B_psz14to16",
	{1024, 24, 14}: "EVA02_L_psz14",
	{1792, 64, 14}: "EVA02_E_psz14",
	{4096, 32, 14}: "EVA_8B_psz14",
	{5120, 48, 14}: "EVA_18B_psz14",
}

func (m *mapping) identifyTower() architecture {
	if m.byName["visual.conv1.weight"] != nil {
		how := "a vision tower alone"
		if names := m.clipTowers(); len(names) > 0 {
			how += ", that of " + strings.Join(names, " and ")
		}
		return architecture{how: how + "; evatool init builds a CLIP model from it and a text tower"}
	}
	patch := m.byName["visual.patch_embed.proj.weight"]
	if patch == nil || len(patch.Out.Shape) != 4 {
		return architecture{how: "not recognised"}
	}
	blocks := int64(0)
	for m.byName[fmt.Sprintf("visual.blocks.%d.norm1.weight", blocks)] != nil {
		blocks++
	}
	// Other models share these three numbers: ViT (one bias for query, key and
	// value), EVA's first large model (a plain MLP).
	name, ok := towers[[3]int64{patch.Out.Shape[0], blocks, patch.Out.Shape[3]}]
	swiglu := strings.HasPrefix(name, "EVA02_B") || strings.HasPrefix(name, "EVA02_L")
	if !ok || m.byName["visual.blocks.0.attn.qkv.bias"] != nil || swiglu != (m.byName["visual.blocks.0.mlp.w1.weight"] != nil) {
		return architecture{how: "not recognised"}
	}
	return architecture{name: name, how: "a vision tower, recognised from its shapes"}
}

// consistent checks an unpublished model as far as possible: the numbering of the
// blocks has no gaps, and every block has the tensors of block 0.
func (m *mapping) consistent() error {
	for _, prefix := range []string{"visual.blocks.", "visual.transformer.resblocks.", "text.transformer.resblocks.", "text.transformer.encoder.layer.", "text.transformer.layers."} {
		blocks := map[string]map[string]*Item{}
		for _, e := range m.items {
			if rest, ok := strings.CutPrefix(e.EVA, prefix); ok {
				n, tail, _ := strings.Cut(rest, ".")
				if blocks[n] == nil {
					blocks[n] = map[string]*Item{}
				}
				blocks[n][tail] = e
			}
		}
		for i := range len(blocks) {
			b := blocks[fmt.Sprint(i)]
			if b == nil {
				return fault.Inputf("%s%d is missing, but later blocks are there; the file is incomplete", prefix, i)
			}
			for tail, e := range blocks["0"] {
				if b[tail] == nil {
					return fault.Inputf("%s%d.%s is missing, but block 0 has it", prefix, i, tail)
				}
				if !slices.Equal(b[tail].Out.Shape, e.Out.Shape) {
					return fault.Inputf("%s has shape %v, but %v in block 0", b[tail].EVA, b[tail].Out.Shape, e.Out.Shape)
				}
			}
			if len(b) != len(blocks["0"]) {
				return fault.Inputf("%s%d has %d tensors, block 0 has %d", prefix, i, len(b), len(blocks["0"]))
			}
		}
	}
	return nil
}

// Custom is the name of an architecture that is known but unpublished.
const Custom = "custom"
