package img

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/image/bmp"
)

// TestRows wants the same from a picture whose rows come in bands as from the
// whole one: all pixels, any crop, any number of rows at a time.
func TestRows(t *testing.T) {
	eachCode(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		for name, data := range smallFiles(t) {
			p, err := Parse(data)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			im, err := p.Image()
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			whole, next := im.RGB(), 0
			err = p.Rows(func(y int, b *RGB) {
				if y != next || !bytes.Equal(b.Pix, whole.Pix[y*p.W*3:][:b.H*p.W*3]) {
					t.Errorf("%s: rows from %d on differ", name, y)
				}
				next += b.H
			})
			if err != nil || next != p.H {
				t.Errorf("%s: %d of %d rows, %v", name, next, p.H, err)
			}
			w, h := 1+rng.IntN(p.W), 1+rng.IntN(p.H)
			box := Box{rng.IntN(p.W - w + 1), rng.IntN(p.H - h + 1), w, h}
			if c, err := p.RandomResizedCrop(box, 9); err != nil || !bytes.Equal(c.Pix, RandomResizedCrop(whole, box, 9).Pix) {
				t.Errorf("%s: crop %v differs, %v", name, box, err)
			}
			all := [4]float64{0, 0, float64(p.W), float64(p.H)}
			if c, err := p.Crop(Preprocess{Size: 7, Filter: Bilinear, Mode: Squash}); err != nil || !bytes.Equal(c.Pix, Resize(whole, Bilinear, all, 7, 7).Pix) {
				t.Errorf("%s: resize to a square differs, %v", name, err)
			}
		}
	})
}

// TestBands cuts one picture into bands of random heights.
func TestBands(t *testing.T) {
	eachCode(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		for i := range 60 {
			src := &RGB{1 + rng.IntN(90), 1 + rng.IntN(2000), nil}
			if i%12 == 0 { // more rows than are kept
				src.W, src.H = 600+rng.IntN(200), 600+rng.IntN(200)
			}
			src.Pix = pseudoRandom(rng.Uint64(), src.W*src.H*3)
			pre := Preprocess{Size: 1 + rng.IntN(60), Filter: Filter(rng.IntN(2))}
			want := pre.Crop(&Image{Mode: "RGB", W: src.W, H: src.H, Pix: src.Pix})
			c := pre.Cropper(src.W, src.H)
			for y := 0; y < src.H; {
				n := min(1+rng.IntN(40), src.H-y)
				c.Add(y, &RGB{src.W, n, bytes.Clone(src.Pix[y*src.W*3:][:n*src.W*3])})
				y += n
			}
			if !bytes.Equal(c.Done().Pix, want.Pix) {
				t.Errorf("%d x %d to %d differs", src.W, src.H, pre.Size)
			}
		}
	})
}

