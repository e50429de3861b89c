package convert

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/evatool/evatool/internal/fault"
)

// pending is a file in the making: a locked temporary file beside its target,
// which appears under its name complete or not at all. A temporary file that
// nobody locks is what a killed run has left.
type pending struct {
	path string // target
	f    *os.File
	lock *flock.Flock
	want int64 // bytes, for messages
}

const tempMark = ".evatool-tmp-"

// removeStale deletes what killed runs have left in dir.
func removeStale(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the run itself will say what is wrong with the folder
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

// lockOf is a lock on an existing file; taking it does not create the file.
func lockOf(path string) *flock.Flock { return flock.New(path, flock.SetFlag(os.O_RDWR)) }

func newPending(path string) (*pending, error) {
	p := &pending{path: path}
	for {
		f, err := os.CreateTemp(filepath.Dir(path), tempMark+"*")
		if err != nil {
			return nil, p.fail(err)
		}
		p.f, p.lock = f, lockOf(f.Name())
		if err := p.lock.Lock(); errors.Is(err, os.ErrNotExist) {
			f.Close()
			continue // another run took it for a stale one, just now
		} else if err != nil {
			p.discard()
			return nil, p.fail(err)
		}
		ours, err1 := f.Stat()
		there, err2 := os.Stat(f.Name())
		if err1 == nil && err2 == nil && os.SameFile(ours, there) {
			break
		}
		p.discard()
	}
	if err := p.f.Chmod(0o644); err != nil {
		p.discard()
		return nil, p.fail(err)
	}
	return p, nil
}

// reserve gives the file its full size, so that a full disk is an error before
// the work and not after it.
func (p *pending) reserve(size int64) error {
	p.want = size
	if err := reserve(p.f, size); err != nil {
		return p.fail(err)
	}
	return nil
}

// fail explains an error of the file system in the user's words.
func (p *pending) fail(err error) error {
	dir := filepath.Dir(p.path)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Envf("%s: no space for %d bytes in %s; free some or choose another folder", p.path, p.want, dir)
	case errors.Is(err, syscall.EFBIG):
		return fault.Envf("%s: %d bytes are more than a file may have there; use --shard-size or another folder", p.path, p.want)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fault.Envf("%s: no permission to write in %s; choose another folder", p.path, dir)
	case errors.Is(err, os.ErrNotExist):
		return fault.Envf("%s: no folder %s; create it first", p.path, dir)
	}
	return fault.As(fault.Environment, fmt.Errorf("%s: %w", p.path, err))
}

// fsync is a variable because tests do without it.
var fsync = (*os.File).Sync

func (p *pending) sync() error {
	if err := fsync(p.f); err != nil {
		return p.fail(err)
	}
	return nil
}

// commit gives the synced file its name.
func (p *pending) commit() error {
	if err := os.Rename(p.f.Name(), p.path); err != nil {
		return p.fail(err)
	}
	err := p.f.Close()
	p.f = nil
	p.lock.Unlock()
	// Makes the rename durable where the system can.
	if d, derr := os.Open(filepath.Dir(p.path)); derr == nil {
		fsync(d)
		d.Close()
	}
	return err
}

// discard removes an uncommitted file; after commit it does nothing.
func (p *pending) discard() {
	if p.f == nil {
		return
	}
	os.Remove(p.f.Name())
	p.f.Close()
	p.lock.Unlock()
	p.f = nil
}

// newSmall is a pending file with its whole content, on the disk.
func newSmall(path string, b []byte) (*pending, error) {
	p, err := newPending(path)
	if err != nil {
		return nil, err
	}
	p.want = int64(len(b))
	if _, err = p.f.Write(b); err != nil {
		err = p.fail(err)
	} else {
		err = p.sync()
	}
	if err != nil {
		p.discard()
		return nil, err
	}
	return p, nil
}

// writeAtomic writes a small file.
func writeAtomic(path string, b []byte) error {
	p, err := newSmall(path, b)
	if err != nil {
		return err
	}
	defer p.discard()
	return p.commit()
}
