package yamlfile

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/fault"
)

// file has a field of every kind.
type file struct {
	Name   string            `yaml:"name"`
	Count  int               `yaml:"count"`
	Total  int64             `yaml:"total,omitempty"`
	Rate   float64           `yaml:"rate"`
	On     bool              `yaml:"on"`
	Pair   [2]float64        `yaml:"pair,flow"`
	List   []string          `yaml:"list,omitempty"`
	Items  []item            `yaml:"items,omitempty"`
	Sub    item              `yaml:"sub,omitempty"`
	Any    any               `yaml:"any,omitempty"`
	Limit  *int              `yaml:"limit,omitempty"`
	Labels map[string]string `yaml:"labels,omitempty"`
	Hidden int               `yaml:"-"`
}

type item struct {
	Path   string  `yaml:"path,omitempty"`
	Weight float64 `yaml:"weight,omitempty"`
}

func initial() *file { return &file{Name: "n", Rate: 0.5, Pair: [2]float64{1, 2}} }

func TestDecode(t *testing.T) {
	three := 3
	for _, c := range []struct {
		text string
		want func(*file)
	}{
		{"count: 7", func(f *file) { f.Count = 7 }},
		{"count: 1e3\ntotal: 8e9", func(f *file) { f.Count, f.Total = 1000, 8e9 }},
		{"count: 1_000", func(f *file) { f.Count = 1000 }},
		{"count: 0x10", func(f *file) { f.Count = 16 }},
		{"count: '7'", func(f *file) { f.Count = 7 }},
		{"total: -9223372036854775808", func(f *file) { f.Total = math.MinInt64 }},
		{"rate: 1e-6", func(f *file) { f.Rate = 1e-6 }},
		{"rate: 3", func(f *file) { f.Rate = 3 }},
		{"rate: null\nname: ~", func(*file) {}},
		{"rate: .inf", func(f *file) { f.Rate = math.Inf(1) }},
		{"name: 010", func(f *file) { f.Name = "010" }},
		{"name: !!str 1.50", func(f *file) { f.Name = "1.50" }},
		{"name: a/{00..09}.tar", func(f *file) { f.Name = "a/{00..09}.tar" }},
		{"on: true", func(f *file) { f.On = true }},
		{"pair: [3, 4.5]", func(f *file) { f.Pair = [2]float64{3, 4.5} }},
		{"list: [a, 'b c', 1.0, true]", func(f *file) { f.List = []string{"a", "b c", "1.0", "true"} }},
		{"list: &l [a]\nitems:\n- {path: x, weight: 2}\n-  path: y", func(f *file) {
			f.List, f.Items = []string{"a"}, []item{{"x", 2}, {"y", 0}}
		}},
		{"items: [&i {path: x}, *i]", func(f *file) { f.Items = []item{{Path: "x"}, {Path: "x"}} }},
		{"sub: {weight: 2}", func(f *file) { f.Sub.Weight = 2 }},
		{"any: {a: [1, 2.5, yes, ~, 'x', 2001-01-01, !!str 5], b: {c: true}}", func(f *file) {
			f.Any = map[string]any{"a": []any{int64(1), 2.5, "yes", nil, "x", "2001-01-01", "5"}, "b": map[string]any{"c": true}}
		}},
		{"any: 18446744073709551615", func(f *file) { f.Any = uint64(math.MaxUint64) }},
		{"limit: 3", func(f *file) { f.Limit = &three }},
		{"labels: {a: b, 1: c}", func(f *file) { f.Labels = map[string]string{"a": "b", "1": "c"} }},
		{"# only\n---\nname: x\n...\n", func(f *file) { f.Name = "x" }},
		{"\ufeffname: x", func(f *file) { f.Name = "x" }},
		{"name: x\r\ncount: 2\r\n", func(f *file) { f.Name, f.Count = "x", 2 }},
	} {
		got, want := initial(), initial()
		c.want(want)
		if err := Decode("f.yaml", []byte(c.text), got); err != nil {
			t.Errorf("%q: %v", c.text, err)
		} else if d := cmp.Diff(want, got, cmp.AllowUnexported(file{})); d != "" {
			t.Errorf("%q (-want +got):\n%s", c.text, d)
		}
	}
}

