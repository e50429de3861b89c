package torchfile

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
	tt "github.com/evatool/evatool/internal/torchfile/torchtest"
)

// count is n bytes 0, 1, 2, ...
func count(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// zipOf is a zip file with data.pkl and the storages data/0, data/1, ...
func zipOf(t testing.TB, pickle []byte, storages ...[]byte) []byte {
	t.Helper()
	members := []tt.Member{{Name: "data.pkl", Data: bytes.NewReader(pickle)}}
	for i, s := range storages {
		members = append(members, tt.Member{Name: fmt.Sprintf("data/%d", i), Data: bytes.NewReader(s)})
	}
	return archiveOf(t, members...)
}

func archiveOf(t testing.TB, members ...tt.Member) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tt.WriteZip(&b, members); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openBytes(raw []byte, key string) (*Checkpoint, error) {
	return OpenReaderAt(bytes.NewReader(raw), int64(len(raw)), "x.pt", Options{Key: key})
}

func mustOpen(t *testing.T, raw []byte, key string) *Checkpoint {
	t.Helper()
	c, err := openBytes(raw, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// byteView is a tensor of uint8 over storage 0 of 24 bytes.
func byteView(offset int64, shape, stride []int64) any {
	return tt.View(tt.Storage(tensorfile.U8, "0", 24), offset, shape, stride)
}

var one = byteView(0, []int64{1}, []int64{1})

// TestStateDict: which dict is taken, and what is an error.
func TestStateDict(t *testing.T) {
	d := func(names ...string) tt.Dict {
		var out tt.Dict
		for _, n := range names {
			out = append(out, tt.Item{Key: n, Value: one})
		}
		return out
	}
	under := func(key string, v any) tt.Dict { return tt.Dict{{Key: key, Value: v}} }
	for _, c := range []struct {
		name   string
		root   any
		key    string
		path   string // StateDictKey
		prefix string
		names  []string
		want   string // of an error
	}{
		{name: "flat", root: d("a", "b"), names: []string{"a", "b"}},
		{name: "priority", root: tt.Dict{{Key: "state_dict", Value: d("s")}, {Key: "module", Value: d("o")}, {Key: "model", Value: d("m")}}, path: "model", names: []string{"m"}},
		{name: "module before state_dict", root: tt.Dict{{Key: "state_dict", Value: d("s")}, {Key: "module", Value: d("o")}}, path: "module", names: []string{"o"}},
		{name: "nested", root: under("model", under("state_dict", d("a"))), path: "model/state_dict", names: []string{"a"}},
		{name: "a name is no wrapper", root: tt.Dict{{Key: "model", Value: "EVA"}, {Key: "state_dict", Value: d("a")}}, path: "state_dict", names: []string{"a"}},
		{name: "a tensor is no wrapper", root: d("model", "a"), names: []string{"model", "a"}},
		{name: "key", root: under("x", under("y/z", d("a"))), key: "x/y/z", path: "x/y/z", names: []string{"a"}},
		{name: "key into a list", root: under("x", tt.List{1, d("a")}), key: "x/1", path: "x/1", names: []string{"a"}},
		{name: "key stops at wrappers", root: under("x", tt.Dict{{Key: "model", Value: d("a")}, {Key: "b", Value: one}}), key: "x", path: "x", names: []string{"b"}},
		{name: "no such key", root: d("a"), key: "b", want: "Options.Key b"},
		{name: "key of a number", root: under("x", 1), key: "x", want: "type int where a state dict"},
		{name: "prefix", root: d("module.a", "module.b"), prefix: "module.", names: []string{"a", "b"}},
		{name: "prefix on some", root: d("module.a", "b"), prefix: "module.", names: []string{"a", "b"}},
		{name: "prefix not on the first", root: d("a", "module.b"), names: []string{"a", "module.b"}},
		{name: "collision", root: d("module.a", "a"), want: "twice"},
		{name: "key twice", root: d("a", "a"), want: "twice"},
		{name: "elsewhere", root: under("net", under("deep", d("a"))), want: "under net/deep: choose one with Options.Key"},
		{name: "empty model", root: tt.Dict{{Key: "model", Value: under("epoch", 1)}, {Key: "ema", Value: d("a")}}, want: "under ema: choose one with Options.Key"},
		{name: "OrderedDict", root: tt.OrderedDict(d("a")), names: []string{"a"}},
		{name: "OrderedDict of Python 2", root: tt.Reduce{Func: tt.Global{Module: "collections", Name: "OrderedDict"}, Args: tt.Tuple{tt.List{tt.List{"a", one}}}}, names: []string{"a"}},
		{name: "defaultdict", root: tt.Reduce{Func: tt.Global{Module: "collections", Name: "defaultdict"}, Args: tt.Tuple{tt.Global{Module: "__builtin__", Name: "list"}, d("a")}}, names: []string{"a"}},
		{name: "defaultdict of int, protocol 2", root: tt.Reduce{Func: tt.Global{Module: "collections", Name: "defaultdict"}, Args: tt.Tuple{tt.Global{Module: "__builtin__", Name: "long"}, d("a")}}, names: []string{"a"}},
		{name: "OrderedDict with attributes", root: tt.Build{Object: tt.OrderedDict(d("a")), State: under("_metadata", tt.OrderedDict{})}, names: []string{"a"}},
		{name: "a tensor alone", root: one, want: "type torch.Tensor where a state dict"},
		{name: "bytes as key of a set", root: under("a", tt.Raw("\x8f(B\x01\x00\x00\x00x\x90")), want: "wrong type"},
	} {
		for protocol := 2; protocol <= 5; protocol++ {
			t.Run(fmt.Sprintf("%s/%d", c.name, protocol), func(t *testing.T) {
				ck, err := openBytes(zipOf(t, tt.Pickle(c.root, protocol), count(24)), c.key)
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("got %v, want %q", err, c.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := names(ck.Tensors()); !slices.Equal(got, c.names) || ck.StateDictKey() != c.path || ck.StripPrefix() != c.prefix {
					t.Errorf("%q, key %q, prefix %q; want %q, %q, %q", got, ck.StateDictKey(), ck.StripPrefix(), c.names, c.path, c.prefix)
				}
			})
		}
	}
}

// TestLeft: what a state dict holds besides tensors is named if it has weights.
func TestLeft(t *testing.T) {
	array := tt.Reduce{Func: tt.Global{Module: "numpy.core.multiarray", Name: "_reconstruct"}, Args: tt.Tuple{}}
	state := tt.Dict{
		{Key: "a", Value: one}, {Key: "b", Value: tt.Dict{{Key: "c", Value: one}, {Key: "d", Value: tt.List{one}}}}, {Key: "x/y", Value: tt.List{one}},
		{Key: "array", Value: array}, {Key: "epoch", Value: 3}, {Key: "args", Value: tt.Dict{{Key: "lr", Value: 1}}},
	}
	want := []Left{{"b", "a dict, not a tensor; 2 below it"}, {"x/y", "a list, not a tensor; 1 below it"}, {"array", "a numpy.ndarray, not a tensor"}}
	for key, root := range map[string]tt.Dict{"": state, "net": {{Key: "net", Value: state}, {Key: "b", Value: tt.List{one}}}} {
		if got := mustOpen(t, zipOf(t, tt.Pickle(root, 2), count(24)), key).Left(); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", key, got, want)
		}
	}
}

// TestKeyIsUsage: a wrong Key is the caller's fault, not the file's.
func TestKeyIsUsage(t *testing.T) {
	_, err := openBytes(zipOf(t, tt.Pickle(tt.Dict{{Key: "a", Value: one}}, 2), count(24)), "b")
	if fault.Code(err) != int(fault.Usage) {
		t.Errorf("exit status %d for %v", fault.Code(err), err)
	}
}

// TestTensorForms: every way to describe a tensor, over 24 bytes 0, 1, 2, ...
func TestTensorForms(t *testing.T) {
	utils := func(name string) tt.Global { return tt.Global{Module: "torch._utils", Name: name} }
	torch := func(name string) tt.Global { return tt.Global{Module: "torch", Name: name} }
	untyped := tt.Persistent{ID: tt.Tuple{"storage", tt.Global{Module: "torch.storage", Name: "UntypedStorage"}, "0", "cuda:0", 24}}
	v3 := func(dtype string, offset int, shape, stride tt.Tuple) any {
		return tt.Reduce{Func: utils("_rebuild_tensor_v3"), Args: tt.Tuple{untyped, offset, shape, stride, false, tt.OrderedDict{}, torch(dtype)}}
	}
	for _, c := range []struct {
		name  string
		value any
		dtype tensorfile.DType
		shape []int64
		data  []byte
		want  string // of an error
	}{
		{name: "view", value: byteView(4, []int64{2, 3}, []int64{3, 1}), dtype: "U8", shape: []int64{2, 3}, data: []byte{4, 5, 6, 7, 8, 9}},
		{name: "transposed", value: byteView(0, []int64{3, 2}, []int64{1, 3}), dtype: "U8", shape: []int64{3, 2}, data: []byte{0, 3, 1, 4, 2, 5}},
		{name: "expanded", value: byteView(5, []int64{2, 2}, []int64{0, 1}), dtype: "U8", shape: []int64{2, 2}, data: []byte{5, 6, 5, 6}},
		{name: "overlapping", value: byteView(0, []int64{2, 3}, []int64{1, 1}), dtype: "U8", shape: []int64{2, 3}, data: []byte{0, 1, 2, 1, 2, 3}},
		{name: "scalar", value: byteView(23, nil, nil), dtype: "U8", data: []byte{23}},
		{name: "nothing", value: byteView(24, []int64{0, 9}, []int64{9, 1}), dtype: "U8", shape: []int64{0, 9}},
		{name: "ones", value: byteView(3, []int64{1, 2, 1}, []int64{99, 2, 77}), dtype: "U8", shape: []int64{1, 2, 1}, data: []byte{3, 5}},
		{name: "version 1", value: tt.Reduce{Func: utils("_rebuild_tensor"), Args: tt.Tuple{tt.Storage("U8", "0", 24), 1, tt.Tuple{2}, tt.Tuple{1}}}, dtype: "U8", shape: []int64{2}, data: []byte{1, 2}},
		{name: "size as torch.Size", value: tt.Reduce{Func: utils("_rebuild_tensor"), Args: tt.Tuple{tt.Storage("U8", "0", 24), 1, tt.Reduce{Func: torch("Size"), Args: tt.Tuple{tt.Tuple{2}}}, tt.Tuple{1}}}, dtype: "U8", shape: []int64{2}, data: []byte{1, 2}},
		{name: "F8_E4M3", value: v3("float8_e4m3fn", 2, tt.Tuple{2}, tt.Tuple{2}), dtype: "F8_E4M3", shape: []int64{2}, data: []byte{2, 4}},
		{name: "U16", value: v3("uint16", 2, tt.Tuple{2}, tt.Tuple{2}), dtype: "U16", shape: []int64{2}, data: []byte{4, 5, 8, 9}},
		{name: "U64", value: v3("uint64", 1, tt.Tuple{2}, tt.Tuple{1}), dtype: "U64", shape: []int64{2}, data: count(24)[8:]},
		{name: "untyped too far", value: v3("uint64", 1, tt.Tuple{3}, tt.Tuple{1}), want: "outside a storage of 3"},
		{name: "untyped without type", value: tt.View(untyped, 0, []int64{1}, []int64{1}), want: "without an element type"},
		{name: "parameter", value: tt.Reduce{Func: utils("_rebuild_parameter"), Args: tt.Tuple{one, true, tt.OrderedDict{}}}, dtype: "U8", shape: []int64{1}, data: []byte{0}},
		{name: "attributes", value: tt.Reduce{Func: tt.Global{Module: "torch._tensor", Name: "_rebuild_from_type_v2"}, Args: tt.Tuple{
			utils("_rebuild_tensor"), torch("Tensor"), tt.Tuple{tt.Storage("U8", "0", 24), 1, tt.Tuple{2}, tt.Tuple{1}}, tt.Dict{{Key: "note", Value: "x"}},
		}}, dtype: "U8", shape: []int64{2}, data: []byte{1, 2}},
		{name: "trampoline", value: tt.Reduce{Func: tt.Global{Module: "torch._tensor", Name: "_rebuild_from_type_v2"}, Args: tt.Tuple{
			tt.Global{Module: "collections", Name: "OrderedDict"}, torch("Tensor"), tt.Tuple{}, nil,
		}}, want: "not a function that rebuilds"},
		{name: "fnuz", value: v3("float8_e4m3fnuz", 0, tt.Tuple{1}, tt.Tuple{1}), dtype: "F8_E4M3FNUZ", shape: []int64{1}, data: []byte{0}},
		{name: "half bytes", value: v3("float4_e2m1fn_x2", 0, tt.Tuple{1}, tt.Tuple{1}), want: `tensor "w" is of type float4_e2m1fn_x2`},
		{name: "negated view", value: tt.Reduce{Func: utils("_rebuild_tensor_v2"), Args: tt.Tuple{
			tt.Storage("U8", "0", 24), 1, tt.Tuple{2}, tt.Tuple{1}, false, tt.OrderedDict{}, tt.Dict{{Key: "neg", Value: true}},
		}}, want: `tensor "w" is a view with the flag neg`},
		{name: "long integers", value: tt.Reduce{Func: utils("_rebuild_tensor"), Args: tt.Tuple{tt.Storage("U8", "0", 24), tt.Raw("\x8a\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00"), tt.Tuple{2}, tt.Tuple{1}}}, dtype: "U8", shape: []int64{2}, data: []byte{1, 2}},
		{name: "flags not set", value: tt.Reduce{Func: utils("_rebuild_tensor_v2"), Args: tt.Tuple{
			tt.Storage("U8", "0", 24), 1, tt.Tuple{2}, tt.Tuple{1}, false, tt.OrderedDict{}, tt.Dict{{Key: "neg", Value: false}},
		}}, dtype: "U8", shape: []int64{2}, data: []byte{1, 2}},
		{name: "parameter of torch 0.4", value: tt.Reduce{Func: tt.Global{Module: "torch.nn.parameter", Name: "Parameter"}, Args: tt.Tuple{one, true}}, dtype: "U8", shape: []int64{1}, data: []byte{0}},
		{name: "uninitialized parameter", value: tt.Reduce{Func: tt.Global{Module: "torch.nn.parameter", Name: "UninitializedParameter"}, Args: tt.Tuple{true}}, want: `tensor "w" is a tensor without data`},
		{name: "jagged", value: tt.Reduce{Func: tt.Global{Module: "torch._tensor", Name: "_rebuild_from_type_v2"}, Args: tt.Tuple{
			tt.Global{Module: "torch.nested._internal.nested_tensor", Name: "_rebuild_njt"}, torch("Tensor"), tt.Tuple{}, nil,
		}}, want: "to_padded_tensor()"},
		{name: "complex", value: v3("complex64", 0, tt.Tuple{1}, tt.Tuple{1}), want: "view_as_real"},
		{name: "sparse", value: tt.Reduce{Func: utils("_rebuild_sparse_tensor"), Args: tt.Tuple{1}}, want: "to_dense()"},
		{name: "quantized", value: tt.Reduce{Func: utils("_rebuild_qtensor"), Args: tt.Tuple{1}}, want: "dequantize()"},
		{name: "too many dimensions", value: byteView(0, make([]int64, 65), make([]int64, 65)), want: "65 sizes"},
		{name: "far stride", value: byteView(0, []int64{2, 2}, []int64{1 << 62, 1 << 62}), want: "outside a storage"},
		{name: "far offset", value: byteView(1<<62, []int64{1}, []int64{1}), want: "outside a storage"},
		{name: "bomb", value: byteView(0, []int64{1 << 29}, []int64{0}), want: "views may repeat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := tt.Dict{{Key: "w", Value: c.value}, {Key: "n", Value: 1}}
			for i, raw := range [][]byte{
				zipOf(t, tt.Pickle(root, 2), count(24)),
				archiveOf(t, tt.Member{Name: "data.pkl", Data: bytes.NewReader(tt.Pickle(root, 4)), Deflate: true}, tt.Member{Name: "data/0", Data: bytes.NewReader(count(24)), Deflate: true}),
			} {
				ck, err := openBytes(raw, "")
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("got %v, want %q", err, c.want)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				info := ck.Tensors()[0]
				got, err := tensorfile.ReadAll(ck, "w")
				if err != nil || info.DType != c.dtype || !slices.Equal(info.Shape, c.shape) || !bytes.Equal(got, c.data) {
					t.Errorf("file %d: %s %v %v (%v), want %s %v %v", i, info.DType, info.Shape, got, err, c.dtype, c.shape, c.data)
				}
			}
		})
	}
}

// TestRefusedOutside: a tensor that cannot be converted does no harm outside
// the state dict.
func TestRefusedOutside(t *testing.T) {
	sparse := tt.Reduce{Func: tt.Global{Module: "torch._utils", Name: "_rebuild_sparse_tensor"}, Args: tt.Tuple{1}}
	c := mustOpen(t, zipOf(t, tt.Pickle(tt.Dict{{Key: "model", Value: tt.Dict{{Key: "a", Value: one}}}, {Key: "opt", Value: sparse}}, 2), count(24)), "")
	if o := c.Other(); len(o) != 1 || o[0].Path != "opt" || !strings.Contains(o[0].Value, "sparse") {
		t.Errorf("others: %v", o)
	}
}

// TestGather compares blocks of several sizes, and windows, with element-wise
// access. Tolerance: none.
func TestGather(t *testing.T) {
	const n = 3 << 16 // longer than a window
	data := make([]byte, 8*n)
	for i := range n {
		binary.LittleEndian.PutUint64(data[8*i:], uint64(i)*0x9e3779b97f4a7c15)
	}
	for _, c := range []struct {
		size          int64
		base          int64
		shape, stride []int64
	}{
		{8, 0, []int64{1 << 8, 3 << 8}, []int64{1, 1 << 8}},
		{4, 7, []int64{1 << 8, 5 << 8}, []int64{1, 1 << 8}},
		{2, 1, []int64{3, 1 << 17}, []int64{1, 3}},
		{1, 5, []int64{1 << 16, 19}, []int64{1, 1 << 16}},
		{2, 9, []int64{2, 3, 5, 7}, []int64{1 << 16, 7, 0, 30}},
		{4, 0, []int64{7, 2, 1 << 7, 3 << 6}, []int64{1 << 14, 0, 1, 1 << 7}},
		{1, 0, []int64{3, 4, 5, 6}, []int64{1, 3, 12, 60}},
		{8, 3, []int64{1 << 16}, []int64{0}},
	} {
		dims := simplify(c.shape, c.stride)
		if contiguous(dims) {
			t.Fatalf("%v is contiguous", c)
		}
		var want []byte
		idx := make([]int64, len(c.shape))
		for {
			at := c.base
			for i, x := range idx {
				at += x * c.stride[i]
			}
			want = append(want, data[at*c.size:(at+1)*c.size]...)
			i := len(idx) - 1
			for ; i >= 0; i-- {
				if idx[i]++; idx[i] < c.shape[i] {
					break
				}
				idx[i] = 0
			}
			if i < 0 {
				break
			}
		}
		for _, block := range []int64{1, 100, 64 << 10, gatherOut} {
			if len(want) > 1<<12 && block < 1<<10 {
				continue // a window is read for every block
			}
			got, err := io.ReadAll(newGather(readerAt(data), int64(len(data)), c.base, c.size, block, dims))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v in blocks of %d: %d bytes differ from %d (%v)", c, block, len(got), len(want), err)
			}
		}
	}
}

// TestBigEndian swaps elements of every size, strided or not.
func TestBigEndian(t *testing.T) {
	root := tt.Dict{
		{Key: "i64", Value: tt.View(tt.Storage("I64", "0", 3), 1, []int64{2}, []int64{1})},
		{Key: "f16", Value: tt.View(tt.Storage("F16", "0", 12), 0, []int64{2, 2}, []int64{1, 2})},
		{Key: "u8", Value: one},
	}
	file := func(order string) []byte {
		return archiveOf(t, tt.Member{Name: "data.pkl", Data: bytes.NewReader(tt.Pickle(root, 2))},
			tt.Member{Name: "byteorder", Data: strings.NewReader(order)}, tt.Member{Name: "data/0", Data: bytes.NewReader(count(24))})
	}
	c := mustOpen(t, file("big"), "")
	for name, want := range map[string][]byte{
		"i64": {15, 14, 13, 12, 11, 10, 9, 8, 23, 22, 21, 20, 19, 18, 17, 16},
		"f16": {1, 0, 5, 4, 3, 2, 7, 6}, "u8": {0},
	} {
		if got, err := tensorfile.ReadAll(c, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, want)
		}
	}
	if _, err := openBytes(file("middle"), ""); err == nil {
		t.Error("unknown byte order accepted")
	}
}

