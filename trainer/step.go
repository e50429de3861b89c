package trainer

import (
	"context"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/weights"
)

// machine holds the training state on the device(s) and advances it. The
// state is a flat list of arrays (see slots); a step takes it in, consumes it
// and puts the new one into the same memory.
type machine struct {
	dev     *device.Device
	recipe  *Recipe
	cfg     *arch.Config
	params  []arch.Param // trained, in the order of the state
	frozen  []arch.Param // BatchNorm statistics
	groups  []group
	rule    lossScaleRule
	pixels  bool // images arrive as bytes [B, S, S, 3], not as normalised floats [B, 3, S, S]
	replay  bool // the kept patches are an input, not drawn: tests
	rows    int  // batch, rounded up to a multiple of the devices
	micros  int  // 1: the whole batch in one program
	state   []*device.Array
	buffers []*device.Array // values of frozen

	compute dtypes.DType // of products and activations
	fused   func(n int)  // told once how many attention operations run fused; may be nil

	program *device.Program // micros == 1
	cached  *cachedPrograms // micros > 1
}

// slot is one array of the state.
type slot struct {
	name  string // of a parameter, or "optimizer.…"
	dtype dtypes.DType
	dims  []int
	cut   device.Sharding
}

func (s slot) shape() shapes.Shape { return shapes.Make(s.dtype, s.dims...) }

// The state behind the parameters and their two moments.
const (
	slotRNG    = iota // uint64[3]
	slotScale         // float32: loss scale
	slotCounts        // int32[4]: optimizer steps, clean steps in a row, hysteresis left, skipped steps
	extraSlots
)

const numCounts = 4

// The metrics of a step: one float32 vector, the only thing that is read back.
const (
	metricLoss = iota
	metricGradNorm
	metricLogitScale // exp
	metricLossScale  // that the step used
	metricSkipped
	metricFinite // 1: the step was taken
	numMetrics
)

func newMachine(dev *device.Device, r *Recipe, pixels, replay bool) (*machine, error) {
	cfg, err := r.config()
	if err != nil {
		return nil, err
	}
	m := &machine{dev: dev, recipe: r, cfg: cfg, pixels: pixels, replay: replay, rule: defaultScaleRule}
	for _, p := range cfg.Params() {
		if p.Buffer {
			m.frozen = append(m.frozen, p)
		} else {
			m.params = append(m.params, p)
		}
	}
	m.groups = groups(cfg, m.params, r)
	if m.compute, err = weights.ComputeDType(dev, r.Precision); err != nil {
		return nil, err
	}
	n := dev.N()
	m.rows, m.micros = (r.Batch+n-1)/n*n, 1
	if r.MicroBatch > 0 && r.Batch > n*r.MicroBatch {
		if r.Batch%(n*r.MicroBatch) != 0 {
			return nil, fault.Usagef("batch %d is not a multiple of %d devices × micro_batch %d; change one of them", r.Batch, n, r.MicroBatch)
		}
		m.micros = r.Batch / (n * r.MicroBatch)
	}
	if replay && m.micros > 1 && r.DropPath > 0 {
		return nil, fault.Usagef("drop_path %v: a batch in parts with given keep_indices takes none; set drop_path to 0 or micro_batch to %d", r.DropPath, r.Batch/n)
	}
	if m.kept() == 0 {
		return nil, fault.Usagef("patch_dropout %v keeps none of %d patches", r.PatchDropout, cfg.Tokens()-1)
	}
	if m.dropsPatches() && cfg.IsResNet() {
		return nil, fault.Usagef("patch_dropout needs a vision transformer; this model's image tower is a ResNet")
	}
	if m.micros > 1 {
		m.cached = m.newCached()
		return m, nil
	}
	k := 3 // images, tokens, learning rates
	in := []device.Sharding{device.SplitRows, device.SplitRows, device.Replicated}
	if replay {
		in = append(in, device.SplitRows)
		k++
	}
	for range m.frozen {
		in = append(in, device.Replicated)
		k++
	}
	out := []device.Sharding{device.Replicated}
	donate := map[int]int{}
	for i, s := range m.slots() {
		in, out = append(in, s.cut), append(out, s.cut)
		donate[k+i] = 1 + i
	}
	m.program = dev.Program("train-step", m.stepGraph, device.In(in...), device.Out(out...), device.Donate(donate), device.SaveMemory())
	return m, nil
}