// errorsOf checks that err is a usage error of one line that contains want.
func errorsOf(t *testing.T, what string, err error, want string) {
	t.Helper()
	var f *fault.Error
	switch {
	case err == nil:
		t.Errorf("%s: no error; want %q", what, want)
	case !strings.Contains(err.Error(), want):
		t.Errorf("%s: error %q; want it to contain %q", what, err, want)
	case strings.ContainsAny(err.Error(), "\n\x1b\x07"):
		t.Errorf("%s: error %q is not one clean line", what, err)
	case !errors.As(err, &f) || f.Status != fault.Usage:
		t.Errorf("%s: error %q is not a usage error", what, err)
	}
}

func TestDecodeErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "f.yaml: is empty",
		"# a comment\n":                   "is empty",
		"name: a\nnmae: b":                "f.yaml: line 2: unknown key nmae; did you mean name?",
		"zzzzzzz: 1":                      "unknown key zzzzzzz; known: name, count",
		"-: 1":                            "unknown key -",
		"items:\n- {path: a}\n- {pth: b}": "line 3: unknown key items.1.pth; did you mean items.1.path?",
		"name: a\nname: b":                "line 2: name is given twice, first on line 1",
		"count: many":                     `line 1: count: "many" is a string; want a number`,
		"count: 8.5":                      "count: 8.5 is not a whole number",
		"count: 9223372036854775808":      "is too large",
		"count: 1e30":                     "is too large",
		"count: .inf":                     "is too large",
		"count: .nan":                     "is not a whole number",
		"rate: 1e999":                     "out of range",
		"count: 010":                      "octal",
		"count: [1]":                      "count: is a list; want a number",
		"count: true":                     "count: true is a boolean; want a number",
		"on: yes":                         `on: "yes" is a string; want true or false`,
		"on: 1":                           "on: 1 is a number; want true or false",
		"name: {a: b}":                    "name: is a mapping; want a string",
		"name: !x a":                      "name: has the tag !x",
		"sub: 5":                          "sub: 5 is a number; want a mapping with the keys path, weight",
		"list: a":                         `list: "a" is a string; want a list`,
		"pair: [1]":                       "pair: a list of 1; want 2 numbers",
		"[a]":                             "line 1: is a list; want a mapping",
		"just words":                      "is a string; want a mapping with the keys name",
		"any: {<<: {a: b}}":               "merge keys",
		"any: {[a]: b}":                   "any: has a key that is a list; want a name",
		"any: {? {a: b} : c}":             "has a key that is a mapping",
		"any: &a [*a]":                    "nested more than",
		"name: *nowhere":                  "line 1",
		"name: a\n---\nname: b":           "line 2: a second document",
		"name: a\n name: b":               "line 2",
		"a: [":                            "line 1",
		"name: 'a":                        "line 1",
		"\tname: a":                       "line 1",
		"name: a\x00":                     "control characters",
		"\xff\xfe\x00":                    "",
		"\"a\\eb\": 1":                    `unknown key "a\x1bb"`,
		"name: \"\\ud800\"":               "line 1",
	} {
		errorsOf(t, text, Decode("f.yaml", []byte(text), initial()), want)
	}
}