// TestExtent: where there is an extent, it has the tensor's bytes.
func TestExtent(t *testing.T) {
	root := tt.Dict{
		{Key: "part", Value: byteView(4, []int64{2, 3}, []int64{3, 1})},
		{Key: "transposed", Value: byteView(0, []int64{3, 2}, []int64{1, 3})},
	}
	path := filepath.Join(t.TempDir(), "x.pt")
	if err := os.WriteFile(path, zipOf(t, tt.Pickle(root, 2), count(24)), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, 6)
	f, off, ok := c.Extent("part")
	if !ok {
		t.Fatal("no extent")
	}
	if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, []byte{4, 5, 6, 7, 8, 9}) {
		t.Errorf("extent has %v (%v)", got, err)
	}
	if _, _, ok := c.Extent("transposed"); ok {
		t.Error("a transposed tensor has an extent")
	}
}

// TestChecksums: a flipped byte of a storage is noticed wherever it is read from; the
// checksum 0 means that torch was told to write none.
func TestChecksums(t *testing.T) {
	root := tt.Dict{
		{Key: "whole", Value: byteView(0, []int64{24}, []int64{1})},
		{Key: "part", Value: byteView(4, []int64{6}, []int64{1})},
		{Key: "strided", Value: byteView(0, []int64{3, 2}, []int64{1, 3})},
	}
	good := zipOf(t, tt.Pickle(root, 2), count(24))
	at := bytes.Index(good, count(24)) + 23
	bad := bytes.Clone(good)
	bad[at]++
	none := bytes.Clone(bad)
	sum := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(count(24)))
	none = bytes.ReplaceAll(none, sum, make([]byte, 4))
	for _, info := range mustOpen(t, good, "").Tensors() {
		if _, err := tensorfile.ReadAll(mustOpen(t, bad, ""), info.Name); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("%s: %v, want a checksum error", info.Name, err)
		}
		if _, err := tensorfile.ReadAll(mustOpen(t, none, ""), info.Name); err != nil {
			t.Errorf("%s without checksum: %v", info.Name, err)
		}
	}
	pkl := bytes.Clone(good)
	pkl[bytes.Index(pkl, []byte("whole"))]++
	if _, err := openBytes(pkl, ""); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("data.pkl: %v, want a checksum error", err)
	}
}

