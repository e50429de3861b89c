package trainer

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// fitsHost refuses a batch whose pictures do not fit the host's memory, which
// would end in a crash.
func fitsHost(r *Recipe, cfg *arch.Config) error {
	row := 3*r.Image.Size*r.Image.Size + 4*cfg.Text.ContextLength
	need := float64(prefetch+1) * float64(r.Batch) * float64(row)
	if have := hostMemory(); need > have {
		return fault.Envf("batch %d: %d batches of pictures lie in the host's memory and take %.3g GB, it has %.3g GB; take a smaller batch", r.Batch, prefetch+1, need/1e9, have/1e9)
	}
	return nil
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

// The loss over the whole matrix of logits is one program with the step and
// saves the passes over features that blocks make; blocks are for batches whose
// matrix is large.
const (
	matrixLossMost = 1 << 30   // bytes of a device that the matrix may take
	blockLossMost  = 256 << 20 // bytes of a device that a block may take
)

// matrixLossBytes is what contrastive and its gradient take of each device: s
// and its softmax, both ways.
func matrixLossBytes(batch, devices int) float64 {
	return 4 * 4 * float64(batch) * float64(batch) / float64(devices)
}

// blockRows is how many rows a block of the loss has on each device: each takes
// its logits, their weights and one more row of the batch.
func blockRows(batch int) int { return max(1, blockLossMost/(3*4*batch)) }

// blockLossBytes is what blockLoss takes of each device, the features of the
// whole batch and their sums among it.
func blockLossBytes(cfg *arch.Config, batch, devices int) float64 {
	share := (batch + devices - 1) / devices
	block := 3 * 4 * float64(min(blockRows(batch), share)) * float64(batch)
	width := float64(cfg.EmbedDim)
	return block + 2*4*float64(batch)*(width+2) + 2*4*float64(share)*(2*width+2)
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
func (p stepPlan) log(log *slog.Logger, batch int) {
	args := []any{"loss", "one matrix"}
	if p.blocks {
		args[1] = fmt.Sprintf("blocks of %d rows", min(batch, blockRows(batch)))
	}
	switch {
	case p.residuals:
		args = append(args, "accumulation", accumulateResiduals)
	case !p.whole:
		args = append(args, "accumulation", accumulateAgain)
	}
	log.Info("step", args...)
}
