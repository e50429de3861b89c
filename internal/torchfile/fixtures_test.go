package torchfile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

// fixtures is the folder with formats/ and hostile/. EVATOOL_FIXTURES names a
// larger set of the same kind.
func fixtures() string {
	if dir := os.Getenv("EVATOOL_FIXTURES"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "testdata")
}

func readJSON(t testing.TB, v any, path ...string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{fixtures()}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// wantTensor is a tensor as the fixtures describe it.
type wantTensor struct {
	DType  tensorfile.DType
	Shape  []int64
	SHA256 string
}

// wantFile is formats/expected/*.json.
type wantFile struct {
	Container   string
	StateDict   *string               `json:"state_dict_key"`
	StripPrefix string                `json:"strip_prefix"`
	KeyOrder    []string              `json:"key_order"`
	Tensors     map[string]wantTensor `json:"tensors"`
	All         map[string]wantTensor `json:"all_tensors_in_pickle"`
}

// hash reads a stream to its end.
func hash(t testing.TB, r io.Reader, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func names(tensors []tensorfile.Info) []string {
	out := make([]string, len(tensors))
	for i, t := range tensors {
		out[i] = t.Name
	}
	return out
}

// TestFormats opens every checkpoint of fixtures/formats. Tolerance: none, all
// bytes are compared through their SHA-256.
func TestFormats(t *testing.T) {
	var index []struct {
		Name     string
		Format   string
		Files    []string
		Expected []string
	}
	readJSON(t, &index, "formats", "index.json")
	if len(index) < 15 {
		t.Fatalf("%d formats in the index", len(index))
	}
	for _, x := range index {
		t.Run(x.Name, func(t *testing.T) {
			i := slices.IndexFunc(x.Expected, func(p string) bool { return strings.HasSuffix(p, ".json") })
			var w wantFile
			readJSON(t, &w, filepath.FromSlash(x.Expected[i]))
			src, c := openFixture(t, x.Format, x.Files)
			defer src.Close()
			if got := names(src.Tensors()); !slices.Equal(got, w.KeyOrder) {
				t.Errorf("names %q, want %q", got, w.KeyOrder)
			}
			for _, info := range src.Tensors() {
				r, err := src.Open(info.Name)
				compareTensor(t, info, w.Tensors[info.Name], hash(t, r, err))
			}
			for _, c := range c {
				checkFacts(t, c, w)
			}
		})
	}
}

func openFixture(t *testing.T, format string, files []string) (tensorfile.Source, []*Checkpoint) {
	t.Helper()
	var all []*Checkpoint
	open := func(path string) (tensorfile.Source, error) {
		c, err := Open(path, Options{})
		if err == nil {
			all = append(all, c)
		}
		return c, err
	}
	path := filepath.Join(fixtures(), filepath.FromSlash(files[0]))
	src, err := tensorfile.Source(nil), error(nil)
	switch {
	case strings.HasPrefix(format, "hf-sharded"):
		matches, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.index.json"))
		src, err = tensorfile.OpenShards(matches[0], open)
	default:
		src, err = open(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return src, all
}

func checkFacts(t *testing.T, c *Checkpoint, w wantFile) {
	t.Helper()
	container := map[string]string{"hf-sharded-bin": "torch-zip"}[w.Container]
	if container == "" {
		container = w.Container
	}
	key := ""
	if w.StateDict != nil {
		key = *w.StateDict
	}
	if c.Container() != container || c.StateDictKey() != key || c.StripPrefix() != w.StripPrefix {
		t.Errorf("container %q, key %q, prefix %q; want %q, %q, %q", c.Container(), c.StateDictKey(), c.StripPrefix(), container, key, w.StripPrefix)
	}
	if w.All == nil {
		return
	}
	if len(c.all) != len(w.All) {
		t.Errorf("%d tensors in the file, want %d", len(c.all), len(w.All))
	}
	for _, x := range c.all {
		r, err := x.open(c.swap)
		compareTensor(t, x.info(x.name), w.All[x.name], hash(t, r, err))
	}
}

func compareTensor(t *testing.T, got tensorfile.Info, want wantTensor, sum string) {
	t.Helper()
	if got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) || sum != want.SHA256 {
		t.Errorf("%q: %s %v %s, want %s %v %s", got.Name, got.DType, got.Shape, sum, want.DType, want.Shape, want.SHA256)
	}
}
