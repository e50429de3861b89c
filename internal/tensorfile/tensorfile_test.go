package tensorfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nlpodyssey/safetensors"

	"github.com/evatool/evatool/internal/fault"
)

// sample has every element type, a scalar and tensors without elements.
func sample() []Tensor {
	var out []Tensor
	for i, d := range []DType{BOOL, U8, I8, I16, U16, F16, BF16, I32, U32, F32, F64, I64, U64} {
		info := Info{Name: fmt.Sprintf("t.%s <é>", d), DType: d, Shape: []int64{3, int64(i%2 + 1)}}
		out = append(out, Tensor{info, bytes.Repeat([]byte{byte(i + 1)}, int(info.NumBytes()))})
	}
	return append(out,
		Tensor{Info{"scalar", F32, nil}, []byte{1, 2, 3, 4}},
		Tensor{Info{"none", F64, []int64{0, 7}}, nil})
}

func eights() []Tensor {
	return []Tensor{
		{Info{"e4m3", F8_E4M3, []int64{2}}, []byte{0x38, 0x7e}},
		{Info{"e5m2", F8_E5M2, []int64{2}}, []byte{0x3c, 0x7b}},
	}
}

func check(t *testing.T, src Source, want []Tensor) {
	t.Helper()
	if len(src.Tensors()) != len(want) {
		t.Errorf("%d tensors, want %d", len(src.Tensors()), len(want))
	}
	for _, w := range want {
		info, err := find(src, w.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.DType != w.DType || !slices.Equal(info.Shape, w.Shape) {
			t.Errorf("%s: %s %v, want %s %v", w.Name, info.DType, info.Shape, w.DType, w.Shape)
		}
		got, err := ReadAll(src, w.Name)
		if err != nil || !bytes.Equal(got, w.Data) {
			t.Errorf("%s: %x (%v), want %x", w.Name, got, err, w.Data)
		}
	}
}

// byLibrary compares with what the safetensors library reads.
func byLibrary(t *testing.T, raw []byte, want []Tensor, meta map[string]string) {
	t.Helper()
	st, err := safetensors.Deserialize(raw)
	if err != nil {
		t.Fatal(err)
	}
	if st.Len() != len(want) {
		t.Errorf("the library sees %d tensors, want %d", st.Len(), len(want))
	}
	for _, w := range want {
		v, ok := st.Tensor(w.Name)
		if !ok || v.DType().String() != string(w.DType) || !bytes.Equal(v.Data(), w.Data) || len(v.Shape()) != len(w.Shape) {
			t.Errorf("the library reads %s as %v %v %x", w.Name, v.DType(), v.Shape(), v.Data())
		}
	}
	_, m, err := safetensors.ReadMetadata(raw)
	if err != nil || len(m.Metadata()) != len(meta) {
		t.Errorf("the library reads the metadata as %v (%v)", m.Metadata(), err)
	}
}

func TestRoundTrip(t *testing.T) {
	meta := map[string]string{"format": "pt", "evatool.config": `{"a<b": "é"}`}
	dir := t.TempDir()
	for _, c := range []struct {
		name    string
		tensors []Tensor
		library bool
	}{{"all", sample(), true}, {"eights", append(sample(), eights()...), false}, {"empty", nil, true}} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name+".safetensors")
			if err := WriteFile(path, c.tensors, meta); err != nil {
				t.Fatal(err)
			}
			var infos []Info
			for _, x := range c.tensors {
				infos = append(infos, x.Info)
			}
			var stream bytes.Buffer
			infos = Layout(infos)
			w, err := NewWriter(&stream, infos, meta)
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range infos {
				i := slices.IndexFunc(c.tensors, func(x Tensor) bool { return x.Name == info.Name })
				if err := w.Next(info, bytes.NewReader(c.tensors[i].Data)); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range [][]byte{whole, stream.Bytes()} {
				f, err := OpenReaderAt(bytes.NewReader(raw), int64(len(raw)), "x")
				if err != nil {
					t.Fatal(err)
				}
				check(t, f, c.tensors)
				if len(f.Metadata()) != 2 || f.Metadata()["evatool.config"] != meta["evatool.config"] {
					t.Errorf("metadata %v", f.Metadata())
				}
				for i, x := range f.Tensors() {
					if off := f.head.Offsets[i]; off%int64(x.DType.Size()) != 0 {
						t.Errorf("%s starts at byte %d", x.Name, off)
					}
				}
				if c.library {
					byLibrary(t, raw, c.tensors, meta)
				}
			}
			f, err := OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, x := range c.tensors {
				file, off, ok := f.Extent(x.Name)
				got := make([]byte, len(x.Data))
				if _, err := file.ReadAt(got, off); !ok || err != nil && len(got) > 0 || !bytes.Equal(got, x.Data) {
					t.Errorf("extent of %s: %x (%v)", x.Name, got, err)
				}
			}
		})
	}
}

