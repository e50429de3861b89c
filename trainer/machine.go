package trainer

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/weights"
)

// machine holds the training state on the devices and advances it. A step
// consumes the state and puts the new one into the same memory.
type machine struct {
	dev     *device.Device
	recipe  *Recipe
	cfg     *arch.Config
	params  []arch.Param // trained, in the order of the state
	frozen  []arch.Param // BatchNorm statistics
	groups  []group
	rule    lossScaleRule
	pixels  bool // images are bytes [B, S, S, 3], not normalised floats [B, 3, S, S]
	replay  bool // the kept patches are an input, not drawn: tests
	rows    int  // batch, rounded up to a multiple of the devices
	micros  int  // 1: the whole batch at once
	state   state[*device.Array]
	buffers []*device.Array // values of frozen

	compute dtypes.DType // of products and activations
	fused   func(n int)  // called once with the number of fused attention operations; may be nil

	whole  *program        // the step as one program
	cached *cachedPrograms // or the step in parts
	remote *remote         // or the step over the processes of a job
	plan   stepPlan
}

// The metrics of a step: one float32 vector, the only thing read back.
const (
	metricLoss = iota
	metricGradNorm
	metricLogitScale // exp
	metricLossScale  // as the step used it
	metricSkipped
	metricFinite // 1: the step was taken
	numMetrics
)

func newMachine(dev *device.Device, r *Recipe, pixels, replay bool) (*machine, error) {
	rows, parts, err := r.parts(dev.N())
	if err != nil {
		return nil, err
	}
	m, err := describeMachine(dev, r, pixels, replay, parts)
	if err != nil {
		return nil, err
	}
	m.rows, m.micros, m.plan = rows, parts, m.counted().planStep(m.cfg, dev.Info().Kind, dev.N(), parts, m.room(rows, 1))
	if m.plan.whole {
		m.whole = m.newWhole()
	} else {
		m.cached = m.newCached(m.plan.residuals)
	}
	return m, nil
}

// describeMachine makes a machine without programs; its rows are computed in so many
// parts.
func describeMachine(dev *device.Device, r *Recipe, pixels, replay bool, parts int) (*machine, error) {
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
	return m, r.computable(cfg, dev.N(), parts, replay)
}

// warn says where training differs from what the model's configuration suggests.
func (m *machine) warn(log *slog.Logger) {
	if len(m.frozen) > 0 {
		log.Warn("BatchNorm keeps the means and variances that the run starts with, and normalises with them: training updates only its weights and biases; start from trained weights (init.model)")
	}
	for _, k := range []struct {
		key, inModel  string
		recipe, model float64
	}{
		{"patch_dropout", "patch_dropout", m.recipe.PatchDropout, m.cfg.Vision.PatchDrop},
		{"drop_path", "drop_path_rate", m.recipe.DropPath, m.cfg.Vision.DropPath},
	} {
		if k.recipe == 0 && k.model > 0 {
			log.Warn(fmt.Sprintf("the model's configuration has vision_cfg.%s %v, which has no effect; set the recipe's %s to train with it", k.inModel, k.model, k.key))
		}
	}
}

// computable refuses a recipe that n devices cannot compute, with a batch in so many
// parts.
func (r *Recipe) computable(cfg *arch.Config, n, parts int, replay bool) error {
	switch {
	case replay && parts > 1 && r.DropPath > 0:
		return fault.Usagef("drop_path %v: not possible for a batch in parts with given keep_indices; set drop_path to 0, or micro_batch to %d", r.DropPath, r.Batch/n)
	case r.PatchDropout > 0 && cfg.IsResNet():
		return fault.Usagef("patch_dropout %v: needs a vision transformer, but this model's image tower is a ResNet; set it to 0", r.PatchDropout)
	case r.kept(cfg) == 0:
		return fault.Usagef("patch_dropout %v: keeps none of %d patches; lower it", r.PatchDropout, cfg.Tokens()-1)
	}
	return nil
}

// kept is the number of patch tokens that patch dropout leaves.
func (m *machine) kept() int { return m.recipe.kept(m.cfg) }

func (r *Recipe) kept(cfg *arch.Config) int {
	return int(float64(cfg.Tokens()-1) * (1 - r.PatchDropout))
}

func (m *machine) dropsPatches() bool { return m.recipe.PatchDropout > 0 }

