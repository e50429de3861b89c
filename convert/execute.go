package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

const (
	workers   = 2       // tensors being copied at a time, and as many being verified
	chunkSize = 1 << 18 // bytes, to stay in a core's cache
	// ahead tensors may be copied but not yet verified: enough to keep the disk
	// busy, few enough to still be in the page cache.
	ahead = 128
	// syncSize bytes are worth a sync during the copy. Merely starting the
	// write-back is not enough: disks with a cache of their own would then do most
	// of the work in the final sync.
	syncSize = 16 << 20
)

// transfer writes items to one or more files and verifies them.
type transfer struct {
	items    []*checkpoint.Item
	metadata map[string]string
	saturate bool
	progress func(done, total int64)
	keep     bool     // existing files are not overwritten
	sources  []string // files to hash along the way

	path   string // of the output
	files  []*output
	place  []place  // place[i] is that of item i
	sums   []string // sums[i] is the SHA-256 of item i
	hashed []SourceFile
	total  int64
	done   atomic.Int64

	copied []event // item i is in its place
	proven []event // and equals the source
}

// place is a tensor's place in the output: the nth of a file.
type place struct{ file, n int }

// event is something that happens once.
type event chan struct{}

func newEvents(n int) []event {
	events := make([]event, n)
	for i := range events {
		events[i] = make(event)
	}
	return events
}

func (e event) happens() { close(e) }

