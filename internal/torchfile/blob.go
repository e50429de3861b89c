package torchfile

import (
	"compress/flate"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

// blob is a run of bytes in the file, possibly compressed and checksummed: a member
// of a zip archive or a raw storage.
type blob struct {
	name     string // for errors
	r        io.ReaderAt
	f        *os.File // nil unless the file was opened from a path
	off      int64    // where the (compressed) bytes start
	packed   int64    // their number
	size     int64    // their number when uncompressed
	deflated bool
	sum      uint32
	hasSum   bool

	check    sync.Once
	checkErr error
}

// maxInflate bounds the memory of a compressed storage that is read out of order.
// torch itself never compresses.
const maxInflate = 64 << 20

// whole streams all bytes and reports a wrong checksum or length at the end.
func (b *blob) whole() io.Reader {
	var r io.Reader = io.NewSectionReader(b.r, b.off, b.packed)
	if b.deflated {
		r = flate.NewReader(r)
	}
	return &checkedReader{b: b, r: r}
}

// verify reads everything once to check the checksum.
func (b *blob) verify() error {
	if !b.hasSum {
		return nil
	}
	b.check.Do(func() {
		_, b.checkErr = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{b.whole()}, make([]byte, 256<<10))
	})
	return b.checkErr
}

// bytes reads a small blob.
func (b *blob) bytes(limit int64) ([]byte, error) {
	if b.size > limit {
		return nil, fmt.Errorf("%s: %d bytes, expected at most %d", b.name, b.size, limit)
	}
	out := make([]byte, 0, min(b.size, 1<<20))
	buf := make([]byte, 32<<10)
	r := b.whole()
	for {
		n, err := r.Read(buf)
		out = append(out, buf[:n]...)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// span streams n bytes starting at off, and verifies the checksum.
func (b *blob) span(off, n int64) (io.Reader, error) {
	if off == 0 && n == b.size {
		return b.whole(), nil
	}
	if b.deflated {
		return &window{r: b.whole(), skip: off, left: n}, nil
	}
	if err := b.verify(); err != nil {
		return nil, err
	}
	return &sized{r: io.NewSectionReader(b.r, b.off+off, n), left: n, name: b.name}, nil
}

// random gives access at any offset, and verifies the checksum.
func (b *blob) random() (io.ReaderAt, error) {
	if b.deflated {
		if b.size > maxInflate {
			return nil, fmt.Errorf("%s: compressed, larger than %d bytes and needed out of order; unpack the archive and pack it without compression", b.name, maxInflate)
		}
		data, err := b.bytes(maxInflate)
		return readerAt(data), err
	}
	if err := b.verify(); err != nil {
		return nil, err
	}
	return io.NewSectionReader(b.r, b.off, b.size), nil
}

// readerAt is an io.ReaderAt over bytes.
type readerAt []byte

func (d readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(d)) {
		return 0, io.EOF
	}
	n := copy(p, d[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// checkedReader counts the bytes of a blob and computes their checksum.
type checkedReader struct {
	b   *blob
	r   io.Reader
	n   int64
	sum uint32
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n > c.b.size {
		return 0, fmt.Errorf("%s: unpacks to more than its %d bytes", c.b.name, c.b.size)
	}
	if c.b.hasSum {
		c.sum = crc32.Update(c.sum, crc32.IEEETable, p[:n])
	}
	switch {
	case err == io.EOF && c.n < c.b.size:
		err = fmt.Errorf("%s: ends after %d of %d bytes; the file is cut off or shrank while it was read", c.b.name, c.n, c.b.size)
	case err == io.EOF && c.b.hasSum && c.sum != c.b.sum:
		err = fmt.Errorf("%s: checksum %08x, the archive says %08x; the file is damaged, download it again", c.b.name, c.sum, c.b.sum)
	case err != nil && err != io.EOF:
		err = fmt.Errorf("%s: %w", c.b.name, err)
	}
	return n, err
}

// window passes left bytes after the first skip, but reads to the end for the
// checksum.
type window struct {
	r          io.Reader
	skip, left int64
	err        error
}

func (w *window) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.skip > 0 {
		if _, w.err = io.CopyN(io.Discard, w.r, w.skip); w.err != nil {
			return 0, w.err
		}
		w.skip = 0
	}
	if w.left == 0 {
		if _, w.err = io.Copy(io.Discard, w.r); w.err == nil {
			w.err = io.EOF
		}
		return 0, w.err
	}
	n, err := w.r.Read(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	if err == io.EOF && w.left == 0 {
		w.err = io.EOF
		err = nil
	}
	return n, err
}

// sized turns an early end into an error.
type sized struct {
	r    io.Reader
	left int64
	name string
}

func (s *sized) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.left -= int64(n)
	if err == io.EOF && s.left > 0 {
		err = fmt.Errorf("%s: ends %d bytes early; the file is cut off or shrank while it was read", s.name, s.left)
	}
	return n, err
}
