//go:build linux

// Package terminaltest is a terminal for tests: a pseudo-terminal of a given
// width, and what a person would see on it.
package terminaltest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Terminal shows what is written to TTY. It understands what evatool may
// send: text, carriage return, line feed, clearing and moving up.
type Terminal struct {
	TTY *os.File // for the process under test

	master *os.File
	read   sync.WaitGroup

	columns  int
	rows     [][]rune
	wrapped  []bool // the row continues in the next one
	row, col int
	sent     strings.Builder
	pending  string // an escape sequence that has not ended
	unknown  []string
}

// Open makes a terminal of columns columns.
func Open(t testing.TB, columns int) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudo-terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)})
	}
	if err != nil {
		t.Skip("no pseudo-terminals here: ", err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals here: ", err)
	}
	e := &Terminal{TTY: tty, master: master, columns: columns, rows: [][]rune{nil}, wrapped: []bool{false}}
	e.read.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			e.feed(string(b[:n]))
			if err != nil { // EIO: every writer has closed it
				return
			}
		}
	})
	return e
}

// Lines closes the terminal and returns every line that is still visible, including
// those scrolled away; a line that was wrapped counts as one.
func (e *Terminal) Lines(t testing.TB) []string {
	t.Helper()
	e.TTY.Close()
	e.read.Wait()
	if len(e.unknown) > 0 {
		t.Errorf("sent to the terminal: %q", e.unknown)
	}
	var lines []string
	var line strings.Builder
	for i, row := range e.rows {
		line.WriteString(string(row))
		if !e.wrapped[i] {
			lines = append(lines, strings.TrimRight(line.String(), " "))
			line.Reset()
		}
	}
	return lines
}

// Sent is everything that was written, once Lines has closed the terminal.
func (e *Terminal) Sent() string { return e.sent.String() }

func (e *Terminal) feed(text string) {
	e.sent.WriteString(text)
	for _, r := range text {
		if e.pending != "" {
			e.pending += string(r)
			if r != '[' && (r < '0' || r > '9') && r != ';' {
				e.escape(e.pending)
				e.pending = ""
			}
			continue
		}
		switch {
		case r == '\x1b':
			e.pending = "\x1b"
		case r == '\r':
			e.col = 0
		case r == '\n':
			e.wrapped[e.row] = false
			e.down()
		case r < ' ':
			e.unknown = append(e.unknown, string(r))
		default:
			e.put(r)
		}
	}
}

func (e *Terminal) put(r rune) {
	if e.col == e.columns { // the pending wrap, before the next character
		e.wrapped[e.row] = true
		e.down()
		e.col = 0
	}
	row := e.rows[e.row]
	for len(row) <= e.col {
		row = append(row, ' ')
	}
	row[e.col] = r
	e.rows[e.row] = row
	e.col++
}

func (e *Terminal) down() {
	if e.row++; e.row == len(e.rows) {
		e.rows, e.wrapped = append(e.rows, nil), append(e.wrapped, false)
	}
}

func (e *Terminal) escape(s string) {
	n := 1
	fmt.Sscanf(s, "\x1b[%d", &n)
	clear := func() { e.rows[e.row] = e.rows[e.row][:min(e.col, len(e.rows[e.row]))] }
	switch {
	case s == "\x1b[K":
		clear()
	case s == "\x1b[J":
		clear()
		e.rows, e.wrapped = e.rows[:e.row+1], e.wrapped[:e.row+1]
	case strings.HasSuffix(s, "A"):
		e.row = max(0, e.row-n)
	default:
		e.unknown = append(e.unknown, s)
	}
}
