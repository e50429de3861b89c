package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// storage is where files lie: the local disk or an object store.
type storage interface {
	// list names every file under dir, at any depth, in no particular order.
	// Links to folders are followed.
	list(ctx context.Context, dir string) ([]file, error)
	// stat says whether name is a folder and, if not, how big it is. A name that
	// does not exist is an fs.ErrNotExist.
	stat(ctx context.Context, name string) (size int64, dir bool, err error)
	// read returns exactly n bytes from offset off.
	read(ctx context.Context, name string, off, n int64) ([]byte, error)
	// stamped is stat of a file, with what changes when the file does.
	stamped(ctx context.Context, name string) (size int64, dir bool, stamp string, err error)
	// readOf is read of a file that has the stamp; with another stamp it is an
	// error.
	readOf(ctx context.Context, name, stamp string, off, n int64) ([]byte, error)
	// join puts a name found in a table beside that table's folder.
	join(dir, name string) string
	dir(name string) string
	// window is how much to read at a time when going through a file.
	window() int64
	// glob lists the files that match a pattern in the last part of the name.
	glob(ctx context.Context, pattern string) ([]string, error)
}

// file is a run of bytes that holds one file: all of a file in a storage, or a
// member of a tar.
type file struct {
	name string // relative to the dataset's root, slash-separated
	path string // in the storage
	off  int64  // of the bytes in path
	size int64
}

func storageFor(ctx context.Context, src string) (storage, error) {
	switch scheme := schemeOf(src); scheme {
	case s3Scheme, gsScheme:
		return openBuckets(scheme)
	case "http://", "https://":
		return openWeb()
	}
	return disk{}, nil
}

// schemeOf is what the name of a file in storage other than the disk begins
// with; empty for the disk.
func schemeOf(name string) string {
	for _, scheme := range []string{s3Scheme, gsScheme, "https://", "http://"} {
		if strings.HasPrefix(name, scheme) {
			return scheme
		}
	}
	return ""
}

// plainName is a name without the query that may follow a web address.
func plainName(name string) string {
	if strings.HasPrefix(schemeOf(name), "http") {
		name, _, _ = strings.Cut(name, "?")
	}
	return name
}

// maxImage bounds one image file, so that a wrong size in an index cannot ask
// for all memory.
const maxImage = 1 << 30

type disk struct{}

func (disk) join(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, filepath.FromSlash(name))
}

// window: skipping over data that is not needed is free on a disk.
func (disk) window() int64 { return 4 << 10 }

func (disk) dir(name string) string { return filepath.Dir(name) }

func (disk) glob(_ context.Context, pattern string) ([]string, error) { return filepath.Glob(pattern) }

func (d disk) stat(ctx context.Context, name string) (int64, bool, error) {
	size, dir, _, err := d.stamped(ctx, name)
	return size, dir, err
}

func (disk) stamped(_ context.Context, name string) (size int64, dir bool, stamp string, err error) {
	st, err := os.Stat(name)
	if err != nil {
		return 0, false, "", err
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return 0, false, "", fault.Inputf("%s: not a regular file; reading a pipe or a device may never end; give a file", fault.Name(name))
	}
	return st.Size(), st.IsDir(), stampOf(st), nil
}

func stampOf(st fs.FileInfo) string {
	return fmt.Sprintf("%d bytes of %d", st.Size(), st.ModTime().UnixNano())
}

func (disk) list(ctx context.Context, dir string) ([]file, error) {
	var out []file
	err := walk(ctx, dir, "", 0, &out)
	return out, err
}

// maxDepth stops a walk through a link to a parent folder.
const maxDepth = 32

func walk(ctx context.Context, dir, rel string, depth int, out *[]file) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fault.Inputf("%s: more than %d folders deep; does a link point to its own parent?", fault.Name(dir), maxDepth)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.File(dir, "a data folder", err)
	}
	for _, e := range entries {
		name, full := path.Join(rel, e.Name()), filepath.Join(dir, e.Name())
		st, err := os.Stat(full) // follows links
		if err != nil {
			return fault.File(full, "a data file", err)
		}
		switch {
		case st.IsDir():
			if err := walk(ctx, full, name, depth+1, out); err != nil {
				return err
			}
		case st.Mode().IsRegular():
			*out = append(*out, file{name: name, path: full, size: st.Size()})
		}
	}
	return nil
}

