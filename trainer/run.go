package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// run is a training run in progress.
type run struct {
	recipe  *Recipe
	out     string
	workers int
	log     *slog.Logger
	shown   func(Step)
	phase   func(string)

	dev     *device.Device
	lock    *flock.Flock
	made    []string // what claiming the folder created, innermost first
	machine *machine
	pairs   *pairs // nil for ready tensors
	feed    feed
	bad     *badSamples
	saver   *saver
	encoder eval.Encoder // built at the first evaluation
	metrics jsonLines
	events  *runlog.Events

	job         *job     // of several processes; nil for one
	dry         bool     // make only the checks of a start
	notSeen     []string // what they did not check
	hosts       int      // of a planned job; 0: none
	badTogether int64    // samples that other processes of the job could not use

	over    bool     // an earlier process has finished the run: leave its files as they are
	fork    *fork    // nil if the run is not a fork
	data    []string // fingerprints of the sources
	first   int64    // steps that earlier processes did
	seen    int64    // samples in those steps
	step    int64    // steps done
	saved   int64    // step of the newest checkpoint
	pending *pendingStep
	last    time.Time // when the previous step, or the evaluation after it, was over
	started time.Time
	result  *Result

	openLines func(path string, keepThrough int64) (jsonLines, error)
}

// pendingStep is a step whose metrics are not known yet.
type pendingStep struct {
	step    int64
	rates   [3]float64
	wait    time.Duration
	metrics *device.Array
	called  time.Time

	// Of a job of several processes:
	exchange    float64 // seconds
	bytes       int64
	slowest     *int
	slowestWait float64
}

// jsonLines is a file of JSON lines.
type jsonLines interface {
	Write(v any) error
	Sync() error
	Close() error
}

func openLines(path string, keepThrough int64) (jsonLines, error) {
	return runlog.OpenMetrics(path, keepThrough)
}

// stopped is the error of a run that was told to stop.
type stopped struct {
	text string
	from func() string // the checkpoint to resume from, once all are written
	why  error         // with which the context ended; nil where that of another process did
}

func (s stopped) Error() string        { return s.text + " resumes from " + s.from() }
func (s stopped) Is(target error) bool { return target == context.Canceled || target == s.why }

// Run trains by a recipe. It resumes from the newest checkpoint in the run folder,
// if there is one. When ctx ends it writes a checkpoint and returns an error that
// is context.Canceled, and ctx's error where that is another.
func Run(ctx context.Context, recipe *Recipe, o Options) (_ *Result, err error) {
	defer fault.Public(ctx, &err)
	if err := o.check(); err != nil {
		return nil, err
	}
	if recipe, err = recipe.checked(); err != nil {
		return nil, err
	}
	r := newRun(recipe, o)
	defer r.leaveFolder() // after the other processes of a job have left it
	if r.job, err = o.join(r.log); err != nil {
		return nil, err
	}
	if r.job != nil {
		defer r.job.leave(&err)
		r.log, r.result.Rank = r.job.log, r.job.Rank()
		if !r.leads() {
			r.shown, r.phase = nil, func(string) {}
		}
		if err := r.job.share(&r.out); err != nil {
			return nil, err
		}
		r.result.Out = r.out
	}
	defer r.close()
	b := &beginning{}
	r.phase("opening")
	if err := r.together(r.open(ctx, o, b)); err != nil {
		return nil, err
	}
	if r.over {
		if r.job != nil {
			r.result.Rank = r.job.Rank()
		}
		return r.result, nil
	}
	r.made = nil
	r.phase("")
	if r.job != nil {
		if err := r.loopTogether(ctx, b.to); err != nil {
			return nil, err
		}
		return r.finishTogether(ctx)
	}
	if err := r.loop(ctx, b.to); err != nil {
		return nil, err
	}
	return r.finish(ctx)
}

// loop is the run: every step in order, evaluations and checkpoints when due.
func (r *run) loop(ctx context.Context, to int64) error {
	for {
		if due := r.step == r.recipe.Steps || r.evalDue(); due {
			if err := r.settle(ctx); err != nil {
				return err
			}
			if err := r.evaluate(ctx); err != nil {
				if ctx.Err() != nil {
					return r.asked(ctx, err)
				}
				return r.rescue(ctx, err)
			}
		}
		every := r.recipe.Checkpoint.EverySteps
		if r.step == to || every > 0 && r.step%every == 0 && r.step > r.first {
			if err := r.checkpoint(ctx); err != nil {
				return err
			}
		}
		if r.step >= to {
			return nil
		}
		if ctx.Err() != nil {
			return r.interrupted(ctx)
		}
		if err := r.advance(ctx); err != nil {
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return r.asked(ctx, err)
			}
			return err
		}
	}
}

func (r *run) evalDue() bool {
	return slices.ContainsFunc(r.recipe.Eval, func(e Evaluation) bool {
		return e.EverySteps > 0 && r.step > 0 && r.step%e.EverySteps == 0
	})
}

