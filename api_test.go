package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch/archtest"
)

// public are the packages that other modules import.
var public = []string{"convert", "eval", "trainer"}

// exports reads compiled packages, which have their complete interface.
func exports(t *testing.T, packages ...string) []*types.Package {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}"}
	for _, p := range packages {
		args = append(args, "./"+p)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		files[path] = file
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(files[path]) })
	var list []*types.Package
	for _, p := range packages {
		pkg, err := imp.Import(module + "/" + p)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, pkg)
	}
	return list
}

// walker finds types of packages that an importer cannot name.
type walker struct {
	shown map[string]bool // paths of the packages that may be named
	seen  map[types.Type]bool
	found []string
}

func (w *walker) object(o types.Object) {
	if !o.Exported() {
		return
	}
	at := o.Pkg().Name() + "." + o.Name()
	w.visit(at, o.Type())
	if n, ok := o.Type().(*types.Named); ok && n.Obj() == o {
		w.visit(at, n.Underlying())
	}
}

func (w *walker) visit(at string, t types.Type) {
	if w.seen[t] {
		return
	}
	w.seen[t] = true
	switch t := t.(type) {
	case *types.Alias:
		w.named(at, t.Obj())
		w.visit(at, types.Unalias(t))
	case *types.Named:
		for i := range t.TypeArgs().Len() {
			w.visit(at, t.TypeArgs().At(i))
		}
		if !w.named(at, t.Obj()) {
			return
		}
		set := types.NewMethodSet(types.NewPointer(t)) // of embedded fields, too
		for i := range set.Len() {
			if m := set.At(i).Obj(); m.Exported() {
				w.visit(at+"."+m.Name(), m.Type())
			}
		}
		w.visit(at, t.Underlying())
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() {
				w.visit(at+"."+f.Name(), f.Type())
			} else if s, ok := f.Type().Underlying().(*types.Struct); ok && f.Embedded() {
				w.visit(at+"."+f.Name(), s) // its fields are the outer's
			}
		}
	case *types.Interface:
		for m := range t.Methods() {
			w.visit(at+"."+m.Name(), m.Type())
		}
	case *types.Signature:
		w.visit(at, t.Params())
		w.visit(at, t.Results())
	case *types.Tuple:
		for v := range t.Variables() {
			w.visit(at, v.Type())
		}
	case *types.Map:
		w.visit(at, t.Key())
		w.visit(at, t.Elem())
	case interface{ Elem() types.Type }: // pointer, slice, array, channel
		w.visit(at, t.Elem())
	}
}

// named records a type that an importer cannot name, and reports whether the walk
// continues inside it.
func (w *walker) named(at string, o *types.TypeName) bool {
	if o.Pkg() == nil { // error, any
		return false
	}
	path := o.Pkg().Path()
	if w.shown[path] {
		return true
	}
	if strings.Contains(strings.Split(path, "/")[0], ".") { // not of the standard library
		w.found = append(w.found, fmt.Sprintf("%s shows %s.%s", at, path, o.Name()))
	}
	return false
}

func hidden(packages []*types.Package) []string {
	w := &walker{shown: map[string]bool{}, seen: map[types.Type]bool{}}
	for _, p := range packages {
		w.shown[p.Path()] = true
	}
	for _, p := range packages {
		for _, name := range p.Scope().Names() {
			w.object(p.Scope().Lookup(name))
		}
	}
	return w.found
}

// Importers of convert, eval and trainer can name every type that these expose.
func TestPublicTypes(t *testing.T) {
	for _, f := range hidden(exports(t, public...)) {
		t.Error(f)
	}
	// The walk finds what it should: these expose types of every kind.
	all := strings.Join(hidden(exports(t, "internal/clip")), "\n") + "\n" + strings.Join(hidden(exports(t, "internal/weights")), "\n")
	for _, want := range []string{
		"clip.NewRunner shows " + module + "/internal/device.Device", // a parameter
		"shows github.com/gomlx/gomlx/core/graph.Node",               // an alias
		"DType shows github.com/gomlx/compute/dtypes.DType",          // a field
		"shows " + module + "/internal/arch.Tower",                   // a method's parameter, or a function's in a field
		"weights.Load shows " + module + "/internal/tensorfile.Source",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q was found among\n%s", want, all)
		}
	}
}

// Every error that leaves a public function has a kind: it goes through
// fault.Public, first thing.
func TestPublicErrors(t *testing.T) {
	n := 0
	for _, dir := range public {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || !fn.Name.IsExported() || !returnsError(fn) || fn.Recv != nil && !ast.IsExported(receiver(fn)) {
					continue
				}
				if name := dir + "." + receiver(fn) + "." + fn.Name.Name; name == "trainer.Step.MarshalJSON" || name == "trainer.Step.UnmarshalJSON" || delegates[name] {
					continue
				}
				n++
				if !kinded(fn) {
					t.Errorf("%s: %s does not begin with defer fault.Public", path, fn.Name.Name)
				}
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d public functions with an error", n)
	}
}

// delegates return what another public function returned.
var delegates = map[string]bool{"eval.Model.EncodeImages": true, "eval.Model.EncodeTexts": true}

func returnsError(fn *ast.FuncDecl) bool {
	if fn.Type.Results == nil {
		return false
	}
	last := fn.Type.Results.List[len(fn.Type.Results.List)-1]
	id, ok := last.Type.(*ast.Ident)
	return ok && id.Name == "error"
}

func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	t := fn.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func kinded(fn *ast.FuncDecl) bool {
	if len(fn.Body.List) == 0 {
		return false
	}
	d, ok := fn.Body.List[0].(*ast.DeferStmt)
	if !ok {
		return false
	}
	s, ok := d.Call.Fun.(*ast.SelectorExpr)
	return ok && fmt.Sprint(s.X, ".", s.Sel) == "fault.Public"
}

// A small program in a module of its own builds with the library and runs.
func TestLibraryFromAnotherModule(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, requires, ok := strings.Cut(string(mod), "\nrequire")
	if !ok {
		t.Fatal("go.mod requires nothing")
	}
	for name, text := range map[string]string{
		"go.mod": "module example.com/program\n\ngo 1.26.5\n\nrequire github.com/evatool/evatool v0.0.0\nreplace github.com/evatool/evatool => " + root + "\nrequire" + requires,
		"go.sum": read(t, "go.sum"), "main.go": read(t, "testdata/library/main.go"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-mod=mod", "-o", "program", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := exec.Command(filepath.Join(dir, "program"), archtest.ZeroShotModel(t, "testdata/zeroshot"), "testdata/zeroshot/config.json", "testdata/preprocess/images/astronaut_444.jpg")
	var errs bytes.Buffer
	run.Stderr = &errs
	out, err := run.Output()
	want := "safetensors true\n24 values, probabilities add up to 1.000\ntrue\n150 M parameters\n"
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\n%s\nwant\n%s", err, out, errs.Bytes(), want)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
