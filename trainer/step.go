package trainer

import (
	"context"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
)

// newWhole makes the step of a whole batch as one program.
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

// lossAndGradients returns the loss of the whole batch and its gradients, multiplied
// by the loss scale.
func (m *machine) lossAndGradients(x *values[*Node]) (loss *Node, gradients []*Node) {
	logitScale := m.logitScale(x.params)
	m.pull(x, func(img, txt *Node) *Node {
		if m.plan.blocks {
			loss = m.lossInBlocks(x, img, txt, logitScale)
			return pushed(img, txt, x)
		}
		// Rows that only fill up the devices do not count.
		img, txt = Slice(img, AxisRange(0, m.recipe.Batch)), Slice(txt, AxisRange(0, m.recipe.Batch))
		loss = contrastive(img, txt, logitScale)
		return loss
	})
	if m.plan.blocks {
		x.sums[m.logitScaleIndex()] = Mul(x.dLogitScale, x.scale)
	}
	return loss, x.sums
}

// lossInBlocks computes the loss where the matrix of logits would be too large, and
// its gradients with respect to features and logit_scale. It is for one device: on
// several XLA would split the columns and exchange logits instead of features.
func (m *machine) lossInBlocks(x *values[*Node], img, txt, logitScale *Node) *Node {
	b := m.blockLoss()
	own := ownRows{img: []*Node{StopGradient(img)}, txt: []*Node{StopGradient(txt)}}
	own.imgSums = b.rowSums(own.img, own.txt[0], logitScale)
	own.txtSums = b.rowSums(own.txt, own.img[0], logitScale)
	g := b.gradients(own, allRows{own.img[0], own.txt[0], own.imgSums[0], own.txtSums[0]}, logitScale, m.recipe.Batch)
	x.dImg, x.dTxt, x.dLogitScale = StopGradient(g.img[0]), StopGradient(g.txt[0]), g.logitScale
	return g.loss
}

// blockLoss is the loss of this batch in blocks.
func (m *machine) blockLoss() blockLoss {
	return blockLoss{batch: m.recipe.Batch, devices: m.dev.N(), tile: lossTile(m.dev.Info().Kind, m.recipe.Batch)}
}

// logitScale is the parameter logit_scale, which every model has.
func (m *machine) logitScale(params []*Node) *Node { return params[m.logitScaleIndex()] }

func (m *machine) logitScaleIndex() int {
	return slices.IndexFunc(m.params, func(p arch.Param) bool { return p.Name == "logit_scale" })
}

// draw makes the random draws of one step: which patches and which residual
// branches are kept. Rows that only pad a batch get draws too, so the numbers of row
// i depend on the padded batch, not on micro_batch.
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

// features are the L2-normalised embeddings of both towers, float32 [B, E]. The text
// tower is computed first; block, which may be nil, is clip.Options.Block.
func (m *machine) features(x *values[*Node], block blockFunc) (img, txt *Node) {
	w := clip.Weights{}
	for i, p := range m.params {
		w[p.Name] = x.params[i]
	}
	for i, p := range m.frozen {
		w[p.Name] = x.frozen[i]
	}
	opt := clip.Options{DType: m.compute, Block: block}
	txt = clip.Normalize(clip.Text(m.cfg, w, x.tokens, opt))
	opt.KeepPatches = x.keep
	if x.path != nil {
		opt.DropPath = m.dropPath(x.path)
	}
	return clip.Normalize(clip.Image(m.cfg, w, m.normalised(x.images), opt)), txt
}

