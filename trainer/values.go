package trainer

import (
	"context"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/device"
)

// values are the arrays that the programs of a step take and give, by name.
// T stands for an array: *Node in a graph, *device.Array in a call.
type values[T any] struct {
	images T // of the rows at hand, as bytes or normalised floats
	tokens T // of the same rows
	rates  T // the three learning rates
	keep   T // the patches that stay, [rows, kept]
	path   T // the residual branches that stay, [2·layers, rows] uniform
	frozen []T
	state[T]
	metrics T

	// A batch in parts has them, too:
	img, txt       T // features of the rows at hand
	dImg, dTxt     T // the loss's gradient with respect to them
	allImg, allTxt T // features of the whole batch
	logitScale     T
	loss           T
	dLogitScale    T
	sums           []T // gradients of the parameters, of the parts so far

	residuals []T // inputs of the blocks, of the rows at hand
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

// layout is the order of a program's inputs or outputs. A list that comes
// several times goes on where it stopped.
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

// reuse is the donation of the arrays that are both taken and given: input →
// output.
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

// positions are the numbers of a field's arrays.
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

// program makes one of a graph that takes in and gives out. The memory of the
// reused fields is taken over; a call consumes them.
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

// free releases arrays; those that are not there, or were consumed, too.
func free(lists ...[]*device.Array) {
	for _, list := range lists {
		for _, a := range list {
			a.Free()
		}
	}
}
