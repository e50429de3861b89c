package pjrt

import "log/slog"

// Options are those of a client.
type Options struct {
	GoXLA       string // go-xla's own options: tf32=false,preallocate=true…
	DeviceCount int    // 0: all GPUs, one CPU device
	Threads     int    // of the CPU plugin; 0: all cores
	Cache       string // folder of compiled programs; "": the user's cache folder; "off"
	Log         *slog.Logger
}

// Compiled says how a compilation went.
type Compiled struct {
	Fused   int    // fused attention operations in the program
	Refused string // why the attempt before the one that succeeded failed, "" when there was none
}

// MemoryUse is the memory of a compiled program on one device, in bytes.
type MemoryUse struct {
	Code, Inputs, Outputs, Aliased, Temporary int64
}

// Peak is what the program needs at most: outputs that take over an input's
// memory count once.
func (m MemoryUse) Peak() int64 { return m.Code + m.Inputs + m.Outputs - m.Aliased + m.Temporary }
