package arch

import (
	"fmt"
	"strings"
)

// Tower is the part of the model that a tensor belongs to.
type Tower int

// The towers; Other is the logit scale and the logit bias.
const (
	Other Tower = iota
	VisualTower
	TextTower
)

// String is visual, text or other.
func (t Tower) String() string { return [...]string{"other", "visual", "text"}[t] }

// Param is one tensor of a model.
type Param struct {
	Name  string  // eva layout
	Shape []int64 // empty: a scalar
	Tower Tower
	// Layer is the position for layer-wise learning-rate decay: 0 for
	// embeddings, n+1 for block n, Layers(Tower)+1 for the rest.
	Layer int
	// NoDecay: exempt from weight decay (biases, norms and other vectors, position
	// embeddings, class token, logit scale).
	NoDecay bool
	// Buffer: BatchNorm statistics, needed by the model but not trained.
	Buffer bool
}

// Params lists every tensor of the model in the eva layout (visual.…, text.…,
// logit_scale, logit_bias), in the order of the original state dict. RoPE tables are
// computed, not stored, and never listed.
func (c *Config) Params() []Param {
	b := &builder{cfg: c}
	b.add("logit_scale")
	if c.LogitBias != nil {
		b.add("logit_bias")
	}
	c.visionTower().params(b)
	b.text()
	return b.params
}

// NumParams is the number of trainable values of a tower.
func (c *Config) NumParams(t Tower) int64 {
	var n int64
	for _, p := range c.Params() {
		if p.Tower == t && !p.Buffer {
			n += elems(p.Shape)
		}
	}
	return n
}

// TotalParams is the number of trainable values of the model.
func (c *Config) TotalParams() int64 {
	return c.NumParams(VisualTower) + c.NumParams(TextTower) + c.NumParams(Other)
}

