package trainer

import (
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
)

// newWhole is the step of a whole batch as one program.
func (m *machine) newWhole() *program {
	in := fields(fieldImages, fieldTokens, fieldRates)
	if m.replay {
		in = append(in, fields(fieldKeep)...)
	}
	in = append(append(in, entry{fieldFrozen, len(m.frozen)}), m.stateLayout()...)
	out := append(fields(fieldMetrics), m.stateLayout()...)
	return m.program("train-step", in, out, stateFields, m.stepGraph, device.SaveMemory())
}

// stateFields are the fields of state.
var stateFields = []field{fieldParams, fieldM, fieldV, fieldRNG, fieldScale, fieldCounts}

func (m *machine) stepGraph(x *values[*Node]) *values[*Node] {
	m.draw(x, m.rows)
	loss, grads := m.lossAndGradients(x)
	return m.apply(&x.state, loss, grads, x.rates)
}

// lossAndGradients is the loss of the whole batch and its gradient, multiplied
// with the loss scale.
func (m *machine) lossAndGradients(x *values[*Node]) (*Node, []*Node) {
	img, txt := m.features(x, nil)
	logitScale := m.logitScale(x.params)
	if m.plan.blocks {
		return m.lossInBlocks(x, img, txt, logitScale)
	}
	// Rows that only fill up the devices do not count.
	img, txt = Slice(img, AxisRange(0, m.recipe.Batch)), Slice(txt, AxisRange(0, m.recipe.Batch))
	loss := contrastive(img, txt, logitScale)
	return loss, Gradient(Mul(loss, x.scale), x.params...)
}

// lossInBlocks is lossAndGradients where the matrix of logits would be too
// large. It is for one device: on several XLA would cut the columns, and send
// logits around instead of features.
func (m *machine) lossInBlocks(x *values[*Node], img, txt, logitScale *Node) (*Node, []*Node) {
	b := m.blockLoss()
	own := ownRows{img: []*Node{StopGradient(img)}, txt: []*Node{StopGradient(txt)}}
	own.imgSums = b.rowSums(own.img, own.txt[0], logitScale)
	own.txtSums = b.rowSums(own.txt, own.img[0], logitScale)
	g := b.gradients(own, allRows{own.img[0], own.txt[0], own.imgSums[0], own.txtSums[0]}, logitScale, m.recipe.Batch)
	x.dImg, x.dTxt = StopGradient(g.img[0]), StopGradient(g.txt[0])
	gradients := Gradient(Mul(pushed(img, txt, x), x.scale), x.params...)
	gradients[m.logitScaleIndex()] = Mul(g.logitScale, x.scale)
	return g.loss, gradients
}

// blockLoss is the loss of this batch in blocks.
func (m *machine) blockLoss() blockLoss {
	return blockLoss{batch: m.recipe.Batch, devices: m.dev.N(), tile: lossTile(m.dev.Info().Kind, m.recipe.Batch)}
}

// logitScale is that parameter; every model has it.
func (m *machine) logitScale(params []*Node) *Node { return params[m.logitScaleIndex()] }

func (m *machine) logitScaleIndex() int {
	return slices.IndexFunc(m.params, func(p arch.Param) bool { return p.Name == "logit_scale" })
}

// draw is the randomness of one step: which patches and which residual
// branches stay. The rows that only pad a batch get draws
// too, so the numbers of row i depend on the padded batch, not on micro_batch.
func (m *machine) draw(x *values[*Node], rows int) { m.drawOwn(x, rows, rowRange{0, rows}) }

// drawOwn is draw for some rows of a batch.
func (m *machine) drawOwn(x *values[*Node], rows int, own rowRange) {
	share := func(u *Node, axis int) *Node {
		if own.to-own.from == rows {
			return u
		}
		return SliceAxis(u, axis, AxisRange(own.from, own.to))
	}
	if m.dropsPatches() && x.keep == nil {
		// The order of uniform numbers is as random as that of normal ones.
		var u *Node
		x.rng, u = RandomUniform(x.rng, shapes.Make(dtypes.Float32, rows, m.cfg.Tokens()-1))
		_, x.keep = TopK(share(u, 0), m.kept(), 1)
	}
	if m.recipe.DropPath > 0 {
		x.rng, x.path = RandomUniform(x.rng, shapes.Make(dtypes.Float32, 2*m.cfg.Layers(arch.VisualTower), rows))
		x.path = share(x.path, 1)
	}
}

// features are the L2-normalised embeddings of both towers, float32 [B, E]. Text
// comes first; residual, which may be nil, is clip.Options.Residual.
func (m *machine) features(x *values[*Node], residual func(x *Node, tower arch.Tower, layer int) *Node) (img, txt *Node) {
	w := clip.Weights{}
	for i, p := range m.params {
		w[p.Name] = x.params[i]
	}
	for i, p := range m.frozen {
		w[p.Name] = x.frozen[i]
	}
	opt := clip.Options{DType: m.compute, Checkpoint: m.recipe.GradCheckpointing || residual != nil, Residual: residual}
	txt = clip.Normalize(clip.Text(m.cfg, w, x.tokens, opt))
	opt.KeepPatches = x.keep
	if x.path != nil {
		opt.DropPath = m.dropPath(x.path)
	}
	return clip.Normalize(clip.Image(m.cfg, w, m.normalised(x.images), opt)), txt
}

