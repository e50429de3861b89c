package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/evatool/evatool/internal/fault"
)

// record is an image whose place is known before it is read.
type record struct {
	file     file
	key      string
	label    int
	captions []string
}

// list is a dataset that is a list of files: folders, tables, ILSVRC.
type list struct {
	ctx      context.Context
	st       storage
	records  []record
	classes  []string
	what     string
	identity string
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
	}
	return &list{ctx, st, records, classes, what, h.sum()}
}

func (d *list) Len() int            { return len(d.records) }
func (d *list) Classes() []string   { return d.classes }
func (d *list) Fingerprint() string { return d.identity }
func (d *list) Close() error        { return nil }

func (d *list) Describe() string {
	s := d.what + ", " + plural(len(d.records), "image")
	if len(d.classes) > 0 {
		s += fmt.Sprintf(", %d classes", len(d.classes))
	}
	return s
}

func (d *list) Read(i int) (Example, error) {
	r := d.records[i]
	ex := Example{Index: i, Key: r.key, Path: r.file.path, Label: r.label, Captions: r.captions}
	if r.file.name != "" && r.file.off > 0 {
		ex.Path += "/" + r.file.name
	}
	size := r.file.size
	if size < 0 { // not known before: a path from a table
		var dir bool
		var err error
		if size, dir, err = d.st.stat(d.ctx, r.file.path); err != nil {
			return ex, explain(r.file.path, fmt.Sprintf("an image, which the table calls %q", r.key), err)
		}
		if dir {
			return ex, fault.Inputf("%s: is a directory; want an image", r.file.path)
		}
	}
	if size > maxImage {
		return ex, fault.Inputf("%s: %d bytes; an image may have %d", ex.Path, size, maxImage)
	}
	data, err := d.st.read(d.ctx, r.file.path, r.file.off, size)
	ex.Image = data
	return ex, err
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
