package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/trainer"
)

// Pipeline compares a training that reads, decodes and augments pictures with the
// same steps on data already in memory.
type Pipeline struct {
	Model     string  `json:"model"`
	Batch     int     `json:"batch"`
	Pictures  int     `json:"pictures"` // 500 by 375 JPEGs in a tar
	Real      float64 `json:"samples_per_second"`
	Synthetic float64 `json:"synthetic_samples_per_second"`
	Wait      float64 `json:"data_wait_share"` // share of the time, for the median step
}

func (b *bench) pipeline() error {
	if len(b.before.Train) == 0 {
		return fault.Envf("pipeline: needs the first training row, which was not measured")
	}
	ready := b.before.Train[0]
	dir, err := os.MkdirTemp("", "evatool-gpu-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "pictures.tar")
	if err := writePictures(file, b.sizes.pictures); err != nil {
		return err
	}
	c := b.sizes.train[0]
	c.batch = ready.Batch
	r, err := recipe(c)
	if err != nil {
		return err
	}
	r.Data = []trainer.Source{{Source: file, Weight: 1}}
	r.Checkpoint.EverySteps = 0
	r.Steps, r.Samples, r.WarmupSteps = int64(b.sizes.steps)+2, 0, 0
	b.dev.Close() // frees its memory
	res, err := trainer.Run(b.ctx, r, trainer.Options{
		Out: filepath.Join(dir, "run"), Backend: b.opened.Backend, DeviceCount: b.opened.DeviceCount, CompileCache: b.opened.CompileCache, Log: b.log,
	})
	if err != nil {
		return err
	}
	steps := res.Curve[2:]
	slices.SortFunc(steps, func(x, y trainer.Step) int {
		if x.Seconds < y.Seconds {
			return -1
		}
		return 1
	})
	median := steps[len(steps)/2]
	b.report.Pipeline = append(b.report.Pipeline, Pipeline{
		Model: ready.Model, Batch: c.batch, Pictures: b.sizes.pictures,
		Real: float64(c.batch) / median.Seconds, Synthetic: ready.Samples, Wait: median.DataWait / median.Seconds,
	})
	b.save()
	return nil
}

// writePictures makes a WebDataset tar of photo-like JPEGs with captions.
func writePictures(path string, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	rng := rand.New(rand.NewPCG(5, 6))
	var pictures [][]byte
	for range min(n, 64) { // so many different ones, repeated
		var buf bytes.Buffer
		if err := jpeg.Encode(&buf, picture(rng), &jpeg.Options{Quality: 90}); err != nil {
			return err
		}
		pictures = append(pictures, buf.Bytes())
	}
	for i := range n {
		for name, data := range map[string][]byte{
			fmt.Sprintf("%06d.jpg", i): pictures[i%len(pictures)],
			fmt.Sprintf("%06d.txt", i): fmt.Appendf(nil, "picture number %d of a benchmark", i),
		} {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
				return err
			}
			if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
				return err
			}
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

// picture has smooth areas with some noise, so that it compresses like a photo.
func picture(rng *rand.Rand) image.Image {
	m := image.NewRGBA(image.Rect(0, 0, 500, 375))
	a, b, c := rng.Float64()*0.05, rng.Float64()*0.05, rng.IntN(256)
	for y := range 375 {
		for x := range 500 {
			noise := rng.IntN(24)
			m.Set(x, y, color.RGBA{uint8(a*float64(x*y)/20) / 2, uint8(int(b*float64(x*x)/20)/4 + noise), uint8(c/2 + noise), 255})
		}
	}
	return m
}
