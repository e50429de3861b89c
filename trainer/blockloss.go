package trainer

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// blockLoss is contrastive and its gradients in closed form, a block of rows at
// a time, so that its memory grows with the batch and not with its square.
// With s_ij = scale · image_i · text_j, scale = exp(logit_scale):
//
//	row_i = log Σ_j exp s_ij,  col_j = log Σ_i exp s_ij
//	loss = 1/2B · Σ_i (row_i + col_i − 2 s_ii)
//	w_ij = exp(s_ij − row_i) + exp(s_ij − col_j)
//	d image_i = scale/2B · (Σ_j w_ij text_j − 2 text_i), texts likewise
//	d logit_scale = Σ_i image_i · d image_i
//
// It has two phases: rowSums for the rows that are one's own, then, when
// everyone's sums are known, gradients. Own rows come in parts, each cut over
// the devices along axis 0; what is called all is whole on every device and in
// the order of the batch.
//
// So several processes can share a batch: each gathers all features, calls
// rowSums with its own rows, gathers the sums (16 bytes a pair), calls gradients
// and adds up loss and d logit_scale over the processes. The gradients of its
// features are complete: none travels. No process is told which rows are its own.
//
// The size of a block decides nothing: a row's numbers come from that row and
// all columns, whichever rows are computed beside it. (A backend may sum the
// products of another shape in another order: the last bits.)
type blockLoss struct {
	batch   int // pairs of the whole batch
	devices int // over which each part is cut
	rows    int // of a block, on each device
}

// rowSums are, for the rows of each part, the largest logit and the sum of
// exp(logit − largest) over all columns: own [part, E], all [at least B, E] →
// [part, 2]. Their logarithm alone would lose digits of a large logit.
func (b blockLoss) rowSums(own []*Node, all, logitScale *Node) []*Node {
	return b.unfold(b.sumsOf(b.fold(own), b.whole(all), Exp(logitScale)), own)
}

// ownRows is what one process has of a batch: features [part, E] and their
// sums [part, 2].
type ownRows struct{ img, txt, imgSums, txtSums []*Node }

// allRows is what every process has: features [at least B, E] and their sums.
type allRows struct{ img, txt, imgSums, txtSums *Node }

// blockGradients are a process's share of the loss and of d logit_scale, to be
// added up over all, and the gradients of its features.
type blockGradients struct {
	loss, logitScale *Node
	img, txt         []*Node
}

// gradients are those of the first real of the own rows; what pads them gets
// zeros.
func (b blockLoss) gradients(own ownRows, all allRows, logitScale *Node, real int) blockGradients {
	scale := Exp(logitScale)
	img, txt := b.fold(own.img), b.fold(own.txt)
	pulledImg := b.pulled(img, b.fold(own.imgSums), b.whole(all.txt), b.whole(all.txtSums), scale)
	pulledTxt := b.pulled(txt, b.fold(own.txtSums), b.whole(all.img), b.whole(all.imgSums), scale)
	var out blockGradients
	out.img, out.txt = b.unfold(pulledImg, own.img), b.unfold(pulledTxt, own.txt)

	half := 0.5 / float64(b.batch)
	first := 0
	for i := range own.img {
		x, y := own.img[i], own.txt[i]
		g, n := x.Graph(), x.Shape().Dimensions[0]
		counts := func(v *Node) *Node {
			if first+n <= real {
				return v
			}
			row := Iota(g, shapes.Make(dtypes.Int32, v.Shape().Dimensions...), 0)
			return Where(LessThan(row, Scalar(g, dtypes.Int32, real-first)), v, ZerosLike(v))
		}
		pull := func(pulled, match *Node) *Node {
			return counts(Mul(MulScalar(scale, half), Sub(pulled, MulScalar(match, 2))))
		}
		out.img[i], out.txt[i] = pull(out.img[i], y), pull(out.txt[i], x)
		hit := Mul(scale, ReduceAndKeep(Mul(x, y), ReduceSum, -1))
		entropy := func(sums *Node) *Node {
			top, sum := split(sums, 1)
			return Add(Log(sum), Sub(top, hit))
		}
		loss := ReduceAllSum(counts(Add(entropy(own.imgSums[i]), entropy(own.txtSums[i]))))
		turn := ReduceAllSum(Mul(x, out.img[i]))
		if i > 0 {
			loss, turn = Add(out.loss, loss), Add(out.logitScale, turn)
		}
		out.loss, out.logitScale = loss, turn
		first += n
	}
	out.loss = MulScalar(out.loss, half)
	return out
}

// sumsOf is rowSums in folded form: own [D, n, E] → [D, n, 2].
func (b blockLoss) sumsOf(own, all, scale *Node) *Node {
	dims := []int{b.devices, own.Shape().Dimensions[1], 2}
	return b.each(dims, []*Node{own}, []*Node{all, scale}, func(rows, whole []*Node) *Node {
		s := logits(rows[0], whole[0], whole[1])
		top := halved(s, Max)
		return Concatenate([]*Node{top, halved(Exp(Sub(s, top)), Add)}, -1)
	})
}

