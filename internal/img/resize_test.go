package img

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// pseudoRandom is the pixels function of testdata/preprocess/make_resize.py.
func pseudoRandom(seed uint64, n int) []byte {
	state, value, out := seed, byte(128), make([]byte, n)
	for i := range out {
		state = state*6364136223846793005 + 1442695040888963407
		if seed&1 != 0 {
			value += byte(state>>59) - 15
			out[i] = value
		} else {
			out[i] = byte(state >> 56)
		}
	}
	return out
}

// eachCode runs a test with the vector code, if it is here, and without.
func eachCode(t *testing.T, run func(t *testing.T)) {
	before := haveAVX2
	defer func() { haveAVX2 = before }()
	t.Run("vector", run)
	haveAVX2 = false
	t.Run("plain", run)
}

// TestResize wants the bytes of Pillow's resize, 0 different of 300 cases, and of
// the 200 that are no crops 0 different with its bilinear filter too.
func TestResize(t *testing.T) {
	var cases []struct {
		Seed         uint64
		W, H, OW, OH int
		Box          [4]float64
		Crop         bool
		SHA256       string
		Bilinear     string // the first eight digits
	}
	readJSON(t, filepath.Join(fixtures, "resize.json"), &cases)
	if len(cases) != 300 {
		t.Fatalf("%d cases, want 300", len(cases))
	}
	eachCode(t, func(t *testing.T) {
		for _, c := range cases {
			src := &RGB{c.W, c.H, pseudoRandom(c.Seed, c.W*c.H*3)}
			var got *RGB
			if c.Crop {
				x, y := int(c.Box[0]), int(c.Box[1])
				got = RandomResizedCrop(src, Box{x, y, int(c.Box[2]) - x, int(c.Box[3]) - y}, c.OW)
			} else {
				got = Resize(src, Bicubic, c.Box, c.OW, c.OH)
			}
			if hash(got.Pix) != c.SHA256 {
				t.Errorf("seed %d: %d x %d, box %v to %d x %d differs", c.Seed, c.W, c.H, c.Box, c.OW, c.OH)
			}
			if c.Crop {
				continue
			}
			if got := Resize(src, Bilinear, c.Box, c.OW, c.OH); hash(got.Pix)[:8] != c.Bilinear {
				t.Errorf("seed %d, bilinear: %d x %d, box %v to %d x %d differs", c.Seed, c.W, c.H, c.Box, c.OW, c.OH)
			}
		}
	})
}

// TestWindow wants a window of a resize to be that part of the whole resize.
func TestWindow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	part := func(n int) span {
		lo := rng.IntN(n)
		return span{lo, lo + 1 + rng.IntN(n-lo)}
	}
	for range 200 {
		w, h, ow, oh, c := 1+rng.IntN(99), 1+rng.IntN(99), 1+rng.IntN(99), 1+rng.IntN(99), 1+rng.IntN(4)
		src := raster{pseudoRandom(rng.Uint64(), w*h*c), w, h, c, w * c}
		by := Filter(rng.IntN(2))
		all := resize(by, src, whole(w, h), ow, oh, span{0, ow}, span{0, oh})
		xs, ys := part(ow), part(oh)
		got := resize(by, src, whole(w, h), ow, oh, xs, ys)
		n := (xs.hi - xs.lo) * c
		for y := ys.lo; y < ys.hi; y++ {
			if !bytes.Equal(got[(y-ys.lo)*n:(y-ys.lo+1)*n], all[(y*ow+xs.lo)*c:][:n]) {
				t.Fatalf("%d x %d x %d to %d x %d: window %v %v differs in row %d", w, h, c, ow, oh, xs, ys, y)
			}
		}
	}
}

// TestSampleBox checks the properties of torchvision's sampler: inside the
// image, area and aspect in range up to rounding, every position reached, and
// the fallback for images that no box fits.
func TestSampleBox(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	scale, ratio := [2]float64{0.9, 1}, [2]float64{3. / 4, 4. / 3}
	const w, h, n = 500, 375, 20000
	var sumArea, sumX, free float64
	for range n {
		b := SampleBox(rng, w, h, scale, ratio)
		area := float64(b.W*b.H) / (w * h)
		if b.X < 0 || b.Y < 0 || b.X+b.W > w || b.Y+b.H > h || area < 0.897 || area > 1 {
			t.Fatalf("box %v covers %.3f of %d x %d", b, area, w, h)
		}
		sumArea += area
		if b.W < w {
			sumX += float64(b.X) / float64(w-b.W)
			free++
		}
	}
	if m := sumArea / n; m < 0.93 || m > 0.96 {
		t.Errorf("mean area %.3f, want about 0.945", m)
	}
	if m := sumX / free; m < 0.45 || m > 0.55 {
		t.Errorf("mean position %.3f, want about a half", m)
	}
	for _, c := range []struct {
		w, h int
		want Box
	}{
		{1000, 100, Box{(1000 - 133) / 2, 0, 133, 100}},
		{100, 1000, Box{0, (1000 - 133) / 2, 100, 133}},
		{1, 1, Box{0, 0, 1, 1}},
	} {
		if got := SampleBox(rng, c.w, c.h, scale, ratio); got != c.want {
			t.Errorf("%d x %d: %v, want %v", c.w, c.h, got, c.want)
		}
	}
}

func TestFlipH(t *testing.T) {
	for w := 1; w < 5; w++ {
		c := &RGB{w, 2, pseudoRandom(2, w*6)}
		before := bytes.Clone(c.Pix)
		c.FlipH()
		for y := range 2 {
			for x := range w {
				if !bytes.Equal(c.Pix[(y*w+x)*3:][:3], before[(y*w+w-1-x)*3:][:3]) {
					t.Errorf("width %d: pixel %d, %d is wrong", w, x, y)
				}
			}
		}
	}
}
