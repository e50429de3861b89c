package trainer

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// Plan is what a recipe will cost.
type Plan struct {
	ParamsVision     int64         `json:"params_vision"`
	ParamsText       int64         `json:"params_text"`
	Params           int64         `json:"params"`
	GFLOPsPerSample  float64       `json:"gflops_per_sample"`          // GFLOP, forward and backward, with patch dropout, without recomputation
	GFLOPsExecuted   float64       `json:"gflops_per_sample_executed"` // with recomputation
	Steps            int64         `json:"steps"`
	Samples          int64         `json:"samples"`
	Batch            int           `json:"batch"`
	Devices          int           `json:"devices"`
	MicroBatch       int           `json:"micro_batch"`            // rows of one part on one device
	Padding          int           `json:"padding"`                // rows that only fill up the devices
	Parts            int           `json:"parts"`                  // of one batch; above 1 with cached features
	BytesState       int64         `json:"bytes_state"`            // per device: parameters, moments, gradients
	BytesActivations int64         `json:"bytes_activations"`      // per device, estimated
	BytesLoss        int64         `json:"bytes_loss"`             // per device: logits of the global batch, or of a block of it
	BytesResiduals   int64         `json:"bytes_residuals"`        // per device: what parts keep with accumulation: residuals
	Accumulation     string        `json:"accumulation,omitempty"` // of a batch in parts: residuals or recompute; auto keeps residuals if they fit Memory
	LossInBlocks     bool          `json:"loss_in_blocks"`         // not as one matrix
	BytesDevice      int64         `json:"bytes_device"`
	BytesHost        int64         `json:"bytes_host"`             // of the host: pictures and tokens of the batch in use and those made ahead, in one process for all devices
	BytesMemory      int64         `json:"bytes_memory,omitempty"` // of a device, as given
	Fits             *bool         `json:"fits,omitempty"`         // BytesDevice in BytesMemory
	MicroBatchFits   int           `json:"micro_batch_that_fits,omitempty"`
	Rate             float64       `json:"samples_per_second,omitempty"`
	Hours            float64       `json:"hours,omitempty"`
	FLOPS            float64       `json:"flops_per_second_per_device,omitempty"` // FLOP/s that the rate implies
	MFU              float64       `json:"mfu,omitempty"`                         // FLOPS as a share of the peak of Card
	Card             string        `json:"card,omitempty"`
	Peak             float64       `json:"peak_flops_per_second,omitempty"` // of Card, published, at the recipe's precision
	Warning          string        `json:"warning,omitempty"`
	Exchange         *ExchangePlan `json:"exchange,omitempty"` // of a job of several hosts
	PFLOPs           float64       `json:"pflops_total"`       // PFLOP of the whole run, without recomputation
}

// DryRunOptions describe the hardware that a recipe would run on.
type DryRunOptions struct {
	DeviceCount int     // 0: one; of each host
	Hosts       int     // of a job of several processes; 0: one host, and no exchange
	Net         float64 // Gb/s between the hosts
	Rate        float64 // samples per second of all devices together; 0: unknown
	Memory      int64   // bytes of a device; 0: unknown
	Card        string  // one of Cards, "" for H100: a rate is compared with its peak, and MFU turns its peak into a rate
	MFU         float64 // share of the card's peak that a run would reach, up to 1, instead of a rate; 0: unknown
}

// DryRun computes what a recipe costs. It opens neither data nor a device.
func DryRun(r *Recipe, o DryRunOptions) (_ *Plan, err error) {
	defer fault.Public(context.Background(), &err)
	const most = 1 << 20
	if o.DeviceCount < 0 || o.DeviceCount > most {
		return nil, fault.Usagef("Options.DeviceCount %d: want 1 to %d", o.DeviceCount, most)
	}
	if !(o.Rate >= 0) || math.IsInf(o.Rate, 0) {
		return nil, fault.Usagef("Options.Rate %v: want samples per second, or 0 if unknown", o.Rate)
	}
	if err := checkNet(o.Hosts, o.Net); err != nil {
		return nil, err
	}
	c, err := o.card()
	if err != nil {
		return nil, err
	}
	n, hosts := max(1, o.DeviceCount), max(1, o.Hosts)
	devices := n * hosts
	if r, err = r.checked(); err != nil {
		return nil, err
	}
	p, err := r.plan(devices, o.Rate, o.Memory)
	if err != nil {
		return nil, err
	}
	p.Card, p.Peak = c.Name, c.peak(r.Precision)
	if o.MFU > 0 {
		p.Rate = o.MFU * p.Peak * float64(devices) / (p.GFLOPsPerSample * 1e9)
	}
	if p.Rate > 0 {
		p.Hours = float64(p.Samples) / p.Rate / 3600
		p.judgeRate(r.Precision)
	}
	one := p.BytesDevice
	if o.Hosts > 0 {
		cfg, err := r.config()
		if err != nil {
			return nil, err
		}
		if err := p.over(r, cfg, o.Hosts, n, o.Net); err != nil {
			return nil, err
		}
	}
	if p.BytesMemory = o.Memory; o.Memory > 0 {
		fits := p.BytesDevice <= o.Memory
		if p.Fits = &fits; !fits {
			p.MicroBatchFits = r.microBatchWithin(devices, o.Memory-(p.BytesDevice-one))
		}
	}
	return p, nil
}

