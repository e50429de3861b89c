package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/img"
)

// cacheBytes bounds the decoded pictures kept in memory; a set that does not
// fit is decoded in every pass.
const cacheBytes = 256 << 20

// substitutes is how many other examples are tried in place of a bad one.
const substitutes = 16

// pairs produces the training pair at any position of the run: example, crop,
// flip, caption and template are pure functions of the seed and the position.
type pairs struct {
	recipe *Recipe
	cfg    *arch.Config
	pools  []pool // one per weighted source; one for all when there are no weights
	order  *order
	tok    *bpe.Tokenizer
	bad    *badSamples
	log    *slog.Logger
	pause  time.Duration // before the first retry of a read

	mu     sync.Mutex
	cached map[[2]int64]*img.RGB
	room   int64 // of the cache; negative: the set does not fit
	kept   int64 // pictures in it
	warned time.Time
	gaps   []gap // of streams
}

// reading says how the sources are opened and reads retried; the zero value is for
// real sources, tests use their own.
type reading struct {
	open  func(ctx context.Context, src string, o dataset.Options) (dataset.Dataset, error)
	pause time.Duration
	gaps  []gap // that an earlier process of the run left out
}

// A read that the environment made fail is retried: attempts in all, with pauses
// that double from firstPause, half a minute in total.
const (
	attempts   = 6
	firstPause = time.Second
)

// pool is one or more data sets combined into one list, or a stream.
type pool struct {
	source int // of the recipe, the first one
	sets   []dataset.Dataset
	starts []int64 // first position of each set
	n      int64
	plan   *dataset.Plan // of a stream
}

func (p *pool) add(d dataset.Dataset) {
	p.sets, p.starts = append(p.sets, d), append(p.starts, p.n)
	p.n += int64(d.Len())
}

func (p *pool) read(i int64) (dataset.Example, error) {
	k := sort.Search(len(p.starts), func(k int) bool { return p.starts[k] > i }) - 1
	return p.sets[k].Read(int(i - p.starts[k]))
}

