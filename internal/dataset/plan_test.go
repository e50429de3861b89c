package dataset

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// planOf is a plan of tars with these numbers of samples.
func planOf(counts ...int32) *Plan {
	p := &Plan{counts: counts}
	for i, n := range counts {
		p.names = append(p.names, fmt.Sprintf("%05d.tar", i))
		p.total += int64(n)
	}
	return p
}

func TestPermuteIsABijection(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 5, 16, 17, 880, 4096, 10007} {
		seen := make([]bool, n)
		moved := 0
		for i := range n {
			p := Permute(42, i, n)
			if p >= n || seen[p] {
				t.Fatalf("n %d: %d goes to %d, which is taken or outside", n, i, p)
			}
			seen[p] = true
			if p != i {
				moved++
			}
		}
		if n > 16 && moved < int(n)*9/10 {
			t.Errorf("n %d: only %d moved", n, moved)
		}
	}
}

func TestPermuteBothWays(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 5, 16, 17, 880, 4096, 10007, 1 << 40, 1<<63 - 25} {
		for i := range min(n, 5000) {
			if i > 2500 {
				i = n - 1 - (i-2500)*(n/5000+1)%n
			}
			p := Permute(42, i, n)
			if back := Unpermute(42, p, n); p >= n || back != i {
				t.Fatalf("n %d: %d goes to %d and back to %d", n, i, p, back)
			}
		}
	}
}

// TestPlanOrder: in each pass every lane gives its samples once, all lanes
// together every sample once, and Find is the inverse of At.
func TestPlanOrder(t *testing.T) {
	tens := make([]int32, 10000)
	for i := range tens {
		tens[i] = 10
	}
	odd := make([]int32, 300)
	for i := range odd {
		odd[i] = int32(i * i % 977)
	}
	for name, c := range map[string]struct {
		plan  *Plan
		lanes int
	}{
		"10,000 tars of 10": {planOf(tens...), 8}, "odd": {planOf(odd...), 7}, "one tar": {planOf(5000), 3}, "one lane": {planOf(odd...), 1},
		"empty ones": {planOf(0, 0, 3, 0, 2, 0), 5}, "large and small": {planOf(40000, 1, 1, 3000, 2), 4}, "window and one": {planOf(1025), 1},
	} {
		lanes := make([]*Lane, c.lanes)
		for i := range lanes {
			lanes[i] = c.plan.Lane(3, i, c.lanes)
			if n := lanes[i].Len(); n < c.plan.Len()/int64(c.lanes) || n > c.plan.Len()/int64(c.lanes)+1 {
				t.Errorf("%s: lane %d of %d has %d of %d samples", name, i, c.lanes, n, c.plan.Len())
			}
		}
		same, stay, first := 0, 0, make([][][2]int, c.lanes)
		lane := map[[2]int]int{} // of each sample in the first pass
		for epoch := range int64(2) {
			seen := make([][]bool, c.plan.Shards())
			for s := range seen {
				_, n := c.plan.Shard(s)
				seen[s] = make([]bool, n)
			}
			for i, l := range lanes {
				for pos := epoch * l.Len(); pos < (epoch+1)*l.Len(); pos++ {
					s, o := l.At(pos)
					if seen[s][o] {
						t.Fatalf("%s: epoch %d: sample %d of tar %d comes twice", name, epoch, o, s)
					}
					seen[s][o] = true
					if at, ok := l.Find(epoch, s, o); !ok || at != pos {
						t.Fatalf("%s: sample %d of tar %d is at position %d of lane %d, found at %d (%v)", name, o, s, pos, i, at, ok)
					}
					if where, ok := lanes[(i+1)%c.lanes].Find(epoch, s, o); ok && c.lanes > 1 {
						t.Fatalf("%s: sample %d of tar %d is in lane %d, found in the next one at %d", name, o, s, i, where)
					}
					if c.plan.Len() > 1000 {
						at := [2]int{s, int(o)}
						switch {
						case epoch == 0:
							first[i], lane[at] = append(first[i], at), i
						case first[i][pos-l.Len()] == at:
							same++
						}
						if epoch > 0 && lane[at] == i {
							stay++
						}
					}
				}
			}
		}
		if same > int(c.plan.Len())/100 {
			t.Errorf("%s: %d of %d samples at the same position in the second pass", name, same, c.plan.Len())
		}
		if c.plan.Shards() > 100 && c.lanes > 1 && stay > int(c.plan.Len())*3/2/c.lanes { // lanes of the same samples in every pass are small sets
			t.Errorf("%s: %d of %d samples in the same lane in the second pass", name, stay, c.plan.Len())
		}
	}
}

// TestPlanMixing: a window takes from all tars that are read side by side, in
// proportion, and each tar is read from front to back.
func TestPlanMixing(t *testing.T) {
	counts := make([]int32, 40)
	for i := range counts {
		counts[i] = 3000 + int32(i)*100
	}
	p := planOf(counts...)
	l := p.Lane(1, 1, 2)
	last := map[int]int64{} // of the windows before
	for pos := int64(0); pos < l.Len(); {
		w := l.window(pos)
		if w.at != pos || w.size > Window || w.size < Window/2 {
			t.Fatalf("position %d: a window of %d at %d", pos, w.size, w.at)
		}
		high, tars := map[int]int64{}, map[int]int{}
		for i := range w.size {
			s, o := l.At(pos + i)
			if before, ok := last[s]; ok && o <= before {
				t.Fatalf("position %d: sample %d of tar %d after %d", pos, o, s, before)
			}
			high[s] = max(high[s], o)
			tars[s]++
		}
		for s, n := range tars {
			last[s] = high[s]
			if len(tars) == 4 && (n < 150 || n > 400) {
				t.Errorf("position %d: %d of %d samples from tar %d", pos, n, w.size, s)
			}
		}
		pos += w.size
	}
}

// TestPlanAtSize: ten million samples enumerated, two billion found at random
// positions, and what a plan of 232,000 tars keeps.
func TestPlanAtSize(t *testing.T) {
	counts := make([]int32, 1000)
	for i := range counts {
		counts[i] = 10000
	}
	p := planOf(counts...)
	seen := make([]uint64, p.Len()/64+1)
	for lane := range 16 {
		l := p.Lane(9, lane, 16)
		for pos := int64(0); pos < l.Len(); {
			w := l.window(pos)
			for i := range w.size {
				c := w.order(i)
				if seen[c/64]>>(c%64)&1 != 0 {
					t.Fatalf("lane %d, position %d: place %d comes twice", lane, pos+i, c)
				}
				seen[c/64] |= 1 << (c % 64)
			}
			pos += w.size
		}
	}
	for c := range p.Len() {
		if seen[c/64]>>(c%64)&1 == 0 {
			t.Fatalf("place %d never comes", c)
		}
	}

	counts = make([]int32, 232000)
	for i := range counts {
		counts[i] = int32(8500 + i%300)
	}
	p = planOf(counts...)
	if p.Len() < 2e9 {
		t.Fatal(p.Len())
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 20000 {
		l := p.Lane(9, r.IntN(256), 256)
		pos := (int64(n/8000)+r.Int64N(2))*l.Len() + r.Int64N(l.Len())
		s, o := l.At(pos)
		if at, ok := l.Find(pos/l.Len(), s, o); !ok || at != pos {
			t.Fatalf("position %d of lane %d is sample %d of tar %d, which is found at %d (%v)", pos, l.lane, o, s, at, ok)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 16<<20 {
		t.Errorf("the order of %d tars keeps %d bytes", len(counts), kept)
	}
	runtime.KeepAlive(p)
}
