package clip

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/weights"
)

const models = "../../testdata/models/"

// backends runs f on the Go backend and, where the plugin is installed, on XLA.
func backends(t *testing.T, f func(t *testing.T, d *device.Device)) {
	for _, name := range []string{"go", "xla"} {
		t.Run(name, func(t *testing.T) {
			d := devicetest.Open(t, device.Options{Backend: name, CompileCache: "off"})
			defer d.Close()
			f(t, d)
		})
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func openFile(t *testing.T, path string) *tensorfile.File {
	t.Helper()
	f := must[*tensorfile.File](t)(tensorfile.OpenFile(path))
	t.Cleanup(func() { f.Close() })
	return f
}

// loadModel has the weights of the model in dir, a folder of models.
func loadModel(t *testing.T, d *device.Device, dir, dtype string) *weights.Set {
	t.Helper()
	m := must[*checkpoint.Model](t)(checkpoint.OpenModel(context.Background(), archtest.Weights(dir), checkpoint.ModelOptions{ConfigName: filepath.Join(dir, "config.json")}))
	defer m.Close()
	set := must[*weights.Set](t)(weights.Load(context.Background(), d, m.Config, m.Source, dtype))
	t.Cleanup(set.Free)
	return set
}

func readTokens(t *testing.T, src tensorfile.Source, name string) []int32 {
	t.Helper()
	raw := must[[]byte](t)(tensorfile.ReadAll(src, name))
	out := make([]int32, len(raw)/8)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint64(raw[8*i:]))
	}
	return out
}

func floats(t *testing.T, src tensorfile.Source, name string) []float32 {
	t.Helper()
	return must[[]float32](t)(tensorfile.Float32s(src, name))
}

// diff is the largest difference; NaN counts as infinite.
func diff(t *testing.T, got, want []float32) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	worst := 0.0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if !(d <= worst) {
			worst = d
		}
		if math.IsNaN(d) {
			return math.Inf(1)
		}
	}
	return worst
}

// Largest difference from the original code's values. The promise is 1e-4;
// this is tight enough to see a wrong LayerNorm epsilon.
const tolerance = 2e-5

func TestForward(t *testing.T) {
	dirs := must[[]string](t)(filepath.Glob(models + "*"))
	if len(dirs) < 25 {
		t.Fatalf("%d model folders, want 25 or more", len(dirs))
	}
	// What these have beside another model the Go backend shows; XLA takes seconds
	// to compile each.
	variants := []string{"convnext-mlp-tiny", "vitamin-xl-tiny", "fastvit-s3-tiny", "pe-g-tiny", "mobileclip-l-tiny", "clipa-tiny"}
	backends(t, func(t *testing.T, d *device.Device) {
		for _, dir := range dirs {
			if d.Info().Kind != device.KindGo && slices.Contains(variants, filepath.Base(dir)) {
				continue
			}
			t.Run(filepath.Base(dir), func(t *testing.T) {
				set := loadModel(t, d, dir, "fp32")
				r := must[*Runner](t)(NewRunner(d, set, RunnerOptions{Images: 6, Texts: 6}))
				in := openFile(t, filepath.Join(dir, "forward.safetensors"))
				img := must[[]float32](t)(r.Images(context.Background(), floats(t, in, "images"), 3))
				txt := must[[]float32](t)(r.Texts(context.Background(), readTokens(t, in, "tokens"), 5))
				if e := diff(t, img, floats(t, in, "expected.image_features")); e > tolerance {
					t.Errorf("image features differ by %.2g", e)
				}
				if e := diff(t, txt, floats(t, in, "expected.text_features")); e > tolerance {
					t.Errorf("text features differ by %.2g", e)
				}
				scale := must[float32](t)(set.LogitScale())
				if e := math.Abs(float64(scale - floats(t, in, "expected.logit_scale_exp")[0])); e > tolerance {
					t.Errorf("logit scale differs by %.2g", e)
				}
			})
		}
	})
}

