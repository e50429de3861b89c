package trainer

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// blockLoss computes contrastive and its gradients in closed form, a tile of the
// matrix of logits at a time, so that its memory grows with the batch and not with
// its square. With s_ij = scale · image_i · text_j, scale = exp(logit_scale):
//
//	row_i = log Σ_j exp s_ij,  col_j = log Σ_i exp s_ij
//	loss = 1/2B · Σ_i (row_i + col_i − 2 s_ii)
//	w_ij = exp(s_ij − row_i) + exp(s_ij − col_j)
//	d image_i = scale/2B · (Σ_j w_ij text_j − 2 text_i), texts likewise
//	d logit_scale = Σ_i image_i · d image_i
//
// It has two phases: rowSums for a process's own rows, then, once the sums of all
// are known, gradients. Own rows come in parts, each split over the devices along
// axis 0; arrays called all are whole on every device and in batch order.
//
// So several processes can share a batch: each gathers all features, calls
// rowSums with its own rows, gathers the sums (16 bytes a pair), calls gradients
// and adds up loss and d logit_scale over the processes. The gradients of its
// features are complete and need not travel. No process needs to know which rows of
// the batch are its own.
//
// The size of a tile affects only the order of summation: the last bits.
type blockLoss struct {
	batch   int // pairs of the whole batch
	devices int // over which each part is split
	tile    tile
}

// tile is the part of the matrix of logits that each device computes at a time.
type tile struct{ rows, columns int }

// rowSums are, for the rows of each part, the largest logit and the sum of
// exp(logit − largest) over all columns: own [part, E], all [at least B, E] →
// [part, 2]. The logarithm of the sum alone would lose digits of a large logit.
func (b blockLoss) rowSums(own []*Node, all, logitScale *Node) []*Node {
	return b.unfold(b.sumsOf(b.fold(own), b.whole(all), Exp(logitScale)), own)
}

// ownRows is what one process has of a batch: features [part, E] and their
// sums [part, 2].
type ownRows struct{ img, txt, imgSums, txtSums []*Node }

// allRows is what every process has: features [at least B, E] and their sums.
type allRows struct{ img, txt, imgSums, txtSums *Node }

// blockGradients are a process's share of the loss and of d logit_scale, to be
// summed over the processes, and the gradients of its features.
type blockGradients struct {
	loss, logitScale *Node
	img, txt         []*Node
}

// gradients computes them for the first real own rows; padding rows get zeros.
func (b blockLoss) gradients(own ownRows, all allRows, logitScale *Node, real int) blockGradients {
	scale := Exp(logitScale)
	img, txt, imgSums, txtSums := b.fold(own.img), b.fold(own.txt), b.fold(own.imgSums), b.fold(own.txtSums)
	pulledImg := b.pulled(img, imgSums, b.whole(all.txt), b.whole(all.txtSums), scale)
	pulledTxt := b.pulled(txt, txtSums, b.whole(all.img), b.whole(all.imgSums), scale)
	half := 0.5 / float64(b.batch)
	counted := b.realRows(own.img, real)
	pull := func(pulled, match *Node) *Node {
		return counted(Mul(MulScalar(scale, half), Sub(pulled, MulScalar(match, 2))))
	}
	dImg, dTxt := pull(pulledImg, txt), pull(pulledTxt, img)
	hit := Mul(scale, ReduceAndKeep(Mul(img, txt), ReduceSum, -1))
	entropy := func(sums *Node) *Node {
		top, sum := split(sums, 2)
		return Add(Log(sum), Sub(top, hit))
	}
	loss := ReduceAllSum(counted(Add(entropy(imgSums), entropy(txtSums))))
	return blockGradients{
		loss: MulScalar(loss, half), logitScale: ReduceAllSum(Mul(img, dImg)),
		img: b.unfold(dImg, own.img), txt: b.unfold(dTxt, own.txt),
	}
}

// realRows returns a function that zeroes, in folded form, all but the first real
// rows of the parts.
func (b blockLoss) realRows(parts []*Node, real int) func(x *Node) *Node {
	part := parts[0].Shape().Dimensions[0]
	if part*len(parts) <= real {
		return func(x *Node) *Node { return x }
	}
	return func(x *Node) *Node {
		g, shape := x.Graph(), shapes.Make(dtypes.Int32, x.Shape().Dimensions...)
		whole := func(v int) *Node { return Scalar(g, dtypes.Int32, v) }
		share := whole(part / b.devices) // of a part, on a device
		device, k := Iota(g, shape, 0), Iota(g, shape, 1)
		row := Add(Mul(Div(k, share), whole(part)), Add(Mul(device, share), Mod(k, share)))
		return Where(LessThan(row, whole(real)), x, ZerosLike(x))
	}
}

