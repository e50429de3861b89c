package runlog

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// logEvery is the pace of progress lines where there is no terminal.
const logEvery = 30 * time.Second

// Progress shows how far a job is: a bar with rate and time left on a
// terminal, one line every 30 seconds elsewhere.
type Progress struct {
	label, unit string
	total       int64
	start       time.Time
	n           atomic.Int64

	bars *mpb.Progress // nil off a terminal
	bar  *mpb.Bar
	w    io.Writer
	stop chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

// NewProgress starts a display of total units on w; total 0 means unknown.
// With a nil w nothing is written. The unit "B" is shown as bytes.
func NewProgress(w io.Writer, label string, total int64, unit string) *Progress {
	p := &Progress{label: label, unit: unit, total: total, start: time.Now(), w: w, stop: make(chan struct{})}
	if w == nil {
		return p
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.startBar()
		return p
	}
	p.wg.Add(1)
	go p.logLoop()
	return p
}

func (p *Progress) startBar() {
	p.bars = mpb.New(mpb.WithOutput(p.w), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond))
	counters := decor.CountersNoUnit("%d/%d " + p.unit)
	if p.unit == "B" {
		counters = decor.CountersKibiByte("% .1f / % .1f")
	}
	p.bar = p.bars.AddBar(p.total,
		mpb.PrependDecorators(decor.Name(p.label+" ")),
		mpb.AppendDecorators(counters, decor.Name("  "),
			decor.Any(func(decor.Statistics) string { return p.rate() }), decor.Name("  left "),
			decor.Any(func(decor.Statistics) string { return p.left() })))
}

func (p *Progress) logLoop() {
	defer p.wg.Done()
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			fmt.Fprintf(p.w, "%s: %d", p.label, p.n.Load())
			if p.total > 0 {
				fmt.Fprintf(p.w, " of %d", p.total)
			}
			fmt.Fprintf(p.w, " %s, %s, left %s\n", p.unit, p.rate(), p.left())
		}
	}
}

func (p *Progress) perSecond() float64 {
	s := time.Since(p.start).Seconds()
	if s <= 0 {
		return 0
	}
	return float64(p.n.Load()) / s
}

func (p *Progress) rate() string {
	r := p.perSecond()
	if p.unit == "B" {
		return fmt.Sprintf("%.0f MB/s", r/1e6)
	}
	return fmt.Sprintf("%.1f %s/s", r, p.unit)
}

func (p *Progress) left() string {
	r := p.perSecond()
	if r == 0 || p.total <= 0 {
		return "?"
	}
	return (time.Duration(float64(p.total-p.n.Load())/r) * time.Second).String()
}

// Add counts n more units; it is safe for many goroutines.
func (p *Progress) Add(n int64) {
	p.n.Add(n)
	if p.bar != nil {
		p.bar.IncrInt64(n)
	}
}

// Done ends the display; calling it again does nothing.
func (p *Progress) Done() {
	p.once.Do(func() {
		close(p.stop)
		p.wg.Wait()
		if p.bars != nil {
			p.bar.Abort(false)
			p.bars.Wait()
		}
	})
}
