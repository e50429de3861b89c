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

// extent is a tensor whose bytes a source file has in one piece, as the output
// has them.
type extent struct {
	item int
	at   int64
}

// route is the order in which the items are copied, that of their bytes in the
// sources, and for each source the extents in it, from start to end. One that
// overlaps an earlier one is left out.
func (j *job) route() (<-chan int, [][]extent) {
	file := map[string]int{}
	for k, path := range j.sources {
		file[path] = k
	}
	type place struct {
		extent
		file int
		one  bool // the item is one extent
	}
	places := make([]place, len(j.items))
	for i, it := range j.items {
		p := place{extent: extent{i, math.MaxInt64}, file: len(j.sources)}
		if f, at, ok := it.Begins(); ok {
			if k, ok := file[f.Name()]; ok {
				p.at, p.file = at, k
				_, _, p.one = it.Extent()
			}
		}
		places[i] = p
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.at, b.at)) })
	order := make(chan int, len(places))
	defer close(order)
	extents := make([][]extent, len(j.sources))
	ends := make([]int64, len(j.sources))
	for _, p := range places {
		order <- p.item
		if p.one && p.at >= ends[p.file] {
			extents[p.file] = append(extents[p.file], p.extent)
			ends[p.file] = p.at + j.items[p.item].Out.NumBytes()
		}
	}
	return order, extents
}

// walk hashes a source file from its start to its end, and on the way proves
// and hashes the tensors in it, each when it is copied. One goroutine reads and
// compares, the other hashes.
func (j *job) walk(ctx context.Context, path string, tensors []extent) (SourceFile, error) {
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
	w := &walker{job: j, ctx: ctx, f: f, pieces: make(chan piece, 2), free: make(chan []byte, 4)}
	for range cap(w.free) {
		w.free <- make([]byte, chunkSize)
	}
	g.Go(func() error {
		defer close(w.pieces)
		return w.read(st.Size(), tensors)
	})
	sum := sha256.New()
	g.Go(func() error { w.hash(sum); return nil })
	if err := g.Wait(); err != nil {
		return SourceFile{}, err
	}
	return SourceFile{File: path, Size: st.Size(), SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

type walker struct {
	*job
	ctx    context.Context
	f      *os.File
	pos    int64
	pieces chan piece
	free   chan []byte
}

// piece is a part of the file.
type piece struct {
	bytes []byte
	item  int  // whose bytes these are, or none
	end   bool // of the item
}

const none = -1

func (w *walker) read(size int64, tensors []extent) error {
	back := make([]byte, chunkSize)
	for _, t := range tensors {
		if err := w.stretch(t.at, none, nil); err != nil {
			return err
		}
		select {
		case <-w.copied[t.item]:
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
		if err := w.stretch(t.at+w.items[t.item].Out.NumBytes(), t.item, back); err != nil {
			return err
		}
	}
	if err := w.stretch(size, none, nil); err != nil {
		return err
	}
	if n, err := w.f.Read(back[:1]); n > 0 || err != io.EOF {
		return checkpoint.Changed(w.f.Name())
	}
	return nil
}

// stretch reads up to a position, and compares what it reads with an item.
func (w *walker) stretch(end int64, item int, back []byte) error {
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
			return checkpoint.Changed(w.f.Name())
		} else if err != nil {
			return fault.File(w.f.Name(), checkpoint.Want, err)
		}
		if item != none {
			if err := w.compare(item, w.pos-start, buf, back); err != nil {
				return err
			}
		}
		w.pos += int64(len(buf))
		select {
		case w.pieces <- piece{buf, item, w.pos == end}:
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
	}
	return nil
}

// hash takes the pieces into the file's hash and into that of the tensor.
func (w *walker) hash(file hash.Hash) {
	tensor := sha256.New()
	for p := range w.pieces {
		if p.item == none {
			file.Write(p.bytes)
		} else {
			digest.Write(file, tensor, p.bytes)
			if p.end {
				w.proven(p.item, tensor)
				tensor.Reset()
			}
		}
		w.free <- p.bytes[:chunkSize]
	}
}
