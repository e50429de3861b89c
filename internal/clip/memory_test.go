package clip

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/weights"
)

// TestHalfMemory: a CPU computes bf16 weights in float32, each when it is
// needed. All of them at once would be twice the model.
func TestHalfMemory(t *testing.T) {
	d := devicetest.Open(t, device.Options{Backend: "xla", CompileCache: "off"})
	defer d.Close()
	cfg := must[*arch.Config](t)(arch.Parse([]byte(`{"embed_dim": 64,
		"vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 16, "width": 256, "head_width": 64, "mlp_ratio": 4, "eva_model_name": "eva-clip-test"},
		"text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}}`)))
	set := must[*weights.Set](t)(weights.Load(context.Background(), d, cfg, zeros{cfg}, "bf16"))
	r := must[*Runner](t)(NewRunner(d, set, RunnerOptions{DType: "bf16", Images: 1, Texts: 1}))
	in := must[*device.Array](t)(r.putImages(make([]float32, 3*32*32), 1, 1))
	for name, p := range map[string]*device.Program{"features": r.image.features, "blocks": r.image.blocks} {
		m := must[device.MemoryUse](t)(p.Memory(append([]*device.Array{in}, r.image.weights()...)...))
		t.Logf("%s: %.1f MB of weights, %.1f MB of temporary memory", name, float64(m.Inputs)/1e6, float64(m.Temporary)/1e6)
		if m.Inputs < 20e6 || m.Temporary > m.Inputs/2 {
			t.Errorf("%s: more than half the weights", name)
		}
	}
}

// zeros has the tensors of a model, all zero.
type zeros struct{ cfg *arch.Config }

func (z zeros) Tensors() (out []tensorfile.Info) {
	for _, p := range z.cfg.Params() {
		out = append(out, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	return out
}

func (z zeros) Open(name string) (io.ReadCloser, error) {
	for _, t := range z.Tensors() {
		if t.Name == name {
			return io.NopCloser(bytes.NewReader(make([]byte, t.NumBytes()))), nil
		}
	}
	return nil, os.ErrNotExist
}

func (zeros) Metadata() map[string]string                   { return nil }
func (zeros) Extent(string) (f *os.File, at int64, ok bool) { return nil, 0, false }
func (zeros) Close() error                                  { return nil }
