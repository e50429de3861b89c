package trainer

import (
	"log/slog"
	"math"
	"strings"
	"sync"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// badSample says why an example cannot be used.
type badSample struct {
	path string
	err  error
}

// String names the example exactly once, whether or not the error names it.
func (b *badSample) String() string {
	line := fault.Line(b.err)
	if name, _, _ := strings.Cut(b.path, " (example "); strings.HasPrefix(line, name+":") {
		return line
	}
	return b.path + ": " + line
}

// badSamples counts and lists the examples that could not be used. Each is
// listed once, however often it is drawn.
type badSamples struct {
	path  string
	limit float64 // fraction of the samples drawn
	log   *slog.Logger

	mu    sync.Mutex
	first int64 // position of the run at which counting starts
	ranks int64 // processes that share the positions
	n     int64
	seen  map[string]bool
	lines *runlog.Metrics
	mute  bool // the list could not be written: no more lines
}

// badAllowance is how many bad samples are tolerated however short the run is.
const badAllowance = 10

func newBadSamples(path string, limit float64, first int64, log *slog.Logger) *badSamples {
	return &badSamples{path: path, limit: limit, first: first, ranks: 1, log: log, seen: map[string]bool{}}
}

func (b *badSamples) add(source string, why *badSample, pos int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	b.note(source, why)
	// For every bad one another was drawn.
	if drawn := (pos-b.first)/b.ranks + b.n; b.n > badAllowance && float64(b.n) > b.limit*float64(drawn) {
		return fault.Inputf("%d of %d samples drawn cannot be used, more than max_bad %v allows (last: %s); %s lists them: repair the data, or raise max_bad", b.n, drawn, b.limit, why, b.path)
	}
	return nil
}

// list lists something unusable that does not count as a sample.
func (b *badSamples) list(source string, why *badSample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(source, why)
}

// note writes a line. A failure does not end the run: the count is in the state.
func (b *badSamples) note(source string, why *badSample) {
	if b.seen[why.path] || len(b.seen) >= 1<<16 || b.mute {
		return
	}
	b.seen[why.path] = true
	if err := b.write(source, why); err != nil {
		b.log.Warn("cannot write the list of bad samples; this process adds no more to it", "error", err)
		b.mute = true
	}
}

func (b *badSamples) write(source string, why *badSample) (err error) {
	if b.lines == nil {
		if b.lines, err = runlog.OpenMetrics(b.path, math.MaxInt64); err != nil {
			return err
		}
	}
	return b.lines.Write(struct {
		Source  string `json:"source"`
		Example string `json:"example"`
		Why     string `json:"why"`
	}{source, why.path, fault.Line(why.err)})
}

func (b *badSamples) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (b *badSamples) close() {
	if b.lines != nil {
		b.lines.Close()
	}
}