func (o *DryRunOptions) card() (card, error) {
	if o.Memory < 0 {
		return card{}, fault.Usagef("Options.Memory %d: want the bytes of a device, or 0 if unknown", o.Memory)
	}
	if !(o.MFU >= 0 && o.MFU <= 1) {
		return card{}, fault.Usagef("Options.MFU %v: want a share of the card's peak between 0 and 1, such as 0.4", o.MFU)
	}
	if o.MFU > 0 && o.Rate > 0 {
		return card{}, fault.Usagef("Options.MFU and Options.Rate: give only one of them, as each determines the other")
	}
	name := o.Card
	if name == "" {
		name = "H100"
	}
	i := slices.IndexFunc(cards, func(c card) bool { return strings.EqualFold(c.Name, name) })
	if i < 0 {
		return card{}, fault.Usagef("Options.Card %q: want one of %s; for another card give Options.Rate", o.Card, strings.Join(Cards(), ", "))
	}
	return cards[i], nil
}

// microBatchWithin is the largest micro_batch below the recipe's for which a device
// has enough memory; 0 if none is small enough.
func (r *Recipe) microBatchWithin(devices int, memory int64) int {
	if r.Batch%devices != 0 {
		return 0
	}
	share := r.Batch / devices
	fits := func(micro int) bool {
		other := *r
		other.MicroBatch = micro
		p, err := other.plan(devices, 0, memory)
		return err == nil && p.Parts > 1 && p.BytesDevice <= memory
	}
	var list []int
	for d := 1; d*d <= share; d++ {
		if share%d == 0 {
			list = append(list, d, share/d)
		}
	}
	slices.Sort(list)
	for _, micro := range slices.Backward(list) {
		if micro < share && fits(micro) {
			return micro
		}
	}
	return 0
}

// plan computes the cost of the recipe on devices with memory bytes each; 0: unknown.
func (r *Recipe) plan(devices int, rate float64, memory int64) (*Plan, error) {
	cfg, err := r.config()
	if err != nil {
		return nil, err
	}
	p := &Plan{
		ParamsVision: cfg.NumParams(arch.VisualTower), ParamsText: cfg.NumParams(arch.TextTower), Params: cfg.TotalParams(),
		Steps: r.Steps, Samples: r.Steps * int64(r.Batch), Batch: r.Batch, Devices: devices, Rate: rate,
	}
	rows, parts, err := r.parts(devices)
	if err != nil {
		return nil, err
	}
	p.Parts, p.MicroBatch, p.Padding = parts, rows/devices/parts, rows-r.Batch
	image, text := cfg.GFLOPs()
	once := image*float64(r.tokens(cfg))/float64(cfg.Tokens()) + text
	passes := 3.0 // forward 1, backward 2
	p.GFLOPsPerSample = passes * once
	step := r.planStep(cfg, "", devices, parts, float64(memory))
	if !step.whole {
		passes++
	}
	if r.GradCheckpointing && !step.residuals { // residuals include that pass
		passes++
	}
	p.GFLOPsExecuted = passes * once
	p.PFLOPs = p.GFLOPsPerSample * float64(p.Samples) / 1e6

	b := r.deviceBytes(cfg, devices, parts, step)
	if b.activations > 1<<60 {
		return nil, fault.Usagef("model: %d pairs take %.3g bytes of a device, more than any device has; choose a smaller image_size, context_length or micro_batch", p.MicroBatch, b.activations)
	}
	p.LossInBlocks, p.Accumulation = step.blocks, step.accumulation()
	p.BytesState, p.BytesActivations, p.BytesLoss, p.BytesResiduals = int64(b.state), int64(b.activations), int64(b.loss), int64(b.residuals)
	p.BytesDevice = int64(b.total)
	if r.Data[0].Tensors == "" {
		p.BytesHost = int64(r.hostBytes(cfg, r.Batch))
	}
	return p, nil
}

// parts says how a batch is split over n devices: its rows, padded to a multiple of
// n, and the number of parts that they are computed in.
func (r *Recipe) parts(n int) (rows, parts int, err error) {
	if r.MicroBatch == 0 || r.Batch <= n*r.MicroBatch {
		return (r.Batch + n - 1) / n * n, 1, nil
	}
	if r.Batch%(n*r.MicroBatch) != 0 {
		return 0, 0, fault.Usagef("batch %d is not a multiple of %d devices × micro_batch %d; change one of them", r.Batch, n, r.MicroBatch)
	}
	return r.Batch, r.Batch / (n * r.MicroBatch), nil
}

// card is a GPU with its published peaks of dense products in FLOP/s: in half
// precision, and in float32, which the CUDA plugin computes as TF32. Where a data
// sheet gives the peak with sparsity, the dense one is half of it.
type card struct {
	Name        string
	half, float float64
}

