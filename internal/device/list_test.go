package device

import "testing"

// TestList: every backend is measured, and one is chosen with a reason.
func TestList(t *testing.T) {
	list, chosen, err := List(t.Context(), Options{CompileCache: "off"})
	if err != nil {
		t.Fatal(err)
	}
	if chosen < 0 || list[chosen].Error != "" || list[chosen].Why == "" {
		t.Errorf("chosen %d of %+v", chosen, list)
	}
	if last := list[len(list)-1]; last.Kind != KindGo || last.GFLOPS <= 0 || last.SIMD != SIMD() {
		t.Errorf("the Go backend: %+v", last)
	}
	for _, l := range list {
		t.Logf("%+v", l)
		if l.Error == "" && l.GFLOPS <= 0 {
			t.Errorf("%s was not measured", l.Backend)
		}
	}
}
