package dataset

import (
	"fmt"
	"math/bits"
	"path"
	"sort"
	"sync"
)

// Plan is a set of tars that is read as a stream: which tars there are and how
// many samples each has. The order in which a training reads it is a pure
// function of seed and position, both ways; nothing is indexed, and nothing has
// to be saved to continue:
//
// In each pass the tars are permuted, and all samples in that order are cut
// into lanes of equal size, inside tars too. A lane is read in runs, each as
// many tars (or pieces of them) as have minRun samples, usually one; runsAtOnce
// runs are read side by side, each from front to back. What they give is cut
// into windows, to which each run contributes its share, and a window is
// permuted.
type Plan struct {
	st     storage
	names  []string
	counts []int32
	from   string // where the counts come from, for messages
	total  int64
	index  bool // tars have Energon's .tar.idx
	o      Options
	reads  chan struct{} // bounds the reads under way

	mu       sync.Mutex
	arranged []*arrangement // the last ones used
}

const (
	// runsAtOnce is how many tars a lane reads side by side.
	runsAtOnce = 4
	// Window is how many samples are shuffled together, at most.
	Window = 1024
	minRun = Window / runsAtOnce
)

// Len is the number of samples of one pass.
func (p *Plan) Len() int64 { return p.total }

// Shards is the number of tars.
func (p *Plan) Shards() int { return len(p.names) }

// Shard is the name of a tar and the number of its samples.
func (p *Plan) Shard(i int) (string, int64) { return p.names[i], int64(p.counts[i]) }

// Describe says in a few words what was found.
func (p *Plan) Describe() string {
	return fmt.Sprintf("stream, %s, %s (counted by %s)", plural(len(p.names), "tar"), plural(int(p.total), "sample"), p.from)
}

// Fingerprint is a hash over the tars' base names and numbers of samples.
func (p *Plan) Fingerprint() string {
	h := newHash("stream")
	for i, name := range p.names {
		h.text(path.Base(name))
		h.number(int64(p.counts[i]))
	}
	return h.sum()
}

// arrangement is the order of the tars in one pass.
type arrangement struct {
	seed   uint64
	epoch  int64
	shards []int32
	starts []int64 // of each, and the end
}

func (p *Plan) shardKey(seed uint64, epoch int64) uint64 { return MixKey(seed, 0x5a4d, uint64(epoch)) }

// arrange is the order of a pass. Lanes of two passes are in use at a time.
func (p *Plan) arrange(seed uint64, epoch int64) *arrangement {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.arranged {
		if a.seed == seed && a.epoch == epoch {
			return a
		}
	}
	n := len(p.counts)
	a := &arrangement{seed: seed, epoch: epoch, shards: make([]int32, n), starts: make([]int64, n+1)}
	key := p.shardKey(seed, epoch)
	for i := range a.shards {
		s := Permute(key, uint64(i), uint64(n))
		a.shards[i] = int32(s)
		a.starts[i+1] = a.starts[i] + int64(p.counts[s])
	}
	if len(p.arranged) == 2 {
		p.arranged = p.arranged[1:]
	}
	p.arranged = append(p.arranged, a)
	return a
}

// at is the place in the pass's order that holds sample c of it.
func (a *arrangement) at(c int64) int {
	return sort.Search(len(a.shards), func(i int) bool { return a.starts[i+1] > c })
}

// Lane is one of several equal shares of a plan: what one reader reads in
// sequence. It is not safe for many goroutines.
type Lane struct {
	plan        *Plan
	seed        uint64
	lane, lanes int
	from, to    int64 // of the order of every pass
	cut         *cut  // of the pass last asked for
}

// Lane is a share of the plan in the order of a seed.
func (p *Plan) Lane(seed uint64, lane, lanes int) *Lane {
	return &Lane{plan: p, seed: seed, lane: lane, lanes: lanes, from: p.laneStart(lane, lanes), to: p.laneStart(lane+1, lanes)}
}

func (p *Plan) laneStart(lane, lanes int) int64 {
	return int64(mulDiv(uint64(p.total), uint64(lane), uint64(lanes)))
}

// Len is the number of samples of one pass.
func (l *Lane) Len() int64 { return l.to - l.from }

// cut is a lane of one pass, cut into runs and bundles of runs that are read
// side by side. All numbers are places in the order of the pass.
type cut struct {
	*arrangement
	runs    []int64 // where each begins, and the end
	bundles []int32 // its first run, and the number of runs
}

