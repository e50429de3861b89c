package clip

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
)

// ropeAngles are EVA-02's rotation angles [patches][HeadWidth/2]: one for each
// pair of neighbouring features. The first half of a head turns with the row,
// the second with the column; position p of a grid of n counts as p/n·pt, pt
// being the grid of the pretraining (VisionRotaryEmbeddingFast of EVA-CLIP).
func ropeAngles(cfg *arch.Config) [][]float64 {
	const theta = 10000
	grid := cfg.Grid()
	quarter := cfg.Vision.HeadWidth / 4
	angles := make([][]float64, 0, grid*grid)
	for row := range grid {
		for col := range grid {
			a := make([]float64, 0, 2*quarter)
			for _, p := range []int{row, col} {
				pos := float64(p) / float64(grid) * float64(cfg.Vision.PtSeqLen)
				for i := range quarter {
					a = append(a, pos*math.Pow(theta, -float64(i)/float64(quarter)))
				}
			}
			angles = append(angles, a)
		}
	}
	return angles
}

// rope is the rotation of queries and keys: [1 or B, tokens, 1, HeadWidth],
// Float32. sin is negative at even features.
type rope struct{ cos, sin *Node }

// newRope makes the tables. The class token's row does not turn. keep [B,K]
// (or nil) says which patches are there.
func newRope(g *graph.Graph, cfg *arch.Config, keep *Node) *rope {
	return ropeOf(g, append([][]float64{make([]float64, cfg.Vision.HeadWidth/2)}, ropeAngles(cfg)...), keep)
}

// ropeOf makes the tables of the angles [tokens][HeadWidth/2]; with keep the first
// is the class token's.
func ropeOf(g *graph.Graph, angles [][]float64, keep *Node) *rope {
	d := 2 * len(angles[0])
	table := func(of func(float64) float64, even float32) *Node {
		rows := make([][]float32, 0, len(angles))
		for _, a := range angles {
			row := make([]float32, 0, d)
			for _, x := range a {
				v := float32(of(x))
				row = append(row, even*v, v)
			}
			rows = append(rows, row)
		}
		t := graph.Const(g, rows)
		if keep == nil {
			return graph.Reshape(t, 1, -1, 1, d)
		}
		b := keep.Shape().Dim(0)
		// Row 0 is the class token's.
		all := graph.Concatenate([]*Node{graph.Zeros(g, shapeI32(b, 1)), graph.AddScalar(keep, 1)}, 1)
		return graph.InsertAxes(graph.Gather(t, graph.InsertAxes(all, -1)), 2)
	}
	return &rope{cos: table(math.Cos, 1), sin: table(math.Sin, -1)}
}

// turn rotates x [B,N,H,D]. Pairs of neighbours (a,b) become
// (a·cos − b·sin, b·cos + a·sin).
func (r *rope) turn(x *Node) *Node {
	if r == nil {
		return x
	}
	f := dtypes.Float32
	return to(graph.Add(graph.Mul(to(x, f), r.cos), graph.Mul(to(swapPairs(x), f), r.sin)), x.DType())
}

// swapPairs swaps neighbouring features of x [B,N,H,D].
func swapPairs(x *Node) *Node {
	d := x.Shape().Dimensions
	if x.DType().IsHalfPrecision() { // on a GPU this is fused with what is around it
		pair := split(graph.Reshape(x, d[0], d[1], d[2], d[3]/2, 2), 2)
		return graph.Reshape(graph.Concatenate([]*Node{pair[1], pair[0]}, -1), d...)
	}
	// A product with a constant matrix, exact; strided slices cost a CPU more,
	// forward and above all backward.
	swap := make([][]float32, d[3])
	for i := range swap {
		swap[i] = make([]float32, d[3])
		swap[i][i^1] = 1
	}
	return dot(x, graph.Const(x.Graph(), swap)).General([]int{3}, nil, []int{0}, nil)
}