// TestZip64 reads a small archive whose sizes and offsets are all in zip64
// fields.
func TestZip64(t *testing.T) {
	members := []struct {
		name string
		data []byte
	}{{"a/data.pkl", tt.Pickle(tt.Dict{{Key: "w", Value: byteView(0, []int64{24}, []int64{1})}}, 2)}, {"a/data/0", count(24)}}
	var file, dir []byte
	ones := []byte{255, 255, 255, 255}
	u64 := func(b []byte, vs ...int) []byte {
		for _, v := range vs {
			b = le.AppendUint64(b, uint64(v))
		}
		return b
	}
	u16 := func(b []byte, vs ...int) []byte {
		for _, v := range vs {
			b = le.AppendUint16(b, uint16(v))
		}
		return b
	}
	for _, m := range members {
		at := len(file)
		sum := le.AppendUint32(nil, crc32.ChecksumIEEE(m.data))
		head := u16(nil, 0, 0, 0, 0) // flags, method, time, date
		head = append(append(append(head, sum...), ones...), ones...)
		file = u16(append(file, sigLocal...), 45)
		file = u16(append(file, head...), len(m.name), 20)
		file = u16(append(file, m.name...), 1, 16)
		file = append(u64(file, len(m.data), len(m.data)), m.data...)
		dir = u16(append(dir, sigCentral...), 45, 45)
		dir = u16(append(dir, head...), len(m.name), 28, 0, 0, 0, 0, 0)
		dir = append(dir, ones...)
		dir = u16(append(dir, m.name...), 1, 24)
		dir = u64(dir, len(m.data), len(m.data), at)
	}
	start := len(file)
	file = append(file, dir...)
	at64 := len(file)
	file = u64(append(file, sigEnd64...), 44)
	file = append(u16(file, 45, 45), make([]byte, 8)...)
	file = u64(file, len(members), len(members), len(dir), start)
	file = append(append(file, sigLocator64...), 0, 0, 0, 0)
	file = append(u64(file, at64), 1, 0, 0, 0)
	file = u16(append(file, sigEnd...), 0, 0, 0xffff, 0xffff)
	file = append(append(append(file, ones...), ones...), 0, 0)
	if got, err := tensorfile.ReadAll(mustOpen(t, file, ""), "w"); err != nil || !bytes.Equal(got, count(24)) {
		t.Errorf("%v (%v)", got, err)
	}
	for i := range file { // no truncated file is accepted or causes a panic
		if _, err := openBytes(file[:i], ""); err == nil {
			t.Errorf("accepted when cut off at byte %d", i)
		}
	}
}

