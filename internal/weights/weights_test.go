package weights

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// source is a model in memory: 2 zero bytes for every element (BF16), unless data has
// the tensor.
type source struct {
	infos []tensorfile.Info
	data  map[string][]byte
}

func (s *source) Tensors() []tensorfile.Info            { return s.infos }
func (s *source) Extent(string) (*os.File, int64, bool) { return nil, 0, false }
func (s *source) Metadata() map[string]string           { return nil }
func (s *source) Close() error                          { return nil }
func (s *source) Open(name string) (io.ReadCloser, error) {
	if d, ok := s.data[name]; ok {
		return io.NopCloser(bytes.NewReader(d)), nil
	}
	for _, t := range s.infos {
		if t.Name == name {
			return io.NopCloser(bytes.NewReader(make([]byte, t.NumBytes()))), nil
		}
	}
	return nil, errors.New("no such tensor")
}

func tiny(t *testing.T) (*arch.Config, *source) {
	t.Helper()
	cfg, err := arch.Parse([]byte(`{"embed_dim": 4, "vision_cfg": {"image_size": 4, "patch_size": 2, "layers": 1, "width": 8, "head_width": 4, "eva_model_name": "x"},
		"text_cfg": {"context_length": 4, "vocab_size": 8, "width": 4, "heads": 1, "layers": 1}}`))
	if err != nil {
		t.Fatal(err)
	}
	s := &source{data: map[string][]byte{}}
	for _, p := range cfg.Params() {
		s.infos = append(s.infos, tensorfile.Info{Name: p.Name, DType: tensorfile.BF16, Shape: p.Shape})
	}
	return cfg, s
}

