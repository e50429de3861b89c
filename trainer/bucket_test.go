package trainer

import (
	"context"
	"fmt"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
)

// TestBucketsOfEveryModel: any model over any number of devices; every element
// has one owner, no bucket is over its size, and padding costs next to nothing.
func TestBucketsOfEveryModel(t *testing.T) {
	for _, name := range arch.Names() {
		cfg, _ := arch.Named(name)
		var sizes []int
		var total int64
		for _, p := range cfg.Params() {
			if !p.Buffer {
				n := 1
				for _, d := range p.Shape {
					n *= int(d)
				}
				sizes = append(sizes, n)
				total += int64(n)
			}
		}
		for _, jobs := range [][2]int{{1, 1}, {3, 1}, {8, 8}, {18, 8}, {144, 1}, {7, 3}, {128, 8}} {
			ranks, devices := jobs[0], jobs[1]
			list := cutBuckets(sizes, ranks*devices, bucketBytes)
			owned := make([]int, len(sizes)) // elements, by parameter
			var bytes int64
			for _, b := range list {
				if n := b.bytes(ranks * devices); n > bucketBytes {
					t.Fatalf("%s over %v: a bucket of %d bytes", name, jobs, n)
				}
				bytes += b.bytes(ranks * devices)
				at := 0
				for _, p := range b.pieces {
					if p.at != at || p.width <= 0 {
						t.Fatalf("%s over %v: %+v begins not at %d", name, jobs, p, at)
					}
					at += p.width
					if owned[p.param] != p.lo {
						t.Fatalf("%s over %v: parameter %d: %d elements owned before %+v", name, jobs, p.param, owned[p.param], p)
					}
					for n := range ranks {
						lo, hi := p.own(n, devices)
						if lo != owned[p.param] && lo != hi {
							t.Fatalf("%s over %v: %+v: rank %d owns from %d on, not %d", name, jobs, p, n, lo, owned[p.param])
						}
						owned[p.param] += hi - lo
					}
				}
				if at != b.width {
					t.Fatalf("%s over %v: %d columns of %d", name, jobs, at, b.width)
				}
			}
			if !slices.Equal(owned, sizes) {
				t.Fatalf("%s over %v: not every element has an owner", name, jobs)
			}
			if most := int64(len(sizes)+len(list)) * int64(ranks*devices) * 4; bytes > 4*total+most {
				t.Errorf("%s over %v: %d bytes for %d parameters", name, jobs, bytes, total)
			}
			if name == "EVA02-CLIP-bigE-14-plus" && ranks*devices == 144 && float64(bytes) > 1.0001*4*float64(total) {
				t.Errorf("E+ over 144: %d bytes for %d parameters", bytes, total)
			}
		}
	}
}

// TestBucketsGoRound: unpack reverses pack, and each rank's row is what own says.
func TestBucketsGoRound(t *testing.T) {
	everywhere(t, "", func(t *testing.T, dev *device.Device) {
		sizes := []int{1, 7, 12, 100, 3}
		for _, ranks := range []int{1, 2, 3} {
			var whole []*device.Array
			value := 0
			values := map[int][]float32{}
			for i, n := range sizes {
				v := make([]float32, n)
				for k := range v {
					value++
					v[k] = float32(value)
				}
				values[i] = v
				a, err := dev.PutF32(device.Replicated, v, n)
				if err != nil {
					t.Fatal(err)
				}
				whole = append(whole, a)
			}
			for k, b := range cutBuckets(sizes, ranks*2, 4*60) {
				var args []*device.Array
				for _, i := range b.params() {
					args = append(args, whole[i])
				}
				p := dev.Program(fmt.Sprint("round-", k), func(in []*Node) []*Node {
					packed := b.pack(in, ranks, 2)
					return append([]*Node{packed}, b.unpack(packed)...)
				})
				out, err := p.Call(context.Background(), args...)
				if err != nil {
					t.Fatal(err)
				}
				packed, err := out[0].Float32s()
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range b.pieces {
					got, err := out[1+i].Float32s()
					if err != nil || !slices.Equal(got, values[p.param][p.lo:p.hi]) {
						t.Errorf("%d ranks: %+v: %v (%v)", ranks, p, got, err)
					}
					for n := range ranks {
						var row []float32
						for d := range 2 {
							at := (n*2+d)*b.width + p.at
							row = append(row, packed[at:at+p.width]...)
						}
						lo, hi := p.own(n, 2)
						if !slices.Equal(row[:hi-lo], values[p.param][lo:hi]) || slices.ContainsFunc(row[hi-lo:], func(v float32) bool { return v != 0 }) {
							t.Errorf("%d ranks: %+v: rank %d has %v", ranks, p, n, row)
						}
					}
				}
			}
		}
	})
}