// slot describes one array of the state.
type slot struct {
	field field
	i     int    // of the field's list
	name  string // in its file
	file  string // of the checkpoint
	dtype dtypes.DType
	dims  []int
	cut   device.Sharding
}

func (s slot) shape() shapes.Shape { return shapes.Make(s.dtype, s.dims...) }

const numCounts = 4

// stateLayout is the order of the state, in programs and in checkpoints.
func (m *machine) stateLayout() layout {
	n := len(m.params)
	if m.remote != nil { // it has the rest
		return layout{{fieldParams, n}, {fieldRNG, 1}, {fieldScale, 1}}
	}
	return layout{{fieldParams, n}, {fieldM, n}, {fieldV, n}, {fieldRNG, 1}, {fieldScale, 1}, {fieldCounts, 1}}
}

// slots describes the state.
func (m *machine) slots() (out []slot) {
	for _, e := range m.stateLayout() {
		for i := range e.n {
			out = append(out, m.slot(e.field, i))
		}
	}
	return out
}

// slot is array i of a field of the state. With zero_stage 1 the moments are split
// over the devices along the first axis that the number of devices divides.
func (m *machine) slot(f field, i int) slot {
	s := slot{field: f, i: i, file: optimizerFile, dtype: dtypes.Float32}
	switch f {
	case fieldParams, fieldM, fieldV:
		s.name, s.dims = m.params[i].Name, intDims(m.params[i].Shape)
	}
	switch f {
	case fieldParams:
		s.file = modelFile
		return s
	case fieldM:
		s.name = "optimizer.m." + s.name
	case fieldV:
		s.name = "optimizer.v." + s.name
	case fieldRNG:
		s.name, s.dtype, s.dims = "optimizer.rng", dtypes.Uint64, []int{3}
	case fieldScale:
		s.name = "optimizer.loss_scale"
	case fieldCounts:
		s.name, s.dtype, s.dims = "optimizer.counts", dtypes.Int32, []int{numCounts}
	}
	if (f == fieldM || f == fieldV) && m.recipe.ZeroStage > 0 {
		s.cut = m.dev.SplitEvenly(s.dims...)
	}
	return s
}

// cut is how array i of a field is split over the devices.
func (m *machine) cut(f field, i int) device.Sharding {
	switch f {
	case fieldImages, fieldTokens, fieldKeep, fieldKeeps,
		fieldImg, fieldTxt, fieldImgs, fieldTxts, fieldImgSums, fieldTxtSums, fieldResiduals,
		fieldDImg, fieldDTxt, fieldDImgs, fieldDTxts:
		return device.SplitRows
	case fieldM, fieldV:
		return m.slot(f, i).cut
	}
	return device.Replicated
}

