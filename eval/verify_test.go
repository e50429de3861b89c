package eval

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

func TestVerify(t *testing.T) {
	e := readExpected(t)
	o := fixtureOptions(t, e)
	o.Backend, o.Out = "go", t.TempDir()
	if _, err := ZeroShot(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	check := VerifyOptions{Dir: o.Out, Options: o}
	check.Out = ""
	v, err := Verify(t.Context(), check)
	if err != nil || v.Sample != 20 || v.Differs != 0 || v.AtMost != 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	if check.Sample = 10; true {
		if v, err = Verify(t.Context(), check); err != nil || v.Sample != 10 || v.AtMost <= 0 || v.AtMost > 0.3 {
			t.Errorf("%+v, %v", v, err)
		}
	}
	// Rows whose counts still follow, but which the model does not give.
	path := filepath.Join(o.Out, rowsFile)
	rows, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(rows), "\n")
	cells := strings.Split(lines[1], ",")
	cells[8] = "99"
	lines[1] = strings.Join(cells, ",")
	write(t, path, []byte(strings.Join(lines, "\n")))
	check.Sample = 0
	if v, err = Verify(t.Context(), check); fault.Code(err) != int(fault.CheckFailed) || v == nil || v.Differs != 1 || v.AtMost != 0.05 {
		t.Errorf("a forged row: %+v, %v", v, err)
	}
	// Counts that do not follow.
	write(t, path, rows)
	result := filepath.Join(o.Out, resultFile)
	b, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	var res Result
	if err := json.Unmarshal(b, &res); err != nil {
		t.Fatal(err)
	}
	res.Correct1++
	if b, err = json.Marshal(res); err != nil {
		t.Fatal(err)
	}
	write(t, result, b)
	if _, err := Verify(t.Context(), check); fault.Code(err) != int(fault.Input) {
		t.Errorf("a forged count: %v", err)
	}
}

// Of 1000 rows, a clean sample of 100 leaves 28 that may differ: with 29 the
// chance of a clean one is C(971,100)/C(1000,100), below 5 %.
func TestAtMost(t *testing.T) {
	clean := func(bad int) float64 {
		p := 1.0
		for i := range 100 {
			p *= float64(1000-bad-i) / float64(1000-i)
		}
		return p
	}
	bad := int(math.Round(1000 * atMost(1000, 100, 0, 0.05)))
	if clean(bad) < 0.05 || clean(bad+1) >= 0.05 {
		t.Errorf("%d: chances %v and %v", bad, clean(bad), clean(bad+1))
	}
	if got := atMost(20, 20, 3, 0.05); got != 0.15 {
		t.Errorf("all rows: %v", got)
	}
}
