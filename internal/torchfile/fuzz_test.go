package torchfile

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nlpodyssey/gopickle/types"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
	tt "github.com/evatool/evatool/internal/torchfile/torchtest"
)

// seeds are the small fixtures that the patterns match, below formats/ and
// hostile/.
func seeds(f *testing.F, patterns ...string) [][]byte {
	f.Helper()
	var out [][]byte
	for _, p := range patterns {
		paths, err := filepath.Glob(filepath.Join(fixtures(), filepath.FromSlash(p)))
		if err != nil || len(paths) == 0 {
			f.Fatalf("no seeds for %s (%v)", p, err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			if len(b) < 64<<10 {
				out = append(out, b)
			}
		}
	}
	return out
}

// pickles are the data.pkl of the archives that the patterns match.
func pickles(f *testing.F, patterns ...string) [][]byte {
	f.Helper()
	var out [][]byte
	for _, raw := range seeds(f, patterns...) {
		a, err := openZip(bytes.NewReader(raw), nil, int64(len(raw)))
		if err != nil {
			continue
		}
		root, err := a.root()
		if err != nil {
			continue
		}
		if b, err := a.members[root+"data.pkl"].bytes(maxPickle); err == nil {
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		f.Fatalf("no pickles in %v", patterns)
	}
	return out
}

// attack opens a file and reads its tensors. Whatever the bytes are, there is no panic,
// errors have a status, and tensors have the size they claim.
func attack(t *testing.T, raw []byte) {
	t.Helper()
	c, err := openBytes(raw, "")
	if err != nil {
		if fault.Code(err) != int(fault.Input) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("status %d: %q", fault.Code(err), err)
		}
		return
	}
	for _, info := range c.Tensors() {
		n, ok := tensorfile.CheckedBytes(info)
		if !ok || n < 0 {
			t.Fatalf("%q: shape %v", info.Name, info.Shape)
		}
		if n > 1<<20 {
			continue
		}
		r, err := c.Open(info.Name)
		if err != nil {
			continue
		}
		got, err := io.Copy(io.Discard, r)
		if got > n || err == nil && got != n {
			t.Fatalf("%q: %d bytes instead of %d (%v)", info.Name, got, n, err)
		}
	}
}

func FuzzZip(f *testing.F) {
	for _, b := range seeds(f, "formats/1[359]*.pt", "formats/20*.pt", "hostile/zip_*.pt", "hostile/tensor_*.pt", "hostile/byteorder_big.pt") {
		f.Add(b)
	}
	f.Add(archiveOf(f, tt.Member{Name: "data.pkl", Data: bytes.NewReader(tt.Pickle(tt.Dict{{Key: "w", Value: one}}, 2)), Deflate: true},
		tt.Member{Name: "data/0", Data: bytes.NewReader(count(24)), Deflate: true}))
	f.Fuzz(attack)
}

func FuzzLegacy(f *testing.F) {
	for _, b := range seeds(f, "formats/1[46]*.pt", "hostile/legacy_*.pt", "hostile/exec_legacy*.pt", "hostile/exec_raw*") {
		f.Add(b)
	}
	f.Add(legacyOf(f, tt.Dict{}, tt.List{}))
	f.Fuzz(attack)
}

func FuzzTar(f *testing.F) {
	f.Add(tarOf(f, nil))
	f.Add(tarOf(f, func(m map[string][]byte) { m["storages"] = m["storages"][:60] }))
	f.Fuzz(attack)
}

// FuzzTarMembers changes the content of the tar's members, so that no time is spent on
// guessing header checksums.
func FuzzTarMembers(f *testing.F) {
	tarOf(f, func(m map[string][]byte) { f.Add(m["storages"], m["tensors"], m["pickle"]) })
	f.Fuzz(func(t *testing.T, storages, tensors, pickle []byte) {
		attack(t, tarOf(t, func(m map[string][]byte) { m["storages"], m["tensors"], m["pickle"] = storages, tensors, pickle }))
	})
}

// FuzzScript changes the data.pkl of a TorchScript archive.
func FuzzScript(f *testing.F) {
	for _, b := range pickles(f, "formats/20*.pt", "hostile/exec_torchscript*.pt", "formats/13*.pt") {
		f.Add(b)
	}
	storage := count(96)
	f.Fuzz(func(t *testing.T, pickle []byte) {
		members := []tt.Member{{Name: "data.pkl", Data: bytes.NewReader(pickle)}, {Name: "constants.pkl", Data: strings.NewReader("")}}
		for _, key := range []string{"0", "1", "2", "3"} {
			members = append(members, tt.Member{Name: "data/" + key, Data: bytes.NewReader(storage)})
		}
		attack(t, archiveOf(t, members...))
	})
}

// FuzzPickle runs a pickle in which every storage exists.
func FuzzPickle(f *testing.F) {
	for _, b := range pickles(f, "formats/1[359]*.pt", "formats/20*.pt", "hostile/[a-y]*.pt") {
		f.Add(b)
	}
	f.Add(tt.Pickle(tt.Dict{{Key: "model", Value: tt.OrderedDict{{Key: "module.w", Value: one}}}}, 5))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v := &vm{script: true, storage: func(id *types.Tuple) (*storage, error) {
			s, key, err := parseStorage(id)
			if err == nil {
				s.blob = &blob{name: key, r: bytes.NewReader(nil), size: s.elems * s.typ.size()}
			}
			return s, err
		}}
		root, n, err := v.next(bufio.NewReader(bytes.NewReader(raw)))
		if n > int64(len(raw)) {
			t.Fatalf("read %d of %d bytes", n, len(raw))
		}
		if err != nil {
			return
		}
		c := &Checkpoint{container: "torch-zip"}
		if err := c.take(root, Options{}); err == nil && len(c.Tensors()) == 0 {
			t.Fatal("no tensors and no error")
		}
	})
}
