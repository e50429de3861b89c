// Package weights loads a model's tensors from a file onto the device.
package weights

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"golang.org/x/sys/cpu"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Set is a model's tensors on the device, in the order of the
// configuration's Params.
type Set struct {
	Config *arch.Config
	names  []string
	values func() []*device.Array
	owned  []*device.Array // what Free frees
}

// Borrow returns a set of arrays that someone else owns, such as a training state
// that every step replaces. values returns the current ones in the order of
// cfg.Params, and is called at every use. Free leaves them alone.
func Borrow(cfg *arch.Config, values func() []*device.Array) *Set {
	s := &Set{Config: cfg, values: values}
	for _, p := range cfg.Params() {
		s.names = append(s.names, p.Name)
	}
	return s
}

// Names returns the tensors' names in the eva layout.
func (s *Set) Names() []string { return s.names }

// Values returns the tensors in the order of Names.
func (s *Set) Values() []*device.Array { return s.values() }

// Tower returns the names of one tower's tensors, and a function that returns the
// current tensors.
func (s *Set) Tower(t arch.Tower) (names []string, values func() []*device.Array) {
	var at []int
	for i, p := range s.Config.Params() {
		if p.Tower == t {
			names, at = append(names, s.names[i]), append(at, i)
		}
	}
	return names, func() []*device.Array {
		all, of := s.values(), make([]*device.Array, len(at))
		for i, k := range at {
			of[i] = all[k]
		}
		return of
	}
}

// LogitScale returns the factor of the logits, exp(logit_scale).
func (s *Set) LogitScale() (float32, error) {
	i := slices.Index(s.names, "logit_scale")
	v, err := s.values()[i].Float32s()
	if err != nil {
		return 0, err
	}
	return float32(math.Exp(float64(v[0]))), nil
}

// Free releases the device memory of a set that Load made.
func (s *Set) Free() {
	for _, a := range s.owned {
		a.Free()
	}
}

// Bind maps names to nodes in the same order.
func Bind(names []string, nodes []*graph.Node) map[string]*graph.Node {
	m := make(map[string]*graph.Node, len(names))
	for i, n := range names {
		m[n] = nodes[i]
	}
	return m
}

// ParseDType reads fp32 (also ""), bf16 or fp16.
func ParseDType(s string) (dtypes.DType, error) {
	switch s {
	case "", "fp32":
		return dtypes.Float32, nil
	case "bf16":
		return dtypes.BFloat16, nil
	case "fp16":
		return dtypes.Float16, nil
	}
	return dtypes.InvalidDType, fault.Usagef("dtype %q: want fp32, bf16 or fp16", s)
}

// ComputeDType returns the dtype in which a device computes when asked for dtype
// (fp32, bf16 or fp16). It is Float32 where half precision would only be slower: on
// the Go backend, for fp16 on a CPU, and on a CPU without bfloat16 instructions.
func ComputeDType(dev *device.Device, dtype string) (dtypes.DType, error) {
	dt, err := ParseDType(dtype)
	if k := dev.Info().Kind; k == device.KindGo || k == device.KindCPU && !(dt == dtypes.BFloat16 && cpuHasBF16()) {
		dt = dtypes.Float32
	}
	return dt, err
}

// cpuHasBF16 reports whether the processor multiplies bfloat16 numbers. Except on
// x86 this cannot be queried, and is assumed.
func cpuHasBF16() bool {
	return runtime.GOARCH != "amd64" || cpu.X86.HasAVX512BF16 || cpu.X86.HasAMXBF16
}

// Load streams the tensors of src, which is in the eva layout, to the device, one at
// a time. Matrices are stored as dtype (fp32, bf16 or fp16); vectors stay Float32,
// and so does everything on the Go backend. A tensor that is missing, unused, of the
// wrong shape or not of a float type is an error that names it.
func Load(ctx context.Context, dev *device.Device, cfg *arch.Config, src tensorfile.Source, dtype string) (*Set, error) {
	dt, err := ParseDType(dtype)
	if err != nil {
		return nil, err
	}
	if dev.Info().Kind == device.KindGo {
		dt = dtypes.Float32 // it would convert them at every use, slowly
	}
	params := cfg.Params()
	infos, err := match(params, src.Tensors())
	if err != nil {
		return nil, err
	}
	s := &Set{Config: cfg}
	s.values = func() []*device.Array { return s.owned }
	l := &loader{dev: dev, src: src}
	for i, p := range params {
		if err := ctx.Err(); err != nil {
			s.Free()
			return nil, err
		}
		to := dtypes.Float32
		if len(p.Shape) > 1 {
			to = dt
		}
		a, err := l.upload(infos[i], to)
		if err != nil {
			s.Free()
			return nil, err
		}
		s.names, s.owned = append(s.names, p.Name), append(s.owned, a)
	}
	return s, nil
}

