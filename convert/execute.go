package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

const (
	workers   = 2       // tensors in flight, for the copy and for the proof of others
	chunkSize = 1 << 18 // bytes, to stay in a core's cache
	// ahead tensors may be copied and not yet proven: enough for the disk to be
	// busy, and as many as memory surely still has.
	ahead = 128
	// syncSize bytes are worth a sync while the copy goes on. Merely to start
	// the write-back is not enough: disks with a cache of their own then do
	// most of the work in the sync at the end.
	syncSize = 16 << 20
)

// job writes a plan's tensors to one or more files and proves them.
type job struct {
	items    []*checkpoint.Item
	metadata map[string]string
	saturate bool
	progress func(done, total int64)
	keep     bool     // what is there is not overwritten
	sources  []string // files to hash on the way

	path   string // of the output
	files  []*output
	where  []slot   // of item i
	sums   []string // SHA-256 of item i
	hashed []SourceFile
	total  int64
	done   atomic.Int64

	written chan *output    // files with something for the disk
	copied  []chan struct{} // closed when item i is, where walk waits for it
	room    chan struct{}   // holds an element per item that is not yet proven
}

// slot is the place of a tensor.
type slot struct{ file, index int }

// create makes the temporary files: one, or shards of at most shardSize bytes.
// The items end up in file order.
func (j *job) create(path string, shardSize int64) error {
	j.path = path
	infos := make([]tensorfile.Info, len(j.items))
	byName := map[string]*checkpoint.Item{}
	for i, it := range j.items {
		infos[i] = it.Out
		byName[it.Out.Name] = it
		j.total += it.Out.NumBytes()
	}
	groups := [][]tensorfile.Info{infos}
	if shardSize > 0 && j.total > shardSize {
		groups = shards(infos, shardSize)
	}
	j.items = j.items[:0]
	for g, group := range groups {
		group = tensorfile.Layout(group)
		for i, t := range group {
			j.items = append(j.items, byName[t.Name])
			j.where = append(j.where, slot{g, i})
		}
		name := path
		if len(groups) > 1 {
			name = shardName(path, g, len(groups))
		}
		o, err := newOutput(name, group, j.metadata)
		if err != nil {
			return err
		}
		j.files = append(j.files, o)
	}
	j.sums = make([]string, len(j.items))
	return nil
}

// shards fills files one after the other.
func shards(infos []tensorfile.Info, size int64) (groups [][]tensorfile.Info) {
	left := int64(0)
	for _, t := range infos {
		if n := t.NumBytes(); len(groups) == 0 || n > left {
			groups = append(groups, nil)
			left = size
		}
		left -= t.NumBytes()
		groups[len(groups)-1] = append(groups[len(groups)-1], t)
	}
	return groups
}

// shardName is Hugging Face's name for a shard of model.safetensors.
func shardName(path string, i, n int) string {
	base := strings.TrimSuffix(path, ".safetensors")
	return fmt.Sprintf("%s-%05d-of-%05d.safetensors", base, i+1, n)
}

// indexName is Hugging Face's name for the index of these shards.
func indexName(path string) string {
	return strings.TrimSuffix(path, ".safetensors") + ".safetensors.index.json"
}

