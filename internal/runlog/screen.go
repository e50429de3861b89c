package runlog

import (
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// Screen is the one writer for what a command reports while it works: log lines and,
// on a terminal, the line of a Progress below them. It never moves the cursor up, so
// nothing but that line can be erased. It is safe for concurrent use.
type Screen struct {
	w     io.Writer
	width func() int // columns of the terminal; nil if w is none

	mu    sync.Mutex
	bar   *Progress // whose line is shown; nil for none
	shown string    // its text on the terminal now
	open  bool      // the last line written has no newline yet
}

// NewScreen returns a screen that writes to w, and draws progress if w is a terminal.
func NewScreen(w io.Writer) *Screen {
	s := &Screen{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.width = func() int {
			columns, _, err := term.GetSize(int(f.Fd()))
			if err != nil || columns <= 0 {
				return 80
			}
			return columns
		}
	}
	return s
}

// eraseLine goes to the beginning of the line and clears it.
const eraseLine = "\r\x1b[K"

// Write writes p above the progress line.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar == nil || len(p) == 0 {
		return s.w.Write(p)
	}
	text := p
	if s.shown != "" {
		text = append([]byte(eraseLine), p...)
		s.shown = ""
	}
	s.open = p[len(p)-1] != '\n'
	if _, err := s.w.Write(text); err != nil {
		return 0, err
	}
	s.draw()
	return len(p), nil
}

// show makes p the progress that is drawn.
func (s *Screen) show(p *Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bar = p
	s.draw()
}

// refresh redraws the line of p if it has changed.
func (s *Screen) refresh(p *Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar == p {
		s.draw()
	}
}

// end leaves the last state of p's line on the screen.
func (s *Screen) end(p *Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != p {
		return
	}
	s.draw()
	if s.shown != "" {
		io.WriteString(s.w, "\n")
	}
	s.bar, s.shown = nil, ""
}

// draw updates the line. It stays a column short of the terminal's width, since some
// terminals would start the next line there.
func (s *Screen) draw() {
	if s.open {
		return
	}
	text := s.bar.line(s.width() - 1)
	if text == s.shown {
		return
	}
	erase := ""
	if s.shown != "" {
		erase = eraseLine
	}
	io.WriteString(s.w, erase+text) // a vanished terminal does not end a run
	s.shown = text
}
