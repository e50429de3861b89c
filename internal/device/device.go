// Package device runs computation graphs on the Go backend or on an XLA
// plugin, on one or several devices, and is the only place where a GoMLX panic
// becomes an error. Below it: plugins finds and installs XLA plugins, pjrt
// opens them, goexec and kernels make the Go backend fast.
//
// A device leaves its process as it was: environment, GOMAXPROCS, standard
// streams, signal handlers, the log of the libraries below (klog). What cannot
// be avoided:
//
//   - XLA reads NPROC and XLA_FLAGS from the environment when a plugin is
//     opened. With Options.Threads, and with a CUDA folder that XLA must be told
//     of, Open sets them for that moment and puts them back; another goroutine
//     can see them meanwhile.
//   - A plugin cannot be unloaded: it stays in the process, and so do NVIDIA's
//     libraries that it needs, whose symbols are global.
//   - go-xla sets TF_CPP_MIN_LOG_LEVEL=3 when a program starts that imports it,
//     unless it is set.
//   - The Go backend's table of executors is changed when the program starts;
//     the entries act only for the backends opened here (package goexec).
//
// A step: Put uploads the batch, Program.Call runs the compiled graph on
// arrays that stay on the device, Fetch brings back what is asked for.
package device

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/device/goexec"
	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
)

// Options choose a backend.
type Options struct {
	Backend      string // auto, go, xla, xla:/path/plugin.so[,option…]; "" is auto
	DeviceCount  int    // 0: all GPUs, one CPU device
	Threads      int    // how many threads may run on a CPU; 0: one per core
	CompileCache string // folder; "": the user's cache folder; "off"
	Log          *slog.Logger
}

// Info says what was opened and why.
type Info struct {
	Backend string `json:"backend"`           // pass it as Options.Backend to get the same one again
	Kind    string `json:"kind"`              // one of the Kind constants
	Plugin  string `json:"plugin,omitempty"`  // path of the plugin
	Version string `json:"version,omitempty"` // of the plugin's interface
	Devices int    `json:"devices"`
	SIMD    bool   `json:"simd"`              // this binary's Go backend uses SIMD
	Kernels bool   `json:"kernels,omitempty"` // the Go backend with our own kernels (AVX2)
	Why     string `json:"why"`
}

// The kinds of backends.
const (
	KindGo   = "go"
	KindCPU  = plugins.CPU
	KindCUDA = plugins.CUDA
)

// SIMD says whether the Go backend of this binary was built with SIMD. Without
// it, matrix products are some twenty times slower.
func SIMD() bool { return WithoutSIMD() == "" }

// WithoutSIMD says why the Go backend of this binary is slow; "" when it is not.
func WithoutSIMD() string {
	_, experiments, _ := strings.Cut(runtime.Version(), "X:")
	switch {
	case runtime.GOARCH != "amd64":
		return "Go has vector instructions for amd64 only"
	case !strings.Contains(experiments, "simd"):
		return "built without GOEXPERIMENT=simd"
	}
	return ""
}

// XLA says whether this binary can load XLA plugins.
func XLA() bool { return pjrt.Built }

// Lacks says what this build of evatool lacks, one line each.
func Lacks() (lines []string) {
	if !pjrt.Built {
		lines = append(lines, "no XLA: built without cgo; build with CGO_ENABLED=1 and a C compiler to have it")
	}
	if why := WithoutSIMD(); why != "" {
		if runtime.GOARCH == "amd64" {
			why += ", which must be set in the environment of go build or go install"
		}
		lines = append(lines, "a slow Go backend: "+why)
	}
	return lines
}

// Device is an open backend. Its methods may be called from several goroutines.
type Device struct {
	info    Info
	backend compute.Backend
	client  *pjrt.Client            // nil for the Go backend
	mesh    *distributed.DeviceMesh // nil for one device
	log     *slog.Logger
	waits   bool // see Waits
	traffic traffic
}

