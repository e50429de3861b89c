package device

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"k8s.io/klog/v2"
)

// TestGlobals: a device that is opened, used and closed leaves the process's
// own things as they were, whatever its options. A process of its own looks at
// itself, with variables that XLA reads set and not set.
func TestGlobals(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "globals" {
		globalsChild(t)
		return
	}
	for _, env := range [][]string{nil, {"NPROC=2", "XLA_FLAGS=--xla_cpu_multi_thread_eigen=true"}} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestGlobals$", "-test.v")
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
			return strings.HasPrefix(v, "NPROC=") || strings.HasPrefix(v, "XLA_FLAGS=")
		}), append(env, "EVATOOL_TEST_CHILD=globals")...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("with %v: %v\n%s%s", env, err, out, &stderr)
		}
		if !strings.Contains(stderr.String(), "a line of the host") {
			t.Errorf("with %v: the host's klog is silent: %q", env, &stderr)
		}
		for line := range strings.Lines(string(out)) { // the library prints nothing there
			if !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "PASS") && !strings.HasPrefix(line, "    ") {
				t.Errorf("with %v: on stdout: %s", env, line)
			}
		}
	}
}

// process is what a process has one of.
func process(t *testing.T) map[string]string {
	p := map[string]string{
		"GOMAXPROCS": fmt.Sprint(runtime.GOMAXPROCS(0)),
		"os.Stdout":  fmt.Sprintf("%p %s", os.Stdout, must[string](t)(os.Readlink("/proc/self/fd/1"))),
		"os.Stderr":  fmt.Sprintf("%p %s", os.Stderr, must[string](t)(os.Readlink("/proc/self/fd/2"))),
		"folder":     must[string](t)(os.Getwd()),
	}
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		p["$"+name] = value
	}
	for line := range strings.Lines(string(must[[]byte](t)(os.ReadFile("/proc/self/status")))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "SigBlk", "SigIgn", "SigCgt", "Umask", "NoNewPrivs", "Seccomp":
			p[name] = value
		}
	}
	return p
}

func same(t *testing.T, when string, got, want map[string]string) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if v, ok := want[k]; !ok || v != got[k] {
			t.Errorf("%s: %s is %q, was %q", when, k, got[k], v)
		}
	}
	for k := range want {
		if _, ok := got[k]; !ok {
			t.Errorf("%s: %s is gone", when, k)
		}
	}
}

func globalsChild(t *testing.T) {
	before := process(t)
	options := []Options{{Backend: "go"}, {Backend: "go", Threads: 1}, {Backend: "go", Threads: 100}, {Backend: "nonsense"}}
	if cpu := ifCPUPlugin(); cpu != "" {
		for _, o := range []Options{{}, {Threads: 1}, {Threads: 3, DeviceCount: 2}} {
			o.Backend, o.CompileCache = "xla:"+cpu, t.TempDir()
			options = append(options, o)
		}
	} else {
		t.Log("without the CPU plugin")
	}
	for _, o := range options {
		d, err := Open(t.Context(), o)
		if err == nil {
			p := d.Program("sum", func(in []*graph.Node) []*graph.Node {
				return []*graph.Node{graph.ReduceAllSum(graph.Dot(in[0], in[0]).Product())}
			})
			a := must[*Array](t)(d.PutF32(Replicated, iota32(64*64), 64, 64))
			out := must[[]*Array](t)(p.Call(t.Context(), a))
			must[[]float32](t)(out[0].Float32s())
			if d.Info().Kind == KindCPU && o.Threads > 0 {
				if got := len(threadsNamed(t, "tf_XLAEigen")); got != o.Threads {
					t.Errorf("%+v: %d threads in XLA's pool", o, got)
				}
			}
			same(t, fmt.Sprintf("%+v, open", o), process(t), before)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		same(t, fmt.Sprintf("%+v, closed", o), process(t), before)
	}
	klog.Info("a line of the host")
}

// threadsNamed are the threads of this process whose name begins so.
func threadsNamed(t *testing.T, prefix string) (found []string) {
	for _, file := range must[[]string](t)(filepath.Glob("/proc/self/task/*/comm")) {
		if name, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(name), prefix) {
			found = append(found, string(name))
		}
	}
	return found
}

// TestThreads: fewer threads give the same bits on the Go backend, several
// runs at once end, and closing lets go of everything.
func TestThreads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var want []float32
	for _, threads := range []int{0, 1, 2, 4} {
		d, err := Open(t.Context(), Options{Backend: "go", Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		p := d.Program("towers", towers)
		x := must[*Array](t)(d.PutF32(Replicated, iota32(64*64), 64, 64))
		results := make(chan []float32)
		for range 3 {
			go func() {
				out, err := p.Call(t.Context(), x, x)
				if err != nil {
					t.Error(err)
				}
				got, err := out[1].Float32s()
				if err != nil {
					t.Error(err)
				}
				results <- got
			}()
		}
		for range 3 {
			got := <-results
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d threads: other bits", threads)
			}
		}
	}
}
