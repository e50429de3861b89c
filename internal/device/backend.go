package device

import (
	"io"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"sync"

	"github.com/evatool/evatool/internal/device/goexec"
	"github.com/evatool/evatool/internal/device/pjrt"
	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/go-xla/compute/xla"
	"k8s.io/klog/v2"
)

// quiet keeps the libraries from writing to the user's terminal, and from
// downloading plugins on their own.
var quiet = sync.OnceFunc(func() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	xla.EnableAutoInstall(false)
})

// setThreads bounds the threads of both kinds of CPU backends.
func setThreads(n int) {
	if n > 0 {
		runtime.GOMAXPROCS(n)
		os.Setenv("NPROC", strconv.Itoa(n)) // read by XLA's CPU client
	}
}

// openGo opens the Go backend without a limit on its goroutines: with its
// default limit, workers that wait for workers can take all places, and a
// graph with many independent matrix products never ends.
// (Its own option for this prints to stdout.)
func openGo(why string) (*Device, error) {
	d := &Device{info: Info{Backend: "go", Kind: KindGo, Devices: 1, SIMD: SIMD(), Kernels: goexec.Install(), Why: why}}
	if !d.info.SIMD {
		d.info.Why += "; built without GOEXPERIMENT=simd: slow"
	}
	return d, catch("open the Go backend", func() error {
		b, err := gobackend.New("")
		if err != nil {
			return err
		}
		reflect.ValueOf(b).Elem().FieldByName("Workers").MethodByName("SetMaxParallelism").
			Call([]reflect.Value{reflect.ValueOf(-1)})
		d.backend = b
		return nil
	})
}

// openPlugin opens an XLA plugin. options are go-xla's (tf32=false,preallocate…).
func openPlugin(p plugins.Plugin, options, why string, o Options) (*Device, error) {
	loaded, err := pjrt.Load(p.Path, p.Kind)
	if err != nil {
		return nil, err
	}
	d := &Device{info: Info{Backend: "xla:" + p.Path, Kind: loaded.Kind, Plugin: p.Path, Version: loaded.Version, SIMD: SIMD(), Why: why}}
	if options != "" {
		d.info.Backend += "," + options
	}
	err = catch("open "+p.Path, func() (err error) {
		d.client, err = loaded.NewClient(pjrt.Options{GoXLA: options, DeviceCount: o.DeviceCount, Cache: o.CompileCache, Log: o.Log})
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
		return nil, fault.Envf("--device-count %d: %s has %d devices", o.DeviceCount, p.Path, n)
	}
	return d, nil
}
