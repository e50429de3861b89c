package eval

import (
	"context"
	"fmt"
	"slices"

	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// features is a matrix [n,dim] with a name per row.
type features struct {
	rows []float32
	dim  int
	keys []string
	// captions of each row, where the data has them.
	captions [][]string
}

func (f *features) n() int { return len(f.rows) / f.dim }

func (f *features) row(i int) []float32 { return f.rows[i*f.dim : (i+1)*f.dim] }

// unit is a copy with rows of length 1.
func (f *features) unit() (*features, error) {
	u := &features{rows: slices.Clone(f.rows), dim: f.dim, keys: f.keys}
	for i := range u.n() {
		if !normalize(u.row(i)) {
			return nil, fault.Inputf("%s: the model's output is zero or not finite; check the weights", f.key(i))
		}
	}
	return u, nil
}

func (f *features) key(i int) string {
	if i < len(f.keys) {
		return f.keys[i]
	}
	return fmt.Sprintf("row %d", i)
}

// feed says how images and texts are passed to an encoder.
type feed struct {
	images, texts int // of a call
	workers       int
	limit         int // images; 0: all
	maxBad        int
	meter         Meters
}

func (f feed) start(label string, total int64, unit string) Meter {
	if f.meter == nil {
		return noMeter{}
	}
	return f.meter(label, total, unit)
}

// blocks is a runner that adds every block's output to a list.
type blocks struct {
	*clip.Runner
	to *tensorList
}

func (b blocks) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	return b.keep(b.ImageBlocks(ctx, flat, n))
}

func (b blocks) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	return b.keep(b.TextBlocks(ctx, tokens, n))
}

func (b blocks) keep(features []float32, list []clip.Block, err error) ([]float32, error) {
	for _, x := range list {
		b.to.extend(x.Name, x.Data, x.Shape)
	}
	return features, err
}

// embedImages encodes all images; those that do not decode have no row.
func embedImages(ctx context.Context, enc encoder, s source, o feed) (*features, []Skipped, error) {
	f := &features{dim: enc.Config().EmbedDim}
	skipped := []Skipped{}
	n := s.Len()
	if o.limit > 0 {
		n = min(n, o.limit)
	}
	ids := make([]int, n)
	for i := range ids {
		ids[i] = i
	}
	meter := o.start("images", int64(len(ids)), "images")
	defer meter.Done()
	size := enc.Config().Vision.ImageSize
	pixels := 3 * size * size
	_, err := load(ctx, s, ids, o.images, pixels, o.workers, func(b *batchOf) error {
		rows, err := enc.Images(ctx, b.pixels[:len(b.ids)*pixels], len(b.ids))
		if err != nil {
			return err
		}
		for i := range b.ids {
			if b.bad[i] != nil {
				skipped = append(skipped, Skipped{b.ids[i], b.got[i].Key, fault.Line(b.bad[i])})
				continue
			}
			f.rows = append(f.rows, rows[i*f.dim:(i+1)*f.dim]...)
			f.keys = append(f.keys, b.got[i].Key)
			f.captions = append(f.captions, b.got[i].Captions)
		}
		meter.Add(int64(len(b.ids)))
		if len(skipped) > o.maxBad {
			return fault.Inputf("too many images do not decode (%d, Options.MaxBad allows %d); the first is %s: %s", len(skipped), o.maxBad, skipped[0].Key, skipped[0].Reason)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if len(f.rows) == 0 {
		return nil, nil, fault.Inputf("no image decodes; the first is %s: %s", skipped[0].Key, skipped[0].Reason)
	}
	return f, skipped, nil
}

// embedTokens encodes n rows of tokens.
func embedTokens(ctx context.Context, enc encoder, tokens []int32, n int, o feed) (*features, error) {
	f := &features{dim: enc.Config().EmbedDim}
	width := enc.Config().Text.ContextLength
	meter := o.start("texts", int64(n), "texts")
	defer meter.Done()
	for lo := 0; lo < n; lo += o.texts {
		k := min(o.texts, n-lo)
		rows, err := enc.Texts(ctx, tokens[lo*width:(lo+k)*width], k)
		if err != nil {
			return nil, err
		}
		f.rows = append(f.rows, rows[:k*f.dim]...)
		meter.Add(int64(k))
	}
	return f, nil
}

// tensorList is what goes into the output file.
type tensorList []tensorfile.Tensor

func (l *tensorList) add(name string, flat []float32, shape ...int) {
	dims := make([]int64, len(shape))
	for i, d := range shape {
		dims[i] = int64(d)
	}
	*l = append(*l, tensorfile.Tensor{Info: tensorfile.Info{Name: name, DType: tensorfile.F32, Shape: dims}, Data: tensorfile.EncodeFloat32s(flat)})
}

// extend appends rows to the tensor of that name, or adds it.
func (l *tensorList) extend(name string, flat []float32, shape []int64) {
	for i := range *l {
		if t := &(*l)[i]; t.Name == name {
			t.Data = append(t.Data, tensorfile.EncodeFloat32s(flat)...)
			t.Shape[0] += shape[0]
			return
		}
	}
	*l = append(*l, tensorfile.Tensor{Info: tensorfile.Info{Name: name, DType: tensorfile.F32, Shape: slices.Clone(shape)}, Data: tensorfile.EncodeFloat32s(flat)})
}
