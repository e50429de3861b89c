package img

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

const fixtures = "../../testdata/preprocess"

type fixture struct {
	File       string
	Mode       string `json:"pil_mode"`
	W          int    `json:"width"`
	H          int    `json:"height"`
	DecodedSHA string `json:"decoded_rgb_sha256"`
	Results    map[string]struct {
		Direct   result
		RGBFirst result `json:"rgb_first"`
	}
}

type result struct {
	Crop   string `json:"uint8_sha256"`
	Tensor string `json:"float_sha256"`
}

func hash(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func hashFloats(f []float32) string {
	b := make([]byte, 0, 4*len(f))
	for _, v := range f {
		u := math.Float32bits(v)
		b = append(b, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
	}
	return hash(b)
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// TestFixtures wants every pixel and every float equal: tolerance 0.
func TestFixtures(t *testing.T) {
	var index struct {
		Mean, Std [3]float32
		Images    []fixture
	}
	readJSON(t, filepath.Join(fixtures, "index.json"), &index)
	if len(index.Images) < 13 {
		t.Fatalf("%d images in the index, want at least 13", len(index.Images))
	}
	for _, f := range index.Images {
		t.Run(filepath.Base(f.File), func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(fixtures, "images", filepath.Base(f.File)))
			if err != nil {
				t.Fatal(err)
			}
			im, err := Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if im.Mode != f.Mode || im.W != f.W || im.H != f.H {
				t.Errorf("%s %d x %d, want %s %d x %d", im.Mode, im.W, im.H, f.Mode, f.W, f.H)
			}
			if hash(im.RGB().Pix) != f.DecodedSHA {
				t.Error("decoded pixels differ")
			}
			for _, size := range []int{224, 336} {
				results := f.Results[fmt.Sprint(size)]
				for direct, want := range map[bool]result{true: results.Direct, false: results.RGBFirst} {
					p := Preprocess{Size: size, Mean: index.Mean, Std: index.Std, Direct: direct}
					crop := p.Crop(im)
					if hash(crop.Pix) != want.Crop {
						t.Errorf("size %d, direct %v: crop differs", size, direct)
					}
					x := make([]float32, 3*size*size)
					ToCHW(x, crop, p.Mean, p.Std)
					if hashFloats(x) != want.Tensor {
						t.Errorf("size %d, direct %v: tensor differs", size, direct)
					}
				}
			}
		})
	}
}