func elems(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

type builder struct {
	cfg    *Config
	params []Param
}

// undecayed are the matrices without weight decay.
var undecayed = map[string]bool{
	"visual.cls_token": true, "visual.pos_embed": true,
	"visual.positional_embedding": true, "text.positional_embedding": true,
}

func (b *builder) add(name string, shape ...int) {
	p := Param{Name: name}
	for _, d := range shape {
		p.Shape = append(p.Shape, int64(d))
	}
	if t, _, ok := strings.Cut(name, "."); ok {
		p.Tower = map[string]Tower{"visual": VisualTower, "text": TextTower}[t]
	}
	p.NoDecay = len(shape) < 2 || undecayed[name]
	p.Buffer = strings.HasSuffix(name, ".running_mean") || strings.HasSuffix(name, ".running_var")
	p.Layer = layerOf(name, b.cfg.Layers(p.Tower))
	b.params = append(b.params, p)
}

// embeddings are the tensors that layer decay counts as below the first block. As in
// the original (training/optim.py), OpenAI's class_embedding is not among them: it
// trains at the full rate.
var embeddings = []string{
	"visual.cls_token", "visual.pos_embed", "visual.patch_embed.", "visual.conv1.", "visual.positional_embedding",
	"text.token_embedding.", "text.positional_embedding",
}

func layerOf(name string, layers int) int {
	for _, e := range embeddings {
		if strings.HasPrefix(name, e) {
			return 0
		}
	}
	var n int
	for _, f := range []string{"visual.blocks.%d.", "visual.transformer.resblocks.%d.", "text.transformer.resblocks.%d."} {
		if _, err := fmt.Sscanf(name, f, &n); err == nil {
			return n + 1
		}
	}
	return layers + 1
}

// affine adds weight and bias.
func (b *builder) affine(name string, shape ...int) {
	b.add(name+".weight", shape...)
	b.add(name+".bias", shape[0])
}

// evaNorm adds a LayerNorm, or an RMSNorm without bias.
func (b *builder) evaNorm(name string, width int) {
	b.add(name+".weight", width)
	if !b.cfg.Vision.RMSNorm {
		b.add(name+".bias", width)
	}
}

func (b *builder) evaVision() {
	c, v := b.cfg, &b.cfg.Vision
	w, hidden := v.Width, c.VisionHidden()
	b.add("visual.cls_token", 1, 1, w)
	b.add("visual.pos_embed", 1, c.Tokens(), w)
	b.affine("visual.patch_embed.proj", w, 3, v.PatchSize, v.PatchSize)
	for i := range c.Layers(VisualTower) {
		p := fmt.Sprintf("visual.blocks.%d.", i)
		if c.LayerScale(VisualTower) {
			b.add(p+"gamma_1", w)
			b.add(p+"gamma_2", w)
		}
		b.evaNorm(p+"norm1", w)
		if v.QKVBias {
			b.add(p+"attn.q_bias", w)
			b.add(p+"attn.v_bias", w)
		}
		if v.SubLN {
			b.add(p+"attn.q_proj.weight", w, w)
			b.add(p+"attn.k_proj.weight", w, w)
			b.add(p+"attn.v_proj.weight", w, w)
			b.evaNorm(p+"attn.inner_attn_ln", w)
		} else {
			b.add(p+"attn.qkv.weight", 3*w, w)
		}
		b.affine(p+"attn.proj", w, w)
		b.evaNorm(p+"norm2", w)
		if v.SwiGLU {
			b.affine(p+"mlp.w1", hidden, w)
			b.affine(p+"mlp.w2", hidden, w)
		} else {
			b.affine(p+"mlp.fc1", hidden, w)
		}
		switch {
		case v.SubLN && v.SwiGLU:
			b.evaNorm(p+"mlp.ffn_ln", hidden)
		case v.SubLN:
			b.affine(p+"mlp.ffn_ln", hidden)
		}
		if v.SwiGLU {
			b.affine(p+"mlp.w3", w, hidden)
		} else {
			b.affine(p+"mlp.fc2", w, hidden)
		}
	}
	if v.AveragePool {
		b.evaNorm("visual.fc_norm", w)
	} else {
		b.evaNorm("visual.norm", w)
	}
	b.add("visual.head.weight", c.EmbedDim, w)
	if !v.NoHeadBias {
		b.add("visual.head.bias", c.EmbedDim)
	}
}

// resblocks adds a transformer in OpenAI's layout.
func (b *builder) resblocks(prefix string, t Tower, width, hidden int) {
	for i := range b.cfg.Layers(t) {
		p := fmt.Sprintf("%s.resblocks.%d.", prefix, i)
		b.affine(p+"ln_1", width)
		b.add(p+"attn.in_proj_weight", 3*width, width)
		b.add(p+"attn.in_proj_bias", 3*width)
		b.affine(p+"attn.out_proj", width, width)
		if b.cfg.LayerScale(t) {
			b.add(p+"ls_1.gamma", width)
		}
		b.affine(p+"ln_2", width)
		b.affine(p+"mlp.c_fc", hidden, width)
		b.affine(p+"mlp.c_proj", width, hidden)
		if b.cfg.LayerScale(t) {
			b.add(p+"ls_2.gamma", width)
		}
	}
}

func (b *builder) openAIVision() {
	c, v := b.cfg, &b.cfg.Vision
	b.add("visual.class_embedding", v.Width)
	b.add("visual.positional_embedding", c.Tokens(), v.Width)
	b.add("visual.proj", v.Width, c.EmbedDim)
	b.add("visual.conv1.weight", v.Width, 3, v.PatchSize, v.PatchSize)
	if !v.NoLnPre {
		b.affine("visual.ln_pre", v.Width)
	}
	b.resblocks("visual.transformer", VisualTower, v.Width, c.VisionHidden())
	b.affine("visual.ln_post", v.Width)
}

func (b *builder) text() {
	c, t := b.cfg, &b.cfg.Text
	if t.Tower != "" {
		textTowers[t.Tower].params(b)
		return
	}
	b.add("text.positional_embedding", c.TextPositions(), t.Width)
	if t.EmbedCLS {
		b.add("text.cls_emb", t.Width)
	}
	b.textProjection()
	b.resblocks("text.transformer", TextTower, t.Width, c.TextHidden())
	b.add("text.token_embedding.weight", t.VocabSize, t.Width)
	b.affine("text.ln_final", t.Width)
}

// Conv is one convolution of a ModifiedResNet, followed by BatchNorm Norm.
type Conv struct {
	Name, Norm      string
	In, Out, Kernel int
	Stride          int // of the convolution itself: 2 only for the first of the stem
}

// Bottleneck is one block of a ModifiedResNet. Its stride is an average pool before
// conv3 and before the downsampling convolution.
type Bottleneck struct {
	Name       string // visual.layer1.0
	Convs      [3]Conv
	Stride     int
	Downsample *Conv
}

// Stem lists the three convolutions before the blocks of a ModifiedResNet.
func (c *Config) Stem() []Conv {
	w := c.Vision.Width
	return []Conv{
		{"visual.conv1", "visual.bn1", 3, w / 2, 3, 2},
		{"visual.conv2", "visual.bn2", w / 2, w / 2, 3, 1},
		{"visual.conv3", "visual.bn3", w / 2, w, 3, 1},
	}
}

// Bottlenecks lists the blocks of a ModifiedResNet.
func (c *Config) Bottlenecks() []Bottleneck {
	var out []Bottleneck
	in := c.Vision.Width
	for stage, n := range c.Vision.Layers {
		planes := c.Vision.Width << stage
		for i := range n {
			name := fmt.Sprintf("visual.layer%d.%d", stage+1, i)
			blk := Bottleneck{Name: name, Stride: 1, Convs: [3]Conv{
				{name + ".conv1", name + ".bn1", in, planes, 1, 1},
				{name + ".conv2", name + ".bn2", planes, planes, 3, 1},
				{name + ".conv3", name + ".bn3", planes, 4 * planes, 1, 1},
			}}
			if i == 0 && stage > 0 {
				blk.Stride = 2
			}
			if blk.Stride > 1 || in != 4*planes {
				blk.Downsample = &Conv{name + ".downsample.0", name + ".downsample.1", in, 4 * planes, 1, 1}
			}
			in = 4 * planes
			out = append(out, blk)
		}
	}
	return out
}

func (b *builder) conv(c Conv) {
	b.add(c.Name+".weight", c.Out, c.In, c.Kernel, c.Kernel)
	b.affine(c.Norm, c.Out)
	b.add(c.Norm+".running_mean", c.Out)
	b.add(c.Norm+".running_var", c.Out)
}

func (b *builder) resnet() {
	c := b.cfg
	for _, s := range c.Stem() {
		b.conv(s)
	}
	for _, blk := range c.Bottlenecks() {
		for _, s := range blk.Convs {
			b.conv(s)
		}
		if blk.Downsample != nil {
			b.conv(*blk.Downsample)
		}
	}
	w := c.Vision.Width * 32
	b.add("visual.attnpool.positional_embedding", c.Tokens(), w)
	b.affine("visual.attnpool.k_proj", w, w)
	b.affine("visual.attnpool.q_proj", w, w)
	b.affine("visual.attnpool.v_proj", w, w)
	b.affine("visual.attnpool.c_proj", c.EmbedDim, w)
}