// advance starts one step and then reads the metrics of the one before, which is
// done by now: the device never waits for the host.
func (r *run) advance(ctx context.Context) error {
	b, wait, err := r.feed.next(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return r.rescue(ctx, err)
	}
	rates := r.recipe.rates(r.step)
	if r.step == r.first {
		r.phase("compiling")
		defer r.phase("")
	}
	// An interrupt lets the step finish: its state has no other copy.
	metrics, err := r.machine.step(context.WithoutCancel(ctx), b, rates)
	if err != nil {
		return fmt.Errorf("step %d: %w", r.step+1, err)
	}
	r.feed.done(b)
	before := r.pending
	r.step++
	r.pending = &pendingStep{step: r.step, rates: rates, wait: wait, metrics: metrics, called: time.Now()}
	if before != nil {
		if err := r.read(ctx, before); err != nil {
			return err
		}
	}
	if r.machine.cached != nil { // its parts wait for one another: the step is nearly done
		return r.settle(ctx)
	}
	return nil
}

// settle reads the metrics of the step in progress.
func (r *run) settle(ctx context.Context) error {
	p := r.pending
	if p == nil {
		return nil
	}
	r.pending = nil
	return r.read(ctx, p)
}

// read waits for a step, writes its line and stops the run if the step went wrong.
func (r *run) read(ctx context.Context, p *pendingStep) error {
	v, err := p.metrics.Float32s()
	if err != nil {
		return fmt.Errorf("step %d: %w", p.step, err)
	}
	p.metrics.Free()
	now := time.Now()
	if r.machine.dev.Waits() { // the step was over when its call returned
		now = p.called
	}
	s := Step{
		Step: p.step, Samples: r.samples(p.step), Total: r.recipe.Steps,
		Loss: float64(v[metricLoss]), GradNorm: float64(v[metricGradNorm]),
		LR:         map[string]float64{"vision": p.rates[0], "text": p.rates[1], "other": p.rates[2]},
		LogitScale: float64(v[metricLogitScale]), LossScale: float64(v[metricLossScale]), Skipped: int64(v[metricSkipped]),
		DataWait: p.wait.Seconds(), Seconds: now.Sub(r.last).Seconds(),
		ExchangeSeconds: p.exchange, ExchangeBytes: p.bytes, SlowestRank: p.slowest, SlowestWait: p.slowestWait,
	}
	r.last = now
	s.Rate = float64(r.recipe.Batch) / s.Seconds
	if v[metricFinite] != 1 {
		if err := r.overflowed(ctx, s); err != nil {
			return err
		}
	}
	if err := r.write(ctx, s); err != nil {
		return err
	}
	r.result.Curve = append(r.result.Curve, s)
	r.result.DataWait += s.DataWait
	r.scalars(s.Step, map[string]float64{
		"train/loss": s.Loss, "train/grad_norm": s.GradNorm, "train/logit_scale": s.LogitScale, "train/loss_scale": s.LossScale,
		"train/samples_per_second": s.Rate, "lr/vision": s.LR["vision"], "lr/text": s.LR["text"], "lr/other": s.LR["other"],
	})
	if r.shown != nil {
		r.shown(s)
	}
	return nil
}

// scalars writes TensorBoard events. A failure does not end the run.
func (r *run) scalars(step int64, values map[string]float64) {
	for tag, v := range values {
		if r.events == nil {
			return
		}
		if err := r.events.Scalar(tag, step, v); err != nil {
			r.log.Warn("cannot write TensorBoard events; this process writes no more of them", "error", err)
			r.events.Close()
			r.events = nil
		}
	}
}

// overflowed handles a step whose gradients are not finite: fp16 skips it and
// halves the loss scale; otherwise the run cannot continue.
func (r *run) overflowed(ctx context.Context, s Step) error {
	if r.recipe.Precision == "fp16" && s.LossScale > scaleMin {
		return nil
	}
	if r.job != nil { // all ranks find the same
		if err := r.commit(ctx); err != nil {
			return err
		}
	} else if err := r.saver.wait(); err != nil {
		return err
	}
	what := fmt.Sprintf("loss is %v, gradient norm %v", s.Loss, s.GradNorm)
	if r.recipe.Precision == "fp16" {
		what = fmt.Sprintf("gradients overflow even at the smallest loss scale, %v", s.LossScale)
	}
	return fault.Inputf("step %d: %s; the run stops; its last good state is %s: lower lr, clip gradients or train in bf16", s.Step, what, r.saver.from())
}

// write appends a line to metrics.jsonl. On a full disk it waits for space.
func (r *run) write(ctx context.Context, v any) error {
	err := r.metrics.Write(v)
	if err == nil {
		return nil
	}
	return r.saver.patiently(ctx, metricsFile, func() error {
		// A torn line is dropped when the file is reopened.
		r.metrics.Close()
		m, err := r.openLines(filepath.Join(r.out, metricsFile), math.MaxInt64)
		if err != nil {
			return err
		}
		r.metrics = m
		return m.Write(v)
	})
}

