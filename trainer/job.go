package trainer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
)

// job is this process's place among the ranks of a training job. Rank 0 owns
// the run folder: lock, log, metrics, report. All ranks take the same steps,
// and between steps they meet: what one of them has to say (an error, a request to
// stop) all learn at the same point, so that all react alike.
//
// The rule that keeps them together: whatever a rank does alone and may fail at
// is followed by a meeting before any other exchange.
type job struct {
	comm.Comm // measured
	hosts     []string
	log       *slog.Logger
	inStep    bool // exchanges other than meetings are in progress: an error cannot be passed on

	measured *meter
	watch    *watch
}

// join joins the job that the process belongs to; nil if there is none.
func (o *Options) join(log *slog.Logger) (*job, error) {
	world := o.fakes.world
	if world == nil {
		var err error
		if world, err = comm.Open(comm.Options{Hosts: o.Hosts, Log: log}); err != nil {
			return nil, err
		}
	}
	if world.Size() == 1 {
		return nil, nil
	}
	j := &job{measured: &meter{Comm: world}}
	j.Comm = j.measured
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	const room = 128
	own, all := make([]byte, room), make([]byte, room*j.Size())
	copy(own, fmt.Sprintf("%.100s\n%d", host, os.Getpid()))
	if err := j.Allgather(all, own); err != nil {
		return nil, err
	}
	var list []string
	for r := range j.Size() {
		name, pid, _ := strings.Cut(string(bytes.TrimRight(all[r*room:(r+1)*room], "\x00")), "\n")
		j.hosts = append(j.hosts, fault.Escape(name))
		list = append(list, fmt.Sprintf("%d %s:%s", r, j.hosts[r], fault.Escape(pid)))
	}
	j.log = slog.New(j.handler(log.Handler()))
	if online, own := onlineCPUs(), runtime.NumCPU(); own*j.here() < online {
		j.log.Warn("the launcher has bound the processes to only some of the processors; its option bind-to none lets them use all", "each", own, "processes here", j.here(), "processors", online)
	}
	// Some launchers name a dead process only by host and number.
	j.log.Info("ranks", "rank host:process", strings.Join(list, ", "))
	return j, nil
}

// here is the number of ranks on this host.
func (j *job) here() (n int) {
	for _, h := range j.hosts {
		if h == j.hosts[j.Rank()] {
			n++
		}
	}
	return n
}

// onlineCPUs is the number of the machine's processors, whether or not this process
// may use them; 0 if unknown.
func onlineCPUs() (n int) {
	text, err := os.ReadFile("/sys/devices/system/cpu/online") // 0-63,128-191
	if err != nil {
		return 0
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		var lo, hi int
		switch k, _ := fmt.Sscanf(part, "%d-%d", &lo, &hi); k {
		case 2:
			n += hi - lo + 1
		case 1:
			n++
		}
	}
	return n
}

// handler has rank 0 log everything and the others only warnings, with their name.
func (j *job) handler(h slog.Handler) slog.Handler {
	if j.Rank() == 0 {
		return h
	}
	return warnings{h.WithAttrs([]slog.Attr{slog.Int("rank", j.Rank()), slog.String("host", j.hosts[j.Rank()])})}
}

// warnings passes on warnings and errors.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}

func (w warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{w.Handler.WithAttrs(a)} }
func (w warnings) WithGroup(g string) slog.Handler      { return warnings{w.Handler.WithGroup(g)} }

// name names a rank in messages.
func (j *job) name(rank int) string { return fmt.Sprintf("rank %d (%s)", rank, j.hosts[rank]) }

// jobError is an error that all ranks know of and stop with.
type jobError struct {
	err  error
	said bool // another rank reports it
	left bool // a rank has left with it: those that remain cannot meet again
}

func (e *jobError) Error() string { return e.err.Error() }
func (e *jobError) Unwrap() error { return e.err }

// Said reports whether another process of the job reports the error.
func (e *jobError) Said() bool { return e.said }

// word is a rank's message at a meeting.
type word struct {
	Code    int64 // exit status of its error; 0: none
	Flags   uint64
	Numbers [6]float64
	Text    [960]byte
}

const (
	wordBytes = 1024
	flagStop  = 1 // the process was told to stop
	flagSaved = 2 // its part of the checkpoint in progress is written
	flagLeave = 4 // it leaves the job with its error
)

