// Forward compares the speed of the image and text towers with PyTorch's.
//
//	go run ./benchmarks/forward --python /path/of/python
//
// The Python needs torch and open_clip; without one only evatool is measured.
// Ours and theirs take turns on the same machine; the table has medians.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
)

func main() {
	var w work
	flag.StringVar(&w.model, "model", "EVA02-CLIP-B-16", "")
	flag.StringVar(&w.tower, "tower", "image", "")
	flag.StringVar(&w.dtype, "dtype", "fp32", "")
	flag.IntVar(&w.batch, "batch", 8, "")
	flag.IntVar(&w.tokens, "tokens", 77, "")
	flag.StringVar(&w.backend, "backend", "xla", "")
	flag.IntVar(&w.threads, "threads", 0, "")
	flag.Parse()
	if err := w.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