// kept is the number of patch tokens that patch dropout leaves.
func (m *machine) kept() int { return m.recipe.kept(m.cfg) }

func (r *Recipe) kept(cfg *arch.Config) int {
	return int(float64(cfg.Tokens()-1) * (1 - r.PatchDropout))
}

func (m *machine) dropsPatches() bool { return m.recipe.PatchDropout > 0 }

// slots describes the state: parameters, first moments, second moments, the
// rest. With zero_stage 1 the moments are cut over the devices along the first
// axis that their number divides.
func (m *machine) slots() []slot {
	var out []slot
	n := len(m.params)
	for k := range 3 {
		for _, p := range m.params {
			s := slot{name: p.Name, dtype: dtypes.Float32, cut: device.Replicated}
			for _, d := range p.Shape {
				s.dims = append(s.dims, int(d))
			}
			if k > 0 {
				s.name = fmt.Sprintf("optimizer.%s.%s", [...]string{"", "m", "v"}[k], p.Name)
				if m.recipe.ZeroStage > 0 {
					s.cut = m.dev.SplitEvenly(s.dims...)
				}
			}
			out = append(out, s)
		}
	}
	out = append(out, make([]slot, extraSlots)...)
	out[3*n+slotRNG] = slot{name: "optimizer.rng", dtype: dtypes.Uint64, dims: []int{3}}
	out[3*n+slotScale] = slot{name: "optimizer.loss_scale", dtype: dtypes.Float32}
	out[3*n+slotCounts] = slot{name: "optimizer.counts", dtype: dtypes.Int32, dims: []int{numCounts}}
	return out
}

// start fills the state: weights by name in the order of params and frozen,
// moments zero, counters at the beginning.
func (m *machine) start(weights func(p arch.Param) ([]float32, error)) error {
	rng, err := RNGStateFromSeed(m.recipe.Seed)
	if err != nil {
		return err
	}
	scale := float32(1)
	if m.recipe.Precision == "fp16" {
		scale = scaleStart
	}
	n := len(m.params)
	err = m.putState(func(i int, s slot) (*tensors.Tensor, error) {
		switch i {
		case 3*n + slotRNG:
			return rng, nil
		case 3*n + slotScale:
			return tensors.FromScalar(scale), nil
		case 3*n + slotCounts:
			return tensors.FromFlatDataAndDimensions([]int32{0, 0, scaleHysteresis, 0}, numCounts), nil
		}
		if i >= n {
			return tensors.FromShape(s.shape()), nil
		}
		w, err := weights(m.params[i])
		if err != nil {
			return nil, err
		}
		return tensors.FromFlatDataAndDimensions(w, s.dims...), nil
	})
	if err != nil {
		return err
	}
	return m.putFrozen(weights)
}

func (m *machine) putFrozen(weights func(p arch.Param) ([]float32, error)) error {
	for _, p := range m.frozen {
		w, err := weights(p)
		if err != nil {
			return err
		}
		a, err := m.dev.PutF32(device.Replicated, w, intDims(p.Shape)...)
		if err != nil {
			return err
		}
		m.buffers = append(m.buffers, a)
	}
	return nil
}

// putState uploads a whole state, array by array: value gives the one of slot
// number i, and the host holds one at a time.
func (m *machine) putState(value func(i int, s slot) (*tensors.Tensor, error)) error {
	m.freeState()
	for i, s := range m.slots() {
		t, err := value(i, s)
		if err != nil {
			return err
		}
		a, err := m.dev.Put(s.cut, t)
		if err != nil {
			return err
		}
		m.state = append(m.state, a)
	}
	return nil
}