func (w *word) text() string { return string(bytes.TrimRight(w.Text[:], "\x00")) }

// meet sends all ranks err, if there is one, or w, and returns theirs. If any rank
// has an error, all get one.
func (j *job) meet(err error, w word) ([]word, error) {
	if err != nil {
		w = word{Code: int64(max(1, fault.Code(err))), Flags: w.Flags & flagLeave}
		copy(w.Text[:], fault.Line(err))
	}
	own := make([]byte, wordBytes)
	if _, e := binary.Encode(own, binary.LittleEndian, w); e != nil {
		return nil, e
	}
	all := make([]byte, wordBytes*j.Size())
	if e := j.Allgather(all, own); e != nil {
		return nil, errors.Join(err, e)
	}
	words := make([]word, j.Size())
	for i := range words {
		if _, e := binary.Decode(all[i*wordBytes:(i+1)*wordBytes], binary.LittleEndian, &words[i]); e != nil {
			return nil, e
		}
	}
	left := slices.ContainsFunc(words, func(w word) bool { return w.Flags&flagLeave != 0 })
	for rank, x := range words {
		if x.Code != 0 {
			if err == nil {
				err = fault.As(fault.Kind(x.Code), fmt.Errorf("%s: %s", j.name(rank), x.text()))
			}
			return nil, &jobError{err: err, said: j.Rank() != 0, left: left}
		}
	}
	return words, nil
}

// agree is meet with nothing to say but an error.
func (j *job) agree(err error) error {
	_, err = j.meet(err, word{})
	return err
}

// gather gives every rank the texts of all.
func (j *job) gather(own []byte) ([][]byte, error) {
	words, err := j.meet(nil, word{Numbers: [6]float64{float64(len(own))}})
	if err != nil {
		return nil, err
	}
	most := 0
	for _, w := range words {
		most = max(most, int(w.Numbers[0]))
	}
	padded, all := make([]byte, most), make([]byte, most*j.Size())
	copy(padded, own)
	if err := j.Allgather(all, padded); err != nil {
		return nil, err
	}
	var out [][]byte
	for r, w := range words {
		out = append(out, all[r*most:r*most+int(w.Numbers[0])])
	}
	return out, nil
}

// share gives every rank what rank 0 has in v, encoded as JSON.
func (j *job) share(v any) error {
	var own []byte
	var err error
	if j.Rank() == 0 {
		if own, err = json.Marshal(v); err != nil {
			return j.agree(err)
		}
	}
	all, err := j.gather(own)
	if err != nil || j.Rank() == 0 {
		return err
	}
	return json.Unmarshal(all[0], v)
}

// leave ends the process's part. An error that the others do not know of yet is
// passed on at a meeting, or aborts the job if they are waiting for something else.
func (j *job) leave(err *error) {
	var known *jobError
	if *err != nil && !errors.As(*err, &known) {
		if !j.inStep {
			_, *err = j.meet(*err, word{Flags: flagLeave})
		}
		if !errors.As(*err, &known) {
			j.log.Error("the job ends: "+fault.Line(*err), "at", j.name(j.Rank()))
			j.endWatch()
			j.Abort(max(1, fault.Code(*err)))
			return
		}
	}
	j.endWatch()
	if e := j.Close(); e != nil && *err == nil {
		*err = e
	}
}

// meter measures what a rank exchanges.
type meter struct {
	comm.Comm
	seconds float64
	bytes   int64 // sent; as many were received

	since atomic.Pointer[time.Time] // when the exchange in progress started; nil: none
}

func (m *meter) Allgather(dst, src []byte) error {
	m.bytes += int64(len(src)) * int64(m.Size()-1)
	return m.timed(func() error { return m.Comm.Allgather(dst, src) })
}

func (m *meter) Alltoall(dst, src []byte) error {
	m.bytes += int64(len(src)) / int64(m.Size()) * int64(m.Size()-1)
	return m.timed(func() error { return m.Comm.Alltoall(dst, src) })
}

func (m *meter) timed(f func() error) error {
	start := time.Now()
	m.since.Store(&start)
	err := f()
	m.since.Store(nil)
	m.seconds += time.Since(start).Seconds()
	return err
}

// leads reports whether the process owns the run folder.
func (r *run) leads() bool { return r.job == nil || r.job.Rank() == 0 }

// alone has rank 0 do something alone; all ranks learn how it went.
func (r *run) alone(f func() error) (err error) {
	if r.leads() {
		err = f()
	}
	if r.job != nil {
		err = r.job.agree(err)
	}
	return err
}

