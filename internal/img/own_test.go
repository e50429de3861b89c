package img

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"image"
	"image/gif"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
)

// TestOwnReaders names, for each of our readers of GIF, BMP and TIFF, what the
// libraries' readers lack, with a file that needs it. Where one of them gives
// the same pixels now, ours may have become needless.
func TestOwnReaders(t *testing.T) {
	files := smallFiles(t)
	outside := gifSeed(t, "outside")
	for what, c := range map[string]struct {
		file    []byte
		library func(io.Reader) (image.Image, error)
	}{
		"GIF, the screen around the frame":     {files["gif_transparent.gif"], gif.Decode},
		"GIF, a frame outside the screen":      {outside, gif.Decode},
		"GIF, codes of more than 8 bits":       {gifSeed(t, "bits_11"), gif.Decode},
		"GIF, codes of no bits":                {gifSeed(t, "bits_0"), gif.Decode},
		"BMP, masks of 5, 6 and 5 bits":        {files["bmp_565.bmp"], bmp.Decode},
		"BMP, 16 bits":                         {files["bmp_555.bmp"], bmp.Decode},
		"BMP, run-length coding":               {files["bmp_rle8.bmp"], bmp.Decode},
		"TIFF, a quarter turn":                 {files["tiff_RGBA.tif"], tiff.Decode},
		"TIFF, turned upside down or mirrored": {files["tiff_L_packbits.tif"], tiff.Decode},
		"TIFF, planes": {rawTIFF(binary.BigEndian, [][]byte{{1}, {2}, {3}},
			map[uint16]uint32{tiffWidth: 1, tiffHeight: 1, tiffBits: 8, tiffPhotometric: 2, tiffSamples: 3, tiffPlanar: 2}), tiff.Decode},
		"TIFF, bits in the other order": {rawTIFF(binary.LittleEndian, [][]byte{{1, 2, 3}},
			map[uint16]uint32{tiffWidth: 1, tiffHeight: 1, tiffBits: 8, tiffPhotometric: 2, tiffSamples: 3, tiffFillOrder: 2}), tiff.Decode},
		"TIFF, CMYK": {rawTIFF(binary.LittleEndian, [][]byte{{1, 2, 3, 4}},
			map[uint16]uint32{tiffWidth: 1, tiffHeight: 1, tiffBits: 8, tiffPhotometric: 5, tiffSamples: 4}), tiff.Decode},
	} {
		p, err := Parse(c.file)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		want, err := p.RGB()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if im, err := c.library(bytes.NewReader(c.file)); err == nil && bytes.Equal(libraryRGB(im), want.Pix) {
			t.Errorf("%s: the library reads it, too", what)
		}
	}
}

// libraryRGB is a picture of the standard library's kinds as RGB.
func libraryRGB(im image.Image) []byte {
	b := im.Bounds()
	var out []byte
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, bl, _ := im.At(x, y).RGBA()
			out = append(out, byte(r>>8), byte(g>>8), byte(bl>>8))
		}
	}
	return out
}

// gifSeed is an undamaged file of broken_gif.txt.
func gifSeed(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, "broken_gif.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\nseed "+name+" ")
	line, _, _ := strings.Cut(rest, "\n")
	data, err := hex.DecodeString(line)
	if err != nil || !ok {
		t.Fatalf("no seed %s: %v", name, err)
	}
	return data
}
