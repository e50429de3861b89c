// Package dataset reads labelled and captioned images: folders, tar files,
// tables, from the local disk or from S3-compatible storage.
package dataset

import (
	"context"

	"github.com/evatool/evatool/internal/fault"
)

// Example is one image with what is known about it.
type Example struct {
	Index    int      // position in the dataset
	Key      string   // stable name inside the dataset, such as n01440764/x.JPEG
	Image    []byte   // the encoded image file
	Path     string   // where the image lies, for messages
	Label    int      // class index, -1 when there is none
	Captions []string // zero or more
}

// Dataset is a list of images, indexed when it is opened.
type Dataset interface {
	Len() int
	// Classes are the class names of the labels, nil when there are none. For
	// folders they are the folder names.
	Classes() []string
	// Fingerprint is a hash over the names and sizes of the data: it changes
	// when the list of examples does.
	Fingerprint() string
	// Read reads example i. It may be called from many goroutines.
	Read(i int) (Example, error)
	Close() error
	// Describe says in a few words what was found, such as "12 tars".
	Describe() string
}

// Kind is a dataset layout.
type Kind string

// The layouts that Open reads.
const (
	Auto        Kind = "auto"
	ImageFolder Kind = "imagefolder"
	ILSVRC      Kind = "ilsvrc"
	WebDataset  Kind = "webdataset"
	CSV         Kind = "csv"
	Parquet     Kind = "parquet"
)

// Options say how to read a source.
type Options struct {
	Kind          Kind   // empty: Auto
	ImageColumn   string // csv, parquet: empty means the usual names
	CaptionColumn string
	LabelColumn   string
	// ClassNames are the names or folder names (wnids) of the classes in label
	// order, when the caller knows them; labels follow this order then.
	ClassNames []string
	// Captions asks for captions: a source without them is an error.
	Captions bool
}

// Open indexes src.
func Open(ctx context.Context, src string, o Options) (Dataset, error) {
	return nil, fault.Inputf("%s: no dataset layout recognised", src)
}