func TestWriterRefuses(t *testing.T) {
	a, b := Info{"a", U8, []int64{3}}, Info{"b", F32, []int64{1}}
	for _, c := range []struct {
		name    string
		tensors []Info
		want    string
	}{
		{"twice", []Info{a, a}, "taken"},
		{"reserved", []Info{{metadataKey, U8, nil}}, "taken"},
		{"type", []Info{{"a", "F4", nil}}, "no element type"},
		{"negative", []Info{{"a", U8, []int64{-1}}}, "too large"},
		{"overflow", []Info{{"a", F64, []int64{1 << 40, 1 << 40}}}, "too large"},
		{"sum", []Info{{"a", U8, []int64{1 << 62}}, {"b", U8, []int64{1 << 62}}}, "too large"},
		{"alignment", []Info{a, b}, "Layout"},
	} {
		if _, err := NewWriter(io.Discard, c.tensors, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for _, c := range []struct {
		name  string
		write func(w *Writer) error
		want  string
	}{
		{"order", func(w *Writer) error { return w.Next(a, strings.NewReader("xyz")) }, "the header has"},
		{"short", func(w *Writer) error { return w.Next(b, strings.NewReader("xyz")) }, "3 of 4 bytes"},
		{"long", func(w *Writer) error { return w.Next(b, strings.NewReader("12345")) }, "more than 4"},
		{"late error", func(w *Writer) error { return w.Next(b, io.MultiReader(strings.NewReader("1234"), failing{})) }, "checksum"},
		{"early close", func(w *Writer) error { return w.Close() }, "not written"},
	} {
		w, err := NewWriter(io.Discard, []Info{b, a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.write(w); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("checksum") }

// TestWriteFileAtomic: a failed write leaves the old file and nothing else.
func TestWriteFileAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.safetensors")
	if err := WriteFile(path, sample(), nil); err != nil {
		t.Fatal(err)
	}
	bad := append(sample(), Tensor{Info{"x", F32, []int64{2}}, []byte{1}})
	if err := WriteFile(path, bad, nil); err == nil {
		t.Error("wrong length accepted")
	}
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	check(t, f, sample())
	if err := WriteFile(filepath.Join(dir, "no", "a.safetensors"), sample(), nil); err == nil {
		t.Error("wrote into a folder that does not exist")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestShrinks: a file that shrinks while it is being read is an error.
func TestShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := WriteFile(path, []Tensor{{Info{"w", U8, []int64{100}}, make([]byte, 100)}}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, st.Size()-10); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAll(f, "w"); err == nil || !strings.Contains(err.Error(), "shrank") || fault.Code(err) != int(fault.Input) {
		t.Errorf("got %v", err)
	}
}

func TestFloat32s(t *testing.T) {
	tensors := append(eights(),
		Tensor{Info{"f16", F16, []int64{2}}, []byte{0x00, 0x3c, 0x01, 0x00}},
		Tensor{Info{"bf16", BF16, []int64{1}}, []byte{0xc0, 0xbf}},
		Tensor{Info{"f64", F64, []int64{1}}, []byte{0, 0, 0, 0, 0, 0, 0x04, 0x40}},
		Tensor{Info{"f32", F32, nil}, []byte{0, 0, 0x20, 0x40}},
		Tensor{Info{"i8", I8, nil}, []byte{1}})
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := WriteFile(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string][]float32{
		"e4m3": {1, 448}, "e5m2": {1, 57344}, "f16": {1, 1.0 / (1 << 24)},
		"bf16": {-1.5}, "f64": {2.5}, "f32": {2.5},
	} {
		if got, err := Float32s(f, name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, want)
		}
	}
	if _, err := Float32s(f, "i8"); err == nil {
		t.Error("integers read as floats")
	}
	if _, err := Float32s(f, "none"); err == nil {
		t.Error("missing tensor read")
	}
}

func TestShards(t *testing.T) {
	one, two := sample()[:6], sample()[6:]
	weightMap := func(extra ...string) string {
		var items []string
		for i, part := range [][]Tensor{one, two} {
			for _, x := range part {
				items = append(items, fmt.Sprintf("%q: \"m-%d.safetensors\"", x.Name, i+1))
			}
		}
		return `{"metadata": {"total_size": 1}, "weight_map": {` + strings.Join(append(items, extra...), ", ") + `}}`
	}
	for _, c := range []struct {
		name, index string
		want        string // "" for success
	}{
		{"good", weightMap(), ""},
		{"missing shards", weightMap(`"x": "m-3.safetensors"`, `"y": "m-4.safetensors"`), "2 of 4 shards are missing: m-3.safetensors, m-4.safetensors"},
		{"name not in shard", weightMap(`"x": "m-1.safetensors"`), `tensor "x" is not in m-1.safetensors`},
		{"name not in index", `{"weight_map": {"scalar": "m-2.safetensors"}}`, "is not in the index"},
		{"wrong shard", strings.Replace(weightMap(), "m-1.safetensors", "m-2.safetensors", 1), "the index says m-2.safetensors"},
		{"twice", weightMap(`"scalar": "m-1.safetensors"`), "appears twice"},
		{"folder", weightMap(`"x": "../m-1.safetensors"`), "not a plain file name"},
		{"number", weightMap(`"x": 1`), "not a string"},
		{"no map", `{"metadata": {}}`, "no weight_map"},
		{"no JSON", `weights`, "not JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for i, part := range [][]Tensor{one, two} {
				if err := WriteFile(filepath.Join(dir, fmt.Sprintf("m-%d.safetensors", i+1)), part, map[string]string{"k": "v"}); err != nil {
					t.Fatal(err)
				}
			}
			index := filepath.Join(dir, "m.safetensors.index.json")
			if err := os.WriteFile(index, []byte(c.index), 0o644); err != nil {
				t.Fatal(err)
			}
			src, err := OpenSharded(index)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || fault.Code(err) != int(fault.Input) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			check(t, src, sample())
			if src.Metadata()["k"] != "v" {
				t.Errorf("metadata %v", src.Metadata())
			}
			if _, _, ok := src.Extent("scalar"); !ok {
				t.Error("no extent")
			}
		})
	}
}

func TestOpenFileErrors(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "is a directory",
	} {
		if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// TestHeaderLimits: a header cannot take much more memory than its own size.
func TestHeaderLimits(t *testing.T) {
	open := func(head string) error {
		raw := append([]byte{byte(len(head)), byte(len(head) >> 8), byte(len(head) >> 16), byte(len(head) >> 24), 0, 0, 0, 0}, head...)
		_, err := OpenReaderAt(bytes.NewReader(raw), int64(len(raw)), "x")
		return err
	}
	var keys strings.Builder
	for i := range maxKeys + 1 {
		fmt.Fprintf(&keys, `"%x":"",`, i)
	}
	for _, c := range []struct{ head, want string }{
		{`{"__metadata__":{` + strings.TrimSuffix(keys.String(), ",") + `}}`, "more than 131072 keys"},
		{`{"w":{"dtype":"U8","data_offsets":[0,0],"shape":[` + strings.Repeat("0,", 64) + `0]}}`, "more than 64 numbers"},
		{`{"w":{"dtype":"U8","data_offsets":[0,0],"shape":[` + strings.Repeat("0,", 63) + `0]}}`, ""},
	} {
		switch err := open(c.head); {
		case c.want == "" && err != nil:
			t.Error(err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
