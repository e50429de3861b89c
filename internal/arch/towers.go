package arch

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// visionTower describes a kind of vision tower. A new kind needs a file with such a
// value, a line in visionTowers, a graph of the same name in package clip, and a
// family of names and initial values in package checkpoint.
type visionTower struct {
	check   func(c *Config) error             // refuses what no tower can be built from
	params  func(b *builder)                  // adds its tensors, in the eva layout
	macs    func(c *Config) float64           // multiply-adds of an image
	widest  func(c *Config) int               // values in an image's widest activations
	patches bool                              // cuts images into patches of patch_size pixels
	class   bool                              // has a class token before them
	embed   string                            // its position embedding [(1,) tokens, width], or empty
	timm    func(name string) (*Vision, bool) // the tower of that name in timm; nil: timm has none of the kind
	// timmHead has the timm_pool and timm_proj that a configuration with timm's name
	// must have; one that it does not list may be anything.
	timmHead map[string]string
	projects bool // OpenCLIP's projection follows, whose timm_proj becomes Vision.Proj
}

// visionTowers by kind. The first three are told apart by keys other than
// vision_cfg.tower.
var visionTowers map[string]visionTower

func init() {
	visionTowers = map[string]visionTower{
		"eva": {check: checkViT, params: (*builder).evaVision, macs: (*Config).vitMACs, widest: (*Config).vitWidest,
			patches: true, class: true, embed: "visual.pos_embed"},
		"resnet": {check: checkResNet, params: (*builder).resnet, macs: (*Config).resnetMACs, widest: resnetWidest,
			class: true, embed: "visual.attnpool.positional_embedding"},
		"vit": {check: checkViT, params: (*builder).openAIVision, macs: (*Config).vitMACs, widest: (*Config).vitWidest,
			patches: true, class: true, embed: "visual.positional_embedding"},
		"siglip": siglipVision, "convnext": convnextVision, "vitamin": vitaminVision, "fastvit": fastvitVision,
		"pe": peVision, "mobileclip": mobileclipVision, "coca": cocaVision,
	}
}

// towerKinds are the kinds that vision_cfg.tower may name.
func towerKinds() (kinds []string) {
	for _, k := range slices.Sorted(maps.Keys(visionTowers)) {
		if k != "eva" && k != "resnet" && k != "vit" {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// VisionTower is the kind of the vision tower: eva, resnet, vit, or that of
// vision_cfg.tower.
func (c *Config) VisionTower() string {
	switch {
	case c.Vision.Tower != "":
		return c.Vision.Tower
	case c.IsResNet():
		return "resnet"
	case c.IsEVA():
		return "eva"
	}
	return "vit"
}

// visionTower is the zero value for an unknown kind, which check refuses.
func (c *Config) visionTower() visionTower {
	if c.Vision.Tower != "" && !slices.Contains(towerKinds(), c.Vision.Tower) {
		return visionTower{}
	}
	return visionTowers[c.VisionTower()]
}

// textTower describes a kind of text tower other than OpenCLIP's TextTransformer: like
// visionTower, in a file of its own with a line in textTowers.
type textTower struct {
	check     func(c *Config) error
	params    func(b *builder)
	embedding string // its token embedding [vocabulary, width]
}

// textTowers by text_cfg.tower.
var textTowers = map[string]textTower{"roberta": robertaText, "m2m100": m2m100Text}

// TextTower is the kind of the text tower: clip (OpenAI's), siglip, coca, or that of
// text_cfg.tower.
func (c *Config) TextTower() string {
	switch {
	case c.Text.Tower != "":
		return c.Text.Tower
	case c.Text.EmbedCLS:
		return "coca"
	case c.PoolsLast():
		return "siglip"
	}
	return "clip"
}

// TokenEmbedding is the name of the text tower's token embedding [vocabulary, width].
func (c *Config) TokenEmbedding() string {
	if kind, ok := textTowers[c.Text.Tower]; ok {
		return kind.embedding
	}
	return "text.token_embedding.weight"
}

// TokenEmbeddings lists the names of the token embeddings of all kinds of text towers.
func TokenEmbeddings() []string {
	names := []string{(&Config{}).TokenEmbedding()}
	for _, kind := range slices.Sorted(maps.Keys(textTowers)) {
		names = append(names, textTowers[kind].embedding)
	}
	return names
}

// checkText refuses keys that the kind of text tower does not support.
func (c *Config) checkText() error {
	t := &c.Text
	if t.Tower != "" {
		kind, ok := textTowers[t.Tower]
		if !ok {
			return fmt.Errorf("text_cfg.tower %q: want %s", t.Tower, strings.Join(slices.Sorted(maps.Keys(textTowers)), " or "))
		}
		return kind.check(c)
	}
	switch t.PoolType {
	case "", "eos", "last":
	default:
		return fmt.Errorf("text_cfg.pool_type %q: want argmax, eos or last", t.PoolType)
	}
	switch c.TextTower() {
	case "siglip":
		return checkSigLIPText(c)
	case "coca":
		if err := checkCoCaText(c); err != nil {
			return err
		}
	}
	for _, k := range []struct {
		key string
		set bool
	}{{"norm_kwargs", t.NormKwargs != nil}, {"act_kwargs", t.ActKwargs != nil}, {"proj_bias", t.ProjBias}, {"proj_type", t.ProjType != ""}} {
		if k.set {
			return fmt.Errorf("text_cfg.%s needs pool_type last; with %s it is not supported", k.key, cmp.Or(t.PoolType, "argmax"))
		}
	}
	return nil
}

// HidesQuickGELU reports whether models that differ in quick_gelu alone have the same
// tensors, as all do whose vision tower may have it.
func (c *Config) HidesQuickGELU() bool {
	kind := c.VisionTower()
	return kind == "vit" || kind == "resnet"
}

// Trains says why evatool cannot train the model; empty if it can.
func (c *Config) Trains() string {
	switch {
	case c.Vision.Tower != "":
		return "its vision tower is " + c.Vision.Tower + "'s"
	case c.TextTower() != "clip":
		return "its text tower is " + c.TextTower() + "'s"
	case c.LogitBias != nil:
		return "it has a logit bias, and with it another loss"
	}
	return ""
}

// PositionEmbedding returns the name of the vision tower's position embedding, whose
// second to last axis is Tokens, and the pixels from one token to the next; the name
// is empty if there is none.
func (c *Config) PositionEmbedding() (name string, pixels int) {
	kind := c.visionTower()
	if kind.embed != "" && !kind.patches {
		return kind.embed, c.Vision.ImageSize / c.Grid()
	}
	return kind.embed, c.Vision.PatchSize
}

// WidestActivations is the number of values in an image's widest activations.
func (c *Config) WidestActivations() int { return c.visionTower().widest(c) }

func (c *Config) vitWidest() int { return c.Tokens() * c.VisionHidden() }

// resnetWidest is the first stage's output.
func resnetWidest(c *Config) int {
	v := &c.Vision
	return v.ImageSize / 4 * v.ImageSize / 4 * 4 * v.Width
}

// timmVision finds the tower of any kind by its name in timm.
func timmVision(name string) (v *Vision, kind visionTower, ok bool) {
	for _, kind := range slices.Sorted(maps.Keys(visionTowers)) {
		t := visionTowers[kind]
		if t.timm == nil {
			continue
		}
		if v, ok := t.timm(name); ok {
			return v, t, true
		}
	}
	return nil, visionTower{}, false
}
