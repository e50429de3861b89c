// Gpu measures evatool on an accelerator: parity with the Go backend, forward
// and training speed, memory, and the data pipeline. gpu.sh beside this folder runs
// it on a bare machine; with --size tiny every part runs on a CPU in a minute.
//
// Each row is measured in a process of its own: one that crashes, hangs or leaves the
// device's memory full does not affect other rows, and peak memory is per row. The
// report is written after every row.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"time"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// Report is what was measured.
type Report struct {
	Host     Host        `json:"host"`
	Device   device.Info `json:"device"`
	Memory   int64       `json:"memory_limit_bytes,omitempty"`
	Peak     float64     `json:"peak_bf16_tflops,omitempty"` // of the data sheet, dense
	MatMul   []MatMul    `json:"matmul"`
	Parity   []Parity    `json:"parity"`
	Forward  []Forward   `json:"forward"`
	Train    []Train     `json:"train"`
	Pipeline []Pipeline  `json:"pipeline"`
	Skipped  []string    `json:"skipped,omitempty"` // and why
	Seconds  float64     `json:"seconds"`
}

// Host is the machine.
type Host struct {
	GPU    string `json:"gpu,omitempty"`
	Driver string `json:"driver,omitempty"`
	Cores  int    `json:"cores"`
}

// bench measures rows into a report.
type bench struct {
	ctx    context.Context
	dev    *device.Device
	opened device.Options // how dev was opened
	sizes  sizes
	report *Report // of this process; save writes it
	before *Report // of the rows before
	save   func()
	log    *slog.Logger
	end    time.Time // start nothing after it
}

func main() {
	backend := flag.String("backend", "auto", "auto, xla or xla:/path/plugin.so[,option]")
	size := flag.String("size", "full", "full (a GPU), cpu, or tiny (tests this program, measures nothing)")
	only := flag.String("only", "", "only one part: matmul, parity, forward, train or pipeline (which needs train)")
	cache := flag.Bool("compile-cache", true, "keep compiled programs on disk")
	budget := flag.Duration("budget", 8*time.Minute, "start no new row after this time; a running one has 45 s more")
	out := flag.String("json", "", "write the report to this file, after every row")
	show := flag.String("show", "", "print the table of this report and exit")
	number := flag.Int("row", -1, "measure only this row, in this process")
	before := flag.String("before", "", "with --row: the report of the earlier rows")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	log := runlog.NewLogger(os.Stderr, false, false)
	o := device.Options{Backend: *backend, DeviceCount: 1, Log: log}
	if !*cache {
		o.CompileCache = "off"
	}
	err := func() error {
		s, ok := presets[*size]
		switch {
		case *show != "":
			r, err := readReport(*show)
			if err == nil {
				r.table(os.Stdout)
			}
			return err
		case !ok:
			return fault.Usagef("--size %s: give full, cpu or tiny", *size)
		case *number >= 0:
			r, err := readReport(*before)
			if err != nil {
				return err
			}
			return measureRow(ctx, o, s, *number, r, time.Now().Add(*budget), func(r *Report) { r.write(*out, log) })
		}
		flags := []string{"--backend", *backend, "--size", *size, fmt.Sprint("--compile-cache=", *cache)}
		report, err := measure(ctx, s, *only, *budget, child(flags), func(r *Report) { r.write(*out, log) }, log)
		report.table(os.Stdout)
		return err
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpu:", fault.Line(err))
		os.Exit(fault.Code(err))
	}
}

// grace is the time left to a row that is running when the time is up.
var grace = 45 * time.Second

// rowFunc measures row i within the time of ctx and returns its report, as far as it
// got, and the error that stopped it.
type rowFunc func(ctx context.Context, i int, before *Report, end time.Time) (*Report, error)

// measure measures all rows; what fails is reported as skipped, and the first parity
// outside its tolerance is the error. Without a device it returns at once.
func measure(ctx context.Context, s sizes, only string, budget time.Duration, run rowFunc, save func(*Report), log *slog.Logger) (*Report, error) {
	begin := time.Now()
	end := begin.Add(budget)
	report := &Report{Host: host()}
	for i, r := range s.rows() {
		if only != "" && r.part != only && r.part != "device" {
			continue
		}
		if !time.Now().Before(end) {
			report.Skipped = append(report.Skipped, r.what+": out of time")
			continue
		}
		log.Info("row", "what", r.what)
		limited, cancel := context.WithDeadline(ctx, end.Add(grace))
		part, err := run(limited, i, report, end)
		late := limited.Err() != nil
		cancel()
		report.add(part)
		report.Seconds = time.Since(begin).Seconds()
		switch {
		case ctx.Err() != nil:
			save(report)
			return report, ctx.Err()
		case err != nil && r.part == "device":
			return report, err
		case late:
			report.Skipped = append(report.Skipped, r.what+": out of time, ended while it ran")
		case err != nil:
			log.Warn("skipped", "row", r.what, "reason", fault.Line(err))
			report.Skipped = append(report.Skipped, r.what+": "+fault.Line(err))
		}
		save(report)
	}
	save(report)
	for _, p := range report.Parity {
		if !p.OK {
			return report, fault.Checkf("parity: %s differs by %.2g, more than %.2g", p.What, p.Difference, p.Tolerance)
		}
	}
	return report, nil
}