// pulled is Σ_j w_ij all_j: own [D, n, E], sums [D, n, 2], all [B, E], allSums
// [B, 2] → [D, n, E].
func (b blockLoss) pulled(own, sums, all, allSums, scale *Node) *Node {
	dims := own.Shape().Dimensions
	return b.each(dims, []*Node{own, sums}, []*Node{all, allSums, scale}, func(rows, whole []*Node) *Node {
		s := logits(rows[0], whole[0], whole[2])
		softmax := func(top, sum *Node) *Node { return Div(Exp(Sub(s, top)), sum) }
		column := Transpose(whole[1], 0, 1) // [2, B]
		w := Add(softmax(split(rows[1], 2)), softmax(split(InsertAxes(column, 0), 1)))
		return Dot(w, whole[0]).General([]int{2}, nil, []int{0}, nil)
	})
}

// logits are s_ij: rows [D, n, E], all [B, E] → [D, n, B].
func logits(rows, all, scale *Node) *Node {
	return Mul(scale, Dot(rows, all).General([]int{2}, nil, []int{1}, nil))
}

// split is what lies at 0 and at 1 of an axis.
func split(x *Node, axis int) (first, second *Node) {
	return SliceAxis(x, axis, AxisRange(0, 1)), SliceAxis(x, axis, AxisRange(1, 2))
}

// halved reduces the last axis to one element by laying its halves over each
// other: go-xla has no reductions inside loops.
func halved(x *Node, op func(a, b *Node) *Node) *Node {
	var odd []*Node
	n := x.Shape().Dim(-1)
	part := func(lo, hi int) *Node { return SliceAxis(x, -1, AxisRange(lo, hi)) }
	for n > 1 {
		if n%2 == 1 {
			odd = append(odd, part(n-1, n))
		}
		n /= 2
		x = op(part(0, n), part(n, 2*n))
	}
	for _, y := range odd {
		x = op(x, y)
	}
	return x
}

// each fills an array [D, n, …] of dimensions dims block by block along axis 1.
// block makes one from the same rows of own, arrays [D, n, …], and from whole.
// The last block begins where it is full, with rows that come twice.
func (b blockLoss) each(dims []int, own, whole []*Node, block func(own, whole []*Node) *Node) *Node {
	g, n := own[0].Graph(), dims[1]
	if n <= b.rows {
		return block(own, whole)
	}
	if !g.Backend().Capabilities().Operations[compute.OpTypeDynamicUpdateSlice] {
		return b.unrolled(n, own, whole, block)
	}
	integer := func(v int) *Node { return Const(g, int32(v)) } // Scalar's cache knows no closures
	at := func(start *Node, x *Node) []*Node {
		list := make([]*Node, x.Rank())
		for i := range list {
			list[i] = integer(0)
		}
		list[1] = start
		return list
	}
	init := slices.Concat([]*Node{integer(0), Zeros(g, shapes.Make(own[0].DType(), dims...))}, own, whole)
	state := func() (list []*Node) {
		for i, x := range init {
			list = append(list, Parameter(g, fmt.Sprintf("loop%d", i), x.Shape()))
		}
		return list
	}
	more := NewClosure(g, func(g *Graph) []*Node {
		return []*Node{LessThan(state()[0], integer((n+b.rows-1)/b.rows))}
	})
	next := NewClosure(g, func(g *Graph) []*Node {
		now := state()
		start := Mul(now[0], integer(b.rows)) // slices move a start that is too far back to where they are whole
		rows := slices.Clone(now[2 : 2+len(own)])
		for i, x := range rows {
			size := slices.Clone(x.Shape().Dimensions)
			size[1] = b.rows
			rows[i] = DynamicSlice(x, at(start, x), size)
		}
		made := block(rows, now[2+len(own):])
		now[0], now[1] = Add(now[0], integer(1)), DynamicUpdateSlice(now[1], made, at(start, now[1]))
		return now
	})
	return While(more, next, init...)[1]
}

// unrolled is each for a backend without such loops: a chain, so that one block
// is alive at a time.
func (b blockLoss) unrolled(n int, own, whole []*Node, block func(own, whole []*Node) *Node) *Node {
	var done []*Node
	for lo := 0; lo < n; lo += b.rows {
		rows := slices.Clone(own)
		for i, x := range rows {
			rows[i] = SliceAxis(x, 1, AxisRange(lo, min(lo+b.rows, n)))
			if lo > 0 {
				rows[i] = SchedulingBarrier(rows[i], done[len(done)-1])
			}
		}
		done = append(done, block(rows, whole))
	}
	return Concatenate(done, 1)
}

// fold puts parts [part, …], each cut over the devices, side by side as
// [D, n, …]: nothing leaves its device.
func (b blockLoss) fold(parts []*Node) *Node {
	out := make([]*Node, len(parts))
	for i, x := range parts {
		d := x.Shape().Dimensions
		out[i] = Reshape(x, slices.Concat([]int{b.devices, d[0] / b.devices}, d[1:])...)
	}
	if len(out) == 1 {
		return out[0]
	}
	return Concatenate(out, 1)
}

// unfold is the reverse of fold; like are arrays with as many rows as the parts.
func (b blockLoss) unfold(x *Node, like []*Node) []*Node {
	out, lo := make([]*Node, len(like)), 0
	for i, part := range like {
		n := part.Shape().Dimensions[0]
		piece := x
		if len(like) > 1 {
			piece = SliceAxis(x, 1, AxisRange(lo, lo+n/b.devices))
		}
		out[i] = Reshape(piece, slices.Concat([]int{n}, x.Shape().Dimensions[2:])...)
		lo += n / b.devices
	}
	return out
}

// whole drops the rows that pad the batch.
func (b blockLoss) whole(all *Node) *Node {
	if all.Shape().Dimensions[0] == b.batch {
		return all
	}
	return Slice(all, AxisRange(0, b.batch))
}
