package torchfile

import (
	"cmp"
	"io"
	"slices"
)

// dim is one dimension of a view: n elements, src elements apart in the
// storage and dst apart in the output.
type dim struct{ n, src, dst int64 }

// simplify returns the dimensions for a contiguous output, dropping those of size 1
// and merging those that are contiguous with each other. A view that is one run has
// at most one dimension, of stride 1.
func simplify(shape, stride []int64) []dim {
	var dims []dim
	for i, n := range shape {
		if n == 1 {
			continue
		}
		if k := len(dims) - 1; k >= 0 && dims[k].src == n*stride[i] {
			dims[k] = dim{n: dims[k].n * n, src: stride[i]}
			continue
		}
		dims = append(dims, dim{n: n, src: stride[i]})
	}
	step := int64(1)
	for i := len(dims) - 1; i >= 0; i-- {
		dims[i].dst = step
		step *= dims[i].n
	}
	return dims
}

const (
	gatherOut    = 16 << 20 // bytes produced at a time
	gatherWindow = 1 << 20  // bytes of the storage held at a time
)

// gather streams a strided view in row-major order. It works in blocks of some
// megabytes; within a block it goes through the storage in ascending order with a
// window, so a transposed matrix is read in long runs and memory is constant.
type gather struct {
	win  source
	size int64 // of an element
	base int64 // first element
	dims []dim

	outer []int64 // position in the dimensions before split
	split int     // the dimension that is cut into blocks of rows
	row   int64   // position in it
	rows  int64   // block size
	buf   []byte  // the current block
	rest  []byte  // the unread part of it
	done  bool
}

// newGather reads from r, which has n bytes; base is in elements of size bytes, and
// block is about the number of bytes produced at a time.
func newGather(r io.ReaderAt, n, base, size, block int64, dims []dim) *gather {
	g := &gather{win: source{r: r, n: n}, size: size, base: base, dims: dims}
	for g.split < len(dims)-1 && dims[g.split].dst*size > block {
		g.split++
	}
	g.rows = min(dims[g.split].n, max(1, block/(dims[g.split].dst*size)))
	g.outer = make([]int64, g.split)
	return g
}

func (g *gather) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if g.done {
			return 0, io.EOF
		}
		if err := g.block(); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// block produces the next block and advances.
func (g *gather) block() error {
	d := g.dims[g.split]
	k := min(g.rows, d.n-g.row)
	dims := append([]dim{{n: k, src: d.src, dst: d.dst}}, g.dims[g.split+1:]...)
	start := g.base + g.row*d.src
	for i, x := range g.outer {
		start += x * g.dims[i].src
	}
	if need := k * d.dst * g.size; int64(cap(g.buf)) < need {
		g.buf = make([]byte, need)
	}
	g.buf = g.buf[:k*d.dst*g.size]
	slices.SortStableFunc(dims, func(a, b dim) int { return cmp.Compare(b.src, a.src) })
	if err := g.copyDims(dims, start, 0); err != nil {
		return err
	}
	g.rest = g.buf

	g.row += k
	if g.row < d.n {
		return nil
	}
	g.row = 0
	i := len(g.outer) - 1
	for ; i >= 0; i-- {
		if g.outer[i]++; g.outer[i] < g.dims[i].n {
			break
		}
		g.outer[i] = 0
	}
	g.done = i < 0
	return nil
}

// copyDims copies elements; src and dst are element positions.
func (g *gather) copyDims(dims []dim, src, dst int64) error {
	if len(dims) > 1 {
		for i := range dims[0].n {
			if err := g.copyDims(dims[1:], src+i*dims[0].src, dst+i*dims[0].dst); err != nil {
				return err
			}
		}
		return nil
	}
	for d := dims[0]; d.n > 0; {
		in, err := g.win.at(src*g.size, g.size)
		if err != nil {
			return err
		}
		n := d.n
		if d.src > 0 {
			n = min(n, (int64(len(in))/g.size-1)/d.src+1)
		}
		copyStrided(g.buf[dst*g.size:], in, n, g.size, d.dst*g.size, d.src*g.size)
		d.n -= n
		src += n * d.src
		dst += n * d.dst
	}
	return nil
}

// copyStrided copies n elements of size bytes between byte strides.
func copyStrided(out, in []byte, n, size, outStep, inStep int64) {
	if outStep == size && inStep == size {
		copy(out[:n*size], in)
		return
	}
	var o, i int64
	switch size {
	case 4:
		for range n {
			*(*[4]byte)(out[o:]) = [4]byte(in[i:])
			o, i = o+outStep, i+inStep
		}
	case 2:
		for range n {
			*(*[2]byte)(out[o:]) = [2]byte(in[i:])
			o, i = o+outStep, i+inStep
		}
	default:
		for range n {
			copy(out[o:o+size], in[i:i+size])
			o, i = o+outStep, i+inStep
		}
	}
}

// source is a window over a storage of n bytes.
type source struct {
	r   io.ReaderAt
	n   int64
	off int64
	buf []byte
	len int
}

// at returns the window's bytes from off on, at least size of them.
func (s *source) at(off, size int64) ([]byte, error) {
	if off < s.off || off+size > s.off+int64(s.len) {
		if s.buf == nil {
			s.buf = make([]byte, min(s.n, gatherWindow))
		}
		want := s.buf[:min(int64(len(s.buf)), s.n-off)]
		s.len = 0
		if err := fill(s.r, want, off); err != nil {
			return nil, err
		}
		s.off, s.len = off, len(want)
	}
	return s.buf[off-s.off : s.len], nil
}

// swapper reverses the bytes of each element.
type swapper struct {
	r    io.Reader
	size int
	buf  []byte // whole elements, already swapped
	rest []byte
}

func (s *swapper) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.buf == nil {
			s.buf = make([]byte, 64<<10)
		}
		n, err := io.ReadFull(s.r, s.buf)
		if n == 0 || n%s.size != 0 {
			return 0, err
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return 0, err
		}
		s.rest = s.buf[:n]
		for i := 0; i < n; i += s.size {
			slices.Reverse(s.rest[i : i+s.size])
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
