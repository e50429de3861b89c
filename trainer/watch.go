package trainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// A launcher ends the job when one of its processes dies. The watch is for the other
// cases: a process that hangs while the others wait for it, and launchers that do
// nothing. Each rank writes its phase into the run folder every few seconds, and
// looks at those of the others when an exchange takes too long.

// pulseDir is the folder of these files, below the run folder.
const pulseDir = temporary + "ranks"

// pulseEvery is how often the files are written, more often if the timeout is short
// (see pace); the death of a rank on the same host is noticed within lookEvery.
const (
	pulseEvery = 5 * time.Second
	lookEvery  = time.Second
)

// defaultTimeout replaces an Options.ExchangeTimeout of 0. Until the first step is
// done the timeout is firstTimes as long, since programs are compiled.
const (
	defaultTimeout = 10 * time.Minute
	firstTimes     = 6
)

// The phases of a rank.
const (
	atOpening    = "opening"
	atData       = "data"
	atStep       = "compute"
	atCheckpoint = "checkpoint"
	atEvaluation = "evaluation"
	atSpace      = "waiting for disk space"
	atExchange   = "exchange"
)

// pulse is what a rank writes.
type pulse struct {
	Rank  int       `json:"rank"`
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Here  string    `json:"machine"` // on which the PID is valid
	Phase string    `json:"phase"`
	Step  int64     `json:"step"`
	Since time.Time `json:"since"` // start of the phase
	Now   time.Time `json:"now"`
	Spent float64   `json:"spent"` // seconds in the phase, however the clock was set
}

// sight is the newest pulse of another rank, and when this one found it. Clocks
// differ between hosts, and are set: how long a rank is silent is measured here.
type sight struct {
	pulse
	found time.Time
}

// watch is one rank's watch over the others.
type watch struct {
	j       *job
	timeout time.Duration
	place   atomic.Pointer[pulse]
	first   atomic.Bool  // the first step is done
	full    atomic.Int32 // writers that wait for space

	dir  string
	here string
	seen map[int]sight // of the others
	stop chan struct{}
	wg   sync.WaitGroup
}

// at records the rank's phase and step.
func (j *job) at(phase string, step int64) {
	if j.watch == nil {
		return
	}
	j.watch.place.Store(&pulse{Rank: j.Rank(), Host: j.hosts[j.Rank()], PID: os.Getpid(), Here: j.watch.here, Phase: phase, Step: step, Since: time.Now()})
}

// startWatch starts the watch in a run folder that all ranks share.
func (j *job) startWatch(out string, timeout time.Duration) {
	if timeout == 0 {
		timeout = defaultTimeout
	}
	w := &watch{j: j, timeout: timeout, dir: filepath.Join(out, pulseDir), here: machineID(), seen: map[int]sight{}, stop: make(chan struct{})}
	j.watch = w
	j.at(atOpening, 0)
	w.write()
	w.wg.Go(func() {
		look, beat := time.NewTicker(min(lookEvery, timeout)), time.NewTicker(w.pace())
		defer look.Stop()
		defer beat.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-beat.C:
				w.write()
			case <-look.C:
				if why := w.trouble(); why != "" {
					j.log.Error("the job ends: "+why, "seen by", j.name(j.Rank()))
					j.Abort(int(fault.Environment))
					return
				}
			}
		}
	})
}

// endWatch ends the watch before the rank leaves.
func (j *job) endWatch() {
	if j.watch != nil {
		close(j.watch.stop)
		j.watch.wg.Wait()
		os.Remove(j.watch.path(j.Rank()))
		os.Remove(j.watch.dir) // by the last one
		j.watch = nil
	}
}

// machineID identifies the running system and its PID namespace; "" if unknown.
func machineID() string {
	boot, err1 := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, err2 := os.Readlink("/proc/self/ns/pid")
	if err1 != nil || err2 != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + " " + space
}

