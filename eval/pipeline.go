package eval

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// batchOf is a fixed-size block of pixels. Slots that hold no image stay zero.
type batchOf struct {
	ids    []int     // positions in the data, one per slot
	pixels []float32 // [len(ids),3,S,S]
	got    []sample
	bad    []error // why slot i holds no image
	left   atomic.Int32
	done   chan struct{}
}

// buffers is how many batches are in memory at once: one on the device, one
// complete, one being filled.
const buffers = 3

// loadTime says how long load decoded, summed over the workers, and how long
// it waited for a decoded batch, in seconds.
type loadTime struct{ decode, wait float64 }

// load decodes the images ids with all workers and hands them to use in
// batches, in order, on the calling goroutine. Memory is buffers × size images.
func load(ctx context.Context, s source, ids []int, size, pixels, workers int, use func(b *batchOf) error) (spent loadTime, err error) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	type job struct {
		b    *batchOf
		slot int
	}
	jobs := make(chan job)
	free := make(chan *batchOf, buffers)
	ready := make(chan *batchOf, buffers) // in order, possibly still being filled
	for range buffers {
		free <- &batchOf{pixels: make([]float32, size*pixels)}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(jobs)
		defer close(ready)
		for lo := 0; lo < len(ids); lo += size {
			var b *batchOf
			select {
			case b = <-free:
			case <-ctx.Done():
				return
			}
			n := min(size, len(ids)-lo)
			b.ids = ids[lo : lo+n]
			b.got, b.bad = make([]sample, n), make([]error, n)
			b.done = make(chan struct{})
			b.left.Store(int32(n))
			ready <- b
			for slot := range n {
				select {
				case jobs <- job{b, slot}:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	var busy atomic.Int64
	for range workers {
		wg.Go(func() {
			for j := range jobs {
				start := time.Now()
				px := j.b.pixels[j.slot*pixels : (j.slot+1)*pixels]
				var err error
				j.b.got[j.slot], err = s.Load(j.b.ids[j.slot], px)
				if err != nil {
					clear(px)
					j.b.bad[j.slot] = err
					if !isBad(err) {
						cancel(err)
					}
				}
				busy.Add(int64(time.Since(start)))
				if j.b.left.Add(-1) == 0 {
					close(j.b.done)
				}
			}
		})
	}
	err = func() error {
		for {
			start := time.Now()
			b, ok := <-ready
			if !ok {
				return context.Cause(ctx)
			}
			select {
			case <-b.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			// A batch that is complete may still hold an image that failed.
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			spent.wait += time.Since(start).Seconds()
			if err := use(b); err != nil {
				return err
			}
			free <- b
		}
	}()
	cancel(err)
	wg.Wait()
	spent.decode = time.Duration(busy.Load()).Seconds()
	return spent, err
}
