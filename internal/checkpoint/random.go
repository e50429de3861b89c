package checkpoint

import (
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// distribution is how the values of a tensor are drawn.
type distribution struct {
	kind  drawKind
	scale float64 // value, standard deviation or half width
}

type drawKind int

const (
	constant drawKind = iota
	normal            // truncated at ±2, as in timm's trunc_normal_ by default
	uniform
)

// RandomTensor draws the initial values of a parameter, row-major. They depend
// only on the configuration, the seed, and the parameter's name and shape.
//
// EVA's tower: linear layers and the patch embedding truncated normal 0.02, the
// projections proj and w3 (fc2) of block i divided by sqrt(2i), biases 0. The
// text tower: OpenAI's. logit_scale: ln(1/0.07). Other towers: OpenCLIP's.
func RandomTensor(c *arch.Config, p arch.Param, seed uint64) []float32 {
	g := newGenerator(c, p, seed)
	out := make([]float32, elems(p.Shape))
	for i := range out {
		out[i] = g.next()
	}
	return out
}

func elems(shape []int64) int64 { return tensorfile.Info{Shape: shape}.Elems() }

type generator struct {
	distribution
	rng *rand.Rand
}

func newGenerator(c *arch.Config, p arch.Param, seed uint64) *generator {
	h := fnv.New64a()
	h.Write([]byte(p.Name))
	return &generator{initial(c, p), rand.New(rand.NewPCG(seed, h.Sum64()))}
}

func (g *generator) next() float32 {
	switch g.kind {
	case normal:
		for {
			if v := g.rng.NormFloat64() * g.scale; math.Abs(v) <= 2 {
				return float32(v)
			}
		}
	case uniform:
		return float32((2*g.rng.Float64() - 1) * g.scale)
	}
	return float32(g.scale)
}

// initial is the distribution of a parameter.
func initial(c *arch.Config, p arch.Param) distribution {
	name := p.Name
	if name == "logit_scale" {
		return distribution{constant, math.Log(1 / 0.07)}
	}
	if strings.HasSuffix(name, ".running_var") {
		return distribution{constant, 1}
	}
	if strings.HasSuffix(name, ".running_mean") {
		return distribution{constant, 0}
	}
	if name == "logit_bias" {
		return distribution{constant, *c.LogitBias}
	}
	if p.Tower == arch.TextTower {
		return initialText(c, p)
	}
	return initialVision[c.VisionTower()](c, p)
}

// initialVision holds the distributions by kind of tower.
var initialVision = map[string]func(*arch.Config, arch.Param) distribution{
	"eva": initialEVA, "resnet": initialResNet, "vit": initialViT, "siglip": initialSigLIP,
	"convnext": initialTimm, "vitamin": initialTimm, "fastvit": initialTimm,
	"pe": initialSigLIP, "mobileclip": initialTimm, "coca": initialViT,
}

// fanIn is PyTorch's default for linear layers and convolutions, weight and bias:
// uniform within ±1/sqrt(inputs).
func fanIn(inputs int64) distribution {
	return distribution{uniform, 1 / math.Sqrt(float64(inputs))}
}

func initialEVA(c *arch.Config, p arch.Param) distribution {
	var block int
	fmt.Sscanf(p.Name, "visual.blocks.%d.", &block)
	switch {
	case strings.Contains(p.Name, ".gamma_"):
		return distribution{constant, *c.Vision.LSInit}
	case strings.HasSuffix(p.Name, "attn.proj.weight"), strings.HasSuffix(p.Name, "mlp.w3.weight"), strings.HasSuffix(p.Name, "mlp.fc2.weight"):
		return distribution{normal, 0.02 / math.Sqrt(2*float64(block+1))}
	case len(p.Shape) > 1:
		return distribution{normal, 0.02}
	case strings.HasSuffix(p.Name, ".weight"):
		return distribution{constant, 1}
	}
	return distribution{constant, 0}
}

func initialText(c *arch.Config, p arch.Param) distribution {
	if c.Text.Tower != "" {
		return initialHFText(c, p)
	}
	width := float64(c.Text.Width)
	std := map[string]float64{
		"token_embedding.weight": 0.02,
		"positional_embedding":   0.01,
		"text_projection":        1 / math.Sqrt(width),
		"text_projection.weight": 1 / math.Sqrt(width),
		"attn.in_proj_weight":    1 / math.Sqrt(width),
		"attn.out_proj.weight":   1 / math.Sqrt(width) / math.Sqrt(2*float64(c.Text.Layers)),
		"mlp.c_fc.weight":        1 / math.Sqrt(2*width),
		"mlp.c_proj.weight":      1 / math.Sqrt(width) / math.Sqrt(2*float64(c.Text.Layers)),
	}
	for suffix, s := range std {
		if strings.HasSuffix(p.Name, suffix) {
			return distribution{normal, s}
		}
	}
	if d, ok := blockVector(c, p, arch.TextTower, c.Text.Width, c.TextHidden()); ok {
		return d
	}
	return distribution{constant, 0}
}

// initialHFText is the default of transformers for its text models, and PyTorch's
// for OpenCLIP's projection.
func initialHFText(_ *arch.Config, p arch.Param) distribution {
	switch {
	case strings.HasPrefix(p.Name, "text.proj."):
		return fanIn(p.Shape[1])
	case len(p.Shape) > 1:
		return distribution{normal, 0.02}
	case strings.HasSuffix(p.Name, ".weight"):
		return distribution{constant, 1}
	}
	return distribution{constant, 0}
}

// blockVector covers the vectors of a transformer in OpenAI's layout.
func blockVector(c *arch.Config, p arch.Param, t arch.Tower, width, hidden int) (distribution, bool) {
	switch {
	case strings.HasSuffix(p.Name, "ls_1.gamma"), strings.HasSuffix(p.Name, "ls_2.gamma"):
		ls := c.Vision.LSInit
		if t == arch.TextTower {
			ls = c.Text.LSInit
		}
		return distribution{constant, *ls}, true
	case strings.HasSuffix(p.Name, "mlp.c_fc.bias"):
		return fanIn(int64(width)), true
	case strings.HasSuffix(p.Name, "mlp.c_proj.bias"):
		return fanIn(int64(hidden)), true
	case len(p.Shape) == 1 && strings.HasSuffix(p.Name, ".weight"):
		return distribution{constant, 1}, true
	}
	return distribution{}, false
}

func initialViT(c *arch.Config, p arch.Param) distribution {
	width := float64(c.Vision.Width)
	switch {
	case strings.HasSuffix(p.Name, "_embedding"), p.Name == "visual.proj":
		return distribution{normal, 1 / math.Sqrt(width)}
	case strings.HasSuffix(p.Name, "attn.in_proj_weight"): // Xavier, uniform
		return distribution{uniform, math.Sqrt(6 / (4 * width))}
	case len(p.Shape) > 1:
		return fanIn(elems(p.Shape[1:]))
	}
	if d, ok := blockVector(c, p, arch.VisualTower, c.Vision.Width, c.VisionHidden()); ok {
		return d
	}
	return distribution{constant, 0}
}

// initialSigLIP is timm's default for its VisionTransformer: truncated normal
// 0.02 for matrices, and its own for positions and the attention pool's query.
func initialSigLIP(c *arch.Config, p arch.Param) distribution {
	switch {
	case p.Name == "visual.attn_pool.latent":
		return distribution{normal, 1 / math.Sqrt(float64(c.Vision.Width))}
	case p.Name == "visual.patch_embed.proj.weight":
		return fanIn(elems(p.Shape[1:]))
	case len(p.Shape) > 1:
		return distribution{normal, 0.02}
	case strings.HasSuffix(p.Name, ".weight"):
		return distribution{constant, 1}
	}
	return distribution{constant, 0}
}

// initialTimm is timm's default for its towers with convolutions: truncated normal
// 0.02, and layer scales so small that blocks start as their shortcuts.
func initialTimm(_ *arch.Config, p arch.Param) distribution {
	switch {
	case strings.HasSuffix(p.Name, "gamma"):
		return distribution{constant, 1e-6}
	case len(p.Shape) > 1:
		return distribution{normal, 0.02}
	case strings.HasSuffix(p.Name, ".weight"), strings.HasSuffix(p.Name, ".running_var"):
		return distribution{constant, 1}
	}
	return distribution{constant, 0}
}

func initialResNet(_ *arch.Config, p arch.Param) distribution {
	switch {
	case strings.HasSuffix(p.Name, "attnpool.positional_embedding"), strings.Contains(p.Name, "attnpool.") && len(p.Shape) == 2:
		return distribution{normal, 1 / math.Sqrt(float64(p.Shape[1]))}
	case strings.HasSuffix(p.Name, "bn3.weight") && strings.Contains(p.Name, ".layer"): // every block starts as its shortcut
		return distribution{constant, 0}
	case len(p.Shape) > 1:
		return fanIn(elems(p.Shape[1:]))
	case strings.HasSuffix(p.Name, ".weight"):
		return distribution{constant, 1}
	}
	return distribution{constant, 0}
}

// RandomSource is a model as training starts it: RandomTensor's values, drawn on
// demand.
func RandomSource(c *arch.Config, seed uint64) tensorfile.Source { return newRandomSource(c, seed) }

type randomSource struct {
	config *arch.Config
	params map[string]arch.Param
	seed   uint64
	scale  map[string]float64 // factor, by name
}

func newRandomSource(c *arch.Config, seed uint64) *randomSource {
	s := &randomSource{config: c, params: map[string]arch.Param{}, seed: seed, scale: map[string]float64{}}
	for _, p := range c.Params() {
		s.params[p.Name] = p
	}
	return s
}

func (s *randomSource) Tensors() []tensorfile.Info {
	var out []tensorfile.Info
	for _, p := range s.config.Params() {
		out = append(out, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	return out
}

func (s *randomSource) Open(name string) (io.ReadCloser, error) {
	p, ok := s.params[name]
	if !ok {
		return nil, fault.Inputf("no tensor %s in the architecture", name)
	}
	g := newGenerator(s.config, p, s.seed)
	if f, ok := s.scale[name]; ok {
		g.scale *= f
	}
	return io.NopCloser(&randomReader{g: g, left: elems(p.Shape)}), nil
}

func (s *randomSource) Extent(string) (*os.File, int64, bool) { return nil, 0, false }

func (s *randomSource) Metadata() map[string]string { return nil }

func (s *randomSource) Close() error { return nil }

// randomReader is the stream of a random tensor's bytes.
type randomReader struct {
	g    *generator
	left int64  // values
	rest []byte // of a value that did not fit
}

func (r *randomReader) Read(b []byte) (n int, err error) {
	n = copy(b, r.rest)
	r.rest = r.rest[n:]
	for ; len(b)-n >= 4 && r.left > 0; n += 4 {
		le.PutUint32(b[n:], math.Float32bits(r.g.next()))
		r.left--
	}
	if n == 0 && len(b) > 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		var v [4]byte
		le.PutUint32(v[:], math.Float32bits(r.g.next()))
		r.left--
		n = copy(b, v[:])
		r.rest = append(r.rest[:0], v[n:]...)
	}
	return n, nil
}
