package trainer

import (
	"context"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
)

// cachedPrograms take a step whose batch does not fit the devices at once
// (GradCache): embed every part, compute the loss over all features and its
// gradient with respect to them, then push that gradient back through every
// part. All gradients, including logit_scale's, equal those of the whole batch.
//
// What a part's backward pass needs is either handed over (residuals: the input of
// every block, so that blocks are recomputed, as checkpointing does anyway), or the
// part is run again.
type cachedPrograms struct {
	m         *machine
	residuals bool
	blocks    blockLoss

	draw     *program // the random draws of every part
	embed    *program // a part's features, and its residuals
	join     *program // the batch's features
	sums     *program // of the loss's exponentials, for every part
	joinSums *program // those of the batch
	loss     *program // the loss, and its gradient for every part's features
	zeros    *program // initial gradient sums
	back     *program // adds a part's gradients to the sums
	apply    *program // the optimizer
}

func (m *machine) newCached(residuals bool) *cachedPrograms {
	c := &cachedPrograms{m: m, residuals: residuals, blocks: m.blockLoss()}
	n := len(m.params)
	each := func(list ...field) (l layout) {
		for _, f := range list {
			l = append(l, entry{f, m.micros})
		}
		return l
	}
	part := layout{{fieldParams, n}, {fieldFrozen, len(m.frozen)}, {fieldImages, 1}, {fieldTokens, 1}}
	var drawn, kept layout
	if m.dropsPatches() {
		part, drawn = append(part, entry{fieldKeep, 1}), append(drawn, entry{fieldKeeps, 1})
	}
	if m.recipe.DropPath > 0 {
		part, drawn = append(part, entry{fieldPath, 1}), append(drawn, entry{fieldPaths, 1})
	}
	if residuals {
		kept = layout{{fieldResiduals, m.cfg.Layers(arch.TextTower) + m.cfg.Layers(arch.VisualTower)}}
	}
	draws := fields(fieldRNG)
	for range m.micros {
		draws = append(draws, drawn...)
	}
	own, all := each(fieldImgs, fieldTxts), fields(fieldAllImg, fieldAllTxt)
	ownSums, allSums := each(fieldImgSums, fieldTxtSums), fields(fieldAllImgSums, fieldAllTxtSums)
	scale := fields(fieldLogitScale)
	c.draw = m.program("draw", fields(fieldRNG), draws, []field{fieldRNG}, c.drawGraph)
	c.embed = m.program("embed", part, append(fields(fieldImg, fieldTxt), kept...), nil, c.embedGraph)
	c.join = m.program("join", own, all, nil, c.joinGraph)
	c.sums = m.program("sums", slices.Concat(own, all, scale), ownSums, nil, c.sumsGraph, device.SaveMemory())
	c.joinSums = m.program("join-sums", ownSums, allSums, nil, c.joinSumsGraph)
	c.loss = m.program("loss", slices.Concat(own, ownSums, all, allSums, scale),
		append(fields(fieldLoss, fieldDLogitScale), each(fieldDImgs, fieldDTxts)...), nil, c.lossGraph, device.SaveMemory())
	sums := layout{{fieldSums, n}}
	c.zeros = m.program("zeros", scale, sums, nil, c.zerosGraph)
	c.back = m.program("backward", slices.Concat(part, kept, fields(fieldDImg, fieldDTxt), sums, fields(fieldScale)), sums,
		[]field{fieldSums}, c.backGraph, device.SaveMemory())
	c.apply = m.program("apply", slices.Concat(fields(fieldLoss, fieldDLogitScale, fieldRates), sums, m.stateLayout()),
		append(fields(fieldMetrics), m.stateLayout()...), stateFields, c.applyGraph)
	return c
}

// part is the number of rows of one part.
func (c *cachedPrograms) part() int { return c.m.rows / c.m.micros }

// rows are the rows of part i.
func (c *cachedPrograms) rows(i int) (lo, hi int) { return i * c.part(), (i + 1) * c.part() }

// drawGraph draws for the whole batch at once, so that the size of the parts
// does not change the draws.
func (c *cachedPrograms) drawGraph(x *values[*Node]) *values[*Node] {
	c.m.draw(x, c.m.rows)
	for i := range c.m.micros {
		rows := AxisRange(c.rows(i))
		if x.keep != nil {
			x.keeps = append(x.keeps, SliceAxis(x.keep, 0, rows))
		}
		if x.path != nil {
			x.paths = append(x.paths, SliceAxis(x.path, 1, rows))
		}
	}
	return x
}

func (c *cachedPrograms) embedGraph(x *values[*Node]) *values[*Node] {
	var block blockFunc
	if c.residuals {
		block = func(in *Node, _ arch.Tower, _ int, run runFunc) *Node {
			x.residuals = append(x.residuals, in)
			return run(in, nil)
		}
	}
	x.img, x.txt = c.m.features(x, block)
	return x
}

func (c *cachedPrograms) joinGraph(x *values[*Node]) *values[*Node] {
	x.allImg, x.allTxt = Concatenate(x.imgs, 0), Concatenate(x.txts, 0)
	return x
}

func (c *cachedPrograms) sumsGraph(x *values[*Node]) *values[*Node] {
	x.imgSums = c.blocks.rowSums(x.imgs, x.allTxt, x.logitScale)
	x.txtSums = c.blocks.rowSums(x.txts, x.allImg, x.logitScale)
	return x
}

func (c *cachedPrograms) joinSumsGraph(x *values[*Node]) *values[*Node] {
	x.allImgSums, x.allTxtSums = Concatenate(x.imgSums, 0), Concatenate(x.txtSums, 0)
	return x
}

