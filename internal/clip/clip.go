// Package clip is the CLIP model as a computation graph: pure functions of a
// configuration and its weights.
//
// A graph function panics when a weight is missing or has another shape; the
// device package turns that into an error.
package clip

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
)

// Node is a value of the graph.
type Node = graph.Node

// Weights maps a tensor's name in the eva layout to its node. The nodes may
// have any float dtype.
type Weights map[string]*Node

// Options change how a tower is computed, not what.
type Options struct {
	// DType is the compute dtype of products and activations: Float32 (also
	// when left zero), BFloat16 or Float16. Norms and softmax are Float32.
	DType dtypes.DType
	// KeepPatches keeps only these patches of each image: int32 [B,K], values
	// 0…patches-1; nil keeps all. They keep their own positions (embedding and
	// RoPE), and the class token stays.
	KeepPatches *Node
	// DropPath is applied to the output of every residual branch (the first of a
	// block has number 0), which is [B,tokens,width]. nil does nothing.
	DropPath func(x *Node, tower arch.Tower, layer, branch int) *Node
	// Block is called for each block with the output of the one before, and returns
	// the input of the next. run computes the block, also of another input and more
	// than once; with, unless it is nil, gives what is used in place of a weight.
	// A nil Block runs each block once.
	Block func(x *Node, tower arch.Tower, layer int, run func(x *Node, with func(w *Node) *Node) *Node) *Node
	// Capture is called with the output of every block and of a few other
	// modules, under the names that these have in the eva layout. It makes the
	// last block compute every token.
	Capture func(name string, x *Node)
}

// tower is what the layers of one tower need to know.
type tower struct {
	cfg   *arch.Config
	w     Weights
	opt   Options
	which arch.Tower
	dtype dtypes.DType
	eps   float64 // of LayerNorm
	// norm is what the configuration uses as LayerNorm.
	norm func(x *Node, name string, eps float64) *Node
	act  func(x *Node) *Node // of OpenAI's blocks

	// Of the block that is computed:
	with  func(w *Node) *Node // what is used in place of a weight; may be nil
	asked int                 // how many residual branches it had
}

func newTower(cfg *arch.Config, w Weights, opt Options, which arch.Tower) *tower {
	t := &tower{cfg: cfg, w: w, opt: opt, which: which, dtype: opt.DType, eps: 1e-5}
	if t.dtype == dtypes.InvalidDType {
		t.dtype = dtypes.Float32
	}
	t.norm, t.act = t.layerNorm, gelu
	if cfg.QuickGELU {
		t.act = quickGELU
	}
	if cfg.Vision.RMSNorm && which == arch.VisualTower {
		t.norm = t.rmsNorm
	}
	return t
}

// weight is the tensor as stored.
func (t *tower) weight(name string) *Node {
	n, ok := t.w[name]
	if !ok {
		panic(fmt.Errorf("clip: the weights have no tensor %s", name))
	}
	if t.with != nil {
		n = t.with(n)
	}
	return n
}

// cast is the tensor in the compute dtype.
func (t *tower) cast(name string) *Node { return to(t.weight(name), t.dtype) }

// block is f, the block of this number, on x.
func (t *tower) block(x *Node, layer int, f func(x *Node) *Node) *Node {
	run := func(x *Node, with func(w *Node) *Node) *Node {
		t.with, t.asked = with, 0
		defer func() { t.with = nil }()
		return f(x)
	}
	if t.opt.Block == nil {
		return run(x, nil)
	}
	return t.opt.Block(x, t.which, layer, run)
}

func (t *tower) capture(name string, x *Node) {
	if t.opt.Capture != nil {
		t.opt.Capture(name, to(x, dtypes.Float32))
	}
}

// to converts where need be.
func to(x *Node, dtype dtypes.DType) *Node {
	if x.DType() == dtype {
		return x
	}
	return graph.ConvertDType(x, dtype)
}

// imageTowers and textTowers are the graphs of the kinds that package arch
// knows. A new kind is a file of its own and a line here.
var (
	imageTowers = map[string]func(t *tower, images *Node) *Node{
		"eva": (*tower).evaVision, "resnet": (*tower).resnet, "vit": (*tower).openAIVision, "siglip": (*tower).siglipVision,
		"convnext": (*tower).convnext, "vitamin": (*tower).vitamin, "fastvit": (*tower).fastvit,
		"pe": (*tower).peVision, "mobileclip": (*tower).mobileclip, "coca": (*tower).cocaVision,
	}
	textTowers = map[string]func(t *tower, tokens *Node) *Node{
		"clip": (*tower).text, "siglip": (*tower).siglipText, "coca": (*tower).cocaText,
		"roberta": (*tower).robertaText, "m2m100": (*tower).m2m100Text,
	}
)

// Image is the image tower: images [B,3,H,W] Float32, normalised, to features
// [B,embed] Float32, not L2-normalised.
func Image(cfg *arch.Config, w Weights, images *Node, opt Options) *Node {
	t := newTower(cfg, w, opt, arch.VisualTower)
	return to(imageTowers[cfg.VisionTower()](t, to(images, t.dtype)), dtypes.Float32)
}

// Text is the text tower: tokens [B,N] int32, N at most the context, to
// features [B,embed] Float32, not L2-normalised. The feature is taken at the end
// of the text: the first largest token id, or the first that the configuration
// names, or the last.
func Text(cfg *arch.Config, w Weights, tokens *Node, opt Options) *Node {
	t := newTower(cfg, w, opt, arch.TextTower)
	return to(textTowers[cfg.TextTower()](t, tokens), dtypes.Float32)
}

// Normalize divides each row by its L2 norm.
func Normalize(x *Node) *Node { return graph.L2Normalize(x, -1) }
