package trainer

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
)

// logitScaleMax bounds logit_scale after every step: ln 100, in float32 as the
// original clamps it.
var logitScaleMax = float64(float32(math.Log(100)))

// group is how one tensor is trained.
type group struct {
	lr    int     // index into the three learning rates: vision, text, other
	scale float64 // layer decay: decay^(top layer − layer)
	wd    float64 // weight decay, 0 for vectors and embeddings
}

// groups returns the group of every trained tensor. Layer decay: the embeddings are
// layer 0, block n is layer n+1, the rest is the top, L+1.
func groups(cfg *arch.Config, params []arch.Param, r *Recipe) []group {
	out := make([]group, len(params))
	for i, p := range params {
		g := group{lr: 2, scale: 1}
		switch p.Tower {
		case arch.VisualTower:
			g.lr, g.scale = 0, math.Pow(r.LayerDecay.Vision, float64(cfg.Layers(arch.VisualTower)+1-p.Layer))
		case arch.TextTower:
			g.lr, g.scale = 1, math.Pow(r.LayerDecay.Text, float64(cfg.Layers(arch.TextTower)+1-p.Layer))
		}
		if !p.NoDecay {
			g.wd = r.Optimizer.WeightDecay
		}
		out[i] = g
	}
	return out
}

// update is one tensor's optimizer step. All nodes are float32.
type update struct {
	p, g, m, v *Node // parameter, clipped gradient, first and second moment
	lr         *Node // scalar: scheduled rate × layer decay
	c1, c2     *Node // scalars: 1−β1^t, 1−β2^t
	wd, eps    float64
	b1, b2     float64
}

// moments advances the running means of the gradient and of its square.
func (u *update) moments() {
	u.m = Add(MulScalar(u.m, u.b1), MulScalar(u.g, 1-u.b1))
	u.v = Add(MulScalar(u.v, u.b2), MulScalar(Square(u.g), 1-u.b2))
}

// optimizer is an update rule in two halves, between which the tensor's norms are
// known, so that a tensor in pieces on many machines can be updated piece by piece.
type optimizer struct {
	// unitNorm divides all gradients by max(1, global norm) on top of clipping.
	unitNorm bool
	// direction is the direction of the update; the moments are already advanced.
	direction func(u *update) *Node
	// trusts reports whether a tensor of that weight decay has a trust ratio.
	trusts func(wd float64) bool
	// least and most bound the trust ratio; no bounds if most is 0.
	least, most float64
	// move returns the new parameter; ratio is nil if there is none.
	move func(u *update, d, ratio *Node) *Node
}

var optimizers = map[string]optimizer{
	"adamw":          {direction: adamwDirection, trusts: never, move: adamwMove},
	"lamb":           {direction: nvLambDirection, trusts: whereDecays, move: nvLambMove, unitNorm: true},
	"lamb-deepspeed": {direction: deepspeedDirection, trusts: always, least: 0.01, most: 10, move: deepspeedMove},
}

func never(float64) bool          { return false }
func always(float64) bool         { return true }
func whereDecays(wd float64) bool { return wd != 0 }

// step returns the new parameter; the moments are already advanced.
func (o optimizer) step(u *update) *Node {
	d := o.direction(u)
	if !o.trusts(u.wd) {
		return o.move(u, d, nil)
	}
	ratio := trust(u.p, d)
	if o.most > 0 {
		ratio = ClipScalar(ratio, o.least, o.most)
	}
	return o.move(u, d, ratio)
}

// AdamW is torch.optim.AdamW: decoupled decay before the update,
// p·(1−lr·wd) − lr/c1 · m / (√v/√c2 + eps).
func adamwDirection(u *update) *Node {
	return Div(u.m, AddScalar(Div(Sqrt(u.v), Sqrt(u.c2)), u.eps))
}

func adamwMove(u *update, d, _ *Node) *Node {
	p := u.p
	if u.wd != 0 {
		p = Mul(p, OneMinus(MulScalar(u.lr, u.wd)))
	}
	return Sub(p, Mul(Div(u.lr, u.c1), d))
}

// NVLamb is the LAMB of the EVA-CLIP repository: the bias-corrected Adam
// direction plus decay, scaled by ‖p‖/‖u‖ where the tensor decays.
func nvLambDirection(u *update) *Node {
	return u.decayed(Div(Div(u.m, u.c1), AddScalar(Div(Sqrt(u.v), Sqrt(u.c2)), u.eps)))
}

func nvLambMove(u *update, d, ratio *Node) *Node {
	if ratio == nil {
		return Sub(u.p, Mul(u.lr, d))
	}
	return Sub(u.p, Mul(Mul(u.lr, ratio), d))
}

// decayed adds weight decay to a direction.
func (u *update) decayed(d *Node) *Node {
	if u.wd == 0 {
		return d
	}
	return Add(d, MulScalar(u.p, u.wd))
}