// transfer copies every tensor to its place and proves it. The copy, which is
// quick, runs ahead, so that the disk has its work early; the proof follows,
// and syncs make the disk work beside both.
func (j *job) transfer(ctx context.Context) error {
	order, inFiles := j.route()
	j.room = make(chan struct{}, ahead)
	j.copied = make([]chan struct{}, len(j.items))
	for _, tensors := range inFiles {
		for _, t := range tensors {
			j.copied[t.item] = make(chan struct{})
		}
	}
	j.written = make(chan *output, 1)
	others := make(chan int, len(j.items)) // are proven one by one
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(j.written)
		defer close(others)
		return j.each(ctx, order, func(ctx context.Context, i int, a, b []byte) error {
			select {
			case j.room <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := j.write(ctx, i, a, b); err != nil {
				return err
			}
			if j.copied[i] != nil {
				close(j.copied[i])
			} else {
				others <- i
			}
			return nil
		})
	})
	g.Go(func() error { return j.each(ctx, others, j.prove) })
	g.Go(func() error {
		for k, path := range j.sources {
			s, err := j.walk(ctx, path, inFiles[k])
			if err != nil {
				return err
			}
			j.hashed = append(j.hashed, s)
		}
		return nil
	})
	g.Go(func() error {
		for o := range j.written {
			if err := o.Sync(); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// each calls f for the items from a channel, a few at a time; each worker has
// its buffers.
func (j *job) each(ctx context.Context, items <-chan int, f func(ctx context.Context, i int, a, b []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			a, b := make([]byte, chunkSize), make([]byte, chunkSize)
			for i := range items {
				if err := f(ctx, i, a, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// write streams a tensor to its place, past the source's checksums.
func (j *job) write(ctx context.Context, i int, buf, _ []byte) error {
	it, o := j.items[i], j.files[j.where[i].file]
	at := o.at[j.where[i].index]
	r, err := it.Open(j.saturate)
	if err != nil {
		return err
	}
	return stream(ctx, it, r, buf, func(b []byte) error {
		if _, err := o.WriteAt(b, at); err != nil {
			return tooLarge(err)
		}
		at += int64(len(b))
		n := j.done.Add(int64(len(b)))
		if n/syncSize > (n-int64(len(b)))/syncSize {
			select {
			case j.written <- o:
			default: // the disk is busy
			}
		}
		if j.progress != nil {
			j.progress(n, j.total)
		}
		return nil
	})
}

// prove reads a tensor back, compares every byte with the source's, and hashes
// it.
func (j *job) prove(ctx context.Context, i int, buf, back []byte) error {
	it := j.items[i]
	r, ok := it.Direct()
	if !ok {
		var err error
		if r, err = it.Open(j.saturate); err != nil {
			return err
		}
	}
	h, done := sha256.New(), int64(0)
	err := stream(ctx, it, r, buf, func(b []byte) error {
		if err := j.compare(i, done, b, back); err != nil {
			return err
		}
		done += int64(len(b))
		h.Write(b)
		return nil
	})
	j.proven(i, h)
	return err
}

// compare reads back what the output has of item i from byte off of it on.
func (j *job) compare(i int, off int64, want, back []byte) error {
	o := j.files[j.where[i].file]
	back = back[:len(want)]
	if _, err := o.ReadAt(back, o.at[j.where[i].index]+off); err != nil {
		return err
	}
	if !bytes.Equal(want, back) {
		return fault.Envf("%s: %s reads back other bytes than the source has now; either the disk fails or the source has changed, try again", o.Path(), j.items[i].Out.Name)
	}
	return nil
}

// proven notes an item's hash and makes room for another.
func (j *job) proven(i int, h hash.Hash) {
	j.sums[i] = hex.EncodeToString(h.Sum(nil))
	<-j.room
}

// stream gives what r has of an output tensor to f, all of it and no more, and
// closes r.
func stream(ctx context.Context, it *checkpoint.Item, r io.ReadCloser, buf []byte, f func([]byte) error) error {
	defer r.Close()
	for left := it.Out.NumBytes(); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if int64(n) > left {
			return fault.Inputf("%s: more bytes than its shape %v has", it.Out.Name, it.Out.Shape)
		}
		left -= int64(n)
		if ferr := f(buf[:n]); ferr != nil {
			return ferr
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if left > 0 {
				return fault.Inputf("%s: the source ends %d bytes early", it.Out.Name, left)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// commit publishes the files, and with them the small ones that belong to them:
// the index, which makes shards one, and what is in beside. All or none.
func (j *job) commit(beside ...small) error {
	var all []*atomicfile.File
	for _, o := range j.files {
		if err := o.Sync(); err != nil {
			return err
		}
		o.New = j.keep
		all = append(all, o.File)
	}
	if len(j.files) > 1 {
		weights := map[string]string{}
		for i, it := range j.items {
			weights[it.Out.Name] = filepath.Base(j.files[j.where[i].file].Path())
		}
		index := mustJSON(map[string]any{"metadata": map[string]int64{"total_size": j.total}, "weight_map": weights})
		beside = slices.Insert(beside, 0, small{indexName(j.path), index})
	}
	for _, b := range beside {
		f, err := atomicfile.Create(b.path)
		if err != nil {
			return err
		}
		defer f.Discard()
		if _, err := f.Write(b.content); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		all = append(all, f)
	}
	for i, f := range all {
		if err := f.Commit(); err != nil {
			// No half of a set.
			for _, f := range all[:i+1] {
				if f.Named() {
					os.Remove(f.Path())
				}
			}
			return err
		}
	}
	return nil
}

// small is a file written beside the tensors.
type small struct {
	path    string
	content []byte
}

// tensors lists what was written.
func (j *job) tensors() []Tensor {
	var out []Tensor
	for i, it := range j.items {
		out = append(out, Tensor{it.Out.Name, it.Sources(), string(it.Out.DType), shapeOf(it.Out), j.sums[i]})
	}
	return out
}

// outputs lists the files.
func (j *job) outputs() (out []OutputFile) {
	for _, o := range j.files {
		out = append(out, OutputFile{o.Path(), o.size})
	}
	return out
}

func (j *job) discard() {
	for _, o := range j.files {
		o.Discard()
	}
}
