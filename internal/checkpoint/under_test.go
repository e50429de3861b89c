package checkpoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

// renamed opens a fixture under other names.
func renamed(t *testing.T, file string, name func(string) string, more ...string) *Input {
	t.Helper()
	in, err := Open([]string{formats + file}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	u := &under{Source: in.Source, from: map[string]string{}}
	for _, x := range in.Source.Tensors() {
		old := x.Name
		x.Name = name(old)
		u.from[x.Name] = old
		u.tensors = append(u.tensors, x)
	}
	for _, n := range more {
		u.tensors = append(u.tensors, tensorfile.Info{Name: n, DType: tensorfile.F32, Shape: []int64{2}})
	}
	in.Source = u
	return in
}

// outNames returns the names that a plan gives.
func outNames(p *Plan) []string {
	var names []string
	for _, it := range p.Items {
		names = append(names, it.Out.Name)
	}
	return names
}

func planned(t *testing.T, in *Input, o PlanOptions) (*Plan, error) {
	t.Helper()
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	return in.Plan(o)
}

// A model beside other tensors is found by a filter or a prefix; without either, the
// error names the prefix.
func TestModelBesideOthers(t *testing.T) {
	const file = "01_zip_fp32.pt"
	plain, err := planned(t, renamed(t, file, func(n string) string { return n }), PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := outNames(plain)
	before := func(prefix string) func(string) string { return func(n string) string { return prefix + n } }
	for _, c := range []struct {
		name   string
		rename func(string) string
		more   []string
		prefix string
		o      PlanOptions
	}{
		{"head, prefix", before("clipmodel."), []string{"ff_head.weight", "ff_head.bias"}, "clipmodel.", PlanOptions{}},
		{"head, prefix without its dot", before("clipmodel."), []string{"ff_head.weight"}, "clipmodel", PlanOptions{}},
		{"head, exclude", before("clipmodel."), []string{"ff_head.weight", "ff_head.bias"}, "", PlanOptions{Exclude: []string{"ff_head.*"}}},
		{"head, include", before("clipmodel."), []string{"ff_head.weight", "ff_head.bias"}, "", PlanOptions{Include: []string{"clipmodel.*"}}},
		{"include beside the model's names", before(""), []string{"ff_head.weight"}, "", PlanOptions{Include: want}},
		{"averaged", before("module."), []string{"n_averaged"}, "", PlanOptions{}},
		{"averaged and compiled", before("module._orig_mod.net."), []string{"n_averaged"}, "", PlanOptions{}},
		{"compiled tower", func(n string) string { return strings.Replace(n, "visual.", "visual._orig_mod.", 1) }, nil, "", PlanOptions{}},
		{"checkpointed blocks", func(n string) string {
			return strings.Replace(n, "attn.", "_checkpoint_wrapped_module.attn.", 1)
		}, nil, "", PlanOptions{}},
		{"FSDP at two places", func(n string) string {
			return "_fsdp_wrapped_module." + strings.Replace(n, "mlp.", "mlp._fsdp_wrapped_module.", 1)
		}, nil, "", PlanOptions{}},
		{"Lightning and DeepSpeed", before("_forward_module.model."), nil, "", PlanOptions{}},
		{"a wrapped prefix", before("_orig_mod.student."), []string{"_orig_mod.teacher.x"}, "student", PlanOptions{}},
	} {
		in := renamed(t, file, c.rename, c.more...)
		if err := in.Under(c.prefix); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		p, err := planned(t, in, c.o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := outNames(p); !slices.Equal(got, want) {
			t.Errorf("%s: %d tensors, want %d", c.name, len(got), len(want))
		}
		if p.Name != plain.Name {
			t.Errorf("%s: architecture %q, want %q", c.name, p.Name, plain.Name)
		}
		left := map[string]bool{}
		for _, d := range p.Dropped {
			left[d.Name] = true
		}
		for _, m := range c.more {
			if !left[m] {
				t.Errorf("%s: %s is not among the dropped", c.name, slices.Sorted(maps.Keys(left)))
			}
		}
	}

	// Without a prefix, the error lists the choices and the command to run.
	in := renamed(t, file, before("clipmodel."), "ff_head.weight")
	if _, err := planned(t, in, PlanOptions{}); err == nil || !strings.Contains(err.Error(), "convert FILE --prefix clipmodel. -o") {
		t.Errorf("no command in %v", err)
	}
	both := renamed(t, file, before("model."))
	u := both.Source.(*under)
	for _, x := range slices.Clone(u.tensors) {
		x.Name = "teacher." + strings.TrimPrefix(x.Name, "model.")
		u.tensors = append(u.tensors, x)
	}
	if _, err := planned(t, both, PlanOptions{}); err == nil || !strings.Contains(err.Error(), "model. and teacher.") {
		t.Errorf("two models: %v", err)
	}
	if err := both.Under("nothing."); err == nil || !strings.Contains(err.Error(), "model. and teacher.") {
		t.Errorf("a prefix of nothing: %v", err)
	}
}

func TestMissingShards(t *testing.T) {
	name := func(i, n int) string { return fmt.Sprintf("dir/m-%05d-of-%05d.safetensors", i, n) }
	for _, c := range []struct {
		files []string
		want  string
	}{
		{[]string{name(1, 3), name(3, 3)}, "shard 2 of 3 of dir/m is missing"},
		{[]string{name(2, 2)}, "shard 1 of 2 of dir/m is missing"},
		{[]string{name(1, 4)}, "shard 2 of 4 of dir/m, shard 3 of 4 of dir/m, shard 4 of 4 of dir/m are missing"},
		{[]string{name(2, 2), name(1, 2)}, ""},
		{[]string{"dir/model.safetensors"}, ""},
		{[]string{name(1, 2), "other.safetensors"}, ""},
	} {
		if got := missingShards(c.files); got != c.want {
			t.Errorf("%v: %q, want %q", c.files, got, c.want)
		}
	}
	if _, err := planned(t, &Input{missing: "shard 2 of 3 is missing"}, PlanOptions{}); err == nil || !strings.Contains(err.Error(), "shard 2 of 3 is missing; give all") {
		t.Error(err)
	}
}
