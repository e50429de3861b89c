package torchfile

import (
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// openAny opens a file the way the converter does: safetensors by its name,
// else by content.
func openAny(path string) (tensorfile.Source, error) {
	if strings.HasSuffix(path, ".safetensors") {
		f, err := tensorfile.OpenFile(path)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	c, err := Open(path, Options{})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// drain reads every tensor of a file.
func drain(path string) error {
	src, err := openAny(path)
	if err != nil {
		return err
	}
	defer src.Close()
	buf := make([]byte, 1<<20)
	for _, info := range src.Tensors() {
		r, err := src.Open(info.Name)
		if err != nil {
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf); err != nil {
			return err
		}
	}
	return nil
}

// TestHostile checks the verdict on every malformed or malicious file. Each may take
// 2 s and allocate 200 MB in total (an upper bound on its peak memory), writes nothing,
// and fails with one line that names the file.
func TestHostile(t *testing.T) {
	var index []struct{ File, Expect, Why string }
	readJSON(t, &index, "hostile", "index.json")
	if len(index) < 100 {
		t.Fatalf("%d files in the index", len(index))
	}
	marker := filepath.Join(os.TempDir(), "fixtures_pwned")
	if _, err := os.Stat(marker); err == nil {
		t.Fatalf("%s exists before the test", marker)
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for _, x := range index {
		t.Run(filepath.Base(x.File), func(t *testing.T) {
			path := filepath.Join(fixtures(), filepath.FromSlash(x.File))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			err := drain(path)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 200 {
				t.Errorf("allocated %d MiB", mb)
			}
			switch {
			case x.Expect == "error" && err == nil:
				t.Errorf("opened; expected an error: %s", x.Why)
			case x.Expect == "ok" && err != nil:
				t.Errorf("%v", err)
			}
			if err == nil {
				return
			}
			t.Log(err)
			if fault.Code(err) != int(fault.Input) {
				t.Errorf("exit status %d for: %v", fault.Code(err), err)
			}
			if line := err.Error(); strings.Contains(line, "\n") || len(line) > 600 || !strings.HasPrefix(line, path) {
				t.Errorf("not one line about %s: %q", path, line)
			}
		})
	}
	for _, p := range []string{marker, filepath.Join(tmp, "fixtures_pwned")} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s was written: a file was executed", p)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v %v", left, err)
	}
}

// TestHandwritten compares the values of the controls. Tolerance: none.
func TestHandwritten(t *testing.T) {
	for _, x := range []struct {
		file string
		want []float32
	}{
		{"ok_handwritten.pt", []float32{6, 7, 8, 9, 10, 11}},
		{"byteorder_big.pt", []float32{0, 1, 2, 3, 4, 5}},
	} {
		c, err := Open(filepath.Join(fixtures(), "hostile", x.file), Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := tensorfile.ReadAll(c, "w")
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range x.want {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])); got != want {
				t.Errorf("%s: element %d is %v, want %v", x.file, i, got, want)
			}
		}
		c.Close()
	}
}
