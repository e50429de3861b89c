package runlog

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	redrawEvery = 200 * time.Millisecond
	barWidth    = 30 // columns of the bar itself, where there is room
)

// logEvery is the interval of progress lines without a terminal.
var logEvery = 30 * time.Second

// Progress shows how far a job is: on a terminal as one line with a bar,
// elsewhere as a line every 30 seconds. Both give the recent rate and the time left.
type Progress struct {
	label, unit string
	total       int64
	screen      *Screen // nil: shows nothing

	mu    sync.Mutex
	pace  pace
	notes []string
	phase string
	since time.Time // of the phase

	stop chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

// NewProgress starts a display of total units on a screen; total 0 means
// unknown. With a nil screen nothing is shown. The unit "B" is shown as bytes.
func NewProgress(s *Screen, label string, total int64, unit string) *Progress {
	p := &Progress{label: label, unit: unit, total: total, screen: s, stop: make(chan struct{})}
	p.pace.add(time.Now(), 0)
	if s == nil {
		return p
	}
	every, tell := redrawEvery, func() { s.refresh(p) }
	if s.width == nil {
		every, tell = logEvery, func() { fmt.Fprintln(s, p.sentence()) }
	} else {
		s.show(p)
	}
	p.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				tell()
			}
		}
	})
	return p
}

// Add counts n more units; it is safe for concurrent use.
func (p *Progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pace.add(time.Now(), p.pace.done()+n)
}

// Begin says that n units were done before this job: they count towards its
// progress, not its rate.
func (p *Progress) Begin(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pace.begin(n)
}

// Note shows figures beside the count, such as "loss 3.41", "lr 0.001".
func (p *Progress) Note(figures ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = figures
}

// Phase says what the job is doing instead of counting, such as "compiling"; empty
// means it counts again. The time in between does not count towards the rate.
func (p *Progress) Phase(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.phase != "" {
		p.pace.pause(now.Sub(p.since))
	}
	p.phase, p.since = what, now
}

// Done ends the display; calling it again does nothing.
func (p *Progress) Done() {
	p.once.Do(func() {
		close(p.stop)
		p.wg.Wait()
		if p.screen != nil && p.screen.width != nil {
			p.screen.end(p)
		}
	})
}

// sentence is the state as a line of a log.
func (p *Progress) sentence() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := p.amount(p.pace.done())
	if p.total > 0 {
		count += " of " + p.amount(p.total)
	}
	if p.unit != "B" {
		count += " " + p.unit
	}
	return p.label + ": " + strings.Join(append([]string{count}, p.rest(time.Now())...), ", ")
}

// line is the state in at most columns columns; what matters least is dropped first.
func (p *Progress) line(columns int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := p.amount(p.pace.done())
	if p.total > 0 {
		count += "/" + p.amount(p.total)
	}
	head := p.label + " " + count
	parts := append([]string{head}, p.rest(time.Now())...)
	if p.unit != "B" {
		parts[0] += " " + p.unit
	}
	for {
		text := strings.Join(parts, "  ")
		room := columns - len(text)
		if room >= barWidth/2 && p.total > 0 {
			return p.label + " " + p.bar(min(barWidth, room-3)) + strings.TrimPrefix(text, p.label)
		}
		switch {
		case room >= 0:
			return text
		case parts[0] != head:
			parts[0] = head
		case len(parts) > 1+len(p.notes):
			parts = parts[:len(parts)-1]
		default:
			return text[:max(0, columns)]
		}
	}
}

func (p *Progress) bar(width int) string {
	done := int(float64(width) * min(1, float64(p.pace.done())/float64(p.total)))
	return "[" + strings.Repeat("=", done) + strings.Repeat(" ", width-done) + "]"
}

// rest is what follows the count: the notes, then the phase, or rate and time left
// if known.
func (p *Progress) rest(now time.Time) []string {
	parts := append([]string(nil), p.notes...)
	if p.phase != "" {
		return append(parts, p.phase+" "+short(now.Sub(p.since)))
	}
	r := p.pace.rate(now)
	if r <= 0 {
		return parts
	}
	switch {
	case p.unit == "B":
		parts = append(parts, fmt.Sprintf("%.0f MB/s", r/1e6))
	case r < 0.1:
		parts = append(parts, fmt.Sprintf("%.1f s/%s", 1/r, strings.TrimSuffix(p.unit, "s")))
	default:
		parts = append(parts, fmt.Sprintf("%.1f %s/s", r, p.unit))
	}
	if left := float64(p.total-p.pace.done()) / r; left >= 0 && left < 1e9 && p.total > 0 {
		parts = append(parts, "left "+short(time.Duration(left*float64(time.Second))))
	}
	return parts
}

// amount formats n without the unit, bytes with it.
func (p *Progress) amount(n int64) string {
	if p.unit != "B" {
		return fmt.Sprint(n)
	}
	if p.total >= 1e9 || n >= 1e9 {
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// short formats a duration with at most two units.
func short(d time.Duration) string {
	s := int64(d.Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
}

// pace is the recent history of the count, from which the rate is computed.
type pace struct{ marks []mark }

type mark struct {
	at time.Time
	n  int64
}

const (
	marksKept = 60
	markEvery = 500 * time.Millisecond // counts closer together share a mark
)

func (p *pace) done() int64 { return p.marks[len(p.marks)-1].n }

func (p *pace) add(at time.Time, n int64) {
	if k := len(p.marks); k > 1 && at.Sub(p.marks[k-2].at) < markEvery {
		p.marks[k-1] = mark{at, n}
		return
	}
	p.marks = append(p.marks, mark{at, n})
	if len(p.marks) > marksKept {
		p.marks = p.marks[1:]
	}
}

func (p *pace) begin(n int64) {
	for i := range p.marks {
		p.marks[i].n += n
	}
}

func (p *pace) pause(d time.Duration) {
	for i := range p.marks {
		p.marks[i].at = p.marks[i].at.Add(d)
	}
}

// rate is in units per second, 0 if unknown. A count that is overdue, judging by
// earlier ones, lowers it.
func (p *pace) rate(now time.Time) float64 {
	k := len(p.marks)
	first, last := p.marks[0], p.marks[k-1]
	took := last.at.Sub(first.at)
	if last.n == first.n || took <= 0 {
		return 0
	}
	if usual := took / time.Duration(k-1); now.Sub(last.at) > 2*usual {
		took = now.Sub(first.at)
	}
	return float64(last.n-first.n) / took.Seconds()
}

// LogWriter returns a writer that logs each line written to it: a display for code
// without a stream of its own.
func LogWriter(log *slog.Logger) io.Writer { return logWriter{log} }

type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Info(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}
