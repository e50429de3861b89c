// Package arch describes CLIP architectures: the configuration, the name and shape of
// every tensor, the preprocessing, and the cost.
package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
)

// Config is an architecture in the OpenCLIP / EVA-CLIP configuration schema.
type Config struct {
	EmbedDim   int         `json:"embed_dim"`
	QuickGELU  bool        `json:"quick_gelu,omitempty"`      // x·sigmoid(1.702x) instead of GELU; with EVA's vision tower, in the text tower only
	CustomText bool        `json:"custom_text,omitempty"`     // how the original code is organised; no effect here
	LogitBias  *float64    `json:"init_logit_bias,omitempty"` // present: logits have a bias, which starts at this value, and probabilities are sigmoids
	Vision     Vision      `json:"vision_cfg"`
	Text       Text        `json:"text_cfg"`
	Pixels     *Preprocess `json:"preprocess_cfg,omitempty"` // nil: OpenAI's
}

// Vision is the image tower.
type Vision struct {
	ImageSize int     `json:"image_size"` // pixels, square
	Layers    Layers  `json:"layers"`
	Width     int     `json:"width"`
	HeadWidth int     `json:"head_width"`
	MLPRatio  float64 `json:"mlp_ratio"`
	PatchSize int     `json:"patch_size,omitempty"` // pixels; 0 for a ResNet

	EVAName     string   `json:"eva_model_name,omitempty"` // non-empty: EVA's block layout
	LSInit      *float64 `json:"ls_init_value,omitempty"`  // layer scale: blocks have it if present and > 0
	DropPath    float64  `json:"drop_path_rate,omitempty"` // training only
	PatchDrop   float64  `json:"patch_dropout,omitempty"`  // training only
	AveragePool bool     `json:"global_average_pool,omitempty"`
	QKVBias     bool     `json:"qkv_bias"` // EVA: q and v have biases, k never
	XAttn       bool     `json:"xattn,omitempty"`
	FusedLN     bool     `json:"fusedLN,omitempty"`
	RoPE        bool     `json:"rope,omitempty"`
	PtSeqLen    int      `json:"pt_hw_seq_len,omitempty"` // grid of the RoPE pretraining
	IntpFreq    bool     `json:"intp_freq,omitempty"`     // RoPE positions scaled to that grid
	SwiGLU      bool     `json:"naiveswiglu,omitempty"`
	SubLN       bool     `json:"subln,omitempty"`
	PostNorm    bool     `json:"postnorm,omitempty"`
	RMSNorm     bool     `json:"use_rms_norm,omitempty"` // EVA: RMSNorm in place of LayerNorm, except in a plain MLP with subln
	NoHeadBias  bool     `json:"no_head_bias,omitempty"` // EVA: the projection to embed_dim has no bias

	Tower string `json:"tower,omitempty"` // a key of visionTowers; empty: eva, resnet or vit, depending on other keys
	Act   string `json:"act,omitempty"`   // the MLP's activation if Tower leaves a choice: gelu (or empty) or gelu_tanh

	// Keys of timm's other kinds of towers.
	NormEps     float64 `json:"norm_eps,omitempty"`     // of LayerNorm; 0: the kind's default
	StemWidth   int     `json:"stem_width,omitempty"`   // channels of the leading convolutions
	NoPosEmbed  bool    `json:"no_pos_embed,omitempty"` // no position embedding
	NoClass     bool    `json:"no_class_token,omitempty"`
	PoolQueries int     `json:"attn_pooler_queries,omitempty"` // of CoCa's attentional pooler
	PoolHeads   int     `json:"attn_pooler_heads,omitempty"`
	Proj        string  `json:"proj,omitempty"` // OpenCLIP's projection after the tower: linear or mlp

	NoLnPre     bool   `json:"no_ln_pre,omitempty"`           // OpenCLIP
	PoolType    string `json:"pool_type,omitempty"`           // OpenCLIP: tok (default) or avg (patches only)
	LnAfterPool bool   `json:"final_ln_after_pool,omitempty"` // OpenCLIP
}

