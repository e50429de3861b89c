package trainer

import (
	"slices"
	"testing"
)

// TestValues: every field has its own place, in both directions, and a list that a
// layout names several times continues where it stopped.
func TestValues(t *testing.T) {
	var l layout
	var list []int
	for f := range numFields {
		n := 1
		if c := new(values[int]).cells()[f]; (c.one == nil) == (c.list == nil) {
			t.Fatalf("field %d is not one or a list", f)
		} else if c.list != nil {
			n = 3
		}
		l = append(l, entry{f, n})
		for range n {
			list = append(list, len(list))
		}
	}
	l = append(l, entry{fieldKeeps, 1}, entry{fieldPaths, 2}, entry{fieldKeeps, 1})
	list = append(list, 100, 101, 102, 103)
	v := named(l, list)
	if got := flat(l, v); !slices.Equal(got, list) {
		t.Errorf("there and back: %v, want %v", got, list)
	}
	if n := len(v.keeps); n != 5 || v.keeps[4] != 103 || v.paths[4] != 102 {
		t.Errorf("lists in pieces: %v and %v", v.keeps, v.paths)
	}
	in, out := layout{{fieldImages, 1}, {fieldSums, 2}, {fieldRNG, 1}}, layout{{fieldRNG, 1}, {fieldSums, 2}}
	if got := reuse(in, out, fieldSums, fieldRNG); len(got) != 3 || got[1] != 1 || got[2] != 2 || got[3] != 0 {
		t.Errorf("reuse %v", got)
	}
}
