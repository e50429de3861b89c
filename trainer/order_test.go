package trainer

import (
	"slices"
	"testing"
)

// TestOrder: every pass over a source gives each example once, shares are
// exact, and the order at a position does not depend on how it was reached.
func TestOrder(t *testing.T) {
	sizes := []int64{50, 700, 3}
	weights := []float64{1.6, 0.39, 0.01}
	o, err := newOrder(7, sizes, weights)
	if err != nil {
		t.Fatal(err)
	}
	const n = 3 * mixBlock
	type pick struct {
		s int
		e int64
	}
	var all []pick
	count := make([]int64, 3)
	seen := make([]map[int64]int, 3)
	for pos := range int64(n) {
		s, e := o.at(pos)
		all = append(all, pick{s, e})
		if seen[s] == nil || count[s]%sizes[s] == 0 {
			seen[s] = map[int64]int{}
		}
		count[s]++
		if seen[s][e]++; seen[s][e] > 1 || e < 0 || e >= sizes[s] {
			t.Fatalf("position %d: example %d of source %d twice in one pass, or outside", pos, e, s)
		}
	}
	for s, w := range weights {
		if want := w / 2 * n; float64(count[s]) < want-1 || float64(count[s]) > want+1 {
			t.Errorf("source %d gave %d of %d samples, want %.1f", s, count[s], n, want)
		}
	}
	again, _ := newOrder(7, sizes, weights)
	for _, pos := range []int64{n - 1, 0, mixBlock, mixBlock - 1, 5000} {
		if s, e := again.at(pos); all[pos] != (pick{s, e}) {
			t.Errorf("position %d: %d/%d, want %v", pos, s, e, all[pos])
		}
	}
	counted := make([]int64, 3)
	for pos, p := range all {
		if pos%997 == 0 {
			if got := o.given(int64(pos)); !slices.Equal(got, counted) {
				t.Errorf("the first %d samples: %v, want %v", pos, got, counted)
			}
		}
		counted[p.s]++
	}
	other, _ := newOrder(8, sizes, weights)
	same := 0
	for pos := range int64(1000) {
		if s, e := other.at(pos); all[pos] == (pick{s, e}) {
			same++
		}
	}
	if same > 500 {
		t.Errorf("another seed gives %d of 1000 same picks", same)
	}
	if _, err := newOrder(1, sizes, []float64{1, 1, 1e-5}); err == nil {
		t.Error("a share of next to nothing is no error")
	}
}