// gone reports whether there is no process with that PID; false if the system does
// not say.
func gone(pid int) bool {
	p, err := os.FindProcess(pid)
	return err == nil && errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// pace is how often the rank writes: often enough to tell a silent rank from a
// waiting one well before the timeout.
func (w *watch) pace() time.Duration { return min(pulseEvery, w.timeout/8) }

// silence is the longest that a live rank leaves its file unwritten.
func (w *watch) silence() time.Duration { return 4 * w.pace() }

func (w *watch) path(rank int) string { return filepath.Join(w.dir, fmt.Sprintf("rank-%d.json", rank)) }

// now is the rank's own state; an exchange in progress takes precedence.
func (w *watch) now() pulse {
	p := *w.place.Load()
	p.Now = time.Now()
	if since := w.j.measured.since.Load(); since != nil {
		p.Phase, p.Since = atExchange, *since
	} else if w.full.Load() > 0 {
		p.Phase = atSpace
	}
	p.Spent = p.Now.Sub(p.Since).Seconds()
	return p
}

// write writes the rank's state for the others. A full disk has no room for a new
// file, but still has that of the old one: a rank that waits for space must not fall
// silent. Other trouble with the disk is reported elsewhere.
func (w *watch) write() {
	text, err := json.Marshal(w.now())
	if err != nil {
		return
	}
	path := w.path(w.j.Rank())
	tmp := path + ".new"
	if os.WriteFile(tmp, text, 0o644) == nil && os.Rename(tmp, path) == nil {
		return
	}
	os.Remove(tmp)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if _, err := f.WriteAt(text, 0); err == nil {
		_ = f.Truncate(int64(len(text)))
	}
}

// read returns the known states of the other ranks.
func (w *watch) read() (list []sight) {
	for rank := range w.j.Size() {
		text, err := os.ReadFile(w.path(rank))
		if rank == w.j.Rank() || err != nil {
			continue
		}
		var p pulse
		s, known := w.seen[rank]
		if json.Unmarshal(text, &p) == nil && p.Rank == rank && !(known && p.Now.Equal(s.Now)) {
			s, known = sight{p, time.Now()}, true
			w.seen[rank] = s
		}
		if known {
			list = append(list, s)
		}
	}
	return list
}

// trouble says why the job cannot continue; "" while it can.
func (w *watch) trouble() string {
	own := w.now()
	if own.Phase != atExchange {
		return ""
	}
	others := w.read()
	waited := own.Now.Sub(own.Since)
	if waited > lookEvery {
		for _, p := range others {
			if p.Here != "" && p.Here == own.Here && p.PID != own.PID && p.PID > 0 && gone(p.PID) {
				return fmt.Sprintf("%s, process %d, is gone; its last phase was %q of step %d", w.j.name(p.Rank), p.PID, p.Phase, p.Step)
			}
		}
	}
	patience := w.timeout
	if !w.first.Load() {
		patience *= firstTimes
	}
	// The ranks report in turn: the first ends the job.
	if waited < patience+time.Duration(min(w.j.Rank(), 5))*time.Second {
		return ""
	}
	var late []string
	for _, p := range others {
		silent := own.Now.Sub(p.found)
		switch {
		case p.Phase == atSpace && silent < w.silence():
			return "" // it says so itself, and continues when there is space
		case silent > w.silence() || p.Phase != atExchange:
			late = append(late, fmt.Sprintf("%s has been in phase %q of step %d for %.0f s", w.j.name(p.Rank), p.Phase, p.Step, p.Spent+max(0, silent).Seconds()))
		}
	}
	if len(late) == 0 {
		if waited < patience+w.silence() {
			return "" // a stuck rank will be known by its silence
		}
		late = []string{"all ranks are waiting for each other: the network between them is stuck"}
	}
	const most = 4
	if len(late) > most {
		late = append(late[:most], fmt.Sprintf("and %d more", len(late)-most))
	}
	return fmt.Sprintf("no answer for %.0f s: %s; check that host, then start the job again: it resumes from its newest checkpoint (Options.ExchangeTimeout sets how long a process waits)", waited.Seconds(), strings.Join(late, ", "))
}