// wait returns once e has happened or the context has ended.
func (e event) wait(ctx context.Context) error {
	select {
	case <-e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// create creates the temporary files: one, or shards of at most shardSize bytes.
// It puts the items in file order.
func (t *transfer) create(path string, shardSize int64) error {
	t.path = path
	infos := make([]tensorfile.Info, len(t.items))
	byName := map[string]*checkpoint.Item{}
	for i, it := range t.items {
		infos[i] = it.Out
		byName[it.Out.Name] = it
		t.total += it.Out.NumBytes()
	}
	groups := [][]tensorfile.Info{infos}
	if shardSize > 0 && t.total > shardSize {
		groups = shards(infos, shardSize)
	}
	t.items = t.items[:0]
	for g, group := range groups {
		group = tensorfile.Layout(group)
		for n, info := range group {
			t.items = append(t.items, byName[info.Name])
			t.place = append(t.place, place{g, n})
		}
		name := path
		if len(groups) > 1 {
			name = shardName(path, g, len(groups))
		}
		o, err := newOutput(name, group, t.metadata)
		if err != nil {
			return err
		}
		t.files = append(t.files, o)
	}
	t.sums = make([]string, len(t.items))
	return nil
}

// shards fills files one after another.
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

// run copies every tensor to its place and verifies it. The copy is quick and
// runs ahead, so that the disk gets its work early; the verification follows, and
// syncs keep the disk busy alongside both.
//
// There is no deadlock, because all go through the items in one order. The copy of
// an item waits for the verification of the item ahead places before it; the
// verification of an item waits for its copy, and for those before it in its own
// list, which is a subsequence of that order. So everyone waits only for earlier
// items, and the earliest waits for nothing. Syncs are offered, never waited for.
func (t *transfer) run(ctx context.Context) error {
	order, inFiles, rest := t.route()
	t.copied, t.proven = newEvents(len(t.items)), newEvents(len(t.items))
	written := make(chan *output, 1) // files with something to sync
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(written)
		return inTurn(ctx, len(order), func(ctx context.Context, k int, buf, _ []byte) error {
			if k >= ahead {
				if err := t.proven[order[k-ahead]].wait(ctx); err != nil {
					return err
				}
			}
			return t.copy(ctx, order[k], buf, written)
		})
	})
	g.Go(func() error {
		for k, path := range t.sources {
			s, err := t.walk(ctx, path, inFiles[k])
			if err != nil {
				return err
			}
			t.hashed = append(t.hashed, s)
		}
		return nil
	})
	g.Go(func() error {
		return inTurn(ctx, len(rest), func(ctx context.Context, k int, buf, back []byte) error {
			return t.prove(ctx, rest[k], buf, back)
		})
	})
	g.Go(func() error {
		for o := range written {
			if err := o.Sync(); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// inTurn calls f for 0 to n-1 in order, a few at a time; each worker has its own
// buffers.
func inTurn(ctx context.Context, n int, f func(ctx context.Context, k int, a, b []byte) error) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			a, b := make([]byte, chunkSize), make([]byte, chunkSize)
			for {
				k := int(next.Add(1)) - 1
				if k >= n {
					return nil
				}
				if err := f(ctx, k, a, b); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// copy streams a tensor to its place, checking the source's checksums.
func (t *transfer) copy(ctx context.Context, i int, buf []byte, written chan<- *output) error {
	it, o := t.items[i], t.files[t.place[i].file]
	at := o.at[t.place[i].n]
	r, err := it.Open(t.saturate)
	if err != nil {
		return err
	}
	err = stream(ctx, it, r, buf, func(b []byte) error {
		if _, err := o.WriteAt(b, at); err != nil {
			return tooLarge(err)
		}
		at += int64(len(b))
		n := t.done.Add(int64(len(b)))
		if n/syncSize > (n-int64(len(b)))/syncSize {
			select {
			case written <- o:
			default: // the disk is busy
			}
		}
		if t.progress != nil {
			t.progress(n, t.total)
		}
		return nil
	})
	if err == nil {
		t.copied[i].happens()
	}
	return err
}

// prove reads a copied tensor back, compares every byte with the source and
// hashes it.
func (t *transfer) prove(ctx context.Context, i int, buf, back []byte) error {
	if err := t.copied[i].wait(ctx); err != nil {
		return err
	}
	it := t.items[i]
	r, ok := it.Direct()
	if !ok {
		var err error
		if r, err = it.Open(t.saturate); err != nil {
			return err
		}
	}
	h, done := sha256.New(), int64(0)
	err := stream(ctx, it, r, buf, func(b []byte) error {
		if err := t.compare(i, done, b, back); err != nil {
			return err
		}
		done += int64(len(b))
		h.Write(b)
		return nil
	})
	if err == nil {
		t.settle(i, h)
	}
	return err
}

// compare reads item i back at byte off and expects want.
func (t *transfer) compare(i int, off int64, want, back []byte) error {
	o := t.files[t.place[i].file]
	back = back[:len(want)]
	if _, err := o.ReadAt(back, o.at[t.place[i].n]+off); err != nil {
		return err
	}
	if !bytes.Equal(want, back) {
		return fault.Envf("%s: tensor %s reads back different from the source; either the disk is failing or the source has changed: try again", o.Path(), t.items[i].Out.Name)
	}
	return nil
}

// settle records the hash of an item that is verified.
func (t *transfer) settle(i int, h hash.Hash) {
	t.sums[i] = hex.EncodeToString(h.Sum(nil))
	t.proven[i].happens()
}

// stream passes exactly one output tensor from r to f, and closes r.
func stream(ctx context.Context, it *checkpoint.Item, r io.ReadCloser, buf []byte, f func([]byte) error) error {
	defer r.Close()
	for left := it.Out.NumBytes(); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if int64(n) > left {
			return fault.Inputf("tensor %s: the source has more bytes than the shape %v takes", it.Out.Name, it.Out.Shape)
		}
		left -= int64(n)
		if ferr := f(buf[:n]); ferr != nil {
			return ferr
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if left > 0 {
				return fault.Inputf("tensor %s: the source ends %d bytes early", it.Out.Name, left)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// commit publishes the files together with the small ones that belong to them:
// the index of the shards, and those in beside. All or none.
func (t *transfer) commit(beside ...small) error {
	var all []*atomicfile.File
	for _, o := range t.files {
		if err := o.Sync(); err != nil {
			return err
		}
		o.New = t.keep
		all = append(all, o.File)
	}
	if len(t.files) > 1 {
		weights := map[string]string{}
		for i, it := range t.items {
			weights[it.Out.Name] = filepath.Base(t.files[t.place[i].file].Path())
		}
		index := mustJSON(map[string]any{"metadata": map[string]int64{"total_size": t.total}, "weight_map": weights})
		beside = slices.Insert(beside, 0, small{indexName(t.path), index})
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
			// Leave no partial set.
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
func (t *transfer) tensors() []Tensor {
	var out []Tensor
	for i, it := range t.items {
		out = append(out, Tensor{it.Out.Name, it.Sources(), string(it.Out.DType), shapeOf(it.Out), t.sums[i]})
	}
	return out
}

// outputs lists the files.
func (t *transfer) outputs() (out []OutputFile) {
	for _, o := range t.files {
		out = append(out, OutputFile{o.Path(), o.size})
	}
	return out
}

func (t *transfer) discard() {
	for _, o := range t.files {
		o.Discard()
	}
}

// output is a safetensors file being written.
type output struct {
	*atomicfile.File
	tensors []tensorfile.Info
	head    int64   // bytes of the header
	at      []int64 // at[i] is where tensor i starts in the file
	size    int64
}

// newOutput creates the temporary file at its full size and writes the header.
func newOutput(path string, tensors []tensorfile.Info, metadata map[string]string) (*output, error) {
	head, err := header(tensors, metadata)
	if err != nil {
		return nil, err
	}
	o := &output{tensors: tensors, head: int64(len(head)), size: int64(len(head))}
	for _, t := range tensors {
		o.at = append(o.at, o.size)
		o.size += t.NumBytes()
	}
	if o.File, err = atomicfile.Create(path); err != nil {
		return nil, err
	}
	if err := o.Reserve(o.size); err != nil {
		o.Discard()
		return nil, tooLarge(err)
	}
	if _, err := o.WriteAt(head, 0); err != nil {
		o.Discard()
		return nil, err
	}
	return o, nil
}

// tooLarge adds advice on smaller files to the error of a file that is too large.
func tooLarge(err error) error {
	if errors.Is(err, syscall.EFBIG) {
		return fault.As(fault.Environment, fmt.Errorf("%w, or use Options.ShardSize", err))
	}
	return err
}

// header is the start of a safetensors file.
func header(tensors []tensorfile.Info, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	if _, err := tensorfile.NewWriter(&b, tensors, metadata); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// rewriteHeader changes metadata values; the length of the header must not change.
func (o *output) rewriteHeader(metadata map[string]string) error {
	head, err := header(o.tensors, metadata)
	if err != nil {
		return err
	}
	if int64(len(head)) != o.head {
		return fmt.Errorf("%s: the rewritten header differs in length", o.Path())
	}
	_, err = o.WriteAt(head, 0)
	return err
}