// Open opens a backend. With "auto" it takes the CUDA plugin if there is a GPU,
// else the CPU plugin, else the Go backend, and logs which and why. Asking by
// name for a backend that is not available is an Environment fault.
func Open(ctx context.Context, o Options) (*Device, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.DeviceCount < 0 || o.Threads < 0 {
		return nil, fault.Usagef("device count %d, threads %d: want 0 or more", o.DeviceCount, o.Threads)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d, err := open(o)
	if err == nil {
		err = d.ready(o)
	}
	if err != nil {
		return nil, err
	}
	o.Log.Info("backend", "backend", d.info.Kind, "plugin", d.info.Plugin, "devices", d.info.Devices, "why", d.info.Why)
	return d, nil
}

// ready completes what openGo and openPlugin return.
func (d *Device) ready(o Options) (err error) {
	d.log = o.Log
	if n := d.info.Devices; n > 1 {
		if d.mesh, err = distributed.NewDeviceMesh([]int{n}, []string{meshAxis}); err != nil {
			d.Close()
			return fault.Envf("%d devices: %w", n, err)
		}
	}
	return nil
}

func open(o Options) (*Device, error) {
	name, arg, _ := strings.Cut(o.Backend, ":")
	switch name {
	case "", "auto":
		if arg != "" {
			break
		}
		return openAuto(o)
	case "go":
		if arg != "" {
			break
		}
		if o.DeviceCount > 1 {
			return nil, fault.Envf("device count %d: the Go backend has one device; use backend xla", o.DeviceCount)
		}
		return openGo("asked for", o.Threads)
	case KindCPU, KindCUDA: // as logs, results and `evatool backend list` name them
		if arg != "" {
			break
		}
		d, reasons := openBest(o, name)
		if d == nil {
			return nil, fault.Envf("backend %s: %s", name, reasons)
		}
		return d, nil
	case "xla":
		if arg != "" {
			path, options, _ := strings.Cut(arg, ",")
			path, err := filepath.Abs(path)
			if err != nil {
				return nil, fault.File(path, "a PJRT plugin", err)
			}
			return openPlugin(plugins.Plugin{Path: path, Kind: plugins.KindOf(path)}, options, "asked for", o)
		}
		d, reasons := openBest(o, KindCUDA, KindCPU)
		if d == nil {
			return nil, fault.Envf("backend xla: %s", reasons)
		}
		return d, nil
	}
	return nil, fault.Envf("backend %s: unknown; give auto, go, xla, xla-cpu, xla-cuda or xla:/path/plugin.so[,option]", o.Backend)
}

func openAuto(o Options) (*Device, error) {
	d, reasons := openBest(o, KindCUDA, KindCPU)
	if d != nil {
		return d, nil
	}
	if o.DeviceCount > 1 {
		return nil, fault.Envf("device count %d: %s; the Go backend has one device", o.DeviceCount, reasons)
	}
	return openGo(reasons, o.Threads)
}

// openBest opens the first plugin of these kinds that works; else it says why
// none does.
func openBest(o Options, kinds ...string) (*Device, string) {
	if !pjrt.Built {
		return nil, "built without cgo and so without XLA (build with CGO_ENABLED=1 and a C compiler, or use the go backend)"
	}
	var reasons []string
	if slices.Contains(kinds, KindCUDA) && !plugins.HasNVIDIA() {
		reasons = append(reasons, "no NVIDIA GPU")
	}
	found := plugins.Find()
	for _, kind := range kinds {
		if kind == KindCUDA && !plugins.HasNVIDIA() {
			continue
		}
		i := 0
		for _, p := range found {
			if p.Kind != kind {
				continue
			}
			i++
			what := kind + " plugin found"
			if p.Own {
				what = "the " + kind + " plugin installed from a wheel of your choice"
			}
			d, err := openPlugin(p, "", strings.Join(append(reasons, what), ", "), o)
			if err == nil {
				return d, ""
			}
			reasons = append(reasons, fault.Line(err))
		}
		if i == 0 {
			reasons = append(reasons, fmt.Sprintf("no %s plugin (evatool backend install %s)", kind, strings.TrimPrefix(kind, "xla-")))
		}
	}
	return nil, strings.Join(reasons, "; ")
}

// Close frees the backend and every array on it.
func (d *Device) Close() error {
	if d.backend == nil {
		return nil
	}
	backend := d.backend
	d.backend = nil
	return catch("close the backend", func() error {
		if d.client != nil {
			d.client.Close()
		} else {
			goexec.Release(backend)
			backend.Finalize()
		}
		return nil
	})
}

// Depthwise says whether b computes float32 convolutions of [B,H,W,C] by [h,w,1,C]
// in C groups with a kernel of ours; without one they are many times slower.
func Depthwise(b compute.Backend) bool { return pjrt.Depthwise(b) || goexec.Uses(b) }

// Info says what was opened and why.
func (d *Device) Info() Info { return d.info }

// N is the number of devices.
func (d *Device) N() int { return d.info.Devices }

// Waits says whether a program's results are there when its call returns. Where
// they are not, the next call may be made while the device is still at work.
func (d *Device) Waits() bool { return d.waits }
