package main

import (
	"embed"
	"io/fs"

	"github.com/evatool/evatool/internal/cli"
)

// The demo's data is embedded in the binary, so that it runs from any folder.
//
//go:embed testdata/emoji testdata/formats/01_zip_fp32.pt testdata/models/eva02-b-tiny/config.json
var bundle embed.FS

func init() {
	data, err := fs.Sub(bundle, "testdata")
	if err != nil {
		panic(err) // "testdata" is a valid path
	}
	cli.DemoData = data
}
