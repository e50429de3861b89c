package trainer

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/yamlfile"
)

// The page of recipe keys matches the code: a row for each key, with its type, its
// default and, if only some words are allowed, these.
func TestRecipePage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "recipe.md"))
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		if len(cells) != 5 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }) {
			t.Errorf("a row of the page has not five cells: %s", line)
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		key := strings.ReplaceAll(strings.Trim(cells[0], "`"), ".N.", ".0.")
		keys = append(keys, key)
		if want := typeInWords(keyType(reflect.TypeFor[Recipe](), key)); cells[1] != want {
			t.Errorf("%s: the page says it is %q, it is %q", key, cells[1], want)
		}
		checkDefault(t, key, cells[2])
		if cells[1] == "text" {
			checkWords(t, key, cells[3])
		}
	}
	slices.Sort(keys)
	if want := slices.Sorted(slices.Values(RecipeKeys())); !slices.Equal(keys, want) {
		t.Errorf("the page has %v\nthe recipe %v", keys, want)
	}
}

const pageRecipe = `
model: EVA02-CLIP-B-16
data: [{source: a.tar}]
eval: [{benchmark: folder, data: b.tar}]
batch: 8
micro_batch: 4
steps: 3000
`

// checkDefault: a recipe with the default spelled out is the recipe without the key.
func checkDefault(t *testing.T, key, cell string) {
	t.Helper()
	said, code := strings.CutPrefix(cell, "`")
	if !code {
		// There is none, or it cannot be written down.
		if !slices.Contains([]string{"required", "none", "the model's", "EVA-CLIP's", "by size", "by steps", "by samples"}, cell) || !zeroDefault(key) {
			t.Errorf("%s: the page says %q; the default is another", key, cell)
		}
		return
	}
	plain, err := ParseRecipe("r.yaml", []byte(pageRecipe), key+"=null")
	if err != nil {
		t.Fatal(key, err)
	}
	set, err := ParseRecipe("r.yaml", []byte(pageRecipe), key+"="+strings.TrimSuffix(said, "`"))
	if err != nil {
		t.Errorf("%s: the default on the page: %v", key, err)
		return
	}
	top, _, _ := strings.Cut(key, ".")
	same := !slices.Contains(freeKeys, top) && plain.identity() == set.identity()
	if !same && string(plain.YAML()) != string(set.YAML()) {
		t.Errorf("%s: the page says %s; the default is another", key, cell)
	}
}

// zeroDefault reports whether the code has no value for a key.
func zeroDefault(key string) bool {
	v := reflect.ValueOf(defaults()).Elem()
	for part := range strings.SplitSeq(key, ".") {
		if v.Kind() == reflect.Slice {
			return v.Len() == 0
		}
		v = byName(v, part)
	}
	return v.IsZero()
}

func byName(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ","); tag == name {
			return v.Field(i)
		}
	}
	panic(name)
}

// checkWords: the allowed words of a key are those on the page.
func checkWords(t *testing.T, key, cell string) {
	t.Helper()
	try := func(word string) error {
		_, err := ParseRecipe("r.yaml", []byte(pageRecipe), key+"="+word)
		return err
	}
	err := try("nonsense")
	if err == nil {
		return
	}
	_, known, ok := strings.Cut(err.Error(), `"nonsense"; want `)
	if !ok {
		return
	}
	words := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1)
	for _, w := range words {
		if err := try(w[1]); err != nil {
			t.Errorf("%s=%s, as the page has it: %v", key, w[1], err)
		}
	}
	if len(strings.Split(strings.ReplaceAll(known, " or ", ", "), ", ")) != len(words) {
		t.Errorf("%s: the page has %d words, the program wants %s", key, len(words), known)
	}
}

func keyType(t reflect.Type, key string) reflect.Type {
	for part := range strings.SplitSeq(key, ".") {
		if t.Kind() == reflect.Slice {
			t = t.Elem()
			continue
		}
		if t.Kind() != reflect.Struct || !slices.ContainsFunc(yamlfile.Keys(reflect.New(t).Interface()), func(k string) bool {
			return k == part || strings.HasPrefix(k, part+".")
		}) {
			return nil
		}
		t = byName(reflect.New(t).Elem(), part).Type()
	}
	return t
}

func typeInWords(t reflect.Type) string {
	if t == nil {
		return "no key"
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Interface:
		return "text or map"
	case reflect.Array:
		return "two numbers"
	case reflect.Slice:
		return "list of texts"
	}
	return fmt.Sprint(t)
}
