package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// architecture is what is known about the model in a checkpoint.
type architecture struct {
	name   string       // published name, or Custom, or empty when unknown
	config *arch.Config // nil when unknown, or when the file is one tower
	label  string       // for messages about several
	how    string
	warn   string
}

// chosenConfig is the architecture that the user names, as a value or as a
// published name or JSON file, and its published name.
func chosenConfig(c *arch.Config, s string) (*arch.Config, string, error) {
	if c != nil {
		return c, canonicalName(c), nil
	}
	if c, ok := arch.Named(s); ok {
		return c, canonicalName(c), nil
	}
	data, err := fault.ReadFile(s, "a model configuration (JSON)", maxConfig)
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(s, ".json") {
		return nil, "", fault.Usagef("Options.Config %s: no such architecture and no such file; evatool models lists the names", s)
	}
	if err != nil {
		return nil, "", err
	}
	c, err = arch.Parse(data)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", s, err)
	}
	return c, canonicalName(c), nil
}

// canonicalName is the published name of a configuration, or Custom.
func canonicalName(c *arch.Config) string {
	for _, n := range arch.Names() {
		if named, _ := arch.Named(n); string(named.JSON()) == string(c.JSON()) {
			return n
		}
	}
	return Custom
}

// identify finds the architecture: what the user says, what the file says of
// itself, or what its shapes say.
func identify(m *mapping, inv *inventory, o PlanOptions) (architecture, error) {
	switch {
	case o.Config != nil || o.ConfigName != "":
		c, name, err := chosenConfig(o.Config, o.ConfigName)
		return architecture{name: name, config: c, how: "given by --config"}, err
	case inv.metadata[metaConfig] != "":
		c, err := arch.Parse([]byte(inv.metadata[metaConfig]))
		if err != nil {
			return architecture{}, fmt.Errorf("the file's own %s: %w", metaConfig, err)
		}
		return architecture{name: canonicalName(c), config: c, how: "the file says it"}, nil
	case inv.config != nil:
		return architecture{name: canonicalName(inv.config), config: inv.config, how: "the config.json beside it says it"}, nil
	case m.alone() == "visual.":
		return m.identifyTower(), nil
	case m.alone() == "text.":
		return architecture{how: "a text tower alone; evatool init builds a CLIP model from it and a vision tower"}, nil
	}
	return m.identifyModel(inv)
}

func (m *mapping) identifyModel(inv *inventory) (architecture, error) {
	var found, resized []architecture
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		if m.differs(c, true) == nil {
			found = append(found, architecture{name: n, label: n, config: c, how: "keys and shapes"})
		} else if c := m.atItsSize(c); c != nil && m.differs(c, true) == nil {
			label := fmt.Sprintf("%s at %d pixels", n, c.Vision.ImageSize)
			resized = append(resized, architecture{name: Custom, label: label, config: c, how: "keys and shapes as " + label})
		}
	}
	if len(found) == 0 {
		found = resized
	}
	if len(found) == 0 {
		return architecture{how: "not recognised"}, m.nearly()
	}
	if len(found) > 1 {
		family, evidence, warn := origin(m, inv)
		i := slices.IndexFunc(found, func(a architecture) bool { return a.config.Family() == family })
		if i < 0 {
			return architecture{}, fault.Inputf("the architecture is ambiguous: %s and %s have the same names and shapes but another activation; choose one with Options.Config", found[0].label, found[1].label)
		}
		found[0] = found[i]
		found[0].how += evidence
		found[0].warn = warn
	}
	if family, _, _ := origin(m, inv); family == "openclip" && found[0].config.Family() == "openai" {
		found[0].warn = "read as a model with QuickGELU, but the order of its keys is OpenCLIP's, whose models mostly have GELU; if this one has, give a --config FILE.json without quick_gelu"
	}
	if c := found[0].config; c.Family() == "openclip" && !c.QuickGELU && found[0].warn == "" {
		found[0].warn = maybeQuick
	}
	found[0].how = "recognised from " + found[0].how
	return found[0], nil
}

// atItsSize is c for images of the size that the position embedding is made
// for, nil when that is c's own.
func (m *mapping) atItsSize(c *arch.Config) *arch.Config {
	name, pixels := "visual.positional_embedding", c.Vision.PatchSize
	switch {
	case c.IsEVA():
		name = "visual.pos_embed"
	case c.IsResNet():
		name, pixels = "visual.attnpool.positional_embedding", 32
	}
	e := m.byName[name]
	if e == nil || len(e.Out.Shape) < 2 {
		return nil
	}
	side := grid(e.Out.Shape[len(e.Out.Shape)-2])
	if side == 0 || side == c.Grid() {
		return nil
	}
	c.Vision.ImageSize = side * pixels
	resized, err := arch.Parse(c.JSON())
	if err != nil {
		return nil
	}
	return resized
}

// published lists the tensors of every published architecture, made on first use.
var published = sync.OnceValue(func() map[string][]arch.Param {
	m := map[string][]arch.Param{}
	for _, n := range arch.Names() {
		c, _ := arch.Named(n)
		m[n] = c.Params()
	}
	return m
})

// nearly is an error when the tensors are almost those of a published
// architecture: then something is missing or damaged.
func (m *mapping) nearly() error {
	for _, n := range arch.Names() {
		same, all := 0, published()[n]
		for _, p := range all {
			if e := m.byName[p.Name]; e != nil && SameShape(e.Out.Shape, p.Shape) {
				same++
			}
		}
		if 10*same > 9*max(len(all), len(m.items)) {
			c, _ := arch.Named(n)
			return fault.Inputf("nearly %s, but %w; the file is damaged or another model: give its Options.Config", n, m.differs(c, true))
		}
	}
	return nil
}

