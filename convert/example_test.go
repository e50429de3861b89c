package convert_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/evatool/evatool/convert"
)

func ExampleRun() {
	dir, err := os.MkdirTemp("", "evatool-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	r, err := convert.Run(context.Background(), convert.Options{
		Sources: []string{"../testdata/formats/01_zip_fp32.pt"},
		Config:  "../testdata/models/eva02-b-tiny/config.json",
		Output:  filepath.Join(dir, "model.safetensors"),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Container, r.Family, r.TensorsOut, r.Verified)
	// Output: torch-zip eva-clip 101 true
}
