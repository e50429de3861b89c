package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// layers lists the packages from top to bottom; an import only points down.
var layers = []string{
	".", "benchmarks", "internal/cli", "trainer", "eval", "convert",
	"internal/clip", "internal/weights", "internal/arch", "internal/torchfile", "internal/tensorfile",
	"internal/bpe", "internal/img", "internal/dataset", "internal/device", "internal/digest", "internal/shard", "internal/runlog", "internal/fault",
	"internal/published", // a table of figures
}

// mayUseGoMLX lists the packages that know the compute library; the others go
// through them.
var mayUseGoMLX = []string{"internal/clip", "internal/weights", "internal/device", "trainer", "benchmarks"}

const module = "github.com/evatool/evatool"

// layerOf is the place of dir in layers by its longest prefix there, or -1.
func layerOf(dir string) int {
	best, length := -1, -1
	for i, l := range layers {
		if in(dir, []string{l}) && len(l) > length {
			best, length = i, len(l)
		}
	}
	return best
}

func in(dir string, list []string) bool {
	for _, l := range list {
		if dir == l || strings.HasPrefix(dir, l+"/") {
			return true
		}
	}
	return false
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
		from := layerOf(dir)
		if from < 0 {
			t.Errorf("%s: its package has no place in the list of layers", path)
			return nil
		}
		for _, imp := range f.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			if rest, ok := strings.CutPrefix(p, module+"/"); ok {
				// A test may use any package: it is not part of the product.
				if to := layerOf(rest); to < 0 {
					t.Errorf("%s imports %s, which has no place in the list of layers", path, rest)
				} else if !strings.HasSuffix(path, "_test.go") && to <= from && !in(rest, []string{layers[from]}) {
					t.Errorf("%s imports %s, which is above it", path, rest)
				}
			}
			if strings.HasPrefix(p, module+"/benchmarks") && !in(dir, []string{"benchmarks"}) {
				t.Errorf("%s imports %s: benchmarks measure the product and are no part of it", path, p)
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