// normalised turns bytes into the model's input, as torchvision's ToTensor and
// Normalize do; floats are normalised already.
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
// [2·layers, B]; a block has two branches at most.
func (m *machine) dropPath(uniform *Node) func(x *Node, tower arch.Tower, layer, branch int) *Node {
	layers := m.cfg.Layers(arch.VisualTower)
	return func(x *Node, tower arch.Tower, layer, branch int) *Node {
		p := m.recipe.DropPath * float64(layer) / float64(max(1, layers-1))
		if tower != arch.VisualTower || p == 0 {
			return x
		}
		row := Reshape(SliceAxis(uniform, 0, AxisElem(2*layer+branch%2)), -1)
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

// contrastive is CLIP's symmetric loss over the whole batch. image and text
// are L2-normalised [B, E], logitScale is the parameter (its exp multiplies
// the cosines). The result is a scalar: the mean of both cross-entropies.
func contrastive(image, text, logitScale *Node) *Node {
	half := Add(matchRows(image, text, logitScale, image, text), matchRows(text, image, logitScale, text, image))
	return MulScalar(half, 0.5/float64(image.Shape().Dimensions[0]))
}

// matchRows is the summed cross-entropy of rows [b, E] against all columns
// [B, E], where row i belongs to pair i of (rowsOf, own), both [b, E].
func matchRows(rows, columns, logitScale, rowsOf, own *Node) *Node {
	scale := Exp(logitScale)
	logits := Mul(scale, Dot(rows, columns).General([]int{1}, nil, []int{1}, nil))
	hit := Mul(scale, ReduceSum(Mul(rowsOf, own), -1))
	return ReduceAllSum(Sub(logSumExp(logits), hit))
}

// logSumExp reduces the last axis.
func logSumExp(x *Node) *Node {
	top := StopGradient(ReduceAndKeep(x, ReduceMax, -1))
	return Add(Log(ReduceSum(Exp(Sub(x, top)), -1)), Squeeze(top, -1))
}

// values are the inputs and outputs of a step's programs, by name. T is an array:
// *Node in a graph, *device.Array in a call.
type values[T any] struct {
	images T // of the current rows, as bytes or normalised floats
	tokens T // of the same rows
	rates  T // the three learning rates
	keep   T // the patches that are kept, [rows, kept]
	path   T // for dropping residual branches: uniform numbers [2·layers, rows]
	frozen []T
	state[T]
	metrics T

	// Only for a batch in parts:
	img, txt       T // features of the current rows
	dImg, dTxt     T // the loss's gradient with respect to them
	allImg, allTxt T // features of the whole batch
	logitScale     T
	loss           T
	dLogitScale    T
	sums           []T // gradients of the parameters, summed over the parts so far

	residuals []T // inputs of the blocks, for the current rows
	// Sums of the loss's exponentials, for every image and for every text.
	allImgSums, allTxtSums T

	// One array for each part:
	imgs, txts, imgSums, txtSums, dImgs, dTxts, keeps, paths []T
}

// state is what a step changes.
type state[T any] struct {
	params, m, v []T // parameters, first and second moments
	rng          T   // uint64[3]
	scale        T   // float32: loss scale
	counts       T   // int32[4]: optimizer steps, clean steps in a row, hysteresis left, skipped steps
}

// field is the name of a value, for lists of them.
type field int

const (
	fieldImages field = iota
	fieldTokens
	fieldRates
	fieldKeep
	fieldPath
	fieldFrozen
	fieldParams
	fieldM
	fieldV
	fieldRNG
	fieldScale
	fieldCounts
	fieldMetrics
	fieldImg
	fieldTxt
	fieldDImg
	fieldDTxt
	fieldAllImg
	fieldAllTxt
	fieldLogitScale
	fieldLoss
	fieldDLogitScale
	fieldSums
	fieldResiduals
	fieldAllImgSums
	fieldAllTxtSums
	fieldImgs
	fieldTxts
	fieldImgSums
	fieldTxtSums
	fieldDImgs
	fieldDTxts
	fieldKeeps
	fieldPaths
	numFields
)

// cell is where the arrays of a field are: one, or a list.
type cell[T any] struct {
	one  *T
	list *[]T
}

func (v *values[T]) cells() [numFields]cell[T] {
	return [numFields]cell[T]{
		fieldImages: {one: &v.images}, fieldTokens: {one: &v.tokens}, fieldRates: {one: &v.rates},
		fieldKeep: {one: &v.keep}, fieldPath: {one: &v.path}, fieldFrozen: {list: &v.frozen},
		fieldParams: {list: &v.params}, fieldM: {list: &v.m}, fieldV: {list: &v.v},
		fieldRNG: {one: &v.rng}, fieldScale: {one: &v.scale}, fieldCounts: {one: &v.counts},
		fieldMetrics: {one: &v.metrics},
		fieldImg:     {one: &v.img}, fieldTxt: {one: &v.txt}, fieldDImg: {one: &v.dImg}, fieldDTxt: {one: &v.dTxt},
		fieldAllImg: {one: &v.allImg}, fieldAllTxt: {one: &v.allTxt}, fieldLogitScale: {one: &v.logitScale},
		fieldLoss: {one: &v.loss}, fieldDLogitScale: {one: &v.dLogitScale}, fieldSums: {list: &v.sums},
		fieldResiduals: {list: &v.residuals}, fieldAllImgSums: {one: &v.allImgSums}, fieldAllTxtSums: {one: &v.allTxtSums},
		fieldImgSums: {list: &v.imgSums}, fieldTxtSums: {list: &v.txtSums},
		fieldImgs: {list: &v.imgs}, fieldTxts: {list: &v.txts}, fieldDImgs: {list: &v.dImgs}, fieldDTxts: {list: &v.dTxts},
		fieldKeeps: {list: &v.keeps}, fieldPaths: {list: &v.paths},
	}
}

// layout is the order of a program's inputs or outputs. A list that occurs several
// times continues where it stopped.
type layout []entry

type entry struct {
	field field
	n     int // arrays
}

// fields is a layout of fields with an array each.
func fields(list ...field) layout {
	var l layout
	for _, f := range list {
		l = append(l, entry{f, 1})
	}
	return l
}

// flat puts values into the order of l.
func flat[T any](l layout, v *values[T]) []T {
	var out []T
	var at [numFields]int
	cells := v.cells()
	for _, e := range l {
		if c := cells[e.field]; c.one != nil {
			out = append(out, *c.one)
		} else {
			out = append(out, (*c.list)[at[e.field]:at[e.field]+e.n]...)
			at[e.field] += e.n
		}
	}
	return out
}

// named is the reverse of flat.
func named[T any](l layout, list []T) *values[T] {
	v := &values[T]{}
	cells := v.cells()
	for _, e := range l {
		if c := cells[e.field]; c.one != nil {
			*c.one = list[0]
		} else {
			*c.list = append(*c.list, list[:e.n]...)
		}
		list = list[e.n:]
	}
	return v
}

// reuse maps the inputs that are also outputs to these outputs, for donation.
func reuse(in, out layout, fields ...field) map[int]int {
	pairs := map[int]int{}
	for _, f := range fields {
		from, to := positions(in, f), positions(out, f)
		for i := range from {
			pairs[from[i]] = to[i]
		}
	}
	return pairs
}

// positions are the positions of a field's arrays.
func positions(l layout, f field) (at []int) {
	i := 0
	for _, e := range l {
		for range e.n {
			if e.field == f {
				at = append(at, i)
			}
			i++
		}
	}
	return at
}

// program is a compiled program whose inputs and outputs have names.
type program struct {
	*device.Program
	in, out layout
}

// program makes a program of a graph with the given inputs and outputs. The outputs
// take over the memory of the reused fields, which a call consumes.
func (m *machine) program(name string, in, out layout, reused []field, graph func(x *values[*Node]) *values[*Node], opts ...device.ProgramOption) *program {
	cuts := func(l layout) (specs []device.Sharding) {
		for _, e := range l {
			for i := range e.n {
				specs = append(specs, m.cut(e.field, i))
			}
		}
		return specs
	}
	fn := func(list []*Node) []*Node { return flat(out, graph(named(in, list))) }
	opts = append(opts, device.In(cuts(in)...), device.Out(cuts(out)...), device.Donate(reuse(in, out, reused...)))
	return &program{m.dev.Program(name, fn, opts...), in, out}
}

func (p *program) call(ctx context.Context, x *values[*device.Array]) (*values[*device.Array], error) {
	out, err := p.Call(ctx, flat(p.in, x)...)
	if err != nil {
		return nil, err
	}
	return named(p.out, out), nil
}

// free releases arrays; nil and consumed ones are allowed.
func free(lists ...[]*device.Array) {
	for _, list := range lists {
		for _, a := range list {
			a.Free()
		}
	}
}
