package yamlfile

import (
	"bytes"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Encode writes v, a struct that Decode accepts, so that Decode reads it back.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	d, err := yaml.NewDumper(&b, yaml.WithIndent(2), yaml.WithCompactSeqIndent(false), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, err
	}
	if err := d.Dump(v); err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Tree is the struct v as nested maps by key, as Encode writes it, without the
// fields that omitempty leaves out.
func Tree(v any) map[string]any {
	return tree(reflect.Indirect(reflect.ValueOf(v))).(map[string]any)
}

func tree(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return tree(v.Elem())
	case reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name := fieldName(f)
			if name == "" || strings.Contains(f.Tag.Get("yaml"), ",omitempty") && empty(v.Field(i)) {
				continue
			}
			m[name] = tree(v.Field(i))
		}
		return m
	case reflect.Map:
		m := map[string]any{}
		for k, e := range v.Seq2() {
			m[k.String()] = tree(e)
		}
		return m
	case reflect.Slice, reflect.Array:
		l := make([]any, v.Len())
		for i := range l {
			l[i] = tree(v.Index(i))
		}
		return l
	}
	return v.Interface()
}

// empty reports whether omitempty leaves v out; so it does a struct of which all
// fields are empty.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Struct:
		for i := range v.NumField() {
			if !empty(v.Field(i)) {
				return false
			}
		}
		return true
	}
	return v.IsZero()
}

// Keys lists the paths of the values of the struct v, as Set takes them; a list
// is represented by its first item.
func Keys(v any) []string { return keys(reflect.Indirect(reflect.ValueOf(v)).Type(), "") }

func keys(t reflect.Type, at string) (out []string) {
	switch t.Kind() {
	case reflect.Pointer:
		return keys(t.Elem(), at)
	case reflect.Struct:
		for i := range t.NumField() {
			if name := fieldName(t.Field(i)); name != "" {
				out = append(out, keys(t.Field(i).Type, join(at, name))...)
			}
		}
		return out
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return keys(t.Elem(), join(at, "0"))
		}
	}
	return []string{at}
}
