//go:build cgo

package pjrt

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/go-xla/pjrt"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/layers/attention"
)

// TestSaveMemory: independent chains, one after the other or all at the same
// time (the plugin does not fuse a sort with anything); a plugin that does not
// know the option compiles without it, and it is told why.
func TestSaveMemory(t *testing.T) {
	c := open(t, "off")
	chains := func(a *graph.Node) *graph.Node {
		sum := graph.ScalarZero(a.Graph(), dtypes.Float32)
		for i := range 16 {
			x := graph.MulScalar(a, float64(i+1))
			for range 3 {
				x = graph.Sort(graph.Dot(x, a).Product(), 0, true)
			}
			sum = graph.Add(sum, graph.ReduceAllSum(x))
		}
		return sum
	}
	temporary := func(save bool) (int64, string) {
		e, what, err := compiled(t, c, save, chains, 64, 64)
		if err != nil {
			t.Fatal(err)
		}
		return MemoryOf(e).Temporary, what.Refused
	}
	plain, _ := temporary(false)
	saving, refused := temporary(true)
	if saving*2 > plain || refused != "" {
		t.Errorf("%d bytes of temporary memory, %d without saving; refused: %q", saving, plain, refused)
	}
	known := memoryOrder
	defer func() { memoryOrder = known }()
	memoryOrder = bytes.Replace(known, []byte("xla_cpu"), []byte("unknown"), 1)
	if _, refused := temporary(true); refused == "" {
		t.Error("an unknown option was taken")
	}
}

// TestGPUOptions: what a GPU's programs are compiled with. XLA has one list of
// options: the CPU plugin knows these too, and their types.
func TestGPUOptions(t *testing.T) {
	folder := "/" + strings.Repeat("a long path/", 20)
	p := &Plugin{Kind: plugins.CUDA}
	if got := p.attempts(false); len(got) != 2 || len(got[0]) != 0 || string(got[1]) != "\x3a\x20\x0a\x1axla_gpu_enable_triton_gemm\x12\x02\x10\x00" {
		t.Errorf("without a folder: %q", got)
	}
	p.cuda = folder
	got := p.attempts(false)
	if len(got) != 2 || !bytes.Contains(got[0], []byte(folder)) || !bytes.Contains(got[1], got[0]) || !bytes.Contains(got[1], noTriton) {
		t.Errorf("with a folder: %q", got)
	}
	c := open(t, "off")
	known := memoryOrder
	defer func() { memoryOrder = known }()
	for _, try := range []struct {
		options []byte
		ok      bool
	}{{got[0], true}, {got[1], true}, {option(cudaDataDir, 2<<3, 0), false}} {
		memoryOrder = try.options
		_, what, err := compiled(t, c, true, func(x *graph.Node) *graph.Node { return graph.Sin(x) }, 4)
		if err != nil || (what.Refused == "") != try.ok {
			t.Errorf("%q: %v, refused: %s", try.options, err, what.Refused)
		}
	}
}

// TestFusedAttention: on a plugin that counts as CUDA's, half-precision
// attention becomes cuDNN's operation, forward and backward, and is counted.
// (The CPU plugin stands in: it gets the program, and cannot compile it.)
func TestFusedAttention(t *testing.T) {
	link := filepath.Join(t.TempDir(), "cpu.so")
	if err := os.Symlink(cpuPlugin(t), link); err != nil {
		t.Fatal(err)
	}
	p := must[*Plugin](t)(Load(link, plugins.CPU))
	c := must[*Client](t)(p.NewClient(Options{Cache: "off"}))
	defer c.Close()
	plugin := must[*pjrt.Plugin](t)(pjrt.GetPlugin(p.name))
	field(reflect.ValueOf(plugin), "name").SetString("cuda") // go-xla goes by the name
	p.Kind = plugins.CUDA
	for _, op := range []compute.OpType{compute.OpTypeFusedScaledDotProductAttention, compute.OpTypeFusedScaledDotProductAttentionVJP} {
		c.Backend.Capabilities().Operations[op] = true
	}
	for _, try := range []struct {
		dtype dtypes.DType
		want  int
	}{{dtypes.BFloat16, 2}, {dtypes.Float32, 0}} {
		_, what, err := compiled(t, c, false, func(in *graph.Node) *graph.Node {
			x := graph.ConvertDType(in, try.dtype)
			y, _ := attention.Core(x, x, x, attention.LayoutBSHD, attention.CoreOptions{Scale: 0.125, UseCausalMask: true})
			return graph.Gradient(graph.ReduceAllSum(graph.ConvertDType(y, dtypes.Float32)), in)[0]
		}, 2, 8, 2, 64)
		if (err != nil) != (try.want > 0) {
			t.Errorf("%s: %v", try.dtype, err)
		}
		if what.Fused != try.want {
			t.Errorf("%s: %d fused operations, not %d", try.dtype, what.Fused, try.want)
		}
	}
}
