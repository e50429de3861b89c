// Package dataset reads labelled and captioned images: folders, tar files,
// tables, from the local disk or from S3-compatible storage.
package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/fault"
)

// Example is one image with what is known about it.
type Example struct {
	Index    int      // position in the dataset
	Key      string   // stable name inside the dataset, such as n01440764/x.JPEG
	Image    []byte   // the encoded image file
	Path     string   // where the image lies, for messages
	Label    int      // class index, -1 when there is none
	Captions []string // zero or more, none of them empty
	Meta     []int    // the sample's .npy, with Options.Metadata; nil: it has none
	// Hint says why there may be no label or no caption.
	Hint string
}

// Dataset is a list of images, indexed when it is opened.
type Dataset interface {
	Len() int
	// Classes are the class names of the labels, nil when there are none. For
	// folders they are the folder names, or Options.ClassNames when given.
	Classes() []string
	// Fingerprint is a hash over the names, sizes, labels and captions that the
	// index knows: it changes when the list of examples does.
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
	COCO        Kind = "coco"
)

// Options say how to read a source. The zero value reads anything.
type Options struct {
	Kind          Kind   // empty: Auto
	ImageColumn   string // csv, parquet: empty means the usual names
	CaptionColumn string // csv, parquet, and the key in a tar's .json
	LabelColumn   string // likewise
	// ClassNames are the names or folder names (wnids) of the classes in label
	// order, when the caller knows them. Labels then follow this order; a folder
	// or label outside it is an error.
	ClassNames []string
	// Also are further lists of names of the same classes, such as synonyms. A
	// class may be called by any of them; an entry may be empty, or several words
	// with ", " between.
	Also [][]string
	// SkipOthers leaves out folders and rows of tables that are not in ClassNames
	// instead of refusing them, for data with more classes than the benchmark has.
	SkipOthers bool
	// CaptionLines makes each line of a tar's .txt a caption (retrieval sets).
	CaptionLines bool
	// GroupCaptions joins the rows of a table that name the same image.
	GroupCaptions bool
	// Unlabelled ignores labels in tars and class names beside them, so that they
	// can neither make a sample bad nor change the set's fingerprint.
	Unlabelled bool
	// Metadata reads the .npy members of tars into Example.Meta.
	Metadata bool
	// Without lists, by number, the tars of a stream that count as empty, whatever
	// is in them.
	Without []int
	// Skip is told of a tar of a stream whose samples cannot be counted and which
	// then counts as empty; nil: such a tar is an error.
	Skip func(tar int, name string, err error)
	// CountHeaders counts the samples of any number of tars by their headers where
	// nothing else says how many there are. On another machine's storage that reads
	// through all of them; without it, more than remoteWalk tars there are
	// ErrUncounted.
	CountHeaders bool
	// Log gets warnings about what the data says; nil: silent.
	Log *slog.Logger
}

// opener reads one layout.
type opener func(ctx context.Context, st storage, src source, o Options) (Dataset, error)

// source is a dataset argument, taken apart.
type source struct {
	names []string // files, or one folder
	dir   bool
	files []file // of the folder
}

var openers = map[Kind]opener{
	ImageFolder: func(ctx context.Context, st storage, src source, o Options) (Dataset, error) {
		if !src.dir {
			return openTars(ctx, st, src.names, o)
		}
		return newFolders(ctx, st, src.names[0], src.files, o)
	},
	ILSVRC: func(ctx context.Context, st storage, src source, o Options) (Dataset, error) {
		if !src.dir {
			return openTars(ctx, st, src.names, o)
		}
		return openILSVRC(ctx, st, src.names[0], src.files, o)
	},
	WebDataset: func(ctx context.Context, st storage, src source, o Options) (Dataset, error) {
		names, err := src.withExt("tar")
		if err != nil {
			return nil, err
		}
		return openTars(ctx, st, names, o)
	},
	CSV: func(ctx context.Context, st storage, src source, o Options) (Dataset, error) {
		names, err := src.withExt("csv", "tsv")
		if err != nil {
			return nil, err
		}
		return openCSV(ctx, st, names, o)
	},
	Parquet: func(ctx context.Context, st storage, src source, o Options) (Dataset, error) {
		names, err := src.withExt("parquet")
		if err != nil {
			return nil, err
		}
		return openParquet(ctx, st, names, o)
	},
	COCO: func(ctx context.Context, st storage, src source, o Options) (Dataset, error) {
		if src.dir {
			return nil, fault.Inputf("%s: is a directory; give COCO's captions file, such as annotations/captions_val2017.json", fault.Name(src.names[0]))
		}
		return openCOCO(ctx, st, src.names)
	},
}

