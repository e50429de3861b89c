package trainer

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/img"
)

// feed hands out the host batches of a run in order.
type feed interface {
	// next is the batch of the next step and how long it had to be waited for.
	next(ctx context.Context) (*hostBatch, time.Duration, error)
	// done gives a batch's memory back.
	done(*hostBatch)
	close()
}

// How many batches lie ready or in the making beside the one in use: one where
// they are large, since a step then takes as long as a batch takes to be made.
const (
	prefetch      = 2
	prefetchBytes = 1 << 30 // that so many batches and the one in use may take
)

// ahead is that number for batches of so many rows.
func (r *Recipe) ahead(cfg *arch.Config, rows int) int {
	if (prefetch+1)*r.rowBytes(cfg)*float64(rows) > prefetchBytes {
		return 1
	}
	return prefetch
}

// rowBytes is what a row of a batch takes: a picture and its tokens.
func (r *Recipe) rowBytes(cfg *arch.Config) float64 {
	return float64(3*r.Image.Size*r.Image.Size + 4*cfg.Text.ContextLength)
}

// pipeline makes batches ahead of the run with a few goroutines.
type pipeline struct {
	pairs  *pairs
	ready  chan *making
	free   chan *hostBatch
	cancel context.CancelFunc
	wg     sync.WaitGroup
	freed  []func() // what gives the pictures' memory back
}

// making is a batch being filled.
type making struct {
	batch *hostBatch
	left  atomic.Int64
	full  chan struct{}
	once  sync.Once
	err   error
}

// row is one of its rows, to be filled with an example.
type row struct {
	to *making
	i  int // of the rows that are made
	draw
}

// startPipeline makes the batches of some steps, from a position of the run on.
func startPipeline(ctx context.Context, p *pairs, pos, steps int64, workers int) *pipeline {
	return startShare(ctx, p, pos, steps, workers, rowRange{0, p.recipe.Batch})
}

// startShare makes some rows of each batch: those of whole lanes where sources
// are streams.
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
