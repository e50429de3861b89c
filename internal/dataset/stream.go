package dataset

import (
	"context"
	"errors"
	"io"
)

const (
	// partSize is how much of a tar is asked for at a time: less than the price
	// and the time of a request, more than a stream uses at once.
	partSize = 8 << 20
	// partsAhead is how many parts are under way, or lie ready, beside the one in
	// use. More would cost memory and gain nothing: all runs of all lanes read at
	// a time.
	partsAhead = 1
)

// stream reads a file from front to back, in parts that are fetched ahead. It
// seeks forwards only.
type stream struct {
	ctx    context.Context
	cancel context.CancelFunc
	st     storage
	name   string
	size   int64
	stamp  string         // of the file that is read
	reads  chan struct{}  // one for each request under way, of all streams
	next   int64          // where the next part begins
	ahead  []chan fetched // in order
	buf    []byte         // what is left of the part in use
	pos    int64          // where that begins
}

type fetched struct {
	data []byte
	err  error
}

// openStream starts reading a file at an offset.
func openStream(ctx context.Context, st storage, name string, off int64, reads chan struct{}) (*stream, error) {
	size, dir, stamp, err := st.stamped(ctx, name)
	if err == nil && dir {
		err = errors.New("is a directory")
	}
	if err != nil {
		return nil, explain(name, "a tar", err)
	}
	s := &stream{st: st, name: name, size: size, stamp: stamp, reads: reads, next: off, pos: off}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s, nil
}

// ask has the next parts fetched.
func (s *stream) ask() {
	for s.next < s.size && len(s.ahead) < partsAhead {
		off, n, got := s.next, min(partSize, s.size-s.next), make(chan fetched, 1)
		s.next += n
		s.ahead = append(s.ahead, got)
		go func() {
			select {
			case s.reads <- struct{}{}:
			case <-s.ctx.Done():
				got <- fetched{err: s.ctx.Err()}
				return
			}
			data, err := s.st.readOf(s.ctx, s.name, s.stamp, off, n)
			<-s.reads
			got <- fetched{data, err}
		}()
	}
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.buf) == 0 {
		if err := s.fetch(); err != nil {
			return 0, err
		}
		s.ask()
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	s.pos += int64(n)
	return n, nil
}

// fetch takes the next part; io.EOF when there is none.
func (s *stream) fetch() error {
	if s.ask(); len(s.ahead) == 0 {
		return io.EOF
	}
	got := <-s.ahead[0]
	if got.err == nil {
		s.ahead, s.buf = s.ahead[1:], got.data
	}
	return got.err
}

// peek is what is available without another request.
func (s *stream) peek() ([]byte, error) {
	if len(s.buf) > 0 {
		return s.buf, nil
	}
	if err := s.fetch(); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return s.buf, nil
}

// Seek skips forwards. What is skipped is still read, except beyond the parts
// that are asked for already.
func (s *stream) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.pos
	case io.SeekEnd:
		off += s.size
	}
	if off < s.pos {
		return s.pos, errors.ErrUnsupported
	}
	for s.pos < off {
		if len(s.buf) == 0 && len(s.ahead) == 0 {
			s.pos, s.next = off, max(s.next, off)
			break
		}
		if len(s.buf) == 0 {
			got := <-s.ahead[0]
			if got.err != nil {
				return s.pos, got.err
			}
			s.ahead, s.buf = s.ahead[1:], got.data
		}
		n := min(int64(len(s.buf)), off-s.pos)
		s.buf = s.buf[n:]
		s.pos += n
	}
	return s.pos, nil
}

func (s *stream) close() { s.cancel() }
