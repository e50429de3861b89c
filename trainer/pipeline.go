package trainer

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// feed hands out the host batches of a run in order.
type feed interface {
	// next is the batch of the next step and how long it had to be waited for.
	next(ctx context.Context) (*hostBatch, time.Duration, error)
	// done gives a batch's memory back.
	done(*hostBatch)
	close()
}

// prefetch is how many batches lie ready or in the making; with the one in use
// they bound the memory.
const prefetch = 2

// pipeline makes batches ahead of the run with a few goroutines.
type pipeline struct {
	pairs  *pairs
	ready  chan *making
	free   chan *hostBatch
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// making is a batch being filled.
type making struct {
	batch *hostBatch
	left  atomic.Int64
	full  chan struct{}
	once  sync.Once
	err   error
}

type job struct {
	to      *making
	row     int
	pos     int64
	source  int
	example int64
}

// startPipeline makes the batches of steps from…to-1, counted from 0.
func startPipeline(ctx context.Context, p *pairs, from, to int64, workers int) *pipeline {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancel(ctx)
	pl := &pipeline{pairs: p, cancel: cancel, ready: make(chan *making, prefetch), free: make(chan *hostBatch, prefetch+1)}
	b, size, words := p.recipe.Batch, p.recipe.Image.Size, p.cfg.Text.ContextLength
	for range prefetch + 1 {
		pl.free <- &hostBatch{pixels: make([]uint8, b*size*size*3), tokens: make([]int32, b*words)}
	}
	jobs := make(chan job, workers)
	pl.wg.Go(func() {
		defer close(jobs)
		for step := from; step < to; step++ {
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
			for row := range b {
				pos := step*int64(b) + int64(row)
				source, example := p.order.at(pos)
				select {
				case jobs <- job{m, row, pos, source, example}:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	for range workers {
		pl.wg.Go(func() {
			for j := range jobs {
				px, tk := j.to.batch.pixels, j.to.batch.tokens
				err := p.fill(j.pos, j.source, j.example, px[j.row*size*size*3:(j.row+1)*size*size*3], tk[j.row*words:(j.row+1)*words])
				j.to.filled(err)
			}
		})
	}
	return pl
}

// fitsHost refuses a batch whose pictures do not fit the host's memory, which
// would end in a crash.
func fitsHost(r *Recipe, cfg *arch.Config) error {
	row := 3*r.Image.Size*r.Image.Size + 4*cfg.Text.ContextLength
	need := float64(prefetch+1) * float64(r.Batch) * float64(row)
	if have := hostMemory(); need > have {
		return fault.Envf("batch %d: %d batches of pictures lie in the host's memory and take %.3g GB, it has %.3g GB; take a smaller batch", r.Batch, prefetch+1, need/1e9, have/1e9)
	}
	return nil
}

// hostMemory is the host's memory in bytes, and much where that is not known.
func hostMemory() float64 {
	text, err := os.ReadFile("/proc/meminfo")
	var kb float64
	if _, scan := fmt.Sscanf(string(text), "MemTotal: %f", &kb); err != nil || scan != nil {
		return 1 << 40
	}
	return kb * 1024
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
}

// The tensors source is a feed, too.
type tensorFeed struct {
	*replayed
	at int64
}

func (t *tensorFeed) next(context.Context) (*hostBatch, time.Duration, error) {
	b := &t.batches[t.at]
	t.at++
	return b, 0, nil
}

func (t *tensorFeed) done(*hostBatch) {}
func (t *tensorFeed) close()          {}

// badSamples counts and lists the examples that could not be used. Each is
// listed once, however often it comes up.
type badSamples struct {
	path  string
	limit float64 // fraction of the samples drawn

	mu    sync.Mutex
	first int64 // position of the run at which counting began
	n     int64
	seen  map[string]bool
	list  *runlog.Metrics
}

// badAllowance is how many bad samples are no reason to stop, however short
// the run is.
const badAllowance = 10

func newBadSamples(path string, limit float64, first int64) *badSamples {
	return &badSamples{path: path, limit: limit, first: first, seen: map[string]bool{}}
}

func (b *badSamples) add(source string, why *badSample, pos int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	if !b.seen[why.path] && len(b.seen) < 1<<16 {
		b.seen[why.path] = true
		if b.list == nil {
			var err error
			if b.list, err = runlog.OpenMetrics(b.path, 1<<62); err != nil {
				return fault.File(b.path, "the list of bad samples", err)
			}
		}
		line := struct {
			Source  string `json:"source"`
			Example string `json:"example"`
			Why     string `json:"why"`
		}{source, why.path, fault.Line(why.err)}
		if err := b.list.Write(line); err != nil {
			return err
		}
	}
	// Every bad one had another drawn in its place.
	if drawn := pos - b.first + b.n; b.n > badAllowance && float64(b.n) > b.limit*float64(drawn) {
		return fault.Inputf("%d of %d samples drawn cannot be used, more than max_bad %v allows (last: %s); see %s", b.n, drawn, b.limit, why, b.path)
	}
	return nil
}

func (b *badSamples) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (b *badSamples) close() {
	if b.list != nil {
		b.list.Close()
	}
}

// describe says what a run reads, for the log.
func (p *pairs) describe() string {
	s := ""
	for i := range p.pools {
		for k, d := range p.pools[i].sets {
			if i+k > 0 {
				s += "; "
			}
			s += d.Describe()
		}
	}
	return s
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
