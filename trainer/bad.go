package trainer

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
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
// listed once, however often it is drawn, and in how many processes of the run.
type badSamples struct {
	path  string
	limit float64 // fraction of the samples drawn
	log   *slog.Logger

	mu     sync.Mutex
	first  int64   // position of the run at which this process starts
	lists  string  // names the files of all processes of the run
	shared bool    // with other processes: tooMany is asked with all their numbers
	n      int64   // of this process
	old    int64   // of the run's earlier processes
	before int64   // of the steps so far, old ones included
	ahead  []int64 // positions that are not in before
	seen   map[string]bool
	lines  *runlog.Metrics
	mute   bool // the list could not be written: no more lines
}

// badAllowance is how many bad samples are tolerated however short the run is.
const badAllowance = 10

func newBadSamples(path string, limit float64, first int64, log *slog.Logger) *badSamples {
	return &badSamples{path: path, lists: path, limit: limit, first: first, log: log, seen: map[string]bool{}}
}

func (b *badSamples) add(source string, why *badSample, pos int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	b.ahead = append(b.ahead, pos)
	b.note(source, why)
	if b.shared {
		return nil
	}
	return b.tooMany(b.n, pos-b.first, fmt.Sprintf(" (last: %s)", why))
}

// tooMany is the error of more bad samples, beside so many good ones, than max_bad
// allows. For every bad one another was drawn.
func (b *badSamples) tooMany(n, good int64, last string) error {
	if drawn := good + n; n > badAllowance && float64(n) > b.limit*float64(drawn) {
		return fault.Inputf("%d of %d samples drawn cannot be used, more than max_bad %v allows%s; %s lists them: repair the data, or raise max_bad", n, drawn, b.limit, last, b.lists)
	}
	return nil
}

// found is how many of the run's first samples this process could not use.
func (b *badSamples) found(samples int64) (n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, pos := range b.ahead {
		if pos < samples {
			n++
		}
	}
	return n + b.before - b.old
}

// list lists something unusable that does not count as a sample.
func (b *badSamples) list(source string, why *badSample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(source, why)
}

// note writes a line. A failure does not end the run: the count is in the state.
func (b *badSamples) note(source string, why *badSample) {
	name := fault.Masked(why.path)
	if b.seen[name] || b.mute {
		return
	}
	err := b.open()
	if err == nil && (b.seen[name] || len(b.seen) >= 1<<16) {
		return
	}
	b.seen[name] = true
	if err == nil {
		err = b.lines.Write(badLine{fault.Masked(source), name, fault.Line(why.err)})
	}
	if err != nil {
		b.log.Warn("cannot write the list of bad samples; this process adds no more to it", "error", err)
		b.mute = true
	}
}

// badLine is a line of the list.
type badLine struct {
	Source  string `json:"source"`
	Example string `json:"example"`
	Why     string `json:"why"`
}

// open opens the list, if it is not open yet, and reads what is in it.
func (b *badSamples) open() (err error) {
	if b.lines != nil {
		return nil
	}
	if b.lines, err = runlog.OpenMetrics(b.path, math.MaxInt64); err != nil {
		return err
	}
	text, err := os.ReadFile(b.path)
	for line := range strings.Lines(string(text)) {
		var there badLine
		if json.Unmarshal([]byte(line), &there) == nil {
			b.seen[there.Example] = true
		}
	}
	return err
}

// count is how many of the run's first samples could not be used; later calls are
// for more samples. Batches are made ahead: what they found belongs to later steps.
func (b *badSamples) count(samples int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead = slices.DeleteFunc(b.ahead, func(pos int64) bool {
		if pos < samples {
			b.before++
		}
		return pos < samples
	})
	return b.before
}

func (b *badSamples) close() {
	if b.lines != nil {
		b.lines.Close()
	}
}
