package tensorfile

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/nlpodyssey/safetensors"
)

// FuzzSafetensors: no panic, and what is accepted here is accepted by the
// safetensors library with the same tensors (it does not know every type).
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
		eight := slices.ContainsFunc(file.Tensors(), func(i Info) bool {
			_, err := safetensors.ParseDType(string(i.DType))
			return err != nil
		})
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

// FuzzIndex: no panic, memory within a multiple of the input, and every shard
// that an accepted index names lies beside it.
func FuzzIndex(f *testing.F) {
	for _, seed := range []string{
		`{"metadata": {"total_size": 8}, "weight_map": {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}}`,
		`{"weight_map": {"a": "../../etc/passwd"}}`, `{"weight_map": {"a": 1}}`, `{"weight_map": {"a": "x", "a": "y"}}`,
		`{"weight_map": []}`, `{"weight_map": {}}`, `{}`, `[[[[[[`, `{"weight_map": {"": ""}}`, `{"weight_map": {"a": "."}}`, `{"weight_map": {"a": "a/../../b"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		shards, err := decodeIndex(raw)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+200*len(raw)); got > most {
			t.Errorf("%d bytes for an input of %d", got, len(raw))
		}
		if err != nil {
			return
		}
		for name, file := range shards {
			if !filepath.IsLocal(file) || file == "." {
				t.Errorf("%q is in %q, which is not beside the index", name, file)
			}
		}
	})
}
