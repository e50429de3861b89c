//go:build cgo

package pjrt

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
)

// Built says whether plugins can be loaded.
const Built = true

// Client is a plugin with its devices.
type Client struct {
	Backend *xla.Backend

	plugin  *Plugin
	threads int
	cache   *cache         // nil when there is none
	handle  unsafe.Pointer // the plugin's client, known from the first compilation on
}

// NewClient opens the plugin's devices. It panics where go-xla does.
func (p *Plugin) NewClient(o Options) (*Client, error) {
	config := p.name
	if o.GoXLA != "" {
		config += "," + o.GoXLA
	}
	values := pjrt.NamedValuesMap{}
	switch p.Kind {
	case plugins.CPU:
		values["cpu_device_count"] = int64(max(1, o.DeviceCount))
	case plugins.CUDA:
		values["memory_fraction"] = float32(0.92) // the most that the pool may grow to; the plugin's own is 0.75
		if o.DeviceCount > 0 {
			ids := make([]int64, o.DeviceCount)
			for i := range ids {
				ids[i] = int64(i)
			}
			values["visible_devices"] = ids
		}
	}
	env := map[string]string{}
	if o.Threads > 0 {
		env["NPROC"] = strconv.Itoa(o.Threads)
	}
	if p.cuda != "" { // for what XLA does before it compiles; programs have it as an option
		env["XLA_FLAGS"] = strings.TrimSpace(os.Getenv("XLA_FLAGS") + " --" + cudaDataDir + "=" + p.cuda)
	}
	var b *xla.Backend
	err := withEnv(env, func() (err error) {
		b, err = xla.NewWithOptions(config, values)
		return err
	})
	if err != nil {
		return nil, Explain(err)
	}
	threads := o.Threads
	if threads == 0 {
		threads = runtime.NumCPU()
	}
	return &Client{Backend: b, plugin: p, threads: threads, cache: openCache(o, p)}, nil
}

var envMu sync.Mutex

// withEnv runs f with environment variables that XLA reads when a client is
// made and that have no other form, and then puts back what was there. Other
// goroutines may see them meanwhile.
func withEnv(env map[string]string, f func() error) error {
	envMu.Lock()
	defer envMu.Unlock()
	for name, value := range env {
		if before, ok := os.LookupEnv(name); ok {
			defer os.Setenv(name, before)
		} else {
			defer os.Unsetenv(name)
		}
		if err := os.Setenv(name, value); err != nil {
			return fault.Envf("%s=%s: %w", name, value, err)
		}
	}
	return f()
}

// Zeros makes an array of zeros on the one device of a CPU plugin, to be
// written to in place. go-xla's shared buffers are freed under a run that is
// not over, and cannot be donated; a copy of zeros has neither fault. Pages
// that are only read are all one page of zeros: the zeros take no memory.
func (c *Client) Zeros(shape shapes.Shape) (compute.Buffer, error) {
	zeros, err := syscall.Mmap(-1, 0, int(shape.ByteSize()), syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, fault.Envf("%d bytes of address space: %w", shape.ByteSize(), err)
	}
	defer syscall.Munmap(zeros)
	return c.Backend.BufferFromFlatData(0, dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(&zeros[0]), shape.DType, shape.Size()), shape)
}

// CacheUse is how many programs came from the cache and how many were compiled.
func (c *Client) CacheUse() (hits, misses int64) {
	if c.cache == nil {
		return 0, 0
	}
	return c.cache.hits.Load(), c.cache.misses.Load()
}
