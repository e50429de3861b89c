package img

import (
	"bytes"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// fuzzPixels keeps an input's turn short.
const fuzzPixels = 1 << 20

// fuzzFormat feeds a reader with files of its format, damaged: an answer or an
// input fault of one line, no panic, and no more memory than the file and its
// pixels are worth.
func fuzzFormat(f *testing.F, format, ext string) {
	for name, data := range smallFiles(f) {
		if filepath.Ext(name) == ext {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := Parse(data)
		pixels, edge, held := 0, 0, int64(0)
		switch {
		case err != nil:
			checkError(t, format, err)
		case p.Format != format || p.W*p.H > fuzzPixels:
			return
		default:
			pixels, edge, held = p.W*p.H, p.W+p.H, p.cost // JPEG's blocks lie over the edge
			c, err := p.Crop(Preprocess{Size: 8})
			if err != nil {
				checkError(t, format, err)
				if strings.Contains(err.Error(), "image is damaged: ") {
					t.Errorf("a panic became %q", err)
				}
			} else if im, err := p.Image(); err != nil || !bytes.Equal(c.Pix, Preprocess{Size: 8}.Crop(im).Pix) {
				t.Errorf("the crop of the whole picture differs (%v)", err)
			}
		}
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+32*len(data)+32*pixels); got > most {
			t.Errorf("%d bytes allocated for %d in the file and %d pixels, more than %d", got, len(data), pixels, most)
		}
		if most := int64(16*pixels + 1024*edge); held > most+1<<20 {
			t.Errorf("%d bytes held of %d pixels", held, pixels)
		}
	})
}

func FuzzJPEG(f *testing.F) { fuzzFormat(f, "JPEG", ".jpg") }

func FuzzPNG(f *testing.F) { fuzzFormat(f, "PNG", ".png") }

func FuzzWebP(f *testing.F) { fuzzFormat(f, "WEBP", ".webp") }

func FuzzGIF(f *testing.F) {
	for _, name := range []string{"outside", "bits_0", "bits_12", "local_grey", "extensions", "interlaced"} {
		f.Add(gifSeed(f, name))
	}
	fuzzFormat(f, "GIF", ".gif")
}

func FuzzBMP(f *testing.F) { fuzzFormat(f, "BMP", ".bmp") }

func FuzzTIFF(f *testing.F) { fuzzFormat(f, "TIFF", ".tif") }

func FuzzPNM(f *testing.F) {
	for _, s := range []string{"P6\n2 1\n255\n\x01\x02\x03\xfd\xfe\xff", "P5 # a comment 9\n1#x\n 2 255\n\x07\x08", "P5 1 1 1000 \x00\x7b", "P6 1 1 65535 \x00\x80\x00\x81\xff\xff"} {
		f.Add([]byte(s))
	}
	fuzzFormat(f, "PPM", ".ppm")
}