// start fills the state: the given weights, moments zero, counters at their start.
func (m *machine) start(weights func(p arch.Param) ([]float32, error)) error {
	rng, err := RNGStateFromSeed(m.recipe.Seed)
	if err != nil {
		return err
	}
	scale := float32(1)
	if m.recipe.Precision == "fp16" {
		scale = scaleStart
	}
	err = m.putState(func(s slot) (*tensors.Tensor, error) {
		switch s.field {
		case fieldParams:
			w, err := weights(m.params[s.i])
			if err != nil {
				return nil, err
			}
			return tensors.FromFlatDataAndDimensions(w, s.dims...), nil
		case fieldRNG:
			return rng, nil
		case fieldScale:
			return tensors.FromScalar(scale), nil
		case fieldCounts:
			return tensors.FromFlatDataAndDimensions([]int32{0, 0, scaleHysteresis, 0}, numCounts), nil
		}
		return tensors.FromShape(s.shape()), nil
	})
	if err == nil && m.remote != nil {
		err = m.remote.start()
	}
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

// rescale adapts the loss scale of a state to the recipe's precision if the state
// had another: fp16 has a dynamic scale, the others none.
func (m *machine) rescale() error {
	v, err := m.state.scale.Float32s()
	if err != nil {
		return err
	}
	scale := v[0]
	switch {
	case m.recipe.Precision != "fp16":
		scale = 1
	case scale == 1:
		scale = scaleStart
	}
	if scale == v[0] {
		return nil
	}
	a, err := m.dev.Put(device.Replicated, tensors.FromScalar(scale))
	if err != nil {
		return err
	}
	m.state.scale.Free()
	m.state.scale = a
	return nil
}

// putState uploads a whole state, array by array: value returns that of a slot, and
// the host holds one at a time.
func (m *machine) putState(value func(s slot) (*tensors.Tensor, error)) (err error) {
	m.freeState()
	var list []*device.Array
	defer func() {
		if err != nil {
			free(list)
		}
	}()
	for _, s := range m.slots() {
		t, err := value(s)
		if err != nil {
			return err
		}
		a, err := m.dev.Put(s.cut, t)
		if err != nil {
			return err
		}
		list = append(list, a)
	}
	m.state = named(m.stateLayout(), list).state
	return nil
}

// arrays are the state's, in the order of the slots; nil before the start.
func (m *machine) arrays() []*device.Array {
	if m.state.params == nil {
		return nil
	}
	return flat(m.stateLayout(), &values[*device.Array]{state: m.state})
}

func (m *machine) freeState() {
	free(m.arrays())
	m.state = state[*device.Array]{}
}

func (m *machine) close() {
	m.freeState()
	if m.remote != nil {
		m.remote.close()
	}
	free(m.buffers)
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

// put uploads rows lo..hi of b, padded with zeros to a multiple of the number of
// devices: images, tokens and, if replayed, the kept patches.
func (m *machine) put(b *hostBatch, lo, hi, padded int) (*values[*device.Array], error) {
	size, ctx := m.recipe.Image.Size, m.cfg.Text.ContextLength
	x := &values[*device.Array]{}
	var err error
	if m.pixels {
		x.images, err = putRows(m.dev, b.pixels, lo, hi, padded, size, size, 3)
	} else {
		x.images, err = putRows(m.dev, b.floats, lo, hi, padded, 3, size, size)
	}
	if err == nil {
		x.tokens, err = putRows(m.dev, b.tokens, lo, hi, padded, ctx)
	}
	if err == nil && m.replay {
		x.keep, err = putRows(m.dev, b.keep, lo, hi, padded, m.kept())
	}
	if err != nil {
		free(x.rows())
		return nil, err
	}
	return x, nil
}

// rows are the arrays of the rows at hand.
func (v *values[T]) rows() []T { return []T{v.images, v.tokens, v.keep, v.path} }

// putRows uploads rows lo..hi of an array with the given dims after its first axis.
func putRows[T uint8 | int32 | float32](dev *device.Device, flat []T, lo, hi, padded int, dims ...int) (*device.Array, error) {
	shape := shapes.Make(dtypes.FromGenericsType[T](), append([]int{padded}, dims...)...)
	row := shape.Size() / padded
	rows := flat[lo*row : hi*row]
	if padded > hi-lo {
		rows = append(append(make([]T, 0, padded*row), rows...), make([]T, (padded-(hi-lo))*row)...)
	}
	return dev.PutFlat(device.SplitRows, rows, shape)
}

// step advances the state by one optimizer step with the three learning rates
// and returns the metrics, which may not be computed yet.
func (m *machine) step(ctx context.Context, b *hostBatch, lr [3]float64) (*device.Array, error) {
	rates, err := m.dev.PutF32(device.Replicated, []float32{float32(lr[0]), float32(lr[1]), float32(lr[2])}, 3)
	if err != nil {
		return nil, err
	}
	defer rates.Free()
	if m.remote != nil {
		return m.remote.step(ctx, b, rates)
	}
	if m.cached != nil {
		return m.cached.step(ctx, b, rates)
	}
	x, err := m.inputs(b, rates)
	if err != nil {
		return nil, err
	}
	defer free(x.rows())
	if m.fused != nil {
		n, err := m.whole.FusedAttention(flat(m.whole.in, x)...)
		if err != nil {
			return nil, err
		}
		m.fused(n)
		m.fused = nil
	}
	out, err := m.whole.call(ctx, x)
	if err != nil {
		return nil, err
	}
	m.state = out.state
	return out.metrics, nil
}

// inputs are the inputs of the step of a whole batch.
func (m *machine) inputs(b *hostBatch, rates *device.Array) (*values[*device.Array], error) {
	x, err := m.put(b, 0, m.recipe.Batch, m.rows)
	if err != nil {
		return nil, err
	}
	x.rates, x.frozen, x.state = rates, m.buffers, m.state
	return x, nil
}
