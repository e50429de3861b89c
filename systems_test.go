package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOtherSystems: the program's source is right for the systems that it is not
// tested on, and for builds without cgo. Types are checked, nothing is compiled:
// of other modules' packages only what they declare.
func TestOtherSystems(t *testing.T) {
	for _, system := range []string{"linux/amd64", "linux/arm64", "darwin/arm64", "windows/amd64", "freebsd/amd64"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			n, wrong := typeErrors(t, system)
			for _, err := range wrong {
				t.Error(err)
			}
			if n < 30 {
				t.Errorf("only %d packages of evatool's", n)
			}
		})
	}
}

func typeErrors(t *testing.T, system string) (own int, wrong []error) {
	goos, goarch, _ := strings.Cut(system, "/")
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,ImportMap", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	var said bytes.Buffer
	cmd.Stderr = &said
	list, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	checked := map[string]*types.Package{"unsafe": types.Unsafe}
	files := token.NewFileSet()
	for d := json.NewDecoder(bytes.NewReader(list)); ; {
		var p struct {
			ImportPath, Dir string
			GoFiles         []string
			ImportMap       map[string]string
		}
		if err := d.Decode(&p); err == io.EOF {
			return own, wrong
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath == "unsafe" {
			continue
		}
		ours := p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/")
		if ours {
			own++
		}
		var parsed []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, f)
		}
		conf := types.Config{
			IgnoreFuncBodies: !ours, Sizes: types.SizesFor("gc", goarch),
			Importer: importing(func(path string) (*types.Package, error) {
				if to, ok := p.ImportMap[path]; ok {
					path = to
				}
				if pkg := checked[path]; pkg != nil {
					return pkg, nil
				}
				return nil, fmt.Errorf("no package %s", path)
			}),
			Error: func(err error) {
				if ours {
					wrong = append(wrong, err)
				}
			},
		}
		checked[p.ImportPath], _ = conf.Check(p.ImportPath, files, parsed, nil)
	}
}

// importing is a types.Importer.
type importing func(path string) (*types.Package, error)

func (f importing) Import(path string) (*types.Package, error) { return f(path) }
