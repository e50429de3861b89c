package device

import (
	"reflect"
	"sync/atomic"

	"github.com/gomlx/go-xla/pjrt"
)

// Traffic counts what crossed between host and device(s).
type Traffic struct {
	Puts, Fetches, Runs  int64
	ToDevice, FromDevice int64 // bytes
}

type traffic struct{ puts, fetches, runs, to, from atomic.Int64 }

// Traffic is what crossed between host and device(s) since Open.
func (d *Device) Traffic() Traffic {
	t := &d.traffic
	return Traffic{t.puts.Load(), t.fetches.Load(), t.runs.Load(), t.to.Load(), t.from.Load()}
}

// Sub is the traffic since an earlier count.
func (t Traffic) Sub(before Traffic) Traffic {
	return Traffic{t.Puts - before.Puts, t.Fetches - before.Fetches, t.Runs - before.Runs,
		t.ToDevice - before.ToDevice, t.FromDevice - before.FromDevice}
}

// MemoryUse is the memory of a compiled program on one device, in bytes.
type MemoryUse struct {
	Code, Inputs, Outputs, Aliased, Temporary int64
}

// Peak is what the program needs at most: outputs that take over an input's
// memory count once.
func (m MemoryUse) Peak() int64 { return m.Code + m.Inputs + m.Outputs - m.Aliased + m.Temporary }

// Memory is what the compiler says the program needs for these arguments; it
// compiles the program if need be and runs nothing. It is zero on the Go backend.
func (p *Program) Memory(args ...*Array) (MemoryUse, error) {
	e, err := p.executable(args)
	if err != nil || p.d.info.Kind == KindGo {
		return MemoryUse{}, err
	}
	loaded := field(reflect.ValueOf(e.exec), "exec").Interface().(*pjrt.LoadedExecutable)
	s := loaded.OnDeviceMemoryUsageStats
	return MemoryUse{int64(s.GeneratedCode), int64(s.Inputs), int64(s.Outputs), int64(s.Aliases), int64(s.Temporary)}, nil
}

// FusedAttention is how many attention operations of the program, forward and
// backward, run as one cuDNN operation (flash attention). It compiles the
// program if need be and runs nothing. Only the CUDA plugin has them.
func (p *Program) FusedAttention(args ...*Array) (int, error) {
	e, err := p.executable(args)
	if err != nil {
		return 0, err
	}
	return e.fused, nil
}