// TestMapsAreComputedOnce: no block of a deep FastViT computes anew what those
// before it have. XLA's compiler would put a whole stage into each operation, and
// the program would grow with the square of the depth. On one device the
// convolutions are calls of our kernel, on two they are sums of shifted maps.
func TestMapsAreComputedOnce(t *testing.T) {
	const devicesHere = "EVATOOL_TEST_DEVICES"
	if n, err := strconv.Atoi(os.Getenv(devicesHere)); err == nil {
		d := devicetest.Open(t, device.Options{Backend: "xla", DeviceCount: n, CompileCache: "off"})
		defer d.Close()
		cfg := must[*arch.Config](t)(arch.Parse(must[[]byte](t)(os.ReadFile(models + "fastvit-tiny/config.json"))))
		for _, depth := range []int{1, 3, 5} {
			cfg.Vision.Layers = arch.Layers{1, depth, 1, 1}
			set := must[*weights.Set](t)(weights.Load(t.Context(), d, cfg, checkpoint.RandomSource(cfg, 1), "fp32"))
			r := must[*Runner](t)(NewRunner(d, set, RunnerOptions{Images: n, Texts: n}))
			size := cfg.Vision.ImageSize
			must[[]float32](t)(r.Images(t.Context(), make([]float32, n*3*size*size), n))
			set.Free()
		}
		return
	}
	devicetest.Need(t, "xla")
	for _, devices := range []int{1, 2} {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), devicesHere+"="+strconv.Itoa(devices), "XLA_FLAGS=--xla_backend_optimization_level=0 --xla_dump_hlo_as_text --xla_dump_to="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var sizes []float64
		var calls []int
		for _, name := range must[[]string](t)(filepath.Glob(dir + "/*image_tower.cpu_after_optimizations.txt")) {
			text := must[[]byte](t)(os.ReadFile(name))
			sizes = append(sizes, float64(bytes.Count(text, []byte(" multiply("))))
			calls = append(calls, bytes.Count(text, []byte(`custom_call_target="evatool_depthwise"`)))
		}
		if len(sizes) != 3 {
			t.Fatalf("%d programs, want 3", len(sizes))
		}
		if more := (sizes[2] - sizes[1]) / (sizes[1] - sizes[0]); !(more < 1.1) {
			t.Errorf("%d devices: %v multiplications at depths 1, 3 and 5: blocks 4 and 5 take %.3g times those of blocks 2 and 3", devices, sizes, more)
		}
		// A block has two: one that mixes cells, one in front of its MLP.
		if ours := calls[1]-calls[0] == 4 && calls[2]-calls[1] == 4; ours != (devices == 1) {
			t.Errorf("%d devices: %v convolutions are calls of our kernel at depths 1, 3 and 5", devices, calls)
		}
	}
}

// blockName is the name in our layout of a tensor in intermediate.safetensors.
func blockName(name string) string {
	if strings.HasPrefix(name, "transformer.") || name == "ln_final" {
		return "text." + name
	}
	return name
}

func TestBlocks(t *testing.T) {
	dirs := must[[]string](t)(filepath.Glob(models + "*/intermediate.safetensors"))
	backends(t, func(t *testing.T, d *device.Device) {
		for _, path := range dirs {
			dir := filepath.Dir(path)
			if d.Info().Kind != device.KindGo && filepath.Base(dir) != "eva02-b-tiny" {
				continue // TestForward has them all
			}
			t.Run(filepath.Base(dir), func(t *testing.T) {
				set := loadModel(t, d, dir, "fp32")
				r := must[*Runner](t)(NewRunner(d, set, RunnerOptions{Images: 1, Texts: 1}))
				in, want := openFile(t, filepath.Join(dir, "forward.safetensors")), openFile(t, path)
				size, context77 := set.Config.Vision.ImageSize, set.Config.Text.ContextLength
				ctx := context.Background()
				f, blocks, err := r.ImageBlocks(ctx, floats(t, in, "images")[:3*size*size], 1)
				if err != nil {
					t.Fatal(err)
				}
				_, more, err := r.TextBlocks(ctx, readTokens(t, in, "tokens")[:context77], 1)
				if err != nil {
					t.Fatal(err)
				}
				if e := diff(t, f, floats(t, in, "expected.image_features")[:set.Config.EmbedDim]); e > tolerance {
					t.Errorf("features beside the blocks differ by %.2g", e)
				}
				got := map[string]Block{}
				for _, b := range append(blocks, more...) {
					got[b.Name] = b
				}
				for _, info := range want.Tensors() {
					b, ok := got[blockName(info.Name)]
					if !ok || !slices.Equal(b.Shape, info.Shape) {
						t.Errorf("%s: captured %v %v, want %v", info.Name, ok, b.Shape, info.Shape)
						continue
					}
					if e := diff(t, b.Data, floats(t, want, info.Name)); e > tolerance {
						t.Errorf("%s differs by %.2g", info.Name, e)
					}
				}
			})
		}
	})
}

// The text feature is taken where transformers takes it: at the first token
// that the configuration calls the end, at the first token where there is none,
// and for the old value 2 at the largest id.
func TestEndOfText(t *testing.T) {
	dir := models + "hf-clip-tiny"
	var want struct {
		Tokens [][]int32
		Cases  []struct {
			EOS      int
			Features [][]float32
		}
	}
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(filepath.Join(dir, "eos.json"))), &want); err != nil {
		t.Fatal(err)
	}
	text := string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, "config.json"))))
	d := devicetest.Open(t, device.Options{Backend: "go", CompileCache: "off"})
	defer d.Close()
	for _, c := range want.Cases {
		cfg := must[*arch.Config](t)(arch.Parse([]byte(strings.Replace(text, `"vocab_size"`, fmt.Sprintf(`"eos_token_id": %d, "vocab_size"`, c.EOS), 1))))
		m := must[*checkpoint.Model](t)(checkpoint.OpenModel(context.Background(), archtest.Weights(dir), checkpoint.ModelOptions{Config: cfg}))
		defer m.Close()
		set := must[*weights.Set](t)(weights.Load(context.Background(), d, m.Config, m.Source, "fp32"))
		defer set.Free()
		r := must[*Runner](t)(NewRunner(d, set, RunnerOptions{Images: 1, Texts: len(want.Tokens)}))
		got := must[[]float32](t)(r.Texts(context.Background(), slices.Concat(want.Tokens...), len(want.Tokens)))
		if e := diff(t, got, slices.Concat(c.Features...)); e > tolerance {
			t.Errorf("eos_token_id %d: text features differ by %.2g", c.EOS, e)
		}
	}
}
