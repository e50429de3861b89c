package trainer

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// sampleBytes is what a sample of a stream has where that is not known: a
// picture of 256 to 512 pixels as JPEG.
const sampleBytes = 50_000

// lanesBytes is what the lanes of so many rows of the batch keep in the host's
// memory, and how many streams they read.
func (r *Recipe) lanesBytes(rows int) (bytes float64, streams int) {
	for _, s := range r.Data {
		if s.Read == readStream {
			streams++
		}
	}
	return float64(r.Lanes) * float64(rows) / float64(r.Batch) * float64(streams) * float64(dataset.LaneBytes(sampleBytes)), streams
}

// fitsHost refuses a batch whose pictures, and lanes whose samples, do not fit
// the host's memory, which would end in a crash.
func fitsHost(r *Recipe, cfg *arch.Config, rows rowRange) error {
	share := rows.to - rows.from
	need, batches := r.hostBytes(cfg, share), r.ahead(cfg, share)+1
	have := hostMemory()
	if lanes, streams := r.lanesBytes(share); need+lanes > have && lanes > 0 {
		return fault.Envf("batch %d, %d lanes: %d batches of pictures lie in the host's memory and take %.3g GB, the lanes' samples of %d streams %.3g GB, it has %.3g GB; take a smaller batch or fewer lanes",
			r.Batch, r.Lanes, batches, need/1e9, streams, lanes/1e9, have/1e9)
	}
	if need > have {
		return fault.Envf("batch %d: %d batches of pictures lie in the host's memory and take %.3g GB, it has %.3g GB; take a smaller batch", r.Batch, batches, need/1e9, have/1e9)
	}
	return nil
}

// hostBytes is what batches of so many rows take of the host's memory: the one
// in use and those that are made ahead.
func (r *Recipe) hostBytes(cfg *arch.Config, rows int) float64 {
	return float64(r.ahead(cfg, rows)+1) * float64(rows) * r.rowBytes(cfg)
}

// hostMemory is the host's memory in bytes, or what a container may have of it,
// and much where that is not known.
func hostMemory() float64 {
	have := float64(1 << 40)
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb float64
		if _, err := fmt.Sscanf(string(text), "MemTotal: %f", &kb); err == nil {
			have = kb * 1024
		}
	}
	if text, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if most, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64); err == nil {
			have = min(have, most)
		}
	}
	return have
}

// matrixLossMost is how many bytes of a device the loss may take as one matrix
// of logits. That is one program with the step and saves the passes over features
// that blocks make; blocks are for batches whose matrix is large.
const matrixLossMost = 1 << 30

// matrixLossBytes is what contrastive and its gradient take of each device: s
// and its softmax, both ways.
func matrixLossBytes(batch, devices int) float64 {
	return 4 * 4 * float64(batch) * float64(batch) / float64(devices)
}

// lossTile is the part of the matrix of logits that a device of this kind has at
// a time: on processors their caches hold it, GPUs are kept busy by it. The Go
// backend writes a graph for each, so its tiles are large.
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

// bytes are what a tile takes: its logits, their weights and what they are made of.
func (t tile) bytes(batch, share int) float64 {
	return 3 * 4 * float64(min(t.rows, share)) * float64(min(t.columns, batch))
}

// blockLossBytes is what blockLoss takes of each device, the features of the
// whole batch and their sums among it.
func blockLossBytes(cfg *arch.Config, batch, devices int, t tile) float64 {
	share := (batch + devices - 1) / devices
	width := float64(cfg.EmbedDim)
	return t.bytes(batch, share) + 2*4*float64(batch)*(width+2) + 2*4*float64(share)*(2*width+2)
}

// residualBytes is what a device keeps of its share of the batch between the
// forward and the backward pass of its parts: the input of every block.
func residualBytes(cfg *arch.Config, r *Recipe, devices int) float64 {
	share := float64((r.Batch + devices - 1) / devices)
	row := float64(cfg.Text.ContextLength) * float64(cfg.Text.Width) * float64(cfg.Layers(arch.TextTower))
	if cfg.IsResNet() {
		side := cfg.Vision.ImageSize / 4 // behind the stem
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

// stateBytes is what a device holds from step to step: parameters, statistics,
// and its share of the moments.
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
	whole     bool // in one program
	blocks    bool // the loss, not as one matrix
	residuals bool // parts hand over what their backward passes need
}

// planStep chooses by the bytes that the loss takes of a device. Parts run a
// second forward pass unless the recipe wants their residuals kept: that is
// faster where it was measured.
func (r *Recipe) planStep(devices, parts int) (p stepPlan) {
	p.blocks = parts > 1 || matrixLossBytes(r.Batch, devices) > matrixLossMost
	p.whole = parts == 1 && (!p.blocks || devices == 1)
	p.residuals = !p.whole && r.Accumulation == accumulateResiduals
	return p
}

// The values of Recipe.Accumulation beside "".
const (
	accumulateResiduals = "residuals"
	accumulateAgain     = "recompute"
)

// log says how the steps of a run are computed.
func (p stepPlan) log(log *slog.Logger, batch int, t tile) {
	args := []any{"loss", "one matrix"}
	if p.blocks {
		args[1] = fmt.Sprintf("blocks of %d × %d logits", min(batch, t.rows), min(batch, t.columns))
	}
	switch {
	case p.residuals:
		args = append(args, "accumulation", accumulateResiduals)
	case !p.whole:
		args = append(args, "accumulation", accumulateAgain)
	}
	log.Info("step", args...)
}
