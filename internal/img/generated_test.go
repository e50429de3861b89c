package img

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGenerated wants Pillow's pixels of small files of every kind.
func TestGenerated(t *testing.T) {
	var records []struct {
		File, Mode, Decoded, Direct string
		Width, Height, Size         int
		RGBFirst                    string `json:"rgb_first"`
	}
	readJSON(t, filepath.Join(fixtures, "generated.json"), &records)
	if len(records) < 100 {
		t.Fatalf("%d files, want at least 100", len(records))
	}
	eachCode(t, func(t *testing.T) {
		for _, r := range records {
			data, err := os.ReadFile(filepath.Join(fixtures, "generated", r.File))
			if err != nil {
				t.Fatal(err)
			}
			im, err := Decode(data)
			if err != nil {
				t.Errorf("%s: %v", r.File, err)
				continue
			}
			mode := im.Mode
			if r.Mode == "I;16B" {
				mode += "B" // the same values
			}
			if mode != r.Mode || im.W != r.Width || im.H != r.Height {
				t.Errorf("%s: %s %d x %d, want %s %d x %d", r.File, mode, im.W, im.H, r.Mode, r.Width, r.Height)
			}
			if hash(im.RGB().Pix) != r.Decoded {
				t.Errorf("%s: decoded pixels differ", r.File)
			}
			if hash(Preprocess{Size: r.Size}.Crop(im).Pix) != r.RGBFirst {
				t.Errorf("%s: crop differs", r.File)
			}
			if p, err := Parse(data); err != nil {
				t.Errorf("%s: %v", r.File, err)
			} else if c, err := p.Crop(Preprocess{Size: r.Size}); err != nil || hash(c.Pix) != r.RGBFirst {
				t.Errorf("%s: crop of the rows as they come differs (%v)", r.File, err)
			}
			if r.Direct != "" && hash(Preprocess{Size: r.Size, Direct: true}.Crop(im).Pix) != r.Direct {
				t.Errorf("%s: direct crop differs", r.File)
			}
		}
	})
}
