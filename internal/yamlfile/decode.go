package yamlfile

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Decode reads text, a YAML mapping, into the struct that v points to: a key
// that is absent or null leaves its field as it is, and a list replaces the
// field's. name is the file's name in messages.
func Decode(name string, text []byte, v any) error {
	n, err := parse(text)
	if err == nil && n == nil {
		err = errors.New("is empty; want a YAML mapping of keys to values")
	}
	if err == nil {
		d := &decoder{lines: true, left: maxNodes}
		err = d.value(n, reflect.ValueOf(v).Elem(), "")
	}
	return usage(name, err)
}

type decoder struct {
	lines bool // messages give line numbers
	left  int  // nodes that may still be visited
	depth int
}

// failf returns an error about node n, the value of the key path.
func (d *decoder) failf(n *yaml.Node, path, format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	if path != "" {
		s = path + ": " + s
	}
	if d.lines {
		s = fmt.Sprintf("line %d: %s", n.Line, s)
	}
	return errors.New(s)
}

// open follows n's alias, counts the node and checks its tag.
func (d *decoder) open(n *yaml.Node, path string) (*yaml.Node, error) {
	at := n
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if d.left--; d.left < 0 {
		return nil, d.failf(at, path, "more than %d values, with aliases expanded; shorten the file", maxNodes)
	}
	if n.Style&yaml.TaggedStyle != 0 && !slices.Contains(plainTags, n.ShortTag()) {
		return nil, d.failf(at, path, "has the tag %s; want a value without one", clean(n.ShortTag()))
	}
	return n, nil
}

// plainTags are the tags that add nothing to what the field's type decides.
var plainTags = []string{"!!null", "!!bool", "!!int", "!!float", "!!str", "!!seq", "!!map"}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) error {
	n, err := d.open(n, path)
	if err != nil {
		return err
	}
	if isNull(n) {
		return nil
	}
	// An alias inside its own anchor recurses without end.
	if d.depth++; d.depth > 2*maxDepth {
		return d.failf(n, path, "is nested more than %d levels deep", 2*maxDepth)
	}
	defer func() { d.depth-- }()
	switch v.Kind() {
	case reflect.Pointer:
		to := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			to.Elem().Set(v.Elem())
		}
		if err := d.value(n, to.Elem(), path); err != nil {
			return err
		}
		v.Set(to)
		return nil
	case reflect.Interface:
		x, err := d.tree(n, path)
		if err == nil {
			v.Set(reflect.ValueOf(x))
		}
		return err
	case reflect.Struct:
		return d.mapping(n, path, "with the keys "+fieldsWords(v.Type()), func(key, val *yaml.Node) error {
			f, ok := field(v, key.Value)
			if !ok {
				return d.unknown(key, path, v.Type())
			}
			return d.value(val, f, join(path, key.Value))
		})
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		err := d.mapping(n, path, "of names to values", func(key, val *yaml.Node) error {
			e := reflect.New(v.Type().Elem()).Elem()
			err := d.value(val, e, join(path, key.Value))
			m.SetMapIndex(reflect.ValueOf(key.Value), e)
			return err
		})
		if err == nil {
			v.Set(m)
		}
		return err
	case reflect.Slice, reflect.Array:
		return d.list(n, v, path)
	}
	return d.scalar(n, v, path)
}

