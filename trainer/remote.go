package trainer

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
)

// remote takes a step over the processes (ranks) of a job, each with its share
// of every batch: rows [n·B/N, (n+1)·B/N) on rank n. Every rank has the whole
// parameters; masters and moments are split over all devices of all ranks
// (ZeRO-1), bucket by bucket (see bucket).
//
// What ranks exchange: features, the sums of the loss, gradients, the norms of
// tensors, parameters, and two short records. A sum over ranks is taken in rank
// order, and each rank makes every decision (overflow, clipping, trust ratios)
// from the same numbers: all stay alike without further messages.
type remote struct {
	m     *machine
	c     *cachedPrograms // embed and backward, of the rank's own parts
	world comm.Comm
	group *device.Group
	rows  rowRange // of the batch

	buckets []*bucketPrograms
	draw    *device.Program
	join    *device.Program // own features, for the others
	sums    *device.Program // of the loss's exponentials
	loss    *device.Program // the rank's share of it
	results *device.Program // the metrics

	scale  float32          // of the loss
	counts [numCounts]int32 // as in state.counts

	busy    func() float64 // seconds of the rank's own work in this step; nil: not measured
	wait    float64        // seconds spent waiting for data
	tallies []tally        // of all ranks, from the last step
}

// bucketPrograms are a bucket's programs and what this rank's devices own of it:
// arrays [D, width], float32, split along axis 0.
type bucketPrograms struct {
	bucket
	pack      *device.Program // whole gradients → [N, D, width]
	unscale   *device.Program // own gradients → without the loss scale, Σ g²
	advance   *device.Program // own gradients → moments, directions, norms of the pieces
	move      *device.Program // → own parameters
	unpack    *device.Program // [N, D, width] → whole parameters
	own, m, v *device.Array
}

// shareOf says how a batch is split over ranks of n devices each: the rows of one
// rank, and the number of parts that they are computed in.
func (r *Recipe) shareOf(ranks, n int) (rows, parts int, err error) {
	switch {
	case r.Batch%(ranks*n) != 0:
		return 0, 0, fault.Usagef("batch %d cannot be split over %d processes of %d devices each; make it a multiple of %d, or start another number of processes", r.Batch, ranks, n, ranks*n)
	case r.streams() && r.Lanes > 0 && r.Lanes%ranks != 0:
		return 0, 0, fault.Usagef("lanes %d cannot be split over %d processes; start a number of processes that divides it, or change lanes", r.Lanes, ranks)
	}
	rows = r.Batch / ranks
	if r.MicroBatch == 0 || rows <= n*r.MicroBatch {
		return rows, 1, nil
	}
	if rows%(n*r.MicroBatch) != 0 {
		return 0, 0, fault.Usagef("the %d rows of each of %d processes are not a multiple of %d devices × micro_batch %d; change one of them", rows, ranks, n, r.MicroBatch)
	}
	return rows, rows / (n * r.MicroBatch), nil
}

// ownRows are one rank's rows of a batch.
func (r *Recipe) ownRows(rank, ranks int) rowRange {
	share := r.Batch / ranks
	return rowRange{rank * share, (rank + 1) * share}
}

// newRemote makes the machine of one rank. Buckets have at most limit bytes.
func newRemote(dev *device.Device, r *Recipe, pixels, replay bool, world comm.Comm, limit int) (*machine, error) {
	rows, parts, err := r.shareOf(world.Size(), dev.N())
	if err != nil {
		return nil, err
	}
	m, err := describeMachine(dev, r, pixels, replay, parts)
	if err != nil {
		return nil, err
	}
	m.rows, m.micros = rows, parts
	m.plan = stepPlan{blocks: true}
	m.plan.settle(m.counted(), m.cfg, world.Size()*dev.N(), parts, m.room(rows, world.Size()))
	k := &remote{m: m, c: m.newCached(m.plan.residuals), world: world, group: dev.Join(world), rows: r.ownRows(world.Rank(), world.Size())}
	m.remote = k
	var sizes []int
	for i := range m.params {
		sizes = append(sizes, m.slot(fieldParams, i).shape().Size())
	}
	for i, b := range cutBuckets(sizes, k.owners(), limit) {
		k.buckets = append(k.buckets, k.newBucket(i, b))
	}
	k.programs()
	return m, nil
}

