package trainer

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// sampleBytes is the assumed size of a sample of a stream: a JPEG of 256 to 512
// pixels.
const sampleBytes = 50_000

// lanesBytes is what the lanes of so many rows of the batch hold in the host's
// memory, and how many streams they read.
func (r *Recipe) lanesBytes(rows int) (bytes float64, streams int) {
	for _, s := range r.Data {
		if s.Read == readStream {
			streams++
		}
	}
	return float64(r.Lanes) * float64(rows) / float64(r.Batch) * float64(streams) * float64(dataset.LaneBytes(sampleBytes)), streams
}

// fitsHost refuses a batch whose pictures, or lanes whose samples, do not fit into
// the host's memory: the run would crash.
func fitsHost(r *Recipe, cfg *arch.Config, rows rowRange) error {
	share := rows.to - rows.from
	need, batches := r.hostBytes(cfg, share), r.ahead(cfg, share)+1
	have := hostMemory()
	if lanes, streams := r.lanesBytes(share); need+lanes > have && lanes > 0 {
		return fault.Envf("batch %d, lanes %d: %d batches of pictures take %.3g GB of the host's memory and the lanes' samples of %d streams %.3g GB, but it has %.3g GB; choose a smaller batch or fewer lanes",
			r.Batch, r.Lanes, batches, need/1e9, streams, lanes/1e9, have/1e9)
	}
	if need > have {
		return fault.Envf("batch %d: %d batches of pictures take %.3g GB of the host's memory, but it has %.3g GB; choose a smaller batch", r.Batch, batches, need/1e9, have/1e9)
	}
	return nil
}

// hostBytes is the host memory for batches of so many rows: the one in use and
// those made ahead.
func (r *Recipe) hostBytes(cfg *arch.Config, rows int) float64 {
	return float64(r.ahead(cfg, rows)+1) * float64(rows) * r.rowBytes(cfg)
}

// hostMemory is the host's memory in bytes, or what a container may use of it; a
// large number if unknown.
func hostMemory() float64 { return min(memoryInfo("MemTotal"), containerMemory()) }

// freeMemory is how much of it is still available.
func freeMemory() float64 { return min(memoryInfo("MemAvailable"), containerMemory()) }

const muchMemory = 1 << 40

// memoryInfo is a line of Linux's /proc/meminfo.
func memoryInfo(name string) float64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			var kb float64
			if _, err := fmt.Sscanf(line, name+": %f", &kb); err == nil {
				return kb * 1024
			}
		}
	}
	return muchMemory
}

// containerMemory is a container's limit, by either version of Linux's control groups.
func containerMemory() float64 {
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if text, err := os.ReadFile(path); err == nil {
			if most, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64); err == nil {
				return most
			}
		}
	}
	return muchMemory
}

// matrixLossMost is how many bytes of a device the loss may take as one matrix of
// logits. On one CPU device tiles, which fit into the caches, are faster from about
// 2,000 rows on (BenchmarkLossForms). On several devices they split the step into
// programs, with a second forward pass, and on a GPU neither was measured: there the
// matrix is used as long as it is small.
func matrixLossMost(kind string, devices int) float64 {
	if kind == device.KindCPU && devices == 1 {
		return 32 << 20
	}
	return 1 << 30
}

// matrixLossBytes is what contrastive and its gradient take on each device: the
// logits and their softmax, both ways.
func matrixLossBytes(batch, devices int) float64 {
	return 4 * 4 * float64(batch) * float64(batch) / float64(devices)
}

// lossTile is the part of the matrix of logits that a device of this kind computes
// at a time: it fits a processor's caches, and keeps a GPU busy. The Go backend
// unrolls the tiles into its graph, so they are large there.
func lossTile(kind string, batch int) tile {
	switch kind {
	case device.KindCPU:
		return tile{512, 1024}
	case device.KindGo:
		const most = 256 << 20
		return tile{max(1, most/(3*4*batch)), batch}
	}
	return tile{4096, 4096}
}

// bytes is the memory of a tile: its logits, their weights and one intermediate.
func (t tile) bytes(batch, share int) float64 {
	return 3 * 4 * float64(min(t.rows, share)) * float64(min(t.columns, batch))
}

// blockLossBytes is what blockLoss takes on each device, including the features of
// the whole batch and their sums.
func blockLossBytes(cfg *arch.Config, batch, devices int, t tile) float64 {
	share := (batch + devices - 1) / devices
	width := float64(cfg.EmbedDim)
	return t.bytes(batch, share) + 2*4*float64(batch)*(width+2) + 2*4*float64(share)*(2*width+2)
}