// inTurn has rank 0 do something before the others do, so that those that share its
// disk find it done (a file in a cache).
func (r *run) inTurn(f func() error) error {
	if err := r.alone(f); err != nil || r.leads() {
		return r.together(err)
	}
	return r.together(f())
}

// together returns err, or that of another rank.
func (r *run) together(err error) error {
	var known *jobError
	if r.job == nil || errors.As(err, &known) {
		return err
	}
	return r.job.agree(err)
}

// rows are the process's rows of every batch.
func (r *run) rows() rowRange {
	if r.job == nil {
		return rowRange{0, r.recipe.Batch / max(1, r.hosts)}
	}
	return r.recipe.ownRows(r.job.Rank(), r.job.Size())
}

// sameFolder checks that all ranks see the run folder of rank 0.
func (j *job) sameFolder(dir string) error {
	path := filepath.Join(dir, temporary+"job")
	mark := fmt.Sprint(time.Now().UnixNano(), " ", os.Getpid())
	var err error
	if j.Rank() == 0 {
		err = os.WriteFile(path, []byte(mark), 0o644)
	}
	if err := j.agree(err); err != nil {
		return err
	}
	if err := j.share(&mark); err != nil {
		return err
	}
	if b, e := os.ReadFile(path); e != nil || string(b) != mark {
		err = fault.Envf("%s: not the folder that %s sees; all processes need the same run folder: put it on storage that all hosts share", dir, j.name(0))
	}
	err = j.agree(err)
	if j.Rank() == 0 {
		os.Remove(path)
	}
	return err
}

// alike is something that must be the same on every rank.
type alike struct {
	Name, Value string
}

// compare refuses a job whose ranks differ.
func (j *job) compare(list []alike) error {
	own, err := json.Marshal(list)
	if err != nil {
		return j.agree(err)
	}
	all, err := j.gather(own)
	if err != nil {
		return err
	}
	first := list
	for rank, text := range all {
		var other []alike
		if err := json.Unmarshal(text, &other); err != nil {
			return err
		}
		if rank == 0 {
			first = other
		}
		for i, a := range first {
			if i >= len(other) || other[i] != a {
				// Every rank finds it.
				return &jobError{err: fault.Usagef("%s: on %s it is %s, on %s %s; all processes of a job need the same",
					a.Name, j.name(rank), brief(other[min(i, len(other)-1)].Value), j.name(0), brief(a.Value)), said: j.Rank() != 0}
			}
		}
	}
	return nil
}

func brief(s string) string {
	if len(s) == 64 { // a hash
		return s[:12] + "…"
	}
	return fault.Name(s)
}

// identify lists what must be the same on all ranks.
func (r *run) identify(ctx context.Context, from *start) ([]alike, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	sum, _, err := digest.File(ctx, exe, "the program")
	if err != nil {
		return nil, err
	}
	info := r.dev.Info()
	at := "none"
	if from.state != nil {
		text, err := json.Marshal(from.state)
		if err != nil {
			return nil, err
		}
		at = fmt.Sprintf("step %d, %s", from.state.Step, sha256Of(text))
	}
	plugin := info.Version
	if st, err := os.Stat(info.Plugin); err == nil {
		plugin = fmt.Sprintf("%s, %d bytes", plugin, st.Size())
	}
	return []alike{
		{"program", sum},
		{"recipe", sha256Of(r.recipe.YAML())},
		{"backend", fmt.Sprintf("%s × %d", info.Kind, info.Devices)},
		{"plugin", plugin},
		{"data (names or sizes)", sha256Of([]byte(strings.Join(r.data, "\n")))},
		{"checkpoint to resume from", at},
	}, nil
}

