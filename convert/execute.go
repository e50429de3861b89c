package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

const (
	workers   = 2       // tensors in flight
	chunkSize = 1 << 18 // bytes, to stay in a core's cache; with the read-back there are two per worker
	flushSize = 8 << 20 // bytes after which the disk is set to work
)

// job writes a plan's tensors to one or more files and proves them.
type job struct {
	src      tensorfile.Source
	items    []*item
	metadata map[string]string
	saturate bool
	progress func(done, total int64)

	files []*output
	where []slot   // of item i
	sums  []string // SHA-256 of item i
	total int64
	done  atomic.Int64
}

// slot is the place of a tensor.
type slot struct{ file, index int }

// create makes the temporary files: one, or shards of at most shardSize bytes.
// The items end up in file order.
func (j *job) create(path string, shardSize int64) error {
	infos := make([]tensorfile.Info, len(j.items))
	byName := map[string]*item{}
	for i, it := range j.items {
		infos[i] = it.out
		byName[it.out.Name] = it
		j.total += it.out.NumBytes()
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

// each calls f for every item, a few at a time; each worker has its buffers.
func (j *job) each(ctx context.Context, f func(ctx context.Context, i int, a, b []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers {
		g.Go(func() error {
			a, b := make([]byte, chunkSize), make([]byte, chunkSize)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(j.items) {
					return nil
				}
				if err := f(ctx, i, a, b); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// write streams every tensor to its place and hashes it.
func (j *job) write(ctx context.Context) error {
	return j.each(ctx, func(ctx context.Context, i int, buf, _ []byte) error {
		it, o := j.items[i], j.files[j.where[i].file]
		at := o.at[j.where[i].index]
		flushed := at
		h := sha256.New()
		err := j.stream(ctx, it, buf, func(b []byte) error {
			if _, err := o.f.WriteAt(b, at); err != nil {
				return o.fail(err)
			}
			at += int64(len(b))
			if at-flushed >= flushSize {
				writeBack(o.f, flushed, at-flushed)
				flushed = at
			}
			h.Write(b)
			if n := j.done.Add(int64(len(b))); j.progress != nil {
				j.progress(n, j.total)
			}
			return nil
		})
		j.sums[i] = hex.EncodeToString(h.Sum(nil))
		writeBack(o.f, flushed, at-flushed)
		return err
	})
}

// verify reads the files back and compares every byte with the sources.
func (j *job) verify(ctx context.Context) error {
	return j.each(ctx, func(ctx context.Context, i int, buf, back []byte) error {
		it, o := j.items[i], j.files[j.where[i].file]
		at := o.at[j.where[i].index]
		return j.stream(ctx, it, buf, func(b []byte) error {
			if _, err := o.f.ReadAt(back[:len(b)], at); err != nil {
				return o.fail(err)
			}
			if !bytes.Equal(b, back[:len(b)]) {
				return fault.Envf("%s: %s reads back other bytes than the source has now; either the disk fails or the source has changed, try again", o.path, it.out.Name)
			}
			at += int64(len(b))
			return nil
		})
	})
}

// stream gives the bytes of an output tensor to f, all of them and no more.
func (j *job) stream(ctx context.Context, it *item, buf []byte, f func([]byte) error) error {
	src := j.src
	if it.in != nil {
		src = it.in
	}
	r, err := it.open(src, j.saturate)
	if err != nil {
		return err
	}
	defer r.Close()
	for left := it.out.NumBytes(); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if int64(n) > left {
			return fault.Inputf("%s: more bytes than its shape %v has", it.out.Name, it.out.Shape)
		}
		left -= int64(n)
		if ferr := f(buf[:n]); ferr != nil {
			return ferr
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if left > 0 {
				return fault.Inputf("%s: the source ends %d bytes early", it.out.Name, left)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// commit publishes the files, and for shards the index, which makes them one.
func (j *job) commit(path string) (written []string, err error) {
	for _, o := range j.files {
		if err := o.sync(); err != nil {
			return nil, err
		}
	}
	var index []byte
	if len(j.files) > 1 {
		weights := map[string]string{}
		for i, it := range j.items {
			weights[it.out.Name] = filepath.Base(j.files[j.where[i].file].path)
		}
		index = mustJSON(map[string]any{"metadata": map[string]int64{"total_size": j.total}, "weight_map": weights})
	}
	for _, o := range j.files {
		if err := o.commit(); err != nil {
			// No half of a set of shards.
			for _, p := range written {
				os.Remove(p)
			}
			return nil, err
		}
		written = append(written, o.path)
	}
	if index != nil {
		if err := writeAtomic(indexName(path), index); err != nil {
			return nil, err
		}
	}
	return written, nil
}

// tensors lists what was written.
func (j *job) tensors() []Tensor {
	var out []Tensor
	for i, it := range j.items {
		out = append(out, Tensor{it.out.Name, it.sources(), string(it.out.DType), shapeOf(it.out), j.sums[i]})
	}
	return out
}

func (j *job) discard() {
	for _, o := range j.files {
		o.discard()
	}
}

// hashFile is the SHA-256 of a file that must not change meanwhile.
func hashFile(ctx context.Context, path string) (SourceFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return SourceFile{}, fault.File(path, wantCheckpoint, err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return SourceFile{}, fault.File(path, wantCheckpoint, err)
	}
	h, buf := sha256.New(), make([]byte, chunkSize)
	n := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return SourceFile{}, err
		}
		k, err := f.Read(buf)
		h.Write(buf[:k])
		n += int64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			return SourceFile{}, fault.File(path, wantCheckpoint, err)
		}
	}
	if n != before.Size() {
		return SourceFile{}, changed(path)
	}
	return SourceFile{File: path, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

func changed(path string) error {
	return fault.Inputf("%s has changed while it was read; try again when nobody writes it", path)
}
