package trainer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/runlog"
)

// form is array i of a field of the machine's programs.
func (m *machine) form(t *testing.T, f field, i int) device.Form {
	t.Helper()
	rows, width, size := m.rows/m.micros, m.cfg.EmbedDim, m.recipe.Image.Size
	dtype, dims := dtypes.Float32, []int{}
	switch f {
	case fieldParams, fieldM, fieldV, fieldRNG, fieldScale, fieldCounts:
		s := m.slot(f, i)
		dtype, dims = s.dtype, s.dims
	case fieldSums:
		dims = m.slot(fieldParams, i).dims
	case fieldFrozen:
		dims = intDims(m.frozen[i].Shape)
	case fieldImages:
		dtype, dims = dtypes.Uint8, []int{rows, size, size, 3}
	case fieldTokens:
		dtype, dims = dtypes.Int32, []int{rows, m.cfg.Text.ContextLength}
	case fieldKeep:
		dtype, dims = dtypes.Int32, []int{rows, m.kept()}
	case fieldPath:
		dims = []int{2 * m.cfg.Layers(arch.VisualTower), rows}
	case fieldRates:
		dims = []int{3}
	case fieldImgs, fieldTxts, fieldImg, fieldTxt, fieldDImg, fieldDTxt:
		dims = []int{rows, width}
	case fieldImgSums, fieldTxtSums:
		dims = []int{rows, 2}
	case fieldAllImg, fieldAllTxt:
		dims = []int{m.rows, width}
	case fieldAllImgSums, fieldAllTxtSums:
		dims = []int{m.rows, 2}
	case fieldResiduals:
		dtype = m.compute
		if n := m.cfg.Layers(arch.TextTower); i < n {
			dims = []int{rows, m.cfg.Text.ContextLength, m.cfg.Text.Width}
		} else {
			dims = []int{rows, 1 + m.kept(), m.cfg.Vision.Width}
		}
	case fieldLoss, fieldDLogitScale, fieldLogitScale:
	default:
		t.Fatalf("field %d has no form here", f)
	}
	s := device.Form{Sharding: m.cut(f, i)}
	s.Shape.DType, s.Shape.Dimensions = dtype, dims
	return s
}

// memory is what a program takes on each device according to the compiler.
func (m *machine) memory(t *testing.T, p *program) device.MemoryUse {
	t.Helper()
	var list []device.Form
	var at [numFields]int
	for _, e := range p.in {
		for range e.n {
			list = append(list, m.form(t, e.field, at[e.field]))
			at[e.field]++
		}
	}
	use, err := p.Plan(list...)
	if err != nil {
		t.Fatal(err)
	}
	return use
}

// TestBlockLossMemory: the loss of the paper's batch takes at most half a gigabyte of
// temporary memory on each of eight devices, with a processor's tiles and a GPU's.
func TestBlockLossMemory(t *testing.T) {
	dev := devicetest.Open(t, device.Options{Backend: "xla", DeviceCount: 8, CompileCache: "off"})
	defer dev.Close()
	for _, width := range []int{512, 1024} {
		for _, kind := range []string{device.KindCPU, device.KindCUDA} {
			t.Run(fmt.Sprintf("%d/%s", width, kind), func(t *testing.T) {
				if width == 512 && !*fullFlag {
					t.Skip("the wider one is the harder; -evatool.full does both")
				}
				m := tinyMachine(t, dev, width, "batch=131072", "micro_batch=2048")
				m.cached.blocks.tile = lossTile(kind, m.recipe.Batch)
				for name, p := range map[string]*program{"sums": m.cached.sums, "loss": m.cached.loss} {
					use := m.memory(t, p)
					t.Logf("%s: %d MB temporary, %d MB in, %d MB out", name, use.Temporary/1e6, use.Inputs/1e6, use.Outputs/1e6)
					if use.Temporary > 500e6 || use.Temporary < 1e6 {
						t.Errorf("%s: %d MB temporary, want at most 500", name, use.Temporary/1e6)
					}
				}
			})
		}
	}
}