// DeepSpeed's FusedLamb corrects the bias not in the direction but in the step
// size, and clamps the trust ratio of every tensor to [0.01, 10].
//
// The published models were trained with it under ZeRO-1. DeepSpeed then hands
// the optimizer one flat piece per parameter group and GPU, so that a ratio
// covers many tensors, or parts of some, and changes with the number of GPUs.
// Here zero_stage does not change the result: each tensor has its own ratio, as in
// the LAMB paper and in FusedLamb without ZeRO. So the released recipes equal the
// released commands up to these ratios.
func deepspeedDirection(u *update) *Node {
	return u.decayed(Div(u.m, AddScalar(Sqrt(u.v), u.eps)))
}

func deepspeedMove(u *update, d, ratio *Node) *Node {
	size := Mul(u.lr, Div(Sqrt(u.c2), u.c1))
	return Sub(u.p, Mul(Mul(size, ratio), d))
}

// trust is ‖p‖/‖d‖, and 1 when either is zero.
func trust(p, d *Node) *Node {
	pn, dn := norm(p), norm(d)
	one := ScalarOne(p.Graph(), p.DType())
	ok := GreaterThan(Mul(pn, dn), ScalarZero(p.Graph(), p.DType()))
	return Where(ok, Div(pn, Where(ok, dn, one)), one)
}

func norm(x *Node) *Node { return Sqrt(ReduceAllSum(Square(x))) }

// globalNorm is the L2 norm over all gradients.
func globalNorm(grads []*Node) *Node {
	sum := ReduceAllSum(Square(grads[0]))
	for _, g := range grads[1:] {
		sum = Add(sum, ReduceAllSum(Square(g)))
	}
	return Sqrt(sum)
}

// clipFactor is the factor for all gradients: clip/(norm+1e-6) if that is below 1
// (torch's clip_grad_norm_), then 1/max(1, clipped norm) for optimizers with
// unitNorm.
func clipFactor(n *Node, clip float64, unitNorm bool) *Node {
	one := ScalarOne(n.Graph(), n.DType())
	f := one
	if clip > 0 {
		f = Min(Div(MulScalar(one, clip), AddScalar(n, 1e-6)), one)
	}
	if unitNorm {
		f = Div(f, Max(Mul(n, f), one))
	}
	return f
}

// biasCorrection is 1−β^t without cancellation; t is a float32 scalar.
func biasCorrection(t *Node, beta float64) *Node {
	if beta == 0 {
		return OnesLike(t)
	}
	return Neg(Expm1(MulScalar(t, math.Log(beta))))
}

// Dynamic loss scale, as DeepSpeed's: the first overflow only uses up the
// hysteresis, later ones halve the scale; after window clean steps in a row it
// doubles and the hysteresis is restored.
const (
	scaleStart      = 65536
	scaleWindow     = 1000
	scaleHysteresis = 2
	scaleMin        = 1
)

// lossScaleRule holds the constants of the rule, so that tests can use others.
type lossScaleRule struct{ window, hysteresis, min float64 }

var defaultScaleRule = lossScaleRule{scaleWindow, scaleHysteresis, scaleMin}

// next advances the scale (float32), the clean steps in a row and the
// hysteresis left (int32) after a step that was finite or not.
func (r lossScaleRule) next(finite, scale, clean, left *Node) (newScale, newClean, newLeft *Node) {
	g := scale.Graph()
	i := func(v float64) *Node { return Scalar(g, clean.DType(), v) }
	clean = AddScalar(clean, 1)
	grow := Equal(clean, i(r.window))
	spent := LessOrEqual(left, i(1))
	shrunk := MaxScalar(MulScalar(scale, 0.5), r.min)

	newScale = Where(finite, Where(grow, MulScalar(scale, 2), scale), Where(spent, shrunk, scale))
	newClean = Where(finite, Where(grow, i(0), clean), i(0))
	newLeft = Where(finite, Where(grow, i(r.hysteresis), left), Where(spent, left, AddScalar(left, -1)))
	return newScale, newClean, newLeft
}

// warmupCosine is the factor on the peak learning rate for optimizer step s,
// counted from 0: (s+1)/warmup while warming up, then ½(1+cos(π·progress)).
func warmupCosine(s, warmup, total int64) float64 {
	if s < warmup {
		return float64(s+1) / float64(warmup)
	}
	return 0.5 * (1 + math.Cos(math.Pi*float64(s-warmup)/float64(total-warmup)))
}

// rates are the learning rates of step s for the three groups.
func (r *Recipe) rates(s int64) [3]float64 {
	f := warmupCosine(s, r.WarmupSteps, r.Steps)
	return [3]float64{r.LR.Vision * f, r.LR.Text * f, r.LR.Other * f}
}