// loopTogether is loop for a job.
func (r *run) loopTogether(ctx context.Context, to int64) error {
	for {
		if due := r.step == r.recipe.Steps || r.evalDue(); due {
			if err := r.together(r.settle(ctx)); err != nil {
				return err
			}
			r.job.at(atEvaluation, r.step)
			if err := r.evaluateTogether(ctx); err != nil {
				if s := (stopped{}); errors.As(err, &s) {
					return err
				}
				return r.rescueTogether(ctx, err)
			}
		}
		every := r.recipe.Checkpoint.EverySteps
		if r.step == to || every > 0 && r.step%every == 0 && r.step > r.first {
			r.job.at(atCheckpoint, r.step)
			if err := r.checkpointTogether(ctx); err != nil {
				return err
			}
		}
		if r.step >= to {
			return nil
		}
		r.job.at(atData, r.step+1)
		b, wait, err := r.feed.next(ctx)
		w := word{Numbers: [6]float64{wait.Seconds(), float64(r.bad.found(r.samples(r.step + 1)))}}
		if ctx.Err() != nil {
			w.Flags, err = flagStop, nil
		}
		if r.saver.written() {
			w.Flags |= flagSaved
		}
		words, err := r.job.meet(err, w)
		if err != nil {
			return r.rescueTogether(ctx, err)
		}
		if slices.ContainsFunc(words, func(w word) bool { return w.Flags&flagStop != 0 }) {
			return r.interruptedTogether(ctx)
		}
		bad := 0.0
		for _, w := range words {
			bad += w.Numbers[1]
		}
		if err := r.bad.tooMany(int64(bad), r.samples(r.step+1)-r.seen, ""); err != nil { // every rank finds it
			return r.rescueTogether(ctx, &jobError{err: err, said: !r.leads()})
		}
		if !slices.ContainsFunc(words, func(w word) bool { return w.Flags&flagSaved == 0 }) {
			if err := r.commit(ctx); err != nil {
				return err
			}
		}
		if err := r.advanceTogether(ctx, b, wait); err != nil {
			return err
		}
	}
}

// advanceTogether is advance for a job.
func (r *run) advanceTogether(ctx context.Context, b *hostBatch, wait time.Duration) error {
	rates := r.recipe.rates(r.step)
	if r.step == r.first {
		r.phase("compiling")
		defer r.phase("")
	}
	m := r.job.measured
	seconds, bytes, start := m.seconds, m.bytes, time.Now()
	r.machine.remote.busy = func() float64 { return time.Since(start).Seconds() - (m.seconds - seconds) + wait.Seconds() }
	r.machine.remote.wait = wait.Seconds()
	r.job.at(atStep, r.step+1)
	r.job.inStep = true
	metrics, err := r.machine.step(context.WithoutCancel(ctx), b, rates)
	if err != nil {
		return fmt.Errorf("step %d: %w", r.step+1, err)
	}
	r.job.inStep = false
	r.job.watch.first.Store(true)
	r.feed.done(b)
	before := r.pending
	r.step++
	r.pending = &pendingStep{step: r.step, rates: rates, wait: wait, metrics: metrics, called: time.Now(), exchange: m.seconds - seconds, bytes: m.bytes - bytes}
	slowest := 0
	for i, t := range r.machine.remote.tallies {
		if t.Busy > r.machine.remote.tallies[slowest].Busy {
			slowest = i
		}
	}
	r.pending.slowest, r.pending.slowestWait = &slowest, r.machine.remote.tallies[slowest].Wait
	if before != nil {
		return r.read(ctx, before)
	}
	return nil
}

// checkpointTogether is checkpoint for a job: each rank starts to write its part.
func (r *run) checkpointTogether(ctx context.Context) error {
	if r.saved == r.step {
		return nil
	}
	err := r.settle(ctx)
	if err == nil {
		err = r.saver.patiently(ctx, metricsFile, func() error { return r.metrics.Sync() })
	}
	if err := r.together(fault.As(fault.Environment, err)); err != nil {
		return err
	}
	if err := r.commit(ctx); err != nil {
		return err
	}
	state, err := r.positionTogether()
	if err != nil {
		return err
	}
	s, err := r.machine.remote.snapshot(state, r.recipe.YAML())
	if err := r.together(err); err != nil {
		return err
	}
	if err := r.alone(func() error { return r.saver.prepare(ctx, state.Step) }); err != nil {
		return err
	}
	r.saved = r.step
	r.saver.startPart(ctx, s)
	return nil
}

// positionTogether is position, including what the other ranks have found.
func (r *run) positionTogether() (savedState, error) {
	st := r.position()
	own, err := json.Marshal(st)
	if err != nil {
		return st, r.job.agree(err)
	}
	all, err := r.job.gather(own)
	if err != nil {
		return st, err
	}
	st.Bad, st.Gaps = 0, nil
	for _, text := range all {
		var other savedState
		if err := json.Unmarshal(text, &other); err != nil {
			return st, err
		}
		st.Bad += other.Bad
		for _, g := range other.Gaps {
			if !slices.Contains(st.Gaps, g) {
				st.Gaps = append(st.Gaps, g)
			}
		}
	}
	sortGaps(st.Gaps)
	return st, nil
}