// lowest is below any logit.
const lowest = -3e38

// sumsOf is rowSums in folded form: own [D, n, E] → [D, n, 2].
func (b blockLoss) sumsOf(own, all, scale *Node) *Node {
	begin := func(g *Graph, rows int) *Node {
		one := func(v float64) *Node { return BroadcastToDims(Const(g, float32(v)), b.devices, rows, 1) }
		return Concatenate([]*Node{one(lowest), one(0)}, -1)
	}
	return b.each(2, begin, []*Node{own}, []*Node{all}, []*Node{scale}, func(sofar *Node, rows, columns, whole []*Node, counts *Node) *Node {
		s := logits(rows[0], columns[0], whole[0])
		if counts != nil {
			s = Where(BroadcastToShape(counts, s.Shape()), s, BroadcastToShape(Const(s.Graph(), float32(lowest)), s.Shape()))
		}
		before, sum := split(sofar, 2)
		top := Max(before, halved(s, Max))
		sum = Add(Mul(sum, Exp(Sub(before, top))), halved(Exp(Sub(s, top)), Add))
		return Concatenate([]*Node{top, sum}, -1)
	})
}

// pulled is Σ_j w_ij all_j: own [D, n, E], sums [D, n, 2], all [B, E], allSums
// [B, 2] → [D, n, E].
func (b blockLoss) pulled(own, sums, all, allSums, scale *Node) *Node {
	width := own.Shape().Dimensions[2]
	begin := func(g *Graph, rows int) *Node {
		return BroadcastToDims(Const(g, float32(0)), b.devices, rows, width)
	}
	return b.each(width, begin, []*Node{own, sums}, []*Node{all, allSums}, []*Node{scale}, func(sofar *Node, rows, columns, whole []*Node, counts *Node) *Node {
		s := logits(rows[0], columns[0], whole[0])
		softmax := func(top, sum *Node) *Node {
			one := BroadcastToShape(Const(s.Graph(), float32(1)), sum.Shape())
			return Mul(Exp(Sub(s, top)), Div(one, sum))
		}
		column := Transpose(columns[1], 0, 1) // [2, columns]
		w := Add(softmax(split(rows[1], 2)), softmax(split(InsertAxes(column, 0), 1)))
		if counts != nil {
			w = Where(BroadcastToShape(counts, w.Shape()), w, BroadcastToShape(Const(w.Graph(), float32(0)), w.Shape()))
		}
		return Add(sofar, Dot(w, columns[0]).General([]int{2}, nil, []int{0}, nil))
	})
}

// logits are s_ij: rows [D, n, E], columns [m, E] → [D, n, m].
func logits(rows, columns, scale *Node) *Node {
	return Mul(scale, Dot(rows, columns).General([]int{2}, nil, []int{1}, nil))
}

// split returns the slices at 0 and 1 of an axis.
func split(x *Node, axis int) (first, second *Node) {
	return SliceAxis(x, axis, AxisRange(0, 1)), SliceAxis(x, axis, AxisRange(1, 2))
}

// halved reduces the last axis to one element by combining its halves repeatedly:
// go-xla has no reductions inside loops.
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

// step extends the result of earlier columns for some rows, sofar [D, rows, k], by
// the next columns: from rows of own, columns of all, and whole. counts [1, 1,
// columns], if not nil, is false for columns that were counted before.
type step func(sofar *Node, own, all, whole []*Node, counts *Node) *Node