// openPairs opens the recipe's sources.
func openPairs(ctx context.Context, r *Recipe, cfg *arch.Config, bad *badSamples, how reading) (_ *pairs, err error) {
	if err := cfg.CheckTexts(); err != nil {
		return nil, fault.As(fault.Usage, fmt.Errorf("model: %w; captions need a model with CLIP's vocabulary", err))
	}
	if how.open == nil {
		how.open, how.pause = dataset.Open, firstPause
	}
	p := &pairs{recipe: r, cfg: cfg, tok: bpe.New(), bad: bad, log: bad.log, pause: how.pause, cached: map[[2]int64]*img.RGB{}, gaps: slices.Clone(how.gaps)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := p.openPools(ctx, how); err != nil {
		return nil, err
	}
	var weights []float64
	var sizes []int64
	for i := range p.pools {
		w := r.Data[p.pools[i].source].Weight
		if w == 0 { // by size
			w = float64(p.pools[i].n)
		}
		weights, sizes = append(weights, w), append(sizes, p.pools[i].n)
	}
	if p.order, err = newOrder(r.Seed, sizes, weights); err != nil {
		return nil, err
	}
	p.room = cacheBytes
	return p, nil
}

// openPools opens the sources: each source with a weight and each stream is a pool
// of its own; the others share one.
func (p *pairs) openPools(ctx context.Context, how reading) error {
	rest := -1
	for i, s := range p.recipe.Data {
		o := dataset.Options{ImageColumn: s.Image, CaptionColumn: s.Caption, Unlabelled: true}
		path := p.recipe.path(s.Source)
		if s.Read == readStream {
			o.Log, o.Without, o.CountHeaders = p.log, p.uncounted(i), s.Count == countHeaders
			if s.MissingShards == missingSkip {
				o.Skip = func(tar int, name string, err error) {
					p.skip(i, dataset.Gap{Shard: name, Tar: tar, Epoch: everyPass}, err)
				}
			}
			plan, err := dataset.OpenPlan(ctx, path, o)
			if errors.Is(err, dataset.ErrUncounted) {
				err = fault.As(fault.Input, fmt.Errorf("%w: data.%d.count: headers", err, i))
			}
			if err == nil {
				err = p.checkPlan(ctx, i, plan)
			}
			if err != nil {
				return p.recipe.missingData(fmt.Errorf("data.%d: %w", i, err))
			}
			p.pools = append(p.pools, pool{source: i, plan: plan, n: plan.Len()})
			continue
		}
		if s.MissingShards == missingSkip {
			return fault.Usagef("data.%d.missing_shards: skip needs read: stream; the index of read: random needs every tar", i)
		}
		d, err := how.open(ctx, path, o)
		if err != nil {
			return p.recipe.missingData(fmt.Errorf("data.%d: %w", i, err))
		}
		at := rest
		if rest < 0 || s.Weight > 0 {
			at = len(p.pools)
			p.pools = append(p.pools, pool{source: i})
		}
		if s.Weight == 0 {
			rest = at
		}
		p.pools[at].add(d)
		if err := hasCaptions(s.Source, d); err != nil {
			return fmt.Errorf("data.%d: %w", i, err)
		}
	}
	return nil
}

// checkPlan refuses a stream that a run cannot start on.
func (p *pairs) checkPlan(ctx context.Context, source int, plan *dataset.Plan) error {
	name := p.recipe.Data[source].Source
	if n := int64(p.recipe.Lanes); plan.Len() < n {
		return fault.Inputf("%s: holds %d samples, fewer than the %d lanes; set lanes to %d or less, or read: random", name, plan.Len(), n, plan.Len())
	}
	first, err := plan.First(ctx, 3)
	if err != nil {
		if p.recipe.Data[source].MissingShards == missingSkip {
			return nil
		}
		return err
	}
	hint := ""
	for _, s := range first {
		if s.Err != nil || len(s.Example.Captions) > 0 {
			return nil // the run counts unreadable ones
		}
		if s.Example.Hint != "" {
			hint = "; " + s.Example.Hint
		}
	}
	return noCaptions(name, plan.Describe(), hint)
}

func (p *pairs) close() {
	for i := range p.pools {
		for _, d := range p.pools[i].sets {
			d.Close()
		}
	}
}

// fillABatch refuses fewer samples than a batch has rows: a picture that comes twice
// in a batch is its own negative, and the loss stays near ln(batch). Of a source that
// its weight draws more often than it has samples it warns.
func (p *pairs) fillABatch() error {
	var n int64
	var weights float64
	for i := range p.pools {
		n += p.pools[i].n
		weights += p.recipe.Data[p.pools[i].source].Weight
	}
	b := int64(p.recipe.Batch)
	if n < b {
		return fault.Inputf("data: %d samples do not fill a batch of %d: a pair would be in it several times, as its own negative; give more data, or set batch=%d", n, b, n)
	}
	for i := range p.pools {
		of := p.pools[i].source
		if rows := p.recipe.Data[of].Weight / weights * float64(b); weights > 0 && rows > float64(p.pools[i].n) {
			p.log.Warn("a source has fewer samples than its share of a batch: pairs are in it several times, as their own negatives", "source", of, "samples", p.pools[i].n, "rows", int64(rows))
		}
	}
	return nil
}

// fingerprint changes when the list of examples does.
func (p *pairs) fingerprint() []string {
	var out []string
	for i := range p.pools {
		if plan := p.pools[i].plan; plan != nil {
			out = append(out, plan.Fingerprint())
		}
		for _, d := range p.pools[i].sets {
			out = append(out, d.Fingerprint())
		}
	}
	return out
}

// fill writes the pair of a draw into one row. A bad example is counted and
// replaced by another: in a stream one of its window, otherwise any of the source.
// One that the environment withholds is an error, since replacing it would change
// the training.
func (p *pairs) fill(ctx context.Context, d draw, pixels []uint8, tokens []int32) error {
	state := rand.NewPCG(uint64(p.recipe.Seed)^0x5eed, uint64(d.pos))
	r := rand.New(state)
	first := d.sample
	for range substitutes {
		why, err := p.try(ctx, r, state, d, pixels, tokens)
		if why == nil || err != nil {
			return err
		}
		pool := &p.pools[d.source]
		if err := p.bad.add(p.recipe.Data[pool.source].Source, why, d.pos); err != nil {
			return err
		}
		if first != nil {
			other := first.Instead(r.Uint64())
			d.sample = &other
		} else {
			d.example = r.Int64N(pool.n)
		}
	}
	return fault.Inputf("data: %d examples in a row cannot be used; %s lists them: check the source", substitutes, p.bad.path)
}

// example returns the example of a draw; a bad one is an error.
func (p *pairs) example(ctx context.Context, d draw) (dataset.Example, error) {
	if d.sample != nil {
		return d.sample.Example, d.sample.Err
	}
	ex, err := p.read(ctx, d.source, d.example)
	if err != nil {
		ex.Path += fmt.Sprintf(" (example %d)", d.example)
	}
	return ex, err
}

func (p *pairs) try(ctx context.Context, r *rand.Rand, state *rand.PCG, d draw, pixels []uint8, tokens []int32) (*badSample, error) {
	ex, err := p.example(ctx, d)
	if fault.FromEnvironment(err) || errors.Is(err, context.Canceled) {
		return nil, err
	}
	if err != nil {
		return &badSample{path: ex.Path, err: err}, nil
	}
	caption, ok := p.caption(r, ex.Captions)
	if !ok {
		why := "empty caption"
		if ex.Hint != "" {
			why += "; " + ex.Hint
		}
		return &badSample{path: ex.Path, err: errors.New(why)}, nil
	}
	before := *state
	crop, err := p.crop(r, d, ex.Image)
	if err != nil {
		*state = before // later draws must not depend on where the damage was found
		return &badSample{path: ex.Path, err: err}, nil
	}
	if h := p.recipe.Augment.HFlip; h > 0 && r.Float64() < h {
		crop.FlipH()
	}
	copy(pixels, crop.Pix)
	p.tok.Tokens(tokens, caption, p.cfg.Text.ContextLength)
	return nil, nil
}

// read reads an example of a source. What the environment refuses is retried:
// storage comes back, and a training is long.
func (p *pairs) read(ctx context.Context, source int, example int64) (dataset.Example, error) {
	pause := p.pause
	for n := 1; ; n++ {
		ex, err := p.pools[source].read(example)
		if !fault.FromEnvironment(err) {
			return ex, err
		}
		if n == attempts {
			return ex, fault.Envf("data: %w; %d attempts in %v failed; once the storage is back, the same command resumes the run", err, attempts, pause-p.pause)
		}
		p.warn(err, pause)
		select {
		case <-ctx.Done():
			return ex, ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// warn logs that a read failed, but not for each of many at once.
func (p *pairs) warn(err error, pause time.Duration) {
	p.mu.Lock()
	said := time.Since(p.warned) < 5*time.Second
	if !said {
		p.warned = time.Now()
	}
	p.mu.Unlock()
	if !said {
		p.log.Warn("cannot read the data; trying again", "error", fault.Line(err), "in", pause)
	}
}

// caption draws one of the captions and one of the templates.
func (p *pairs) caption(r *rand.Rand, captions []string) (string, bool) {
	if len(captions) == 0 {
		return "", false
	}
	c := strings.TrimSpace(captions[r.IntN(len(captions))])
	if t := p.recipe.Captions; len(t) > 0 {
		return strings.ReplaceAll(t[r.IntN(len(t))], "{}", c), c != ""
	}
	return c, c != ""
}

// crop draws a crop of the picture in file; if the whole set fits into memory the
// picture is kept.
func (p *pairs) crop(r *rand.Rand, d draw, file []byte) (*img.RGB, error) {
	o := p.recipe.Image
	box := func(w, h int) img.Box { return img.SampleBox(r, w, h, o.Scale, o.Ratio) }
	key := [2]int64{int64(d.source), d.example}
	var im *img.RGB
	if d.sample == nil {
		p.mu.Lock()
		im = p.cached[key]
		p.mu.Unlock()
	}
	if im == nil {
		pic, err := img.Parse(file)
		if err != nil {
			return nil, err
		}
		size := 3 * int64(pic.W) * int64(pic.H)
		if d.sample != nil || !p.reserve(size) {
			return pic.RandomResizedCrop(box(pic.W, pic.H), o.Size)
		}
		if im, err = pic.RGB(); err != nil {
			p.reserve(-size)
			return nil, err
		}
		p.mu.Lock()
		if p.room >= 0 {
			p.cached[key] = im
		}
		p.mu.Unlock()
	}
	return img.RandomResizedCrop(im, box(im.W, im.H), o.Size), nil
}

// cacheSample is the number of pictures whose mean size decides whether all fit.
const cacheSample = 64

// reserve takes n bytes of the memory for pictures, and reports whether they were
// available. It ends the caching if the set does not fit, or will not.
func (p *pairs) reserve(n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.room < 0 {
		return false
	}
	p.room -= n
	if n > 0 {
		p.kept++
	}
	used, all := cacheBytes-p.room, int64(0)
	for i := range p.pools {
		if p.pools[i].plan == nil {
			all += p.pools[i].n
		}
	}
	if p.kept == cacheSample && float64(used)/cacheSample*float64(all) > cacheBytes {
		p.room = -1
	}
	if p.room < 0 {
		clear(p.cached)
	}
	return p.room >= 0
}

// describe says for the log what a run reads.
func (p *pairs) describe() string {
	var list []string
	for i := range p.pools {
		if plan := p.pools[i].plan; plan != nil {
			list = append(list, plan.Describe())
		}
		for _, d := range p.pools[i].sets {
			list = append(list, d.Describe())
		}
	}
	return strings.Join(list, "; ")
}

// hasCaptions refuses, before a run starts, a source that is empty or whose first
// examples have no captions at all.
func hasCaptions(name string, d dataset.Dataset) error {
	if d.Len() == 0 {
		return fault.Inputf("%s: holds no examples; give another source", name)
	}
	const probes = 3
	hint := ""
	for i := range min(probes, d.Len()) {
		ex, err := d.Read(i)
		if err != nil || len(ex.Captions) > 0 {
			return nil // the run counts unreadable ones
		}
		if ex.Hint != "" {
			hint = "; " + ex.Hint
		}
	}
	return noCaptions(name, d.Describe(), hint)
}

func noCaptions(name, what, hint string) error {
	return fault.Inputf("%s: the examples have no captions (%s); training needs a .txt or .json beside each image, or a caption column%s", name, what, hint)
}
