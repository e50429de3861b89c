package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ofTheProcess are names that act on the whole process: a library must not change its
// state, print, or end it.
var ofTheProcess = []string{
	"os.Setenv", "os.Unsetenv", "os.Clearenv", "os.Chdir", "os.Exit", "os.Stdin", "os.Stdout", "os.Stderr",
	"fmt.Print", "fmt.Printf", "fmt.Println", "log.Print", "log.Printf", "log.Println", "log.Fatal", "log.Fatalf", "log.SetOutput", "slog.SetDefault",
	"signal.Notify", "signal.NotifyContext", "signal.Ignore", "signal.Reset",
	"debug.SetGCPercent", "debug.SetMemoryLimit", "debug.SetMaxThreads", "syscall.Umask", "syscall.Setrlimit", "syscall.Exec",
	"klog.SetOutput", "klog.LogToStderr", "klog.InitFlags", "http.DefaultTransport",
}

// mayChange lists the exceptions, and why.
var mayChange = map[string][]string{
	"internal/device/pjrt/client.go": {"os.Setenv", "os.Unsetenv"},           // while XLA's client is made; put back
	"internal/device/backend.go":     {"klog.SetOutput", "klog.LogToStderr"}, // QuietLibraries, for the command line
}

// TestTheProcessIsTheHosts reads the packages that a library user gets. (TestGlobals of
// internal/device checks what they really change.)
func TestTheProcessIsTheHosts(t *testing.T) {
	files := 0
	for _, dir := range []string{"convert", "eval", "trainer", "internal"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			path = filepath.ToSlash(path)
			if d.IsDir() && (d.Name() == "testdata" || d.Name() == "examples" || path == "internal/cli" || path == "internal/release") {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			files++
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := s.X.(*ast.Ident)
				if !ok {
					return true
				}
				name := x.Name + "." + s.Sel.Name
				if slices.Contains(ofTheProcess, name) && !slices.Contains(mayChange[path], name) {
					t.Errorf("%s: %s belongs to the whole process", set.Position(s.Pos()), name)
				}
				return true
			})
			ast.Inspect(f, func(n ast.Node) bool {
				c, ok := n.(*ast.CallExpr)
				if !ok || len(c.Args) != 1 {
					return true
				}
				s, ok := c.Fun.(*ast.SelectorExpr)
				if !ok || s.Sel.Name != "GOMAXPROCS" {
					return true
				}
				if zero, ok := c.Args[0].(*ast.BasicLit); !ok || zero.Value != "0" {
					t.Errorf("%s: sets GOMAXPROCS", set.Position(c.Pos()))
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 50 {
		t.Fatalf("only %d files seen", files)
	}
}
