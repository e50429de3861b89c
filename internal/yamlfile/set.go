package yamlfile

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Set gives one value of the struct that v points to: key is a path such as
// data.0.source, whose numbers count the items of a list (one past the last
// appends), and text is the value as YAML. An empty or null text restores the
// value of initial, a struct of the same type. name is for messages.
func Set(name string, v, initial any, key, text string) error {
	d := &decoder{left: maxNodes}
	return usage(name, d.set(reflect.ValueOf(v).Elem(), reflect.ValueOf(initial).Elem(), key, "", text))
}

func (d *decoder) set(v, initial reflect.Value, key, path, text string) error {
	if key == "" {
		return d.setValue(v, initial, path, text)
	}
	first, rest, more := strings.Cut(key, ".")
	if first == "" || more && rest == "" {
		return fmt.Errorf("%q is not a key; want names separated by dots, such as lr.vision", clean(join(path, key)))
	}
	at := join(path, first)
	switch v.Kind() {
	case reflect.Struct:
		f, ok := field(v, first)
		if !ok {
			return d.unknown(&yaml.Node{Value: first}, path, v.Type())
		}
		was := reflect.Zero(f.Type())
		if initial.IsValid() {
			was, _ = field(initial, first)
		}
		return d.set(f, was, rest, at, text)
	case reflect.Slice, reflect.Array:
		i, err := strconv.Atoi(first)
		if err != nil || i < 0 || i > v.Len() || i == v.Len() && v.Kind() == reflect.Array {
			return fmt.Errorf("%s: %q is not an index of this list of %d items", path, clean(first), v.Len())
		}
		if i == v.Len() {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		}
		return d.set(v.Index(i), reflect.Zero(v.Type().Elem()), rest, at, text)
	case reflect.Interface:
		// The value in an interface is not addressable: a copy is changed.
		var to reflect.Value
		switch x := v.Interface().(type) {
		case nil:
			to = reflect.ValueOf(&map[string]any{}).Elem()
		case map[string]any:
			to = reflect.ValueOf(&x).Elem()
		case []any:
			to = reflect.ValueOf(&x).Elem()
		default:
			return fmt.Errorf("%s has no keys", path)
		}
		if err := d.set(to, reflect.Value{}, key, path, text); err != nil {
			return err
		}
		v.Set(to)
		return nil
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		if old := v.MapIndex(reflect.ValueOf(first)); old.IsValid() {
			e.Set(old)
		}
		if err := d.set(e, reflect.Zero(e.Type()), rest, at, text); err != nil {
			return err
		}
		m := reflect.MakeMap(v.Type())
		for _, k := range v.MapKeys() {
			m.SetMapIndex(k, v.MapIndex(k))
		}
		m.SetMapIndex(reflect.ValueOf(first), e)
		v.Set(m)
		return nil
	}
	return fmt.Errorf("%s has no keys", path)
}

// setValue reads text into v.
func (d *decoder) setValue(v, initial reflect.Value, path, text string) error {
	n, err := parse([]byte(text))
	switch {
	case err != nil:
		return fmt.Errorf("%s: the value is not YAML as it stands (%w); put it in quotes: %s", path, err, quoted(path, text))
	case n == nil && strings.TrimSpace(text) != "" || n != nil && commented(n):
		return fmt.Errorf("%s: a # begins a comment; put the value in quotes: %s", path, quoted(path, text))
	}
	v.Set(initial)
	if n == nil || isNull(n) {
		return nil
	}
	err = d.value(n, v, path)
	switch {
	case err == nil:
		return nil
	case v.Kind() == reflect.String:
		return fmt.Errorf("%w; put it in quotes: %s", err, quoted(path, text))
	case v.Kind() == reflect.Struct && n.Kind == yaml.ScalarNode:
		return fmt.Errorf("%w, such as %s.%s=%s", err, path, fieldNames(v.Type())[0], clean(text))
	}
	return err
}

func commented(n *yaml.Node) bool {
	if n.HeadComment != "" || n.LineComment != "" || n.FootComment != "" {
		return true
	}
	for _, c := range n.Content {
		if commented(c) {
			return true
		}
	}
	return false
}

// quoted is a setting with its value in quotes, all of it in single quotes so
// that the shell keeps the inner ones.
func quoted(path, text string) string {
	return "'" + strings.ReplaceAll(path+"="+strconv.Quote(text), "'", `'\''`) + "'"
}