func (c *cachedPrograms) lossGraph(x *values[*Node]) *values[*Node] {
	own, all := ownRows{x.imgs, x.txts, x.imgSums, x.txtSums}, allRows{x.allImg, x.allTxt, x.allImgSums, x.allTxtSums}
	g := c.blocks.gradients(own, all, x.logitScale, c.m.recipe.Batch)
	x.loss, x.dLogitScale, x.dImgs, x.dTxts = g.loss, g.logitScale, g.img, g.txt
	return x
}

func (c *cachedPrograms) zerosGraph(x *values[*Node]) *values[*Node] {
	for i := range c.m.params {
		x.sums = append(x.sums, Zeros(x.logitScale.Graph(), c.m.slot(fieldParams, i).shape()))
	}
	return x
}

// backGraph adds one part's gradients to the sums. The loss scale is applied here,
// before the half-precision part of the backward pass.
func (c *cachedPrograms) backGraph(x *values[*Node]) *values[*Node] {
	c.m.pull(x, func(img, txt *Node) *Node { return pushed(img, txt, x) })
	return x
}

// pushed is a scalar whose gradient is that of the loss through the features.
func pushed(img, txt *Node, x *values[*Node]) *Node {
	return Add(ReduceAllSum(Mul(img, x.dImg)), ReduceAllSum(Mul(txt, x.dTxt)))
}

func (c *cachedPrograms) applyGraph(x *values[*Node]) *values[*Node] {
	x.sums[c.m.logitScaleIndex()] = Mul(x.dLogitScale, x.scale)
	return c.m.apply(&x.state, x.loss, x.sums, x.rates)
}

// step is machine.step for a batch in parts. A part is uploaded while the one before
// runs, but started only when that is done: a running program holds its memory, and
// so do those queued behind it.
func (c *cachedPrograms) step(ctx context.Context, b *hostBatch, rates *device.Array) (*device.Array, error) {
	m := c.m
	drawn := &values[*device.Array]{}
	if !m.replay {
		var err error
		if drawn, err = c.draw.call(ctx, &values[*device.Array]{state: m.state}); err != nil {
			return nil, err
		}
		m.state.rng = drawn.rng
	}
	var all values[*device.Array] // outputs of the parts
	var residuals [][]*device.Array
	for i := range m.micros {
		x, err := c.inputs(b, drawn, i)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			err = all.imgs[i-1].Wait()
		}
		if err != nil {
			return nil, err
		}
		out, err := c.embed.call(ctx, x)
		if err != nil {
			return nil, err
		}
		free([]*device.Array{x.images, x.tokens})
		if m.replay {
			x.keep.Free() // it came with the rows
		}
		all.imgs, all.txts, residuals = append(all.imgs, out.img), append(all.txts, out.txt), append(residuals, out.residuals)
	}
	loss, err := c.lossOf(ctx, &all)
	if err != nil {
		return nil, err
	}
	for i := range m.micros {
		x, err := c.inputs(b, drawn, i)
		if err != nil {
			return nil, err
		}
		x.dImg, x.dTxt, x.sums, x.residuals = loss.dImgs[i], loss.dTxts[i], loss.sums, residuals[i]
		if err := loss.sums[c.m.logitScaleIndex()].Wait(); err != nil {
			return nil, err
		}
		out, err := c.back.call(ctx, x)
		if err != nil {
			return nil, err
		}
		loss.sums = out.sums
		free(x.rows(), x.residuals)
	}
	loss.rates, loss.state = rates, m.state
	out, err := c.apply.call(ctx, loss)
	if err != nil {
		return nil, err
	}
	free([]*device.Array{loss.loss, loss.dLogitScale}, loss.dImgs, loss.dTxts, loss.sums)
	m.state = out.state
	return out.metrics, nil
}

// lossOf computes the loss of the features of all parts, its gradients, and initial
// gradient sums of the parameters. It frees the features.
func (c *cachedPrograms) lossOf(ctx context.Context, x *values[*device.Array]) (*values[*device.Array], error) {
	x.logitScale = c.m.state.params[c.m.logitScaleIndex()]
	joined, err := c.join.call(ctx, x)
	if err != nil {
		return nil, err
	}
	x.allImg, x.allTxt = joined.allImg, joined.allTxt
	sums, err := c.sums.call(ctx, x)
	if err != nil {
		return nil, err
	}
	x.imgSums, x.txtSums = sums.imgSums, sums.txtSums
	if joined, err = c.joinSums.call(ctx, x); err != nil {
		return nil, err
	}
	x.allImgSums, x.allTxtSums = joined.allImgSums, joined.allTxtSums
	loss, err := c.loss.call(ctx, x)
	if err != nil {
		return nil, err
	}
	free(x.imgs, x.txts, x.imgSums, x.txtSums, []*device.Array{x.allImg, x.allTxt, x.allImgSums, x.allTxtSums})
	begin, err := c.zeros.call(ctx, x)
	if err != nil {
		return nil, err
	}
	loss.sums = begin.sums
	return loss, nil
}

// inputs are the inputs of part i. A replayed batch brings its kept patches.
func (c *cachedPrograms) inputs(b *hostBatch, drawn *values[*device.Array], i int) (*values[*device.Array], error) {
	lo, hi := c.rows(i)
	x, err := c.m.put(b, lo, min(hi, c.m.recipe.Batch), c.part())
	if err != nil {
		return nil, err
	}
	x.state, x.frozen = c.m.state, c.m.buffers
	if drawn.keeps != nil {
		x.keep = drawn.keeps[i]
	}
	if drawn.paths != nil {
		x.path = drawn.paths[i]
	}
	return x, nil
}