// differs is nil when the tensors are exactly those of c (without the vision
// head for a tower), else the first difference.
func (m *mapping) differs(c *arch.Config, head bool) error {
	// Most architectures fall out here, before all their tensors are listed.
	if e := m.byName["text.text_projection"]; head && (e == nil || !slices.Equal(e.Out.Shape, []int64{int64(c.Text.Width), int64(c.EmbedDim)})) {
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
		return fmt.Errorf("%d tensors more than the architecture has", len(m.items)-n)
	}
	return nil
}

// SameShape compares shapes; a scalar may be written as [1].
func SameShape(a, b []int64) bool {
	return slices.Equal(a, b) || len(a)+len(b) == 1 && slices.Concat(a, b)[0] == 1
}

// maybeQuick is said where only the user can know: OpenCLIP's models of either
// activation have the same names and shapes.
const maybeQuick = "read as an OpenCLIP model with GELU; if it was trained with QuickGELU (--force-quick-gelu, names that end in -quickgelu), give --config"

// origin tells OpenAI's files from OpenCLIP's, which have the same names and
// shapes but another activation, by facts that only one of them has.
func origin(m *mapping, inv *inventory) (family, evidence, warn string) {
	index := map[string]int{}
	half, full := false, false
	for i, t := range inv.tensors {
		index[m.bare(t.Name)] = i + 1
		half = half || t.DType == tensorfile.F16 && strings.HasSuffix(t.Name, ".weight")
		full = full || t.DType == tensorfile.F32 && strings.Contains(t.Name, "ln_")
	}
	if index["input_resolution"] > 0 && index["context_length"] > 0 {
		return "openai", " and OpenAI's attributes", ""
	}
	if half && full {
		return "openai", " and OpenAI's mix of fp16 and fp32", ""
	}
	if m.family == hfCLIP {
		return "", "", ""
	}
	// The original classes define their modules in different orders, which a
	// state dict keeps (a sorted one does not).
	prefix := "transformer.resblocks.0."
	if m.family == evaCLIP {
		prefix = "text." + prefix
	}
	weight, bias, ln := index[prefix+"attn.in_proj_weight"], index[prefix+"attn.in_proj_bias"], index[prefix+"ln_1.weight"]
	switch {
	case ln > 0 && ln < weight:
		return "openclip", " and the order of the keys", maybeQuick
	case weight > 0 && weight < bias && bias < ln:
		return "openai", " and the order of the keys", ""
	}
	return "", "", ""
}

// clipTowers are the published models whose vision tower this is, its projection
// left aside.
func (m *mapping) clipTowers() (names []string) {
	for _, n := range arch.Names() {
		differs := func(p arch.Param) bool {
			e := m.byName[p.Name]
			return p.Tower == arch.VisualTower && p.Name != "visual.proj" && (e == nil || !SameShape(e.Out.Shape, p.Shape))
		}
		if !slices.ContainsFunc(published()[n], differs) {
			names = append(names, n)
		}
	}
	return names
}

// towers are the published EVA vision towers by width, blocks and patch size.
var towers = map[[3]int64]string{
	{1408, 40, 14}: "EVA01_g_psz14",
	{768, 12, 14}:  "EVA02_B_psz14",
	{768, 12, 16}:  "EVA02_B_psz14to16",
	{1024, 24, 14}: "EVA02_L_psz14",
	{1792, 64, 14}: "EVA02_E_psz14",
}

func (m *mapping) identifyTower() architecture {
	if m.byName["visual.conv1.weight"] != nil {
		how := "a vision tower alone"
		if names := m.clipTowers(); len(names) > 0 {
			how += ", the one of " + strings.Join(names, " and ")
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
	// Other models share these three numbers: ViT (biases of query, key and value
	// as one), EVA's first large one (a plain MLP).
	name, ok := towers[[3]int64{patch.Out.Shape[0], blocks, patch.Out.Shape[3]}]
	swiglu := strings.HasPrefix(name, "EVA02_B") || strings.HasPrefix(name, "EVA02_L")
	if !ok || m.byName["visual.blocks.0.attn.qkv.bias"] != nil || swiglu != (m.byName["visual.blocks.0.mlp.w1.weight"] != nil) {
		return architecture{how: "not recognised"}
	}
	return architecture{name: name, how: "a vision tower, recognised from its shapes"}
}

// consistent checks an unpublished model as far as that is possible: no gaps
// in the numbering of the blocks, and every block has the tensors of block 0.
func (m *mapping) consistent() error {
	for _, prefix := range []string{"visual.blocks.", "visual.transformer.resblocks.", "text.transformer.resblocks."} {
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
				return fault.Inputf("%s%d is missing, but the blocks go further", prefix, i)
			}
			for tail, e := range blocks["0"] {
				if b[tail] == nil {
					return fault.Inputf("%s%d.%s is missing, but block 0 has it", prefix, i, tail)
				}
				if !slices.Equal(b[tail].Out.Shape, e.Out.Shape) {
					return fault.Inputf("%s has shape %v, but in block 0 it is %v", b[tail].EVA, b[tail].Out.Shape, e.Out.Shape)
				}
			}
			if len(b) != len(blocks["0"]) {
				return fault.Inputf("%s%d has %d tensors, block 0 has %d", prefix, i, len(b), len(blocks["0"]))
			}
		}
	}
	return nil
}

// Custom is the name of an architecture that is known but not published.
const Custom = "custom"
