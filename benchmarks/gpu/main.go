// Gpu measures evatool on an accelerator: parity with the Go backend, forward
// and training speed, memory, and the data pipeline in front of it. gpu.sh
// beside this folder runs it on a bare machine; with --size tiny every part
// runs on a CPU in a minute.
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
	"time"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// Report is what is measured.
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

// bench is a run of the benchmark.
type bench struct {
	ctx    context.Context
	dev    *device.Device
	sizes  sizes
	report *Report
	log    *slog.Logger
	end    time.Time
}

func main() {
	backend := flag.String("backend", "auto", "auto, xla or xla:/path/plugin.so")
	size := flag.String("size", "full", "full (a GPU), cpu, or tiny (a test of this program, not a measurement)")
	only := flag.String("only", "", "one part: matmul, parity, forward, train or pipeline (which needs train)")
	huge := flag.Bool("huge-pages", true, "as evatool does: huge pages for the CPU plugin")
	cache := flag.Bool("compile-cache", true, "keep compiled programs on disk")
	budget := flag.Duration("budget", 8*time.Minute, "start no new part after this time")
	out := flag.String("json", "", "write the report to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	log := runlog.NewLogger(os.Stderr, false, false)
	if *huge {
		device.Reexec(*backend, log)
	}
	o := device.Options{Backend: *backend, DeviceCount: 1, Log: log}
	if !*cache {
		o.CompileCache = "off"
	}
	report, err := run(ctx, o, *size, *only, *budget, log)
	if report != nil {
		report.table(os.Stdout)
		if *out != "" {
			data, e := json.MarshalIndent(report, "", "  ")
			if e == nil {
				e = os.WriteFile(*out, append(data, '\n'), 0o644)
			}
			if err == nil {
				err = e
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpu:", fault.Line(err))
		os.Exit(fault.Code(err))
	}
}

// run measures everything; what fails is reported as skipped, and the first
// parity that is outside its tolerance is the error.
func run(ctx context.Context, o device.Options, size, only string, budget time.Duration, log *slog.Logger) (*Report, error) {
	begin := time.Now()
	sizes, ok := presets[size]
	if !ok {
		return nil, fault.Usagef("--size %s: give full, cpu or tiny", size)
	}
	dev, err := device.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	b := &bench{ctx: ctx, dev: dev, sizes: sizes, log: log, end: begin.Add(budget)}
	b.report = &Report{Host: host(), Device: dev.Info()}
	b.report.Peak = peakOf(b.report.Host.GPU)
	if _, _, limit, ok := dev.Memory(); ok {
		b.report.Memory = limit
	}
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"matmul", b.matmul}, {"parity", b.parity}, {"forward", b.forward}, {"train", b.train}, {"pipeline", b.pipeline},
	} {
		if only != "" && only != part.name {
			continue
		}
		log.Info(part.name)
		if err := part.run(); err != nil {
			if ctx.Err() != nil {
				return b.report, ctx.Err()
			}
			b.skip(part.name, err)
		}
	}
	b.report.Seconds = time.Since(begin).Seconds()
	for _, p := range b.report.Parity {
		if !p.OK {
			return b.report, fault.Checkf("parity: %s differs by %.2g, more than %.2g", p.What, p.Difference, p.Tolerance)
		}
	}
	return b.report, nil
}

// late tells whether a part may not begin any more.
func (b *bench) late(what string) bool {
	if time.Now().Before(b.end) {
		return false
	}
	b.report.Skipped = append(b.report.Skipped, what+": out of time")
	return true
}

func (b *bench) skip(what string, err error) {
	b.log.Warn("skipped", "part", what, "reason", fault.Line(err))
	b.report.Skipped = append(b.report.Skipped, what+": "+fault.Line(err))
}

func host() Host {
	h := Host{Cores: runtime.NumCPU()}
	h.GPU, h.Driver = nvidia()
	return h
}
