package device

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/evatool/evatool/internal/comm"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// onRanks runs f for every rank of a job in memory, each with its own device.
func onRanks(t *testing.T, backend string, ranks, devices int, f func(c comm.Comm, d *Device) error) {
	t.Helper()
	errs := make([]error, ranks)
	var wg sync.WaitGroup
	for i, c := range comm.Memory(ranks) {
		d := open1(t, backend, devices)
		wg.Go(func() {
			if errs[i] = f(c, d); errs[i] != nil {
				c.Abort(1)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestGroup: the three exchanges against loops over the numbers of all ranks.
// The sums are those of a loop in rank order, to the bit.
func TestGroup(t *testing.T) {
	const n, k = 6, 5
	for _, c := range []struct {
		backend        string
		ranks, devices int
	}{{"go", 1, 1}, {"go", 3, 1}, {"cpu", 2, 2}, {"cpu", 3, 2}, {"cpu", 2, 1}} {
		// values of rank r, of very different sizes: their order matters
		values := func(r, size int) []float32 {
			g := rand.New(rand.NewPCG(7, uint64(r)))
			out := make([]float32, size)
			for i := range out {
				out[i] = float32(g.NormFloat64()) * float32(int(1)<<g.IntN(20))
			}
			return out
		}
		onRanks(t, c.backend, c.ranks, c.devices, func(world comm.Comm, d *Device) error {
			g, me := d.Join(world), world.Rank()
			same := func(what string, a *Array, err error, want []float32, dims ...int) error {
				if err != nil {
					return err
				}
				got, err := a.Float32s()
				if err != nil {
					return err
				}
				if !slices.Equal(got, want) || !slices.Equal(a.Dims(), dims) {
					t.Errorf("%s, %d ranks × %d devices, %s: %v %v, not %v %v", c.backend, c.ranks, c.devices, what, a.Dims(), got, dims, want)
				}
				return nil
			}
			put := func(s Sharding, v []float32, dims ...int) *Array {
				a, err := d.PutF32(s, v, dims...)
				if err != nil {
					t.Error(err)
				}
				return a
			}
			var all []float32
			for r := range c.ranks {
				all = append(all, values(r, n*k)...)
			}
			rows, err := g.GatherRows(put(SplitRows, values(me, n*k), n, k))
			if err := same("rows", rows, err, all, c.ranks*n, k); err != nil {
				return err
			}
			whole, err := g.Gather(put(SplitRows, values(me, n*k), n, k))
			if err := same("gather", whole, err, all, c.ranks, n, k); err != nil {
				return err
			}
			if whole.Sharding() != g.split(1) {
				t.Errorf("gather leaves the array %s", whole.Sharding())
			}
			sum := make([]float32, n*k)
			for i := range sum {
				for r := range c.ranks {
					v := values(r, c.ranks*n*k)[me*n*k+i]
					if r == 0 {
						sum[i] = v
					} else {
						sum[i] += v
					}
				}
			}
			mine, err := g.ReduceScatter(context.Background(), put(SplitAxis(1), values(me, c.ranks*n*k), c.ranks, n, k))
			if err := same("reduce-scatter", mine, err, sum, n, k); err != nil {
				return err
			}
			if mine.Sharding() != g.split(0) {
				t.Errorf("reduce-scatter leaves the array %s", mine.Sharding())
			}
			return nil
		})
	}
}

// TestGroupRefuses what cannot be exchanged, before any rank waits for it.
func TestGroupRefuses(t *testing.T) {
	onRanks(t, "go", 2, 1, func(world comm.Comm, d *Device) error {
		g := d.Join(world)
		a, err := d.PutFlat(Replicated, make([]float32, 6), shapes.Make(dtypes.Float32, 3, 2))
		if err != nil {
			return err
		}
		if _, err := g.ReduceScatter(context.Background(), a); err == nil {
			t.Error("three rows went to two ranks")
		}
		a.Free()
		if _, err := g.Gather(a); err == nil {
			t.Error("a freed array was gathered")
		}
		return nil
	})
}
