package trainer

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/img"
)

// feed hands out the host batches of a run in order.
type feed interface {
	// next returns the batch of the next step and how long the caller waited for it.
	next(ctx context.Context) (*hostBatch, time.Duration, error)
	// done returns a batch's memory.
	done(*hostBatch)
	close()
}

// How many batches are ready or being made besides the one in use: one if they are
// large, since a step then takes as long as making a batch.
const (
	prefetch      = 2
	prefetchBytes = 1 << 30 // what that many batches and the one in use may take
)

// ahead is the number of batches made ahead, for batches of so many rows.
func (r *Recipe) ahead(cfg *arch.Config, rows int) int {
	if (prefetch+1)*r.rowBytes(cfg)*float64(rows) > prefetchBytes {
		return 1
	}
	return prefetch
}

// rowBytes is the size of a row of a batch: a picture and its tokens.
func (r *Recipe) rowBytes(cfg *arch.Config) float64 {
	return float64(3*r.Image.Size*r.Image.Size + 4*cfg.Text.ContextLength)
}

// pipeline makes batches ahead of the run in a few goroutines.
type pipeline struct {
	pairs  *pairs
	ready  chan *making
	free   chan *hostBatch
	cancel context.CancelFunc
	wg     sync.WaitGroup
	freed  []func() // return the pictures' memory
}

// making is a batch being filled.
type making struct {
	batch *hostBatch
	left  atomic.Int64
	full  chan struct{}
	once  sync.Once
	err   error
}

// row is one of its rows, to be filled with a draw's example.
type row struct {
	to *making
	i  int // among the rows being made
	draw
}

// startPipeline makes the batches of so many steps, from a position of the run on.
func startPipeline(ctx context.Context, p *pairs, pos, steps int64, workers int) *pipeline {
	return startShare(ctx, p, pos, steps, workers, rowRange{0, p.recipe.Batch})
}

// startShare makes some rows of each batch: whole lanes if sources are streams.
func startShare(ctx context.Context, p *pairs, pos, steps int64, workers int, of rowRange) *pipeline {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancel(ctx)
	b, size, words := of.to-of.from, p.recipe.Image.Size, p.cfg.Text.ContextLength
	ahead := p.recipe.ahead(p.cfg, b)
	pl := &pipeline{pairs: p, cancel: cancel, ready: make(chan *making, ahead), free: make(chan *hostBatch, ahead+1)}
	for range ahead + 1 {
		pixels, free := img.Scratch(b * size * size * 3)
		pl.freed = append(pl.freed, free)
		pl.free <- &hostBatch{pixels: pixels, tokens: make([]int32, b*words)}
	}
	rows := make(chan row, workers)
	pl.wg.Go(func() {
		defer close(rows)
		from := p.draws(ctx, pos, of)
		defer from.close()
		for range steps {
			m := &making{full: make(chan struct{})}
			select {
			case m.batch = <-pl.free:
			case <-ctx.Done():
				return
			}
			m.left.Store(int64(b))
			select {
			case pl.ready <- m:
			case <-ctx.Done():
				return
			}
			for i := range b {
				d, err := from.next(ctx)
				if err != nil {
					m.filled(err)
					return
				}
				select {
				case rows <- row{m, i, d}:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	for range workers {
		pl.wg.Go(func() {
			for r := range rows {
				px, tk := r.to.batch.pixels, r.to.batch.tokens
				err := p.fill(ctx, r.draw, px[r.i*size*size*3:(r.i+1)*size*size*3], tk[r.i*words:(r.i+1)*words])
				r.to.filled(err)
			}
		})
	}
	return pl
}

// filled counts a row; an error ends the batch at once.
func (m *making) filled(err error) {
	if err != nil {
		m.once.Do(func() { m.err = err; close(m.full) })
		return
	}
	if m.left.Add(-1) == 0 {
		m.once.Do(func() { close(m.full) })
	}
}

func (pl *pipeline) next(ctx context.Context) (*hostBatch, time.Duration, error) {
	start := time.Now()
	select {
	case m := <-pl.ready:
		select {
		case <-m.full:
			return m.batch, time.Since(start), m.err
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	return nil, 0, ctx.Err()
}

func (pl *pipeline) done(b *hostBatch) { pl.free <- b }

func (pl *pipeline) close() {
	pl.cancel()
	pl.wg.Wait()
	pl.pairs.close()
	for _, free := range pl.freed {
		free()
	}
	pl.freed = nil
}

// mixBlock is the number of consecutive samples in which every source has its exact
// share (rounded over the whole run, not per block).
const mixBlock = 4096

// order says which example comes at which position of the run. It is a pure
// function of the seed and the position: resuming needs nothing else.
// Each source is reshuffled in every pass over it.
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
			return nil, fault.Usagef("data.%d.weight: %v out of %v in all is less than one sample in %d; raise it, or leave the source out", i, w, sum, mixBlock/2)
		}
		before += w
		o.upTo = append(o.upTo, before/sum)
	}
	o.upTo[len(weights)] = 1
	return o, nil
}

// at returns the source and the example of a position. It is cheap for neighbouring
// positions and not safe for concurrent use.
func (o *order) at(pos int64) (source int, example int64) {
	source, nth := o.slot(pos)
	return source, o.shuffled(source, nth)
}

// slot returns the source of a position, and how many samples of that source came
// before it.
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

// before is the number of samples from source s in the first blocks.
func (o *order) before(s int, blocks int64) int64 {
	n := float64(blocks * mixBlock)
	return int64(o.upTo[s+1]*n) - int64(o.upTo[s]*n)
}

// given is how many of the first samples come from each source.
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