// checkpoint copies the state at this step, which is written while the run
// continues. All of metrics.jsonl up to here is on disk before it counts.
func (r *run) checkpoint(ctx context.Context) error {
	if r.saved == r.step {
		return nil
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.saver.patiently(ctx, metricsFile, func() error { return r.metrics.Sync() }); err != nil {
		return fault.As(fault.Environment, err)
	}
	s, err := r.machine.snapshot()
	if err != nil {
		return err
	}
	s.state, s.recipe = r.position(), r.recipe.YAML()
	r.saved = r.step
	return r.saver.start(ctx, s)
}

func (r *run) position() savedState {
	st := savedState{Step: r.step, Samples: r.samples(r.step), Recipe: r.recipe.identity(), Bad: r.bad.count(r.samples(r.step)), Data: r.data, Parts: r.machine.plan.accumulation()}
	if r.pairs != nil {
		st.Sources, st.Gaps = r.pairs.given(st.Samples), r.pairs.gapsNow()
	}
	return st
}

// samples is how many samples the run has seen after a step of this process.
func (r *run) samples(step int64) int64 { return r.seen + (step-r.first)*int64(r.recipe.Batch) }

// rescue saves the state when something other than the training has failed.
func (r *run) rescue(ctx context.Context, err error) error {
	if r.step == r.first {
		return err
	}
	if e := r.checkpoint(ctx); e != nil {
		return errors.Join(err, e)
	}
	if e := r.saver.wait(); e != nil {
		return errors.Join(err, e)
	}
	r.interim()
	return fmt.Errorf("%w; the state after step %d is saved in %s", err, r.step, r.saver.newest())
}

// asked ends a run that stopped with err because it was told to. One that was
// waiting for disk space has none for a checkpoint either.
func (r *run) asked(ctx context.Context, err error) error {
	var s stopped
	if errors.As(err, &s) {
		return err
	}
	return r.interrupted(ctx)
}

// interrupted ends a run that was told to stop. The checkpoint is written although
// ctx has ended, but does not wait for disk space.
func (r *run) interrupted(ctx context.Context) error {
	if r.step > r.first {
		if err := r.checkpoint(ctx); err != nil {
			return err
		}
	}
	if err := r.saver.wait(); err != nil {
		return err
	}
	r.interim()
	return stopped{fmt.Sprintf("stopped after step %d of %d; the same command", r.step, r.recipe.Steps), r.saver.from, ctx.Err()}
}

// finish writes the model, the report and the result. A run that StopAfter
// stopped leaves the model of that step; resuming overwrites it.
func (r *run) finish(ctx context.Context) (*Result, error) {
	if err := r.saver.wait(); err != nil {
		return nil, err
	}
	res := r.result
	s, err := r.machine.snapshot()
	if err != nil {
		return nil, err
	}
	res.Model = filepath.Join(r.out, finalFile)
	if err := r.saver.patiently(ctx, finalFile, func() error { return r.saver.model(res.Model, s) }); err != nil {
		return nil, err
	}
	r.sum()
	if res.Bad > 0 {
		r.log.Warn("some samples could not be used", "count", res.Bad, "list", r.bad.lists)
	}
	if err := r.report(); err != nil {
		return nil, err
	}
	return res, r.writeRunFile(true)
}

// sum completes the result as it is after the last step.
func (r *run) sum() {
	res := r.result
	res.Checkpoint, res.Steps, res.Samples, res.Bad = r.saver.newest(), r.step, r.samples(r.step), max(r.bad.count(r.samples(r.step)), r.badTogether)
	res.Seconds = time.Since(r.started).Seconds()
	res.Loss = lastLoss(res.Curve)
}

// lastLoss is the mean of the last 10 steps, without those of fp16 whose loss
// overflowed; 0 if there are no others.
func lastLoss(curve []Step) (mean float64) {
	var last []float64
	for _, c := range curve[max(0, len(curve)-10):] {
		if !math.IsNaN(c.Loss) && !math.IsInf(c.Loss, 0) {
			last = append(last, c.Loss)
		}
	}
	for _, v := range last {
		mean += v / float64(len(last))
	}
	return mean
}

// interim writes the report of a run that stops early.
func (r *run) interim() {
	if r.step == r.first {
		return
	}
	r.sum()
	if err := r.report(); err != nil {
		r.log.Warn("cannot write the report", "error", err)
	}
}

func (r *run) close() {
	if r.feed != nil {
		r.feed.close()
	} else if r.pairs != nil {
		r.pairs.close()
	}
	if r.saver != nil {
		_ = r.saver.wait() // already reported, or the run failed for another reason
		if p := r.saver.part; p != nil {
			p.stop()
			<-p.done
		}
	}
	if r.machine != nil {
		r.machine.close()
	}
	if r.dev != nil {
		r.dev.Close()
	}
	if r.metrics != nil {
		r.metrics.Close()
	}
	if r.events != nil {
		r.events.Close()
	}
	if r.bad != nil {
		r.bad.close()
	}
}
