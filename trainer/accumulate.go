package trainer

import (
	"context"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/device"
)

// cachedPrograms take a step whose batch does not fit the devices at once
// (GradCache): embed every part without keeping activations, compute the loss
// over all embeddings and its gradient with respect to them, then run every
// part again and push that gradient back. All gradients, logit_scale's too,
// equal the big batch's.
type cachedPrograms struct {
	m     *machine
	draw  *device.Program // rng → rng, draws per part
	embed *device.Program // params, frozen, images, tokens, draws → image, text embeddings
	join  *device.Program // image parts…, text parts… → all images, all texts
	loss  *device.Program // all images, all texts, logit_scale → loss, d logit_scale, d images per part, d texts per part
	back  *device.Program // params, frozen, images, tokens, draws, d image, d text, sums… → sums + gradients
	apply *device.Program // loss, d logit_scale, rates, sums…, state → metrics, state
}

func (m *machine) newCached() *cachedPrograms {
	c := &cachedPrograms{m: m}
	rep, rows := device.Replicated, device.SplitRows
	var model []device.Sharding // parameters and frozen buffers
	for range len(m.params) + len(m.frozen) {
		model = append(model, rep)
	}
	perPart := m.drawsPerPart()
	var partDraws []device.Sharding
	if m.dropsPatches() {
		partDraws = append(partDraws, rows)
	}
	if m.recipe.DropPath > 0 {
		partDraws = append(partDraws, rep)
	}
	drawOut := []device.Sharding{rep}
	for range m.micros {
		drawOut = append(drawOut, partDraws...)
	}
	c.draw = m.dev.Program("draw", c.drawGraph, device.In(rep), device.Out(drawOut...), device.Donate(map[int]int{0: 0}))

	part := append(append(append([]device.Sharding{}, model...), rows, rows), partDraws...)
	c.embed = m.dev.Program("embed", c.embedGraph, device.In(part...), device.Out(rows))
	c.join = m.dev.Program("join", func(in []*Node) []*Node {
		return []*Node{Concatenate(in[:m.micros], 0), Concatenate(in[m.micros:], 0)}
	}, device.In(rows), device.Out(rep))
	c.loss = m.dev.Program("loss", c.lossGraph, device.In(rep), device.Out(append([]device.Sharding{rep, rep}, rows)...))

	sums := map[int]int{}
	first := len(model) + 2 + perPart + 2
	for i := range m.params {
		sums[first+i] = i
	}
	backIn := append(append([]device.Sharding{}, part...), rows, rows, rep)
	c.back = m.dev.Program("backward", c.backGraph, device.In(backIn...), device.Out(rep), device.Donate(sums), device.SaveMemory())

	in, out := []device.Sharding{rep, rep, rep}, []device.Sharding{rep}
	for range m.params {
		in = append(in, rep)
	}
	donate := map[int]int{}
	for i, s := range m.slots() {
		donate[len(in)] = 1 + i
		in, out = append(in, s.cut), append(out, s.cut)
	}
	c.apply = m.dev.Program("apply", c.applyGraph, device.In(in...), device.Out(out...), device.Donate(donate))
	return c
}

func (m *machine) drawsPerPart() int {
	n := 0
	if m.dropsPatches() {
		n++
	}
	if m.recipe.DropPath > 0 {
		n++
	}
	return n
}

// part is the number of rows of one part.
func (c *cachedPrograms) part() int { return c.m.recipe.Batch / c.m.micros }

// drawGraph draws for the whole batch at once, so that the size of the parts
// does not change what is drawn.
func (c *cachedPrograms) drawGraph(in []*Node) []*Node {
	m := c.m
	rng, d := m.draw(in[0], m.recipe.Batch, nil)
	out := []*Node{rng}
	for i := range m.micros {
		rows := AxisRange(i*c.part(), (i+1)*c.part())
		if d.keep != nil {
			out = append(out, SliceAxis(d.keep, 0, rows))
		}
		if d.path != nil {
			out = append(out, SliceAxis(d.path, 1, rows))
		}
	}
	return out
}

// modelPart splits the inputs that embed and back share off the front.
func (c *cachedPrograms) modelPart(in []*Node) (params, frozen []*Node, images, tokens *Node, d draws, rest []*Node) {
	m := c.m
	params, in = in[:len(m.params)], in[len(m.params):]
	frozen, in = in[:len(m.frozen)], in[len(m.frozen):]
	images, tokens, in = in[0], in[1], in[2:]
	if m.dropsPatches() {
		d.keep, in = in[0], in[1:]
	}
	if m.recipe.DropPath > 0 {
		d.path, in = in[0], in[1:]
	}
	return params, frozen, images, tokens, d, in
}

func (c *cachedPrograms) embedGraph(in []*Node) []*Node {
	params, frozen, images, tokens, d, _ := c.modelPart(in)
	img, txt := c.m.features(params, frozen, images, tokens, d)
	return []*Node{img, txt}
}

// lossGraph sums the loss part by part: the logits of one part of the rows
// against all columns are alive at a time, not batch × batch of them.
func (c *cachedPrograms) lossGraph(in []*Node) []*Node {
	images, texts, logitScale := in[0], in[1], in[2]
	var sum *Node
	for i := range c.m.micros {
		rows := AxisRange(i*c.part(), (i+1)*c.part())
		img, txt := Slice(images, rows), Slice(texts, rows)
		s := Add(matchRows(img, texts, logitScale, img, txt), matchRows(txt, images, logitScale, txt, img))
		if sum == nil {
			sum = s
		} else {
			sum = Add(sum, s)
		}
	}
	loss := MulScalar(sum, 0.5/float64(c.m.recipe.Batch))
	g := Gradient(loss, images, texts, logitScale)
	out := []*Node{loss, g[2]}
	for _, d := range g[:2] {
		for i := range c.m.micros {
			out = append(out, Slice(d, AxisRange(i*c.part(), (i+1)*c.part())))
		}
	}
	return out
}

