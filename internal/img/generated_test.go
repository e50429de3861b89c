package img

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGenerated wants Pillow's pixels of small files of every kind, from the
// library (where there is one) and from the decoder in Go.
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
			decoders := map[string]func([]byte) (*Image, error){"Decode": Decode}
			if filepath.Ext(r.File) == ".jpg" {
				decoders["DecodeGo"] = DecodeGo
			}
			for name, decode := range decoders {
				im, err := decode(data)
				if err != nil {
					t.Errorf("%s, %s: %v", r.File, name, err)
					continue
				}
				mode := im.Mode
				if r.Mode == "I;16B" {
					mode += "B" // the same values
				}
				if mode != r.Mode || im.W != r.Width || im.H != r.Height {
					t.Errorf("%s, %s: %s %d x %d, want %s %d x %d", r.File, name, mode, im.W, im.H, r.Mode, r.Width, r.Height)
				}
				if hash(im.RGB().Pix) != r.Decoded {
					t.Errorf("%s, %s: decoded pixels differ", r.File, name)
				}
				if hash(Preprocess{Size: r.Size}.Crop(im).Pix) != r.RGBFirst {
					t.Errorf("%s, %s: crop differs", r.File, name)
				}
				if r.Direct != "" && hash(Preprocess{Size: r.Size, Direct: true}.Crop(im).Pix) != r.Direct {
					t.Errorf("%s, %s: direct crop differs", r.File, name)
				}
			}
		}
	})
}