func (d disk) read(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return d.readOf(ctx, name, "", off, n)
}

func (disk) readOf(_ context.Context, name, stamp string, off, n int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fault.File(name, "a data file", err)
	}
	defer f.Close()
	if stamp != "" {
		st, err := f.Stat()
		if err != nil {
			return nil, readError(name, off, n, err)
		}
		if stampOf(st) != stamp {
			return nil, changed(fault.Name(name))
		}
	}
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, off); err != nil {
		return nil, readError(name, off, n, err)
	}
	return buf, nil
}

func changed(shown string) error {
	return fault.Inputf("%s: changed while it was being read; start again", shown)
}

// errChanged ends the errors about files that are no longer what was indexed.
var errChanged = errors.New("it has changed since the run started")

// lost makes the errors about a file that was there when it was indexed, and is gone
// or another one now, the environment's: they say nothing about the sample.
func lost(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Because(fault.Environment, err, "%s: is gone since the run started; restore it", fault.Name(name))
	case errors.Is(err, errChanged):
		return fault.Because(fault.Environment, err, "%v", err)
	}
	return err
}

func readError(name string, off, n int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Inputf("%s: ends before offset %d; %w", fault.Name(name), off+n, errChanged)
	}
	var named *fs.PathError // repeats the name as it is
	if errors.As(err, &named) {
		err = named.Err
	}
	return fault.As(fault.Input, fmt.Errorf("%s: reading %d bytes at offset %d: %w", fault.Name(name), n, off, err))
}

// readAll reads a small file, such as a table or a list of names.
func readAll(ctx context.Context, st storage, name, want string) ([]byte, error) {
	size, dir, err := st.stat(ctx, name)
	if err != nil {
		return nil, fault.File(name, want, err)
	}
	if dir {
		return nil, fault.Inputf("%s: is a directory; give %s", fault.Name(name), want)
	}
	return st.read(ctx, name, 0, size)
}

// present reports whether there is a file or folder of that name.
func present(ctx context.Context, st storage, name string) bool {
	_, _, err := st.stat(ctx, name)
	return err == nil
}

// exists reports whether name is a file.
func exists(ctx context.Context, st storage, name string) bool {
	_, dir, err := st.stat(ctx, name)
	return err == nil && !dir
}

// section is a file of a storage as an io.ReadSeeker, read in windows.
type section struct {
	ctx        context.Context
	st         storage
	name       string
	size, pos  int64
	window     int64
	buf        []byte
	bufferedAt int64
}

func (s *section) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.pos
	case io.SeekEnd:
		off += s.size
	}
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	s.pos = off
	return off, nil
}

func (s *section) Read(p []byte) (int, error) {
	n, err := s.ReadAt(p[:min(int64(len(p)), max(0, s.size-s.pos))], s.pos)
	s.pos += int64(n)
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

// ReadAt is not safe for more than one goroutine.
func (s *section) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= s.size {
			return done, io.EOF
		}
		if i := at - s.bufferedAt; i >= 0 && i < int64(len(s.buf)) {
			done += copy(p[done:], s.buf[i:])
			continue
		}
		if err := s.ctx.Err(); err != nil {
			return done, err
		}
		buf, err := s.st.read(s.ctx, s.name, at, min(s.window, s.size-at))
		if err != nil {
			return done, err
		}
		s.buf, s.bufferedAt = buf, at
	}
	return done, nil
}

// baseSorted orders files as sorted(os.walk(…)) with sorted names does: by
// folder, then by name.
func baseSorted(files []file) {
	slices.SortFunc(files, func(a, b file) int {
		ad, ab := path.Split(a.name)
		bd, bb := path.Split(b.name)
		if c := strings.Compare(strings.TrimSuffix(ad, "/"), strings.TrimSuffix(bd, "/")); c != 0 {
			return c
		}
		return strings.Compare(ab, bb)
	})
}
