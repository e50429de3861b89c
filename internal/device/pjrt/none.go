//go:build !cgo

package pjrt

import (
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// A build without cgo has no plugins: they are C libraries. It computes on the
// Go backend.

// Built says whether plugins can be loaded.
const Built = false

// Plugin is a plugin that cannot be loaded.
type Plugin struct {
	Kind, Version string
	Keeps, Waits  bool
}

// Load refuses: see Plugin.
func Load(string, string) (*Plugin, error) {
	return nil, fault.Envf("this evatool was built without cgo and has no XLA; use Options.Backend go, or build it with CGO_ENABLED=1 and a C compiler")
}

// Client is a client that never exists.
type Client struct{ Backend compute.Backend }

// The methods of a client that never exists.

func (*Plugin) NewClient(Options) (*Client, error)         { _, err := Load("", ""); return nil, err }
func (*Client) Zeros(shapes.Shape) (compute.Buffer, error) { _, err := Load("", ""); return nil, err }
func (*Client) CacheUse() (hits, misses int64)             { return 0, 0 }
func (*Client) Compile(bool, func() error) (Compiled, error) {
	_, err := Load("", "")
	return Compiled{}, err
}
func (*Client) Memory() (inUse, peak, limit int64, ok bool) { return 0, 0, 0, false }
func (*Client) Close()                                      {}

// Depthwise knows no kernels.
func Depthwise(compute.Backend) bool { return false }

// PlainMemory changes nothing.
func PlainMemory() {}

// Alias does nothing: the Go backend reuses what it frees.
func Alias(*graph.Graph, int, int) {}

// MemoryOf knows nothing about the Go backend's programs.
func MemoryOf(compute.Executable) MemoryUse { return MemoryUse{} }