// residualBytes is what a device keeps for its share of the batch between the
// forward and the backward passes of its parts: the input of every block.
func residualBytes(cfg *arch.Config, r *Recipe, devices int) float64 {
	share := float64((r.Batch + devices - 1) / devices)
	row := float64(cfg.Text.ContextLength) * float64(cfg.Text.Width) * float64(cfg.Layers(arch.TextTower))
	if cfg.IsResNet() {
		side := cfg.Vision.ImageSize / 4 // after the stem
		for _, b := range cfg.Bottlenecks() {
			row += float64(side * side * b.Convs[0].In)
			side /= b.Stride
		}
	} else {
		row += float64(1+r.kept(cfg)) * float64(cfg.Vision.Width) * float64(cfg.Layers(arch.VisualTower))
	}
	return share * row * computeBytes(r)
}

// computeBytes is the size of an activation.
func computeBytes(r *Recipe) float64 {
	if r.Precision == "fp32" {
		return 4
	}
	return 2
}

// stateBytes is what a device holds from step to step: parameters, BatchNorm
// statistics, and its share of the moments.
func stateBytes(cfg *arch.Config, r *Recipe, devices int) float64 {
	sum := 0.0
	for _, p := range cfg.Params() {
		n := 1.0
		for _, d := range p.Shape {
			n *= float64(d)
		}
		sum += 4 * n
		if p.Buffer {
			continue
		}
		moment := n
		for _, d := range p.Shape { // as slot does
			if r.ZeroStage > 0 && d%int64(devices) == 0 {
				moment = n / float64(devices)
				break
			}
		}
		sum += 2 * 4 * moment
	}
	return sum
}

// stepPlan is how a step is computed.
type stepPlan struct {
	whole     bool   // as one program
	blocks    bool   // the loss in tiles, not as one matrix
	residuals bool   // parts keep what their backward passes need
	why       string // residuals or not
}

// planStep chooses by the bytes that the loss takes on a device. Parts with
// checkpointing keep their residuals if these and the rest of the step (deviceBytes),
// times deviceMargin, fit into room bytes. room is 0 and kind, the backend's, is
// empty if unknown.
func (r *Recipe) planStep(cfg *arch.Config, kind string, devices, parts int, room float64) (p stepPlan) {
	p.blocks = parts > 1 || matrixLossBytes(r.Batch, devices) > matrixLossMost(kind, devices)
	p.whole = parts == 1 && (!p.blocks || devices == 1)
	if !p.whole {
		p.settle(r, cfg, devices, parts, room)
	}
	return p
}

// settle decides what parts do.
func (p *stepPlan) settle(r *Recipe, cfg *arch.Config, devices, parts int, room float64) {
	if r.Accumulation != "" {
		p.residuals, p.why = r.Accumulation == accumulateResiduals, "set by accumulation"
		return
	}
	if !r.GradCheckpointing {
		p.why = "without grad_checkpointing a block runs as often either way"
		return
	}
	p.residuals = true
	need := r.deviceBytes(cfg, devices, parts, *p)
	p.residuals = need.total*deviceMargin <= room
	p.why = fmt.Sprintf("with residuals of %.3g GB a device needs %.3g GB, with %.0f %% to spare %.3g GB, and has %.3g GB",
		need.residuals/1e9, need.total/1e9, 100*(deviceMargin-1), need.total*deviceMargin/1e9, room/1e9)
	if room == 0 {
		p.why = "the device's memory is not known"
	}
}

// deviceMargin is the factor by which the count of bytes may be too low.
const deviceMargin = 1.15

// counted is the recipe for counting bytes on this device, which may compute in
// float32 where the recipe asks for half precision.
func (m *machine) counted() *Recipe {
	r := *m.recipe
	if m.compute == dtypes.Float32 {
		r.Precision = "fp32"
	}
	return &r
}

// room is how many bytes the step may take on a device; 0 if unknown. CPU devices
// have what batches and lanes leave of the host's free memory, or in a job, whose
// processes must all get the same answer and may share a host, of their share of
// its whole memory.
func (m *machine) room(rows, processes int) float64 {
	if m.dev.Info().Kind == device.KindCUDA {
		return float64(m.dev.MemoryLimit())
	}
	have := freeMemory()
	if processes > 1 {
		have = hostMemory() / float64(processes)
	}
	lanes, _ := m.recipe.lanesBytes(rows)
	return max(0, have-m.recipe.hostBytes(m.cfg, rows)-lanes) / float64(m.dev.N())
}

// deviceBytes is what a step takes on a device.
type deviceBytes struct{ state, activations, loss, residuals, total float64 }