// Text is the text tower.
type Text struct {
	ContextLength int      `json:"context_length"`
	VocabSize     int      `json:"vocab_size"`
	Width         int      `json:"width"`
	Heads         int      `json:"heads"`
	Layers        int      `json:"layers"`
	MLPRatio      float64  `json:"mlp_ratio"`
	LSInit        *float64 `json:"ls_init_value,omitempty"`
	AttnMask      bool     `json:"attn_mask"` // causal
	XAttn         bool     `json:"xattn,omitempty"`
	FusedLN       bool     `json:"fusedLN,omitempty"`

	// PoolType is where the feature is taken: argmax (or empty), at the first
	// largest token id; eos, at the first token EOS, or at the first token if there
	// is none; last, at the last token of the context. EOS is nil without eos.
	PoolType string `json:"pool_type,omitempty"`
	EOS      *int   `json:"eos_id,omitempty"`

	// EmbedCLS: a learned token follows the text, and the feature is taken there.
	EmbedCLS bool `json:"embed_cls,omitempty"`

	// Keys of the tower that pools at the last token only.
	NormKwargs *Norm  `json:"norm_kwargs,omitempty"` // of LayerNorm
	ActKwargs  *Act   `json:"act_kwargs,omitempty"`  // of GELU
	ProjBias   bool   `json:"proj_bias,omitempty"`   // the projection is a Linear with a bias
	ProjType   string `json:"proj_type,omitempty"`   // linear (or empty), or none: the feature has width values

	// Keys of a text tower of transformers, named as there and in OpenCLIP.
	Tower          string `json:"tower,omitempty"` // roberta (also XLM-RoBERTa) or m2m100; empty: depending on other keys
	Positions      int    `json:"max_position_embeddings,omitempty"`
	PadToken       int    `json:"pad_token_id,omitempty"` // is masked, and takes no position
	TokenTypes     int    `json:"type_vocab_size,omitempty"`
	ScaleEmbedding bool   `json:"scale_embedding,omitempty"` // by the square root of the width
	Pooler         string `json:"hf_pooler_type,omitempty"`  // mean_pooler, cls_pooler or cls_last_hidden_state_pooler
	Proj           string `json:"hf_proj_type,omitempty"`    // linear, mlp or none

	// Tokenizer names the tokenizer if it is not CLIP's BPE, and TokenizerKwargs how
	// texts are cleaned for it.
	Tokenizer       string `json:"hf_tokenizer_name,omitempty"`
	TokenizerKwargs *Clean `json:"tokenizer_kwargs,omitempty"`
}

// Clean is OpenCLIP's name of a way to clean texts: canonicalize, lower, or
// whitespace, the default if a tokenizer is named. StripSep replaces the token after
// a text with 0.
type Clean struct {
	Clean    string `json:"clean,omitempty"`
	StripSep bool   `json:"strip_sep_token,omitempty"`
}

// Norm are the arguments of a LayerNorm.
type Norm struct {
	Eps float64 `json:"eps"`
}

// Act are the arguments of a GELU.
type Act struct {
	Approximate string `json:"approximate"` // none, or tanh
}

// Layers is a number of transformer blocks, or the blocks of each stage.
type Layers []int

