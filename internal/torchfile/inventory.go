package torchfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nlpodyssey/gopickle/types"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Limits for walking the objects of a file, which may refer to each other in cycles
// and repeatedly.
const (
	maxDepth  = 64
	maxWalk   = 64 << 20 // estimated bytes of paths and items seen
	maxPath   = 4096
	maxExpand = 256 << 20
)

// named is a tensor under a name.
type named struct {
	name string
	*tensor
}

// walker lists everything in a file.
type walker struct {
	tensors []named
	other   []Entry
	script  bool
	seen    int
	open    map[any]bool // containers on the way down
}

func (w *walker) walk(path string, v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("objects nested more than %d deep at %.60q; no checkpoint needs that", maxDepth, path)
	}
	if len(path) > maxPath {
		return fmt.Errorf("name %.60q has %d bytes, more than %d", path, len(path), maxPath)
	}
	if err := w.charge(64+len(path), path); err != nil {
		return err
	}
	if t, ok := v.(*tensor); ok {
		if t.refused == "" {
			w.tensors = append(w.tensors, named{path, t})
		} else {
			w.add(path, "torch.Tensor", t.refused)
		}
		return nil
	}
	children, ok := w.children(v)
	if !ok {
		if key, bad := badKey(v); bad {
			return fmt.Errorf("%.60q: a dict with a key of type %s; the file is damaged", path, key)
		}
		w.add(path, kind(v), text(v))
		return nil
	}
	if w.open[v] {
		return fmt.Errorf("%.60q contains itself; the file is damaged", path)
	}
	w.open[v] = true
	defer delete(w.open, v)
	for key, child := range children {
		p := key
		if path != "" {
			p = path + "/" + key
		}
		if err := w.walk(p, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// scriptNoise are attributes that every TorchScript module has.
var scriptNoise = []string{"training", "_is_full_backward_hook"}

func (w *walker) add(path, kind, value string) {
	if w.script && slices.Contains(scriptNoise, path[strings.LastIndexByte(path, '/')+1:]) {
		return
	}
	w.other = append(w.other, Entry{path, kind, value})
}

func (w *walker) charge(n int, path string) error {
	if w.seen += n; w.seen > maxWalk {
		return fmt.Errorf("too many objects, or one many times over, at %.60q; no checkpoint needs that", path)
	}
	return nil
}

// children are the items of a container by the text of their keys. Lists of plain
// values and empty containers are shown as a whole instead.
func (w *walker) children(v any) (func(yield func(string, any) bool), bool) {
	if o, ok := v.(*object); ok && len(o.attributes()) > 0 {
		v = o.state
	}
	if e, ok := entries(v); ok && len(e) > 0 {
		if _, bad := badKey(v); bad {
			return nil, false
		}
		w.seen += 16 * len(e)
		return func(yield func(string, any) bool) {
			for _, x := range e {
				if !yield(keyText(x.Key), x.Value) {
					return
				}
			}
		}, true
	}
	l, ok := elements(v)
	if o, isObject := v.(*object); isObject {
		l, ok = o.items, len(o.items) > 0
	}
	w.seen += 16 * len(l)
	if !ok || !slices.ContainsFunc(l, isContainer) {
		return nil, false
	}
	return func(yield func(string, any) bool) {
		for i, x := range l {
			if !yield(strconv.Itoa(i), x) {
				return
			}
		}
	}, true
}

// isContainer reports whether a value is worth a path of its own in a list.
func isContainer(v any) bool {
	switch v.(type) {
	case *tensor, *object, *types.List, *types.Tuple, *types.Dict, *dict:
		return true
	}
	return false
}

// badKey finds a key of a type that Python cannot hash.
func badKey(v any) (string, bool) {
	e, _ := entries(v)
	for _, x := range e {
		switch x.Key.(type) {
		case *types.List, *types.Dict, *dict, *types.Set, *types.ByteArray:
			return kind(x.Key), true
		}
	}
	return "", false
}

func keyText(k any) string {
	if s, ok := k.(string); ok {
		return s
	}
	return text(k)
}

// wrappers are the keys under which training scripts keep the state dict, in
// order of preference.
var wrappers = []string{"model", "module", "state_dict"}

// stateDict finds the state dict below root and the path to it.
func stateDict(root any, key string) (state any, path string, err error) {
	if key != "" {
		state, ok := lookup(root, key)
		if !ok {
			return nil, "", fault.Usagef("Options.Key %s: no such entry in the file; `evatool inspect` lists the entries", key)
		}
		return state, key, nil
	}
	state = root
	for range maxDepth {
		next, key := wrapped(state)
		if key == "" {
			break
		}
		state = next
		path = strings.TrimPrefix(path+"/"+key, "/")
	}
	return state, path, nil
}

// wrapped is the dict under the first of the wrapper keys.
func wrapped(v any) (any, string) {
	e, _ := entries(v)
	for _, key := range wrappers {
		for _, x := range e {
			if x.Key == key {
				if _, ok := entries(x.Value); ok {
					return x.Value, key
				}
			}
		}
	}
	return nil, ""
}

// lookup follows a path such as "a/b". Keys may contain slashes themselves.
func lookup(v any, path string) (any, bool) {
	e, ok := entries(v)
	if !ok {
		if l, isList := elements(v); isList {
			for i, x := range l {
				e = append(e, types.DictEntry{Key: strconv.Itoa(i), Value: x})
			}
		} else if o, isObject := v.(*object); isObject {
			e = o.attributes()
		}
	}
	for _, x := range e {
		key := keyText(x.Key)
		if key == path {
			return x.Value, true
		}
		if rest, ok := strings.CutPrefix(path, key+"/"); ok {
			if found, ok := lookup(x.Value, rest); ok {
				return found, true
			}
		}
	}
	return nil, false
}

// flat lists the tensors of a state dict, a dict from names to tensors. Values that
// are not tensors are left to AllTensors and Other.
func flat(state any) ([]named, error) {
	e, ok := entries(state)
	if !ok {
		return nil, fmt.Errorf("a value of type %s where a state dict (a dict of tensors) should be; choose one with Options.Key", kind(state))
	}
	var out []named
	for _, x := range e {
		t, isTensor := x.Value.(*tensor)
		if !isTensor {
			continue
		}
		name, ok := x.Key.(string)
		switch {
		case !ok:
			return nil, fmt.Errorf("key %s of the state dict has type %s; want a string", text(x.Key), kind(x.Key))
		case !utf8.ValidString(name):
			return nil, fmt.Errorf("tensor %.200q: the name is not valid UTF-8", name)
		}
		out = append(out, named{name, t})
	}
	return out, nil
}

// leftOf finds what Left lists; c.all and c.key must be known.
func (c *Checkpoint) leftOf(state any) (left []Left) {
	below := map[string]int{} // tensors, by the paths above them
	root := c.key
	if root != "" {
		root += "/"
	}
	for _, t := range c.all {
		path, inside := strings.CutPrefix(t.name, root)
		for i := range len(path) {
			if inside && path[i] == '/' {
				below[path[:i]]++
			}
		}
	}
	e, _ := entries(state)
	for _, x := range e {
		name := keyText(x.Key)
		switch n := below[name]; {
		case kind(x.Value) == "numpy.ndarray":
			left = append(left, Left{name, "a numpy.ndarray, not a tensor"})
		case n > 0 && kind(x.Value) != "torch.Tensor":
			left = append(left, Left{name, fmt.Sprintf("a %s, not a tensor; %d below it", kind(x.Value), n)})
		}
	}
	return left
}

// strip removes "module.", which DistributedDataParallel leaves, from the names if
// the first one has it.
func strip(tensors []named) string {
	const prefix = "module."
	if len(tensors) == 0 || !strings.HasPrefix(tensors[0].name, prefix) {
		return ""
	}
	for i, t := range tensors {
		tensors[i].name = strings.TrimPrefix(t.name, prefix)
	}
	return prefix
}

// scripted lists the tensors of a TorchScript module and its submodules under
// the names that state_dict() gives them: a module's own first, then those of
// its submodules.
func scripted(prefix string, v any, out []named, depth int) ([]named, error) {
	o, ok := v.(*object)
	if !ok || depth > maxDepth {
		return nil, fmt.Errorf("module %.200q has type %s, or is nested more than %d deep", strings.TrimSuffix(prefix, "."), kind(v), maxDepth)
	}
	e := o.attributes()
	for _, x := range e {
		name, ok := x.Key.(string)
		if t, isTensor := x.Value.(*tensor); isTensor && ok {
			out = append(out, named{prefix + name, t})
		}
	}
	for _, x := range e {
		name, ok := x.Key.(string)
		if m, isModule := x.Value.(*object); isModule && ok && strings.HasPrefix(m.class, "__torch__.") {
			var err error
			if out, err = scripted(prefix+name+".", m, out, depth+1); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// accept checks the tensors of a state dict together.
func accept(tensors []named) error {
	seen := make(map[string]bool, len(tensors))
	blobs := map[*blob]int64{}
	var total, have int64
	for _, t := range tensors {
		if t.refused != "" {
			return fmt.Errorf("tensor %.200q is %s", t.name, t.refused)
		}
		if seen[t.name] {
			return fmt.Errorf("tensor %.200q appears twice (after its prefix is taken off); the names are ambiguous", t.name)
		}
		seen[t.name] = true
		n, _ := tensorfile.CheckedBytes(t.info(t.name))
		if total+n < total {
			return fmt.Errorf("tensor %.200q: the tensors up to it have too many bytes", t.name)
		}
		total += n
		if blobs[t.stor.blob] == 0 {
			have += t.stor.blob.size
		}
		blobs[t.stor.blob] = t.stor.blob.size
	}
	// Views may repeat the file's data, but not without limit: a few bytes can claim
	// to be a tensor of any size.
	if total > maxExpand && total/16 > have {
		return fmt.Errorf("the tensors would take %d bytes, but the file has %d for them; views may repeat data at most 16 times", total, have)
	}
	return nil
}

// places names the dicts that hold tensors.
func places(tensors []named) string {
	dirs := map[string]bool{}
	for _, t := range tensors {
		if i := strings.LastIndexByte(t.name, '/'); i > 0 {
			dirs[t.name[:i]] = true
		}
	}
	names := slices.Sorted(maps.Keys(dirs))
	if len(names) > 5 {
		names = append(names[:5], fmt.Sprintf("%d more", len(names)-5))
	}
	return strings.Join(names, ", ")
}
