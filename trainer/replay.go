package trainer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// replayed is the tensors source: ready batches in order.
type replayed struct {
	steps       int64
	batches     []hostBatch
	fingerprint string // of the file
}

// openTensors reads images [steps, batch, 3, H, W] and tokens [steps, batch,
// context]; keep_indices [steps, batch, kept] fixes patch dropout.
func openTensors(path string, r *Recipe, cfg *arch.Config) (*replayed, error) {
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	shapes := map[string][]int64{}
	for _, t := range f.Tensors() {
		shapes[t.Name] = t.Shape
	}
	size, ctx, b := int64(r.Image.Size), int64(cfg.Text.ContextLength), int64(r.Batch)
	want := func(name string, row ...int64) (int64, error) {
		s := shapes[name]
		if len(s) != len(row)+1 || s[0] < 1 {
			return 0, fault.Inputf("%s: %s has shape %v; want [steps %s]", path, name, s, strings.Trim(fmt.Sprint(row), "[]"))
		}
		for i := range row {
			if s[i+1] != row[i] {
				return 0, fault.Inputf("%s: %s has shape %v; want [steps %s]", path, name, s, strings.Trim(fmt.Sprint(row), "[]"))
			}
		}
		return s[0], nil
	}
	steps, err := want("images", b, 3, size, size)
	if err != nil {
		return nil, err
	}
	if n, err := want("tokens", b, ctx); err != nil || n != steps {
		return nil, fault.Inputf("%s: tokens has shape %v; want [%d %d %d]", path, shapes["tokens"], steps, b, ctx)
	}
	images, err := tensorfile.Float32s(f, "images")
	if err != nil {
		return nil, err
	}
	tokens, err := readInts(f, path, "tokens", int64(cfg.Text.VocabSize))
	if err != nil {
		return nil, err
	}
	var keep []int32
	if _, ok := shapes["keep_indices"]; ok && r.PatchDropout > 0 {
		if n, err := want("keep_indices", b, int64(r.kept(cfg))); err != nil || n != steps {
			return nil, fault.Inputf("%s: keep_indices has shape %v; want [%d %d %d]", path, shapes["keep_indices"], steps, b, r.kept(cfg))
		}
		if keep, err = readInts(f, path, "keep_indices", int64(cfg.Tokens()-1)); err != nil {
			return nil, err
		}
	}
	sum, _, err := digest.File(context.Background(), path, "ready batches")
	if err != nil {
		return nil, err
	}
	out := &replayed{steps: steps, fingerprint: "tensors " + sum}
	for s := range int(steps) {
		hb := hostBatch{floats: share(images, s, int(steps)), tokens: share(tokens, s, int(steps))}
		if keep != nil {
			hb.keep = share(keep, s, int(steps))
		}
		out.batches = append(out.batches, hb)
	}
	return out, nil
}

// share is the ith of n equal pieces.
func share[T any](flat []T, i, n int) []T { return flat[i*len(flat)/n : (i+1)*len(flat)/n] }

// readInts reads an I64 or I32 tensor of values below limit.
func readInts(f tensorfile.Source, path, name string, limit int64) ([]int32, error) {
	values, err := tensorfile.Int64s(f, name)
	if err != nil {
		return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", path, err))
	}
	out := make([]int32, len(values))
	for i, v := range values {
		if v < 0 || v >= limit {
			return nil, fault.Inputf("%s: %s: value %d; want 0 to %d", path, name, v, limit-1)
		}
		out[i] = int32(v)
	}
	return out, nil
}

// tensorFeed is the feed of a tensors source.
type tensorFeed struct {
	*replayed
	at    int64
	batch int      // pairs of a whole batch
	own   rowRange // of the process
}

func (t *tensorFeed) next(context.Context) (*hostBatch, time.Duration, error) {
	b := t.batches[t.at]
	t.at++
	return &hostBatch{floats: rowsOf(b.floats, t.own, t.batch), tokens: rowsOf(b.tokens, t.own, t.batch), keep: rowsOf(b.keep, t.own, t.batch)}, 0, nil
}

func (t *tensorFeed) done(*hostBatch) {}
func (t *tensorFeed) close()          {}

// replays reports whether the batches fix patch dropout.
func (t *tensorFeed) replays() bool { return t != nil && t.batches[0].keep != nil }