var cards = []card{
	{"A100", 312e12, 156e12},         // NVIDIA A100 Tensor Core GPU data sheet
	{"H100", 989.4e12, 494.7e12},     // NVIDIA H100 Tensor Core GPU Architecture (white paper), H100 SXM5; data sheet: 1,979 and 989 with sparsity
	{"H200", 989.4e12, 494.7e12},     // NVIDIA H200 Tensor Core GPU data sheet, H200 SXM: 1,979 and 989 with sparsity, as H100
	{"B200", 4.5e15 / 2, 2.2e15 / 2}, // NVIDIA Blackwell data sheet, HGX B200, one GPU: 4,500 and 2,200 with sparsity
	{"L4", 242e12 / 2, 120e12 / 2},   // NVIDIA L4 Tensor Core GPU data sheet: 242 and 120 with sparsity
	{"L40S", 362.05e12, 183e12},      // NVIDIA L40S data sheet
}

func (c card) peak(precision string) float64 {
	if precision == "fp32" {
		return c.float
	}
	return c.half
}

// Cards are the GPUs whose published peak DryRun knows.
func Cards() (names []string) {
	for _, c := range cards {
		names = append(names, c.Name)
	}
	return names
}

// judgeRate works out what a rate demands of each device.
func (p *Plan) judgeRate(precision string) {
	p.FLOPS = p.Rate * p.GFLOPsPerSample * 1e9 / float64(p.Devices)
	p.MFU = p.FLOPS / p.Peak
	most := slices.MaxFunc(cards, func(a, b card) int { return cmp.Compare(a.peak(precision), b.peak(precision)) })
	if peak := most.peak(precision); p.FLOPS > peak {
		p.Warning = fmt.Sprintf("%.3g samples/s is %.4g TFLOP/s on each of %d devices, more than the published peak of a %s (%.4g TFLOP/s): no card reaches it", p.Rate, p.FLOPS/1e12, p.Devices, most.Name, peak/1e12)
	}
}

// String formats the plan for people.
func (p *Plan) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-22s %s\n", name, fmt.Sprintf(format, args...))
	}
	gib := func(n int64) string { return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30)) }
	row("parameters", "%.1f M (vision %.1f M, text %.1f M)", float64(p.Params)/1e6, float64(p.ParamsVision)/1e6, float64(p.ParamsText)/1e6)
	row("work per sample", "%.1f GFLOP forward and backward; %.1f GFLOP executed, recomputation included", p.GFLOPsPerSample, p.GFLOPsExecuted)
	padded := fmt.Sprint(p.Batch)
	if p.Padding > 0 {
		padded += fmt.Sprintf(" + %d rows of padding", p.Padding)
	}
	row("batch", "%s = %d devices × %d rows × %d parts", padded, p.Devices, p.MicroBatch, p.Parts)
	row("steps", "%d (%d samples)", p.Steps, p.Samples)
	loss := "as one matrix"
	if p.LossInBlocks {
		loss = "in blocks"
	}
	memory := fmt.Sprintf("%s: state %s, activations about %s, loss %s %s", gib(p.BytesDevice), gib(p.BytesState), gib(p.BytesActivations), loss, gib(p.BytesLoss))
	if p.BytesResiduals > 0 {
		memory += ", residuals " + gib(p.BytesResiduals)
	} else if p.Accumulation != "" {
		memory += ", residuals none (accumulation: " + p.Accumulation + ")"
	}
	row("memory per device", "%s", memory)
	if p.Exchange != nil {
		row("exchange", "%s", p.Exchange)
	}
	if p.Fits != nil {
		size := strings.Replace(gib(p.BytesMemory), ".00 ", " ", 1)
		switch {
		case *p.Fits:
			row("", "fits %s", size)
		case p.MicroBatchFits > 0:
			row("", "does not fit %s; micro_batch: %d would", size, p.MicroBatchFits)
		default:
			row("", "does not fit %s with any micro_batch; more devices, zero_stage: 1, grad_checkpointing or a smaller batch would take less", size)
		}
	}
	if p.BytesHost > 0 {
		row("memory of the host", "%s: pictures and tokens of the batch in use and of those made ahead", gib(p.BytesHost))
	}
	row("whole run", "%.3g FLOP (operations, not a rate)", p.PFLOPs*1e15)
	if p.Rate > 0 {
		row("time", "%.1f hours at %.4g samples/s", p.Hours, p.Rate)
		article := "an " // A100, H100, L4 …
		if strings.HasPrefix(p.Card, "B") {
			article = "a "
		}
		row("that rate is", "%.4g TFLOP/s on each device: MFU %.1f %% of %s (%.4g TFLOP/s published)", p.FLOPS/1e12, 100*p.MFU, article+p.Card, p.Peak/1e12)
		if p.Warning != "" {
			row("warning", "%s", p.Warning)
		}
	} else {
		row("time", "give Options.Rate, in samples per second, or Options.Card and Options.MFU")
	}
	return b.String()
}
