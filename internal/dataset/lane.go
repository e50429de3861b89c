package dataset

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// Sample is one sample of a lane.
type Sample struct {
	Pos     int64 // in the lane, over all passes
	Example Example
	Err     error // why it cannot be used; usually nil

	instead []Sample
}

// Instead is another sample of the same window, one of the window's last; the
// same n always gives the same one.
func (s *Sample) Instead(n uint64) Sample { return s.instead[n%uint64(len(s.instead))] }

// spare is how many samples of a window Instead chooses from.
const spare = 16

// Gap is a piece of a tar that could not be read: from a sample on to where the
// lane's piece ends. Its samples are replaced by others of their windows.
type Gap struct {
	Shard string `json:"shard"` // name of the tar, as it was then
	Tar   int    `json:"tar"`   // number of it in the plan: tars may move
	Epoch int64  `json:"epoch"` // pass
	Lane  int    `json:"lane"`
	From  int64  `json:"from"` // number of the sample in the tar
}

// LaneOptions say how a lane is read.
type LaneOptions struct {
	// Attempts is how often a failing tar is opened again, with pauses that
	// start at Pause and double.
	Attempts int
	Pause    time.Duration
	// Retry is told of a failed read that will be tried again. It may be nil.
	Retry func(err error, pause time.Duration)
	// Gaps are those of an earlier process: they are not tried again.
	Gaps []Gap
	// Gap decides about a new one; its error ends the lane. nil: the gap's
	// cause ends it.
	Gap func(g Gap, cause error) error
	// More is told of a tar with more samples than the plan says, in each pass.
	// It may be nil.
	More func(shard string, n int64)
}

// LaneReader gives the samples of a lane in order. It keeps at most liveSamples
// of them, and of each of runsAtOnce tars partsAhead+1 parts, in memory.
type LaneReader struct {
	plan    *Plan
	lane    *Lane
	o       LaneOptions
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	windows chan *filled
	room    chan struct{} // one for each sample in memory
	now     *filled
	pos     int64
}

// liveSamples is how many samples a lane keeps: as those of a window are taken,
// the next one fills.
const liveSamples = Window

// LaneBytes is what a lane keeps in memory where a sample has sampleBytes.
func LaneBytes(sampleBytes int64) int64 {
	return runsAtOnce*(partsAhead+1)*partSize + liveSamples*sampleBytes
}

// filled is a window that is read.
type filled struct {
	at      int64
	samples []*Sample
	spare   []Sample
	err     error
}

// Read starts reading a lane at a position.
func (p *Plan) Read(ctx context.Context, l *Lane, from int64, o LaneOptions) *LaneReader {
	r := &LaneReader{plan: p, lane: l, o: o, windows: make(chan *filled), room: make(chan struct{}, liveSamples), pos: from}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.wg.Go(func() {
		defer close(r.windows)
		f := filler{LaneReader: r}
		defer f.closeRuns()
		for pos := from; ; {
			w := f.fill(l.window(pos))
			if w == nil {
				return
			}
			select {
			case r.windows <- w:
			case <-r.ctx.Done():
				return
			}
			if w.err != nil {
				return
			}
			pos = w.at + int64(len(w.samples))
		}
	})
	return r
}

// Close ends the reading.
func (r *LaneReader) Close() {
	r.cancel()
	r.wg.Wait()
}