func (l *Lane) pass(epoch int64) *cut {
	if l.cut != nil && l.cut.epoch == epoch {
		return l.cut
	}
	c := &cut{arrangement: l.plan.arrange(l.seed, epoch), runs: []int64{l.from}}
	for i := c.at(l.from); i < len(c.shards) && c.starts[i+1] < l.to; i++ {
		if end := c.starts[i+1]; end-c.runs[len(c.runs)-1] >= minRun {
			c.runs = append(c.runs, end)
		}
	}
	c.runs = append(c.runs, l.to)
	runs := len(c.runs) - 1
	bundles := (runs + runsAtOnce - 1) / runsAtOnce
	for b := range bundles + 1 {
		c.bundles = append(c.bundles, int32(b*runs/bundles))
	}
	l.cut = c
	return c
}

// bundle is the runs that are read side by side, as places in the order of the
// pass: where each begins, and the end.
type bundle []int64

func (b bundle) size() int64 { return b[len(b)-1] - b[0] }

// windows is how many the bundle is cut into.
func (b bundle) windows() int64 { return (b.size() + Window - 1) / Window }

// edge is where window w begins.
func (b bundle) edge(w int64) int64 {
	return int64(mulDiv(uint64(b.size()), uint64(w), uint64(b.windows())))
}

// shares is how many of the bundle's first x samples each run gives: halves
// give in proportion to their sizes, and so on within them.
func (b bundle) shares(x int64) (out [runsAtOnce]int64) {
	var split func(lo, hi int, x int64)
	split = func(lo, hi int, x int64) {
		if hi-lo == 1 {
			out[lo] = x
			return
		}
		mid := (lo + hi) / 2
		left := int64(mulDiv(uint64(b[mid]-b[lo]), uint64(x), uint64(b[hi]-b[lo])))
		split(lo, mid, left)
		split(mid, hi, x-left)
	}
	split(0, len(b)-1, x)
	return out
}

// window is a stretch of a lane that is shuffled as one.
type window struct {
	*cut
	bundle
	at       int64 // its first position in the lane, over all passes
	size     int64
	from, to [runsAtOnce]int64 // what each run gives
	key      uint64
}

// window is the one that holds position pos of the lane.
func (l *Lane) window(pos int64) *window {
	n := l.Len()
	w := l.pass(pos / n).around(l.from + pos%n)
	q := l.from + pos%n - w.bundle[0]
	k := int64(mulDiv(uint64(q), uint64(w.windows()), uint64(w.bundle.size())))
	for w.edge(k+1) <= q {
		k++
	}
	w.take(l, k)
	return w
}

// around is a window, not taken yet, of the bundle that has a place of the
// pass's order.
func (c *cut) around(place int64) *window {
	i := sort.Search(len(c.bundles)-2, func(i int) bool { return c.runs[c.bundles[i+1]] > place })
	return &window{cut: c, bundle: c.runs[c.bundles[i] : c.bundles[i+1]+1]}
}

// take turns w into window k of its bundle.
func (w *window) take(l *Lane, k int64) {
	lo, hi := w.edge(k), w.edge(k+1)
	w.size = hi - lo
	w.from, w.to = w.shares(lo), w.shares(hi)
	start := w.bundle[0] + lo
	w.at = w.epoch*l.Len() + start - l.from
	w.key = MixKey(l.seed, uint64(w.epoch), uint64(start))
}

// order is the place, in the order of the pass, of the window's ith sample.
func (w *window) order(i int64) int64 {
	slot := int64(Permute(w.key, uint64(i), uint64(w.size)))
	for r := range len(w.bundle) - 1 {
		n := w.to[r] - w.from[r]
		if slot < n {
			return w.bundle[r] + w.from[r] + slot
		}
		slot -= n
	}
	panic("dataset: a window's shares are not its size")
}

// At is the tar, and the number of the sample in it, at a position of the lane.
func (l *Lane) At(pos int64) (shard int, ordinal int64) {
	w := l.window(pos)
	c := w.order(pos - w.at)
	i := w.arrangement.at(c)
	return int(w.shards[i]), c - w.starts[i]
}

// Find is the inverse of At in a pass: the position at which a sample of a tar
// comes, if it does in this lane.
func (l *Lane) Find(epoch int64, shard int, ordinal int64) (pos int64, ok bool) {
	c := l.pass(epoch)
	place := c.starts[Unpermute(l.plan.shardKey(l.seed, epoch), uint64(shard), uint64(len(c.shards)))] + ordinal
	if place < l.from || place >= l.to {
		return 0, false
	}
	w := c.around(place)
	run := sort.Search(len(w.bundle)-2, func(i int) bool { return w.bundle[i+1] > place })
	place -= w.bundle[run] // in the run
	w.take(l, int64(sort.Search(int(w.windows())-1, func(i int) bool { return w.shares(w.edge(int64(i) + 1))[run] > place })))
	slot := place - w.from[run]
	for r := range run {
		slot += w.to[r] - w.from[r]
	}
	return w.at + int64(Unpermute(w.key, uint64(slot), uint64(w.size))), true
}

// mulDiv is a·b/c, rounded down; a or b is at most c.
func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi, lo, c)
	return q
}