func (m *machine) freeState() {
	for _, a := range m.state {
		a.Free()
	}
	m.state = nil
}

func (m *machine) close() {
	m.freeState()
	for _, a := range m.buffers {
		a.Free()
	}
}

func intDims(shape []int64) []int {
	out := make([]int, len(shape))
	for i, d := range shape {
		out[i] = int(d)
	}
	return out
}

// hostBatch is what one step trains on. Either pixels or floats is set.
type hostBatch struct {
	pixels []uint8   // [B, S, S, 3]
	floats []float32 // [B, 3, S, S], normalised
	tokens []int32   // [B, context]
	keep   []int32   // [B, kept], only for a machine that replays
}

// put uploads rows lo..hi of b, padded with rows of zeros to a multiple of the
// devices: images, tokens and, when replayed, the kept patches.
func (m *machine) put(b *hostBatch, lo, hi, padded int) ([]*device.Array, error) {
	size, ctx := m.recipe.Image.Size, m.cfg.Text.ContextLength
	var images *tensors.Tensor
	if m.pixels {
		images = rowsTensor(b.pixels, lo, hi, padded, size, size, 3)
	} else {
		images = rowsTensor(b.floats, lo, hi, padded, 3, size, size)
	}
	list := []*tensors.Tensor{images, rowsTensor(b.tokens, lo, hi, padded, ctx)}
	if m.replay {
		list = append(list, rowsTensor(b.keep, lo, hi, padded, m.kept()))
	}
	out := make([]*device.Array, len(list))
	for i, t := range list {
		a, err := m.dev.Put(device.SplitRows, t)
		if err != nil {
			return nil, err
		}
		out[i] = a
	}
	return out, nil
}

func rowsTensor[T uint8 | int32 | float32](flat []T, lo, hi, padded int, dims ...int) *tensors.Tensor {
	row := 1
	for _, d := range dims {
		row *= d
	}
	part := flat[lo*row : hi*row]
	if padded > hi-lo {
		part = append(append(make([]T, 0, padded*row), part...), make([]T, (padded-(hi-lo))*row)...)
	}
	return tensors.FromFlatDataAndDimensions(part, append([]int{padded}, dims...)...)
}

// step advances the state by one optimizer step with the three learning rates
// and returns the metrics, which may still be in the making.
func (m *machine) step(ctx context.Context, b *hostBatch, lr [3]float64) (*device.Array, error) {
	rates, err := m.dev.PutF32(device.Replicated, []float32{float32(lr[0]), float32(lr[1]), float32(lr[2])}, 3)
	if err != nil {
		return nil, err
	}
	defer rates.Free()
	if m.micros > 1 {
		return m.cached.step(ctx, b, rates)
	}
	batch, err := m.put(b, 0, m.recipe.Batch, m.rows)
	if err != nil {
		return nil, err
	}
	args := append([]*device.Array{batch[0], batch[1], rates}, batch[2:]...)
	args = append(append(args, m.buffers...), m.state...)
	if m.fused != nil {
		n, err := m.program.FusedAttention(args...)
		if err != nil {
			return nil, err
		}
		m.fused(n)
		m.fused = nil
	}
	out, err := m.program.Call(ctx, args...)
	if err != nil {
		return nil, err
	}
	free(batch)
	m.state = out[1:]
	return out[0], nil
}

// stepGraph is the whole training step: images, tokens, learning rates,
// [kept patches], [frozen buffers], state → metrics, new state.
func (m *machine) stepGraph(in []*Node) []*Node {
	images, tokens, rates := in[0], in[1], in[2]
	in = in[3:]
	var keep *Node
	if m.replay {
		keep, in = in[0], in[1:]
	}
	frozen, in := in[:len(m.frozen)], in[len(m.frozen):]
	s := m.unpack(in)

	var chance draws
	s.rng, chance = m.draw(s.rng, m.rows, keep)
	loss, grads := m.lossAndGradients(s, frozen, images, tokens, chance)
	return m.apply(s, loss, grads, rates)
}

