package img

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// smallFiles are one file of each format and more, by name.
func smallFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	paths, err := filepath.Glob(fixtures + "/generated/*")
	if err != nil || len(paths) < 100 {
		t.Fatalf("%d generated files, %v", len(paths), err)
	}
	for _, p := range paths {
		if files[filepath.Base(p)], err = os.ReadFile(p); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// checkError wants an input fault of one line.
func checkError(t *testing.T, what string, err error) {
	t.Helper()
	var f *fault.Error
	switch {
	case err == nil:
		t.Errorf("%s: no error", what)
	case !errors.As(err, &f) || f.Status != fault.Input:
		t.Errorf("%s: %v is not an input fault", what, err)
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("%s: %q has several lines", what, err)
	}
}

// TestTruncated cuts every kind of file: an error, as from PIL, or all pixels:
// the last bytes of a file may hold nothing that is needed.
func TestTruncated(t *testing.T) {
	for name, data := range smallFiles(t) {
		if strings.Contains(name, "animated") {
			continue // the first frame may be whole
		}
		for _, n := range []int{0, 1, 8, 20, len(data) / 2, len(data) * 3 / 4} {
			im, err := Decode(data[:n])
			if err == nil {
				if whole, err := Decode(data); err != nil || !bytes.Equal(im.Pix, whole.Pix) {
					t.Errorf("%s, cut to %d of %d bytes: other pixels", name, n, len(data))
				}
				continue
			}
			checkError(t, name, err)
		}
	}
}

// patch is data with b at offset.
func patch(data []byte, offset int, b ...byte) []byte {
	out := bytes.Clone(data)
	copy(out[offset:], b)
	return out
}

// TestHostile wants a refusal of images that are too large, empty or not images.
func TestHostile(t *testing.T) {
	files := smallFiles(t)
	jpeg := files["jpeg_16bit_tables.jpg"]
	sof := bytes.Index(jpeg, []byte{0xFF, 0xC0, 0, 17})
	if sof < 0 {
		sof = bytes.Index(jpeg, []byte{0xFF, 0xC1, 0, 17})
	}
	big := binary.BigEndian.AppendUint32(nil, 100_000)
	webp := files["webp_lossless.webp"]
	for name, data := range map[string][]byte{
		"empty":              {},
		"zeros":              make([]byte, 1000),
		"text":               []byte("<html>404 not found</html>"),
		"JPEG start only":    []byte("\xff\xd8\xff"),
		"JPEG 65535 square":  patch(jpeg, sof+5, 0xFF, 0xFF, 0xFF, 0xFF),
		"JPEG without width": patch(jpeg, sof+7, 0, 0),
		"JPEG, 2 components": patch(jpeg, sof+9, 2),
		"JPEG, 12 bits":      patch(jpeg, sof+4, 12),
		"JPEG, SOF 5":        patch(jpeg, sof+1, 0xC5),
		"JPEG, codes of -2":  slices.Concat(jpeg[:2], []byte{0xFF, mDHT, 0, 0}, jpeg[2:]),
		"JPEG, tables of -1": slices.Concat(jpeg[:2], []byte{0xFF, mDQT, 0, 1}, jpeg[2:]),
		"JPEG, TEM":          slices.Concat(jpeg[:2], []byte{0xFF, mTEM}, jpeg[2:]),
		"JPEG, sampling 0":   patch(jpeg, sof+11, 0),
		"PNG of 10^10":       patch(files["png_2_8.png"], 16, append(big, big...)...),
		"GIF 65535 square":   patch(files["gif_gray.gif"], 6, 0xFF, 0xFF, 0xFF, 0xFF),
		"BMP 2^31 wide":      patch(files["bmp_RGB.bmp"], 18, 0xFF, 0xFF, 0xFF, 0x7F),
		"BMP -2^31 high":     patch(files["bmp_RGB.bmp"], 22, 0, 0, 0, 0x80),
		"BMP, no palette":    patch(files["bmp_palette.bmp"], 46, 0xFF, 0xFF, 0xFF, 0xFF),
		"WebP 16384 square":  patch(webp, 21, 0xFF, 0xFF, 0xFF, 0x0F),
		"WebP, frame off":    patch(files["webp_animated.webp"], bytes.Index(files["webp_animated.webp"], []byte("ANMF"))+8, 0xFF, 0xFF, 0xFF),
		"WebP, size 2^32":    patch(webp, 4, 0xFF, 0xFF, 0xFF, 0xFF),
		"TIFF, directory -1": []byte("II*\x00\xff\xff\xff\xff"),
		"TIFF of 4 bytes":    []byte("MM\x00*"),
	} {
		_, err := Decode(data)
		checkError(t, name, err)
	}
}

// TestWide: a row that does not fit into memory is refused before it is decoded.
func TestWide(t *testing.T) {
	for name, data := range map[string][]byte{
		"PNG":          slices.Concat(smallFiles(t)["png_0_8.png"][:8], pngChunk("IHDR", []byte{10, 0, 0, 0, 0, 0, 0, 1, 8, 0, 0, 0, 0}), pngChunk("IDAT", nil)),
		"TIFF, turned": rawTIFF(binary.LittleEndian, [][]byte{nil}, map[uint16]uint32{tiffWidth: 1, tiffHeight: 10 << 24, tiffBits: 8, tiffPhotometric: 1, tiffOrientation: 6}),
	} {
		_, err := Parse(data)
		if checkError(t, name, err); err != nil && !strings.Contains(err.Error(), "167772160 pixels wide") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamaged changes bytes of every file at random: any result but a panic.
func TestDamaged(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for name, data := range smallFiles(t) {
		for range 40 {
			bad := bytes.Clone(data)
			for range 1 + rng.IntN(4) {
				bad[rng.IntN(len(bad))] = byte(rng.Uint32())
			}
			checkAnswer(t, name, bad)
		}
	}
}

// checkAnswer decodes data, which must end, and crops what comes out.
func checkAnswer(t *testing.T, name string, data []byte) {
	if tooLarge(data) {
		return
	}
	im, err := Decode(data)
	if err != nil {
		checkError(t, name, err)
		if strings.Contains(err.Error(), "image is damaged") {
			t.Errorf("%s: a panic became %q", name, err)
		}
		return
	}
	if n := len(im.RGB().Pix); n != im.W*im.H*3 {
		t.Fatalf("%s: %d x %d has %d bytes", name, im.W, im.H, n)
	}
	for _, direct := range []bool{false, true} {
		Preprocess{Size: 8, Direct: direct}.Crop(im)
	}
}

// tooLarge keeps the tests fast: no JPEG, PNG, WebP, GIF, BMP or TIFF here has
// a good reason for more than 2048 pixels a side.
func tooLarge(data []byte) bool {
	w, h := headerSize(data)
	return w > 2048 || h > 2048
}

// headerSize reads the size of formats that are cheap to look into.
func headerSize(data []byte) (w, h int) {
	switch {
	case len(data) > 24 && data[0] == 0x89:
		return int(binary.BigEndian.Uint32(data[16:])), int(binary.BigEndian.Uint32(data[20:]))
	case len(data) > 10 && data[0] == 'G':
		return int(binary.LittleEndian.Uint16(data[6:])), int(binary.LittleEndian.Uint16(data[8:]))
	case len(data) > 26 && data[0] == 'B':
		return int(int32(binary.LittleEndian.Uint32(data[18:]))), abs(int(int32(binary.LittleEndian.Uint32(data[22:]))))
	case isWebP(data):
		c := chunk{string(data[12:16]), data[min(20, len(data)):]}
		if c.id == "VP8X" && len(c.data) >= 10 {
			return uint24(c.data[4:]) + 1, uint24(c.data[7:]) + 1
		}
		w, h, _, _ = c.size()
	case len(data) > 3 && data[0] == 0xFF:
		d := &jpegDecoder{data: data}
		if _, err := d.readMarkers(); err == nil {
			return d.w, d.h
		}
	}
	return w, h
}

func abs(n int) int { return max(n, -n) }

func FuzzDecode(f *testing.F) {
	for _, data := range smallFiles(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkAnswer(t, "fuzz", data) })
}

// FuzzWebPUpsample checks the bounds of the chroma interpolation.
func FuzzWebPUpsample(f *testing.F) {
	f.Add([]byte{1}, []byte{2})
	f.Add([]byte{1, 200, 3}, []byte{2, 0, 255})
	f.Fuzz(func(t *testing.T, near, far []byte) {
		n := min(len(near), len(far))
		if n == 0 {
			return
		}
		dst := make([]byte, 2*n)
		webpUpsample(dst, near[:n], far[:n])
		lo, hi := byte(255), byte(0)
		for i := range n {
			lo, hi = min(lo, near[i], far[i]), max(hi, near[i], far[i])
		}
		for _, v := range dst {
			if v < lo || v > hi {
				t.Fatalf("%d is outside of %d to %d", v, lo, hi)
			}
		}
	})
}
