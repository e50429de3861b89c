// Package eval opens CLIP models for Go programs, and turns a model and
// labelled images into a number that can be trusted.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//		"os"
//
//		"github.com/evatool/evatool/eval"
//	)
//
//	func main() {
//		ctx := context.Background()
//		m, err := eval.Open(ctx, "b16.safetensors", eval.OpenOptions{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer m.Close()
//		jpeg, err := os.ReadFile("dog.jpg")
//		if err != nil {
//			log.Fatal(err)
//		}
//		images, err := m.EncodeImages(ctx, jpeg)
//		if err != nil {
//			log.Fatal(err)
//		}
//		texts, err := m.EncodeTexts(ctx, "a photo of a dog", "a photo of a cat")
//		if err != nil {
//			log.Fatal(err)
//		}
//		fmt.Println(m.Probabilities(images, texts)[0])
//	}
//
// ZeroShot scores a model on labelled images: integer counts, an interval, the
// rows behind it, and what the authors of the model published. Retrieval scores
// it on captions, Embed writes features to a file.
package eval

import (
	"cmp"
	"context"
	"os"
	"runtime"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/img"
	"github.com/evatool/evatool/internal/runlog"
)

// Encoder turns pixels and tokens into features: what ZeroShotWith scores.
// Images and Texts return n rows of embed_dim columns, not normalised. They
// are called from one goroutine at a time.
type Encoder interface {
	// Images takes n images [n,3,S,S], already normalised; n is at most
	// Options.Batch.
	Images(ctx context.Context, flat []float32, n int) ([]float32, error)
	// Texts takes n rows [n,context] of token ids; n is at most Options.Batch.
	Texts(ctx context.Context, tokens []int32, n int) ([]float32, error)
	// Config is the architecture as JSON, in OpenCLIP's schema. It says the
	// image size, how images are prepared, the context length and embed_dim.
	Config() []byte
}

// Meter is a progress display.
type Meter interface {
	Add(n int64)
	Done()
}

// Meters starts a progress display of total units, such as images.
type Meters func(label string, total int64, unit string) Meter

// Options say what is scored, with which words, on which images.
type Options struct {
	// Benchmark is "folder" or a name that List knows. Empty is "folder".
	Benchmark string
	// Data is an image folder, the ILSVRC validation tar or folder, WebDataset
	// tars, a CSV, TSV or Parquet file, or a .safetensors with images and labels.
	Data string
	// ClassNames and Templates override what the benchmark has built in;
	// "{c}" or "{}" in a template stands for the class name.
	ClassNames, Templates []string
	// Prompts are whole prompts by class name, instead of templates.
	Prompts map[string][]string
	// ClassNamesFile and TemplatesFile are files to read these from: one a line, as
	// the functions ClassNames and Templates read them, or *.json: a list, lists by
	// set as in CLIP_benchmark, or prompts by class (Pratt et al. 2023, CuPL).
	ClassNamesFile, TemplatesFile string
	// Language is that of ImageNet's names and templates: "" or en, ar, cn, it, jp.
	Language string
	// Classifiers are files of class matrices that SaveClassifier wrote, used
	// instead of prompts: their mean, as in CLIP_benchmark.
	Classifiers []string
	// DataWords takes class names and templates from classnames.txt and
	// zeroshot_classification_templates.txt beside the data, where they exist,
	// instead of the built-in ones, as CLIP_benchmark and DataComp do.
	DataWords bool
	// Folders are the words that folders and labels of the data have for the
	// classes in ClassNames, in the same order; nil: the class names themselves.
	Folders []string

	// Model is a checkpoint that convert reads, or a name (as for Open), opened as
	// OpenOptions say. Of them ZeroShotWith reads Batch, Workers, DType and Log.
	Model string
	OpenOptions
	// Opened is a model that is already open, instead of all these; it stays open.
	Opened *Model
	// ModelID names the weights of ZeroShotWith's encoder, such as a hash.
	ModelID string

	// Limit scores only N images: the first of every class, then the second, and so
	// on, where the data gives its labels beforehand (folders, lists, ILSVRC).
	// Otherwise, and always with Spread, they are taken at equal distances over the
	// whole set; of ready tensors the first N are taken.
	Limit  int
	Spread bool
	// Shard and Shards choose part i of n; Shards 0 is everything.
	Shard, Shards int
	// MaxBad is how many images may fail to decode before the run fails.
	MaxBad int

	// Out is the folder of result.json, rows.csv and report.html; without it
	// nothing is written.
	Out string
	// Fresh starts again even when Out holds a part of the same run.
	Fresh bool
	// Force replaces another evaluation that Out holds, of another model, other
	// data or settings; without it such a folder is an error.
	Force bool
	// Cache is the folder of the classifier cache; "" is the user's cache
	// folder, "off" none.
	Cache string
	// Expect is "0.747±0.004" or "0.747+-0.004": a top-1 (or the benchmark's
	// metric) outside it is an error of KindCheck, returned with the result.
	Expect         string
	Predictions    string // CSV file with every image's prediction
	SaveClassifier string // safetensors file with the class matrix
	NoDiagnosis    bool

	Meter Meters // nil: none
}