// TestOther shows what is not a tensor.
func TestOther(t *testing.T) {
	np := func(name string) tt.Global { return tt.Global{Module: "numpy.core.multiarray", Name: name} }
	dtype := func(code, order string) any {
		return tt.Build{Object: tt.Reduce{Func: tt.Global{Module: "numpy", Name: "dtype"}, Args: tt.Tuple{code, false, true}}, State: tt.Tuple{3, order, nil, nil, nil, -1, -1, 0}}
	}
	c := mustOpen(t, zipOf(t, tt.Pickle(tt.Dict{
		{Key: "state_dict", Value: tt.Dict{{Key: "a", Value: one}}},
		{Key: "epoch", Value: 7},
		{Key: "name", Value: "run"},
		{Key: "lr", Value: tt.Reduce{Func: np("scalar"), Args: tt.Tuple{dtype("f8", "<"), []byte{0, 0, 0, 0, 0, 0, 0xe0, 0x3f}}}},
		{Key: "step", Value: tt.Reduce{Func: np("scalar"), Args: tt.Tuple{dtype("i2", ">"), []byte{0xff, 0xfe}}}},
		{Key: "args", Value: tt.Build{Object: tt.Reduce{Func: tt.Global{Module: "argparse", Name: "Namespace"}}, State: tt.Dict{{Key: "wd", Value: 0.5}, {Key: "betas", Value: tt.Tuple{0.9, 0.98}}}}},
		{Key: "dtype", Value: tt.Global{Module: "torch", Name: "bfloat16"}},
		{Key: "format", Value: tt.Global{Module: "torch._utils", Name: "torch.channels_last"}},
		{Key: "last", Value: tt.Raw("ccollections\ndeque\n)K\x03\x86R(K\x01K\x02e")},
		{Key: 3, Value: nil},
	}, 2), count(24)), "")
	want := []Entry{
		{"epoch", "int", "7"}, {"name", "str", "run"}, {"lr", "numpy scalar", "0.5"}, {"step", "numpy scalar", "-2"},
		{"args/wd", "float", "0.5"}, {"args/betas", "tuple", "(0.9, 0.98)"},
		{"dtype", "torch.dtype", "torch.bfloat16"}, {"format", "constant", "torch.channels_last"},
		{"last", "collections.deque", "(1, 2)"}, {"3", "None", "None"},
	}
	if got := c.Other(); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if all := names(c.AllTensors()); !slices.Equal(all, []string{"state_dict/a"}) {
		t.Errorf("all tensors: %v", all)
	}
}