// largePictures are of 2 million pixels, by kind, and what a decoder may hold of
// them, in bytes to a pixel.
func largePictures(t *testing.T) map[string]struct {
	data []byte
	held float64
} {
	t.Helper()
	const n = 1500
	rgb, grey := image.NewRGBA(image.Rect(0, 0, n, n)), image.NewGray(image.Rect(0, 0, n, n))
	pal := image.NewPaletted(rgb.Rect, color.Palette{color.Black, color.White})
	wide := image.NewNRGBA64(rgb.Rect)
	for i := range rgb.Pix {
		rgb.Pix[i] = byte(i/3001 | 3)
	}
	type encode func(b *bytes.Buffer) error
	out := map[string]struct {
		data []byte
		held float64
	}{}
	for name, e := range map[string]encode{
		"JPEG":        func(b *bytes.Buffer) error { return jpeg.Encode(b, rgb, nil) },
		"PNG":         func(b *bytes.Buffer) error { return png.Encode(b, rgb) },
		"PNG, 16 bit": func(b *bytes.Buffer) error { return png.Encode(b, wide) },
		"GIF":         func(b *bytes.Buffer) error { return gif.Encode(b, pal, nil) },
		"BMP":         func(b *bytes.Buffer) error { return bmp.Encode(b, grey) },
	} {
		var b bytes.Buffer
		if err := e(&b); err != nil {
			t.Fatal(err)
		}
		out[name] = struct {
			data []byte
			held float64
		}{b.Bytes(), 0}
	}
	tags := func(o, bits uint32) map[uint16]uint32 {
		return map[uint16]uint32{tiffWidth: n, tiffHeight: n, tiffBits: bits, tiffPhotometric: 1, tiffOrientation: o}
	}
	plain := make([]byte, 2*n*n)
	for name, c := range map[string]struct {
		data []byte
		held float64
	}{
		"PPM":                 {append([]byte("P5 1500 1500 255 "), plain...), 0},
		"TIFF":                {rawTIFF(binary.LittleEndian, [][]byte{plain}, tags(1, 16)), 0},
		"TIFF, mirrored":      {rawTIFF(binary.LittleEndian, [][]byte{plain}, tags(2, 16)), 0},
		"TIFF, turned":        {rawTIFF(binary.LittleEndian, [][]byte{plain}, tags(6, 8)), 1},
		"TIFF, 16 bit turned": {rawTIFF(binary.LittleEndian, [][]byte{plain}, tags(6, 16)), 2},
	} {
		out[name] = c
	}
	progressive, err := os.ReadFile(fixtures + "/generated/jpeg_1_scans.jpg")
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(progressive, []byte{0xFF, mSOF2})
	big := patch(progressive, at+5, n>>8, n&255, n>>8, n&255)
	out["JPEG, progressive"] = struct {
		data []byte
		held float64
	}{big, 6.2}
	interlaced, err := os.ReadFile(fixtures + "/generated/png_2_8_interlaced.png")
	if err != nil {
		t.Fatal(err)
	}
	head := pngChunk("IHDR", append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, n), n), 8, 2, 0, 0, 1))
	var idat bytes.Buffer
	writeZeros(&idat, n*n*3+n*4)
	out["PNG, interlaced"] = struct {
		data []byte
		held float64
	}{append(append(bytes.Clone(interlaced[:8]), head...), append(pngChunk("IDAT", idat.Bytes()), pngChunk("IEND", nil)...)...), 1.51}
	return out
}

// TestMemory: a crop of a large picture allocates a few of its rows, and holds
// of it what its kind cannot do without.
func TestMemory(t *testing.T) {
	for name, c := range largePictures(t) {
		p, err := Parse(c.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		pre := Preprocess{Size: 64}
		if _, err := p.Crop(pre); err != nil { // what pools keep is there now
			t.Errorf("%s: %v", name, err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := p.Crop(pre); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if got := float64(after.TotalAlloc - before.TotalAlloc); got > 2e6 {
			t.Errorf("%s: %.1f MB allocated for a crop", name, got/1e6)
		}
		if got := float64(p.cost) / float64(p.W*p.H); got > c.held {
			t.Errorf("%s: holds %.1f bytes to a pixel, want %.1f", name, got, c.held)
		}
	}
}

// TestBudget: pictures together stay within the budget, a larger one runs alone.
func TestBudget(t *testing.T) {
	b := NewBudget(100)
	var held, peak, alone atomic.Int64
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			n := int64(1 + i*7%60)
			if i%10 == 9 {
				n = 1000
			}
			give := b.take(n)
			defer give()
			now := held.Add(n)
			if n == 1000 && now != 1000 {
				alone.Add(1)
			}
			if now < 1000 {
				peak.Store(max(peak.Load(), now))
			}
			time.Sleep(time.Millisecond)
			held.Add(-n)
		})
	}
	wg.Wait()
	if peak.Load() > 100 || alone.Load() > 0 || held.Load() != 0 {
		t.Errorf("%d of 100 held, %d times a large one was not alone", peak.Load(), alone.Load())
	}
}

// TestBudgetOfPictures: while a picture is decoded that fills the budget, another
// one waits.
func TestBudgetOfPictures(t *testing.T) {
	data := smallFiles(t)["png_2_8_interlaced.png"]
	open := func(b *Budget) *Picture {
		p, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		p.Budget = b
		return p
	}
	b := NewBudget(open(nil).cost)
	var first atomic.Bool
	second := make(chan bool)
	p := open(b)
	err := p.Rows(func(y int, rows *RGB) {
		if y == 0 {
			go func() {
				_, err := open(b).RGB()
				second <- first.Load() && err == nil
			}()
			time.Sleep(20 * time.Millisecond)
		}
		first.Store(y+rows.H == p.H)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !<-second {
		t.Error("two pictures were decoded at a time")
	}
}
