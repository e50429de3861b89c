package trainer

import (
	"context"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/device"
)

// cachedPrograms take a step whose batch does not fit the devices at once
// (GradCache): embed every part without keeping activations, compute the loss
// over all features and its gradient with respect to them, then run every
// part again and push that gradient back. All gradients, logit_scale's too,
// equal the big batch's.
type cachedPrograms struct {
	m     *machine
	draw  *program // the draws of every part
	embed *program // a part's features
	join  *program // the batch's features
	loss  *program // the loss, and its gradient for every part's features
	back  *program // adds a part's gradients to the sums
	apply *program // the optimizer
}

func (m *machine) newCached() *cachedPrograms {
	c := &cachedPrograms{m: m}
	n := len(m.params)
	each := func(list ...field) (l layout) {
		for _, f := range list {
			l = append(l, entry{f, m.micros})
		}
		return l
	}
	part := layout{{fieldParams, n}, {fieldFrozen, len(m.frozen)}, {fieldImages, 1}, {fieldTokens, 1}}
	var drawn layout
	if m.dropsPatches() {
		part, drawn = append(part, entry{fieldKeep, 1}), append(drawn, entry{fieldKeeps, 1})
	}
	if m.recipe.DropPath > 0 {
		part, drawn = append(part, entry{fieldPath, 1}), append(drawn, entry{fieldPaths, 1})
	}
	draws := fields(fieldRNG)
	for range m.micros {
		draws = append(draws, drawn...)
	}
	c.draw = m.program("draw", fields(fieldRNG), draws, []field{fieldRNG}, c.drawGraph)
	c.embed = m.program("embed", part, fields(fieldImg, fieldTxt), nil, c.embedGraph)
	c.join = m.program("join", each(fieldImgs, fieldTxts), fields(fieldAllImg, fieldAllTxt), nil, c.joinGraph)
	c.loss = m.program("loss", fields(fieldAllImg, fieldAllTxt, fieldLogitScale),
		append(fields(fieldLoss, fieldDLogitScale), each(fieldDImgs, fieldDTxts)...), nil, c.lossGraph)
	sums := layout{{fieldSums, n}}
	c.back = m.program("backward", slices.Concat(part, fields(fieldDImg, fieldDTxt), sums, fields(fieldScale)), sums,
		[]field{fieldSums}, c.backGraph, device.SaveMemory())
	c.apply = m.program("apply", slices.Concat(fields(fieldLoss, fieldDLogitScale, fieldRates), sums, m.stateLayout()),
		append(fields(fieldMetrics), m.stateLayout()...), stateFields, c.applyGraph)
	return c
}

// part is the number of rows of one part.
func (c *cachedPrograms) part() int { return c.m.recipe.Batch / c.m.micros }

// rows are those of part i.
func (c *cachedPrograms) rows(i int) (lo, hi int) { return i * c.part(), (i + 1) * c.part() }

// drawGraph draws for the whole batch at once, so that the size of the parts
// does not change what is drawn.
func (c *cachedPrograms) drawGraph(x *values[*Node]) *values[*Node] {
	c.m.draw(x, c.m.recipe.Batch)
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
	x.img, x.txt = c.m.features(x)
	return x
}

func (c *cachedPrograms) joinGraph(x *values[*Node]) *values[*Node] {
	x.allImg, x.allTxt = Concatenate(x.imgs, 0), Concatenate(x.txts, 0)
	return x
}

// lossGraph sums the loss part by part: the logits of one part of the rows
// against all columns are alive at a time, not batch × batch of them.
func (c *cachedPrograms) lossGraph(x *values[*Node]) *values[*Node] {
	var sum *Node
	for i := range c.m.micros {
		rows := AxisRange(c.rows(i))
		img, txt := Slice(x.allImg, rows), Slice(x.allTxt, rows)
		s := Add(matchRows(img, x.allTxt, x.logitScale, img, txt), matchRows(txt, x.allImg, x.logitScale, txt, img))
		if sum == nil {
			sum = s
		} else {
			sum = Add(sum, s)
		}
	}
	x.loss = MulScalar(sum, 0.5/float64(c.m.recipe.Batch))
	g := Gradient(x.loss, x.allImg, x.allTxt, x.logitScale)
	x.dLogitScale = g[2]
	for k, to := range []*[]*Node{&x.dImgs, &x.dTxts} {
		for i := range c.m.micros {
			*to = append(*to, Slice(g[k], AxisRange(c.rows(i))))
		}
	}
	return x
}

// backGraph adds one part's gradients to the sums. The loss scale multiplies
// here, in front of the half-precision part of the backward pass.
func (c *cachedPrograms) backGraph(x *values[*Node]) *values[*Node] {
	img, txt := c.m.features(x)
	pushed := Add(ReduceAllSum(Mul(img, x.dImg)), ReduceAllSum(Mul(txt, x.dTxt)))
	// logit_scale does not reach the features; the term only keeps its gradient defined.
	pushed = Add(pushed, MulScalar(c.m.logitScale(x.params), 0))
	for i, g := range Gradient(Mul(pushed, x.scale), x.params...) {
		x.sums[i] = Add(x.sums[i], g)
	}
	return x
}

func (c *cachedPrograms) applyGraph(x *values[*Node]) *values[*Node] {
	x.sums[c.m.logitScaleIndex()] = Mul(x.dLogitScale, x.scale)
	return c.m.apply(&x.state, x.loss, x.sums, x.rates)
}

// step is machine.step for a batch in parts.
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
	var all values[*device.Array] // what the parts give
	for i := range m.micros {
		x, err := c.inputs(b, drawn, i)
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
		all.imgs, all.txts = append(all.imgs, out.img), append(all.txts, out.txt)
	}
	joined, err := c.join.call(ctx, &all)
	if err != nil {
		return nil, err
	}
	free(all.imgs, all.txts)
	joined.logitScale = m.state.params[m.logitScaleIndex()]
	loss, err := c.loss.call(ctx, joined)
	if err != nil {
		return nil, err
	}
	free([]*device.Array{joined.allImg, joined.allTxt})
	if loss.sums, err = c.zeros(); err != nil {
		return nil, err
	}
	for i := range m.micros {
		x, err := c.inputs(b, drawn, i)
		if err != nil {
			return nil, err
		}
		x.dImg, x.dTxt, x.sums = loss.dImgs[i], loss.dTxts[i], loss.sums
		out, err := c.back.call(ctx, x)
		if err != nil {
			return nil, err
		}
		loss.sums = out.sums
		free(x.rows())
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

// inputs are those of part i. The kept patches of a batch that is replayed
// come with it.
func (c *cachedPrograms) inputs(b *hostBatch, drawn *values[*device.Array], i int) (*values[*device.Array], error) {
	lo, hi := c.rows(i)
	x, err := c.m.put(b, lo, hi, c.part())
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

// zeros are gradients to begin with.
func (c *cachedPrograms) zeros() ([]*device.Array, error) {
	var out []*device.Array
	for i := range c.m.params {
		a, err := c.m.dev.Put(device.Replicated, tensors.FromShape(c.m.slot(fieldParams, i).shape()))
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}