// backGraph adds one part's gradients to the sums. The loss scale multiplies
// here, in front of the half-precision part of the backward pass.
func (c *cachedPrograms) backGraph(in []*Node) []*Node {
	m := c.m
	params, frozen, images, tokens, d, rest := c.modelPart(in)
	dImg, dTxt, scale, sums := rest[0], rest[1], rest[2+len(m.params)], rest[2:2+len(m.params)]
	img, txt := m.features(params, frozen, images, tokens, d)
	pushed := Add(ReduceAllSum(Mul(img, dImg)), ReduceAllSum(Mul(txt, dTxt)))
	// logit_scale does not reach the embeddings; the term only keeps its gradient defined.
	pushed = Add(pushed, MulScalar(m.logitScale(params), 0))
	out := Gradient(Mul(pushed, scale), params...)
	for i := range out {
		out[i] = Add(sums[i], out[i])
	}
	return out
}

func (c *cachedPrograms) applyGraph(in []*Node) []*Node {
	m := c.m
	loss, dScale, rates := in[0], in[1], in[2]
	grads := append([]*Node(nil), in[3:3+len(m.params)]...)
	s := m.unpack(in[3+len(m.params):])
	grads[m.logitScaleIndex()] = Mul(dScale, s.scale)
	return m.apply(s, loss, grads, rates)
}

// step is machine.step for a batch in parts.
func (c *cachedPrograms) step(ctx context.Context, b *hostBatch, rates *device.Array) (*device.Array, error) {
	m, n := c.m, len(c.m.params)
	var parts [][]*device.Array
	if m.replay {
		return c.replay(ctx, b, rates)
	}
	drawn, err := c.draw.Call(ctx, m.state[3*n+slotRNG])
	if err != nil {
		return nil, err
	}
	m.state[3*n+slotRNG] = drawn[0]
	per := m.drawsPerPart()
	for i := range m.micros {
		parts = append(parts, drawn[1+i*per:1+(i+1)*per])
	}
	return c.run(ctx, b, rates, parts)
}

// replay takes the kept patches from the batch.
func (c *cachedPrograms) replay(ctx context.Context, b *hostBatch, rates *device.Array) (*device.Array, error) {
	var parts [][]*device.Array
	for i := range c.m.micros {
		t := rowsTensor(b.keep, i*c.part(), (i+1)*c.part(), c.part(), c.m.kept())
		a, err := c.m.dev.Put(device.SplitRows, t)
		if err != nil {
			return nil, err
		}
		parts = append(parts, []*device.Array{a})
	}
	return c.run(ctx, b, rates, parts)
}

func (c *cachedPrograms) run(ctx context.Context, b *hostBatch, rates *device.Array, partDraws [][]*device.Array) (*device.Array, error) {
	m, n := c.m, len(c.m.params)
	model := append(append([]*device.Array{}, m.state[:n]...), m.buffers...)
	inputs := func(i int) ([]*device.Array, []*device.Array, error) {
		batch, err := m.put(b, i*c.part(), (i+1)*c.part(), c.part())
		if err != nil {
			return nil, nil, err
		}
		return append(append(append([]*device.Array{}, model...), batch[:2]...), partDraws[i]...), batch, nil
	}
	imgs, txts := make([]*device.Array, m.micros), make([]*device.Array, m.micros)
	for i := range m.micros {
		args, batch, err := inputs(i)
		if err != nil {
			return nil, err
		}
		out, err := c.embed.Call(ctx, args...)
		if err != nil {
			return nil, err
		}
		free(batch)
		imgs[i], txts[i] = out[0], out[1]
	}
	all, err := c.join.Call(ctx, append(imgs, txts...)...)
	if err != nil {
		return nil, err
	}
	free(imgs)
	free(txts)
	lossAndGrads, err := c.loss.Call(ctx, all[0], all[1], m.state[m.logitScaleIndex()])
	if err != nil {
		return nil, err
	}
	free(all)
	sums, err := c.zeros()
	if err != nil {
		return nil, err
	}
	for i := range m.micros {
		args, batch, err := inputs(i)
		if err != nil {
			return nil, err
		}
		args = append(args, lossAndGrads[2+i], lossAndGrads[2+m.micros+i])
		args = append(append(args, sums...), m.state[3*n+slotScale])
		if sums, err = c.back.Call(ctx, args...); err != nil {
			return nil, err
		}
		free(batch)
		free(partDraws[i])
	}
	args := append([]*device.Array{lossAndGrads[0], lossAndGrads[1], rates}, sums...)
	out, err := c.apply.Call(ctx, append(args, m.state...)...)
	if err != nil {
		return nil, err
	}
	free(lossAndGrads)
	free(sums)
	m.state = out[1:]
	return out[0], nil
}

func (c *cachedPrograms) zeros() ([]*device.Array, error) {
	var out []*device.Array
	for _, s := range c.m.slots()[:len(c.m.params)] {
		a, err := c.m.dev.Put(device.Replicated, tensors.FromShape(s.shape()))
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func free(list []*device.Array) {
	for _, a := range list {
		a.Free()
	}
}
