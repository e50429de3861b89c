package eval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/evatool/evatool/internal/fault"
)

// slowDevice computes rows of one value: feature [v, 1]. A call waits for go.
type slowDevice struct {
	calls [][]float32
	next  chan struct{}
	err   error
}

func (d *slowDevice) compute(flat []float32, n int) ([]float32, error) {
	d.calls = append(d.calls, slices.Clone(flat))
	<-d.next
	out := make([]float32, 0, 2*n)
	for _, v := range flat {
		out = append(out, v, 1)
	}
	return out, d.err
}

// bubble makes a batcher on a slow device: 4 rows of a call, 2 workers.
func bubble(t *testing.T, f func(t *testing.T, b *batcher[float32], d *slowDevice)) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDevice{next: make(chan struct{})}
		var users sync.WaitGroup
		f(t, newBatcher("image", 1, 4, make(chan struct{}, 2), &users, d.compute), d)
		users.Wait() // nothing is left at work
	})
}

// one encodes the values as one call and says how it ended.
type one struct {
	features [][]float32
	err      error
	returned bool
}

func start(ctx context.Context, b *batcher[float32], values ...float32) *one {
	o := &one{}
	go func() {
		o.features, o.err = b.encode(ctx, len(values), func(i int, row []float32) error {
			if values[i] < 0 {
				return fmt.Errorf("bad %v", values[i])
			}
			row[0] = values[i]
			return nil
		})
		o.returned = true
	}()
	synctest.Wait()
	return o
}

// An idle device takes a row at once; what comes meanwhile goes together, in
// calls of four.
func TestBatcherShares(t *testing.T) {
	bubble(t, func(t *testing.T, b *batcher[float32], d *slowDevice) {
		first := start(t.Context(), b, 1)
		if len(d.calls) != 1 || len(d.calls[0]) != 1 {
			t.Fatalf("an idle device was given %v", d.calls)
		}
		var others []*one
		for v := range 6 {
			others = append(others, start(t.Context(), b, float32(2+v)))
		}
		if len(d.calls) != 1 {
			t.Fatalf("a busy device was given %v", d.calls)
		}
		for range 3 {
			d.next <- struct{}{}
			synctest.Wait()
		}
		if !slices.Equal(d.calls[1], []float32{2, 3, 4, 5}) || !slices.Equal(d.calls[2], []float32{6, 7}) || len(d.calls) != 3 {
			t.Errorf("calls %v", d.calls)
		}
		for i, o := range append([]*one{first}, others...) {
			if !o.returned || o.err != nil || len(o.features) != 1 {
				t.Fatalf("caller %d: %+v", i, o)
			}
			if v := o.features[0][0] / o.features[0][1]; v < float32(i)+0.999 || v > float32(i)+1.001 {
				t.Errorf("caller %d has the feature of %v", i+1, v)
			}
		}
	})
}

// A caller that gives up leaves at once, and its rows take no place; those who
// share a call with it get their features.
func TestBatcherCancel(t *testing.T) {
	bubble(t, func(t *testing.T, b *batcher[float32], d *slowDevice) {
		ctx, cancel := context.WithCancel(t.Context())
		busy := start(ctx, b, 1)
		queued := start(ctx, b, 2, 3)
		other := start(t.Context(), b, 4)
		cancel()
		synctest.Wait()
		for _, o := range []*one{busy, queued} {
			if !o.returned || !errors.Is(o.err, context.Canceled) {
				t.Errorf("after its context ended: %+v", o)
			}
		}
		if other.returned {
			t.Errorf("the other caller: %+v", other)
		}
		for range 2 {
			d.next <- struct{}{}
			synctest.Wait()
		}
		if !slices.Equal(d.calls[1], []float32{4}) || !other.returned || other.err != nil {
			t.Errorf("calls %v, the other caller %+v", d.calls, other)
		}
		after := start(t.Context(), b, 5)
		d.next <- struct{}{}
		synctest.Wait()
		if !after.returned || after.err != nil {
			t.Errorf("afterwards: %+v", after)
		}
	})
}

// The error is that of the first bad row, whoever finds it first, and no other
// caller has it.
func TestBatcherBadRow(t *testing.T) {
	bubble(t, func(t *testing.T, b *batcher[float32], d *slowDevice) {
		good := start(t.Context(), b, 1)
		bad := start(t.Context(), b, 2, 3, -4, -5, 6)
		if !bad.returned || bad.err == nil || bad.err.Error() != "image 2: bad -4" || bad.features != nil {
			t.Errorf("%+v", bad)
		}
		d.next <- struct{}{}
		synctest.Wait()
		if !good.returned || good.err != nil {
			t.Errorf("the other caller: %+v", good)
		}
		slow := make(chan struct{}) // row 0 fails after row 1
		var err error
		go func() {
			_, err = b.encode(t.Context(), 2, func(i int, row []float32) error {
				if i == 0 {
					<-slow
				}
				return fmt.Errorf("bad")
			})
		}()
		synctest.Wait()
		close(slow)
		synctest.Wait()
		if err == nil || err.Error() != "image 0: bad" {
			t.Errorf("two bad rows: %v", err)
		}
		zero := &slowDevice{next: d.next}
		b.compute = func(flat []float32, n int) ([]float32, error) {
			f, err := zero.compute(flat, n)
			for i := range f {
				f[i] = 0
			}
			return f, err
		}
		empty := start(t.Context(), b, 7)
		d.next <- struct{}{}
		synctest.Wait()
		if fault.Code(empty.err) != int(fault.Input) || empty.features != nil {
			t.Errorf("a feature without a length: %+v", empty)
		}
		zero.err = fault.Envf("no memory")
		all := []*one{start(t.Context(), b, 8), start(t.Context(), b, 9, 10)}
		for range 2 {
			d.next <- struct{}{}
			synctest.Wait()
		}
		for _, o := range all {
			if !o.returned || o.err == nil || o.err.Error() != "no memory" {
				t.Errorf("when the device fails: %+v", o)
			}
		}
	})
}

// However many rows a call has, those in memory are bounded: two calls' of the
// device and one for each worker.
func TestBatcherBound(t *testing.T) {
	bubble(t, func(t *testing.T, b *batcher[float32], d *slowDevice) {
		var prepared atomic.Int64
		o := &one{}
		const n = 1000
		go func() {
			o.features, o.err = b.encode(t.Context(), n, func(i int, row []float32) error {
				prepared.Add(1)
				row[0] = float32(i)
				return nil
			})
			o.returned = true
		}()
		synctest.Wait()
		if got, want := int(prepared.Load()), len(d.calls[0])+2*4+2; got != want {
			t.Errorf("%d rows are prepared while the device computes %d, not %d", got, len(d.calls[0]), want)
		}
		close(d.next)
		synctest.Wait()
		if !o.returned || o.err != nil || len(o.features) != n {
			t.Fatalf("%d features, %v", len(o.features), o.err)
		}
		for i, f := range o.features {
			if v := f[0] / f[1]; v < float32(i)*0.999 || v > float32(i)*1.001 {
				t.Fatalf("row %d has the feature of %v", i, v)
			}
		}
	})
}