// UnmarshalJSON reads a number or a list of four or five.
func (l *Layers) UnmarshalJSON(b []byte) error {
	var n int
	if json.Unmarshal(b, &n) == nil {
		*l = Layers{n}
		return nil
	}
	var list []int
	if err := json.Unmarshal(b, &list); err != nil || len(list) != 4 && len(list) != 5 {
		return fmt.Errorf("layers %s: want a number or a list of four or five numbers", b)
	}
	*l = list
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (l Layers) MarshalJSON() ([]byte, error) {
	if len(l) == 1 {
		return json.Marshal(l[0])
	}
	return json.Marshal([]int(l))
}

// JSON is the canonical form of the configuration: Parse reads it back.
func (c *Config) JSON() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// A Config holds only numbers, strings and booleans, and none of them is NaN:
	// Parse is the only way to make one.
	if err := enc.Encode(c); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

// IsEVA reports whether the vision tower has EVA's block layout.
func (c *Config) IsEVA() bool { return c.Vision.EVAName != "" }

// IsResNet reports whether the vision tower is a ModifiedResNet.
func (c *Config) IsResNet() bool { return c.Vision.Tower == "" && len(c.Vision.Layers) == 4 }

// Family is eva, openai or openclip, or the kind of another vision tower. openai and
// openclip share one layout and differ in the activation and the ResNet.
func (c *Config) Family() string {
	switch {
	case c.Vision.Tower != "":
		return c.Vision.Tower
	case c.IsEVA():
		return "eva"
	case c.QuickGELU || c.IsResNet():
		return "openai"
	}
	return "openclip"
}

// VisionHeads is the number of attention heads of the vision tower (in a ResNet, of
// the attention pool).
func (c *Config) VisionHeads() int {
	if c.IsResNet() {
		return c.Vision.Width * 32 / c.Vision.HeadWidth
	}
	return c.Vision.Width / c.Vision.HeadWidth
}

// VisionHidden is the MLP width of the vision tower: int(width·ratio), 2730 for L/14.
func (c *Config) VisionHidden() int { return int(float64(c.Vision.Width) * c.Vision.MLPRatio) }

// TextHidden is the MLP width of the text tower.
func (c *Config) TextHidden() int { return int(float64(c.Text.Width) * c.Text.MLPRatio) }

// Grid is the number of patches per side (in a ResNet, of cells of the feature map).
func (c *Config) Grid() int {
	if c.IsResNet() {
		return c.Vision.ImageSize / 32
	}
	return c.Vision.ImageSize / c.Vision.PatchSize
}

// Tokens is the length of the vision tower's sequence, including a class token if
// there is one.
func (c *Config) Tokens() int {
	n := c.Grid() * c.Grid()
	if c.visionTower().class && !c.Vision.NoClass {
		n++
	}
	return n
}

// LayerScale reports whether the blocks of a tower have layer scale. In EVA's vision
// tower 0 means none; the others have it whenever the key is present.
func (c *Config) LayerScale(t Tower) bool {
	if t == TextTower {
		return c.Text.LSInit != nil
	}
	p := c.Vision.LSInit
	return p != nil && (*p > 0 || !c.IsEVA())
}

// PoolsEOS reports whether the text feature is taken at the token Text.EOS.
func (c *Config) PoolsEOS() bool { return c.Text.PoolType == "eos" }

// PoolsLast reports whether the text feature is taken at the last token of the
// context, padding or not.
func (c *Config) PoolsLast() bool { return c.Text.PoolType == "last" }

// EndOfText is the position in a text's tokens at which its feature is taken: that of
// the end-of-text id in the configuration, or 0 if tokens lack it; else that of the
// largest id; of several the first. If the feature is taken after the text it is the
// last position, and if padding is masked, the last before the padding.
func (c *Config) EndOfText(tokens []int32) int {
	switch {
	case c.IgnoresPadding():
		end := len(tokens) - 1
		for end > 0 && tokens[end] == int32(c.Text.PadToken) {
			end--
		}
		return end
	case c.PoolsEOS():
		return max(0, slices.Index(tokens, int32(*c.Text.EOS)))
	case c.PoolsLast(), c.Text.EmbedCLS:
		return len(tokens) - 1
	}
	return slices.Index(tokens, slices.Max(tokens))
}

// BERT is the repository that OpenCLIP's configurations call bert-base-uncased.
const BERT = "google-bert/bert-base-uncased"

// TokenizerRepository is the repository on the hub of the tokenizer that a
// configuration calls name: the oldest repositories had no owner.
func TokenizerRepository(name string) string {
	switch name {
	case "bert-base-uncased":
		return BERT
	case "roberta-base", "xlm-roberta-base", "xlm-roberta-large":
		return hfRoBERTaOwner + name
	}
	return name
}

// OtherTokenizer returns the repository of the tokenizer that texts need if it is not
// CLIP's BPE, and how texts are cleaned for it.
func (c *Config) OtherTokenizer() (name, clean string) {
	name, clean = c.Text.Tokenizer, "whitespace"
	if k := c.Text.TokenizerKwargs; k != nil && k.Clean != "" {
		clean = k.Clean
	}
	return TokenizerRepository(name), clean
}

// CheckTexts returns an error if the model cannot take texts as CLIP's BPE tokenizes
// them.
func (c *Config) CheckTexts() error {
	t := &c.Text
	switch {
	case t.Layers == 0:
		return fault.Inputf("has no text tower, which texts need; give a CLIP model")
	case t.Tokenizer != "":
		return fault.Inputf("its texts need the tokenizer %q, not CLIP's BPE; images work, and so do tokens made elsewhere (Options.Tensors of embed)", t.Tokenizer)
	case t.VocabSize < bpe.VocabSize:
		return fault.Inputf("its text tower knows only %d tokens, but CLIP's vocabulary has %d, so it cannot take class names; give another model", t.VocabSize, bpe.VocabSize)
	case t.VocabSize > bpe.VocabSize:
		return fault.Inputf("its text tower knows %d tokens, but CLIP's vocabulary has %d, so its texts need another tokenizer than CLIP's BPE; images work, and so do tokens made elsewhere (Options.Tensors of embed)", t.VocabSize, bpe.VocabSize)
	}
	return nil
}

// SameModel reports whether two configurations compute the same features from the
// same pixels and tokens. Pixels and Tokenizer do not count, nor does an end-of-text
// id that is the largest id anyway.
func (c *Config) SameModel(o *Config) bool {
	return string(c.model().JSON()) == string(o.model().JSON())
}

// Contradiction names a key of a tower that has another value in o although the tensors
// do not show it, such as the number of heads; empty if there is none.
func (c *Config) Contradiction(o *Config, t Tower) string {
	section, x, y := "vision_cfg.", reflect.ValueOf(c.model().Vision), reflect.ValueOf(o.model().Vision)
	if t == TextTower {
		section, x, y = "text_cfg.", reflect.ValueOf(c.model().Text), reflect.ValueOf(o.model().Text)
	}
	for i := range x.NumField() {
		key, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
		// The tensors show these; intp_freq only allows a grid other than pt_hw_seq_len.
		shown := slices.Contains([]string{"image_size", "patch_size", "layers", "ls_init_value", "intp_freq"}, key)
		if a, b := x.Field(i), y.Field(i); !shown && !reflect.DeepEqual(a.Interface(), b.Interface()) {
			return fmt.Sprintf("%s%s is %#v and not %#v", section, key, reflect.Indirect(b), reflect.Indirect(a))
		}
	}
	return ""
}

func (c *Config) model() *Config {
	m := *c
	m.Pixels, m.Text.Tokenizer, m.Text.TokenizerKwargs, m.CustomText = nil, "", nil, false
	// How the original code runs, trains or initialises the model does not matter.
	v, t := &m.Vision, &m.Text
	v.XAttn, v.FusedLN, v.DropPath, v.PatchDrop, t.XAttn, t.FusedLN = false, false, 0, 0, false, false
	if c.IsEVA() {
		v.EVAName = "eva"
	} else {
		v.QKVBias = true
	}
	if !v.RoPE {
		v.PtSeqLen, v.IntpFreq = 0, false
	}
	if v.PoolType == "tok" {
		v.PoolType = ""
	}
	some := 1.
	for _, s := range []struct {
		tower Tower
		at    **float64
	}{{VisualTower, &v.LSInit}, {TextTower, &t.LSInit}} {
		if *s.at = nil; c.LayerScale(s.tower) {
			*s.at = &some
		}
	}
	if m.LogitBias != nil {
		m.LogitBias = &some
	}
	v.MLPRatio, t.MLPRatio = ratio(c.VisionHidden(), v.Width), ratio(c.TextHidden(), t.Width)
	if m.PoolsEOS() && *m.Text.EOS == m.Text.VocabSize-1 {
		m.Text.PoolType, m.Text.EOS = "", nil
	}
	return &m
}

// Layers is the number of blocks of a tower, 0 for Other.
func (c *Config) Layers(t Tower) int {
	switch t {
	case VisualTower:
		n := 0
		for _, l := range c.Vision.Layers {
			n += l
		}
		return n
	case TextTower:
		return c.Text.Layers
	}
	return 0
}

// CLIPMean and CLIPStd are OpenAI's pixel statistics, which most later CLIP models
// use too.
var (
	CLIPMean = [3]float32{0.48145466, 0.4578275, 0.40821073}
	CLIPStd  = [3]float32{0.26862954, 0.26130258, 0.27577711}
)

// check refuses a configuration from which no model can be built.
func (c *Config) check() error {
	v, t := &c.Vision, &c.Text
	type bound struct {
		key      string
		n        float64
		min, max float64
	}
	bounds := []bound{
		{"embed_dim", float64(c.EmbedDim), 1, 1 << 16},
		{"vision_cfg.image_size", float64(v.ImageSize), 1, 1 << 13},
		{"vision_cfg.width", float64(v.Width), 1, 1 << 16},
		{"vision_cfg.head_width", float64(v.HeadWidth), 1, 1 << 16},
		{"vision_cfg.mlp_ratio", v.MLPRatio, 1e-6, 64},
		{"vision_cfg.layers", float64(c.Layers(VisualTower)), 1, 1024},
		{"vision_cfg.drop_path_rate", v.DropPath, 0, 1},
		{"vision_cfg.patch_dropout", v.PatchDrop, 0, 1},
		{"text_cfg.context_length", float64(t.ContextLength), 1, 1 << 16},
		{"text_cfg.vocab_size", float64(t.VocabSize), 1, 1 << 24},
		{"text_cfg.width", float64(t.Width), 1, 1 << 16},
		{"text_cfg.heads", float64(t.Heads), 1, 1 << 12},
		{"text_cfg.layers", float64(t.Layers), 1, 1024},
		{"text_cfg.mlp_ratio", t.MLPRatio, 1e-6, 64},
	}
	if c.PoolsEOS() {
		bounds = append(bounds, bound{"text_cfg.eos_id", float64(*t.EOS), 0, 1 << 31})
	}
	for _, l := range v.Layers {
		bounds = append(bounds, bound{"vision_cfg.layers", float64(l), 1, 1024})
	}
	if kind := c.visionTower(); kind.params == nil {
		return fmt.Errorf("vision_cfg.tower %q: want %s", v.Tower, strings.Join(towerKinds(), ", "))
	} else if kind.patches {
		bounds = append(bounds, bound{"vision_cfg.patch_size", float64(v.PatchSize), 1, float64(v.ImageSize)})
	}
	if v.RoPE {
		bounds = append(bounds, bound{"vision_cfg.pt_hw_seq_len", float64(v.PtSeqLen), 1, 1 << 12})
	}
	for _, b := range bounds {
		if !(b.n >= b.min && b.n <= b.max) || math.IsInf(b.n, 0) {
			return fmt.Errorf("%s is %v; want %v to %v", b.key, b.n, b.min, b.max)
		}
	}
	if t.Width%t.Heads != 0 {
		return fmt.Errorf("text_cfg.width %d is not a multiple of heads %d", t.Width, t.Heads)
	}
	if err := c.checkText(); err != nil {
		return err
	}
	if c.Pixels != nil {
		if err := c.Pixels.check(); err != nil {
			return fmt.Errorf("preprocess_cfg.%w", err)
		}
	}
	return c.checkVision()
}

func (c *Config) checkVision() error {
	v := &c.Vision
	if c.VisionHidden() < 1 || c.TextHidden() < 1 {
		return fmt.Errorf("vision_cfg.mlp_ratio %v or text_cfg.mlp_ratio %v leaves no hidden units", v.MLPRatio, c.Text.MLPRatio)
	}
	if !c.IsEVA() {
		for _, k := range []struct {
			key string
			set bool
		}{{"rope", v.RoPE}, {"naiveswiglu", v.SwiGLU}, {"subln", v.SubLN}, {"postnorm", v.PostNorm}, {"use_rms_norm", v.RMSNorm}, {"no_head_bias", v.NoHeadBias}} {
			if k.set {
				return fmt.Errorf("vision_cfg.%s needs eva_model_name, which marks the tower as EVA's", k.key)
			}
		}
	}
	return c.visionTower().check(c)
}

func checkResNet(c *Config) error {
	v := &c.Vision
	switch {
	case c.IsEVA():
		return fmt.Errorf("vision_cfg: a list of layers (ResNet) and eva_model_name exclude each other")
	case v.ImageSize%32 != 0:
		return fmt.Errorf("vision_cfg.image_size %d is not a multiple of 32, which a ResNet needs", v.ImageSize)
	case v.Width%2 != 0 || v.Width*32%v.HeadWidth != 0:
		return fmt.Errorf("vision_cfg.width %d: want an even number, and 32 times it a multiple of head_width %d", v.Width, v.HeadWidth)
	}
	return checkAct(c)
}

// checkViT checks EVA's, OpenAI's and OpenCLIP's transformers.
func checkViT(c *Config) error {
	v := &c.Vision
	if err := checkHeads(c); err != nil {
		return err
	}
	if v.PoolType != "" && v.PoolType != "tok" && v.PoolType != "avg" {
		return fmt.Errorf("vision_cfg.pool_type %q: want tok or avg", v.PoolType)
	}
	if v.RoPE {
		if v.HeadWidth%4 != 0 {
			return fmt.Errorf("vision_cfg.head_width %d: rope needs a multiple of 4", v.HeadWidth)
		}
		if !v.IntpFreq && v.PtSeqLen != c.Grid() {
			return fmt.Errorf("vision_cfg.pt_hw_seq_len %d: without intp_freq it must be the grid, %d", v.PtSeqLen, c.Grid())
		}
	}
	return checkAct(c)
}

// checkHeads refuses a width that is not a whole number of heads.
func checkHeads(c *Config) error {
	if v := &c.Vision; v.Width%v.HeadWidth != 0 {
		return fmt.Errorf("vision_cfg.width %d is not a multiple of head_width %d", v.Width, v.HeadWidth)
	}
	return nil
}

// checkAct refuses Act in a tower without a choice.
func checkAct(c *Config) error {
	if v := &c.Vision; v.Act != "" {
		return fmt.Errorf("vision_cfg.act %q needs a tower with a choice of activation; %s has quick_gelu", v.Act, c.VisionTower())
	}
	return nil
}
