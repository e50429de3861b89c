// Half compares the features of full-size towers in half precision with those in
// Float32, on random weights: a compiler's fault in half precision may show at such
// sizes alone.
//
//	go run ./benchmarks/half RN50 EVA02-CLIP-B-16
//
// Without names it takes one model of each kind. With -dtype fp32 -reference go it
// compares XLA's towers with the Go backend's. It ends with status 1 when a
// feature's cosine is under 0.995, or a second computation gives other bits.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/weights"
)

var kinds = []string{
	"RN50", "ViT-B-32", "EVA02-CLIP-B-16", "ViT-B-16-SigLIP", "convnext_base", "ViTamin-S", "MobileCLIP-S1", "MobileCLIP-B", "PE-Core-B-16",
	"coca_ViT-B-32", "roberta-ViT-B-32", "nllb-clip-base",
}

const rows = 4

func main() {
	dtype := flag.String("dtype", "bf16", "bf16, fp16 or fp32")
	backend := flag.String("backend", "xla", "the backend")
	reference := flag.String("reference", "", "the backend of float32; that of -backend by default")
	flag.Parse()
	names := flag.Args()
	if len(names) == 0 {
		names = kinds
	}
	fmt.Println("| tower | least cosine | largest relative error | |\n|---|---|---|---|")
	status := 0
	for _, name := range names {
		ok, err := compare(context.Background(), name, *dtype, *backend, cmp.Or(*reference, *backend))
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		}
		if !ok {
			status = 1
		}
	}
	os.Exit(status)
}

// compare prints a row for each tower of a model.
func compare(ctx context.Context, name, dtype, backend, reference string) (ok bool, err error) {
	cfg, known := arch.Named(name)
	if !known {
		return false, fmt.Errorf("unknown model")
	}
	var features [3][2][]float32 // in float32, in half precision, and that again
	for i, by := range [][2]string{{reference, "fp32"}, {backend, dtype}, {backend, dtype}} {
		if features[i], err = encode(ctx, cfg, by[0], by[1]); err != nil {
			return false, err
		}
	}
	ok = true
	for t, tower := range []string{"image", "text"} {
		cosine, off := distance(features[0][t], features[1][t])
		verdict := ""
		switch {
		case !(cosine >= 0.995):
			verdict = "wrong"
		case !slices.Equal(features[1][t], features[2][t]):
			verdict = "other bits the second time"
		}
		ok = ok && verdict == ""
		fmt.Printf("| %s %s | %.5f | %.2g | %s |\n", name, tower, cosine, off, verdict)
	}
	return ok, nil
}

// encode gives the features of both towers for the same made-up input.
func encode(ctx context.Context, cfg *arch.Config, backend, dtype string) (features [2][]float32, err error) {
	d, err := device.Open(ctx, device.Options{Backend: backend, CompileCache: "off", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return features, err
	}
	defer d.Close()
	set, err := weights.Load(ctx, d, cfg, checkpoint.RandomSource(cfg, 1), dtype)
	if err != nil {
		return features, err
	}
	defer set.Free()
	run, err := clip.NewRunner(d, set, clip.RunnerOptions{DType: dtype, Images: rows, Texts: rows})
	if err != nil {
		return features, err
	}
	pixels := make([]float32, rows*3*cfg.Vision.ImageSize*cfg.Vision.ImageSize)
	for i := range pixels {
		pixels[i] = float32(math.Sin(float64(i)*0.37) + 0.5*math.Sin(float64(i)*0.001))
	}
	context := cfg.Text.ContextLength
	tokens := make([]int32, rows*context)
	for i := range rows {
		row := tokens[i*context : (i+1)*context]
		n := min(9+3*i, context)
		for k := range n {
			row[k] = int32((1000 + 7*i + 13*k) % (cfg.Text.VocabSize - 2))
		}
		row[0], row[n-1] = int32(cfg.Text.VocabSize-2), int32(cfg.Text.VocabSize-1)
	}
	if features[0], err = run.Images(ctx, pixels, rows); err == nil {
		features[1], err = run.Texts(ctx, tokens, rows)
	}
	return features, err
}

// distance is the least cosine and the largest relative error of b's rows.
func distance(a, b []float32) (cosine, off float64) {
	cosine = 1
	dim := len(a) / rows
	for i := range rows {
		var ab, aa, bb, apart float64
		for k := i * dim; k < (i+1)*dim; k++ {
			x, y := float64(a[k]), float64(b[k])
			ab, aa, bb, apart = ab+x*y, aa+x*x, bb+y*y, apart+(x-y)*(x-y)
		}
		cosine, off = min(cosine, ab/math.Sqrt(aa*bb)), max(off, math.Sqrt(apart/aa))
	}
	return cosine, off
}