// tarOf is a legacy tar file: storage 0 of 24 bytes, storage 1 a view of it,
// and the tensors w (contiguous, from the view) and v (transposed).
func tarOf(t testing.TB, mutate func(members map[string][]byte)) []byte {
	t.Helper()
	byteStorage := tt.Global{Module: "torch", Name: "ByteStorage"}
	u64 := func(vs ...int) (b []byte) {
		for _, v := range vs {
			b = le.AppendUint64(b, uint64(v))
		}
		return b
	}
	members := map[string][]byte{
		"storages": slices.Concat(tt.Pickle(1, 2), tt.Pickle(tt.Tuple{0, "cpu", byteStorage}, 2), u64(24), count(24),
			tt.Pickle(tt.List{tt.Tuple{1, 0, 4, 12}}, 2)),
		"tensors": slices.Concat(tt.Pickle(2, 2),
			tt.Pickle(tt.Tuple{2, 1, tt.Global{Module: "torch", Name: "ByteTensor"}}, 2), u64(2, 2, 3, 3, 1, 1),
			tt.Pickle(tt.Tuple{3, 0, tt.Global{Module: "torch", Name: "ByteTensor"}}, 2), u64(2, 3, 2, 1, 3, 0)),
		"pickle": tt.Pickle(tt.OrderedDict{{Key: "w", Value: tt.Persistent{ID: "2"}}, {Key: "v", Value: tt.Persistent{ID: "3"}}}, 2),
	}
	if mutate != nil {
		mutate(members)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"sys_info", "storages", "tensors", "pickle"} {
		data, ok := members[name]
		if !ok && name != "sys_info" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTar(t *testing.T) {
	c := mustOpen(t, tarOf(t, nil), "")
	if c.Container() != "torch-tar" {
		t.Errorf("container %q", c.Container())
	}
	for name, want := range map[string][]byte{"w": {5, 6, 7, 8, 9, 10}, "v": {0, 3, 1, 4, 2, 5}} {
		if got, err := tensorfile.ReadAll(c, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, want)
		}
	}
	for name, mutate := range map[string]func(m map[string][]byte){
		"missing member": func(m map[string][]byte) { delete(m, "tensors") },
		"cut storages":   func(m map[string][]byte) { m["storages"] = m["storages"][:50] },
		"cut tensors":    func(m map[string][]byte) { m["tensors"] = m["tensors"][:60] },
		"unknown tensor": func(m map[string][]byte) { m["pickle"] = tt.Pickle(tt.Persistent{ID: "9"}, 2) },
		"code":           func(m map[string][]byte) { m["pickle"] = tt.Pickle(tt.Global{Module: "os", Name: "system"}, 2) },
		"many tensors":   func(m map[string][]byte) { m["tensors"] = tt.Pickle(1<<60, 2) },
	} {
		if _, err := openBytes(tarOf(t, mutate), ""); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// legacyOf is a legacy file with one storage of 24 bytes.
func legacyOf(t testing.TB, root any, keys tt.List) []byte {
	t.Helper()
	magic := slices.Clone(legacyMagic.Bytes())
	slices.Reverse(magic)
	return slices.Concat(
		[]byte("\x80\x02\x8a\x0a"), magic, []byte("."), tt.Pickle(legacyVersion, 2), tt.Pickle(tt.Dict{{Key: "little_endian", Value: true}}, 2),
		tt.Pickle(root, 2), tt.Pickle(keys, 2), le.AppendUint64(nil, 24), count(24))
}

func TestLegacyViews(t *testing.T) {
	stored := func(meta any, n int) any {
		return tt.View(tt.Persistent{ID: tt.Tuple{"storage", tt.Global{Module: "torch", Name: "ByteStorage"}, "7", "cpu", n, meta}}, 1, []int64{3}, []int64{1})
	}
	whole, view := stored(nil, 24), stored(tt.Tuple{"8", 10, 4}, 24)
	c := mustOpen(t, legacyOf(t, tt.Dict{{Key: "a", Value: whole}, {Key: "b", Value: view}}, tt.List{"7"}), "")
	for name, want := range map[string][]byte{"a": {1, 2, 3}, "b": {11, 12, 13}} {
		if got, err := tensorfile.ReadAll(c, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, want)
		}
	}
	for name, raw := range map[string][]byte{
		"view too long":    legacyOf(t, tt.Dict{{Key: "a", Value: stored(tt.Tuple{"8", 21, 4}, 24)}}, tt.List{"7"}),
		"tensor too long":  legacyOf(t, tt.Dict{{Key: "a", Value: stored(tt.Tuple{"8", 21, 3}, 24)}}, tt.List{"7"}),
		"other length":     legacyOf(t, tt.Dict{{Key: "a", Value: stored(nil, 25)}}, tt.List{"7"}),
		"key not listed":   legacyOf(t, tt.Dict{{Key: "a", Value: whole}}, tt.List{}),
		"unknown key":      legacyOf(t, tt.Dict{{Key: "a", Value: whole}}, tt.List{"9"}),
		"key listed twice": legacyOf(t, tt.Dict{{Key: "a", Value: whole}}, tt.List{"7", "7"}),
		"no list":          legacyOf(t, tt.Dict{{Key: "a", Value: whole}}, nil)[:200],
	} {
		if _, err := openBytes(raw, ""); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Empty tensors share a storage, whatever their types.
	empty := func(class string) any {
		return tt.View(tt.Persistent{ID: tt.Tuple{"storage", tt.Global{Module: "torch", Name: class}, "7", "cpu", 0, nil}}, 0, []int64{0}, []int64{1})
	}
	raw := legacyOf(t, tt.Dict{{Key: "a", Value: empty("ByteStorage")}, {Key: "b", Value: empty("LongStorage")}}, tt.List{"7"})
	raw = append(raw[:len(raw)-8-24], make([]byte, 8)...)
	if got := mustOpen(t, raw, "").Tensors(); len(got) != 2 || got[0].DType != tensorfile.U8 || got[1].DType != tensorfile.I64 {
		t.Errorf("empty tensors: %v", got)
	}
	if new(big.Int).Set(legacyMagic).BitLen() != 77 {
		t.Errorf("magic number %x", legacyMagic)
	}
}

// TestNotTorch: the error about another file says what it is.
func TestNotTorch(t *testing.T) {
	for content, want := range map[string]string{
		"\x08\x00\x00\x00\x00\x00\x00\x00{}      ": "a safetensors file",
		"\x1f\x8b\x08":              "a gzip file",
		"GGUF\x03":                  "a GGUF file",
		"PK\x05\x06":                "an empty or damaged zip file",
		"hello":                     "not a checkpoint that evatool knows; give a PyTorch (.pt, .pth, .bin) or safetensors file",
		"{\n  \"embed_dim\": 512":   "a JSON file, such as a model's configuration, not weights; give a PyTorch",
		"\x80\x02}.":                "a plain pickle (of type dict)",
		"\x80\x02K\x01.":            "a plain pickle (of type int)",
		strings.Repeat("\x00", 600): "zero bytes",
		string(archiveOf(t, tt.Member{Name: "models/model.json", Data: strings.NewReader("{}")})):                                                                    "torch 1.3 or earlier",
		string(archiveOf(t, tt.Member{Name: "models/model.json", Data: strings.NewReader("{}")}, tt.Member{Name: "archive_format", Data: strings.NewReader("pt2")})): "torch.export",
	} {
		if _, err := openBytes([]byte(content), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", content, err, want)
		}
	}
}

// TestSelfReference: every walk ends at objects that contain themselves, and no file
// can change what the next one sees.
func TestSelfReference(t *testing.T) {
	namespace := func(state string) tt.Raw { // stored as memo entry 9, then given the state
		return tt.Raw("cargparse\nNamespace\n)Rq\x09" + state + "b")
	}
	reconstruct := tt.Raw("cnumpy.core.multiarray\n_reconstruct\n)Rq\x09(K\x01h\x09tb")
	for name, v := range map[string]any{
		"own state":              namespace("h\x09"),
		"itself in its state":    namespace("}X\x01\x00\x00\x00xh\x09s"),
		"array shaped as itself": reconstruct,
		"constant with a state":  tt.Build{Object: tt.Global{Module: "torch", Name: "strided"}, State: tt.Dict{{Key: "x", Value: 1}}},
		"constant as a list":     tt.Raw("ctorch\nstrided\nK\x01a"),
	} {
		raw := zipOf(t, tt.Pickle(tt.Dict{{Key: "a", Value: one}, {Key: "o", Value: v}}, 2), count(24))
		for _, key := range []string{"", "o/x", "o/x/x/x"} {
			if c, err := openBytes(raw, key); err == nil && key != "" {
				t.Errorf("%s: key %s opens %v", name, key, names(c.Tensors()))
			}
		}
	}
	if v, err := new(vm).find("torch", "strided"); err != nil || v != constant("torch.strided") {
		t.Errorf("torch.strided is now %v (%v)", v, err)
	}
}

// TestScan: what is refused before anything is built, and why.
func TestScan(t *testing.T) {
	for _, c := range []struct{ pickle, want string }{
		{"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00N.", "3 bytes before the end of the frame"},
		{"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00\x95\x01\x00\x00\x00\x00\x00\x00\x00N.", "inside another frame"},
		{"\x80\x02h\x01.", "memo entry 1 was never stored"},
		{"\x80\x02Nq\x00j\x00\x01\x00\x00.", "memo entry 256 was never stored"},
		{"\x80\x02}(Nu.", "a key without a value"},
		{"\x80\x02(Nd.", "a key without a value"},
		{"\x80\x02(1.", "STOP: the stack is empty"},
		{"\x80\x02u.", "no MARK"},
		{"\x80\x02N(R.", "the stack is empty"},
		{"\x80\x06N.", "protocol 6"},
		{"\x80\x02\x8b\x00\x02\x00\x00" + strings.Repeat("x", 512) + ".", "an integer of 512 bytes"},
		{"\x80\x02c" + strings.Repeat("x", 2000) + "\n\n.", "a line of more than 1024"},
		{"\x80\x02c\xff\nx\n.", "not valid UTF-8"},
		{"\x80\x02(S'x'\no.", "opcode 0x53"},
		{"\x80\x02" + strings.Repeat("\x8f", 200000) + ".", "objects would take more"},
		{"\x80\x02" + strings.Repeat("(", maxMarks+1) + ".", "more than 4096 open"},
		{"\x80\x02X\xff\xff\x0f\x00abc", "the data ends here"},
		{"\x80\x02X\xff\xff\xff\x7fabc", "a length of"},
	} {
		_, _, err := scan(bufio.NewReader(strings.NewReader(c.pickle)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.30q: %v, want %q", c.pickle, err, c.want)
		}
	}
	v := &vm{} // accepted: an empty integer, frames, POP of a MARK, a second frame
	for pickle, want := range map[string]any{
		"\x80\x02\x8a\x00.": 0,
		"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00K\x05\x95\x01\x00\x00\x00\x00\x00\x00\x00.rest": 5,
		"\x80\x02K\x07(0.":                        7,
		"\x80\x02\x8a\x01\xff.":                   -1,
		"\x80\x02I-12\n.":                         -12,
		"\x80\x02L99L\n.":                         99,
		"\x80\x02\x8c\x02\xc3\xa9.":               "é",
		"\x80\x02G?\xe0\x00\x00\x00\x00\x00\x00.": 0.5,
	} {
		got, n, err := v.next(bufio.NewReader(strings.NewReader(pickle)))
		if err != nil || got != want || n != int64(strings.LastIndexByte(pickle, '.')+1) {
			t.Errorf("%q: %v after %d bytes (%v), want %v", pickle, got, n, err, want)
		}
	}
}

// TestZipLies: directories and local headers that contradict each other.
func TestZipLies(t *testing.T) {
	good := zipOf(t, tt.Pickle(tt.Dict{{Key: "w", Value: one}}, 2), count(24), count(24))
	central := func(name string) int { // the entry of a member
		return bytes.LastIndex(good, []byte("archive/"+name)) - lenCentral
	}
	if _, err := openBytes(good, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(b []byte)
		want   string
	}{
		{"overlap", func(b []byte) { // data/0 claims to reach into data/1
			e := b[central("data/0"):]
			le.PutUint32(e[20:], 60)
			le.PutUint32(e[24:], 60)
		}, "overlap"},
		{"same header", func(b []byte) { copy(b[central("data/1")+42:][:4], b[central("data/0")+42:][:4]) }, "its local header has the name"},
		{"local name", func(b []byte) { b[bytes.Index(b, []byte("data/0"))]++ }, "its local header has the name"},
		{"local method", func(b []byte) { b[bytes.Index(b, []byte("archive/data/0"))-lenLocal+8] = 8 }, "a different compression method"},
		{"method", func(b []byte) { b[central("data/0")+10] = 12 }, "compression method 12"},
		{"encrypted", func(b []byte) { b[central("data/0")+8] |= 1 }, "encrypted"},
		{"stored sizes", func(b []byte) { b[central("data/0")+24]++ }, "stored uncompressed, but"},
		{"too long", func(b []byte) {
			le.PutUint32(b[central("data/0")+20:], 9999)
			le.PutUint32(b[central("data/0")+24:], 9999)
		}, "reach beyond the members"},
		{"offset", func(b []byte) { le.PutUint32(b[central("data/0")+42:], 1<<31) }, "beyond the members"},
		{"count", func(b []byte) { b[len(b)-lenEnd+10]++; b[len(b)-lenEnd+8]++ }, "for 4 entries"},
		{"fewer", func(b []byte) { b[len(b)-lenEnd+10]-- }, "after its"},
		{"directory size", func(b []byte) { b[len(b)-lenEnd+12]++ }, "does not end at"},
		{"twice", func(b []byte) {
			for i := range b[:len(b)-8] {
				if string(b[i:i+6]) == "data/1" {
					b[i+5] = '0'
				}
			}
		}, "appears twice"},
	} {
		bad := bytes.Clone(good)
		c.change(bad)
		if _, err := openBytes(bad, ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestCycle: an object that contains itself is an error.
func TestCycle(t *testing.T) {
	_, err := Open(filepath.Join(fixtures(), "hostile", "recursive_dict.pt"), Options{})
	if err == nil || !strings.Contains(err.Error(), "contains itself") {
		t.Errorf("got %v", err)
	}
}

// TestDeflateLies: a compressed storage that unpacks to more or less than the
// directory says.
func TestDeflateLies(t *testing.T) {
	pickle := tt.Pickle(tt.Dict{
		{Key: "whole", Value: byteView(0, []int64{24}, []int64{1})}, {Key: "part", Value: byteView(0, []int64{2}, []int64{1})},
		{Key: "strided", Value: byteView(0, []int64{3, 2}, []int64{1, 3})},
	}, 2)
	for n, want := range map[int]string{30: "more than its 24 bytes", 20: "ends after 20 of 24 bytes"} {
		raw := archiveOf(t, tt.Member{Name: "data.pkl", Data: bytes.NewReader(pickle)}, tt.Member{Name: "data/0", Data: bytes.NewReader(count(n)), Deflate: true})
		le.PutUint32(raw[bytes.LastIndex(raw, []byte("archive/data/0"))-lenCentral+24:], 24)
		for _, name := range []string{"whole", "part", "strided"} {
			if _, err := tensorfile.ReadAll(mustOpen(t, raw, ""), name); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%d bytes, %s: %v, want %q", n, name, err, want)
			}
		}
	}
}