// normalised turns bytes into what the model takes, as torchvision's ToTensor
// and Normalize do; floats are that already.
func (m *machine) normalised(images *Node) *Node {
	if !m.pixels {
		return images
	}
	p := m.cfg.Preprocess()
	channel := func(v [3]float32) *Node { return Reshape(Const(images.Graph(), v[:]), 1, 1, 1, 3) }
	x := DivScalar(ConvertDType(images, dtypes.Float32), 255)
	return TransposeAllAxes(Div(Sub(x, channel(p.Mean)), channel(p.Std)), 0, 3, 1, 2)
}

// dropPath is stochastic depth: a residual branch of block i is dropped for a
// sample with probability p·i/(layers−1), and scaled up otherwise. uniform is
// [2·layers, B]; each block asks twice.
func (m *machine) dropPath(uniform *Node) func(x *Node, tower arch.Tower, layer int) *Node {
	layers := m.cfg.Layers(arch.VisualTower)
	asked := make([]int, layers)
	return func(x *Node, tower arch.Tower, layer int) *Node {
		p := m.recipe.DropPath * float64(layer) / float64(max(1, layers-1))
		if tower != arch.VisualTower || p == 0 {
			return x
		}
		row := Reshape(SliceAxis(uniform, 0, AxisElem(2*layer+asked[layer]%2)), -1)
		asked[layer]++
		stays := ConvertDType(GreaterOrEqual(row, Scalar(x.Graph(), row.DType(), p)), x.DType())
		dims := make([]int, x.Rank())
		for i := range dims {
			dims[i] = 1
		}
		dims[0] = x.Shape().Dimensions[0]
		return Mul(x, MulScalar(Reshape(stays, dims...), 1/(1-p)))
	}
}

// apply turns scaled gradients into the metrics and the new state: unscale,
// clip by the global norm, optimizer, clamp. A step with an infinite or
// undefined gradient changes nothing but the loss scale.
func (m *machine) apply(s *state[*Node], loss *Node, grads []*Node, rates *Node) *values[*Node] {
	g, o := loss.Graph(), m.recipe.Optimizer
	rule := optimizers[o.Name]
	half := m.recipe.Precision == "fp16"
	if half {
		for i := range grads {
			grads[i] = Div(grads[i], s.scale)
		}
	}
	total := globalNorm(grads)
	finite := IsFinite(total)
	factor := clipFactor(total, o.ClipGradNorm, rule.unitNorm)

	count := func(i int) *Node { return Reshape(Slice(s.counts, AxisElem(i))) }
	steps, clean, left, skipped := count(0), count(1), count(2), count(3)
	one := Scalar(g, dtypes.Int32, 1)
	steps = Where(finite, Add(steps, one), steps)
	skipped = Where(finite, skipped, Add(skipped, one))
	t := ConvertDType(Max(steps, one), dtypes.Float32)
	c1, c2 := biasCorrection(t, o.Betas[0]), biasCorrection(t, o.Betas[1])

	keep := func(updated, old *Node) *Node {
		if !half {
			return updated
		}
		return Where(finite, updated, old)
	}
	next := state[*Node]{rng: s.rng}
	for i, p := range s.params {
		u := &update{
			p: p, g: Mul(grads[i], factor), m: s.m[i], v: s.v[i],
			lr: MulScalar(Reshape(Slice(rates, AxisElem(m.groups[i].lr))), m.groups[i].scale),
			c1: c1, c2: c2, wd: m.groups[i].wd, eps: o.Eps, b1: o.Betas[0], b2: o.Betas[1],
		}
		u.moments()
		w := rule.step(u)
		if m.params[i].Name == "logit_scale" {
			w = ClipScalar(w, 0, logitScaleMax)
		}
		next.params = append(next.params, keep(w, p))
		next.m = append(next.m, keep(u.m, s.m[i]))
		next.v = append(next.v, keep(u.v, s.v[i]))
	}
	next.scale = s.scale
	if half {
		next.scale, clean, left = m.rule.next(finite, s.scale, clean, left)
	}
	next.counts = Stack([]*Node{steps, clean, left, skipped}, 0)

	metrics := make([]*Node, numMetrics)
	metrics[metricLoss] = loss
	metrics[metricGradNorm] = total
	metrics[metricLogitScale] = Exp(m.logitScale(next.params))
	metrics[metricLossScale] = s.scale
	metrics[metricSkipped] = ConvertDType(skipped, dtypes.Float32)
	metrics[metricFinite] = ConvertDType(finite, dtypes.Float32)
	return &values[*Node]{metrics: Stack(metrics, 0), state: next}
}
