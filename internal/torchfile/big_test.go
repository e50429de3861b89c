//go:build linux

package torchfile

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/torchfile/torchtest"
)

// bigFile tells a copy of the test program which file to stream.
const bigFile = "EVATOOL_TEST_STREAM"

func TestMain(m *testing.M) {
	if path := os.Getenv(bigFile); path != "" {
		err := drain(path)
		status, _ := os.ReadFile("/proc/self/status")
		fmt.Printf("%v\n%s", err, status)
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestConstantMemory streams a file of 300 MB in a process of its own, which may take
// 64 MB at its peak. With EVATOOL_TEST_BIG set, the file has 10 GB and zip64.
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

// TestWorstCase: files as expensive as the limits allow take at most 200 MB and 2 s,
// measured in a process of its own, which may refuse them.
func TestWorstCase(t *testing.T) {
	if testing.Short() {
		t.Skip("large hostile files")
	}
	repeat := func(head, body string, bytes int, tail string) []byte {
		return []byte("\x80\x02" + head + strings.Repeat(body, bytes/len(body)) + tail + ".")
	}
	const all = maxPickle - 64
	for name, pickle := range map[string][]byte{
		"one string":   slices.Concat([]byte("\x80\x02X"), le.AppendUint32(nil, all), make([]byte, all), []byte(".")),
		"sets":         repeat("](", "\x8f", maxCost/352-10, "e"),
		"dicts":        repeat("](", "}", maxCost/192-10, "e"),
		"lists":        repeat("](", "]", maxCost/144-10, "e"),
		"references":   repeat("]q\x00(", "h\x00", maxCost/(slotCost+32)*2-100, "e"),
		"stack":        repeat("", "N", maxCost/slotCost-10, ""),
		"tuples":       repeat("N", "\x85", maxCost/64-10, ""),
		"memo":         repeat("]", "\x94", maxCost/96-10, ""),
		"keys":         repeat("}(", "NN", maxCost/(slotCost+64)-100, "u"),
		"names":        repeat("](", "cargparse\nNamespace\n", 1<<20, "e"),
		"marks":        repeat("", "(t", maxCost/336*2, ""),
		"long numbers": repeat("](", "\x8a\xff"+strings.Repeat("\x7f", 255), min(all-32, maxCost/600*257), "e"),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.pt")
			if err := os.WriteFile(path, zipOf(t, pickle), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, _, err := scan(bufio.NewReader(bytes.NewReader(pickle))); err != nil {
				t.Fatalf("not as expensive as it may be: %v", err)
			}
			if took := streamRefused(t, path, 200<<20); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func streamInside(t *testing.T, path string, limit int64) {
	t.Helper()
	stream(t, path, limit, 0)
}

func streamRefused(t *testing.T, path string, limit int64) time.Duration {
	t.Helper()
	return stream(t, path, limit, 1)
}

// stream reads a file in a process of its own and checks its exit status and
// its peak memory. It returns the processor time.
func stream(t *testing.T, path string, limit int64, status int) time.Duration {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bigFile+"="+path)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != status {
		t.Fatalf("%v: %s", err, out)
	}
	// Not ru_maxrss, which starts at the parent's.
	_, after, _ := strings.Cut(string(out), "VmHWM:")
	var rss int64
	if _, err := fmt.Sscan(after, &rss); err != nil {
		t.Fatal(err)
	}
	rss <<= 10
	t.Logf("%.1f s, peak %d MiB", time.Since(start).Seconds(), rss>>20)
	if rss > limit {
		t.Errorf("peak memory %d MiB, at most %d", rss>>20, limit>>20)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
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
