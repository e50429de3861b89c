package checkpoint

import (
	"io"
	"os"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Under keeps the tensors whose names begin with prefix, a run of whole words, and
// strips it: the state dict is then what a program holds under that name. Wrapper
// words may be given or left out. An empty prefix changes nothing.
func (in *Input) Under(prefix string) error {
	if prefix == "" {
		return nil
	}
	if !strings.HasSuffix(prefix, ".") {
		prefix += "."
	}
	bare := unwrapped(prefix)
	u := &under{Source: in.Source, from: map[string]string{}}
	for _, t := range in.Source.Tensors() {
		rest, ok := strings.CutPrefix(t.Name, prefix)
		if !ok && bare != "" {
			rest, ok = strings.CutPrefix(unwrapped(t.Name), bare)
		}
		if !ok {
			u.left = append(u.left, t)
			continue
		}
		if other, twice := u.from[rest]; twice {
			return fault.Inputf("%s and %s would both be named %s without Options.Prefix %s", other, t.Name, rest, prefix)
		}
		u.from[rest] = t.Name
		t.Name = rest
		u.tensors = append(u.tensors, t)
	}
	if len(u.tensors) == 0 {
		return fault.Usagef("Options.Prefix %s: no tensor's name begins with it; the first is %s%s", prefix, sample(u.left[:min(1, len(u.left))]), choices(u.left))
	}
	in.Source, in.Prefix = u, in.Prefix+prefix
	for _, t := range u.left {
		in.outside = append(in.outside, Dropped{t.Name, "not under the prefix " + prefix})
	}
	return nil
}

// under is part of a source, under shorter names.
type under struct {
	tensorfile.Source
	tensors, left []tensorfile.Info
	from          map[string]string // name in the source
}

func (u *under) Tensors() []tensorfile.Info { return u.tensors }

func (u *under) Open(name string) (io.ReadCloser, error) { return u.Source.Open(u.source(name)) }

func (u *under) Extent(name string) (*os.File, int64, bool) { return u.Source.Extent(u.source(name)) }

func (u *under) source(name string) string {
	if s, ok := u.from[name]; ok {
		return s
	}
	return name // the source reports that it has none
}

// choices says what the prefix could be; empty if nothing in the file looks like a
// model.
func choices(tensors []tensorfile.Info) string {
	list := inside(tensors)
	switch len(list) {
	case 0:
		return ""
	case 1:
		return "; there is one under " + list[0] + ": evatool convert FILE --prefix " + list[0] + " -o OUT.safetensors takes it alone"
	}
	return "; there is one under each of " + strings.Join(list, " and ") + ": evatool convert FILE --prefix " + list[0] + " -o OUT.safetensors takes the first"
}

// narrowed returns the inventory without the tensors that the options leave out,
// and those; nil if they leave out none or all.
func (inv *inventory) narrowed(o *PlanOptions) (*inventory, []Dropped) {
	var out []Dropped
	n := *inv
	n.tensors = slices.DeleteFunc(slices.Clone(inv.tensors), func(t tensorfile.Info) bool {
		switch {
		case matchAny(o.Exclude, t.Name):
			out = append(out, Dropped{t.Name, "excluded"})
		case len(o.Include) > 0 && !matchAny(o.Include, t.Name):
			out = append(out, Dropped{t.Name, "not included"})
		default:
			return false
		}
		return true
	})
	if len(out) == 0 || len(n.tensors) == 0 {
		return nil, nil
	}
	return &n, out
}
