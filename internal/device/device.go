// Package device runs computation graphs on the Go backend or on an XLA
// plugin, on one or several devices.
//
// It is the only place where a GoMLX panic becomes an error.
package device

import (
	"context"
	"log/slog"

	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Options choose a backend.
type Options struct {
	Backend      string // auto, go, xla, xla:/path/plugin.so[,option…]; "" is auto
	DeviceCount  int    // 0: all GPUs, one CPU device
	Threads      int    // 0: all cores
	CompileCache string // folder; "": the user's cache folder; "off"
	Log          *slog.Logger
}

// Info says what was opened and why.
type Info struct {
	Backend string `json:"backend"` // what to pass as Options.Backend to get the same
	Kind    string `json:"kind"`    // go, xla-cpu, xla-cuda
	Plugin  string `json:"plugin,omitempty"`
	Version string `json:"version,omitempty"`
	Devices int    `json:"devices"`
	SIMD    bool   `json:"simd"` // the Go backend was built with SIMD
	Why     string `json:"why"`
}

// Device is an open backend.
type Device struct{ info Info }

// Open opens a backend.
func Open(ctx context.Context, o Options) (*Device, error) {
	return nil, fault.Envf("backend %q: not available", o.Backend)
}

// Close frees the backend.
func (d *Device) Close() error { return nil }

// Info says what was opened and why.
func (d *Device) Info() Info { return d.info }

// N is the number of devices.
func (d *Device) N() int { return d.info.Devices }

// Sharding says how an array lies on the devices.
type Sharding int

// Replicated arrays are whole on every device; SplitRows arrays are cut along axis 0.
const (
	Replicated Sharding = 0
	SplitRows  Sharding = 1
)

// SplitAxis cuts along any axis; the number of devices must divide its length.
func SplitAxis(axis int) Sharding { return Sharding(axis + 1) }

// Array is one logical tensor on the device(s).
type Array struct{}

// Put uploads t.
func (d *Device) Put(s Sharding, t *tensors.Tensor) (*Array, error) {
	return nil, fault.Envf("no backend")
}

// PutF32 uploads flat values as a float32 array of dimensions dims.
func (d *Device) PutF32(s Sharding, flat []float32, dims ...int) (*Array, error) {
	return d.Put(s, tensors.FromFlatDataAndDimensions(flat, dims...))
}

// PutI32 uploads flat values as an int32 array of dimensions dims.
func (d *Device) PutI32(s Sharding, flat []int32, dims ...int) (*Array, error) {
	return d.Put(s, tensors.FromFlatDataAndDimensions(flat, dims...))
}

// Dims are the logical dimensions.
func (a *Array) Dims() []int { return nil }

// Fetch waits for the array and copies it to the host, shards merged.
func (a *Array) Fetch() (*tensors.Tensor, error) { return nil, fault.Envf("no backend") }

// Float32s is Fetch for a float32 array.
func (a *Array) Float32s() ([]float32, error) { return nil, fault.Envf("no backend") }

// Free releases the device memory.
func (a *Array) Free() {}

// ProgramOption configures a Program.
type ProgramOption func(*Program)

// Program is a compiled graph; compilation happens at the first Call.
type Program struct{}

// In gives the sharding of the inputs; the last one repeats. Ignored on one device.
func In(specs ...Sharding) ProgramOption { return func(p *Program) {} }

// Out gives the sharding of the outputs; the last one repeats. Ignored on one device.
func Out(specs ...Sharding) ProgramOption { return func(p *Program) {} }

// Donate hands inputs over to outputs of the same shape: input → output.
// The memory is reused, and the donated arrays are consumed by Call.
func Donate(pairs map[int]int) ProgramOption { return func(p *Program) {} }

// Program makes a program from a graph function.
func (d *Device) Program(name string, fn func(in []*graph.Node) []*graph.Node, opts ...ProgramOption) *Program {
	return &Program{}
}

// Call runs the program. Results may still be in the making when it returns: Fetch waits.
func (p *Program) Call(ctx context.Context, args ...*Array) ([]*Array, error) {
	return nil, fault.Envf("no backend")
}