// deviceBytes counts what a step of this kind takes on each device. Gradients grow
// while activations shrink, so the larger of the two counts.
func (r *Recipe) deviceBytes(cfg *arch.Config, devices, parts int, s stepPlan) (b deviceBytes) {
	rows := float64((r.Batch + devices - 1) / devices / parts)
	grads := 4 * float64(cfg.TotalParams())
	kept, working := activations(cfg, r, s)
	kept, working = rows*kept, rows*working
	pixels := rows * 3 * float64(r.Image.Size) * float64(r.Image.Size)
	b.state, b.activations = stateBytes(cfg, r, devices)+grads, kept+working
	if s.blocks {
		b.loss = blockLossBytes(cfg, r.Batch, devices, lossTile("", r.Batch))
	} else {
		b.loss = matrixLossBytes(r.Batch, devices)
	}
	if s.residuals {
		b.residuals = residualBytes(cfg, r, devices)
	}
	if s.whole {
		b.total = b.state - grads + pixels + max(kept, grads) + working + b.loss
		b.total = max(b.total, b.state+grads) // the optimizer holds clipped gradients beside the gradients
	} else { // programs one after the other; the sums of gradients stay throughout
		b.total = b.state + max(b.residuals+pixels+kept+working, b.residuals+b.loss, grads)
	}
	return b
}

// activations are the bytes of one pair on a device: what its forward pass keeps,
// and what the current block takes on top in the backward pass.
//
// A block of a transformer keeps, per token, some rows of its width (inputs, norms,
// q, k and v and their rotations, sums) and of its hidden width (an MLP's products,
// its activations, its norm), and its attention weights three times. The numbers
// were read off what XLA plans: in float32 for a CPU, which also keeps the norms'
// weights as rows; in half precision for a GPU, whose fused attention keeps no
// weights. The last block, of which one token is used, keeps inputs, keys and values.
// With checkpointing blocks keep their inputs, with residuals nothing, and the
// current one is held whole.
func activations(cfg *arch.Config, r *Recipe, s stepPlan) (kept, working float64) {
	size := computeBytes(r)
	tower := func(tokens, width, hidden, heads, layers int, gated bool) {
		n, w, h := float64(tokens), float64(width), float64(hidden)
		block := n*(13*w+2*h) + 3*float64(heads)*n*n
		if gated {
			block = n*(14*w+4*h) + 3*float64(heads)*n*n
		}
		if size == 2 {
			block = n * (8*w + 2*h)
			if gated {
				block = n * (10*w + 4*h)
			}
		}
		switch {
		case s.residuals:
			working = max(working, block+n*h)
		case r.GradCheckpointing:
			kept += float64(layers) * n * w
			working = max(working, block+n*h)
		default:
			kept += float64(layers-1)*block + 5*n*w
			working = max(working, 2*n*h)
		}
	}
	t, v := &cfg.Text, &cfg.Vision
	tower(t.ContextLength, t.Width, cfg.TextHidden(), t.Heads, t.Layers, false)
	if !cfg.IsResNet() {
		tower(r.tokens(cfg), v.Width, cfg.VisionHidden(), cfg.VisionHeads(), cfg.Layers(arch.VisualTower), v.SwiGLU)
		patches := r.tokens(cfg)
		if r.PatchDropout > 0 { // the kept ones are gathered from all
			patches += cfg.Tokens()
		}
		kept += float64(patches) * 3 * float64(v.PatchSize*v.PatchSize) // their pixels
	} else {
		side := float64(v.ImageSize)
		kept += 24 * side * side * float64(v.Width)
	}
	return kept * size, working * size
}

// tokens is the number of tokens of a picture in the blocks.
func (r *Recipe) tokens(cfg *arch.Config) int {
	if cfg.IsResNet() {
		return cfg.Tokens()
	}
	return 1 + r.kept(cfg)
}

// The values of Recipe.Accumulation besides "".
const (
	accumulateResiduals = "residuals"
	accumulateAgain     = "recompute"
)

// accumulation is what parts do, as a recipe spells it; "" without parts.
func (p stepPlan) accumulation() string {
	switch {
	case p.whole:
		return ""
	case p.residuals:
		return accumulateResiduals
	}
	return accumulateAgain
}

// log logs how the steps of a run are computed.
func (p stepPlan) log(log *slog.Logger, batch int, t tile) {
	args := []any{"loss", "one matrix"}
	if p.blocks {
		args[1] = fmt.Sprintf("blocks of %d × %d logits", min(batch, t.rows), min(batch, t.columns))
	}
	if a := p.accumulation(); a != "" {
		args = append(args, "accumulation", a, "why", p.why)
	}
	log.Info("step", args...)
}
