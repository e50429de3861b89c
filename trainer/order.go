package trainer

import (
	"math/rand/v2"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// mixBlock is the number of consecutive samples in which every source has
// exactly its share (rounded over the whole run, not per block).
const mixBlock = 4096

// order says which example comes at which position of the run. It is a pure
// function of the seed and the position: nothing has to be saved to go on.
// Each source is shuffled anew in every pass over it.
type order struct {
	seed  uint64
	sizes []int64   // examples per source
	upTo  []float64 // upTo[s] is the summed share of the sources before s
	block int64     // the one that slots and firsts describe
	slots []int32   // source of every position of the block
	nth   []int64   // and how many of that source came before, over the whole run
}

func newOrder(seed int64, sizes []int64, weights []float64) (*order, error) {
	o := &order{seed: uint64(seed), sizes: sizes, block: -1, upTo: []float64{0}}
	var sum float64
	for _, w := range weights {
		sum += w
	}
	before := 0.0
	for i, w := range weights {
		if w/sum*mixBlock < 2 {
			return nil, fault.Usagef("data.%d.weight: %v of %v is less than one sample in %d; raise it or leave the source out", i, w, sum, mixBlock/2)
		}
		before += w
		o.upTo = append(o.upTo, before/sum)
	}
	o.upTo[len(weights)] = 1
	return o, nil
}

// at gives the source and the example of a position. It is cheap for
// neighbouring positions; it is not safe for many goroutines.
func (o *order) at(pos int64) (source int, example int64) {
	source, nth := o.slot(pos)
	return source, o.shuffled(source, nth)
}

// slot gives the source of a position, and how many samples of that source came
// before.
func (o *order) slot(pos int64) (source int, nth int64) {
	if len(o.sizes) == 1 {
		return 0, pos
	}
	if b := pos / mixBlock; b != o.block {
		o.fill(b)
	}
	return int(o.slots[pos%mixBlock]), o.nth[pos%mixBlock]
}

// shuffled is the nth example that source s gives.
func (o *order) shuffled(s int, nth int64) int64 {
	n := o.sizes[s]
	return int64(dataset.Permute(dataset.MixKey(o.seed, uint64(s), uint64(nth/n)), uint64(nth%n), uint64(n)))
}

// before is the number of samples that source s gives in the first blocks.
func (o *order) before(s int, blocks int64) int64 {
	n := float64(blocks * mixBlock)
	return int64(o.upTo[s+1]*n) - int64(o.upTo[s]*n)
}

// given is how many of the first samples each source gives.
func (o *order) given(samples int64) []int64 {
	out := make([]int64, len(o.sizes))
	if len(out) == 1 {
		out[0] = samples
		return out
	}
	c := &order{seed: o.seed, sizes: o.sizes, upTo: o.upTo}
	c.fill(samples / mixBlock)
	for s := range out {
		out[s] = c.before(s, c.block)
	}
	for _, s := range c.slots[:samples%mixBlock] {
		out[s]++
	}
	return out
}

func (o *order) fill(block int64) {
	o.block, o.slots, o.nth = block, o.slots[:0], make([]int64, mixBlock)
	next := make([]int64, len(o.sizes))
	for s := range o.sizes {
		next[s] = o.before(s, block)
		for range o.before(s, block+1) - next[s] {
			o.slots = append(o.slots, int32(s))
		}
	}
	r := rand.New(rand.NewPCG(o.seed, dataset.MixKey(^o.seed, uint64(block), 0)))
	r.Shuffle(len(o.slots), func(i, j int) { o.slots[i], o.slots[j] = o.slots[j], o.slots[i] })
	for i, s := range o.slots {
		o.nth[i] = next[s]
		next[s]++
	}
}
