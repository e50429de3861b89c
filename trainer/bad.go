package trainer

import (
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

// String names the example once, whether or not the error does.
func (b *badSample) String() string {
	line := fault.Line(b.err)
	if name, _, _ := strings.Cut(b.path, " (example "); strings.HasPrefix(line, name+":") {
		return line
	}
	return b.path + ": " + line
}

// badSamples counts and lists the examples that could not be used. Each is
// listed once, however often it comes up.
type badSamples struct {
	path  string
	limit float64 // fraction of the samples drawn

	mu    sync.Mutex
	first int64 // position of the run at which counting began
	n     int64
	seen  map[string]bool
	list  *runlog.Metrics
}

// badAllowance is how many bad samples are no reason to stop, however short
// the run is.
const badAllowance = 10

func newBadSamples(path string, limit float64, first int64) *badSamples {
	return &badSamples{path: path, limit: limit, first: first, seen: map[string]bool{}}
}

func (b *badSamples) add(source string, why *badSample, pos int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	if !b.seen[why.path] && len(b.seen) < 1<<16 {
		b.seen[why.path] = true
		if b.list == nil {
			var err error
			if b.list, err = runlog.OpenMetrics(b.path, 1<<62); err != nil {
				return fault.File(b.path, "the list of bad samples", err)
			}
		}
		line := struct {
			Source  string `json:"source"`
			Example string `json:"example"`
			Why     string `json:"why"`
		}{source, why.path, fault.Line(why.err)}
		if err := b.list.Write(line); err != nil {
			return err
		}
	}
	// Every bad one had another drawn in its place.
	if drawn := pos - b.first + b.n; b.n > badAllowance && float64(b.n) > b.limit*float64(drawn) {
		return fault.Inputf("%d of %d samples drawn cannot be used, more than max_bad %v allows (last: %s); see %s", b.n, drawn, b.limit, why, b.path)
	}
	return nil
}

func (b *badSamples) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (b *badSamples) close() {
	if b.list != nil {
		b.list.Close()
	}
}
