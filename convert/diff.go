package convert

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/tensorfile"
)

// DiffOptions are the options of Diff.
type DiffOptions struct {
	ATol float64 // largest absolute difference that counts as equal
	Map  string  // auto (default): by EVA's names if both are CLIP models; none: by the names as they are
	Key  string  // path of the state dict inside a wrapper, for both

	Offline    bool         // as in Options
	ModelCache string       // as in Options
	Log        *slog.Logger // may be nil
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

// Diff compares two checkpoints (paths or names, see eval.Open) by value, across
// containers, element types and layouts. NaN equals NaN.
func Diff(ctx context.Context, a, b string, o DiffOptions) (_ *Difference, err error) {
	defer fault.Public(ctx, &err)
	if o.Map != "" && o.Map != "auto" && o.Map != "none" {
		return nil, fault.Usagef("Options.Map %s: want auto or none", o.Map)
	}
	if !(o.ATol >= 0) {
		return nil, fault.Usagef("Options.ATol %v: want 0 or more", o.ATol)
	}
	paths, err := files(ctx, hub.Options{Cache: o.ModelCache, Offline: o.Offline, Log: o.Log}, a, b)
	if err != nil {
		return nil, err
	}
	d := &Difference{A: a, B: b, ATol: o.ATol, Map: "none"}
	var named, eva [2][]*checkpoint.Item
	mapped := o.Map != "none"
	for i, path := range paths {
		in, err := checkpoint.Open([]string{path}, o.Key)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		named[i] = in.AsNamed()
		if mapped {
			eva[i], mapped = in.InEVA()
		}
	}
	if mapped {
		d.Map, named = "eva", eva
	}
	return d, d.compare(ctx, named[0], named[1])
}

func (d *Difference) compare(ctx context.Context, a, b []*checkpoint.Item) error {
	other := map[string]*checkpoint.Item{}
	for _, it := range b {
		other[it.Out.Name] = it
	}
	d.Equal, d.Tensors, d.OnlyA, d.OnlyB = true, []TensorDiff{}, []string{}, []string{}
	for _, it := range a {
		peer := other[it.Out.Name]
		if peer == nil {
			d.OnlyA, d.Equal = append(d.OnlyA, it.Out.Name), false
			continue
		}
		delete(other, it.Out.Name)
		t, err := diffTensor(ctx, it, peer, d.ATol)
		if err != nil {
			return checkpoint.About([]string{d.A}, err)
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

func diffTensor(ctx context.Context, a, b *checkpoint.Item, atol float64) (TensorDiff, error) {
	t := TensorDiff{Name: a.Out.Name, DTypeA: string(a.Out.DType), DTypeB: string(b.Out.DType), Equal: true}
	if !checkpoint.SameShape(a.Out.Shape, b.Out.Shape) {
		t.Equal, t.Problem = false, fmt.Sprintf("shapes %v and %v", a.Out.Shape, b.Out.Shape)
		return t, nil
	}
	decA, decB := tensorfile.NumberDecoder(a.Out.DType), tensorfile.NumberDecoder(b.Out.DType)
	if raw := a.Out.DType == b.Out.DType; raw && decA == nil {
		// C64: compared byte by byte.
		decA = func([]byte) float64 { return 0 }
		decB = func([]byte) float64 { return math.NaN() }
	} else if decA == nil || decB == nil {
		t.Equal, t.Problem = false, fmt.Sprintf("%s and %s cannot be compared", a.Out.DType, b.Out.DType)
		return t, nil
	}
	ra, err := a.Open(false)
	if err != nil {
		return t, err
	}
	defer ra.Close()
	rb, err := b.Open(false)
	if err != nil {
		return t, err
	}
	defer rb.Close()
	const block = 1 << 16 // elements
	sa, sb := a.Out.DType.Size(), b.Out.DType.Size()
	bufA, bufB := make([]byte, block*sa), make([]byte, block*sb)
	for {
		if err := ctx.Err(); err != nil {
			return t, err
		}
		n, errA := io.ReadFull(ra, bufA)
		m, errB := io.ReadFull(rb, bufB)
		same := a.Out.DType == b.Out.DType && bytes.Equal(bufA[:n], bufB[:m])
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
