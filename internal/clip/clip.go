// Package clip is the CLIP model as a computation graph: pure functions of a
// configuration and its weights.
package clip

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
)

// Weights maps a tensor's name in the eva layout to its node.
type Weights map[string]*graph.Node

// Options change how a tower is computed, not what.
type Options struct {
	// DType is the compute dtype of products and activations: Float32 (also
	// when left zero), BFloat16 or Float16. Norms and softmax are Float32.
	DType dtypes.DType
	// KeepPatches keeps only these patches of each image, int32 [B,K] in
	// 0…patches-1; nil keeps all. The class token always stays.
	KeepPatches *graph.Node
	// DropPath is applied to the output of every residual branch; nil does nothing.
	DropPath func(x *graph.Node, tower arch.Tower, layer int) *graph.Node
	// Checkpoint recomputes each block in the backward pass.
	Checkpoint bool
	// Capture is called with the output of every block and of a few other
	// places, under the names of the original modules.
	Capture func(name string, x *graph.Node)
}

// Image is the image tower: images [B,3,H,W] Float32, normalised, to features
// [B,embed] Float32, not L2-normalised.
func Image(cfg *arch.Config, w Weights, images *graph.Node, opt Options) *graph.Node {
	panic("clip: not built yet")
}

// Text is the text tower: tokens [B,context] int32 to features [B,embed]
// Float32, not L2-normalised.
func Text(cfg *arch.Config, w Weights, tokens *graph.Node, opt Options) *graph.Node {
	panic("clip: not built yet")
}

// Normalize divides each row by its L2 norm.
func Normalize(x *graph.Node) *graph.Node {
	return graph.L2Normalize(x, -1)
}