// owners are all devices of the job.
func (k *remote) owners() int { return k.world.Size() * k.m.dev.N() }

func repeated(s device.Sharding, n int) []device.Sharding {
	return slices.Repeat([]device.Sharding{s}, n)
}

// programs makes the programs of features and loss.
func (k *remote) programs() {
	m, dev, n := k.m, k.m.dev, k.m.micros
	const whole, split = device.Replicated, device.SplitRows
	drawn := 0
	if m.dropsPatches() && !m.replay {
		drawn++
	}
	paths := 0
	if m.recipe.DropPath > 0 {
		paths++
	}
	var cuts []device.Sharding
	for range n {
		cuts = append(cuts, repeated(split, drawn)...)
		cuts = append(cuts, repeated(whole, paths)...)
	}
	k.draw = dev.Program("draw-share", k.drawGraph, device.In(whole), device.Out(append([]device.Sharding{whole}, cuts...)...))
	// Own features [rows, 2E], image and text side by side: one exchange.
	// If they are rounded for it, so are the rank's own: all see the same batch.
	rounded := m.recipe.Comm.Features == "bf16"
	k.join = dev.Program("join-share", func(in []*Node) []*Node {
		var own []*Node
		if rounded {
			in = converted(in, dtypes.BFloat16)
			own = in
		}
		return append([]*Node{Concatenate([]*Node{Concatenate(in[:n], 0), Concatenate(in[n:], 0)}, 1)}, own...)
	}, device.In(split), device.Out(whole, split))
	k.sums = dev.Program("sums-share", func(in []*Node) []*Node {
		in = converted(in, dtypes.Float32)
		img, txt := halves(in[2*n])
		a := k.c.blocks.rowSums(in[:n], txt, in[2*n+1])
		b := k.c.blocks.rowSums(in[n:2*n], img, in[2*n+1])
		joined := Concatenate([]*Node{Concatenate(a, 0), Concatenate(b, 0)}, 1)
		return append(append([]*Node{joined}, a...), b...)
	}, device.In(append(repeated(split, 2*n), whole)...), device.Out(whole, split), device.SaveMemory())
	k.loss = dev.Program("loss-share", func(in []*Node) []*Node {
		in = converted(in, dtypes.Float32)
		own := ownRows{in[:n], in[n : 2*n], in[2*n : 3*n], in[3*n : 4*n]}
		rest := in[4*n:]
		var all allRows
		all.img, all.txt = halves(rest[0])
		all.imgSums, all.txtSums = halves(rest[1])
		g := k.c.blocks.gradients(own, all, rest[2], m.rows)
		return slices.Concat([]*Node{g.loss, Mul(g.logitScale, rest[3])}, g.img, g.txt)
	}, device.In(append(repeated(split, 4*n), whole)...), device.Out(whole, whole, split), device.SaveMemory())
	k.results = dev.Program("results", func(in []*Node) []*Node {
		var list []*Node
		for i := range numMetrics {
			x := Reshape(Slice(in[0], AxisElem(i)))
			if i == metricLogitScale {
				x = Exp(in[1])
			}
			list = append(list, x)
		}
		return []*Node{Stack(list, 0)}
	})
}

// converted is list in another type.
func converted(list []*Node, to dtypes.DType) []*Node {
	out := make([]*Node, len(list))
	for i, x := range list {
		out[i] = ConvertDType(x, to)
	}
	return out
}

// halves splits the last of two axes.
func halves(x *Node) (a, b *Node) {
	n := x.Shape().Dim(-1) / 2
	return SliceAxis(x, 1, AxisRange(0, n)), SliceAxis(x, 1, AxisRange(n, 2*n))
}