// Next is the sample at the next position. What cannot be read, and is not
// accepted as a gap, is an error.
func (r *LaneReader) Next(ctx context.Context) (*Sample, error) {
	for r.now == nil || r.pos == r.now.at+int64(len(r.now.samples)) {
		select {
		case w, ok := <-r.windows:
			if !ok {
				return nil, r.ctx.Err()
			}
			if w.err != nil {
				return nil, w.err
			}
			for range max(0, r.pos-w.at) { // read again after a stop
				<-r.room
			}
			r.now = w
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	i := r.pos - r.now.at
	s := *r.now.samples[i]
	r.now.samples[i] = nil
	s.Pos, s.instead = r.pos, r.now.spare
	r.pos++
	<-r.room
	return &s, nil
}

// filler reads windows. It keeps the runs of the bundle that is read.
type filler struct {
	*LaneReader
	start int64 // of the bundle, over all passes
	runs  []*runReader
}

func (f *filler) closeRuns() {
	for _, r := range f.runs {
		r.close()
	}
	f.runs = nil
}

// fill reads a window; nil means that the reader is closed.
func (f *filler) fill(w *window) *filled {
	if start := w.epoch*f.plan.total + w.bundle[0]; f.runs == nil || start != f.start {
		f.closeRuns()
		f.start = start
		for r := range len(w.bundle) - 1 {
			f.runs = append(f.runs, &runReader{f: f, cut: w.cut, next: w.bundle[r] + w.from[r]})
		}
	}
	out := &filled{at: w.at, samples: make([]*Sample, w.size)}
	slot := uint64(0)
	missing, last := false, error(nil)
	for r, run := range f.runs {
		for range w.to[r] - w.from[r] {
			select {
			case f.room <- struct{}{}:
			case <-f.ctx.Done():
				return nil
			}
			s, err := run.read()
			if f.ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return &filled{err: err}
			}
			if s == nil {
				missing, last = true, cmp.Or(run.why, last)
			}
			out.samples[Unpermute(w.key, slot, uint64(w.size))] = s
			slot++
		}
	}
	if missing {
		if err := out.patch(w.key, last); err != nil {
			return &filled{err: err}
		}
	}
	for _, s := range out.samples[max(0, len(out.samples)-spare):] {
		out.spare = append(out.spare, *s)
	}
	return out
}

// patch puts samples of the window into the places of missing ones; why is the
// last reason, nil when an earlier process had it.
func (w *filled) patch(key uint64, why error) error {
	var there []*Sample
	for _, s := range w.samples {
		if s != nil {
			there = append(there, s)
		}
	}
	if len(there) == 0 {
		return fault.Inputf("none of the tars read side by side is readable: %d samples in a row are missing (%w)", len(w.samples), cmp.Or(why, errGone))
	}
	for i, s := range w.samples {
		if s == nil {
			w.samples[i] = there[MixKey(key, uint64(i), 1)%uint64(len(there))]
		}
	}
	return nil
}

var errGone = errors.New("since before this process began")

// runReader reads a run: the tars, or pieces of them, that follow each other.
type runReader struct {
	f    *filler
	cut  *cut
	next int64 // place in the order of the pass

	lanePiece // the tar that is read
	tar       *tarReader
	again     int64  // where the next sample begins in it, where that is known
	stamp     string // of the tar when it was first opened
}

// lanePiece is what a lane reads of a tar.
type lanePiece struct {
	shard    int
	from, to int64 // its samples
	gap      int64 // the first one that cannot be read; to when all can
	why      error // the reason, when it was found now
}

func (r *runReader) close() {
	if r.tar != nil {
		r.tar.close()
		r.tar = nil
	}
}

// enter makes the tar with the next place the one that is read. It returns the
// number of the sample there.
func (r *runReader) enter() int64 {
	i := r.cut.arrangement.at(r.next)
	start, shard := r.cut.starts[i], int(r.cut.shards[i])
	if ordinal := r.next - start; r.to > 0 && shard == r.shard {
		return ordinal
	}
	r.close()
	lane := r.f.lane
	r.again, r.stamp = 0, ""
	r.lanePiece = lanePiece{shard: shard, from: max(lane.from-start, 0), to: min(r.cut.starts[i+1], lane.to) - start}
	r.gap = r.to
	for _, g := range r.f.o.Gaps {
		if g.Tar == shard && g.Epoch == r.cut.epoch && g.Lane == lane.lane {
			r.gap = min(r.gap, g.From)
		}
	}
	return r.next - start
}

// read is the next sample of the run; nil when it is missing.
func (r *runReader) read() (*Sample, error) {
	ordinal := r.enter()
	r.next++
	if ordinal >= r.gap {
		return nil, nil
	}
	s, err := r.patiently(ordinal)
	if err == nil || r.f.ctx.Err() != nil {
		return s, err
	}
	r.close()
	if r.f.o.Gap == nil {
		return nil, err
	}
	r.gap, r.why = ordinal, err
	return nil, r.f.o.Gap(Gap{Shard: r.f.plan.names[r.shard], Tar: r.shard, Epoch: r.cut.epoch, Lane: r.f.lane.lane, From: ordinal}, err)
}

// patiently tries to read a sample several times, with pauses.
func (r *runReader) patiently(ordinal int64) (*Sample, error) {
	o, pause := r.f.o, r.f.o.Pause
	for attempt := 1; ; attempt++ {
		s, err := r.try(ordinal)
		if err == nil || r.f.ctx.Err() != nil {
			return s, err
		}
		r.close()
		if attempt >= o.Attempts {
			return nil, err
		}
		if o.Retry != nil {
			o.Retry(err, pause)
		}
		select {
		case <-r.f.ctx.Done():
			return nil, r.f.ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// try reads a sample of the tar, which it opens where it is not open.
func (r *runReader) try(ordinal int64) (_ *Sample, err error) {
	p := r.f.plan
	if r.tar == nil {
		if r.tar, err = p.openTar(r.f.ctx, r.shard, ordinal, r.again, r.stamp); err != nil {
			return nil, err
		}
		r.stamp = r.tar.stream.stamp
	}
	r.again = r.tar.from
	s, err := r.tar.sample()
	count := int64(p.counts[r.shard])
	switch {
	case errors.Is(err, io.EOF):
		return nil, fault.Inputf("%s: holds %s, not the %d of %s; copy it again, or correct the number", fault.Name(p.names[r.shard]), plural(int(r.tar.ordinal), "sample"), count, p.from)
	case err != nil:
		return nil, err
	}
	r.again = r.tar.from
	if ordinal+1 == count && r.tar.pending && r.f.o.More != nil {
		r.f.o.More(p.names[r.shard], count)
	}
	return s, nil
}

// First reads the first samples of the first tar that has some.
func (p *Plan) First(ctx context.Context, n int) (out []*Sample, err error) {
	shard := slices.IndexFunc(p.counts, func(n int32) bool { return n > 0 })
	t, err := p.openTar(ctx, shard, 0, 0, "")
	if err != nil {
		return nil, err
	}
	defer t.close()
	for range min(n, int(p.counts[shard])) {
		s, err := t.sample()
		if err != nil {
			return out, err
		}
		out = append(out, s)
	}
	return out, nil
}

// tarReader reads the samples of a tar from front to back.
type tarReader struct {
	plan    *Plan
	shard   int
	stream  *stream
	tar     *tar.Reader
	ordinal int64 // of the next sample
	at      int64 // the header after the pending member

	pending  bool // the first member of the next sample: its header is read
	header   *tar.Header
	key, ext string
	from     int64 // its header
	off      int64 // its bytes
}

// openTar opens a tar just before one of its samples, which begins at off, or 0
// where that is not known. The tar must have the stamp, unless that is empty.
func (p *Plan) openTar(ctx context.Context, shard int, ordinal, off int64, stamp string) (_ *tarReader, err error) {
	name := p.names[shard]
	t := &tarReader{plan: p, shard: shard}
	indexed := int64(0)
	if ordinal > 0 && off == 0 && p.index { // one sample earlier, to check that the index is the tar's
		if off, indexed, err = p.offsets(ctx, name, ordinal); err != nil {
			return nil, err
		}
	}
	if off > 0 || indexed > 0 {
		t.ordinal = ordinal
	}
	if indexed > 0 {
		t.ordinal--
	}
	if t.stream, err = openStream(ctx, p.st, name, off, p.reads); err != nil {
		return nil, err
	}
	if stamp != "" && t.stream.stamp != stamp {
		t.close()
		return nil, changed(fault.Name(name))
	}
	t.tar, t.at = tar.NewReader(t.stream), off
	if off == 0 {
		err = t.refuseCompressed()
	}
	if err == nil {
		err = t.advance()
	}
	for err == nil && t.ordinal < ordinal {
		_, err = t.members(nil)
	}
	if indexed > 0 && (err == nil && t.from != indexed || err != nil && !fault.FromEnvironment(err) && ctx.Err() == nil) {
		t.close()
		return nil, staleIndex(name, fmt.Sprintf("it has sample %d at offset %d", ordinal, indexed))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.close()
		return nil, err
	}
	return t, nil
}

// offsets looks a sample up in Energon's index: where the one before it begins,
// and where it does, which is 0 when there is no index.
func (p *Plan) offsets(ctx context.Context, name string, ordinal int64) (before, at int64, err error) {
	x, err := openTarIndex(ctx, p.st, name)
	if err != nil || x == nil {
		return 0, 0, err
	}
	if err := x.check(ctx); err != nil {
		return 0, 0, err
	}
	if ordinal >= x.samples {
		return 0, 0, staleIndex(name, fmt.Sprintf("it has %s", plural(int(x.samples), "sample")))
	}
	offs, err := x.read(ctx, ordinal-1, 2)
	if err != nil {
		return 0, 0, err
	}
	return offs[0], offs[1], nil
}

func (t *tarReader) close() { t.stream.close() }

func (t *tarReader) name() string { return fault.Name(t.plan.names[t.shard]) }

func (t *tarReader) refuseCompressed() error {
	magic, err := t.stream.peek()
	if kind := compressed(magic[:min(4, len(magic))]); kind != "" {
		return fault.Inputf("%s: is %s-compressed; decompress it once and give the .tar", t.name(), kind)
	}
	return err
}

// advance reads headers up to the next one with a key; io.EOF when there is
// none.
func (t *tarReader) advance() error {
	t.pending, t.from = false, t.at // where a second try begins
	for {
		h, err := t.tar.Next()
		if errors.Is(err, io.EOF) && t.at+512 > t.stream.size { // a cut file looks whole but for the block that ends a tar
			return fault.Inputf("%s: truncated: the file ends at offset %d without the end-of-archive block; copy it again", t.name(), t.stream.size)
		}
		if err != nil {
			return t.explain(err)
		}
		from, off := t.at, t.stream.pos
		size := bytesBehind(h)
		switch {
		case sparse(h):
			return fault.Inputf("%s: %s at offset %d is stored sparse; write the tar again without --sparse", t.name(), fault.Name(h.Name), from)
		case size > t.stream.size-off: // the sum may not be a number
			return fault.Inputf("%s: truncated: the file ends at offset %d, but %s at offset %d says that it has %d bytes; copy it again", t.name(), t.stream.size, fault.Name(h.Name), from, size)
		}
		t.at = member{off: off, size: size}.end()
		if !regular(h) {
			continue
		}
		if key, ext, ok := splitKey(path.Clean(h.Name)); ok {
			t.pending, t.header, t.key, t.ext, t.from, t.off = true, h, key, ext, from, off
			return nil
		}
	}
}

// explain says what a failed read of a tar means.
func (t *tarReader) explain(err error) error {
	var kind *fault.Error
	switch {
	case errors.Is(err, io.EOF) || errors.As(err, &kind) || t.stream.ctx.Err() != nil:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault.Inputf("%s: truncated: the file ends at offset %d inside the entry at offset %d; copy it again", t.name(), t.stream.size, t.at)
	}
	return fault.Inputf("%s: not a tar header at offset %d (%w); copy it again", t.name(), t.at, err)
}

// members gives the members of the next sample to each, which may be nil, and
// says where the sample begins. An error of each is the sample's, not the
// tar's: the members after it are skipped.
func (t *tarReader) members(each func(ext string, size int64, body io.Reader) error) (bad, err error) {
	if !t.pending {
		return nil, io.EOF
	}
	key := t.key
	for t.pending && t.key == key {
		if each != nil && bad == nil {
			if bad = each(t.ext, t.header.Size, t.tar); bad != nil {
				var broken *readFailure
				if errors.As(bad, &broken) {
					return nil, t.explain(broken.err)
				}
			}
		}
		if err = t.advance(); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	t.ordinal++
	return bad, nil
}

// readFailure is an error of reading, not of what was read.
type readFailure struct{ err error }

func (r *readFailure) Error() string { return r.err.Error() }

// sample is the next sample; io.EOF after the last one.
func (t *tarReader) sample() (*Sample, error) {
	name := t.plan.names[t.shard]
	from := t.from
	s := &Sample{Example: Example{Index: -1, Key: t.key, Label: -1, Path: name + "/" + t.key}}
	m := members{example: &s.Example, o: t.plan.o}
	seen := map[string]bool{}
	bad, err := t.members(func(ext string, size int64, body io.Reader) error {
		if seen[ext] {
			return fmt.Errorf("the extension %s occurs twice; a key may have each extension once", fault.Name(ext))
		}
		seen[ext] = true
		if !wanted(ext) {
			return m.add(ext, nil)
		}
		if size > maxImage {
			return fmt.Errorf("member %s has %d bytes; want at most %d", fault.Name(ext), size, maxImage)
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(body, data); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &readFailure{err}
		}
		return m.add(ext, data)
	})
	if err != nil {
		return nil, err
	}
	if bad == nil {
		bad = m.finish()
	}
	if bad == nil && s.Example.Image == nil {
		bad = fmt.Errorf("no image among its members (%s)", fault.Name(strings.Join(slices.Sorted(maps.Keys(seen)), ", ")))
	}
	if bad != nil {
		s.Err = fault.Inputf("%s: %s at offset %d: %w", t.name(), fault.Name(s.Example.Key), from, bad)
		s.Example.Image = nil
	}
	return s, nil
}
