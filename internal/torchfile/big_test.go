package torchfile

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/torchfile/torchtest"
)

// bigFile says to a copy of the test program which file to stream.
const bigFile = "EVATOOL_TEST_STREAM"

func TestMain(m *testing.M) {
	if path := os.Getenv(bigFile); path != "" {
		if err := drain(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestConstantMemory streams a file of 300 MB in a process of its own, which may
// take 64 MB at its peak. With EVATOOL_TEST_BIG set it has 10 GB, and zip64.
func TestConstantMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("300 MB of (sparse) file")
	}
	rows := int64(30)
	if os.Getenv("EVATOOL_TEST_BIG") != "" {
		rows = 1 << 10
	}
	path := filepath.Join(t.TempDir(), "big.pt")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &torchtest.Sparse{F: f}
	var tensors []torchtest.Tensor
	for i := range 10 {
		info := tensorfile.Info{Name: fmt.Sprintf("blocks.%d.weight", i), DType: tensorfile.F32, Shape: []int64{rows, 1 << 18}}
		tensors = append(tensors, torchtest.Tensor{Info: info, Data: io.MultiReader(strings.NewReader("begin"), zeros{})})
	}
	if err := torchtest.WriteStateDict(w, tensors); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	streamInside(t, path, 64<<20)
}

// TestConstantMemoryStrided does the same with a transposed matrix of 128 MB.
func TestConstantMemoryStrided(t *testing.T) {
	if testing.Short() {
		t.Skip("128 MB of (sparse) file")
	}
	path := filepath.Join(t.TempDir(), "strided.pt")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &torchtest.Sparse{F: f}
	const rows, cols = 1 << 15, 1 << 10
	view := torchtest.View(torchtest.Storage(tensorfile.F32, "0", rows*cols), 0, []int64{cols, rows}, []int64{1, cols})
	err = torchtest.WriteZip(w, []torchtest.Member{
		{Name: "data.pkl", Data: bytes.NewReader(torchtest.Pickle(torchtest.Dict{{Key: "w", Value: view}}, 2))},
		{Name: "data/0", Data: io.LimitReader(zeros{}, rows*cols*4)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	streamInside(t, path, 64<<20)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func streamInside(t *testing.T, path string, limit int64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bigFile+"="+path)
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10 // Linux counts KiB
	t.Logf("%.1f s, peak %d MiB", time.Since(start).Seconds(), rss>>20)
	if rss > limit {
		t.Errorf("peak memory %d MiB, at most %d", rss>>20, limit>>20)
	}
}

// BenchmarkStream opens a file of 600 MB and hashes its tensors.
func BenchmarkStream(b *testing.B) {
	path := filepath.Join(b.TempDir(), "600.pt")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	var tensors []torchtest.Tensor
	const n, each = 150, 4 << 20
	for i := range n {
		info := tensorfile.Info{Name: fmt.Sprintf("w%d", i), DType: tensorfile.U8, Shape: []int64{each}}
		tensors = append(tensors, torchtest.Tensor{Info: info, Data: strings.NewReader(strings.Repeat(string(rune('a'+i%26)), each))})
	}
	if err := torchtest.WriteStateDict(f, tensors); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(n * each)
	for b.Loop() {
		c, err := Open(path, Options{})
		if err != nil {
			b.Fatal(err)
		}
		h := sha256.New()
		for _, t := range c.Tensors() {
			r, err := c.Open(t.Name)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{h}, r, make([]byte, 1<<20)); err != nil {
				b.Fatal(err)
			}
		}
		c.Close()
	}
}
