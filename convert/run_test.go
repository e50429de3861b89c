package convert

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
	tt "github.com/evatool/evatool/internal/torchfile/torchtest"
)

const formats = "../testdata/formats/"

func run(t *testing.T, o Options) *Report {
	t.Helper()
	if o.Output == "" {
		o.Output = filepath.Join(t.TempDir(), "out.safetensors")
	}
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Verified && !o.DryRun {
		t.Fatal("not verified")
	}
	return r
}

// sums returns the hashes of a file's tensors.
func sums(t *testing.T, path string) map[string]string {
	t.Helper()
	r, err := Inspect(context.Background(), path, InspectOptions{Hash: true})
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, x := range r.Tensors {
		m[x.Name] = x.DType + " " + string(mustJSON(x.Shape)) + " " + x.SHA256
	}
	return m
}

// wantTensor is a tensor as testdata describes it.
type wantTensor struct {
	DType  string
	Shape  []int64
	SHA256 string
}

// String has the form of sums.
func (w wantTensor) String() string {
	return w.DType + " " + string(mustJSON(notNil(w.Shape))) + " " + w.SHA256
}

func wantTensors(t *testing.T, path string) map[string]wantTensor {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]wantTensor
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	return want
}

func sameSums(t *testing.T, got map[string]string, want map[string]wantTensor) {
	t.Helper()
	for name, w := range want {
		if got[name] != w.String() {
			t.Errorf("%s: %s, want %s", name, got[name], w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is too much", name)
		}
	}
}

// Every container, exactly as found.
func TestSourceLayoutIsByteExact(t *testing.T) {
	paths, err := filepath.Glob(formats + "expected/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			File    string
			Tensors map[string]wantTensor
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		src := filepath.Join("../testdata", want.File)
		t.Run(filepath.Base(src), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "x.safetensors")
			r := run(t, Options{Sources: []string{src}, Output: out, Layout: "source"})
			sameSums(t, sums(t, out), want.Tensors)
			for _, x := range r.Tensors {
				if x.SHA256 != want.Tensors[x.Name].SHA256 {
					t.Errorf("the report's hash of %s is wrong", x.Name)
				}
			}
		})
	}
}

