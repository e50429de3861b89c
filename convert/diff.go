package convert

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// DiffOptions says how Diff compares.
type DiffOptions struct {
	ATol float64 // largest absolute difference that counts as equal
	Map  string  // auto (default): by EVA's names when both are CLIP models; none: by the names as they are
	Key  string  // path of the state dict inside a wrapper, for both
}

// Difference is the result of Diff.
type Difference struct {
	A       string       `json:"a"`
	B       string       `json:"b"`
	Map     string       `json:"map"` // eva or none
	ATol    float64      `json:"atol"`
	Equal   bool         `json:"equal"`
	Tensors []TensorDiff `json:"tensors"`
	OnlyA   []string     `json:"only_a"`
	OnlyB   []string     `json:"only_b"`
}

// TensorDiff compares one tensor.
type TensorDiff struct {
	Name    string  `json:"name"`
	Equal   bool    `json:"equal"`
	MaxAbs  float64 `json:"max_abs"`
	MaxRel  float64 `json:"max_rel"` // |a-b| / |b|
	DTypeA  string  `json:"dtype_a"`
	DTypeB  string  `json:"dtype_b"`
	Problem string  `json:"problem,omitempty"` // why the values cannot be compared
}

// Diff compares two checkpoints by value, across containers, element types
// and layouts. NaN equals NaN.
func Diff(ctx context.Context, a, b string, o DiffOptions) (*Difference, error) {
	if o.Map != "" && o.Map != "auto" && o.Map != "none" {
		return nil, fault.Usagef("--map %s: want auto or none", o.Map)
	}
	if !(o.ATol >= 0) {
		return nil, fault.Usagef("--atol %v: want 0 or more", o.ATol)
	}
	d := &Difference{A: a, B: b, ATol: o.ATol, Map: "none"}
	var in [2]*input
	var plans [2]*plan
	for i, path := range []string{a, b} {
		var err error
		if in[i], err = openInput([]string{path}, o.Key); err != nil {
			return nil, err
		}
		defer in[i].Close()
		plans[i] = tensorsOf(in[i].inventory(), o.Map != "none")
	}
	if plans[0] != nil && plans[1] != nil {
		d.Map = "eva"
	} else {
		for i := range plans {
			plans[i] = tensorsOf(in[i].inventory(), false)
		}
	}
	return d, d.compare(ctx, in, plans)
}

// tensorsOf is a plan for the tensors by EVA's names, or by their own; nil when
// they are no CLIP model's.
func tensorsOf(inv *inventory, mapped bool) *plan {
	p := &plan{}
	if !mapped {
		for _, t := range inv.tensors {
			p.items = append(p.items, &item{out: t, eva: t.Name, parts: []part{whole(t)}})
		}
		return p
	}
	v, err := see(inv)
	if err != nil || len(v.unknown) > 0 {
		return nil
	}
	for _, e := range v.exprs {
		p.items = append(p.items, e.item())
	}
	return p
}

func (d *Difference) compare(ctx context.Context, in [2]*input, plans [2]*plan) error {
	other := map[string]*item{}
	for _, it := range plans[1].items {
		other[it.out.Name] = it
	}
	d.Equal, d.Tensors, d.OnlyA, d.OnlyB = true, []TensorDiff{}, []string{}, []string{}
	for _, it := range plans[0].items {
		peer := other[it.out.Name]
		if peer == nil {
			d.OnlyA, d.Equal = append(d.OnlyA, it.out.Name), false
			continue
		}
		delete(other, it.out.Name)
		t, err := diffTensor(ctx, in, it, peer, d.ATol)
		if err != nil {
			return about([]string{d.A}, err)
		}
		d.Tensors = append(d.Tensors, t)
		d.Equal = d.Equal && t.Equal
	}
	for name := range other {
		d.OnlyB, d.Equal = append(d.OnlyB, name), false
	}
	slices.Sort(d.OnlyB)
	return nil
}

func diffTensor(ctx context.Context, in [2]*input, a, b *item, atol float64) (TensorDiff, error) {
	t := TensorDiff{Name: a.out.Name, DTypeA: string(a.out.DType), DTypeB: string(b.out.DType), Equal: true}
	if !sameShape(a.out.Shape, b.out.Shape) {
		t.Equal, t.Problem = false, fmt.Sprintf("shapes %v and %v", a.out.Shape, b.out.Shape)
		return t, nil
	}
	decA, decB := numbers[a.out.DType], numbers[b.out.DType]
	if decA == nil || decB == nil {
		t.Equal, t.Problem = false, fmt.Sprintf("no comparison of %s with %s", a.out.DType, b.out.DType)
		return t, nil
	}
	ra, err := a.open(in[0], false)
	if err != nil {
		return t, err
	}
	defer ra.Close()
	rb, err := b.open(in[1], false)
	if err != nil {
		return t, err
	}
	defer rb.Close()
	const block = 1 << 16 // elements
	sa, sb := a.out.DType.Size(), b.out.DType.Size()
	bufA, bufB := make([]byte, block*sa), make([]byte, block*sb)
	for {
		if err := ctx.Err(); err != nil {
			return t, err
		}
		n, errA := io.ReadFull(ra, bufA)
		m, errB := io.ReadFull(rb, bufB)
		same := a.out.DType == b.out.DType && bytes.Equal(bufA[:n], bufB[:m])
		for i := range min(n/sa, m/sb) {
			if same {
				break
			}
			t.add(decA(bufA[i*sa:]), decB(bufB[i*sb:]), atol)
		}
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return t, err
			}
		}
		if errA != nil || errB != nil {
			return t, nil
		}
	}
}

func (t *TensorDiff) add(x, y, atol float64) {
	if x == y || x != x && y != y {
		return
	}
	abs := math.Abs(x - y)
	if !(abs <= atol) {
		t.Equal = false
	}
	if x != x || y != y {
		abs = math.MaxFloat64 // JSON has no infinity
	}
	t.MaxAbs = min(max(t.MaxAbs, abs), math.MaxFloat64)
	if rel := abs / math.Abs(y); rel > t.MaxRel {
		t.MaxRel = min(rel, math.MaxFloat64)
	}
}

// numbers widen an element to float64: exactly, but for integers beyond 2^53.
var numbers = func() map[tensorfile.DType]func([]byte) float64 {
	m := map[tensorfile.DType]func([]byte) float64{
		tensorfile.BOOL:    func(b []byte) float64 { return float64(b[0]) },
		tensorfile.U8:      func(b []byte) float64 { return float64(b[0]) },
		tensorfile.I8:      func(b []byte) float64 { return float64(int8(b[0])) },
		tensorfile.I16:     func(b []byte) float64 { return float64(int16(le.Uint16(b))) },
		tensorfile.U16:     func(b []byte) float64 { return float64(le.Uint16(b)) },
		tensorfile.I32:     func(b []byte) float64 { return float64(int32(le.Uint32(b))) },
		tensorfile.U32:     func(b []byte) float64 { return float64(le.Uint32(b)) },
		tensorfile.I64:     func(b []byte) float64 { return float64(int64(le.Uint64(b))) },
		tensorfile.U64:     func(b []byte) float64 { return float64(le.Uint64(b)) },
		tensorfile.F8_E4M3: func(b []byte) float64 { return float64(b[0]) }, // equal bits, equal value
		tensorfile.F8_E5M2: func(b []byte) float64 { return float64(b[0]) },
	}
	for d, f := range decoders {
		m[d] = f
	}
	return m
}()