// Open indexes src: a folder, a file, or a list of files such as
// x-{000..012}.tar, train-*.tar or a.tar::b.tar, local, s3://bucket/…,
// gs://bucket/… or https://….
// ctx also bounds later reads.
func Open(ctx context.Context, src string, o Options) (Dataset, error) {
	st, names, err := resolve(ctx, src)
	if err != nil {
		return nil, err
	}
	s, err := look(ctx, st, names, o)
	if err != nil {
		return nil, err
	}
	kind := o.Kind
	if kind == "" || kind == Auto {
		if kind, err = guess(s); err != nil {
			return nil, err
		}
	}
	open, ok := openers[kind]
	if !ok {
		return nil, fault.Usagef("dataset kind %q: want auto, imagefolder, ilsvrc, webdataset, csv, parquet or coco", kind)
	}
	return open(ctx, st, s, o)
}

// resolve finds the storage of a source and writes out its lists and patterns.
func resolve(ctx context.Context, src string) (storage, []string, error) {
	if src == "" {
		return nil, nil, fault.Usagef("no dataset given; want a folder, tars, a table, s3://bucket/path, gs://bucket/path or https://host/path")
	}
	if err := refusePipe(src); err != nil {
		return nil, nil, err
	}
	st, err := storageFor(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	names := []string{src}
	if !strings.Contains(src, "{") || !present(ctx, st, src) {
		if names, err = expand(src); err != nil {
			return nil, nil, err
		}
	}
	for _, name := range names {
		if schemeOf(name) != schemeOf(names[0]) {
			return nil, nil, fault.Usagef("%s: %s and %s lie in different storage systems; give each as a source of its own", fault.Name(src), fault.Name(names[0]), fault.Name(name))
		}
		if err := refusePipe(name); err != nil {
			return nil, nil, err
		}
	}
	names, err = globbed(ctx, st, names)
	return st, names, err
}

// refusePipe refuses WebDataset's commands: what a command writes can be read
// neither in pieces nor twice. Most only copy a file, which can be read
// directly.
func refusePipe(src string) error {
	command, ok := strings.CutPrefix(src, "pipe:")
	if !ok {
		return nil
	}
	instead := "give the files themselves: a path, s3://, gs:// or https://"
	for _, word := range strings.Fields(command) {
		word = strings.Trim(word, `'"`)
		if schemeOf(word) != "" || strings.HasPrefix(word, "/") && isTar(word) {
			instead = "give " + fault.Name(word) + " itself"
			break
		}
	}
	return fault.Usagef("%s: a command's output cannot be read in pieces or twice; %s", fault.Name(src), instead)
}

// globbed replaces names such as train-*.tar by the files there, in order. A
// name that exists as it is written stays.
func globbed(ctx context.Context, st storage, names []string) ([]string, error) {
	out := make([]string, 0, len(names))
	for _, name := range names {
		_, web := st.(webStore) // a ? begins a query there
		if web || !strings.ContainsAny(name, "*?[") || present(ctx, st, name) {
			out = append(out, name)
			continue
		}
		found, err := st.glob(ctx, name)
		if err != nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", fault.Name(name), err))
		}
		if len(found) == 0 {
			return nil, fault.Inputf("%s: no file matches", fault.Name(name))
		}
		slices.SortFunc(found, naturalCompare)
		out = append(out, found...)
	}
	return out, nil
}

// look finds out whether src is a folder or files.
func look(ctx context.Context, st storage, names []string, o Options) (source, error) {
	_, dir, err := st.stat(ctx, names[0])
	if err != nil {
		return source{}, missingFile(names, 0, err)
	}
	if !dir {
		return source{names: names}, allFiles(ctx, st, names)
	}
	if len(names) > 1 {
		return source{}, fault.Inputf("%s: is a directory; a list may contain files only", fault.Name(names[0]))
	}
	s := source{names: []string{inside(ctx, st, names[0], o)}, dir: true}
	s.files, err = st.list(ctx, s.names[0])
	if err == nil && len(s.files) == 0 {
		err = fault.Inputf("%s: empty folder; give one with class folders, tars or a table", fault.Name(names[0]))
	}
	return s, err
}

// checkers bounds how many files are looked for at the same time.
const checkers = 32

// allFiles reports the first name that is not a file.
func allFiles(ctx context.Context, st storage, names []string) error {
	errs := make([]error, len(names))
	var g errgroup.Group
	g.SetLimit(checkers)
	for i, name := range names {
		g.Go(func() error {
			_, dir, err := st.stat(ctx, name)
			if err != nil {
				errs[i] = missingFile(names, i, err)
			} else if dir {
				errs[i] = fault.Inputf("%s: is a directory among files; give files only", fault.Name(name))
			}
			return nil
		})
	}
	g.Wait()
	return cmp.Or(errs...)
}

