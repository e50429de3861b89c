package torchfile

import (
	"fmt"
	"math"
	"math/big"

	"github.com/evatool/evatool/internal/tensorfile"
)

// storage is a run of elements that tensors are views of.
type storage struct {
	typ   *storageType
	elems int64
	base  int64      // bytes before its start in blob
	blob  *blob      // nil until a legacy file's storages are found
	views []*storage // in a legacy file, which setBlob updates
}

// tensor is a strided view of a storage, checked to lie inside it. offset and
// stride are in elements.
type tensor struct {
	refused string // why it cannot be converted and what to do, or empty
	dtype   tensorfile.DType
	stor    *storage
	offset  int64
	shape   []int64
	stride  []int64
}

// maxDims is torch's own limit in most operations.
const maxDims = 64

// rebuildTensor is torch._utils._rebuild_tensor(storage, offset, size, stride)
// and _v2(…, requires_grad, backward_hooks, metadata).
func rebuildTensor(args []any) (any, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, fmt.Errorf("the storage is a %s", kind(args[0]))
	}
	return lazy(args, 6)(newTensor(s, s.typ.elem, args[1], args[2], args[3]))
}

// lazy refuses a tensor whose metadata, args[i] if present, says that its values
// differ from its bytes: a negation or conjugation that torch has not yet applied.
func lazy(args []any, i int) func(any, error) (any, error) {
	return func(v any, err error) (any, error) {
		t, ok := v.(*tensor)
		if !ok || t.refused != "" || i >= len(args) {
			return v, err
		}
		e, _ := entries(args[i])
		for _, x := range e {
			if x.Value != false {
				return &tensor{refused: fmt.Sprintf("a view with the flag %s, which is not applied to its bytes; call resolve_neg() and clone() before saving", text(x.Key))}, err
			}
		}
		return v, err
	}
}

// rebuildTensorV3 is _rebuild_tensor_v3(storage, offset, size, stride,
// requires_grad, backward_hooks, dtype, metadata), with an untyped storage.
func rebuildTensorV3(args []any) (any, error) {
	if len(args) < 7 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, fmt.Errorf("the storage is a %s", kind(args[0]))
	}
	d, ok := args[6].(dtype)
	if !ok {
		return nil, fmt.Errorf("the dtype is a %s", kind(args[6]))
	}
	size := elemTypes[d].size
	typed := *s
	typed.elems = s.elems * s.typ.size() / size
	return lazy(args, 7)(newTensorOf(&typed, s, d, args[1], args[2], args[3]))
}

func newTensor(s *storage, d dtype, offset, size, stride any) (any, error) {
	return newTensorOf(s, s, d, offset, size, stride)
}

// newTensorOf checks a view against seen, the storage in elements of the view's
// type; owner is the storage whose blob a legacy file fills in later.
func newTensorOf(seen, owner *storage, d dtype, offset, size, stride any) (any, error) {
	if d == "" {
		return nil, fmt.Errorf("a tensor in a storage without an element type")
	}
	t := &tensor{stor: owner, dtype: elemTypes[d].st}
	var ok1, ok2, ok3 bool
	t.offset, ok1 = integer(offset)
	t.shape, ok2 = integers(size)
	t.stride, ok3 = integers(stride)
	switch {
	case !ok1 || t.offset < 0:
		return nil, fmt.Errorf("offset %s is not a natural number", text(offset))
	case !ok2:
		return nil, fmt.Errorf("size %s is not a list of natural numbers", text(size))
	case !ok3:
		return nil, fmt.Errorf("stride %s is not a list of natural numbers", text(stride))
	case len(t.shape) != len(t.stride) || len(t.shape) > maxDims:
		return nil, fmt.Errorf("%d sizes and %d strides; want as many of each, at most 64", len(t.shape), len(t.stride))
	}
	if t.dtype == "" {
		t.refused = unsupported(d)
		t.shape, t.stride = nil, nil
		return t, nil
	}
	if _, ok := tensorfile.CheckedBytes(t.info("")); !ok {
		return nil, fmt.Errorf("size %v is too large", t.shape)
	}
	return t, t.inside(seen.elems)
}

// inside checks that every element lies in a storage of n elements. A tensor without
// elements may begin anywhere, even behind its storage (an empty slice of an empty
// slice does), so it is moved to the start.
func (t *tensor) inside(n int64) error {
	for _, d := range t.shape {
		if d == 0 {
			t.offset = 0
			return nil
		}
	}
	left := n - 1 - t.offset // how far the last element may be from the first
	for i, d := range t.shape {
		if left < 0 || (d > 1 && t.stride[i] > left/(d-1)) {
			left = -1
			break
		}
		left -= (d - 1) * t.stride[i]
	}
	if left < 0 {
		return fmt.Errorf("offset %d, size %v and stride %v reach outside a storage of %d elements", t.offset, t.shape, t.stride, n)
	}
	return nil
}

func unsupported(d dtype) string {
	advice := "convert it to float32 before saving"
	switch d {
	case "complex32", "complex64", "complex128":
		advice = "save torch.view_as_real() of it"
	case "quint8", "qint8", "qint32", "quint4x2", "quint2x4":
		advice = "call dequantize() before saving"
	}
	return fmt.Sprintf("of type %s, which safetensors cannot hold; %s", d, advice)
}

func (t *tensor) info(name string) tensorfile.Info {
	return tensorfile.Info{Name: name, DType: t.dtype, Shape: t.shape}
}

func integer(v any) (int64, bool) {
	if b, ok := v.(*big.Int); ok && b.IsInt64() { // written in more bytes than it needs
		return b.Int64(), true
	}
	i, ok := v.(int)
	return int64(i), ok
}

// integers reads a tuple of natural numbers.
func integers(v any) ([]int64, bool) {
	if o, ok := v.(*object); ok && o.class == "torch.Size" && len(o.args) == 1 {
		v = o.args[0]
	}
	l, ok := elements(v)
	if !ok {
		return nil, false
	}
	out := make([]int64, len(l))
	for i, x := range l {
		n, ok := integer(x)
		if !ok || n < 0 {
			return nil, false
		}
		out[i] = n
	}
	return out, true
}

// checkedMul multiplies natural numbers.
func checkedMul(a, b int64) (int64, bool) {
	if a < 0 || b < 0 || (b > 0 && a > math.MaxInt64/b) {
		return 0, false
	}
	return a * b, true
}