// match finds each parameter's tensor.
func match(params []arch.Param, tensors []tensorfile.Info) ([]tensorfile.Info, error) {
	have := make(map[string]tensorfile.Info, len(tensors))
	for _, t := range tensors {
		have[t.Name] = t
	}
	var missing, unused, wrong []string
	infos := make([]tensorfile.Info, len(params))
	for i, p := range params {
		t, ok := have[p.Name]
		delete(have, p.Name)
		switch {
		case !ok:
			missing = append(missing, p.Name)
		case !slices.Equal(t.Shape, p.Shape):
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", p.Name, t.Shape, p.Shape))
		case !t.DType.IsFloat():
			wrong = append(wrong, fmt.Sprintf("%s is %s, want a float type", p.Name, t.DType))
		}
		infos[i] = t
	}
	for _, t := range tensors {
		_, left := have[t.Name]
		if _, known := arch.NotWeight(t.Name); left && !known {
			unused = append(unused, t.Name)
		}
	}
	var parts []string
	for _, l := range []struct {
		what  string
		names []string
	}{{"missing", missing}, {"unused", unused}, {"wrong", wrong}} {
		if len(l.names) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s)", len(l.names), l.what, list(l.names)))
		}
	}
	if parts != nil {
		return nil, fault.Inputf("the tensors do not fit the configuration: %s; give the right Options.Config", strings.Join(parts, "; "))
	}
	return infos, nil
}

// list lists up to a dozen names and counts the rest.
func list(names []string) string {
	const most = 12
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// chunk is the size of the read buffer in bytes.
const chunk = 1 << 17

// encoders turn float32 values into 16-bit elements.
var encoders = map[dtypes.DType]func(dst []byte, src []float32){
	dtypes.Float16: func(dst []byte, src []float32) {
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], tensorfile.F32toF16(v))
		}
	},
	dtypes.BFloat16: func(dst []byte, src []float32) {
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], tensorfile.F32toBF16(v))
		}
	},
}

// inFile is the element type in a file of a type on the device.
var inFile = map[dtypes.DType]tensorfile.DType{
	dtypes.Float32: tensorfile.F32, dtypes.Float16: tensorfile.F16, dtypes.BFloat16: tensorfile.BF16,
}

// loader uploads tensors through one buffer.
type loader struct {
	dev  *device.Device
	src  tensorfile.Source
	buf  [chunk]byte
	vals [chunk / 2]float32 // of buf, if the device takes 16 bits
}

// upload streams one tensor to the device as to.
func (l *loader) upload(t tensorfile.Info, to dtypes.DType) (*device.Array, error) {
	shape := shapes.Make(to)
	for _, d := range t.Shape {
		shape.Dimensions = append(shape.Dimensions, int(d))
	}
	a, err := l.dev.PutFunc(device.Replicated, shape, func(flat any) error {
		r, err := l.src.Open(t.Name)
		if err != nil {
			return err
		}
		return errors.Join(l.fill(flat, to, t.DType, r), r.Close())
	})
	if err != nil {
		return nil, fault.As(fault.Input, fmt.Errorf("tensor %s: %w", t.Name, err))
	}
	return a, nil
}

// fill reads elements of type from into flat, a slice of elements of type to.
func (l *loader) fill(flat any, to dtypes.DType, from tensorfile.DType, r io.Reader) error {
	raw := dtypes.UnsafeByteSliceFromAny(flat)
	if from == inFile[to] {
		_, err := io.ReadFull(r, raw)
		return err
	}
	decode, most := tensorfile.FloatDecoder(from), chunk/from.Size()
	for n := len(raw) / to.Size(); n > 0; {
		k := min(n, most)
		src := l.buf[:k*from.Size()]
		if _, err := io.ReadFull(r, src); err != nil {
			return err
		}
		if to == dtypes.Float32 {
			dst := flat.([]float32)
			decode(dst[:k], src)
			flat = dst[k:]
		} else {
			decode(l.vals[:k], src)
			encoders[to](raw, l.vals[:k])
			raw = raw[2*k:]
		}
		n -= k
	}
	return nil
}
