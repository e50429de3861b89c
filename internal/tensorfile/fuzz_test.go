package tensorfile

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nlpodyssey/safetensors"
)

// FuzzSafetensors: no panic, and what is accepted here is accepted by the
// safetensors library with the same tensors (it knows no 8-bit floats).
func FuzzSafetensors(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("..", "..", "testdata", "hostile", "*.safetensors"))
	if err != nil || len(paths) < 30 {
		f.Fatalf("%d seeds (%v)", len(paths), err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := OpenReaderAt(bytes.NewReader(raw), int64(len(raw)), "x")
		if err != nil {
			return
		}
		eight := slices.ContainsFunc(file.Tensors(), func(i Info) bool { return i.DType == F8_E4M3 || i.DType == F8_E5M2 })
		lib, err := safetensors.Deserialize(raw)
		if err != nil && !eight {
			t.Fatalf("accepted, but the library says: %v", err)
		}
		total := 0
		for _, info := range file.Tensors() {
			r, err := file.Open(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || int64(len(got)) != info.NumBytes() {
				t.Fatalf("%q: %d bytes (%v)", info.Name, len(got), err)
			}
			total += len(got)
			if eight {
				continue
			}
			if v, ok := lib.Tensor(info.Name); !ok || !bytes.Equal(v.Data(), got) || v.DType().String() != string(info.DType) {
				t.Fatalf("%q: the library reads something else", info.Name)
			}
		}
		if total > len(raw) {
			t.Fatalf("%d bytes of tensors in a file of %d", total, len(raw))
		}
	})
}
