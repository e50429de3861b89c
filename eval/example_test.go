package eval_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/evatool/evatool/eval"
)

func ExampleOpen() {
	model, remove := tinyModel()
	defer remove()
	ctx := context.Background()
	m, err := eval.Open(ctx, model, eval.OpenOptions{Config: "../testdata/zeroshot/config.json", Backend: "go"})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	jpeg, err := os.ReadFile("../testdata/preprocess/images/astronaut_444.jpg")
	if err != nil {
		log.Fatal(err)
	}
	images, err := m.EncodeImages(ctx, jpeg)
	if err != nil {
		log.Fatal(err)
	}
	texts, err := m.EncodeTexts(ctx, "a photo of a dog", "a photo of a cat")
	if err != nil {
		log.Fatal(err)
	}
	p := m.Probabilities(images, texts)
	fmt.Printf("%d values, probabilities %d by %d, sum %.3f\n", len(images[0]), len(p), len(p[0]), p[0][0]+p[0][1])

	_, err = m.EncodeImages(ctx, jpeg, []byte("no picture"))
	var e eval.Error
	fmt.Println(errors.As(err, &e) && e.Kind() == eval.KindInput)
	// Output:
	// 24 values, probabilities 1 by 2, sum 1.000
	// true
}

func ExampleZeroShot() {
	model, remove := tinyModel()
	defer remove()
	res, err := eval.ZeroShot(context.Background(), eval.Options{
		Model: model, OpenOptions: eval.OpenOptions{Config: "../testdata/zeroshot/config.json", Backend: "go"}, Cache: "off",
		Data: "../testdata/zeroshot/inputs.safetensors", ClassNames: []string{"one", "two", "three", "four", "five", "six", "seven"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.N, "images,", res.Data.Classes, "classes")
	// Output: 20 images, 7 classes
}

// tinyModel unpacks a small model with CLIP's vocabulary.
func tinyModel() (path string, remove func()) {
	packed, err := os.Open("../testdata/zeroshot/model.safetensors.gz")
	if err != nil {
		log.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		log.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "evatool-example-")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		log.Fatal(err)
	}
	return path, func() { os.RemoveAll(dir) }
}
