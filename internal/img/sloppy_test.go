package img

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pngChunk is a chunk whose checksum is right.
func pngChunk(kind string, body []byte) []byte {
	out := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), kind...)
	out = append(out, body...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[4:]))
}

// TestSloppyPNG: PIL is strict before the image data only.
func TestSloppyPNG(t *testing.T) {
	const head = 8 + 25 // signature and IHDR
	files := smallFiles(t)
	rgb := files["png_2_8.png"]
	want, err := Decode(rgb)
	if err != nil {
		t.Fatal(err)
	}
	end := len(rgb) - 12
	text := pngChunk("tEXt", []byte("a\x00b"))
	badText := patch(text, len(text)-1, text[len(text)-1]^1)
	for name, data := range map[string][]byte{
		"checksum of the pixels":   patch(rgb, end-1, rgb[end-1]^1),
		"no end":                   rgb[:end],
		"damage behind the pixels": slices.Concat(rgb[:end], badText),
		"cut palette, not needed":  slices.Concat(rgb[:head], pngChunk("PLTE", []byte{1, 2}), rgb[head:]),
		"text":                     slices.Concat(rgb[:head], text, rgb[head:]),
	} {
		if got, err := Decode(data); err != nil || !bytes.Equal(got.Pix, want.Pix) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = Decode(slices.Concat(rgb[:head], badText, rgb[head:]))
	checkError(t, "damaged text before the pixels", err)

	palette := files["png_3_4.png"]
	at := bytes.Index(palette, []byte("PLTE")) - 4
	n := 12 + int(binary.BigEndian.Uint32(palette[at:]))
	im, err := Decode(slices.Concat(palette[:at], palette[at+n:]))
	if err != nil || im.Mode != "P" || im.Palette[3*7] != 7 {
		t.Errorf("no palette: %v; want a grey ramp", err)
	}
}

// TestUnpaddedBMP: PIL does not need the padding of the last row.
func TestUnpaddedBMP(t *testing.T) {
	for name, padding := range map[string]int{"bmp_1.bmp": 3, "bmp_RGB.bmp": 1} {
		data := smallFiles(t)[name]
		want, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		whole := len(data) - padding
		if got, err := Decode(data[:whole]); err != nil || !bytes.Equal(got.Pix, want.Pix) {
			t.Errorf("%s without its last %d bytes: %v", name, padding, err)
		}
		_, err = Decode(data[:whole-1])
		checkError(t, name+", a byte too short", err)
	}
}

// TestFax: black and white as Pillow writes it, in group 4 codes.
func TestFax(t *testing.T) {
	data, err := hex.DecodeString("49492a001200000026bc4c715309800800800900000103000100000010000000010103000100000004000000020103000100000001" +
		"00000003010300010000000400000006010300010000000100000011010400010000000800000016010300010000000400000017010400010000000a0000001c010300010000000100000000000000")
	if err != nil {
		t.Fatal(err)
	}
	im, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 64)
	for _, p := range []int{0, 1, 16 + 5, 16 + 6, 32 + 15, 48 + 3} {
		want[p] = 255
	}
	if im.Mode != "1" || im.W != 16 || !bytes.Equal(im.Pix, want) {
		t.Errorf("%s %v", im.Mode, im.Pix)
	}
}

// TestRareJPEG: a whole file of a kind that is not read is not called damaged.
func TestRareJPEG(t *testing.T) {
	data := smallFiles(t)["jpeg_gray_0.jpg"]
	at := bytes.Index(data, []byte{0xFF, mSOF0})
	for want, bad := range map[string][]byte{
		"arithmetic coding is not supported": patch(data, at+1, 0xC9),
		"lossless coding is not supported":   patch(data, at+1, 0xC3),
		"12-bit samples are not supported":   patch(data, at+4, 12),
	} {
		_, err := Decode(bad)
		checkError(t, want, err)
		if err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "fetch")) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestCutSegment ends a picture in a segment that the file does not have all of.
// PIL accepts it with the pixels that are there, unless libjpeg has seen that the
// segment is wrong.
func TestCutSegment(t *testing.T) {
	data := smallFiles(t)["jpeg_02_2x2.jpg"]
	pixels := bytes.Index(data, []byte{0xFF, mSOS}) + 114
	for _, c := range []struct {
		segment string
		wrong   bool
	}{
		{"ffda", false}, {"ffda7fff", false}, {"ffda000c03", false}, {"ffda000cff", true}, {"ffda7fff03", true}, {"ffda000c03ff00", true},
		{"ffdd", false}, {"ffdd0004", false}, {"ffdd7fff", true},
		{"ffc47fff", false}, {"ffc47fff00", false}, {"ffc4001501" + strings.Repeat("ff", 16), true},
		{"ffdb7fff", false}, {"ffdb7fff04", true},
		{"ffc07fff0800100010", false}, {"ffc07fff080010001003", true},
		{"ffe07fff", false}, {"fffe7fff", false},
	} {
		segment, err := hex.DecodeString(c.segment)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Decode(slices.Concat(data[:pixels], segment)); c.wrong {
			checkError(t, c.segment, err)
		} else if err != nil {
			t.Errorf("%s: %v", c.segment, err)
		}
	}
}

// writeZeros writes n zeros as zlib has them.
func writeZeros(b *bytes.Buffer, n int) {
	w := zlib.NewWriter(b)
	w.Write(make([]byte, n)) // to memory
	w.Close()
}

// TestSmoothing drops scans of progressive files, whole or in part; libjpeg
// then guesses what is missing.
func TestSmoothing(t *testing.T) {
	var cases []struct {
		File, SHA256 string
		Bytes        int
	}
	readJSON(t, filepath.Join(fixtures, "smoothing.json"), &cases)
	if len(cases) < 40 {
		t.Errorf("%d files, want at least 40", len(cases))
	}
	for _, c := range cases {
		data, err := os.ReadFile(filepath.Join(fixtures, c.File))
		if err != nil {
			t.Fatal(err)
		}
		im, err := Decode(append(data[:c.Bytes], 0xFF, mEOI))
		if err != nil || hash(im.RGB().Pix) != c.SHA256 {
			t.Errorf("%s, the first %d bytes: the pixels differ (%v)", c.File, c.Bytes, err)
		}
	}
}
