package trainer

import (
	"cmp"
	"fmt"
	"math"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// Comm says in which type numbers travel between the processes of a job. bf16 halves
// the bytes and rounds to bfloat16's eight bits, so it is a different training.
type Comm struct {
	Grads    string `yaml:"grads,omitempty"`    // fp32 (or empty) or bf16; sums are float32
	Features string `yaml:"features,omitempty"` // fp32 (or empty) or bf16
}

// check sets the default to empty: the same recipe as without the key.
func (c *Comm) check(bad func(key, format string, args ...any) error) error {
	for key, v := range map[string]*string{"comm.grads": &c.Grads, "comm.features": &c.Features} {
		switch *v {
		case "fp32":
			*v = ""
		case "", "bf16":
		default:
			return bad(key, "%q; want fp32 or bf16", *v)
		}
	}
	return nil
}

// wireBytes is the size of a number in transit.
func wireBytes(kind string) int64 {
	if kind == "bf16" {
		return 2
	}
	return 4
}

// ExchangePlan is what the processes of a job, one per host, exchange in a step, in
// bytes that each sends; it receives as many.
type ExchangePlan struct {
	Hosts      int     `json:"hosts"`
	Net        float64 `json:"net_gbit_per_second"`
	Features   int64   `json:"bytes_features"` // and the sums of the loss
	Gradients  int64   `json:"bytes_gradients"`
	Parameters int64   `json:"bytes_parameters"`
	Bytes      int64   `json:"bytes"` // all, including norms and records
	Seconds    float64 `json:"seconds"`
	Share      float64 `json:"share,omitempty"` // of a step, at a known rate, if nothing overlaps
}

// The share of a network's speed that is reached, and the limit of the way through
// the host's memory, in bytes per second.
const (
	netShare   = 0.85
	stagedMost = 10e9
)

// planExchange plans the exchange of a job of some hosts with n devices each, over a
// network of net Gb/s.
func (r *Recipe) planExchange(cfg *arch.Config, hosts, n int, net float64) (*ExchangePlan, error) {
	rows, _, err := r.shareOf(hosts, n)
	if err != nil {
		return nil, err
	}
	var sizes []int
	var pieces, words, tensors int64
	trusted := false
	var list []arch.Param
	for _, p := range cfg.Params() {
		if !p.Buffer {
			list = append(list, p)
			sizes = append(sizes, int(paramBytes(p)/4))
		}
	}
	for _, g := range groups(cfg, list, r) {
		trusted = trusted || optimizers[r.Optimizer.Name].trusts(g.wd)
	}
	for _, b := range cutBuckets(sizes, hosts*n, bucketBytes) {
		pieces += int64(len(b.pieces))
		words += int64(b.width) * int64(hosts*n)
	}
	if trusted {
		tensors = 2 * 4 * pieces
	}
	others := int64(hosts - 1)
	e := &ExchangePlan{Hosts: hosts, Net: net}
	e.Features = others * int64(rows) * (2*int64(cfg.EmbedDim)*wireBytes(r.Comm.Features) + 4*4)
	e.Gradients = others * (words / int64(hosts)) * wireBytes(r.Comm.Grads)
	e.Parameters = others * (words / int64(hosts)) * 4
	e.Bytes = e.Features + e.Gradients + e.Parameters + others*(tensors+tallyBytes)
	e.Seconds = float64(e.Bytes) / math.Min(netShare*net*1e9/8, stagedMost)
	return e, nil
}

// over completes a plan for a job of several hosts.
func (p *Plan) over(r *Recipe, cfg *arch.Config, hosts, n int, net float64) (err error) {
	if p.Exchange, err = r.planExchange(cfg, hosts, n, net); err != nil || hosts == 1 {
		return err
	}
	if p.Rate > 0 {
		p.Exchange.Share = p.Exchange.Seconds / (p.Exchange.Seconds + float64(p.Batch)/p.Rate)
	}
	if p.Accumulation == "" { // not in parts, but forward and backward are separate programs
		p.Accumulation = cmp.Or(r.Accumulation, accumulateAgain)
		if !r.GradCheckpointing || p.Accumulation == accumulateAgain {
			p.GFLOPsExecuted += p.GFLOPsPerSample / 3
		}
	}
	// Parameters and gradients whole; masters and moments split over all devices.
	var all, trained int64
	for _, q := range cfg.Params() {
		if all += paramBytes(q); !q.Buffer {
			trained += paramBytes(q)
		}
	}
	state := all + trained + 3*trained/int64(hosts*n)
	p.BytesDevice += state - p.BytesState
	p.BytesState = state
	if p.BytesHost > 0 {
		p.BytesHost = int64(r.hostBytes(cfg, (r.Batch+hosts-1)/hosts))
	}
	return nil
}

func (e *ExchangePlan) String() string {
	s := fmt.Sprintf("%.3g GB each way per host and step: features %.3g, gradients %.3g, parameters %.3g; %.3g s at %g Gb/s",
		float64(e.Bytes)/1e9, float64(e.Features)/1e9, float64(e.Gradients)/1e9, float64(e.Parameters)/1e9, e.Seconds, e.Net)
	if e.Share > 0 {
		s += fmt.Sprintf(", %.0f %% of the step", 100*e.Share)
	}
	return s
}

func checkNet(hosts int, net float64) error {
	if hosts < 0 || hosts > 1<<20 {
		return fault.Usagef("Options.Hosts %d: want 1 to %d", hosts, 1<<20)
	}
	if hosts > 0 && (!(net > 0) || math.IsInf(net, 0)) {
		return fault.Usagef("Options.Net %v: want the network's speed in Gb/s", net)
	}
	return nil
}
