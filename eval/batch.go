package eval

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/evatool/evatool/internal/fault"
)

// batcher computes the rows of several calls together: what arrives while the
// device computes goes into the device's next call. It never waits for a fuller
// call: an idle device takes a single row at once.
//
// A row goes from the caller's helpers (free → prepare → queue) to the drain
// (queue → compute → free). Only the drain, which runs while there is a queue,
// holds several rows, and it gives them back before it computes: so helpers
// that wait for a free row always get one.
type batcher[T float32 | int32] struct {
	what    string // image or text, for errors
	width   int    // values of a row
	most    int    // rows of a call of compute
	compute func(flat []T, n int) ([]float32, error)
	free    chan []T // all rows, which bounds the memory; a nil one is not allocated yet
	workers chan struct{}
	users   *sync.WaitGroup // the drain is one

	mu      sync.Mutex // guards what follows
	queue   []*request[T]
	running bool // a drain is at work

	flat []T // the drain's
}

// request is one row that waits for its feature.
type request[T any] struct {
	ctx  context.Context
	row  []T
	call *outcome
	i    int // which row of the call
}

func newBatcher[T float32 | int32](what string, width, most int, workers chan struct{}, users *sync.WaitGroup, compute func([]T, int) ([]float32, error)) *batcher[T] {
	b := &batcher[T]{what: what, width: width, most: most, compute: compute, workers: workers, users: users}
	b.free = make(chan []T, 2*most+cap(workers)) // one call waits, the next is made
	for range cap(b.free) {
		b.free <- nil
	}
	return b
}

// encode returns the unit features of n rows, which prepare writes, as many at a
// time as there are workers. It returns when ctx ends, even if a helper is in
// the middle of a row or the device is computing: these count as users
// themselves. The error is that of the first bad row.
func (b *batcher[T]) encode(ctx context.Context, n int, prepare func(i int, row []T) error) ([][]float32, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what is queued is dropped
	c := &outcome{features: make([][]float32, n), left: n, bad: n, ended: make(chan struct{})}
	helpers := min(n, cap(b.workers))
	fed := make(chan struct{})
	var next, gone atomic.Int64
	b.users.Add(helpers)
	for range helpers {
		go func() {
			defer b.users.Done()
			// In order: when row i is bad, every row before it is at least claimed.
			for i := int(next.Add(1)) - 1; i < c.limit() && b.feed(ctx, c, i, prepare); i = int(next.Add(1)) - 1 {
			}
			if int(gone.Add(1)) == helpers {
				close(fed)
			}
		}()
	}
	for _, end := range []chan struct{}{c.ended, fed} {
		select {
		case <-end:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return c.result(b.what)
}

// feed prepares row i and queues it. It returns false when the call is over.
func (b *batcher[T]) feed(ctx context.Context, c *outcome, i int, prepare func(i int, row []T) error) bool {
	var row []T
	select {
	case row = <-b.free:
	case <-ctx.Done():
		return false
	}
	select {
	case b.workers <- struct{}{}:
	case <-ctx.Done():
		b.free <- row
		return false
	}
	if row == nil {
		row = make([]T, b.width)
	}
	err := prepare(i, row)
	<-b.workers
	if err != nil {
		b.free <- row
		c.fail(i, err)
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, &request[T]{ctx, row, c, i})
	if !b.running {
		b.running = true
		b.users.Add(1)
		go b.drain()
	}
	return true
}

// drain computes what is queued until the queue is empty.
func (b *batcher[T]) drain() {
	defer b.users.Done()
	for batch := b.take(); len(batch) > 0; batch = b.take() {
		features, err := b.compute(b.flat, len(batch))
		dim := len(features) / len(batch)
		for i, r := range batch {
			if err != nil {
				r.call.fail(-1, err)
				continue
			}
			f := slices.Clone(features[i*dim : (i+1)*dim])
			if !normalize(f) {
				r.call.fail(r.i, fault.Inputf("the model's output is zero or not finite; check the weights, or compute in fp32"))
				continue
			}
			r.call.set(r.i, f)
		}
	}
}

// take moves the rows of the next call into flat. Rows of calls that are over
// are dropped. If none is left the drain ends.
func (b *batcher[T]) take() (batch []*request[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := 0
	for _, r := range b.queue {
		if len(batch) == b.most {
			break
		}
		taken++
		if r.ctx.Err() == nil {
			batch = append(batch, r)
		} else {
			b.free <- r.row
		}
	}
	b.queue = slices.Delete(b.queue, 0, taken)
	b.running = len(batch) > 0
	b.flat = b.flat[:0]
	for _, r := range batch {
		b.flat = append(b.flat, r.row...)
		b.free <- r.row
	}
	return batch
}

// outcome collects the results of a call.
type outcome struct {
	mu       sync.Mutex
	features [][]float32
	left     int           // rows without a feature
	bad      int           // the first bad row; -1 for an error of no row, the number of rows when there is none
	err      error         // of that row
	ended    chan struct{} // closed at the first error, or when nothing is left
	closed   bool
}

// limit is the row before which rows still matter.
func (c *outcome) limit() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad
}

func (c *outcome) set(i int, feature []float32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.features[i] = feature
	if c.left--; c.left == 0 {
		c.end()
	}
}

func (c *outcome) fail(i int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < c.bad {
		c.bad, c.err = i, err
	}
	c.end()
}

func (c *outcome) end() {
	if !c.closed {
		c.closed = true
		close(c.ended)
	}
}

func (c *outcome) result(what string) ([][]float32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err == nil:
		return c.features, nil
	case c.bad < 0:
		return nil, c.err
	}
	return nil, fmt.Errorf("%s %d: %w", what, c.bad, c.err)
}
