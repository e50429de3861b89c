// A program of another module: what importers of convert, eval and trainer write.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/trainer"
)

func main() {
	log.SetFlags(0)
	ctx := context.Background()
	model, config, picture := os.Args[1], os.Args[2], os.Args[3]

	file, err := convert.Inspect(ctx, model, convert.InspectOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(file.Container, len(file.Tensors) > 0)

	m, err := eval.Open(ctx, model, eval.OpenOptions{Config: config, Backend: "go", CompileCache: "off"})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	b, err := os.ReadFile(picture)
	if err != nil {
		log.Fatal(err)
	}
	images, err := m.EncodeImages(ctx, b)
	if err != nil {
		log.Fatal(err)
	}
	texts, err := m.EncodeTexts(ctx, "a photo of an astronaut", "a photo of a cup of coffee")
	if err != nil {
		log.Fatal(err)
	}
	p := m.Probabilities(images, texts)[0]
	fmt.Printf("%d values, probabilities add up to %.3f\n", m.Info().EmbedDim, p[0]+p[1])

	_, err = m.EncodeImages(ctx, b, []byte("no picture"))
	var e eval.Error
	fmt.Println(errors.As(err, &e) && e.Kind() == eval.KindInput)

	r, err := trainer.LoadRecipe("EVA02-CLIP-B-16")
	if err != nil {
		log.Fatal(err)
	}
	plan, err := trainer.DryRun(r, trainer.DryRunOptions{DeviceCount: 8})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.0f M parameters\n", float64(plan.Params)/1e6)
}
