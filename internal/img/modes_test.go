package img

import (
	"path/filepath"
	"testing"
)

// TestSquares wants the bytes that OpenCLIP's transforms and transformers'
// processors make: every mode, filter, rounding and border.
func TestSquares(t *testing.T) {
	var cases []struct {
		Seed         uint64
		W, H, Size   int
		Mode, Filter string
		Fill         byte
		Resize       [2]int
		Floor        bool
		SHA256       string // the first 16 digits
	}
	readJSON(t, filepath.Join(fixtures, "modes.json"), &cases)
	if len(cases) != 300 {
		t.Fatalf("%d cases, want 300", len(cases))
	}
	eachCode(t, func(t *testing.T) {
		for _, c := range cases {
			p := Preprocess{Size: c.Size, Filter: Filters[c.Filter], Mode: Modes[c.Mode], Resize: c.Resize, Floor: c.Floor, Fill: c.Fill}
			pix := pseudoRandom(c.Seed, c.W*c.H*3)
			for _, direct := range []bool{false, true} {
				p.Direct = direct
				got := p.Crop(&Image{Mode: "RGB", W: c.W, H: c.H, Pix: pix})
				if got.W != c.Size || got.H != c.Size || hash(got.Pix)[:16] != c.SHA256 {
					t.Errorf("%+v, direct %v differs", c, direct)
				}
			}
		}
	})
}