// check finds what is wrong with the options before anything is opened.
func (o Options) check() error {
	if _, err := promptsFor(o); err != nil {
		return err
	}
	if o.Expect != "" {
		if _, err := parseExpect(o.Expect); err != nil {
			return err
		}
	}
	if err := cmp.Or(checkCounts(o.Batch, o.Workers, o.Limit, o.MaxBad), checkPart(o.Shard, o.Shards)); err != nil {
		return err
	}
	if st, err := os.Stat(o.Out); o.Out != "" && err == nil && !st.IsDir() {
		return fault.Envf("%s: is a file; Options.Out must be a folder", o.Out)
	}
	inputs := append(append(dataset.Local(o.Data), o.Model, o.Config), o.Classifiers...)
	files := []string{o.Predictions, o.SaveClassifier}
	for _, file := range files {
		if file != "" {
			if err := atomicfile.Target(file); err != nil {
				return err
			}
		}
	}
	if err := atomicfile.Apart(files, inputs); err != nil {
		return err
	}
	if o.Out != "" {
		if err := atomicfile.Folder(o.Out, []string{resultFile, rowsFile, reportFile, journalFile}, append(files, inputs...)); err != nil {
			return err
		}
	}
	return checkModel(o.Opened, o.Model, o.OpenOptions)
}

func checkCounts(batch, workers, limit, maxBad int) error {
	for _, n := range []struct {
		field string
		v     int
	}{{"Options.Batch", batch}, {"Options.Workers", workers}, {"Options.Limit", limit}, {"Options.MaxBad", maxBad}} {
		if n.v < 0 {
			return fault.Usagef("%s %d: want 0 or more", n.field, n.v)
		}
	}
	return nil
}

// checkPart refuses a part that is not one of the shards.
func checkPart(shard, shards int) error {
	if n := max(1, shards); shards < 0 || shard < 0 || shard >= n {
		return fault.Usagef("Options.Shard %d of %d: want the number of one of the parts, from 0, or 0 of 0 for everything", shard, shards)
	}
	return nil
}

// defaultBatch is as fast as larger ones on XLA's CPU backend, with less padding.
const defaultBatch = 8

// on fills in what the options leave to the opened model.
func (o Options) on(m *Model) Options {
	o.Batch, o.Workers, o.DType = cmp.Or(o.Batch, m.o.Batch), cmp.Or(o.Workers, m.o.Workers), m.o.DType
	return o
}

func (o Options) defaults() Options {
	o.Batch, o.Workers = cmp.Or(o.Batch, defaultBatch), cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	o.Shards, o.DType = cmp.Or(o.Shards, 1), cmp.Or(o.DType, "fp32")
	if o.Log == nil {
		o.Log = runlog.Discard()
	}
	if o.Meter == nil {
		o.Meter = noMeters
	}
	return o
}

func noMeters(string, int64, string) Meter { return noMeter{} }

type noMeter struct{}

func (noMeter) Add(int64) {}
func (noMeter) Done()     {}

// SetDecodeMemory bounds the memory, in bytes, of all pictures that this process
// decodes at a time, here and in package trainer: one that does not fit waits,
// one that is larger than the bound is decoded alone. The default is 1 GiB.
func SetDecodeMemory(bytes int64) { img.SetMemory(bytes) }

// Error is what errors.As finds in every error of this package:
//
//	var e eval.Error
//	if errors.As(err, &e) && e.Kind() == eval.KindInput { … }
type Error interface {
	error
	Kind() string
}

// The kinds of errors. One of KindInterrupted also is the error of its context,
// for errors.Is.
const (
	KindUsage       = "usage"       // an option, or a call that makes no sense
	KindInput       = "input"       // a file, a dataset, a picture
	KindEnvironment = "environment" // no such backend, no space, no permission
	KindCheck       = "check"       // a check that was asked for failed (Expect)
	KindInterrupted = "interrupted" // by the context
)