// each fills an array [D, n, k] tile by tile: blocks of rows of own, [D, n, …],
// along axis 1, and for each block the columns, which are rows of all, [m, …]. begin
// makes a block's value before its first column.
func (b blockLoss) each(k int, begin func(g *Graph, rows int) *Node, own, all, whole []*Node, next step) *Node {
	g, n, m := own[0].Graph(), own[0].Shape().Dimensions[1], all[0].Shape().Dimensions[0]
	rows, columns := min(b.tile.rows, n), min(b.tile.columns, m)
	if rows == n && columns == m {
		return next(begin(g, n), own, all, whole, nil)
	}
	if !g.Backend().Capabilities().Operations[compute.OpTypeDynamicUpdateSlice] {
		return b.unrolled(begin, own, all, whole, next)
	}
	integer := func(g *Graph, v int) *Node { return Const(g, int32(v)) } // Scalar's cache knows no closures
	at := func(start *Node, axis int, x *Node) []*Node {
		list := make([]*Node, x.Rank())
		for i := range list {
			list[i] = integer(x.Graph(), 0)
		}
		list[axis] = start
		return list
	}
	slice := func(x, start *Node, axis, length int) *Node {
		size := slices.Clone(x.Shape().Dimensions)
		size[axis] = length
		return DynamicSlice(x, at(start, axis, x), size)
	}
	// The last tile is moved back to be whole: its first rows are computed again,
	// its first columns do not count twice.
	start := func(i *Node, length, end int) (*Node, *Node) {
		first := Mul(i, integer(i.Graph(), length))
		return first, Min(first, integer(i.Graph(), end-length))
	}
	init := slices.Concat([]*Node{integer(g, 0), integer(g, 0), Zeros(g, shapes.Make(dtypes.Float32, b.devices, n, k))}, own, all, whole)
	state := func(g *Graph) (list []*Node) {
		for i, x := range init {
			list = append(list, Parameter(g, fmt.Sprintf("loop%d", i), x.Shape()))
		}
		return list
	}
	more := NewClosure(g, func(g *Graph) []*Node {
		return []*Node{LessThan(state(g)[0], integer(g, (n+rows-1)/rows))}
	})
	body := NewClosure(g, func(g *Graph) []*Node {
		now := state(g)
		i, j, out := now[0], now[1], now[2]
		_, row := start(i, rows, n)
		first, column := start(j, columns, m)
		mine, theirs := slices.Clone(now[3:3+len(own)]), slices.Clone(now[3+len(own):3+len(own)+len(all)])
		for i, x := range mine {
			mine[i] = slice(x, row, 1, rows)
		}
		for i, x := range theirs {
			theirs[i] = slice(x, column, 0, columns)
		}
		var counts *Node
		if m%columns != 0 {
			number := Iota(g, shapes.Make(dtypes.Int32, 1, 1, columns), 2)
			counts = GreaterOrEqual(number, BroadcastToShape(Sub(first, column), number.Shape()))
		}
		sofar := slice(out, row, 1, rows)
		isFirst := Equal(j, integer(g, 0))
		sofar = Where(BroadcastToShape(isFirst, sofar.Shape()), begin(g, rows), sofar)
		made := next(sofar, mine, theirs, now[3+len(own)+len(all):], counts)
		last := Equal(j, integer(g, (m+columns-1)/columns-1))
		one := integer(g, 1)
		now[0], now[1] = Where(last, Add(i, one), i), Where(last, integer(g, 0), Add(j, one))
		now[2] = DynamicUpdateSlice(out, made, at(row, 1, out))
		return now
	})
	return While(more, body, init...)[2]
}

// unrolled is each for a backend without such loops: a chain, so that only one tile
// is alive at a time.
func (b blockLoss) unrolled(begin func(g *Graph, rows int) *Node, own, all, whole []*Node, next step) *Node {
	g, n, m := own[0].Graph(), own[0].Shape().Dimensions[1], all[0].Shape().Dimensions[0]
	var done []*Node
	for lo := 0; lo < n; lo += b.tile.rows {
		hi := min(lo+b.tile.rows, n)
		rows := slices.Clone(own)
		for i, x := range rows {
			rows[i] = SliceAxis(x, 1, AxisRange(lo, hi))
			if lo > 0 {
				rows[i] = SchedulingBarrier(rows[i], done[len(done)-1])
			}
		}
		sofar := begin(g, hi-lo)
		for from := 0; from < m; from += b.tile.columns {
			columns := slices.Clone(all)
			for i, x := range columns {
				columns[i] = SchedulingBarrier(SliceAxis(x, 0, AxisRange(from, min(from+b.tile.columns, m))), sofar)
			}
			sofar = next(sofar, rows, columns, whole, nil)
		}
		done = append(done, sofar)
	}
	return Concatenate(done, 1)
}

// fold puts parts [part, …], each split over the devices, side by side as
// [D, n, …]; nothing leaves its device.
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