// explain is fault.File for an error that the storage has not explained itself.
func explain(name, want string, err error) error {
	var told *fault.Error
	if errors.As(err, &told) {
		return err
	}
	return fault.File(name, want, err)
}

func missingFile(names []string, i int, err error) error {
	err = explain(names[i], "a dataset folder or file", err)
	if len(names) > 1 {
		return fault.As(fault.Input, fmt.Errorf("%w (file %d of %d)", err, i+1, len(names)))
	}
	return err
}

// evaluationParts are the parts of a set that are scored, best first.
var evaluationParts = []string{"test", "val", "validation"}

// evaluationFolders hold the images to score inside a complete ImageNet tree.
var evaluationFolders = []string{"val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val"}

// inside is the folder of evaluation images when dir is a complete ImageNet
// tree and the caller asked for its classes, else dir.
func inside(ctx context.Context, st storage, dir string, o Options) string {
	if o.ClassNames == nil || slices.Contains(o.ClassNames, "val") {
		return dir
	}
	for _, sub := range evaluationFolders {
		name := st.join(dir, sub)
		if _, isDir, err := st.stat(ctx, name); err == nil && isDir {
			return name
		}
	}
	return dir
}

// guess names the layout of a source.
func guess(s source) (Kind, error) {
	byExt := map[string]Kind{".tar": WebDataset, ".csv": CSV, ".tsv": CSV, ".parquet": Parquet, ".json": COCO}
	if !s.dir {
		switch ext := strings.ToLower(path.Ext(plainName(s.names[0]))); ext {
		case ".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip":
			return "", fault.Inputf("%s: compressed, which allows no random access; unpack it once and give the folder or the .tar", fault.Name(s.names[0]))
		default:
			if kind, ok := byExt[ext]; ok {
				return kind, nil
			}
			return "", fault.Inputf("%s: not a known kind of dataset; want .tar, .csv, .tsv, .parquet, COCO's captions (.json) or a folder", fault.Name(s.names[0]))
		}
	}
	if anyValidationImage(onlyFlat(s.files)) {
		return ILSVRC, nil
	}
	for _, ext := range []string{"tar", "parquet"} {
		if len(filesWithExt(s.files, ext)) > 0 {
			return byExt["."+ext], nil
		}
	}
	return ImageFolder, nil
}

// onlyFlat are the files that lie in the folder itself: validation images in
// wnid folders say their class by the folder.
func onlyFlat(files []file) []file {
	return slices.DeleteFunc(slices.Clone(files), func(f file) bool { return strings.Contains(f.name, "/") })
}

func filesWithExt(files []file, exts ...string) []file {
	var out []file
	for _, f := range files {
		if !hidden(f.name) && slices.Contains(exts, strings.ToLower(strings.TrimPrefix(path.Ext(f.name), "."))) {
			out = append(out, f)
		}
	}
	return out
}

// withExt are the source's files, or those of its folder with one of these
// extensions, in numeric order (2.tar before 10.tar). When a folder holds a
// test part, only that is taken.
func (s source) withExt(exts ...string) ([]string, error) {
	if !s.dir {
		return s.names, nil
	}
	files := filesWithExt(s.files, exts...)
	// test/0.tar as CLIP_benchmark has it, test-00000-of-00001.parquet as Hugging Face.
	for _, part := range evaluationParts {
		in := slices.DeleteFunc(slices.Clone(files), func(f file) bool {
			return !strings.HasPrefix(f.name, part+"/") && !strings.HasPrefix(path.Base(f.name), part+"-")
		})
		if len(in) > 0 {
			files = in
			break
		}
	}
	if i := slices.IndexFunc(files, func(f file) bool { return path.Base(f.name) == "ILSVRC2012_img_val.tar" }); i >= 0 {
		files = files[i : i+1] // the training images and the kits beside it are not part of it
	}
	if len(files) == 0 {
		return nil, fault.Inputf("%s: no .%s file in this folder", fault.Name(s.names[0]), strings.Join(exts, " or ."))
	}
	slices.SortFunc(files, func(a, b file) int { return naturalCompare(a.name, b.name) })
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.path
	}
	return names, nil
}

// naturalCompare orders runs of digits by their value.
func naturalCompare(a, b string) int {
	wholeA, wholeB := a, b
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			na, nb := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if c := len(na) - len(nb); c != 0 {
				return c
			}
			if c := strings.Compare(na, nb); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Or(len(a)-len(b), strings.Compare(wholeA, wholeB))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