// commit completes the checkpoint in progress, if there is one: it counts only if
// all parts are written.
func (r *run) commit(ctx context.Context) error {
	if r.saver.part == nil {
		return nil
	}
	s, sums, err := r.saver.partDone()
	text, e := json.Marshal(sums)
	var w word
	copy(w.Text[:], text)
	if err == nil && e == nil && len(text) > len(w.Text) {
		e = fmt.Errorf("checkpoint: the hashes take %d bytes, more than the %d of a message", len(text), len(w.Text))
	}
	words, err := r.job.meet(errors.Join(err, e), w)
	if err != nil {
		return err
	}
	var path string
	if err := r.alone(func() (err error) {
		for _, w := range words {
			if err := json.Unmarshal([]byte(w.text()), &s.state.SHA256); err != nil {
				return err
			}
		}
		return r.saver.publish(ctx, s)
	}); err != nil {
		return err
	}
	path = filepath.Join(r.out, checkpointDir, fmt.Sprintf("step-%d", s.state.Step))
	r.saver.last.Store(&path)
	return nil
}

// rescueTogether is rescue for a job; err is one that all ranks know.
func (r *run) rescueTogether(ctx context.Context, err error) error {
	var known *jobError
	if r.step == r.first || !errors.As(err, &known) || known.left {
		return err
	}
	if e := r.checkpointTogether(ctx); e != nil {
		return errors.Join(err, e)
	}
	if e := r.commit(ctx); e != nil {
		return errors.Join(err, e)
	}
	if r.leads() {
		r.interim()
	}
	return fmt.Errorf("%w; the state after step %d is saved in %s", err, r.step, r.saver.newest())
}

// interruptedTogether is interrupted for a job.
func (r *run) interruptedTogether(ctx context.Context) error {
	if r.step > r.first {
		if err := r.checkpointTogether(ctx); err != nil {
			return err
		}
	}
	if err := r.commit(ctx); err != nil {
		return err
	}
	if r.leads() {
		r.interim()
	}
	return &jobError{err: stopped{fmt.Sprintf("stopped after step %d of %d; the same command", r.step, r.recipe.Steps), r.saver.from, ctx.Err()}, said: !r.leads()}
}

// finishTogether is finish for a job: rank 0 writes the model and the report.
func (r *run) finishTogether(ctx context.Context) (*Result, error) {
	if err := r.commit(ctx); err != nil {
		return nil, err
	}
	st, err := r.positionTogether()
	if err != nil {
		return nil, err
	}
	r.badTogether = st.Bad
	if err := r.alone(func() error { _, err := r.finish(ctx); return err }); err != nil {
		return nil, err
	}
	r.sum()
	r.result.Rank = r.job.Rank()
	return r.result, nil
}

// evaluateTogether splits the pictures of each evaluation over the ranks and adds up
// their counts.
func (r *run) evaluateTogether(ctx context.Context) error {
	defer func() { r.last = time.Now() }()
	for _, i := range r.evaluationsDue() {
		e := r.recipe.Eval[i]
		start, name := time.Now(), e.name(i, r.recipe)
		r.phase("evaluating " + name)
		res, err := r.scoreShare(ctx, e, name, r.job.Rank(), r.job.Size())
		var w word
		if err == nil {
			w.Numbers = [6]float64{float64(res.Correct1), float64(res.Correct5), float64(res.N)}
		}
		r.phase("")
		if err != nil && ctx.Err() != nil {
			w.Flags, err = flagStop, nil
		}
		words, err := r.job.meet(err, w)
		if err != nil {
			return err
		}
		var sum [3]int
		for _, w := range words {
			if w.Flags&flagStop != 0 {
				return r.interruptedTogether(ctx)
			}
			for k := range sum {
				sum[k] += int(w.Numbers[k])
			}
		}
		n := float64(max(1, sum[2]))
		row := Eval{Step: r.step, Benchmark: name, Top1: float64(sum[0]) / n, Top5: float64(sum[1]) / n, N: sum[2], Classes: res.Data.Classes, Seconds: time.Since(start).Seconds()}
		if err := r.together(r.scored(ctx, row)); err != nil {
			return err
		}
	}
	return nil
}
