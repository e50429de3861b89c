package trainer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// How a source is read.
const (
	readStream = "stream" // tars from front to back, by lanes
	readRandom = "random" // any sample at any time, by an index of all
)

// What to do about a tar that cannot be read.
const (
	missingError = "error"
	missingSkip  = "skip"
)

// countHeaders asks to count the samples of tars by their headers.
const countHeaders = "headers"

// streamAbove is how many tars a source may have to be read at random unless the
// recipe says otherwise: an index of so many samples fits into memory, and walking
// their headers takes minutes.
const streamAbove = 1000

// maxLanes bounds the lanes of a run.
const maxLanes = 1 << 12

// lanesFor is the number of lanes of a recipe that does not give one: a divisor of
// the batch, about one per 512 rows, from 8 to 256 if the batch allows it.
func lanesFor(batch int) int {
	n := min(max(batch/512, 8), 256, batch)
	for batch%n != 0 {
		n--
	}
	return n
}

// streams reports whether any source is read as a stream.
func (r *Recipe) streams() bool {
	return slices.ContainsFunc(r.Data, func(s Source) bool { return s.Read == readStream })
}

// adopt takes from the recipe of an earlier process how sources are read, where r
// does not say.
func (r *Recipe) adopt(before *Recipe) *Recipe {
	out := *r
	out.Data = slices.Clone(r.Data)
	for i := range out.Data {
		if out.Data[i].Read == "" && i < len(before.Data) && before.Data[i].Source != "" {
			out.Data[i].Read = before.Data[i].Read
			if out.Data[i].Read == "" {
				out.Data[i].Read = readRandom
			}
		}
	}
	if out.Lanes == 0 && out.streams() && before.Lanes > 0 && out.Batch%before.Lanes == 0 {
		out.Lanes = before.Lanes
	}
	return &out
}

// settleReading decides how to read the sources for which neither the recipe nor a
// checkpoint says.
func (r *Recipe) settleReading(ctx context.Context) *Recipe {
	out := *r
	out.Data = slices.Clone(r.Data)
	for i, s := range out.Data {
		if s.Source == "" || s.Read != "" {
			continue
		}
		tars, err := dataset.Tars(ctx, r.path(s.Source)) // opening it will report the error
		if err == nil && len(tars) > streamAbove {
			out.Data[i].Read = readStream
		}
	}
	if out.Lanes == 0 && out.streams() {
		out.Lanes = lanesFor(out.Batch)
	}
	return &out
}

// noEffect refuses keys that the sources, as they are read, make no use of.
func (r *Recipe) noEffect(ctx context.Context) error {
	for i, s := range r.Data {
		if s.Count != "" && s.Read != readStream {
			return fault.Usagef("data.%d.count: %s needs read: stream; read: random counts by its index: leave it out", i, s.Count)
		}
		if s.Image == "" && s.Caption == "" {
			continue
		}
		if s.Tensors != "" {
			return fault.Usagef("data.%d: tensors have no columns; leave out image and caption", i)
		}
		tars, err := dataset.Tars(ctx, r.path(s.Source)) // opening it will report the error
		if err == nil && len(tars) > 0 && s.Image != "" {
			return fault.Usagef("data.%d.image: %q is a column of a table, and tars have none; leave it out", i, s.Image)
		}
	}
	return nil
}

// draws gives the samples of rows, one after another.
type draws interface {
	next(ctx context.Context) (draw, error)
	close()
}

// draw is the sample of a row.
type draw struct {
	pos     int64 // of the run
	source  int   // pool
	example int64 // in a pool that is read at random
	sample  *dataset.Sample
}

// rowRange is the range of rows that a process makes of every batch.
type rowRange struct{ from, to int }

// randomDraws are the draws of a run whose sources are all read at random.
type randomDraws struct {
	order *order
	rows  rowRange
	batch int
	start int64 // position of the batch
	row   int
}

func (d *randomDraws) next(context.Context) (draw, error) {
	pos := d.start + int64(d.row)
	source, example := d.order.at(pos)
	if d.row++; d.row == d.rows.to {
		d.row, d.start = d.rows.from, d.start+int64(d.batch)
	}
	return draw{pos: pos, source: source, example: example}, nil
}

func (d *randomDraws) close() {}

// laneDraws are the draws of a run that reads streams: rows [l·B/L, (l+1)·B/L) of
// every batch come from lane l of L, so that the samples of a row do not depend
// on how many processes share the lanes. Each lane mixes the sources by their
// weights independently.
type laneDraws struct {
	pairs *pairs
	rows  rowRange
	each  int // rows of a lane
	start int64
	row   int
	lanes []*laneDraw // of the process's rows
}

// laneDraw is one lane.
type laneDraw struct {
	lane    int
	order   *order
	at      int64                 // position in the lane
	readers []*dataset.LaneReader // for each pool; nil if it is read at random
}

// laneOrder is the order in which a lane mixes the sources.
func (p *pairs) laneOrder(lane int) *order {
	o := *p.order
	o.seed = dataset.MixKey(o.seed, uint64(lane), 0x1a9e)
	o.block, o.slots, o.nth = -1, nil, nil
	return &o
}

// laneStart is the position of every lane once the run has seen so many samples.
// If a fork has changed the lanes, it is rounded down.
func (p *pairs) laneStart(seen int64) int64 { return seen / int64(p.recipe.Lanes) }

// given is how many of the first samples come from each pool.
func (p *pairs) given(samples int64) []int64 {
	if p.recipe.Lanes == 0 || !p.recipe.streams() {
		return p.order.given(samples)
	}
	out := make([]int64, len(p.pools))
	for lane := range p.recipe.Lanes {
		for s, n := range p.laneOrder(lane).given(p.laneStart(samples)) {
			out[s] += n
		}
	}
	return out
}