// drawGraph draws for the whole batch, as a single process does, and keeps what
// concerns the rank's own rows: the next state, then each part's patches and paths.
func (k *remote) drawGraph(in []*Node) []*Node {
	m := k.m
	x := &values[*Node]{}
	x.rng = in[0]
	if m.replay {
		x.keep = in[0] // given: not drawn
	}
	m.drawOwn(x, m.recipe.Batch, k.rows)
	out := []*Node{x.rng}
	for i := range m.micros {
		rows := AxisRange(k.c.rows(i))
		if m.dropsPatches() && !m.replay {
			out = append(out, SliceAxis(x.keep, 0, rows))
		}
		if x.path != nil {
			out = append(out, SliceAxis(x.path, 1, rows))
		}
	}
	return out
}

// newBucket makes the programs of bucket i. They are the same on every rank.
func (k *remote) newBucket(i int, b bucket) *bucketPrograms {
	m, ranks, devices := k.m, k.world.Size(), k.m.dev.N()
	o := m.recipe.Optimizer
	rule := optimizers[o.Name]
	const whole, rows = device.Replicated, device.SplitRows
	columns := device.SplitAxis(1)
	p := &bucketPrograms{bucket: b}
	program := func(what string, fn func(in []*Node) []*Node, opts ...device.ProgramOption) *device.Program {
		return m.dev.Program(fmt.Sprintf("%s-%d", what, i), fn, opts...)
	}
	p.pack = program("pack", func(in []*Node) []*Node {
		x := b.pack(in, ranks, devices)
		if m.recipe.Comm.Grads == "bf16" {
			x = ConvertDType(x, dtypes.BFloat16)
		}
		return []*Node{x}
	}, device.Out(columns))
	p.unscale = program("unscale", func(in []*Node) []*Node {
		g := in[0]
		if m.recipe.Precision == "fp16" {
			g = Div(g, in[1])
		}
		return []*Node{g, ReduceAllSum(Square(g))}
	}, device.In(rows, whole), device.Out(rows, whole), device.Donate(map[int]int{0: 0}))
	// All of a piece's update but the learning rate.
	of := func(g, own, mom, v, step *Node, e piece) *update {
		cut := func(x *Node) *Node {
			if x == nil {
				return nil
			}
			return SliceAxis(x, 1, AxisRange(e.at, e.at+e.width))
		}
		return &update{
			p: cut(own), g: cut(g), m: cut(mom), v: cut(v),
			c1: biasCorrection(step, o.Betas[0]), c2: biasCorrection(step, o.Betas[1]),
			wd: m.groups[e.param].wd, eps: o.Eps, b1: o.Betas[0], b2: o.Betas[1],
		}
	}
	// in: gradients, parameters, moments, [clip factor, optimizer step]
	p.advance = program("advance", func(in []*Node) []*Node {
		factor, step := scalarOf(in[4], 0), scalarOf(in[4], 1)
		u := &update{g: Mul(in[0], factor), m: in[2], v: in[3], b1: o.Betas[0], b2: o.Betas[1]}
		u.moments()
		var d, norms []*Node
		for _, e := range b.pieces {
			one := of(nil, in[1], u.m, u.v, step, e)
			d = append(d, rule.direction(one))
			norms = append(norms, ReduceAllSum(Square(one.p)), ReduceAllSum(Square(d[len(d)-1])))
		}
		return []*Node{Concatenate(d, 1), u.m, u.v, Stack(norms, 0)}
	}, device.In(rows, rows, rows, rows, whole), device.Out(rows, rows, rows, whole), device.Donate(map[int]int{0: 0, 2: 1, 3: 2}))
	// in: directions, parameters, the trust ratios of the pieces, [·, optimizer step], learning rates
	p.move = program("move", func(in []*Node) []*Node {
		step := scalarOf(in[3], 1)
		var list []*Node
		for j, e := range b.pieces {
			one := of(nil, in[1], nil, nil, step, e)
			gr := m.groups[e.param]
			one.lr = MulScalar(scalarOf(in[4], gr.lr), gr.scale)
			var ratio *Node
			if rule.trusts(gr.wd) {
				ratio = scalarOf(in[2], j)
			}
			w := rule.move(one, SliceAxis(in[0], 1, AxisRange(e.at, e.at+e.width)), ratio)
			if m.params[e.param].Name == "logit_scale" {
				w = ClipScalar(w, 0, logitScaleMax)
			}
			list = append(list, w)
		}
		return []*Node{Concatenate(list, 1)}
	}, device.In(rows, rows, whole), device.Out(rows), device.Donate(map[int]int{1: 0}))
	// in: the bucket of all, the parameters as they were
	donate := map[int]int{}
	for j := range b.pieces {
		donate[1+j] = j
	}
	p.unpack = program("unpack", func(in []*Node) (out []*Node) {
		for j, x := range b.unpack(in[0]) {
			e, old := b.pieces[j], in[1+j]
			if n := old.Shape().Size(); n != e.hi-e.lo { // the rest is in other buckets
				flat := Reshape(old, n)
				var list []*Node
				if e.lo > 0 {
					list = append(list, Slice(flat, AxisRange(0, e.lo)))
				}
				list = append(list, x)
				if e.hi < n {
					list = append(list, Slice(flat, AxisRange(e.hi, n)))
				}
				x = Concatenate(list, 0)
			}
			out = append(out, Reshape(x, old.Shape().Dimensions...))
		}
		return out
	}, device.In(columns, whole), device.Out(whole), device.Donate(donate))
	return p
}