func TestRoundTripsAreByteExact(t *testing.T) {
	for _, c := range []struct{ file, config, layout string }{
		{"01_zip_fp32.pt", "eva02-b-tiny", "openclip"},
		{"02_zip_fp16.pt", "eva02-l336-tiny", "openclip"},
		{"05_legacy_fp16_module.pth", "eva-switches-b-tiny", "openclip"},
		{"06_torchscript_openai_vit.pt", "openai-vit-tiny", "hf"},
		{"06_torchscript_openai_vit.pt", "openai-vit-tiny", "openclip"},
		{"07_torchscript_openai_rn.pt", "openai-rn-tiny", "openclip"},
		{"09_openclip_epoch_5.pt", "openclip-vith-tiny", "hf"},
		{"09_openclip_epoch_5.pt", "openclip-vith-tiny", "openclip"},
		{"11_hf", "hf-clip-tiny", "hf"},
		{"12_hf_sharded", "hf-clip-tiny", "openclip"},
	} {
		t.Run(c.file+"/"+c.layout, func(t *testing.T) {
			dir := t.TempDir()
			eva, other, back := filepath.Join(dir, "eva.safetensors"), filepath.Join(dir, "other.safetensors"), filepath.Join(dir, "back.safetensors")
			run(t, Options{Sources: []string{formats + c.file}, Config: "../testdata/models/" + c.config + "/config.json", Output: eva})
			// From here on, the files describe themselves.
			run(t, Options{Sources: []string{eva}, Layout: c.layout, Output: other})
			run(t, Options{Sources: []string{other}, Output: back})
			a, b := sums(t, eva), sums(t, back)
			if len(a) == 0 || len(a) != len(b) {
				t.Fatalf("%d and %d tensors", len(a), len(b))
			}
			for name := range a {
				if a[name] != b[name] {
					t.Errorf("%s: %s, want %s", name, b[name], a[name])
				}
			}
			d, err := Diff(context.Background(), eva, other, DiffOptions{})
			if err != nil || !d.Equal || len(d.Tensors) != len(a) {
				t.Errorf("diff: %v, %d tensors, %v", d.Equal, len(d.Tensors), err)
			}
			if _, err := os.Stat(filepath.Join(dir, "back.report.json")); err != nil {
				t.Error(err)
			}
			left, _ := filepath.Glob(filepath.Join(dir, ".*"))
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestShards(t *testing.T) {
	dir := t.TempDir()
	one, many := filepath.Join(dir, "one.safetensors"), filepath.Join(dir, "many.safetensors")
	src := []string{formats + "06_torchscript_openai_vit.pt"}
	config := "../testdata/models/openai-vit-tiny/config.json"
	run(t, Options{Sources: src, Config: config, Output: one})
	r := run(t, Options{Sources: src, Config: config, Output: many, ShardSize: 200_000})
	if len(r.Files) < 3 {
		t.Fatalf("files %v", r.Files)
	}
	a, b := sums(t, one), sums(t, filepath.Join(dir, "many.safetensors.index.json"))
	for name := range a {
		if a[name] != b[name] {
			t.Errorf("%s differs", name)
		}
	}
	var files []string
	for _, f := range r.Files {
		files = append(files, f.File)
	}
	m, err := checkpoint.OpenModel(context.Background(), filepath.Join(dir, "many.safetensors.index.json"), checkpoint.ModelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !m.Config.QuickGELU || len(m.Source.Tensors()) != len(a) {
		t.Error("the shards do not describe themselves")
	}
	back := filepath.Join(dir, "back.safetensors")
	run(t, Options{Sources: files, Output: back})
	for name, sum := range sums(t, back) {
		if a[name] != sum {
			t.Errorf("%s differs after joining", name)
		}
	}
}

func TestSelection(t *testing.T) {
	src := []string{formats + "01_zip_fp32.pt"}
	r := run(t, Options{Sources: src, Include: []string{"visual.*"}, Exclude: []string{"*.bias"}})
	for _, x := range r.Tensors {
		if !strings.HasPrefix(x.Name, "visual.") || strings.HasSuffix(x.Name, ".bias") {
			t.Errorf("%s should be out", x.Name)
		}
	}
	if r.TensorsOut == 0 || r.TensorsOut+len(r.Dropped) != r.TensorsIn {
		t.Errorf("%d in, %d out, %d dropped", r.TensorsIn, r.TensorsOut, len(r.Dropped))
	}
	dry := run(t, Options{Sources: src, DryRun: true})
	if !dry.DryRun || len(dry.Plan) != dry.TensorsOut || len(dry.Tensors) != 0 {
		t.Errorf("dry run: %+v", dry)
	}
}

// writeF32 writes a small safetensors file of one F32 tensor.
func writeF32(t *testing.T, name string, values []float32) string {
	t.Helper()
	b := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
	}
	path := filepath.Join(t.TempDir(), "in.safetensors")
	info := tensorfile.Info{Name: name, DType: tensorfile.F32, Shape: []int64{int64(len(values))}}
	if err := tensorfile.WriteFile(path, []tensorfile.Tensor{{Info: info, Data: b}}, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCasts(t *testing.T) {
	values := []float32{0, 1, -1, 1.0009766, 1.0004883, 6.1e-5, 3e-8, 65504, 65519, 1e-40}
	src := writeF32(t, "x", values)
	for _, d := range []string{"fp16", "bf16", "fp32"} {
		out := filepath.Join(t.TempDir(), d+".safetensors")
		r := run(t, Options{Sources: []string{src}, Layout: "source", DType: d, Output: out})
		if want := map[bool]int{true: 1}[d != "fp32"]; r.Cast != want {
			t.Errorf("%s: %d casts", d, r.Cast)
		}
		f, err := tensorfile.OpenFile(out)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tensorfile.Float32s(f, "x")
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			want := v
			switch d {
			case "fp16":
				want = tensorfile.F16toF32(tensorfile.F32toF16(v))
			case "bf16":
				want = tensorfile.BF16toF32(tensorfile.F32toBF16(v))
			}
			if got[i] != want {
				t.Errorf("%s: %g becomes %g, want %g", d, v, got[i], want)
			}
		}
		f.Close()
	}
	big := writeF32(t, "x", []float32{1, 65520, -1e9})
	out := filepath.Join(t.TempDir(), "out.safetensors")
	_, err := Run(context.Background(), Options{Sources: []string{big}, Layout: "source", DType: "fp16", Output: out})
	if err == nil || !strings.Contains(err.Error(), "x: element 1 is 65520") || fault.Code(err) != int(fault.Input) {
		t.Errorf("overflow: %v", err)
	}
	run(t, Options{Sources: []string{big}, Layout: "source", DType: "fp16", Output: out, Saturate: true})
	f, err := tensorfile.OpenFile(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := tensorfile.Float32s(f, "x"); !slices.Equal(got, []float32{1, 65504, -65504}) {
		t.Errorf("saturated to %v", got)
	}
}

func TestNoTensorsAtAll(t *testing.T) {
	src, out := filepath.Join(t.TempDir(), "empty.safetensors"), filepath.Join(t.TempDir(), "out.safetensors")
	writeNames(t, src, nil)
	run(t, Options{Sources: []string{src}, Layout: "source", Output: out})
	if len(sums(t, out)) != 0 {
		t.Error("tensors out of nothing")
	}
	if _, err := Run(context.Background(), Options{Sources: []string{src}, Output: filepath.Join(t.TempDir(), "x.safetensors")}); fault.Code(err) != int(fault.Input) {
		t.Errorf("got %v", err)
	}
}

// TestNestedIsReported: what lies deeper in a state dict is not left out in silence.
func TestNestedIsReported(t *testing.T) {
	one := tt.View(tt.Storage(tensorfile.U8, "0", 1), 0, []int64{1}, []int64{1})
	path := writeTorch(t, tt.Dict{{Key: "a", Value: one}, {Key: "head", Value: tt.Dict{{Key: "weight", Value: one}}}}, 1)
	r := run(t, Options{Sources: []string{path}, Layout: "source"})
	if len(r.Tensors) != 1 || len(r.Dropped) != 1 || r.Dropped[0].Name != "head" {
		t.Errorf("%d tensors, dropped %q", len(r.Tensors), r.Dropped)
	}
}

// writeTorch writes a file of torch.save with a storage of n bytes.
func writeTorch(t *testing.T, root any, n int) string {
	t.Helper()
	var b bytes.Buffer
	if err := tt.WriteZip(&b, []tt.Member{{Name: "data.pkl", Data: bytes.NewReader(tt.Pickle(root, 2))}, {Name: "data/0", Data: bytes.NewReader(make([]byte, n))}}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.pt")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEmptyBehindStorage: a slice without elements may begin behind its storage, and
// behind the end of the file.
func TestEmptyBehindStorage(t *testing.T) {
	storage := tt.Storage(tensorfile.U8, "0", 24)
	path := writeTorch(t, tt.Dict{
		{Key: "all", Value: tt.View(storage, 0, []int64{24}, []int64{1})},
		{Key: "none", Value: tt.View(storage, 1<<20, []int64{0, 3}, []int64{3, 1})},
	}, 24)
	r := run(t, Options{Sources: []string{path}, Layout: "source"})
	if len(r.Tensors) != 2 || r.Bytes != 24 {
		t.Errorf("%d tensors of %d bytes; want 2 of 24", len(r.Tensors), r.Bytes)
	}
}

func TestRunErrors(t *testing.T) {
	ambiguous := filepath.Join(t.TempDir(), "sorted.safetensors")
	writeNames(t, ambiguous, params("openai-ViT-B-32"))
	near := filepath.Join(t.TempDir(), "near.safetensors")
	writeNames(t, near, slices.DeleteFunc(params("EVA02-CLIP-B-16"), func(x tensorfile.Info) bool {
		return strings.HasPrefix(x.Name, "text.transformer.resblocks.11.")
	}))
	more := func(name string) string {
		path := filepath.Join(t.TempDir(), "more.safetensors")
		writeNames(t, path, append(params("openclip-ViT-B-32"), tensorfile.Info{Name: name, DType: tensorfile.F32}))
		return path
	}
	cases := []struct {
		name string
		o    Options
		kind fault.Kind
		says string
	}{
		{"no source", Options{}, fault.Usage, "no source"},
		{"no such file", Options{Sources: []string{"missing.pt"}}, fault.Input, "missing.pt: no such file"},
		{"layout", Options{Sources: []string{"x"}, Layout: "torch"}, fault.Usage, "Options.Layout torch"},
		{"dtype", Options{Sources: []string{"x"}, DType: "int8"}, fault.Usage, "Options.DType int8"},
		{"resize", Options{Sources: []string{"x"}, Resize: "lanczos"}, fault.Usage, "Options.Resize lanczos"},
		{"image size without architecture", Options{Sources: []string{formats + "01_zip_fp32.pt"}, ImageSize: 64}, fault.Input, "Options.Config"},
		{"wrong config", Options{Sources: []string{formats + "01_zip_fp32.pt"}, Config: "EVA02-CLIP-B-16"}, fault.Input, "01_zip_fp32.pt"},
		{"no such layout for EVA", Options{Sources: []string{formats + "01_zip_fp32.pt"}, Layout: "hf"}, fault.Usage, "Options.Layout hf"},
		{"no CLIP", Options{Sources: []string{formats + "20_torchscript_small.pt"}}, fault.Input, "Options.Layout source"},
		{"empty folder", Options{Sources: []string{t.TempDir()}}, fault.Input, "no weights here"},
		{"ambiguous", Options{Sources: []string{ambiguous}}, fault.Input, "openai-ViT-B-32 and openclip-ViT-B-32"},
		{"a decoder without CoCa's text tower", Options{Sources: []string{more("text_decoder.ln_final.weight")}}, fault.Input, "except for text_decoder.ln_final.weight; leave tensors out with Options.Exclude"},
		{"timm", Options{Sources: []string{more("visual.trunk.stages.0.weight")}}, fault.Input, "a vision tower of timm"},
		{"one tensor more", Options{Sources: []string{more("other")}}, fault.Input, "except for other; leave tensors out with Options.Exclude"},
		{"incomplete", Options{Sources: []string{near}}, fault.Input, "almost those of EVA02-CLIP-B-16, but text."},
		{"twice the same", Options{Sources: []string{formats + "01_zip_fp32.pt", formats + "01_zip_fp32.pt"}}, fault.Input, "earlier file"},
		{"no tensors left", Options{Sources: []string{formats + "01_zip_fp32.pt"}, Include: []string{"nothing"}}, fault.Usage, "leave no tensor"},
		{"no folder", Options{Sources: []string{formats + "01_zip_fp32.pt"}, Output: "no/such/folder/x.safetensors"}, fault.Environment, "create it first"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.o.Output == "" {
				c.o.Output = filepath.Join(dir, "out.safetensors")
			}
			_, err := Run(context.Background(), c.o)
			if err == nil || fault.Code(err) != int(c.kind) || !strings.Contains(fault.Line(err), c.says) {
				t.Errorf("got %v (%d), want %q", err, fault.Code(err), c.says)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// params are the tensors of a published architecture, in EVA's layout.
func params(name string) (out []tensorfile.Info) {
	c, _ := arch.Named(name)
	for _, p := range c.Params() {
		out = append(out, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	return out
}

// writeNames writes a sparse file of the given tensors, in alphabetical order.
func writeNames(t *testing.T, path string, infos []tensorfile.Info) {
	t.Helper()
	infos = slices.SortedFunc(slices.Values(infos), func(a, b tensorfile.Info) int { return strings.Compare(a.Name, b.Name) })
	head, err := header(infos, nil)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(head))
	for _, i := range infos {
		size += i.NumBytes()
	}
	if err := os.WriteFile(path, head, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func TestOverwriteNeedsForce(t *testing.T) {
	o := Options{Sources: []string{formats + "01_zip_fp32.pt"}, Output: filepath.Join(t.TempDir(), "x.safetensors")}
	run(t, o)
	if _, err := Run(context.Background(), o); fault.Code(err) != int(fault.Usage) {
		t.Errorf("got %v", err)
	}
	o.Force = true
	run(t, o)
	o.Sources = []string{o.Output}
	if _, err := Run(context.Background(), o); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "is the input") {
		t.Errorf("got %v", err)
	}
}

// Of several runs to the same new file, exactly one succeeds.
func TestRunsOntoOneName(t *testing.T) {
	o := Options{Sources: []string{formats + "01_zip_fp32.pt"}, Layout: "source", Output: filepath.Join(t.TempDir(), "x.safetensors")}
	var begun sync.WaitGroup
	begun.Add(3)
	errs := make(chan error, 3)
	for range 3 {
		go func() {
			o, once := o, sync.Once{}
			o.Progress = func(int64, int64) { once.Do(func() { begun.Done(); begun.Wait() }) }
			_, err := Run(context.Background(), o)
			errs <- err
		}()
	}
	won := 0
	for range 3 {
		switch err := <-errs; {
		case err == nil:
			won++
		case fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "another run has written this file"):
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(o.Output)); won != 1 || len(left) != 2 {
		t.Errorf("%d of 3 runs end well; %d files", won, len(left))
	}
}

// If the report cannot be written, neither is the model.
func TestNoReportNoModel(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x.report.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Run(context.Background(), Options{Sources: []string{formats + "01_zip_fp32.pt"}, Layout: "source", Output: filepath.Join(dir, "x.safetensors")})
	if fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "x.report.json") {
		t.Errorf("%v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// More tensors than may be copied but not yet verified, some of which lie in the
// source as they are written and some do not, in every order: there is no deadlock.
func TestManyTensors(t *testing.T) {
	const n = 5 * ahead
	for name, cast := range map[string]func(i int) bool{
		"in turn":    func(i int) bool { return i%2 == 0 },
		"cast first": func(i int) bool { return i < n/2 },
		"cast last":  func(i int) bool { return i >= n/2 },
		"all":        func(i int) bool { return true },
		"none":       func(i int) bool { return false },
	} {
		src := filepath.Join(t.TempDir(), "src.safetensors")
		var infos []tensorfile.Info
		for i := range n {
			d := tensorfile.I32 // stays
			if cast(i) {
				d = tensorfile.F32
			}
			infos = append(infos, tensorfile.Info{Name: fmt.Sprintf("t%04d", i), DType: d, Shape: []int64{int64(i % 3)}})
		}
		writeNames(t, src, infos)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := Run(ctx, Options{Sources: []string{src}, Layout: "source", DType: "fp16", Output: filepath.Join(t.TempDir(), "x.safetensors")})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, x := range r.Tensors {
			if len(x.SHA256) != 64 {
				t.Errorf("%s: %s has no hash", name, x.Name)
			}
		}
	}
}

// A byte that changes on its way to the disk is noticed, in a tensor that lies in
// the source as it is written and in one that does not.
func TestOutputThatChanges(t *testing.T) {
	for _, dtype := range []string{"keep", "fp16"} {
		t.Run(dtype, func(t *testing.T) {
			in, err := checkpoint.Open([]string{formats + "01_zip_fp32.pt"}, "")
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			p, err := in.Plan(checkpoint.PlanOptions{Layout: "source", DType: dtype, Include: []string{"logit_scale"}})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			w := &transfer{sources: in.Files, items: p.Items}
			defer w.discard()
			if err := w.create(filepath.Join(dir, "x.safetensors"), 0); err != nil {
				t.Fatal(err)
			}
			at := w.files[0].at[0]
			w.progress = func(int64, int64) { // after the only write
				b := make([]byte, 1)
				w.files[0].ReadAt(b, at)
				b[0] ^= 1
				w.files[0].WriteAt(b, at)
			}
			if err := w.run(t.Context()); fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "reads back different") {
				t.Errorf("got %v", err)
			}
			w.discard()
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A file that shrinks or grows while it is being read is an error, and leaves
// nothing behind.
func TestSourceThatShrinks(t *testing.T) {
	b, err := os.ReadFile(formats + "01_zip_fp32.pt")
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"shrinks": 300_000, "grows": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src := filepath.Join(t.TempDir(), "src.pt")
			if err := os.WriteFile(src, b, 0o644); err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			_, err := Run(context.Background(), Options{Sources: []string{src}, Output: filepath.Join(dir, "x.safetensors"), Layout: "source",
				Progress: func(int64, int64) { once.Do(func() { os.Truncate(src, size) }) }})
			if err == nil || fault.Code(err) != int(fault.Input) {
				t.Errorf("got %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// The system reports a failed write once, to the next sync: during the copy, or at
// the end.
func TestSyncFails(t *testing.T) {
	old := atomicfile.Fsync
	defer func() { atomicfile.Fsync = old }()
	for name, size := range map[string]int64{"while copying": 2 * syncSize, "at the end": 8} {
		t.Run(name, func(t *testing.T) {
			src, dir := filepath.Join(t.TempDir(), "src.safetensors"), t.TempDir()
			writeNames(t, src, []tensorfile.Info{{Name: "w", DType: tensorfile.U8, Shape: []int64{size}}})
			var failed atomic.Bool
			atomicfile.Fsync = func(*os.File) error {
				if failed.CompareAndSwap(false, true) {
					return syscall.EIO
				}
				return nil
			}
			_, err := Run(context.Background(), Options{Sources: []string{src}, Output: filepath.Join(dir, "x.safetensors"), Layout: "source"})
			if fault.Code(err) != int(fault.Environment) || !errors.Is(err, syscall.EIO) {
				t.Errorf("got %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Run(ctx, Options{Sources: []string{formats + "01_zip_fp32.pt"}, Output: filepath.Join(dir, "x.safetensors"),
		Progress: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) || fault.Code(err) != int(fault.Interrupted) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDeepSpeedFolder(t *testing.T) {
	dir := t.TempDir()
	tag := filepath.Join(dir, "epoch_9")
	if err := os.Mkdir(tag, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(formats + "10_deepspeed/epoch_2/mp_rank_00_model_states.pt")
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "latest"), []byte("epoch_9\n"))
	write(filepath.Join(tag, "mp_rank_00_model_states.pt"), b)
	write(filepath.Join(tag, "zero_pp_rank_0_mp_rank_00_optim_states.pt"), []byte("never read"))
	r := run(t, Options{Sources: []string{dir}})
	if len(r.Ignored) != 1 || !strings.Contains(r.Ignored[0].Reason, "optimizer") {
		t.Errorf("ignored %v", r.Ignored)
	}
	write(filepath.Join(tag, "mp_rank_01_model_states.pt"), b)
	if _, err := Inspect(context.Background(), dir, InspectOptions{}); err == nil || !strings.Contains(err.Error(), "partitioned") {
		t.Errorf("got %v", err)
	}
	write(filepath.Join(dir, "latest"), []byte("../elsewhere"))
	if _, err := Inspect(context.Background(), dir, InspectOptions{}); err == nil || !strings.Contains(err.Error(), "not the name of a folder") {
		t.Errorf("got %v", err)
	}
}

func TestDiff(t *testing.T) {
	a, b := writeF32(t, "x", []float32{1, 2, 4}), writeF32(t, "x", []float32{1, 2.5, 4})
	d, err := Diff(context.Background(), a, b, DiffOptions{})
	if err != nil || d.Equal || d.Tensors[0].MaxAbs != 0.5 || d.Tensors[0].MaxRel != 0.2 {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err = Diff(context.Background(), a, b, DiffOptions{ATol: 0.5}); err != nil || !d.Equal {
		t.Errorf("within the tolerance: %+v, %v", d, err)
	}
	if d, err = Diff(context.Background(), a, writeF32(t, "y", []float32{1, 2, 4}), DiffOptions{}); err != nil || d.Equal || len(d.OnlyA) != 1 || len(d.OnlyB) != 1 {
		t.Errorf("other names: %+v, %v", d, err)
	}
	if d, err = Diff(context.Background(), a, writeF32(t, "x", []float32{1, 2}), DiffOptions{}); err != nil || d.Equal || d.Tensors[0].Problem == "" {
		t.Errorf("other shape: %+v, %v", d, err)
	}
	half := filepath.Join(t.TempDir(), "half.safetensors")
	run(t, Options{Sources: []string{a}, Layout: "source", DType: "fp16", Output: half})
	if d, err = Diff(context.Background(), a, half, DiffOptions{}); err != nil || !d.Equal {
		t.Errorf("the same values in fp16: %+v, %v", d, err)
	}
	if _, err = Diff(context.Background(), a, b, DiffOptions{Map: "maybe"}); fault.Code(err) != int(fault.Usage) {
		t.Errorf("got %v", err)
	}
}

func TestInspect(t *testing.T) {
	r, err := Inspect(context.Background(), formats+"09_openclip_epoch_5.pt", InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Container != "torch-zip" || r.Family != "clip" || r.StateDictKey == nil || *r.StateDictKey != "state_dict" || len(r.Other) == 0 || len(r.Outside) == 0 {
		t.Errorf("%s %s %v %d %d", r.Container, r.Family, r.StateDictKey, len(r.Other), len(r.Outside))
	}
	for _, x := range r.Tensors {
		if x.SHA256 != "" {
			t.Error("hashed without being asked")
		}
	}
	if r, err = Inspect(context.Background(), formats+"01_zip_fp32.pt", InspectOptions{Hash: true}); err != nil || r.StateDictKey != nil || len(r.Tensors[0].SHA256) != 64 {
		t.Errorf("%v", err)
	}
}

// The same weights under Hugging Face's and OpenAI's names, made by the
// original code: transposed and fused as required.
func TestHuggingFaceNamesMeanTheSameWeights(t *testing.T) {
	want := wantTensors(t, formats+"11_openai_names.json")
	out := filepath.Join(t.TempDir(), "openai.safetensors")
	run(t, Options{Sources: []string{formats + "11_hf"}, Layout: "openclip", Output: out})
	sameSums(t, sums(t, out), want)
	d, err := Diff(context.Background(), formats+"11_hf", out, DiffOptions{})
	if err != nil || !d.Equal || d.Map != "eva" || len(d.Tensors) != 50 {
		t.Errorf("%+v, %v", d, err)
	}
}

// The error about a torch.distributed checkpoint has the command that merges it.
func TestDistributedCheckpoint(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".metadata", "__0_0.distcp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("\x80\x02}."), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, ".metadata"), filepath.Join(dir, "__0_0.distcp")} {
		_, err := Inspect(context.Background(), path, InspectOptions{})
		if err == nil || fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "dcp_to_torch "+dir) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
