package pjrt

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"testing"
)

// TestWithoutCgo: a build without cgo finds every exported name that one with
// cgo has, so that the packages above compile in both. (To compile them so
// takes a minute: CGO_ENABLED=0 go build.)
func TestWithoutCgo(t *testing.T) {
	with, without := exported(t, ".", true), exported(t, ".", false)
	if len(with) == 0 {
		t.Error("no exported names")
	}
	for _, name := range with {
		if !slices.Contains(without, name) {
			t.Errorf("%s is missing from a build without cgo", name)
		}
	}
}

// exported are the exported names of a package's files for a build: functions,
// methods as Type.Method, types, constants and variables.
func exported(t *testing.T, dir string, cgo bool) (names []string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if ok, _ := filepath.Match("*_test.go", filepath.Base(p)); ok {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if !built(f, cgo) {
			continue
		}
		add := func(name string) {
			if ast.IsExported(name) {
				names = append(names, name)
			}
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add(d.Name.Name)
					break
				}
				recv := d.Recv.List[0].Type
				if star, ok := recv.(*ast.StarExpr); ok {
					recv = star.X
				}
				if id := recv.(*ast.Ident); ast.IsExported(d.Name.Name) {
					add(id.Name + "." + d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						add(s.Name.Name)
					case *ast.ValueSpec:
						for _, id := range s.Names {
							add(id.Name)
						}
					}
				}
			}
		}
	}
	return names
}

// built tells whether a file is part of a build with or without cgo.
func built(f *ast.File, cgo bool) bool {
	for _, imp := range f.Imports {
		if imp.Path.Value == `"C"` && !cgo {
			return false
		}
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			if x, err := constraint.Parse(c.Text); err == nil && c.Pos() < f.Package {
				return x.Eval(func(tag string) bool { return tag != "cgo" || cgo })
			}
		}
	}
	return true
}