// lossAndGradients is the loss of the whole batch and its gradient, multiplied
// with the loss scale.
func (m *machine) lossAndGradients(s *stateNodes, frozen []*Node, images, tokens *Node, chance draws) (*Node, []*Node) {
	img, txt := m.features(s.params, frozen, images, tokens, chance)
	// Rows that only fill up the devices do not count.
	img, txt = Slice(img, AxisRange(0, m.recipe.Batch)), Slice(txt, AxisRange(0, m.recipe.Batch))
	loss := contrastive(img, txt, m.logitScale(s.params))
	return loss, Gradient(Mul(loss, s.scale), s.params...)
}

// stateNodes is the state inside a graph.
type stateNodes struct {
	params, m, v       []*Node
	rng, scale, counts *Node
}

func (m *machine) unpack(in []*Node) *stateNodes {
	n := len(m.params)
	return &stateNodes{
		params: in[:n], m: in[n : 2*n], v: in[2*n : 3*n],
		rng: in[3*n+slotRNG], scale: in[3*n+slotScale], counts: in[3*n+slotCounts],
	}
}

func (s *stateNodes) pack() []*Node {
	out := append([]*Node(nil), s.params...)
	out = append(append(out, s.m...), s.v...)
	return append(out, s.rng, s.scale, s.counts)
}

func (m *machine) logitScale(params []*Node) *Node { return params[m.logitScaleIndex()] }

// logitScaleIndex is where logit_scale is among the parameters; every model has one.
func (m *machine) logitScaleIndex() int {
	return slices.IndexFunc(m.params, func(p arch.Param) bool { return p.Name == "logit_scale" })
}

// draws is the randomness of one step: which patches stay ([B, kept], nil:
// all) and which residual branches ([2·layers, B] uniform, nil: all).
type draws struct{ keep, path *Node }

// draw advances the random state. The rows that only pad a batch get draws
// too, so the numbers of row i depend on the padded batch, not on micro_batch.
func (m *machine) draw(rng *Node, rows int, keep *Node) (*Node, draws) {
	d := draws{keep: keep}
	if m.dropsPatches() && keep == nil {
		// The order of uniform numbers is as random as that of normal ones.
		var u *Node
		rng, u = RandomUniform(rng, shapes.Make(dtypes.Float32, rows, m.cfg.Tokens()-1))
		_, d.keep = TopK(u, m.kept(), 1)
	}
	if m.recipe.DropPath > 0 {
		rng, d.path = RandomUniform(rng, shapes.Make(dtypes.Float32, 2*m.cfg.Layers(arch.VisualTower), rows))
	}
	return rng, d
}

// features are the L2-normalised embeddings of both towers, float32 [B, E].
func (m *machine) features(params, frozen []*Node, images, tokens *Node, chance draws) (img, txt *Node) {
	w := clip.Weights{}
	for i, p := range m.params {
		w[p.Name] = params[i]
	}
	for i, p := range m.frozen {
		w[p.Name] = frozen[i]
	}
	opt := clip.Options{DType: m.compute, Checkpoint: m.recipe.GradCheckpointing}
	txt = clip.Normalize(clip.Text(m.cfg, w, tokens, opt))
	opt.KeepPatches = chance.keep
	if chance.path != nil {
		opt.DropPath = m.dropPath(chance.path)
	}
	return clip.Normalize(clip.Image(m.cfg, w, m.normalised(images), opt)), txt
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
func (m *machine) apply(s *stateNodes, loss *Node, grads []*Node, rates *Node) []*Node {
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
	next := &stateNodes{rng: s.rng}
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
	return append([]*Node{Stack(metrics, 0)}, next.pack()...)
}
