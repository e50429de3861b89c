package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// layers lists the packages from top to bottom, siblings in one line; an import
// only points down, and never to a sibling.
var layers = [][]string{
	{"."},
	{"benchmarks"},
	{"internal/release"},
	{"internal/cli"},
	{"internal/demo"}, {"internal/compare"},
	{"convert", "eval", "trainer"},
	{"internal/checkpoint"},
	{"internal/hub"},
	{"internal/clip"}, {"internal/weights"}, {"internal/arch"}, {"internal/torchfile"}, {"internal/tensorfile"},
	{"internal/bpe"}, {"internal/tokenjson"}, {"internal/logistic"}, {"internal/img"}, {"internal/dataset"}, {"internal/device"}, {"internal/comm"}, {"internal/digest"}, {"internal/shard"}, {"internal/runlog"}, {"internal/yamlfile"}, {"internal/usercache"}, {"internal/atomicfile"}, {"internal/idle"}, {"internal/fault"},
	{"internal/published"}, // a table of figures
}

// siblings lists the imports between siblings: a training evaluates as it goes.
var siblings = map[string]string{"trainer": "eval"}

// mayUseGoMLX lists the packages that know the compute library; the others go
// through them.
var mayUseGoMLX = []string{"internal/clip", "internal/weights", "internal/device", "trainer", "benchmarks"}

const module = "github.com/evatool/evatool"

// layerOf returns the place of dir in layers and its entry there, the longest that is a
// prefix of it; without one the place is -1.
func layerOf(dir string) (place int, name string) {
	place = -1
	for i, l := range layers {
		for _, n := range l {
			if in(dir, []string{n}) && len(n) > len(name) {
				place, name = i, n
			}
		}
	}
	return place, name
}

// mayImport reports whether a package may import another of the module.
func mayImport(from, to string) bool {
	i, a := layerOf(from)
	j, b := layerOf(to)
	return j > i || a == b || siblings[a] == b && b != ""
}

func in(dir string, list []string) bool {
	for _, l := range list {
		if dir == l || strings.HasPrefix(dir, l+"/") {
			return true
		}
	}
	return false
}

func TestLayers(t *testing.T) {
	for _, c := range []struct {
		from, to string
		may      bool
	}{
		{"internal/cli", "convert", true}, {"internal/cli", "internal/checkpoint", true}, {"internal/cli", "benchmarks/train", false},
		{"trainer", "eval", true}, {"eval", "trainer", false}, {"eval", "convert", false}, {"trainer", "convert", false}, {"convert", "eval", false},
		{"convert", "internal/checkpoint", true}, {"internal/checkpoint", "convert", false}, {"internal/checkpoint", "internal/arch", true},
		{"internal/arch", "internal/checkpoint", false}, {"internal/device", "internal/device/pjrt", true}, {".", "internal/cli", true}, {"internal/cli", ".", false},
	} {
		if mayImport(c.from, c.to) != c.may {
			t.Errorf("%s imports %s: %v", c.from, c.to, !c.may)
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "out" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files++
		dir := filepath.ToSlash(filepath.Dir(path))
		if place, _ := layerOf(dir); place < 0 {
			t.Errorf("%s: its package has no place in the list of layers", path)
			return nil
		}
		for _, imp := range f.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			if rest, ok := strings.CutPrefix(p, module+"/"); ok {
				// A test may use any package: it is not part of the product.
				if place, _ := layerOf(rest); place < 0 {
					t.Errorf("%s imports %s, which has no place in the list of layers", path, rest)
				} else if !strings.HasSuffix(path, "_test.go") && !mayImport(dir, rest) {
					t.Errorf("%s imports %s, which is above or beside it", path, rest)
				}
			}
			if strings.HasPrefix(p, module+"/benchmarks") && !in(dir, []string{"benchmarks"}) {
				t.Errorf("%s imports %s: benchmarks measure the product and are not part of it", path, p)
			}
			if strings.HasPrefix(p, "github.com/gomlx/") && !in(dir, mayUseGoMLX) {
				t.Errorf("%s imports %s: only %v may", path, p, mayUseGoMLX)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Fatalf("only %d files seen", files)
	}
}
