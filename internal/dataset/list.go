package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/evatool/evatool/internal/fault"
)

// record is an image whose place is known before it is read.
type record struct {
	file     file
	key      string
	label    int
	captions []string
	bad      error // why the captions cannot be used
	part     int   // which of the files of a table it is from, and
	row      int   // which row there, from 0
}

// list is a dataset made of a list of files: folders, tables, ILSVRC.
type list struct {
	ctx      context.Context
	st       storage
	records  []record
	classes  []string
	what     string
	identity string
	unit     string // what a label column's rows are called, "" if there is none
}

// newList hashes the records; text is what else belongs to the fingerprint.
func newList(ctx context.Context, st storage, what string, records []record, classes []string) *list {
	h := newHash(what)
	for _, r := range records {
		h.text(r.key)
		h.number(r.file.off, r.file.size, int64(r.label))
		for _, c := range r.captions {
			h.text(c)
		}
		if r.bad != nil {
			h.text(r.bad.Error())
		}
	}
	return &list{ctx: ctx, st: st, records: records, classes: classes, what: what, identity: h.sum()}
}

func (d *list) Len() int            { return len(d.records) }
func (d *list) Classes() []string   { return d.classes }
func (d *list) Fingerprint() string { return d.identity }
func (d *list) Close() error        { return nil }

// Labels are the labels of all samples where they are known before anything is
// read: of folders, tables and ILSVRC; else nil.
func Labels(ds Dataset) []int {
	d, ok := ds.(interface{ labels() []int })
	if !ok {
		return nil
	}
	return d.labels()
}

func (d *list) labels() []int {
	out := make([]int, len(d.records))
	for i, r := range d.records {
		out[i] = r.label
	}
	return out
}

// Sized is a dataset that only names some of its pictures, as a table does. Sizes are
// those of the ones on a disk, -1 for one that is missing.
type Sized interface {
	Sizes(ctx context.Context) []int64
}

// Sizes implements Sized.
func (d *list) Sizes(ctx context.Context) (sizes []int64) {
	if _, local := d.st.(disk); !local {
		return nil // a request for each
	}
	for _, r := range d.records {
		if r.file.size >= 0 {
			continue
		}
		size, _, err := d.st.stat(ctx, r.file.path)
		if err != nil {
			size = -1
		}
		sizes = append(sizes, size)
	}
	return sizes
}

func (d *list) Describe() string {
	s := d.what + ", " + plural(len(d.records), "image")
	if len(d.classes) > 0 {
		s += fmt.Sprintf(", %d classes", len(d.classes))
	}
	return s
}

// example is what is known of example i without reading.
func (d *list) example(i int) Example {
	r := d.records[i]
	ex := Example{Index: i, Key: r.key, Path: r.file.path, Label: r.label, Captions: r.captions}
	if r.label < 0 && d.unit != "" {
		ex.Hint = fmt.Sprintf("the label column is empty in %s %d", d.unit, r.row+1)
	}
	return ex
}

func (d *list) Read(i int) (Example, error) {
	r := d.records[i]
	ex := d.example(i)
	if r.file.name != "" && r.file.off > 0 {
		ex.Path += "/" + r.file.name
	}
	if r.bad != nil {
		return ex, fault.Inputf("%s: %w", fault.Name(r.key), r.bad)
	}
	var err error
	ex.Path, ex.Image, err = readImage(d.ctx, d.st, r.file, ex.Path)
	return ex, err
}

// readImage reads the file of an example, which messages call shown. A path
// from a table, whose size is not known in advance, may be in another Unicode
// form than the file's name: macOS decomposes names.
func readImage(ctx context.Context, st storage, f file, shown string) (string, []byte, error) {
	size := f.size
	if size < 0 {
		var dir bool
		var err error
		size, dir, err = st.stat(ctx, f.path)
		base, named := strings.CutSuffix(f.path, f.name)
		for _, form := range []norm.Form{norm.NFC, norm.NFD} {
			other := form.String(f.path)
			if named {
				other = base + form.String(f.name)
			}
			if errors.Is(err, fs.ErrNotExist) && other != f.path {
				var again error
				if size, dir, again = st.stat(ctx, other); again == nil {
					f.path, shown, err = other, other, nil
				}
			}
		}
		if err != nil {
			return shown, nil, explain(f.path, "an image, which the table calls "+quoted(f.name), err)
		}
		if dir {
			return shown, nil, fault.Inputf("%s: is a directory; want an image", fault.Name(f.path))
		}
	}
	if size > maxImage {
		return shown, nil, fault.Inputf("%s: %d bytes; an image may have at most %d", fault.Name(shown), size, maxImage)
	}
	data, err := st.read(ctx, f.path, f.off, size)
	return shown, data, lost(f.path, err)
}

// fingerprint is a hash that cannot confuse ("ab","c") with ("a","bc").
type fingerprint struct {
	h   hash.Hash
	buf [8]byte
}

func newHash(kind string) *fingerprint {
	f := &fingerprint{h: sha256.New()}
	f.text(kind)
	return f
}

func (f *fingerprint) number(vs ...int64) {
	for _, v := range vs {
		binary.LittleEndian.PutUint64(f.buf[:], uint64(v))
		f.h.Write(f.buf[:])
	}
}

func (f *fingerprint) text(s string) {
	f.number(int64(len(s)))
	f.h.Write([]byte(s))
}

func (f *fingerprint) sum() string { return hex.EncodeToString(f.h.Sum(nil)) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
