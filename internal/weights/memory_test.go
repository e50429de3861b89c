package weights

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/tensorfile"
)

// child is set, to the backend, in the process that TestMemory measures.
const child = "EVATOOL_TEST_MEMORY"

func TestMain(m *testing.M) {
	if backend := os.Getenv(child); backend != "" {
		if err := measure(backend); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// usage is in bytes. Before is the resident set when the device is open; peak is the
// largest resident set until the weights are loaded. Anon is the part of the last
// resident set that is not pages of files: those of the plugin's code are many, and the
// kernel reclaims them when it needs memory.
type usage struct{ Device, Before, Peak, Anon int64 }

// TestMemory loads EVA02-CLIP-B-16 (600 MB) in a process of its own, which may take the
// model's bytes on the device plus 64 MB.
func TestMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("no /proc")
	}
	for _, backend := range []string{"go", "xla"} {
		t.Run(backend, func(t *testing.T) {
			devicetest.Open(t, device.Options{Backend: backend}).Close()
			cmd := exec.Command(os.Args[0])
			// An empty cache: compiling takes memory too.
			cmd.Env = append(os.Environ(), child+"="+backend, "EVATOOL_TEST_CACHE="+filepath.Join(t.TempDir(), "cache"))
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var u usage
			if err := json.Unmarshal(out, &u); err != nil {
				t.Fatal(err)
			}
			const mb = 1e6
			over, anon := float64(u.Peak-u.Before-u.Device)/mb, float64(u.Anon-u.Device)/mb
			t.Logf("device %.0f MB; above it: %.1f MB more than before loading, %.1f MB in all without pages of files", float64(u.Device)/mb, over, anon)
			if u.Device < 590e6 || over > 64 || anon > 64 {
				t.Error("more than 64 MB")
			}
		})
	}
}

// measure loads a model and prints the memory used.
func measure(backend string) error {
	d, err := device.Open(context.Background(), device.Options{Backend: backend, CompileCache: os.Getenv("EVATOOL_TEST_CACHE")})
	if err != nil {
		return err
	}
	cfg, _ := arch.Named("EVA02-CLIP-B-16")
	src := zeros{&source{}}
	for _, p := range cfg.Params() {
		src.infos = append(src.infos, tensorfile.Info{Name: p.Name, DType: tensorfile.F16, Shape: p.Shape})
	}
	var u usage
	if u.Before, err = status("VmRSS"); err != nil {
		return err
	}
	set, err := Load(context.Background(), d, cfg, src, "fp32")
	if err != nil {
		return err
	}
	for _, v := range set.Values() {
		n := int64(v.DType().Size())
		for _, dim := range v.Dims() {
			n *= int64(dim)
		}
		u.Device += n
	}
	if u.Anon, err = status("RssAnon"); err != nil {
		return err
	}
	if u.Peak, err = status("VmHWM"); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(u)
}

// zeros is a model of zeros that takes no memory.
type zeros struct{ *source }

func (z zeros) Open(string) (io.ReadCloser, error) { return io.NopCloser(zeroReader{}), nil }

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// status reads a line of /proc/self/status, in bytes.
func status(key string) (int64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), key+":"); ok {
			var kb int64
			_, err := fmt.Sscan(rest, &kb)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/self/status", key)
}
