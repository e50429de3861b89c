package trainer

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/tensorfile"
)

const testdata = "../testdata"

var families = []string{"eva02-b-tiny", "eva01-tiny"}

// where lists the backends that must give the same numbers.
var where = []struct {
	name    string
	options device.Options
}{
	{"go", device.Options{Backend: "go"}},
	{"xla", device.Options{Backend: "xla", DeviceCount: 1, CompileCache: "off"}},
	{"xla4", device.Options{Backend: "xla", DeviceCount: 4, CompileCache: "off"}},
}

var (
	devicesMu sync.Mutex
	devices   = map[string]*device.Device{}
)

// onDevice opens a backend once for all tests; without a plugin the test is skipped.
func onDevice(t *testing.T, i int) *device.Device {
	t.Helper()
	devicesMu.Lock()
	defer devicesMu.Unlock()
	w := where[i]
	if d := devices[w.name]; d != nil {
		return d
	}
	d := devicetest.Open(t, w.options)
	devices[w.name] = d
	return d
}

// everywhere runs fn on the Go backend and on the XLA places named; with
// -evatool.full on all. Compiling for XLA takes seconds each time.
func everywhere(t *testing.T, xla string, fn func(t *testing.T, dev *device.Device)) {
	for i, w := range where {
		if i == 0 || *fullFlag || strings.Contains(" "+xla+" ", " "+w.name+" ") {
			t.Run(w.name, func(t *testing.T) { fn(t, onDevice(t, i)) })
		}
	}
}

func readJSON(t *testing.T, v any, path ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{testdata}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%v: %v", path, err)
	}
}

