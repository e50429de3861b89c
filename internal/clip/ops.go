package clip

import (
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/layers/activation"
	"github.com/gomlx/gomlx/ml/layers/attention"
	"github.com/gomlx/gomlx/ml/nn"
)

// product is x [..., in] times w [out, in] transposed, as one 2-D product.
func product(x, w *Node) *Node {
	dims := x.Shape().Dimensions
	in := dims[len(dims)-1]
	flat := graph.Reshape(x, -1, in)
	y := dot(flat, w).General([]int{1}, nil, []int{1}, nil)
	return graph.Reshape(y, append(append([]int{}, dims[:len(dims)-1]...), w.Shape().Dim(0))...)
}

// dot is a product that accumulates in Float32. In half precision GoMLX would
// convert the operands of the backward products to Float32 unless the
// accumulator is left to the backend, which takes Float32 all the same.
func dot(a, b *Node) *graph.DotBuilder {
	return graph.Dot(a, b).WithAccumulatorDType(dtypes.InvalidDType)
}

// addVector adds v [n] to x [..., n].
func addVector(x, v *Node) *Node {
	return graph.Add(x, vector(v, x))
}

// scaleVector multiplies x [..., n] by v [n].
func scaleVector(x, v *Node) *Node {
	return graph.Mul(x, vector(v, x))
}

// vector is v [n] as an operand beside x [..., n].
func vector(v, x *Node) *Node {
	v = graph.ExpandLeftToRank(v, x.Rank())
	if x.DType().IsHalfPrecision() {
		return spread(v, x.DType(), x.Shape().Dimensions...)
	}
	return to(v, x.DType())
}

// spread repeats v to these dimensions, in Float32: its gradient is a sum, whose
// partial sums half precision would round.
func spread(v *Node, dtype dtypes.DType, dims ...int) *Node {
	return to(graph.BroadcastToDims(to(v, dtypes.Float32), dims...), dtype)
}

// dense is torch's Linear: weights NAME.weight [out, in] and NAME.bias [out].
func (t *tower) dense(x *Node, name string) *Node {
	return addVector(product(x, t.cast(name+".weight")), t.weight(name+".bias"))
}

// layerNorm normalises the last axis in Float32.
func (t *tower) layerNorm(x *Node, name string, eps float64) *Node {
	return layerNorm(x, t.weight(name+".weight"), t.weight(name+".bias"), eps)
}

func layerNorm(x, weight, bias *Node, eps float64) *Node {
	f := dtypes.Float32
	weight, bias = to(weight, f), to(bias, f)
	if !x.DType().IsHalfPrecision() {
		return nn.LayerNorm(x, []int{x.Rank() - 1}, eps, weight, bias, nil)
	}
	// The variance as E[x²]−E[x]²: one pass over x less, which is what half
	// precision is bound by, and exact enough for its 8 or 11 bits. What x has
	// beyond the weight's length is zero and does not count.
	n := weight.Shape().Dim(0)
	if extra := x.Shape().Dim(-1) - n; extra > 0 {
		weight, bias = lengthen(weight, extra), lengthen(bias, extra)
	}
	y := to(x, f)
	average := func(x *Node) *Node { return graph.DivScalar(graph.ReduceAndKeep(x, graph.ReduceSum, -1), n) }
	mean := average(y)
	variance := graph.Sub(average(graph.Square(y)), graph.Square(mean))
	y = graph.Div(graph.Sub(y, mean), graph.Sqrt(graph.AddScalar(graph.MaxScalar(variance, 0), eps)))
	return to(addVector(scaleVector(y, weight), bias), x.DType())
}

// rmsNorm divides x by the root of its mean square, in Float32, and scales it:
// LayerNorm without mean and bias.
func (t *tower) rmsNorm(x *Node, name string, eps float64) *Node {
	weight := to(t.weight(name+".weight"), dtypes.Float32)
	n := weight.Shape().Dim(0)
	if extra := x.Shape().Dim(-1) - n; extra > 0 { // zeros, which do not count
		weight = lengthen(weight, extra)
	}
	y := to(x, dtypes.Float32)
	square := graph.DivScalar(graph.ReduceAndKeep(graph.Square(y), graph.ReduceSum, -1), n)
	return to(scaleVector(graph.Div(y, graph.Sqrt(graph.AddScalar(square, eps))), weight), x.DType())
}

// lengthen adds n rows of zeros to x.
func lengthen(x *Node, n int) *Node {
	d := append([]int{n}, x.Shape().Dimensions[1:]...)
	return graph.Concatenate([]*Node{x, graph.Zeros(x.Graph(), shapes.Make(x.DType(), d...))}, 0)
}

// relu is max(x, 0), in Float32: XLA's CPU compiler makes wrong code, whose results
// are any number, of a sum over two such maxima of bfloat16, each of a biased value.
func relu(x *Node) *Node {
	return to(activation.Relu(to(x, dtypes.Float32)), x.DType())
}

// gelu is x·Φ(x).
func gelu(x *Node) *Node {
	return to(activation.Gelu(to(x, dtypes.Float32)), x.DType())
}