func TestSet(t *testing.T) {
	f := initial()
	for _, s := range [][2]string{
		{"name", "a/{0..9}.tar"}, {"rate", "1e-4"}, {"pair.1", "9"}, {"list", "[a, b]"}, {"list.2", "c"}, {"list.0", "7"},
		{"items.0.path", "x"}, {"items.1.weight", "2"}, {"sub.path", `"{a,b}.tar"`}, {"any.a.b", "[1, x]"}, {"any.a.b.0", "2"},
		{"labels.k", "v"}, {"labels.l", "w"}, {"limit", "4"}, {"total", "5"}, {"total", ""}, {"on", "true"},
	} {
		if err := Set("--set", f, initial(), s[0], s[1]); err != nil {
			t.Errorf("%s=%s: %v", s[0], s[1], err)
		}
	}
	four := 4
	want := &file{Name: "a/{0..9}.tar", Rate: 1e-4, On: true, Pair: [2]float64{1, 9}, List: []string{"7", "b", "c"},
		Items: []item{{Path: "x"}, {Weight: 2}}, Sub: item{Path: "{a,b}.tar"}, Limit: &four,
		Any:    map[string]any{"a": map[string]any{"b": []any{int64(2), "x"}}},
		Labels: map[string]string{"k": "v", "l": "w"}}
	if d := cmp.Diff(want, f, cmp.AllowUnexported(file{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := Set("--set", f, initial(), "rate", "null"); err != nil || f.Rate != 0.5 {
		t.Errorf("null brings back %v, %v; want the initial 0.5", f.Rate, err)
	}
	for _, c := range [][3]string{
		{"nmae", "a", "--set: unknown key nmae; did you mean name?"},
		{"sub.pth", "a", "unknown key sub.pth; did you mean sub.path?"},
		{"sub", "1", "sub: 1 is a number; want a mapping with the keys path, weight, such as sub.path=1"},
		{"list.9", "a", `list: "9" is not an index of this list of 3 items`},
		{"pair.2", "1", `pair: "2" is not an index of this list of 2 items`},
		{"name.x", "a", "name has no keys"},
		{"sub..path", "a", "is not a key"},
		{"sub.", "a", "is not a key"},
		{"name", "{a,b}.tar", `put it in quotes: 'name="{a,b}.tar"'`},
		{"name", "{a,b}", `put it in quotes: 'name="{a,b}"'`},
		{"name", "it's #1", `'name="it'\''s #1"'`},
		{"name", "#1", "a # begins a comment"},
		{"name", "*.tar", "put it in quotes"},
		{"count", "many", `count: "many" is a string; want a number`},
		{"on", "[", "is not YAML"},
	} {
		errorsOf(t, c[0]+"="+c[1], Set("--set", f, initial(), c[0], c[1]), c[2])
	}
}

// TestEncode: what Encode writes, Decode reads, whatever the strings hold.
func TestEncode(t *testing.T) {
	odd := []string{"", " ", "yes", "no", "~", "null", "NULL", "true", "1", "1.0", "1e3", "1_000", "010", "0x1f", "0o17", ".inf", "-.INF", ".nan",
		"2001-01-01", "1:30", "# no", "a #b", "a: b", "- x", "-", "?", "? z", ":", ":y", "x:", "{}", "[f", "]", "*", "&a", "!b", "!!str", "%c", "@d", "`e",
		"|", ">", "=", "<<", "---", "...", "'", "\"", "\\d", "a\\", " lead", "trail ", "tab\there", "\ttab", "nl\nhere", "two\n\nlines\n", "\n", "\r\n", "\r",
		"\u0007", "\x7f", "\u0085", "\u2028", "\ufeffbom", "\u202e", "é", "😀", strings.Repeat("long ", 60)}
	f := initial()
	f.List, f.Name = odd, "---"
	for _, s := range odd {
		f.Items = append(f.Items, item{Path: s, Weight: 1e-7})
	}
	f.Any = map[string]any{"list": toAny(odd), "1": int64(1), "true": 2.5, "": nil}
	f.Pair = [2]float64{1e-45, 123456789}
	text, err := Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	got := initial()
	if err := Decode("f.yaml", text, got); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if d := cmp.Diff(f, got, cmp.AllowUnexported(file{})); d != "" {
		t.Errorf("(-written +read):\n%s", d)
	}
	if !strings.Contains(string(text), "pair: [1e-45, 1.23456789e+08]") || strings.Contains(string(text), "total") {
		t.Errorf("flow and omitempty:\n%s", text)
	}
	want := map[string]any{"name": "x", "count": 0, "rate": 0.5, "on": false, "pair": []any{1.0, 2.0}, "items": []any{map[string]any{"path": "p"}}}
	if d := cmp.Diff(want, Tree(&file{Name: "x", Rate: 0.5, Pair: [2]float64{1, 2}, List: []string{}, Items: []item{{Path: "p"}}})); d != "" {
		t.Errorf("Tree (-want +got):\n%s", d)
	}
}

func toAny(list []string) (out []any) {
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{"bacth": "batch", "batch": "batch", "zzz": "", "": "", strings.Repeat("b", 1e6): ""} {
		if got := Nearest(word, []string{"batch", "steps"}); got != want {
			t.Errorf("Nearest(%.9q) = %q, want %q", word, got, want)
		}
	}
}

// bombs are files that made a YAML library take minutes or gigabytes, or panic.
func bombs() map[string]string {
	const n = MaxBytes - 100
	lines := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < n; i++ {
			b.WriteString(strings.ReplaceAll(format, "$", "k"+itoa(i)))
		}
		return b.String()
	}
	laughs := "any:\n  a00000: &a00000 [x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 9; i++ {
		laughs += strings.NewReplacer("N", itoa(i), "P", itoa(i-1)).Replace("  aN: &aN [*aP,*aP,*aP,*aP,*aP,*aP,*aP,*aP,*aP]\n")
	}
	indent, pad := "", ""
	for len(indent) < n {
		indent += pad + "a:\n"
		pad += " "
	}
	return map[string]string{
		"aliases":        laughs,
		"list alias":     strings.Replace(laughs, "any:", "list:", 1),
		"brackets":       strings.Repeat("[", n),
		"nested list":    "any: " + strings.Repeat("[", n),
		"braces":         strings.Repeat("{", n),
		"dashes":         strings.Repeat("- ", n/2),
		"questions":      strings.Repeat("? ", n/2),
		"indents":        indent,
		"commas":         "any: [" + strings.Repeat(",", n) + "]",
		"entries":        "any: [" + strings.Repeat("a,", n/2) + "]",
		"pairs":          "any: [" + strings.Repeat("a:,", n/3) + "]",
		"empty maps":     "any: [" + strings.Repeat("{},", n/3) + "]",
		"nulls":          "any:\n" + strings.Repeat("-\n", n/2),
		"comments":       strings.Repeat("#\n", n/2),
		"comment each":   "any:\n" + strings.Repeat("-  #\n", n/5),
		"newlines":       strings.Repeat("\n", n),
		"keys":           lines("$: 1\n"),
		"keys below any": "any:\n" + lines(" $: 1\n"),
		"anchors":        "any:\n" + lines("- &$ x\n"),
		"anchors alone":  strings.Repeat("&a ", n/3),
		"tags":           "any:\n" + strings.Repeat("- !\n", n/4),
		"directives":     strings.Repeat("%TAG !a! a\n", n/11),
		"documents":      strings.Repeat("---\n", n/4),
		"open string":    "name: \"" + strings.Repeat("x", n),
		"long string":    "nmae: " + strings.Repeat("x", n),
		"long key":       strings.Repeat("x", n) + ": 1",
		"escapes":        "name: \"" + strings.Repeat("\\U0001F600", n/10) + "\"",
		"digits":         "count: " + strings.Repeat("9", n),
		"exponent":       "rate: 1e" + strings.Repeat("9", n),
		"underscores":    "count: 1" + strings.Repeat("_0", n/2),
		"blocks":         "name: |\n" + strings.Repeat(" x\n", n/3),
		"bare tag":       "items:\n  ! ",
		"bare tag list":  "items:\n- !\n- ! \n",
		"too long":       strings.Repeat("#", MaxBytes+1),
	}
}

func itoa(i int) string { return fmt.Sprintf("%05d", i) }

// TestBombs: within the limits, no file takes more than a moment.
func TestBombs(t *testing.T) {
	const most = 250 << 20
	cases := bombs()
	for name, text := range bombs() {
		marked := 0
		for i := range text {
			if strings.IndexByte(marks, text[i]) >= 0 {
				if marked++; marked == maxMarks {
					cases[name+", less"] = text[:i]
					break
				}
			}
		}
	}
	for name, text := range cases {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		err := Decode("f.yaml", []byte(text), initial())
		runtime.ReadMemStats(&after)
		took, bytes := time.Since(start), after.TotalAlloc-before.TotalAlloc
		t.Logf("%-20s %7d bytes: %6.3f s, %6.1f MB: %v", name, len(text), took.Seconds(), float64(bytes)/1e6, err)
		if bytes > most || took > 20*time.Second {
			t.Errorf("%s: %v and %d MB for %d bytes; want at most %d MB", name, took, bytes>>20, len(text), most>>20)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v := initial()
		err := Decode("f.yaml", text, v)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(8<<20+4096*len(text)); got > most {
			t.Errorf("%d bytes for a file of %d; at most %d", got, len(text), most)
		}
		if err != nil {
			errorsOf(t, "fuzz", err, "f.yaml: ")
			return
		}
		again, err := Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		w := initial()
		w.Items = nil
		if err := Decode("f.yaml", again, w); err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		if a, b := Tree(v), Tree(w); !reflect.DeepEqual(norm(a), norm(b)) {
			t.Errorf("read back differently:\n%s\n%v\n%v", again, a, b)
		}
	})
}

// norm makes numbers comparable: 1.0 is written as 1, and NaN is NaN.
func norm(x any) any {
	switch x := x.(type) {
	case map[string]any:
		for k, v := range x {
			x[k] = norm(v)
		}
	case []any:
		for i, v := range x {
			x[i] = norm(v)
		}
	case float64:
		if math.IsNaN(x) {
			return "NaN"
		}
	case int, int64, uint64:
		return reflect.ValueOf(x).Convert(reflect.TypeFor[float64]()).Float()
	}
	return x
}

// seeds are the files of testdata and the bombs, cut short.
func seeds(t testing.TB) []string {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no seeds: %v", err)
	}
	var out []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(b))
	}
	for _, s := range bombs() {
		out = append(out, s[:min(len(s), 300)])
	}
	return out
}
