package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/trainer"
)

// known are the flags of the fields that messages name.
var known = map[string]bool{}

var flagInText = regexp.MustCompile(`--[a-z]`)

// What the public packages say about an option names a field that there is,
// and one that a command has a flag for; they name no flags themselves.
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
	var all []reflect.Type
	for _, types := range fields {
		all = append(all, types...)
	}
	for _, below := range []string{"checkpoint", "dataset", "hub", "torchfile", "weights"} {
		fields["internal/"+below] = all
	}
	// Hints that name a command, and texts that are data of a report.
	allowed := []string{"evatool convert %s --image-size %d", "convert the model with --image-size", "(its --out)", "again with the same --out", "give --templates", "give a --config",
		"with --dtype fp32", "--set ", "give --rate", "-o OUT", "give --preprocess", "the other one, --preprocess",
		"evatool convert FILE --prefix ", "\"--exclude\"", "not in --include", "not needed for --layout source", "given by --config", "give a --config FILE", "give --config",
		"not under --prefix ", "--force-quick-gelu", "without --sparse", "\"--vision\"", "\"--text\"", "\"--skip\"", "tar --sort"}
	n := 0
	for dir, types := range fields {
		files, err := filepath.Glob("../../" + dir + "/*.go")
		if err != nil || len(files) == 0 {
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
				for _, a := range allowed {
					text = strings.ReplaceAll(text, a, "")
				}
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
}
