package device

import (
	"io"
	"reflect"
	"runtime"

	"github.com/evatool/evatool/internal/device/goexec"
	"github.com/evatool/evatool/internal/device/pin"
	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute/gobackend"
	"k8s.io/klog/v2"
)

// QuietLibraries keeps what GoMLX and go-xla log by themselves (klog) off the
// terminal. klog is the whole process's: this is for a command line.
func QuietLibraries() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

// PlainMemory makes CPU plugins that are loaded later leave their memory to
// malloc, which maps and clears it anew at every execution.
func PlainMemory() { pjrt.PlainMemory() }

// openGo opens the Go backend. Its own limit on goroutines has to go: workers
// that wait for workers can take all places under it, and a graph with many
// independent matrix products never ends. With fewer threads than Go has,
// operations run one after the other, each on that many; the limit is safe
// then.
func openGo(why string, threads int) (*Device, error) {
	d := &Device{info: Info{Backend: "go", Kind: KindGo, Devices: 1, SIMD: SIMD(), Why: why}, waits: true}
	if slow := WithoutSIMD(); slow != "" {
		d.info.Why += "; slow: " + slow
	}
	return d, catch("open the Go backend", func() error {
		config, limit := "", -1
		switch {
		case threads > 0 && threads < runtime.GOMAXPROCS(0):
			config, limit = "ops_sequential", threads
		case !pin.Linked(pin.Compute):
			config = "ops_sequential"
		}
		b, err := gobackend.New(config)
		if err != nil {
			return err
		}
		if pin.Linked(pin.Compute) { // the backend's own option for this prints to stdout
			reflect.ValueOf(b).Elem().FieldByName("Workers").MethodByName("SetMaxParallelism").
				Call([]reflect.Value{reflect.ValueOf(limit)})
		}
		d.backend, d.info.Kernels = b, goexec.Use(b, threads)
		return nil
	})
}

// openPlugin opens an XLA plugin. options are go-xla's (tf32=false,preallocate…).
func openPlugin(p plugins.Plugin, options, why string, o Options) (*Device, error) {
	loaded, err := pjrt.Load(p.Path, p.Kind)
	if err != nil {
		return nil, err
	}
	d := &Device{info: Info{Backend: "xla:" + p.Path, Kind: loaded.Kind, Plugin: p.Path, Version: loaded.Version, SIMD: SIMD(), Why: why}, waits: loaded.Waits}
	if options != "" {
		d.info.Backend += "," + options
	}
	err = catch("open "+p.Path, func() (err error) {
		d.client, err = loaded.NewClient(pjrt.Options{GoXLA: options, DeviceCount: o.DeviceCount, Threads: o.Threads, Cache: o.CompileCache, Log: o.Log})
		return err
	})
	if err != nil {
		return nil, pjrt.Explain(err)
	}
	d.backend = d.client.Backend
	d.info.Devices = d.backend.NumDevices()
	if o.DeviceCount > d.info.Devices {
		n := d.info.Devices
		d.Close()
		return nil, fault.Envf("device count %d: %s has %d devices", o.DeviceCount, p.Path, n)
	}
	return d, nil
}
