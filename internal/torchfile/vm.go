package torchfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/nlpodyssey/gopickle/pickle"
	"github.com/nlpodyssey/gopickle/types"
)

// vm runs pickles. Everything it returns is inert: dicts, lists, scalars, tensor
// descriptions, and objects that only record what they were made of.
type vm struct {
	script  bool // TorchScript: classes of the archive's own code are allowed
	storage func(id *types.Tuple) (*storage, error)
	// object resolves a persistent id that is not a tuple (legacy tar files).
	object func(id any) (any, error)
}

// next runs the pickle that starts at r. n is its length in bytes.
func (v *vm) next(r *bufio.Reader) (value any, n int64, err error) {
	checked, n, err := scan(r)
	if err != nil {
		return nil, n, err
	}
	value, err = v.run(checked)
	return value, n, err
}

// errRefused marks what a file may not contain, as opposed to damage.
var errRefused = errors.New("refused")

// run executes a checked stream.
func (v *vm) run(checked []byte) (value any, err error) {
	defer func() {
		// The library panics on values of unexpected types, such as a list as a key
		// of a set.
		if p := recover(); p != nil {
			value, err = nil, fmt.Errorf("pickle: a value of the wrong type (%s)", oneLine(fmt.Sprint(p)))
		}
	}()
	u := pickle.NewUnpickler(bytes.NewReader(checked))
	u.PersistentLoad = v.persistent
	value, err = u.Load()
	var own *ownError
	switch {
	case errors.As(err, &own):
		return nil, own
	case err != nil: // the text may contain a dump of the objects
		return nil, fmt.Errorf("pickle: %s", oneLine(err.Error()))
	}
	return value, nil
}

// ownError is an error whose text is ours, to be shown as it is.
type ownError struct{ error }

func (e *ownError) Unwrap() error { return e.error }

func ownf(format string, args ...any) error { return &ownError{fmt.Errorf(format, args...)} }

// persistent resolves the two kinds of persistent ids: class names, which the
// scanner rewrites into pairs, and torch's storages.
func (v *vm) persistent(id any) (any, error) {
	t, ok := id.(*types.Tuple)
	if !ok {
		if v.object != nil {
			return v.object(id)
		}
		return nil, ownf("pickle: persistent id %s is not a storage", text(id))
	}
	if t.Len() == 2 {
		module, ok1 := t.Get(0).(string)
		name, ok2 := t.Get(1).(string)
		if ok1 && ok2 {
			return v.find(module, name)
		}
	}
	if v.storage == nil {
		return nil, ownf("pickle: a storage where none is allowed")
	}
	s, err := v.storage(t)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// find is the allow-list: the meaning of every class and function name that a
// checkpoint may use. gopickle resolves some names itself before it calls its
// Unpickler's FindClass, so names reach us through persistent ids instead.
func (v *vm) find(module, name string) (any, error) {
	for _, r := range renamed {
		if module == r.old || strings.HasPrefix(module, r.old+".") {
			module = r.new + module[len(r.old):]
			break
		}
	}
	full := module + "." + name
	if c, ok := globals[full]; ok {
		return c, nil
	}
	// torch.channels_last and the like are pickled as an attribute of whichever
	// module imported torch.
	if c, ok := globals[name].(constant); ok && strings.HasPrefix(module, "torch.") {
		return c, nil
	}
	if v.script && (module == "__torch__" || strings.HasPrefix(module, "__torch__.")) {
		return inert(full), nil
	}
	return nil, ownf("pickle: %.200q is neither a tensor nor plain data and is %w, as nothing in a file is executed; load the file where you trust it and save only model.state_dict()", full, errRefused)
}

// renamed are modules that moved: Python 2 to 3, numpy 1 to 2.
var renamed = []struct{ old, new string }{
	{"__builtin__", "builtins"}, {"copy_reg", "copyreg"}, {"numpy._core", "numpy.core"},
}

// class is an allowed class or function.
type class struct {
	name string
	call func(args []any) (any, error)
}

// Call is what REDUCE does.
func (c *class) Call(args ...any) (any, error) {
	v, err := c.call(args)
	if err != nil {
		return nil, &ownError{fmt.Errorf("pickle: %s: %w", c.name, err)}
	}
	return v, nil
}

// PyNew is what NEWOBJ does.
func (c *class) PyNew(args ...any) (any, error) { return c.Call(args...) }

// inert is a class whose objects only record what they were made of.
func inert(name string) *class {
	return &class{name, func(args []any) (any, error) { return &object{class: name, args: args}, nil }}
}

// object is an instance of an inert class.
type object struct {
	class string
	args  []any
	state any
	items []any // of a list subclass
	dict  dict  // of a dict subclass
}

// PySetState is what BUILD does.
func (o *object) PySetState(state any) error { o.state = state; return nil }

// Append is what APPEND does on a list subclass.
func (o *object) Append(v any) { o.items = append(o.items, v) }

// Set is what SETITEM does on a dict subclass.
func (o *object) Set(k, v any) { o.dict.Set(k, v) }

// Add is what ADDITEMS does on a set subclass.
func (o *object) Add(v any) { o.items = append(o.items, v) }

// attributes are the attributes that BUILD set on an object that is not a dict or
// list subclass.
func (o *object) attributes() []types.DictEntry {
	if len(o.dict.Dict) > 0 || len(o.items) > 0 {
		return nil
	}
	e, _ := entries(o.state)
	return e
}

// dict is a dict with attributes of its own, such as OrderedDict with torch's
// _metadata. The attributes are dropped.
type dict struct{ types.Dict }

// PySetState is what BUILD does.
func (d *dict) PySetState(any) error { return nil }

// entries returns the items of anything that is a dict.
func entries(v any) ([]types.DictEntry, bool) {
	switch d := v.(type) {
	case *types.Dict:
		return *d, true
	case *dict:
		return d.Dict, true
	case *object:
		if len(d.dict.Dict) > 0 {
			return d.dict.Dict, true
		}
	}
	return nil, false
}

// elements returns the items of a list or tuple.
func elements(v any) ([]any, bool) {
	switch l := v.(type) {
	case *types.List:
		return *l, true
	case *types.Tuple:
		return *l, true
	}
	return nil, false
}

// pairs fills a dict from its constructor's argument: a dict or pairs.
func pairs(arg any) (*dict, error) {
	if e, ok := entries(arg); ok {
		return &dict{append(types.Dict(nil), e...)}, nil
	}
	list, ok := elements(arg)
	if !ok {
		return nil, fmt.Errorf("built from %s", kind(arg))
	}
	d := &dict{}
	for _, item := range list {
		kv, ok := elements(item)
		if !ok || len(kv) != 2 {
			return nil, fmt.Errorf("built from items that are not pairs")
		}
		d.Set(kv[0], kv[1])
	}
	return d, nil
}