// TestPlanMemory: what the dry run says a device needs is within 15 % of what the
// compiler plans for the programs of a step: with checkpointing and without, whole
// and in parts, whose blocks' inputs are kept or not, narrow models and wide ones.
func TestPlanMemory(t *testing.T) {
	parts := func(sets ...string) []string { return append([]string{"batch=512", "micro_batch=128"}, sets...) }
	const checkpointing, again, kept = "grad_checkpointing=true", "accumulation=recompute", "accumulation=residuals"
	narrow := []string{"batch=512", "model.vision_cfg.width=32", "model.vision_cfg.head_width=16", "model.text_cfg.width=32", "model.text_cfg.heads=2"}
	deep := []string{"batch=256", "patch_dropout=0", "model.vision_cfg.layers=12"}
	// Two blocks a tower as wide as EVA02-CLIP-B-16's.
	wide := []string{"batch=32", "patch_dropout=0", "image.size=224", "model.embed_dim=512", "model.vision_cfg.image_size=224", "model.vision_cfg.patch_size=16",
		"model.vision_cfg.width=768", "model.vision_cfg.layers=2", "model.vision_cfg.head_width=64", "model.text_cfg.width=512", "model.text_cfg.heads=8", "model.text_cfg.context_length=77"}
	for i, c := range []struct {
		recipe  string
		devices int
		sets    []string
	}{
		{"emoji-lamb", 1, parts(checkpointing, kept)},
		{"emoji-lamb", 1, nil},
		{"emoji-lamb", 1, []string{"batch=512"}},
		{"emoji-lamb", 1, []string{"batch=512", checkpointing}},
		{"emoji-lamb", 2, []string{"batch=512", "zero_stage=1"}},
		{"emoji-lamb", 1, parts(again)},
		{"emoji-lamb", 1, parts(checkpointing, again)},
		{"emoji-lamb", 1, parts(kept)},
		{"emoji-lamb", 2, []string{"batch=1024", "micro_batch=128", checkpointing, kept}},
		{"emoji-lamb", 1, narrow},
		{"emoji-lamb", 1, append(narrow, checkpointing)},
		{"emoji-lamb", 1, deep},
		{"emoji-lamb", 1, append(deep, checkpointing)},
		{"emoji-lamb", 1, wide},
		{"emoji-lamb", 1, append(wide, checkpointing)},
		{"EVA02-CLIP-B-16", 1, []string{"batch=16", "micro_batch=0", "precision=fp32", "grad_checkpointing=false"}},
		{"EVA02-CLIP-B-16", 1, []string{"batch=32", "micro_batch=0", "precision=fp32"}},
		{"EVA02-CLIP-B-16", 1, []string{"batch=64", "micro_batch=16", "precision=fp32", kept}},
	} {
		t.Run(fmt.Sprint(i, c.recipe, c.devices, c.sets), func(t *testing.T) {
			if i > 0 && !*fullFlag {
				t.Skip("takes long to compile; -evatool.full runs it")
			}
			dev := devicetest.Open(t, device.Options{Backend: "xla", DeviceCount: c.devices, CompileCache: "off"})
			defer dev.Close()
			r, err := LoadRecipe(c.recipe, c.sets...)
			if err != nil {
				t.Fatal(err)
			}
			p, err := r.plan(c.devices, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			m, err := newMachine(dev, r, true, false)
			if err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			if m.whole != nil {
				want = m.memory(t, m.whole).Peak()
			} else {
				// Moments are there all the time, and so are the other parts' residuals;
				// the optimizer takes the moments in.
				others := int64(stateBytes(m.cfg, r, c.devices)) - 4*p.Params
				if m.plan.residuals {
					others += int64(residualBytes(m.cfg, r, c.devices)) * int64(p.Parts-1) / int64(p.Parts)
				}
				want = max(m.memory(t, m.cached.back).Peak()+others, m.memory(t, m.cached.apply).Peak())
			}
			off := float64(p.BytesDevice)/float64(want) - 1
			t.Logf("%.1f MB, the compiler plans %.1f MB: %+.1f %%", float64(p.BytesDevice)/1e6, float64(want)/1e6, 100*off)
			if math.Abs(off) > 0.15 {
				t.Errorf("off by %.0f %%", 100*off)
			}
		})
	}
}

// TestAccumulationChosen: with auto, parts keep their residuals if the device has room
// for them and a margin; a recipe that says what to do, or a checkpoint that says
// what was done, takes precedence.
func TestAccumulationChosen(t *testing.T) {
	r := tinyTraining(t, 32, "batch=64", "micro_batch=8", "grad_checkpointing=true")
	cfg, err := r.config()
	if err != nil {
		t.Fatal(err)
	}
	kept := r.deviceBytes(cfg, 1, 8, stepPlan{blocks: true, residuals: true})
	again := r.deviceBytes(cfg, 1, 8, stepPlan{blocks: true})
	// 64 pairs, one block a tower: 16 tokens and 17, of width 32.
	if want := 64.0 * (16 + 17) * 32 * 4; kept.residuals != want || again.residuals != 0 {
		t.Errorf("residuals of %v and %v bytes, want %v and 0", kept.residuals, again.residuals, want)
	}
	limit := kept.total * deviceMargin
	for _, c := range []struct {
		accumulation string
		room         float64
		want         string
	}{
		{"", limit, accumulateResiduals}, {"", limit - 1, accumulateAgain}, {"", 0, accumulateAgain}, {"", muchMemory, accumulateResiduals},
		{accumulateResiduals, 1, accumulateResiduals}, {accumulateAgain, muchMemory, accumulateAgain},
	} {
		o := *r
		o.Accumulation = c.accumulation
		p := o.planStep(cfg, "", 1, 8, c.room)
		if p.accumulation() != c.want {
			t.Errorf("accumulation %q, %.0f bytes of %.0f: %s", c.accumulation, c.room, limit, p.accumulation())
		}
		var log bytes.Buffer
		p.log(slog.New(slog.NewTextHandler(&log, nil)), o.Batch, tile{1, 1})
		says := "accumulation=" + c.want
		switch {
		case c.accumulation != "":
			says += ` why="set by accumulation"`
		case c.room == 0:
			says += ` why="the device's memory is not known"`
		default:
			says += fmt.Sprintf(` why="with residuals of %.3g GB a device needs %.3g GB`, kept.residuals/1e9, kept.total/1e9)
		}
		if !strings.Contains(log.String(), says) {
			t.Errorf("%q says not %s", log.String(), says)
		}
	}
	for parts, want := range map[string]string{"": accumulateAgain, accumulateResiduals: accumulateResiduals, accumulateAgain: accumulateAgain} {
		if got := r.goOn(&savedState{Parts: parts}).Accumulation; got != want {
			t.Errorf("after %q: %q", parts, got)
		}
	}
	if p := tinyTraining(t, 32, "batch=64", "micro_batch=8").planStep(cfg, "", 1, 8, muchMemory); p.residuals || !strings.Contains(p.why, "without grad_checkpointing") {
		t.Errorf("without checkpointing: %+v", p)
	}
	if r.goOn(nil) != r {
		t.Error("a run that begins is told what to do")
	}
	p, err := DryRun(r, DryRunOptions{Memory: int64(limit) + 1})
	if err != nil || p.Accumulation != accumulateResiduals || p.BytesResiduals != int64(kept.residuals) {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = DryRun(r, DryRunOptions{Memory: int64(limit) - 1}); err != nil || p.Accumulation != accumulateAgain || p.BytesResiduals != 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestLargeBatch takes two steps of the paper's own batch with a tiny model on one
// CPU device, in a process of its own: it takes at most 2.5 GB, pictures included.
func TestLargeBatch(t *testing.T) {
	const batch, most = 131072, 2.5e9
	if dir := os.Getenv("EVATOOL_TEST_LARGE"); dir != "" {
		r := tinyTraining(t, 32, "batch="+strconv.Itoa(batch), "micro_batch=512", "data.0.source="+filepath.Join(dir, "x.tar"))
		mustRun(t, r, Options{Out: filepath.Join(dir, "run"), Backend: "xla", DeviceCount: 1})
		if peak := runlog.PeakRSS(); peak > most {
			t.Errorf("%d MB at most, want %d", peak/1e6, int(most/1e6))
		} else {
			t.Logf("%d MB at most", peak/1e6)
		}
		return
	}
	if !*fullFlag {
		t.Skip("takes some minutes; -evatool.full runs it")
	}
	onDevice(t, 1)
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "x.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var picture bytes.Buffer
	if err := jpeg.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 32, 32)), nil); err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for i := range batch {
		for ext, data := range map[string][]byte{"jpg": picture.Bytes(), "txt": fmt.Appendf(nil, "number %d", i)} {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%06d.%s", i, ext), Mode: 0o644, Size: int64(len(data))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLargeBatch$", "-test.v", "-test.timeout=1h")
	cmd.Env = append(os.Environ(), "EVATOOL_TEST_LARGE="+dir, "XLA_FLAGS=--xla_backend_optimization_level=3")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// TestCacheOfPictures: the first pictures show whether a set will fit into the memory
// for pictures.
func TestCacheOfPictures(t *testing.T) {
	for _, n := range []int64{1000, 1e6} {
		p := &pairs{room: cacheBytes, pools: []pool{{n: n}}, cached: map[[2]int64]*img.RGB{}}
		kept := 0
		for range n {
			if !p.reserve(3 * 64 * 64) {
				break
			}
			kept++
		}
		if want := min(n, cacheSample-1); n*3*64*64 <= cacheBytes && int64(kept) != n || n*3*64*64 > cacheBytes && int64(kept) != want {
			t.Errorf("%d of %d pictures kept", kept, n)
		}
	}
}

// TestAhead: two batches are ready while one is in use, or one if they are large.
func TestAhead(t *testing.T) {
	r := tinyTraining(t, 32)
	cfg, err := r.config()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := r.ahead(cfg, 64), r.ahead(cfg, 131072); a != 2 || b != 1 {
		t.Errorf("%d and %d", a, b)
	}
}

// tinyMachine is one of a small model with features of some width.
func tinyMachine(t *testing.T, dev *device.Device, width int, sets ...string) *machine {
	t.Helper()
	m, err := newMachine(dev, tinyTraining(t, width, sets...), true, false)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tinyTraining(t *testing.T, width int, sets ...string) *Recipe {
	t.Helper()
	text := fmt.Sprintf(`
model:
  embed_dim: %d
  vision_cfg: {image_size: 32, patch_size: 8, layers: 1, width: 32, head_width: 16, mlp_ratio: 2.6875, eva_model_name: eva-clip-tiny, rope: true, pt_hw_seq_len: 16, intp_freq: true, naiveswiglu: true, subln: true}
  text_cfg: {context_length: 16, vocab_size: 49408, width: 32, heads: 2, layers: 1}
data: [{source: x.tar}]
batch: 64
steps: 2
warmup_steps: 0
`, width)
	r, err := ParseRecipe("tiny", []byte(text), sets...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestLossForm: which batches have their loss in tiles, and what the log says.
func TestLossForm(t *testing.T) {
	for _, c := range []struct {
		kind           string
		devices, batch int
		blocks         bool
	}{
		{device.KindCPU, 1, 1024, false}, {device.KindCPU, 1, 2048, true}, {device.KindCPU, 2, 2048, false}, {device.KindCPU, 2, 16384, true},
		{device.KindGo, 1, 8192, false}, {device.KindCUDA, 1, 8192, false}, {device.KindCUDA, 1, 8320, true}, {"", 1, 8192, false},
	} {
		r := tinyTraining(t, 32, fmt.Sprintf("batch=%d", c.batch))
		cfg, err := r.config()
		if err != nil {
			t.Fatal(err)
		}
		p := r.planStep(cfg, c.kind, c.devices, 1, 0)
		if p.blocks != c.blocks {
			t.Errorf("%+v: in tiles %v", c, p.blocks)
		}
		var log bytes.Buffer
		p.log(slog.New(slog.NewTextHandler(&log, nil)), c.batch, tile{512, 1024})
		if says := map[bool]string{false: `loss="one matrix"`, true: `loss="blocks of 512 × 1024 logits"`}[c.blocks]; !strings.Contains(log.String(), says) {
			t.Errorf("%+v: %s", c, log.String())
		}
	}
}

// TestCards: peaks are those of dense products: on tensor cores TF32's is half of half
// precision's, and no card has a figure with sparsity.
func TestCards(t *testing.T) {
	for name, want := range map[string]float64{"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L4": 121e12, "L40S": 362e12} {
		c, err := (&DryRunOptions{Card: name}).card()
		if err != nil {
			t.Fatal(err)
		}
		near(t, name, c.peak("bf16"), want, 1e-3*want)
		near(t, name+" in float32", c.peak("fp32"), want/2, 0.03*want/2)
	}
	if len(cards) != 6 {
		t.Errorf("%d cards, 6 are checked", len(cards))
	}
}

// TestDryRunDevice: memory, micro_batch and card of a dry run.
func TestDryRunDevice(t *testing.T) {
	r := tinyTraining(t, 32, "batch=4096")
	whole, err := DryRun(r, DryRunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if whole.Fits != nil || whole.BytesHost != 3*4096*(3*32*32+4*16) {
		t.Errorf("%+v", whole)
	}
	fits, err := DryRun(r, DryRunOptions{Memory: whole.BytesDevice})
	if err != nil || !*fits.Fits || !strings.Contains(fits.String(), "fits ") {
		t.Errorf("%+v, %v", fits, err)
	}
	half, err := DryRun(r, DryRunOptions{Memory: whole.BytesDevice / 2})
	if err != nil || *half.Fits || half.MicroBatchFits == 0 || !strings.Contains(half.String(), fmt.Sprintf("micro_batch: %d would", half.MicroBatchFits)) {
		t.Fatalf("%+v, %v", half, err)
	}
	for micro, want := range map[int]bool{half.MicroBatchFits: true, 2 * half.MicroBatchFits: false} {
		p, err := DryRun(tinyTraining(t, 32, "batch=4096", fmt.Sprintf("micro_batch=%d", micro)), DryRunOptions{Memory: whole.BytesDevice / 2})
		if err != nil || *p.Fits != want {
			t.Errorf("micro_batch %d: %+v, %v", micro, p, err)
		}
	}
	none, err := DryRun(r, DryRunOptions{Memory: 1 << 20})
	if err != nil || none.MicroBatchFits != 0 || !strings.Contains(none.String(), "with any micro_batch") {
		t.Errorf("%+v, %v", none, err)
	}
	// 8·10⁹ samples of 70.8 GFLOP at 0.4 · 312 TFLOP/s on each of 64 cards.
	b16, err := LoadRecipe("EVA02-CLIP-B-16")
	if err != nil {
		t.Fatal(err)
	}
	p, err := DryRun(b16, DryRunOptions{DeviceCount: 64, Card: "a100", MFU: 0.4})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "hours", p.Hours, float64(p.Samples)*p.GFLOPsPerSample*1e9/(64*0.4*312e12)/3600, 1e-6)
	near(t, "MFU", p.MFU, 0.4, 1e-9)
	back, err := DryRun(b16, DryRunOptions{DeviceCount: 64, Card: "A100", Rate: p.Rate})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "MFU of that rate", back.MFU, 0.4, 1e-9)
	for _, o := range []DryRunOptions{{Card: "A1"}, {MFU: 1.1}, {MFU: -1}, {MFU: math.NaN()}, {MFU: 0.4, Rate: 1}, {Memory: -1}} {
		if _, err := DryRun(r, o); err == nil {
			t.Errorf("%+v: taken", o)
		}
	}
}
