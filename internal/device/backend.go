package device

import (
	"io"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"sync"

	"github.com/evatool/evatool/internal/device/goexec"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
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
func openPlugin(p Plugin, options, why string, o Options) (*Device, error) {
	opening.Lock()
	defer opening.Unlock()
	if err := fault.RegularFile(p.Path, "a PJRT plugin (.so)"); err != nil {
		return nil, fault.Envf("--backend xla:%w", err)
	}
	d := &Device{info: Info{Backend: "xla:" + p.Path, Kind: p.Kind, Plugin: p.Path, SIMD: SIMD(), Why: why}}
	var libraries string
	var err error
	if p.Kind == KindCUDA {
		if !hasNVIDIA() {
			return nil, fault.Envf("%s: no NVIDIA GPU on this machine; use --backend auto", p.Path)
		}
		if libraries, err = prepareCUDA(p.Path); err != nil {
			return nil, err
		}
	}
	h, err := loadHook(p.Path, p.Kind)
	if err != nil {
		return nil, err
	}
	d.hook, d.info.Kind, d.info.Version = h, h.kind, h.version
	d.cache = openCache(o.CompileCache, h, libraries, o.Log)
	config := h.name
	if options != "" {
		config += "," + options
		d.info.Backend += "," + options
	}
	values := pjrt.NamedValuesMap{}
	switch h.kind {
	case KindCPU:
		values["cpu_device_count"] = int64(max(1, o.DeviceCount))
	case KindCUDA:
		values["memory_fraction"] = float32(0.92) // the most that the pool may grow to; the plugin's own is 0.75
		if o.DeviceCount > 0 {
			ids := make([]int64, o.DeviceCount)
			for i := range ids {
				ids[i] = int64(i)
			}
			values["visible_devices"] = ids
		}
	}
	err = catch("open "+p.Path, func() error {
		b, err := xla.NewWithOptions(config, values)
		if err != nil {
			return err
		}
		d.backend = b
		d.info.Devices = b.NumDevices()
		return nil
	})
	if err != nil {
		return nil, explain(err)
	}
	if o.DeviceCount > d.info.Devices {
		n := d.info.Devices
		d.Close()
		return nil, fault.Envf("--device-count %d: %s has %d devices", o.DeviceCount, p.Path, n)
	}
	return d, nil
}