func openTensorFile(t *testing.T, path ...string) *tensorfile.File {
	t.Helper()
	f, err := tensorfile.OpenFile(filepath.Join(append([]string{testdata}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func floats(t *testing.T, f tensorfile.Source, name string) []float32 {
	t.Helper()
	v, err := tensorfile.Float32s(f, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// fixture is a reference training setup.
type fixture struct {
	family  string
	model   tensorfile.Source
	batches *replayed
	recipe  *Recipe
	cfg     *arch.Config
}

// newFixture is the recipe of the references: LAMB or AdamW, warm-up 2 of 20 steps.
func newFixture(t *testing.T, family string, change func(r *Recipe)) *fixture {
	t.Helper()
	var config map[string]any
	readJSON(t, &config, "models", family, "config.json")
	r := defaults()
	r.Model = config
	r.Data = []Source{{Tensors: "batches"}}
	r.Batch, r.Steps, r.WarmupSteps = 6, 20, 2
	r.LayerDecay = LayerDecay{Vision: 0.75, Text: 0.75}
	if change != nil {
		change(r)
	}
	if err := r.check("fixture"); err != nil {
		t.Fatal(err)
	}
	cfg, err := r.config()
	if err != nil {
		t.Fatal(err)
	}
	whole := *r
	whole.Batch = 6
	batches, err := openTensors(filepath.Join(testdata, "train", family, "batches.safetensors"), &whole, cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(testdata, "models", family)
	model, err := checkpoint.OpenModel(t.Context(), archtest.Weights(dir), checkpoint.ModelOptions{ConfigName: filepath.Join(dir, "config.json")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	return &fixture{family, model.Source, batches, r, cfg}
}

func (f *fixture) weights(p arch.Param) ([]float32, error) {
	return tensorfile.Float32s(f.model, p.Name)
}

// machine is ready at the initial weights.
func (f *fixture) machine(t *testing.T, dev *device.Device, replay bool) *machine {
	t.Helper()
	m, err := newMachine(dev, f.recipe, false, replay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	if err := m.start(f.weights); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) must(t *testing.T, b *hostBatch, s int64) []float32 {
	t.Helper()
	out, err := m.step(context.Background(), b, m.recipe.rates(s))
	if err != nil {
		t.Fatal(err)
	}
	v, err := out.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// value is a parameter as it is now.
func (m *machine) value(t *testing.T, name string) []float32 {
	t.Helper()
	for i, p := range m.params {
		if p.Name == name {
			v, err := m.state.params[i].Float32s()
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no parameter %s", name)
	return nil
}

func l2(v []float32) float64 {
	s := 0.0
	for _, x := range v {
		s += float64(x) * float64(x)
	}
	return math.Sqrt(s)
}

func l2diff(a, b []float32) float64 {
	d := make([]float32, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return l2(d)
}

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s: %.9g, want %.9g within %.2g", what, got, want, tol)
	}
}

// gradientsAt runs only forward and backward.
func (f *fixture) gradientsAt(t *testing.T, dev *device.Device, b *hostBatch, replay bool) (loss float64, grads map[string][]float32) {
	t.Helper()
	m := f.machine(t, dev, replay)
	x, err := m.inputs(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := fields(fieldImages, fieldTokens)
	if replay {
		in = append(in, fields(fieldKeep)...)
	}
	n := len(m.params)
	in = append(in, entry{fieldParams, n})
	p := m.program("gradients", in, layout{{fieldLoss, 1}, {fieldSums, n}}, nil, func(x *values[*Node]) *values[*Node] {
		x.scale = ScalarOne(x.tokens.Graph(), x.params[0].DType())
		x.loss, x.sums = m.lossAndGradients(x)
		return x
	})
	out, err := p.call(context.Background(), x)
	if err != nil {
		t.Fatal(err)
	}
	l, err := out.loss.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	grads = map[string][]float32{}
	for i, q := range m.params {
		if grads[q.Name], err = out.sums[i].Float32s(); err != nil {
			t.Fatal(err)
		}
	}
	return float64(l[0]), grads
}

// checkGradients compares norms of all and values of some, 1e-4 of the norm.
func checkGradients(t *testing.T, got map[string][]float32, norms map[string]float64, full *tensorfile.File) {
	t.Helper()
	if len(got) != len(norms) {
		t.Errorf("%d gradients, want %d", len(got), len(norms))
	}
	for name, want := range norms {
		near(t, "gradient norm of "+name, l2(got[name]), want, 1e-4*want+1e-9)
	}
	for _, ti := range full.Tensors() {
		if name, ok := strings.CutPrefix(ti.Name, "grad."); ok && got[name] != nil {
			want := floats(t, full, ti.Name)
			if d := l2diff(got[name], want); d > 1e-4*l2(want) {
				t.Errorf("gradient of %s is off by %.2g of its norm", name, d/l2(want))
			}
		}
	}
}

func TestFirstGradient(t *testing.T) {
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			var want struct {
				Loss  float64
				Norms map[string]float64 `json:"grad_l2"`
			}
			readJSON(t, &want, "train", family, "step0.json")
			everywhere(t, "", func(t *testing.T, dev *device.Device) {
				f := newFixture(t, family, nil)
				loss, grads := f.gradientsAt(t, dev, &f.batches.batches[0], false)
				near(t, "loss", loss, want.Loss, 1e-5)
				checkGradients(t, grads, want.Norms, openTensorFile(t, "train", family, "step0_grads.safetensors"))
			})
		})
	}
}

func TestPatchDropoutReplay(t *testing.T) {
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			var want struct {
				Prob  float64
				Batch int
				Kept  int
				Loss  float64
				Norms map[string]float64 `json:"grad_l2"`
			}
			readJSON(t, &want, "train", family, "patch_dropout.json")
			full := openTensorFile(t, "train", family, "patch_dropout.safetensors")
			everywhere(t, map[string]string{families[0]: "xla"}[family], func(t *testing.T, dev *device.Device) {
				f := newFixture(t, family, func(r *Recipe) { r.PatchDropout = want.Prob })
				keep, err := readInts(full, "patch_dropout", "keep_indices", 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				b := f.batches.batches[want.Batch]
				b.keep = keep
				loss, grads := f.gradientsAt(t, dev, &b, true)
				near(t, "loss", loss, want.Loss, 1e-5)
				checkGradients(t, grads, want.Norms, full)
			})
		})
	}
}

// steps is a reference run of five steps.
type referenceRun struct {
	Args struct {
		LR, VisualLR, TextLR  float64
		Beta1, Beta2, Eps, WD float64
		VisualLD              float64 `json:"visual_ld"`
		TextLD                float64 `json:"text_ld"`
		Warmup                int64
		Clip                  float64 `json:"grad_clip_norm"`
	}
	Total int64 `json:"total_steps"`
	Steps []struct {
		Loss     float64
		GradNorm float64 `json:"grad_norm_before_clip"`
	}
	Groups []struct {
		Tower   string
		WD      float64 `json:"weight_decay"`
		LRScale float64 `json:"lr_scale"`
		Params  []string
	} `json:"group_order"`
	Final struct{ L2 map[string]float64 }
}

func TestGroups(t *testing.T) {
	for _, family := range families {
		var want referenceRun
		readJSON(t, &want, "train", family, "lamb.json")
		f := newFixture(t, family, nil)
		params := f.cfg.Params()
		got := map[string]group{}
		for i, g := range groups(f.cfg, params, f.recipe) {
			got[params[i].Name] = g
		}
		n := 0
		for _, g := range want.Groups {
			for _, name := range g.Params {
				n++
				near(t, family+" "+name+" weight decay", got[name].wd, g.WD, 0)
				near(t, family+" "+name+" lr scale", got[name].scale, g.LRScale, 1e-12)
			}
		}
		if n != len(params) {
			t.Errorf("%s: %d parameters in groups, want %d", family, len(params), n)
		}
	}
}

func TestFiveSteps(t *testing.T) {
	for _, family := range families {
		for _, name := range []string{"lamb", "adamw"} {
			t.Run(family+"/"+name, func(t *testing.T) {
				var want referenceRun
				readJSON(t, &want, "train", family, name+".json")
				final := openTensorFile(t, "train", family, name+"_final.safetensors")
				everywhere(t, map[string]string{"eva02-b-tiny/lamb": "xla4"}[family+"/"+name], func(t *testing.T, dev *device.Device) {
					f := newFixture(t, family, func(r *Recipe) { r.Optimizer.Name = name })
					m := f.machine(t, dev, false)
					for s, w := range want.Steps {
						v := m.must(t, &f.batches.batches[s], int64(s))
						near(t, fmt.Sprintf("loss of step %d", s), float64(v[metricLoss]), w.Loss, 1e-4)
						near(t, fmt.Sprintf("gradient norm of step %d", s), float64(v[metricGradNorm]), w.GradNorm, 1e-4*w.GradNorm)
					}
					for _, ti := range final.Tensors() {
						end, start := floats(t, final, ti.Name), floats(t, f.model, ti.Name)
						if d, u := l2diff(m.value(t, ti.Name), end), l2diff(end, start); d > 0.02*u {
							t.Errorf("%s: off by %.2g of the update", ti.Name, d/u)
						}
					}
					for p, n := range want.Final.L2 {
						near(t, "norm of "+p, l2(m.value(t, p)), n, 1e-5*n)
					}
				})
			})
		}
	}
}

// TestAccumulation: the parts' gradients add up to the big batch's, so a step
// in parts leaves what a whole step leaves, and logit_scale's gradient counts once.
func TestAccumulation(t *testing.T) {
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			var want struct {
				Batch int
				Loss  float64            `json:"loss_big_batch"`
				Norms map[string]float64 `json:"big_batch_grad_l2"`
			}
			readJSON(t, &want, "train", family, "accumulation.json")
			full := openTensorFile(t, "train", family, "accumulation.safetensors")
			for i := range where[:2] { // six rows in three or two parts: one device
				t.Run(where[i].name, func(t *testing.T) {
					if i > 0 && !*fullFlag {
						t.Skip("only with -evatool.full")
					}
					dev := onDevice(t, i)
					for _, micro := range []int{2, 3} {
						// β1 = 0 and no clipping leave the gradient in the first moment.
						f := newFixture(t, family, func(r *Recipe) {
							r.MicroBatch = micro
							r.Optimizer = Optimizer{Name: "adamw", Betas: [2]float64{0, 0.98}, Eps: 1e-6}
						})
						m := f.machine(t, dev, false)
						v := m.must(t, &f.batches.batches[want.Batch], 0)
						near(t, "loss", float64(v[metricLoss]), want.Loss, 1e-5)
						grads := map[string][]float32{}
						for k, p := range m.params {
							g, err := m.state.m[k].Float32s()
							if err != nil {
								t.Fatal(err)
							}
							grads[p.Name] = g
						}
						checkGradients(t, grads, want.Norms, full)
					}
				})
			}
		})
	}
}

// TestAccumulationMore: with dropout, drop path and checkpointing, and with
// -evatool.full on four devices, a step in parts still equals the whole one.
func TestAccumulationMore(t *testing.T) {
	dev := onDevice(t, 0)
	if *fullFlag {
		dev = onDevice(t, 2)
	}
	run := func(micro int) (*machine, []float32) {
		f := newFixture(t, families[0], func(r *Recipe) {
			r.Batch, r.MicroBatch = 16, micro
			r.PatchDropout, r.DropPath, r.GradCheckpointing = 0.5, 0.2, micro > 0
		})
		var b hostBatch
		for _, x := range f.batches.batches[:3] {
			b.floats, b.tokens = append(b.floats, x.floats...), append(b.tokens, x.tokens...)
		}
		m := f.machine(t, dev, false)
		m.must(t, &b, 0)
		return m, m.must(t, &b, 1)
	}
	whole, a := run(0)
	parts, b := run(2)
	near(t, "loss", float64(b[metricLoss]), float64(a[metricLoss]), 1e-5)
	near(t, "gradient norm", float64(b[metricGradNorm]), float64(a[metricGradNorm]), 1e-4*float64(a[metricGradNorm]))
	for _, p := range whole.params {
		w := whole.value(t, p.Name)
		if d := l2diff(parts.value(t, p.Name), w); d > 1e-4*l2(w)+1e-7 {
			t.Errorf("%s: off by %.2g", p.Name, d/l2(w))
		}
	}
}

func TestClamp(t *testing.T) {
	for _, family := range families {
		var want struct {
			Cases []struct {
				Which, Optimizer string
				ScheduleStep     int64    `json:"schedule_step"`
				Images           [][2]int `json:"image_index"`
				Texts            [][2]int `json:"text_index"`
				Init             float32  `json:"logit_scale_init"`
				Loss             float64
				After            float64 `json:"logit_scale_after_clamp"`
			}
		}
		readJSON(t, &want, "train", family, "clamp.json")
		for _, c := range want.Cases {
			t.Run(family+"/"+c.Which+"/"+c.Optimizer, func(t *testing.T) {
				dev := onDevice(t, 0)
				f := newFixture(t, family, func(r *Recipe) { r.Optimizer.Name, r.Batch = c.Optimizer, len(c.Images) })
				var b hostBatch
				for i := range c.Images {
					im, tx := f.batches.batches[c.Images[i][0]], f.batches.batches[c.Texts[i][0]]
					b.floats = append(b.floats, share(im.floats, c.Images[i][1], 6)...)
					b.tokens = append(b.tokens, share(tx.tokens, c.Texts[i][1], 6)...)
				}
				m, err := newMachine(dev, f.recipe, false, false)
				if err != nil {
					t.Fatal(err)
				}
				err = m.start(func(p arch.Param) ([]float32, error) {
					if p.Name == "logit_scale" {
						return []float32{c.Init}, nil
					}
					return f.weights(p)
				})
				if err != nil {
					t.Fatal(err)
				}
				v := m.must(t, &b, c.ScheduleStep)
				near(t, "loss", float64(v[metricLoss]), c.Loss, 1e-5)
				near(t, "logit_scale", float64(m.value(t, "logit_scale")[0]), c.After, 0)
			})
		}
	}
}

func TestClipping(t *testing.T) {
	for _, family := range families {
		var want struct {
			Cases []struct {
				Optimizer    string
				Multiplier   float64  `json:"loss_multiplier"`
				Clip         *float64 `json:"grad_clip_norm"`
				ScheduleStep int64    `json:"schedule_step"`
				Batch        int
				GradNorm     float64            `json:"grad_norm"`
				Updates      map[string]float64 `json:"update_l2"`
			}
		}
		readJSON(t, &want, "train", family, "clip_cases.json")
		dev := onDevice(t, 0)
		for i, c := range want.Cases {
			t.Run(fmt.Sprintf("%s/%s/%d", family, c.Optimizer, i), func(t *testing.T) {
				f := newFixture(t, family, func(r *Recipe) {
					r.Optimizer.Name, r.Optimizer.ClipGradNorm = c.Optimizer, 0
					if c.Clip != nil {
						r.Optimizer.ClipGradNorm = *c.Clip
					}
				})
				m := f.machine(t, dev, false)
				// In fp32 the loss scale is a plain factor on the loss.
				scale, err := dev.Put(device.Replicated, tensors.FromScalar(float32(c.Multiplier)))
				if err != nil {
					t.Fatal(err)
				}
				m.state.scale = scale
				v := m.must(t, &f.batches.batches[c.Batch], c.ScheduleStep)
				near(t, "gradient norm", float64(v[metricGradNorm]), c.GradNorm, 1e-4*c.GradNorm)
				for name, u := range c.Updates {
					near(t, "update of "+name, l2diff(m.value(t, name), floats(t, f.model, name)), u, 0.02*u+1e-9)
				}
			})
		}
	}
}

// TestProductsOfDepth: every further block of a tower adds the same number of matrix
// products to a backward pass, and recomputing adds at most a forward pass. On a
// GPU nothing removes what a graph computes twice behind a barrier.
func TestProductsOfDepth(t *testing.T) {
	dev := devicetest.Open(t, device.Options{Backend: "go"})
	defer dev.Close()
	products := func(layers int, sets ...string) (n int) {
		r, err := LoadRecipe("emoji-lamb", append([]string{"batch=8", "micro_batch=4", "drop_path=0.1",
			fmt.Sprint("model.vision_cfg.layers=", layers), fmt.Sprint("model.text_cfg.layers=", layers)}, sets...)...)
		if err != nil {
			t.Fatal(err)
		}
		m, err := newMachine(dev, r, true, false)
		if err != nil {
			t.Fatal(err)
		}
		back := m.cached.back
		m.memory(t, m.program("counted", back.in, back.out, nil, func(x *values[*Node]) *values[*Node] {
			x = m.cached.backGraph(x)
			for _, node := range x.sums[0].Graph().Nodes() {
				if node.Type() == NodeTypeDotGeneral {
					n++
				}
			}
			return x
		}))
		return n
	}
	plain := products(4, "accumulation=recompute", "grad_checkpointing=false")
	for _, sets := range [][]string{
		{"accumulation=recompute", "grad_checkpointing=false"},
		{"accumulation=recompute", "grad_checkpointing=true"},
		{"accumulation=residuals", "grad_checkpointing=true"},
	} {
		two, three, four := products(2, sets...), products(3, sets...), products(4, sets...)
		if three == two || four-three != three-two {
			t.Errorf("%s: %d, %d and %d products with two, three and four blocks", sets, two, three, four)
		}
		if 3*four > 4*plain {
			t.Errorf("%s: %d products, %d without recomputing", sets, four, plain)
		}
	}
}

// TestResiduals: a step in parts that keeps residuals gives the same result as one with
// a second forward pass, including draws of patches and branches.
func TestResiduals(t *testing.T) {
	for _, family := range families {
		everywhere(t, "", func(t *testing.T, dev *device.Device) {
			run := func(accumulation string) (*machine, []float32) {
				f := newFixture(t, family, func(r *Recipe) {
					r.Batch, r.MicroBatch, r.Accumulation = 16, 2, accumulation
					r.PatchDropout, r.DropPath, r.GradCheckpointing = 0.5, 0.2, true
				})
				var b hostBatch
				for _, x := range f.batches.batches[:3] {
					b.floats, b.tokens = append(b.floats, x.floats...), append(b.tokens, x.tokens...)
				}
				m := f.machine(t, dev, false)
				if m.plan.residuals != (accumulation == accumulateResiduals) {
					t.Fatalf("accumulation %s: residuals %v", accumulation, m.plan.residuals)
				}
				m.must(t, &b, 0)
				return m, m.must(t, &b, 1)
			}
			again, a := run(accumulateAgain)
			kept, b := run(accumulateResiduals)
			near(t, "loss", float64(b[metricLoss]), float64(a[metricLoss]), 1e-6*float64(a[metricLoss]))
			near(t, "gradient norm", float64(b[metricGradNorm]), float64(a[metricGradNorm]), 1e-5*float64(a[metricGradNorm]))
			for _, p := range again.params {
				w := again.value(t, p.Name)
				if d := l2diff(kept.value(t, p.Name), w); d > 1e-5*l2(w)+1e-7 {
					t.Errorf("%s: off by %.2g", p.Name, d/l2(w))
				}
			}
		})
	}
}
