package trainer

import . "github.com/gomlx/gomlx/core/graph"

// contrastive is CLIP's symmetric loss over the whole batch. image and text
// are L2-normalised [B, E], logitScale is the parameter (its exp multiplies
// the cosines). The result is a scalar: the mean of both cross-entropies.
func contrastive(image, text, logitScale *Node) *Node {
	half := Add(matchRows(image, text, logitScale, image, text), matchRows(text, image, logitScale, text, image))
	return MulScalar(half, 0.5/float64(image.Shape().Dimensions[0]))
}

// matchRows is the summed cross-entropy of rows [b, E] against all columns
// [B, E], where row i belongs to pair i of (rowsOf, own), both [b, E].
func matchRows(rows, columns, logitScale, rowsOf, own *Node) *Node {
	scale := Exp(logitScale)
	logits := Mul(scale, Dot(rows, columns).General([]int{1}, nil, []int{1}, nil))
	hit := Mul(scale, ReduceSum(Mul(rowsOf, own), -1))
	return ReduceAllSum(Sub(logSumExp(logits), hit))
}

// logSumExp reduces the last axis.
func logSumExp(x *Node) *Node {
	top := StopGradient(ReduceAndKeep(x, ReduceMax, -1))
	return Add(Log(ReduceSum(Exp(Sub(x, top)), -1)), Squeeze(top, -1))
}
