// Package atomicfile writes files that appear whole or not at all.
//
// A file is created beside its target under a temporary name, locked, and synced
// to disk before it is renamed; then the folder is synced too. A temporary file
// that nobody has locked was left by a killed run: a process removes those from a
// folder before it creates its first file there.
//
// A new file has permissions 0666 less the umask; one that replaces another keeps
// its permissions. Every error is in plain words and of kind fault.Environment.
package atomicfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/fault"
)

// tempMark begins the name of every temporary file.
const tempMark = ".evatool-tmp-"

// IsTemporary reports whether name is that of a file still being written.
func IsTemporary(name string) bool { return strings.HasPrefix(name, tempMark) }

// File is a file being written. All methods but Commit and Discard may be called
// from several goroutines.
type File struct {
	// New makes Commit refuse to replace an existing file.
	New bool

	path   string // target
	f      *os.File
	lock   *flock.Flock // nil where the file system has none
	want   int64        // bytes, for messages
	synced atomic.Bool  // everything written is on the disk
	named  bool         // it has its name
}

// Create begins a file that Commit puts at path.
func Create(path string) (*File, error) {
	dir := filepath.Dir(path)
	removeStale(dir)
	f := &File{path: path}
	perm, kept := fs.FileMode(0o666), false
	if st, err := os.Lstat(path); err == nil {
		if !st.Mode().IsRegular() {
			return nil, Target(path)
		}
		perm, kept = st.Mode().Perm(), true
	}
	for {
		if err := f.open(dir, perm); err != nil {
			return nil, explain(path, 0, err)
		}
		if f.ours() {
			break
		}
		f.Discard() // another process has just removed it as stale
	}
	if kept { // the umask may have cleared some of it
		if err := f.f.Chmod(perm); err != nil {
			f.Discard()
			return nil, explain(path, 0, err)
		}
	}
	return f, nil
}

// open creates a temporary file under a new name.
func (f *File) open(dir string, perm fs.FileMode) (err error) {
	for {
		name := filepath.Join(dir, fmt.Sprintf("%s%016x", tempMark, rand.Uint64()))
		if f.f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

// ours locks the file and reports whether it still exists.
func (f *File) ours() bool {
	f.lock = lockOf(f.f.Name())
	if err := f.lock.Lock(); errors.Is(err, fs.ErrNotExist) {
		f.lock = nil
		return false
	} else if err != nil {
		f.lock = nil // a file system without locks: nobody else removes it
	}
	mine, err1 := f.f.Stat()
	there, err2 := os.Stat(f.f.Name())
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}

// lockOf is a lock on an existing file; taking it does not create the file.
func lockOf(path string) *flock.Flock { return flock.New(path, flock.SetFlag(os.O_RDWR)) }

// cleaned has the folders in which this process has removed stale files.
var cleaned sync.Map

// removeStale deletes what killed runs left in a folder.
func removeStale(dir string) {
	if abs, err := filepath.Abs(dir); err == nil {
		if _, done := cleaned.LoadOrStore(abs, true); done {
			return
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // creating the file will report what is wrong with the folder
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempMark) || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		l := lockOf(path)
		if ok, err := l.TryLock(); err == nil && ok {
			os.Remove(path)
			l.Unlock()
		}
	}
}

// Path is the target.
func (f *File) Path() string { return f.path }

// Reserve gives the file its full size, so that a full disk is an error before
// the work rather than after it.
func (f *File) Reserve(size int64) error {
	f.want = size
	return f.explain(reserve(f.f, size))
}

// Write appends to the file.
func (f *File) Write(b []byte) (int, error) {
	n, err := f.f.Write(b)
	f.synced.Store(false)
	return n, f.explain(err)
}

// WriteAt writes at an offset.
func (f *File) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.f.WriteAt(b, at)
	f.synced.Store(false)
	return n, f.explain(err)
}

// ReadAt reads back what was written.
func (f *File) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.f.ReadAt(b, at)
	return n, f.explain(err)
}

// Fsync forces a file or a folder to disk. Tests replace it.
var Fsync = (*os.File).Sync

// Sync waits until everything written is on the disk.
func (f *File) Sync() error {
	if f.synced.Swap(true) {
		return nil
	}
	return f.explain(Fsync(f.f))
}

// Commit gives the file its name once all of it is on the disk. After an error,
// call Discard.
func (f *File) Commit() error {
	if err := f.Sync(); err != nil {
		return err
	}
	rename := os.Rename
	if f.New {
		rename = renameNew
	}
	if err := rename(f.f.Name(), f.path); err != nil {
		if f.New && errors.Is(err, fs.ErrExist) {
			return fault.Usagef("%s: another run has written this file in the meantime; remove it or choose another name", fault.Name(f.path))
		}
		return f.explain(err)
	}
	f.named = true
	err := errors.Join(f.f.Close(), SyncDir(filepath.Dir(f.path)))
	f.unlock()
	f.f = nil
	return f.explain(err)
}

// Named reports whether the file has its name, as it may even after a Commit that
// could not force the folder to disk.
func (f *File) Named() bool { return f.named }

// Discard removes a file that was not committed; after Commit it does nothing.
func (f *File) Discard() {
	if f.f == nil {
		return
	}
	os.Remove(f.f.Name())
	f.f.Close()
	f.unlock()
	f.f = nil
}

// noReplace is the system call behind renameNew; tests replace it.
var noReplace = renameNoReplace

// renameNew is an os.Rename that never replaces a file.
func renameNew(from, to string) error {
	err := noReplace(from, to)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		if err = os.Link(from, to); err == nil {
			return os.Remove(from)
		}
		if !errors.Is(err, fs.ErrExist) { // neither works: not all file systems have links
			return os.Rename(from, to)
		}
	}
	return err
}

func (f *File) unlock() {
	if f.lock != nil {
		f.lock.Unlock()
	}
}

// SyncDir makes the names in a folder durable, where the system can.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil // a folder may be writable but not readable
	}
	defer d.Close()
	if err := Fsync(d); err != nil && !cannotSync(err) {
		return explain(dir, 0, err)
	}
	return nil
}

// WriteFile writes b to path as a whole.
func WriteFile(path string, b []byte) error {
	f, err := Create(path)
	if err != nil {
		return err
	}
	defer f.Discard()
	f.want = int64(len(b))
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Commit()
}

// WriteJSON writes v to path as indented JSON.
func WriteJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return WriteFile(path, append(b, '\n'))
}
