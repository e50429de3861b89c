package eval

import (
	"log/slog"
	"reflect"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// Every option that says how to open a model comes through, by its name.
func TestOpeningOptions(t *testing.T) {
	for _, o := range []interface{ opening() OpenOptions }{&Options{}, &RetrievalOptions{}, &EmbedOptions{}, &ProbeOptions{}} {
		from := reflect.ValueOf(o).Elem()
		set := func(name string) bool {
			f := from.FieldByName(name)
			switch f.Kind() {
			case reflect.String:
				f.SetString(name)
			case reflect.Int:
				f.SetInt(int64(len(name)))
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Pointer:
				f.Set(reflect.ValueOf(slog.Default()))
			default:
				return false
			}
			return true
		}
		want := reflect.New(reflect.TypeFor[OpenOptions]()).Elem()
		for i := range want.NumField() {
			name := want.Type().Field(i).Name
			if !set(name) {
				t.Errorf("%T has no %s", o, name)
				continue
			}
			want.Field(i).Set(from.FieldByName(name))
		}
		if got := o.opening(); got != want.Interface() {
			t.Errorf("%T: %+v, want %+v", o, got, want.Interface())
		}
	}
}

// An opened model takes the place of what says how to open one.
func TestOpenedAlone(t *testing.T) {
	m := &Model{}
	for name, err := range map[string]error{
		"Model":   (&Options{Opened: m, Model: "x"}).check(),
		"Backend": (&Options{Opened: m, Backend: "go"}).check(),
		"DType":   (&EmbedOptions{Opened: m, DType: "bf16", Texts: "x", Out: "x.npy"}).check(),
		"Config":  (&RetrievalOptions{Opened: m, Set: "csv", Config: "x"}).check(),
	} {
		if fault.Code(err) != int(fault.Usage) {
			t.Errorf("%s beside Opened: %v", name, err)
		}
	}
	for _, err := range []error{
		(&Options{Opened: m, Batch: 3, Workers: 2, Log: slog.Default()}).check(),
		(&RetrievalOptions{Opened: m, Set: "csv"}).check(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
