package dataset

import (
	"slices"
	"testing"
)

func TestExpand(t *testing.T) {
	for src, want := range map[string][]string{
		"x.tar":               {"x.tar"},
		"x-{8..11}.tar":       {"x-8.tar", "x-9.tar", "x-10.tar", "x-11.tar"},
		"x-{08..11}.tar":      {"x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"},
		"{a,b}/{0..1}":        {"a/0", "a/1", "b/0", "b/1"},
		"{a,b{1..2}}.tar":     {"a.tar", "b1.tar", "b2.tar"},
		"a.tar::b-{0..1}.tar": {"a.tar", "b-0.tar", "b-1.tar"},
		"s3://b/{007..007}":   {"s3://b/007"},
	} {
		got, err := expand(src)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("expand(%q) = %q, %v; want %q", src, got, err, want)
		}
	}
	for _, src := range []string{"x-{", "x-{1..", "{a..b}", "{3..1}", "{-1..2}", "{0..1048576}", "{0..999}{0..999}{0..999}"} {
		if got, err := expand(src); err == nil {
			t.Errorf("expand(%q) = %d names, want an error", src, len(got))
		}
	}
}

func TestNaturalOrder(t *testing.T) {
	names := []string{"t/10.tar", "t/9.tar", "t/010.tar", "a2", "a10", "a", "t/1x.tar"}
	slices.SortFunc(names, naturalCompare)
	want := []string{"a", "a2", "a10", "t/1x.tar", "t/9.tar", "t/010.tar", "t/10.tar"}
	if !slices.Equal(names, want) {
		t.Errorf("order %q, want %q", names, want)
	}
}