func goBackend(t *testing.T) *device.Device {
	t.Helper()
	d, err := device.Open(context.Background(), device.Options{Backend: "go"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestLoadConverts(t *testing.T) {
	d := goBackend(t)
	cfg, src := tiny(t)
	bits := map[tensorfile.DType][]byte{ // 1.5, then zeros
		tensorfile.F64:  {0, 0, 0, 0, 0, 0, 0xf8, 0x3f},
		tensorfile.F32:  {0, 0, 0xc0, 0x3f},
		tensorfile.F16:  {0x00, 0x3e},
		tensorfile.BF16: {0xc0, 0x3f},
	}
	for dtype, b := range bits {
		i := len(src.infos) - 1
		src.infos[i].DType = dtype
		src.data[src.infos[i].Name] = append(b, make([]byte, src.infos[i].NumBytes()-int64(len(b)))...)
		set, err := Load(context.Background(), d, cfg, src, "fp32")
		if err != nil {
			t.Fatal(dtype, err)
		}
		v, err := set.Values()[i].Float32s()
		if err != nil || v[0] != 1.5 || v[1] != 0 {
			t.Errorf("%s: %v %v", dtype, v, err)
		}
		if n := len(set.Names()); n != len(cfg.Params()) || n != len(set.Values()) {
			t.Errorf("%d names, %d values", n, len(set.Values()))
		}
		set.Free()
	}
}

// TestFill: every pair of types, over several buffers, bit by bit.
func TestFill(t *testing.T) {
	const n = 1<<16 + 3*chunk/4
	rng := rand.New(rand.NewPCG(1, 2))
	le := binary.LittleEndian
	for from, c := range map[tensorfile.DType]struct {
		bits  func(i int) uint64
		value func(b []byte) float32
	}{
		tensorfile.F64:  {func(int) uint64 { return math.Float64bits(rng.NormFloat64()) }, func(b []byte) float32 { return float32(math.Float64frombits(le.Uint64(b))) }},
		tensorfile.F32:  {func(int) uint64 { return uint64(math.Float32bits(float32(rng.NormFloat64()))) }, func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) }},
		tensorfile.F16:  {func(i int) uint64 { return uint64(i) }, func(b []byte) float32 { return tensorfile.F16toF32(le.Uint16(b)) }},
		tensorfile.BF16: {func(i int) uint64 { return uint64(i) }, func(b []byte) float32 { return tensorfile.BF16toF32(le.Uint16(b)) }},
	} {
		var raw []byte
		for i := range n {
			raw = append(raw, le.AppendUint64(nil, c.bits(i))[:from.Size()]...)
		}
		for to, encode := range map[dtypes.DType]func(float32) uint32{
			dtypes.Float32:  math.Float32bits,
			dtypes.Float16:  func(v float32) uint32 { return uint32(tensorfile.F32toF16(v)) },
			dtypes.BFloat16: func(v float32) uint32 { return uint32(tensorfile.F32toBF16(v)) },
		} {
			flat := dtypes.MakeAnySlice(to, n)
			if err := new(loader).fill(flat, to, from, bytes.NewReader(raw)); err != nil {
				t.Fatal(err)
			}
			got := dtypes.UnsafeByteSliceFromAny(flat)
			for i := range n {
				b := raw[i*from.Size():][:from.Size()]
				want := b // as it is, NaNs too
				if from != inFile[to] {
					want = le.AppendUint32(nil, encode(c.value(b)))[:to.Size()]
				}
				if g := got[i*to.Size():][:to.Size()]; !bytes.Equal(g, want) {
					t.Fatalf("%s to %s: element %d is %x, want %x", from, to, i, g, want)
				}
			}
		}
	}
}

// A checkpoint may hold these besides weights.
func TestLoadIgnores(t *testing.T) {
	d := goBackend(t)
	cfg, src := tiny(t)
	for _, n := range []string{"visual.rope.freqs_cos", "visual.blocks.0.attn.rope.freqs_sin", "text.position_ids", "input_resolution",
		"context_length", "vocab_size", "visual.bn1.num_batches_tracked", "text.attn_mask"} {
		src.infos = append(src.infos, tensorfile.Info{Name: n, DType: tensorfile.I64})
	}
	set, err := Load(context.Background(), d, cfg, src, "")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := set.LogitScale(); err != nil || s != 1 {
		t.Error(s, err)
	}
	names, values := set.Tower(arch.TextTower)
	if len(names) != len(values()) || len(names) == 0 || !strings.HasPrefix(names[0], "text.") {
		t.Error(names)
	}
}

func TestLoadRefuses(t *testing.T) {
	d := goBackend(t)
	for _, tt := range []struct {
		name   string
		change func(*source)
		want   []string
	}{
		{"missing", func(s *source) { s.infos = s.infos[:len(s.infos)-2] }, []string{"2 missing", "text.ln_final.weight", "text.ln_final.bias"}},
		{"unused", func(s *source) {
			s.infos = append(s.infos, tensorfile.Info{Name: "visual.adapter.weight", DType: tensorfile.F32})
		}, []string{"1 unused", "visual.adapter.weight"}},
		{"shape", func(s *source) { s.infos[1].Shape = []int64{1, 1, 9} }, []string{"visual.cls_token is [1 1 9], want [1 1 8]"}},
		{"type", func(s *source) { s.infos[1].DType = tensorfile.I32 }, []string{"visual.cls_token is I32"}},
		{"no text tower", func(s *source) {
			var v []tensorfile.Info
			for _, t := range s.infos {
				if !strings.HasPrefix(t.Name, "text.") {
					v = append(v, t)
				}
			}
			s.infos = v
		}, []string{"missing (text.positional_embedding", "more"}},
		{"short", func(s *source) { s.data[s.infos[2].Name] = []byte{1} }, []string{"visual.pos_embed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, src := tiny(t)
			tt.change(src)
			_, err := Load(context.Background(), d, cfg, src, "fp32")
			if err == nil || fault.Code(err) != int(fault.Input) {
				t.Fatal(err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v: want %q", err, w)
				}
			}
		})
	}
	cfg, src := tiny(t)
	if _, err := Load(context.Background(), d, cfg, src, "int8"); fault.Code(err) != int(fault.Usage) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Load(ctx, d, cfg, src, "fp32"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