// measureRow measures one row in this process.
func measureRow(ctx context.Context, o device.Options, s sizes, i int, before *Report, end time.Time, save func(*Report)) error {
	rows := s.rows()
	if i >= len(rows) {
		return fault.Usagef("--row %d: want a number below %d", i, len(rows))
	}
	dev, err := device.Open(ctx, o)
	if err != nil {
		return err
	}
	defer dev.Close()
	b := &bench{ctx: ctx, dev: dev, opened: o, sizes: s, report: &Report{Host: before.Host, Device: dev.Info()}, before: before, log: o.Log, end: end}
	b.report.Peak = peakOf(b.report.Host.GPU)
	if _, _, limit, ok := dev.Memory(); ok {
		b.report.Memory = limit
	}
	b.save = func() { save(b.report) }
	b.save()
	return rows[i].run(b)
}

// add takes over the contents of a row's report.
func (r *Report) add(o *Report) {
	if o == nil {
		return
	}
	if o.Device.Kind != "" {
		r.Device, r.Memory, r.Peak = o.Device, o.Memory, o.Peak
	}
	r.MatMul = append(r.MatMul, o.MatMul...)
	r.Parity = append(r.Parity, o.Parity...)
	r.Forward = append(r.Forward, o.Forward...)
	r.Train = append(r.Train, o.Train...)
	r.Pipeline = append(r.Pipeline, o.Pipeline...)
	r.Skipped = append(r.Skipped, o.Skipped...)
}

// write replaces the report file, if one was asked for. Errors are logged: a full disk
// must not end the measurements.
func (r *Report) write(path string, log *slog.Logger) {
	if path == "" {
		return
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(path+".part", append(data, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(path+".part", path)
	}
	if err != nil {
		log.Warn("report not written", "file", path, "reason", err)
	}
}

func readReport(path string) (*Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.File(path, "a report of this program", err)
	}
	r := &Report{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fault.Inputf("%s: not a report of this program: %w", path, err)
	}
	return r, nil
}

// skip reports a part of a row that failed.
func (b *bench) skip(what string, err error) {
	b.log.Warn("skipped", "part", what, "reason", fault.Line(err))
	b.report.Skipped = append(b.report.Skipped, what+": "+fault.Line(err))
	b.save()
}

// row is what one process measures.
type row struct {
	part, what string
	run        func(b *bench) error
}

// rows are in the order of importance: the time may not suffice for all.
func (s *sizes) rows() []row {
	rows := []row{{"device", "device", func(*bench) error { return nil }}, {"matmul", "matrix product", (*bench).matmul}}
	var parity, train, forward []row
	for _, model := range s.parity {
		_, name, _ := configOf(model)
		parity = append(parity, row{"parity", "parity " + name, func(b *bench) error { return b.parity(model) }})
	}
	for _, c := range s.train {
		_, name, _ := configOf(c.model)
		what := fmt.Sprintf("training %s %s, patch dropout %v, checkpointing %v", name, c.precision, c.patchDropout, c.checkpoint)
		train = append(train, row{"train", what, func(b *bench) error { return b.train(c, what) }})
	}
	for _, c := range s.forward {
		_, name, _ := configOf(c.model)
		forward = append(forward, row{"forward", "forward " + name + " " + c.dtype, func(b *bench) error { return b.forward(c) }})
	}
	first := func(list *[]row) {
		n := min(1, len(*list))
		rows, *list = append(rows, (*list)[:n]...), (*list)[n:]
	}
	first(&parity)
	first(&train)
	if len(s.train) > 0 {
		rows = append(rows, row{"pipeline", "data pipeline", (*bench).pipeline})
	}
	first(&forward)
	return slices.Concat(rows, parity, forward, train)
}

func host() Host {
	h := Host{Cores: runtime.NumCPU()}
	h.GPU, h.Driver = nvidia()
	return h
}
