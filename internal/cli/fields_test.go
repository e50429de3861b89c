package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/trainer"
)

// known are the flags of the fields that messages name.
var known = map[string]bool{}

var flagInText = regexp.MustCompile(`--[a-z]`)

// othersFlags are commands to be typed literally, and other programs' flags.
var othersFlags = regexp.MustCompile(`(evatool (convert|backend install|models) |pip download |tar |srun )[^;,)]*|--force-quick-gelu|without --sparse`)

// runs says whether a call starts a program.
func runs(call *ast.CallExpr) bool {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := fun.X.(*ast.Ident)
	return ok && x.Name == "exec"
}

// Whatever a package below the command line says (errors, warnings, findings, reasons)
// names an option by an existing field for which a command has a flag; no message
// names a flag.
func TestMessagesNameFields(t *testing.T) {
	flags := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, name := range []string{"backend", "device-count", "threads", "offline"} {
			flags[name] = true
		}
		for name := range known {
			if c.Flags().Lookup(name) != nil {
				flags[name] = true
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	fields := map[string][]reflect.Type{
		"convert": {reflect.TypeFor[convert.Options](), reflect.TypeFor[convert.InitOptions](), reflect.TypeFor[convert.DiffOptions](), reflect.TypeFor[convert.InspectOptions]()},
		"eval":    {reflect.TypeFor[eval.Options](), reflect.TypeFor[eval.OpenOptions](), reflect.TypeFor[eval.EmbedOptions](), reflect.TypeFor[eval.RetrievalOptions](), reflect.TypeFor[eval.MergeOptions](), reflect.TypeFor[eval.VerifyOptions](), reflect.TypeFor[eval.ProbeOptions]()},
		"trainer": {reflect.TypeFor[trainer.Options](), reflect.TypeFor[trainer.BenchOptions](), reflect.TypeFor[trainer.DryRunOptions]()},
	}
	all := []reflect.Type{reflect.TypeFor[plugins.InstallOptions]()}
	for _, types := range fields {
		all = append(all, types...)
	}
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == ".." {
			return err
		}
		if name := d.Name(); name == "cli" || name == "release" || name == "testdata" {
			return filepath.SkipDir
		}
		fields["internal/"+filepath.ToSlash(strings.TrimPrefix(path, ".."))] = all
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for dir, types := range fields {
		files, err := filepath.Glob("../../" + dir + "/*.go")
		if err != nil {
			t.Fatal(dir, err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(node ast.Node) bool {
				if call, ok := node.(*ast.CallExpr); ok && runs(call) {
					return false
				}
				lit, ok := node.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				text := lit.Value
				for _, m := range field.FindAllStringSubmatch(text, -1) {
					n++
					has := false
					for _, typ := range types {
						_, ok := typ.FieldByName(m[1])
						has = has || ok
					}
					if !has {
						t.Errorf("%s: no options have a field %s: %s", path, m[1], text)
					}
					known[flagOf(m[1])] = true
				}
				text = othersFlags.ReplaceAllString(text, "")
				if flagInText.MatchString(text) {
					t.Errorf("%s: names a flag: %s", path, lit.Value)
				}
				return true
			})
		}
	}
	walk(newRoot(&App{}))
	for name := range known {
		if !flags[name] {
			t.Errorf("no command has the flag --%s", name)
		}
	}
	if n < 25 {
		t.Errorf("only %d names of fields", n)
	}
}

func TestFlagged(t *testing.T) {
	root := newRoot(&App{})
	for _, c := range []struct{ command, text, want string }{
		{"zeroshot", "Options.MaxBad allows 0; give Options.ClassNames FILE", "--max-bad allows 0; give --classnames FILE"},
		{"zeroshot", "as Options.Out", "as --out"},
		{"embed", "embed: Options.Out \"x\"; Options.DType y", "embed: -o \"x\"; --dtype y"},
		{"convert", "Options.ShardSize -1", "--shard-size -1"},
		{"convert", "no option here", "no option here"},
	} {
		cmd, _, err := root.Find([]string{c.command})
		if err != nil {
			t.Fatal(err)
		}
		if got := flagged(cmd, c.text); got != c.want {
			t.Errorf("%s: %q, want %q", c.command, got, c.want)
		}
	}
	var b strings.Builder
	slog.New(flaggedLog{slog.NewTextHandler(&b, nil), root}).Warn("a larger Options.L2 helps")
	if !strings.Contains(b.String(), "a larger --l2 helps") {
		t.Error(b.String())
	}
}