// scalarOf is element i of a vector.
func scalarOf(x *Node, i int) *Node { return Reshape(Slice(x, AxisElem(i))) }

// start makes the shards of a state whose parameters are on the device: masters
// from the parameters, moments zero, counters at their start.
func (k *remote) start() error {
	scale, err := k.m.state.scale.Float32s()
	if err != nil {
		return err
	}
	k.scale, k.counts = scale[0], [numCounts]int32{2: scaleHysteresis}
	return k.putShards(func(field, int, []float32, int) error { return nil })
}

// putShards fills the shards: masters from the parameters on the device, moments
// by read, which fills dst with the elements of a moment of parameter i from lo on.
func (k *remote) putShards(read func(f field, i int, dst []float32, lo int) error) error {
	k.freeShards()
	rank, devices := k.world.Rank(), k.m.dev.N()
	for _, b := range k.buckets {
		put := func(to **device.Array, fill func(e piece, dst []float32, lo int) error) error {
			flat := make([]float32, devices*b.width)
			for _, e := range b.pieces {
				for d := range devices {
					lo := min(e.hi, e.lo+(rank*devices+d)*e.width)
					hi := min(e.hi, lo+e.width)
					if lo < hi {
						at := d*b.width + e.at
						if err := fill(e, flat[at:at+hi-lo], lo); err != nil {
							return err
						}
					}
				}
			}
			var err error
			*to, err = k.m.dev.PutF32(device.SplitRows, flat, devices, b.width)
			return err
		}
		whole := map[int][]float32{}
		for _, i := range b.params() {
			v, err := k.m.state.params[i].Float32s()
			if err != nil {
				return err
			}
			whole[i] = v
		}
		if err := put(&b.own, func(e piece, dst []float32, lo int) error { copy(dst, whole[e.param][lo:]); return nil }); err != nil {
			return err
		}
		for f, to := range map[field]**device.Array{fieldM: &b.m, fieldV: &b.v} {
			if err := put(to, func(e piece, dst []float32, lo int) error { return read(f, e.param, dst, lo) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *remote) freeShards() {
	for _, b := range k.buckets {
		free([]*device.Array{b.own, b.m, b.v})
		b.own, b.m, b.v = nil, nil, nil
	}
}

func (k *remote) close() { k.freeShards() }

// step is machine.step for the rank's rows of a batch.
func (k *remote) step(ctx context.Context, b *hostBatch, rates *device.Array) (*device.Array, error) {
	m := k.m
	loss, sums, err := k.gradients(ctx, b)
	if err != nil {
		return nil, err
	}
	own, squares, err := k.reduce(ctx, sums)
	defer func() { free(own) }()
	if err != nil {
		return nil, err
	}
	said := tally{Loss: float64(loss), Squares: squares, Wait: k.wait}
	if k.busy != nil {
		said.Busy = k.busy()
	}
	if k.tallies, err = k.exchange(said); err != nil {
		return nil, err
	}
	// What follows is the same on every rank.
	var total float64
	for _, r := range k.tallies {
		total += r.Squares
	}
	norm := float32(math.Sqrt(total))
	finite := !math.IsNaN(float64(norm)) && !math.IsInf(float64(norm), 0)
	used := k.scale
	if finite {
		k.counts[0]++
		if err := k.update(ctx, own, norm, rates); err != nil {
			return nil, err
		}
	} else {
		k.counts[3]++
	}
	if m.recipe.Precision == "fp16" {
		k.scale, k.counts[1], k.counts[2] = m.rule.after(finite, k.scale, k.counts[1], k.counts[2])
		if k.scale != used {
			a, err := m.dev.Put(device.Replicated, tensors.FromScalar(k.scale))
			if err != nil {
				return nil, err
			}
			m.state.scale.Free()
			m.state.scale = a
		}
	}
	var sum float64
	for _, r := range k.tallies {
		sum += r.Loss
	}
	known := make([]float32, numMetrics)
	known[metricLoss], known[metricGradNorm], known[metricLossScale] = float32(sum), norm, used
	known[metricSkipped] = float32(k.counts[3])
	if finite {
		known[metricFinite] = 1
	}
	in, err := m.dev.PutF32(device.Replicated, known, numMetrics)
	if err != nil {
		return nil, err
	}
	defer in.Free()
	out, err := k.results.Call(ctx, in, m.logitScaleArray())
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (m *machine) logitScaleArray() *device.Array { return m.state.params[m.logitScaleIndex()] }

// gradients returns the rank's share of the loss and of the gradients of all
// parameters, multiplied by the loss scale.
func (k *remote) gradients(ctx context.Context, b *hostBatch) (loss float32, sums []*device.Array, err error) {
	m, n := k.m, k.m.micros
	drawn := &values[*device.Array]{}
	if m.dropsPatches() && !m.replay || m.recipe.DropPath > 0 {
		list, err := k.draw.Call(ctx, m.state.rng)
		if err != nil {
			return 0, nil, err
		}
		m.state.rng.Free()
		m.state.rng, list = list[0], list[1:]
		for range n {
			if m.dropsPatches() && !m.replay {
				drawn.keeps, list = append(drawn.keeps, list[0]), list[1:]
			}
			if m.recipe.DropPath > 0 {
				drawn.paths, list = append(drawn.paths, list[0]), list[1:]
			}
		}
	}
	var imgs, txts []*device.Array
	var residuals [][]*device.Array
	defer func() { free(imgs, txts) }()
	for i := range n {
		x, err := k.c.inputs(b, drawn, i)
		if err != nil {
			return 0, nil, err
		}
		if i > 0 { // as cachedPrograms.step: one part's memory at a time
			err = imgs[i-1].Wait()
		}
		if err != nil {
			return 0, nil, err
		}
		out, err := k.c.embed.call(ctx, x)
		if err != nil {
			return 0, nil, err
		}
		free([]*device.Array{x.images, x.tokens})
		if m.replay {
			x.keep.Free()
		}
		imgs, txts, residuals = append(imgs, out.img), append(txts, out.txt), append(residuals, out.residuals)
	}
	share, dImgs, dTxts, dScale, err := k.lossShare(ctx, imgs, txts)
	if err != nil {
		return 0, nil, err
	}
	begin, err := k.c.zeros.call(ctx, &values[*device.Array]{logitScale: m.logitScaleArray()})
	if err != nil {
		return 0, nil, err
	}
	sums = begin.sums
	for i := range n {
		x, err := k.c.inputs(b, drawn, i)
		if err != nil {
			return 0, nil, err
		}
		x.dImg, x.dTxt, x.sums, x.residuals = dImgs[i], dTxts[i], sums, residuals[i]
		if err := sums[m.logitScaleIndex()].Wait(); err != nil {
			return 0, nil, err
		}
		out, err := k.c.back.call(ctx, x)
		if err != nil {
			return 0, nil, err
		}
		sums = out.sums
		free(x.rows(), x.residuals, []*device.Array{dImgs[i], dTxts[i]})
	}
	at := m.logitScaleIndex()
	sums[at].Free()
	sums[at] = dScale
	return share, sums, nil
}

// lossShare exchanges features and their sums, and returns the rank's share of the
// loss, the gradients of its features, and its share of the gradient of
// logit_scale, multiplied by the loss scale.
func (k *remote) lossShare(ctx context.Context, imgs, txts []*device.Array) (loss float32, dImgs, dTxts []*device.Array, dScale *device.Array, err error) {
	m, n := k.m, k.m.micros
	scale := m.logitScaleArray()
	own := slices.Concat(imgs, txts)
	fail := func(err error) (float32, []*device.Array, []*device.Array, *device.Array, error) {
		return 0, nil, nil, nil, err
	}
	joined, err := k.join.Call(ctx, own...)
	if err != nil {
		return fail(err)
	}
	defer free(joined)
	if len(joined) > 1 {
		own = joined[1:]
	}
	all, err := k.group.GatherRows(joined[0])
	if err != nil {
		return fail(err)
	}
	defer all.Free()
	sums, err := k.sums.Call(ctx, append(own, all, scale)...)
	if err != nil {
		return fail(err)
	}
	defer free(sums)
	allSums, err := k.group.GatherRows(sums[0])
	if err != nil {
		return fail(err)
	}
	defer allSums.Free()
	out, err := k.loss.Call(ctx, slices.Concat(own, sums[1:], []*device.Array{all, allSums, scale, m.state.scale})...)
	if err != nil {
		return fail(err)
	}
	v, err := out[0].Float32s()
	if err != nil {
		return fail(err)
	}
	out[0].Free()
	return v[0], out[2 : 2+n], out[2+n:], out[1], nil
}

// reduce sums the gradients over the ranks. It returns those that this rank owns,
// without the loss scale, and the sum of their squares.
func (k *remote) reduce(ctx context.Context, sums []*device.Array) (own []*device.Array, squares float64, err error) {
	defer func() { free(sums) }()
	for i, b := range k.buckets {
		var in []*device.Array
		for _, p := range b.params() {
			in = append(in, sums[p])
		}
		packed, err := b.pack.Call(ctx, in...)
		if err != nil {
			return own, 0, err
		}
		for j, e := range b.pieces {
			if e.hi == in[j].Size() {
				in[j].Free()
			}
		}
		g, err := k.group.ReduceScatter(ctx, packed[0])
		free(packed)
		if err != nil {
			return own, 0, err
		}
		out, err := k.buckets[i].unscale.Call(ctx, g, k.m.state.scale)
		if err != nil {
			return own, 0, err
		}
		own = append(own, out[0])
		v, err := out[1].Float32s()
		if err != nil {
			return own, 0, err
		}
		out[1].Free()
		squares += float64(v[0])
	}
	return own, squares, nil
}

// update takes the optimizer step with the given gradients and their norm. It
// consumes the gradients.
func (k *remote) update(ctx context.Context, own []*device.Array, norm float32, rates *device.Array) error {
	m := k.m
	rule := optimizers[m.recipe.Optimizer.Name]
	factor := clipBy(norm, float32(m.recipe.Optimizer.ClipGradNorm), rule.unitNorm)
	decided, err := m.dev.PutF32(device.Replicated, []float32{factor, float32(k.counts[0])}, 2)
	if err != nil {
		return err
	}
	defer decided.Free()
	var directions []*device.Array
	defer func() { free(directions) }()
	var norms []float32 // of every piece of every bucket: Σ p², Σ d²
	for i, b := range k.buckets {
		out, err := b.advance.Call(ctx, own[i], b.own, b.m, b.v, decided)
		if err != nil {
			return err
		}
		directions, b.m, b.v = append(directions, out[0]), out[1], out[2]
		v, err := out[3].Float32s()
		if err != nil {
			return err
		}
		out[3].Free()
		norms = append(norms, v...)
	}
	ratios, err := k.ratios(norms)
	if err != nil {
		return err
	}
	for i, b := range k.buckets {
		n := len(b.pieces)
		ratio, err := m.dev.PutF32(device.Replicated, ratios[:n], n)
		if err != nil {
			return err
		}
		ratios = ratios[n:]
		out, err := b.move.Call(ctx, directions[i], b.own, ratio, decided, rates)
		if err != nil {
			return err
		}
		b.own = out[0]
		free([]*device.Array{ratio, directions[i]})
		all, err := k.group.Gather(b.own)
		if err != nil {
			return err
		}
		in := []*device.Array{all}
		for _, p := range b.params() {
			in = append(in, m.state.params[p])
		}
		params, err := b.unpack.Call(ctx, in...)
		all.Free()
		if err != nil {
			return err
		}
		for j, p := range b.params() {
			m.state.params[p] = params[j]
		}
	}
	return nil
}

// ratios returns the trust ratio of every piece, which is its tensor's; norms are
// this rank's sums of squares for each piece: of the parameters, of the directions.
func (k *remote) ratios(norms []float32) ([]float32, error) {
	m := k.m
	rule := optimizers[m.recipe.Optimizer.Name]
	out := make([]float32, len(norms)/2)
	if !slices.ContainsFunc(m.groups, func(g group) bool { return rule.trusts(g.wd) }) {
		return out, nil
	}
	bytes := make([]byte, 4*len(norms))
	if _, err := binary.Encode(bytes, binary.LittleEndian, norms); err != nil {
		return nil, err
	}
	gathered := make([]byte, len(bytes)*k.world.Size())
	if err := k.world.Allgather(gathered, bytes); err != nil {
		return nil, err
	}
	all := make([]float32, len(norms)*k.world.Size())
	if _, err := binary.Decode(gathered, binary.LittleEndian, all); err != nil {
		return nil, err
	}
	p, d := make([]float64, len(m.params)), make([]float64, len(m.params))
	for rank := range k.world.Size() {
		i := rank * len(norms)
		for _, b := range k.buckets {
			for _, e := range b.pieces {
				p[e.param] += float64(all[i])
				d[e.param] += float64(all[i+1])
				i += 2
			}
		}
	}
	i := 0
	for _, b := range k.buckets {
		for _, e := range b.pieces {
			ratio := float32(1)
			if pn, dn := float32(math.Sqrt(p[e.param])), float32(math.Sqrt(d[e.param])); pn*dn > 0 { // as trust
				ratio = pn / dn
			}
			if rule.most > 0 {
				ratio = max(float32(rule.least), min(float32(rule.most), ratio))
			}
			out[i] = ratio
			i++
		}
	}
	return out, nil
}

// clipBy is clipFactor on the host, in float32.
func clipBy(n, clip float32, unitNorm bool) float32 {
	f := float32(1)
	if clip > 0 {
		f = min(clip/(n+1e-6), 1)
	}
	if unitNorm {
		f /= max(n*f, 1)
	}
	return f
}

// after is next on the host.
func (r lossScaleRule) after(finite bool, scale float32, clean, left int32) (float32, int32, int32) {
	if finite {
		if clean++; clean == int32(r.window) {
			return scale * 2, 0, int32(r.hysteresis)
		}
		return scale, clean, left
	}
	if left <= 1 {
		return max(scale*0.5, float32(r.min)), 0, left
	}
	return scale, 0, left - 1
}

// tally is what a rank tells the others at a step, padded to tallyBytes so that it
// can grow.
type tally struct {
	Loss    float64 // the rank's share
	Squares float64 // Σ g² of what it owns
	Wait    float64 // seconds spent waiting for data
	Busy    float64 // seconds since the last record, without exchanges
	Flags   uint64
}

const tallyBytes = 256

// exchange gives every rank the records of all.
func (k *remote) exchange(r tally) ([]tally, error) { return exchangeTallies(k.world, r) }

func exchangeTallies(world comm.Comm, r tally) ([]tally, error) {
	own := make([]byte, tallyBytes)
	if _, err := binary.Encode(own, binary.LittleEndian, r); err != nil {
		return nil, err
	}
	all := make([]byte, tallyBytes*world.Size())
	if err := world.Allgather(all, own); err != nil {
		return nil, err
	}
	list := make([]tally, world.Size())
	for i := range list {
		if _, err := binary.Decode(all[i*tallyBytes:(i+1)*tallyBytes], binary.LittleEndian, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// rowsOf are some rows of a flat array of n rows.
func rowsOf[T any](flat []T, own rowRange, n int) []T {
	row := len(flat) / n
	return flat[own.from*row : own.to*row]
}
