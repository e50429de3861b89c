package convert

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
)

// extent is a tensor whose bytes lie in one piece in a source file, as they will
// in the output.
type extent struct {
	item int
	at   int64
}

// route returns the order in which the items are copied, which is that of their
// bytes in the sources; the extents in each source, from start to end; and the
// remaining items, which are not one extent or overlap an earlier one.
func (t *transfer) route() (order []int, extents [][]extent, rest []int) {
	file := map[string]int{}
	for k, path := range t.sources {
		file[path] = k
	}
	type origin struct {
		extent
		file  int
		whole bool // the item is one extent
	}
	origins := make([]origin, len(t.items))
	for i, it := range t.items {
		from := origin{extent: extent{i, math.MaxInt64}, file: len(t.sources)}
		if f, at, ok := it.Begins(); ok {
			if k, ok := file[f.Name()]; ok {
				from.at, from.file = at, k
				_, _, from.whole = it.Extent()
			}
		}
		origins[i] = from
	}
	slices.SortStableFunc(origins, func(a, b origin) int { return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.at, b.at)) })
	extents = make([][]extent, len(t.sources))
	ends := make([]int64, len(t.sources))
	for _, from := range origins {
		order = append(order, from.item)
		if from.whole && from.at >= ends[from.file] {
			extents[from.file] = append(extents[from.file], from.extent)
			ends[from.file] = from.at + t.items[from.item].Out.NumBytes()
		} else {
			rest = append(rest, from.item)
		}
	}
	return order, extents, rest
}

// walk hashes a source file from start to end, and along the way verifies and
// hashes the tensors in it, each once it is copied. One goroutine reads and
// compares, another hashes.
func (t *transfer) walk(ctx context.Context, path string, tensors []extent) (SourceFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return SourceFile{}, fault.File(path, checkpoint.Want, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return SourceFile{}, fault.File(path, checkpoint.Want, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	const blocks = 4
	w := &walker{transfer: t, ctx: ctx, f: f, read: make(chan block, blocks), free: make(chan []byte, blocks)}
	for range blocks {
		w.free <- make([]byte, chunkSize)
	}
	g.Go(func() error {
		defer close(w.read)
		return w.compareAll(st.Size(), tensors)
	})
	sum := sha256.New()
	g.Go(func() error { w.hash(sum); return nil })
	if err := g.Wait(); err != nil {
		return SourceFile{}, err
	}
	return SourceFile{File: path, Size: st.Size(), SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// walker reads a file and hashes it. Each of its channels has room for all
// blocks, so no send blocks; a reader without a free block waits for the hasher,
// which waits only for a block or the end.
type walker struct {
	*transfer
	ctx  context.Context
	f    *os.File
	pos  int64
	read chan block
	free chan []byte
}

// block is a part of the file.
type block struct {
	bytes []byte
	item  int  // the item whose bytes these are, or none
	last  bool // of the item
}

const none = -1

// compareAll reads the file and compares the tensors in it with their copies.
func (w *walker) compareAll(size int64, tensors []extent) error {
	back := make([]byte, chunkSize)
	for _, x := range tensors {
		if err := w.readTo(x.at, none, nil); err != nil {
			return err
		}
		if err := w.copied[x.item].wait(w.ctx); err != nil {
			return err
		}
		if err := w.readTo(x.at+w.items[x.item].Out.NumBytes(), x.item, back); err != nil {
			return err
		}
	}
	if err := w.readTo(size, none, nil); err != nil {
		return err
	}
	if n, err := w.f.Read(back[:1]); n > 0 || err != io.EOF {
		return digest.Changed(w.f.Name())
	}
	return nil
}

// readTo reads up to a position and compares what it reads with an item, if any.
func (w *walker) readTo(end int64, item int, back []byte) error {
	start := w.pos
	for first := true; w.pos < end || first && item != none; first = false {
		var buf []byte
		select {
		case buf = <-w.free:
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
		buf = buf[:min(chunkSize, end-w.pos)]
		if _, err := io.ReadFull(w.f, buf); err == io.EOF || err == io.ErrUnexpectedEOF {
			return digest.Changed(w.f.Name())
		} else if err != nil {
			return fault.File(w.f.Name(), checkpoint.Want, err)
		}
		if item != none {
			if err := w.compare(item, w.pos-start, buf, back); err != nil {
				return err
			}
		}
		w.pos += int64(len(buf))
		w.read <- block{buf, item, w.pos == end}
	}
	return nil
}

// hash adds the blocks to the file's hash and to the tensor's.
func (w *walker) hash(file hash.Hash) {
	tensor := sha256.New()
	for b := range w.read {
		if b.item == none {
			file.Write(b.bytes)
		} else {
			digest.Write(file, tensor, b.bytes)
			if b.last {
				w.settle(b.item, tensor)
				tensor.Reset()
			}
		}
		w.free <- b.bytes[:chunkSize]
	}
}