// mapping calls each for the keys of n, which must be plain and distinct.
func (d *decoder) mapping(n *yaml.Node, path, want string, each func(key, val *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return d.failf(n, path, "%s; want a mapping %s", describe(n), want)
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		key, err := d.open(key, path)
		if err != nil {
			return err
		}
		if key.Kind != yaml.ScalarNode {
			return d.failf(n.Content[i], path, "has a key that %s; want a name", describe(key))
		}
		if key.Value == "<<" && key.Style == 0 {
			return d.failf(key, path, "merge keys (<<) are not supported; write the keys out")
		}
		if line, twice := seen[key.Value]; twice {
			return d.failf(key, "", "%s is given twice, first on line %d", join(path, key.Value), line)
		}
		seen[key.Value] = key.Line
		if err := each(key, val); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.SequenceNode {
		return d.failf(n, path, "%s; want a list: [ … ]", describe(n))
	}
	out := reflect.New(v.Type()).Elem()
	if v.Kind() == reflect.Array {
		if len(n.Content) != v.Len() {
			return d.failf(n, path, "a list of %d; want %d numbers", len(n.Content), v.Len())
		}
	} else {
		out.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	}
	for i, c := range n.Content {
		if err := d.value(c, out.Index(i), join(path, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	v.Set(out)
	return nil
}

// scalar reads a text, a number, or true or false. A number may be quoted.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) error {
	want := "a string"
	switch {
	case v.CanInt(), v.CanFloat():
		want = "a number"
	case v.Kind() == reflect.Bool:
		want = "true or false"
	case v.Kind() != reflect.String:
		panic("yamlfile: no such field type: " + v.Type().String()) // a fault of the caller's struct, not of the file
	}
	if n.Kind != yaml.ScalarNode {
		return d.failf(n, path, "%s; want %s", describe(n), want)
	}
	if v.Kind() == reflect.String {
		v.SetString(n.Value)
		return nil
	}
	x, err := resolve(n.Value, true)
	if err != nil {
		return d.failf(n, path, "%v", err)
	}
	switch x := x.(type) {
	case bool:
		if v.Kind() == reflect.Bool {
			v.SetBool(x)
			return nil
		}
	case int64, uint64, float64:
		f := reflect.ValueOf(x).Convert(reflect.TypeFor[float64]()).Float()
		if v.CanFloat() {
			v.SetFloat(f)
			return nil
		}
		if v.CanInt() {
			i, whole := x.(int64)
			if !whole {
				if f != math.Trunc(f) {
					return d.failf(n, path, "%s is not a whole number", clean(n.Value))
				}
				i = int64(f)
			}
			if !whole && !(math.Abs(f) <= 1<<53) || v.OverflowInt(i) {
				return d.failf(n, path, "%s is too large", clean(n.Value))
			}
			v.SetInt(i)
			return nil
		}
	}
	return d.failf(n, path, "%s; want %s", describe(n), want)
}

// tree is n as nil, bool, int64, uint64, float64, string, []any or
// map[string]any.
func (d *decoder) tree(n *yaml.Node, path string) (any, error) {
	n, err := d.open(n, path)
	if err != nil {
		return nil, err
	}
	if d.depth++; d.depth > 2*maxDepth {
		return nil, d.failf(n, path, "is nested more than %d levels deep", 2*maxDepth)
	}
	defer func() { d.depth-- }()
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		return m, d.mapping(n, path, "of names to values", func(key, val *yaml.Node) (err error) {
			m[key.Value], err = d.tree(val, join(path, key.Value))
			return err
		})
	case yaml.SequenceNode:
		l := make([]any, len(n.Content))
		for i, c := range n.Content {
			if l[i], err = d.tree(c, join(path, strconv.Itoa(i))); err != nil {
				return nil, err
			}
		}
		return l, nil
	}
	x, err := resolve(n.Value, n.Style&^yaml.TaggedStyle == 0 && !(n.Style&yaml.TaggedStyle != 0 && n.ShortTag() == "!!str"))
	if err != nil {
		return nil, d.failf(n, path, "%v", err)
	}
	return x, nil
}

var (
	wholeNumber = regexp.MustCompile(`^[-+]?[0-9]+(_[0-9]+)*$`)
	otherBase   = regexp.MustCompile(`^[-+]?0[xXoObB][0-9a-fA-F_]+$`)
	realNumber  = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	leadingZero = regexp.MustCompile(`^[-+]?0[0-9_]+$`)
)

// resolve gives a plain scalar its type as in YAML 1.2; 1_000 is a number, too.
// A number that YAML 1.1 reads as octal is an error.
func resolve(s string, plain bool) (any, error) {
	if !plain {
		return s, nil
	}
	switch s {
	case "", "~", "null", "Null", "NULL":
		return nil, nil
	case "true", "True", "TRUE":
		return true, nil
	case "false", "False", "FALSE":
		return false, nil
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF":
		return math.Inf(1), nil
	case "-.inf", "-.Inf", "-.INF":
		return math.Inf(-1), nil
	case ".nan", ".NaN", ".NAN":
		return math.NaN(), nil
	}
	digits := strings.ReplaceAll(s, "_", "")
	switch {
	case leadingZero.MatchString(s):
		return nil, fmt.Errorf("%s is octal to some YAML readers and decimal to others; write it without the leading 0, or with 0o", clean(s))
	case wholeNumber.MatchString(s), otherBase.MatchString(s):
		base := 10
		if otherBase.MatchString(s) {
			base = 0
		}
		if i, err := strconv.ParseInt(digits, base, 64); err == nil {
			return i, nil
		}
		if u, err := strconv.ParseUint(strings.TrimPrefix(digits, "+"), base, 64); err == nil {
			return u, nil
		}
		if base == 0 {
			return s, nil
		}
	}
	if realNumber.MatchString(s) {
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is out of range for a number", clean(s))
		}
		return f, nil
	}
	return s, nil
}

func isNull(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode || n.Style&^yaml.TaggedStyle != 0 {
		return false
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return n.ShortTag() == "!!null"
	}
	x, err := resolve(n.Value, true)
	return x == nil && err == nil
}

// describe says what a node is, for messages.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "is a mapping"
	case yaml.SequenceNode:
		return "is a list"
	}
	if x, err := resolve(n.Value, n.Style&^yaml.TaggedStyle == 0); err == nil {
		switch x.(type) {
		case nil:
			return "is empty"
		case bool:
			return clean(n.Value) + " is a boolean"
		case int64, uint64, float64:
			return clean(n.Value) + " is a number"
		}
	}
	return strconv.QuoteToGraphic(short(n.Value)) + " is a string"
}

func join(path, key string) string {
	if path == "" {
		return clean(key)
	}
	return path + "." + clean(key)
}

// field is the field of a struct with the yaml name key.
func field(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if name := fieldName(v.Type().Field(i)); name != "" && name == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if !f.IsExported() || name == "-" {
		return ""
	}
	return name
}

func fieldNames(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		if name := fieldName(t.Field(i)); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func fieldsWords(t reflect.Type) string { return strings.Join(fieldNames(t), ", ") }

// unknown is the error about a key that the struct does not have.
func (d *decoder) unknown(key *yaml.Node, path string, t reflect.Type) error {
	known := fieldNames(t)
	if near := Nearest(key.Value, known); near != "" {
		return d.failf(key, "", "unknown key %s; did you mean %s?", join(path, key.Value), join(path, near))
	}
	return d.failf(key, "", "unknown key %s; known: %s", join(path, key.Value), strings.Join(known, ", "))
}