// geluTanh is gelu's approximation by tanh.
func geluTanh(x *Node) *Node {
	return to(activation.GeluApproximate(to(x, dtypes.Float32)), x.DType())
}

// quickGELU is x·σ(1.702x), OpenAI's approximation.
func quickGELU(x *Node) *Node {
	return graph.Mul(x, graph.Sigmoid(graph.MulScalar(x, 1.702)))
}

func silu(x *Node) *Node { return graph.Mul(x, graph.Sigmoid(x)) }

// FlashAttention says whether a backend has attention as one operation. It is
// used in half precision.
func FlashAttention(b compute.Backend) bool {
	return b.Capabilities().Operations[compute.OpTypeFusedScaledDotProductAttention]
}

// attend is softmax(q·kᵀ/√d)·v: q [B,Q,H,D], k and v [B,S,H,D] → [B,Q,H·D].
// mask (bool, broadcast to [B,H,Q,S], or nil) says what a query may see;
// causal is the lower triangle and excludes a mask.
func attend(q, k, v *Node, causal bool, mask *Node) *Node {
	g, d := q.Graph(), q.Shape().Dimensions
	batch, queries, heads, width := d[0], d[1], d[2], d[3]
	scale := 1 / math.Sqrt(float64(width))
	if FlashAttention(g.Backend()) && q.DType().IsHalfPrecision() && mask == nil && queries == k.Shape().Dim(1) {
		y, _ := attention.Core(q, k, v, attention.LayoutBSHD, attention.CoreOptions{Scale: scale, UseCausalMask: causal})
		return graph.Reshape(y, batch, queries, heads*width)
	}
	// Heads in front and the contracted axis of the right side first: the Go
	// backend's small products are a third faster so, XLA does not mind.
	q = graph.TransposeAllAxes(graph.MulScalar(q, scale), 0, 2, 1, 3)
	k, v = graph.TransposeAllAxes(k, 0, 2, 3, 1), graph.TransposeAllAxes(v, 0, 2, 1, 3)
	scores := dot(q, k).General([]int{3}, []int{0, 1}, []int{2}, []int{0, 1}) // [B,H,Q,S]
	scores = to(scores, dtypes.Float32)
	if causal {
		mask = graph.Reshape(graph.LowerTriangular(g, queries), 1, 1, queries, queries)
	}
	if mask != nil {
		mask = graph.BroadcastToShape(mask, shapes.Make(dtypes.Bool, scores.Shape().Dimensions...))
		scores = graph.Where(mask, scores, graph.Scalar(g, dtypes.Float32, math.Inf(-1)))
	}
	p := to(graph.Softmax(scores, -1), v.DType())
	y := dot(p, v).General([]int{3}, []int{0, 1}, []int{2}, []int{0, 1}) // [B,H,Q,D]
	return graph.Reshape(graph.TransposeAllAxes(y, 0, 2, 1, 3), batch, queries, heads*width)
}

// split cuts x [..., n·parts] into parts along the last axis.
func split(x *Node, parts int) []*Node {
	n := x.Shape().Dim(-1) / parts
	out := make([]*Node, parts)
	for i := range out {
		out[i] = graph.SliceAxis(x, -1, graph.AxisRange(i*n, (i+1)*n))
	}
	return out
}

// toHeads is x [B,N,W] as [B,N,H,W/H].
func toHeads(x *Node, heads int) *Node {
	d := x.Shape().Dimensions
	return graph.Reshape(x, d[0], d[1], heads, d[2]/heads)
}

// addPositions adds to x [B,N,W] the rows keep [B,N] of position [1,P,W], or
// with nil its row of the same number.
func addPositions(x, position, keep *Node) *Node {
	if keep == nil && !x.DType().IsHalfPrecision() {
		return graph.Add(x, position)
	}
	// A product with one-hot rows, whose gradient is a product, too: for a sum
	// over the batch XLA keeps the whole tower in a GPU's memory with the batch
	// as the last axis, and a scatter into few rows waits for itself.
	g, n := x.Graph(), position.Shape().Dim(1)
	if keep == nil {
		keep = graph.Iota(g, shapeI32(x.Shape().Dim(0), n), 1)
	}
	chosen := to(graph.Equal(graph.InsertAxes(keep, -1), graph.Iota(g, shapeI32(1, 1, n), 2)), x.DType()) // [B,N,P]
	return graph.Add(x, dot(chosen, graph.Squeeze(position, 0)).General([]int{2}, nil, []int{0}, nil))
}

// takeRows takes the rows idx [B,K] of x [B,N,W]: [B,K,W].
func takeRows(x, idx *Node) *Node {
	d := idx.Shape().Dimensions
	g := x.Graph()
	// The batch index is an iota beside the row index: so a partitioner sees
	// that the gather never crosses images.
	b := graph.Iota(g, shapes.Make(dtypes.Int32, d[0], d[1], 1), 0)
	pair := graph.Concatenate([]*Node{b, graph.InsertAxes(idx, -1)}, -1)
	return graph.Gather(x, pair)
}

// firstRow is the class token of x [B,N,W]: [B,1,W].
func firstRow(x *Node) *Node {
	return graph.SliceAxis(x, 1, graph.AxisRange(0, 1))
}
