package trainer

import (
	"maps"
	"slices"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
)

// pull adds the gradients of of(features), times the loss scale, to the sums. Sums
// that are nil are zero.
func (m *machine) pull(x *values[*Node], of func(img, txt *Node) *Node) {
	if x.sums == nil {
		x.sums = make([]*Node, len(x.params))
	}
	if m.recipe.GradCheckpointing || x.residuals != nil {
		m.pullByBlock(x, of)
	} else {
		img, txt := m.features(x, nil)
		for i, g := range Gradient(Mul(of(img, txt), x.scale), x.params...) {
			x.sums[i] = sum(x.sums[i], g)
		}
	}
	for i, p := range x.params { // what no feature depends on
		if x.sums[i] == nil {
			x.sums[i] = ZerosLike(p)
		}
	}
}

// sum is a + b, where a may be nil.
func sum(a, b *Node) *Node {
	if a == nil {
		return b
	}
	return Add(a, b)
}

// A block of a tower as clip.Options.Block gets it, and its run.
type (
	runFunc   = func(x *Node, with func(w *Node) *Node) *Node
	blockFunc = func(x *Node, tower arch.Tower, layer int, run runFunc) *Node
)

// pullByBlock is pull where a block's backward pass starts by computing the block
// again from its input, which is kept or was handed over (residuals). The last
// blocks come first, and each passes the gradient of its input to the one below. A
// tower's last block is not computed again: its backward pass comes at once.
//
// The second run's input and weights are made to depend on the gradient that it
// waits for. XLA would otherwise merge it with the first run and keep everything.
func (m *machine) pullByBlock(x *values[*Node], of func(img, txt *Node) *Node) {
	type block struct {
		in  *Node
		run runFunc
	}
	blocks := map[arch.Tower][]block{}
	var stems []*Node // the inputs of the first blocks
	left := x.residuals
	img, txt := m.features(x, func(in *Node, tower arch.Tower, layer int, run runFunc) *Node {
		if layer == 0 {
			stems = append(stems, in)
		}
		last := layer == m.cfg.Layers(tower)-1
		if x.residuals != nil {
			in, left = left[0], left[1:]
		}
		blocks[tower] = append(blocks[tower], block{in, run})
		if x.residuals != nil && !last {
			return in // the next one has its own
		}
		return run(in, nil)
	})
	// gradients returns those of starts and adds those of params, by number, to the sums.
	gradients := func(of *Node, starts, params []*Node, numbers []int) []*Node {
		if len(starts)+len(params) == 0 {
			return nil
		}
		g := Gradient(of, slices.Concat(starts, params)...)
		var sums []*Node
		for k, i := range numbers {
			x.sums[i] = sum(x.sums[i], g[len(starts)+k])
			sums = append(sums, x.sums[i])
		}
		below := g[:len(starts)]
		if len(below) > 0 && len(sums) > 0 {
			// Nothing waits for the gradients of weights: XLA would postpone them
			// and keep what they are computed from.
			now := token(sums...)
			for k := range below {
				below[k] = SchedulingBarrier(below[k], now)
			}
		}
		return below
	}
	// between is gradients with the params that are used between starts and ends.
	between := func(of *Node, starts []*Node, ends ...*Node) []*Node {
		numbers := reached(ends, starts, x.params)
		var params []*Node
		for _, i := range numbers {
			params = append(params, x.params[i])
		}
		return gradients(of, starts, params, numbers)
	}
	pulled := func(y, g *Node) *Node { return ReduceAllSum(Mul(y, StopGradient(g))) }
	towers := []arch.Tower{arch.TextTower, arch.VisualTower}
	var tops []*Node
	for _, t := range towers {
		tops = append(tops, blocks[t][len(blocks[t])-1].in)
	}
	loss := of(img, txt)
	into := between(Mul(loss, x.scale), tops, loss)
	for k, t := range towers {
		g := into[k]
		for _, b := range slices.Backward(blocks[t][:len(blocks[t])-1]) {
			now := token(g)
			taken := map[*Node]*Node{}
			with := func(w *Node) *Node {
				if taken[w] == nil {
					taken[w] = SchedulingBarrier(w, now)
				}
				return taken[w]
			}
			in := SchedulingBarrier(b.in, now)
			y := b.run(in, with)
			var weights []*Node
			var numbers []int
			for i, p := range x.params {
				if w := taken[p]; w != nil {
					weights, numbers = append(weights, w), append(numbers, i)
				}
			}
			begin := slices.AppendSeq([]*Node{in}, maps.Values(taken))
			for _, i := range reached([]*Node{y}, begin, x.params) { // those it did not ask for
				weights, numbers = append(weights, x.params[i]), append(numbers, i)
			}
			g = gradients(pulled(y, g), []*Node{in}, weights, numbers)[0]
		}
		between(pulled(stems[k], g), nil, stems[k])
	}
}

// token is a zero that is available once all of deps are. It is float32, so that an
// overflow in half precision does not matter here.
func token(deps ...*Node) *Node {
	return SchedulingBarrier(Scalar(deps[0].Graph(), dtypes.Float32, 0), deps...)
}

// reached are the numbers of the params that ends are computed from, not looking
// beyond starts.
func reached(ends, starts, params []*Node) (list []int) {
	seen := map[*Node]bool{}
	for _, n := range starts {
		seen[n] = true
	}
	todo := slices.Clone(ends)
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !seen[n] {
			seen[n] = true
			todo = append(todo, n.Inputs()...)
		}
	}
	for i, p := range params {
		if seen[p] {
			list = append(list, i)
		}
	}
	return list
}