// draws returns the samples of the process's rows, from a position of the run on.
func (p *pairs) draws(ctx context.Context, pos int64, rows rowRange) draws {
	b := p.recipe.Batch
	if !p.recipe.streams() {
		return &randomDraws{order: p.order, rows: rows, batch: b, start: pos, row: rows.from}
	}
	d := &laneDraws{pairs: p, rows: rows, each: b / p.recipe.Lanes, start: pos, row: rows.from}
	for lane := rows.from / d.each; lane < rows.to/d.each; lane++ {
		l := &laneDraw{lane: lane, order: p.laneOrder(lane), at: p.laneStart(pos)}
		given := l.order.given(l.at)
		for s := range p.pools {
			var r *dataset.LaneReader
			if plan := p.pools[s].plan; plan != nil {
				r = plan.Read(ctx, plan.Lane(p.poolSeed(s), lane, p.recipe.Lanes), given[s], p.laneOptions(s))
			}
			l.readers = append(l.readers, r)
		}
		d.lanes = append(d.lanes, l)
	}
	return d
}

// poolSeed gives two sources of the same tars different orders.
func (p *pairs) poolSeed(s int) uint64 {
	return dataset.MixKey(uint64(p.recipe.Seed), uint64(s), 0x57ea)
}

func (d *laneDraws) next(ctx context.Context) (draw, error) {
	l := d.lanes[(d.row-d.rows.from)/d.each]
	source, nth := l.order.slot(l.at)
	l.at++
	out := draw{pos: d.start + int64(d.row), source: source}
	if d.row++; d.row == d.rows.to {
		d.row, d.start = d.rows.from, d.start+int64(d.pairs.recipe.Batch)
	}
	if r := l.readers[source]; r != nil {
		var err error
		out.sample, err = r.Next(ctx)
		return out, err
	}
	// The lanes take turns in the order of a source that is read at random.
	out.example = d.pairs.order.shuffled(source, nth*int64(d.pairs.recipe.Lanes)+int64(l.lane))
	return out, nil
}

func (d *laneDraws) close() {
	var wg sync.WaitGroup
	for _, l := range d.lanes {
		for _, r := range l.readers {
			if r != nil {
				wg.Go(r.Close)
			}
		}
	}
	wg.Wait()
}

// gap is a piece of a tar that the run leaves out; it is stored in state.json, so
// that a resumed run leaves it out too.
type gap struct {
	Source int `json:"source"` // of the recipe, from 0
	dataset.Gap
}

// laneOptions are the options for the lanes of pool s.
func (p *pairs) laneOptions(s int) dataset.LaneOptions {
	source := p.pools[s].source
	o := dataset.LaneOptions{Attempts: attempts, Pause: p.pause, Retry: p.warn}
	p.mu.Lock()
	for _, g := range p.gaps {
		if g.Source == source {
			o.Gaps = append(o.Gaps, g.Gap)
		}
	}
	p.mu.Unlock()
	o.Gap = func(g dataset.Gap, cause error) error { return p.missing(source, g, cause) }
	var once sync.Once
	o.More = func(shard string, n int64) {
		once.Do(func() {
			p.log.Warn("a tar holds more samples than its count; the rest is not read", "tar", shard, "count", n, "source", source)
		})
	}
	return o
}

// missing decides what to do about a tar of a source that cannot be read.
func (p *pairs) missing(source int, g dataset.Gap, cause error) error {
	tried := time.Duration(1<<(attempts-1)-1) * p.pause
	s := p.recipe.Data[source]
	if s.MissingShards != missingSkip {
		if fault.FromEnvironment(cause) {
			return fault.Envf("data: %w; %d attempts in %v failed; once the storage is back, the same command resumes the run", cause, attempts, tried)
		}
		return fault.Inputf("data: %w (%d attempts in %v); repair it, or continue without it: data.%d.missing_shards: skip", cause, attempts, tried, source)
	}
	p.skip(source, g, cause)
	return nil
}

// skip records a tar, or a piece of one, that the run leaves out.
func (p *pairs) skip(source int, g dataset.Gap, cause error) {
	p.mu.Lock()
	p.gaps = append(p.gaps, gap{source, g})
	p.mu.Unlock()
	where := fmt.Sprintf("%s (from sample %d, lane %d, pass %d)", g.Shard, g.From, g.Lane, g.Epoch+1)
	if g.Epoch == everyPass {
		where = g.Shard + " (all samples, in all passes)"
	}
	p.log.Warn("a tar cannot be read; the run continues without it", "tar", where, "error", fault.Line(cause))
	p.bad.list(p.recipe.Data[source].Source, &badSample{path: where, err: cause})
}

// everyPass is the pass of a gap that stands for a tar whose samples could not be
// counted: the tar is empty in the plan.
const everyPass = -1

// uncounted are the tars of a source that an earlier process could not count.
func (p *pairs) uncounted(source int) (out []int) {
	for _, g := range p.gaps {
		if g.Source == source && g.Epoch == everyPass {
			out = append(out, g.Tar)
		}
	}
	return out
}

// gapsNow are the gaps known so far, in an order that does not depend on which was
// found first.
func (p *pairs) gapsNow() []gap {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(p.gaps)
	sortGaps(out)
	return out
}

func sortGaps(list []gap) {
	slices.SortFunc(list, func(a, b gap) int {
		return compareAll(int64(a.Source-b.Source), a.Epoch-b.Epoch, int64(a.Lane-b.Lane), int64(a.Tar-b.Tar), a.From-b.From)
	})
}

func compareAll(differences ...int64) int {
	for _, d := range differences {
		if d != 0 {
			return int(max(-1, min(1, d)))
		}
	}
	return 0
}
