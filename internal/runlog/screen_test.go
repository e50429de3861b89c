//go:build linux

package runlog

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/runlog/terminaltest"
)

// Log lines and progress share a terminal of any width: every line stays whole and in
// order, and the progress takes one line.
func TestScreenErasesNoLine(t *testing.T) {
	for _, columns := range []int{20, 60, 100, 220} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			term := terminaltest.Open(t, columns)
			s := NewScreen(term.TTY)
			var want []string
			say := func(n int) {
				line := fmt.Sprintf("%03d ", len(want)) + strings.Repeat("x", n)
				want = append(want, strings.TrimRight(line, " "))
				fmt.Fprintln(s, line)
			}
			say(10) // before there is a bar
			p := NewProgress(s, "train", 1000, "steps")
			p.Phase("compiling")
			var wg sync.WaitGroup
			wg.Go(func() { // the bar changes all the time
				for range 400 {
					p.Add(1)
					p.Note("loss 3.412", "lr 0.001/0.0001/0.0005")
					s.refresh(p)
				}
			})
			for _, n := range []int{0, 1, columns - 5, columns - 4, columns - 3, columns, 3*columns - 4, 500} {
				say(max(0, n))
				time.Sleep(time.Millisecond)
			}
			p.Phase("")
			wg.Wait()
			p.Done()
			p.Done()
			say(30)
			var got []string
			bars := 0
			for _, line := range term.Lines(t) {
				if strings.HasPrefix(line, "train") {
					bars++
					if len(line) >= columns {
						t.Errorf("a progress line of %d columns: %q", len(line), line)
					}
				} else {
					got = append(got, line)
				}
			}
			if want = append(want, ""); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("the terminal shows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if bars != 1 {
				t.Errorf("%d lines of progress stay, want the last one", bars)
			}
		})
	}
}

// At any width a progress shows first what a person needs most.
func TestProgressLine(t *testing.T) {
	p := NewProgress(nil, "train", 61035, "steps")
	start := p.pace.marks[0].at
	p.Begin(64)
	for i := range 10 {
		p.pace.add(start.Add(time.Duration(i+1)*10*time.Second), 65+int64(i))
	}
	p.Note("loss 3.412", "lr 0.001")
	for columns, want := range map[int]string{
		59: "train 74/61035  loss 3.412  lr 0.001  0.1 steps/s",
		99: "train [                              ] 74/61035 steps  loss 3.412  lr 0.001  0.1 steps/s  left 7d",
		30: "train 74/61035  loss 3.412  lr",
	} {
		// The test's clock does not advance.
		p.pace.marks[len(p.pace.marks)-1].at = time.Now()
		shift := time.Since(start.Add(100 * time.Second))
		for i := range len(p.pace.marks) - 1 {
			p.pace.marks[i].at = start.Add(time.Duration(i)*10*time.Second + shift)
		}
		if got := p.line(columns); len(got) > columns || !strings.HasPrefix(got, want) {
			t.Errorf("%d columns: %q, want %q", columns, got, want)
		}
	}
	if got := p.sentence(); got != "train: 74 of 61035 steps, loss 3.412, lr 0.001, 0.1 steps/s, left 7d1h" {
		t.Errorf("sentence %q", got)
	}
	p.Phase("compiling")
	if got := p.line(59); got != "train 74/61035 steps  loss 3.412  lr 0.001  compiling 0s" {
		t.Errorf("while compiling: %q", got)
	}
}

// The rate is the recent one of this process.
func TestPace(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(0, 0).Add(time.Duration(s * float64(time.Second))) }
	var p pace
	p.add(at(0), 0)
	if r := p.rate(at(5)); r != 0 {
		t.Errorf("rate %v before anything was done", r)
	}
	p.begin(64)
	p.pause(100 * time.Second) // compiling
	for i := range 10 {
		p.add(at(102+2*float64(i)), 65+int64(i)) // 2 s each
	}
	if r := p.rate(at(121)); r != 0.5 {
		t.Errorf("rate %v after a resume at 64, want 0.5", r)
	}
	if r := p.rate(at(220)); r > 0.1 {
		t.Errorf("rate %v although nothing came for 100 s", r)
	}
	for i := range 200 {
		p.add(at(121+float64(i)), 75+int64(i)) // now 1 s each
	}
	if r := p.rate(at(320)); r != 1 {
		t.Errorf("rate %v, want that of the last steps, 1", r)
	}
	for i := range 40_000 { // many small counts share marks
		p.add(at(321+float64(i)/1000), 300+int64(i)*1000)
	}
	if r := p.rate(at(361)); r < 0.9e6 || r > 1.1e6 || len(p.marks) > marksKept {
		t.Errorf("rate %v over %d marks", r, len(p.marks))
	}
}

// Without a terminal, a line with everything is printed from time to time.
func TestProgressLines(t *testing.T) {
	defer func(d time.Duration) { logEvery = d }(logEvery)
	logEvery = time.Millisecond
	var b bytes.Buffer
	p := NewProgress(NewScreen(&b), "train", 10, "steps")
	p.Note("loss 1.5", "lr 0.1")
	p.Add(3)
	time.Sleep(20 * time.Millisecond)
	p.Done()
	if line, _, _ := strings.Cut(b.String(), "\n"); !strings.HasPrefix(line, "train: ") || strings.Contains(b.String(), "\x1b") {
		t.Errorf("wrote %q", b.String())
	}
	if !strings.Contains(b.String(), "train: 3 of 10 steps, loss 1.5, lr 0.1") {
		t.Errorf("wrote %q", b.String())
	}
}
