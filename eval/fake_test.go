package eval

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/evatool/evatool/internal/arch"
)

// fake is an encoder without a model: an image's feature comes from its mean
// colour, a text's from its tokens. Both are functions of the row alone.
type fake struct {
	cfg    *arch.Config
	images atomic.Int64 // rows encoded
	after  func(rows int64) error
}

func newFake() *fake {
	return &fake{cfg: &arch.Config{
		EmbedDim: 8,
		Vision:   arch.Vision{ImageSize: 8, Layers: arch.Layers{1}, Width: 8, HeadWidth: 8, PatchSize: 8, MLPRatio: 1},
		Text:     arch.Text{ContextLength: 16, VocabSize: 49408, Width: 8, Heads: 1, Layers: 1, MLPRatio: 4},
	}}
}

func (f *fake) Config() *arch.Config { return f.cfg }

// public shows an encoder as ZeroShotWith takes it.
type public struct{ encoder }

func (p public) Config() []byte { return p.encoder.Config().JSON() }

func (f *fake) Images(_ context.Context, flat []float32, n int) ([]float32, error) {
	plane := f.cfg.Vision.ImageSize * f.cfg.Vision.ImageSize
	out := make([]float32, n*f.cfg.EmbedDim)
	for i := range n {
		for c := range 3 {
			sum := float32(0)
			for _, v := range flat[(3*i+c)*plane : (3*i+c+1)*plane] {
				sum += v
			}
			out[i*8+c] = sum / float32(plane)
			out[i*8+c+3] = sum * sum / float32(plane*plane)
		}
		out[i*8+7] = 1
	}
	rows := f.images.Add(int64(n))
	if f.after != nil {
		return out, f.after(rows)
	}
	return out, nil
}

func (f *fake) Texts(_ context.Context, tokens []int32, n int) ([]float32, error) {
	width := f.cfg.Text.ContextLength
	out := make([]float32, n*f.cfg.EmbedDim)
	for i := range n {
		h := fnv.New64a()
		fmt.Fprint(h, tokens[i*width:(i+1)*width])
		rng := rand.New(rand.NewPCG(h.Sum64(), 1))
		for k := range f.cfg.EmbedDim {
			out[i*f.cfg.EmbedDim+k] = float32(rng.NormFloat64())
		}
	}
	return out, nil
}

var fakeClasses = []string{"ant", "bee", "cat", "dog", "elk", "fox", "gnu"}

// pictureFolder writes n random pictures of classes that have folders.
func pictureFolder(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		class := fakeClasses[i%len(fakeClasses)]
		writePicture(t, filepath.Join(dir, class, fmt.Sprintf("%03d.png", i)), rng)
	}
	return dir
}

func writePicture(t *testing.T, path string, rng *rand.Rand) {
	t.Helper()
	writeFilled(t, path, color.RGBA{uint8(rng.IntN(256)), uint8(rng.IntN(256)), uint8(rng.IntN(256)), 255})
}

func writeFilled(t *testing.T, path string, fill color.RGBA) {
	t.Helper()
	im := image.NewRGBA(image.Rect(0, 0, 9, 12))
	for y := range 12 {
		for x := range 9 {
			im.SetRGBA(x, y, fill)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, im); err != nil {
		t.Fatal(err)
	}
	write(t, path, b.Bytes())
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
