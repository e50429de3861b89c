package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/shard"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/usercache"
)

// storedRows is how many images a file of the feature cache holds: the most that
// a kill costs.
const storedRows = 1024

// keptBytes is how large a set's features may be to stay in memory.
var keptBytes int64 = 1 << 30

// featureSet is the unit features of a set of images, in files. It is the
// logistic.Rows of the images that decode.
type featureSet struct {
	dim     int
	labels  []int // of the rows
	files   []storedFile
	rows    []float32 // all of them, or nil: they stay on the disk
	skipped []Skipped
	named   bool     // whether keys are kept
	keys    []string // of the rows, as the data names them
}

type storedFile struct {
	path  string
	first int // row
	n     int
}

// featureFolder is where features are kept.
func featureFolder(dir string) (string, error) {
	if dir == "" {
		return usercache.Features.Folder()
	}
	return dir, nil
}

// store encodes the features that are missing from part r.o.Shard of r.o.Shards
// of the set's files, and opens the set when that part is all of it.
func (r *run) store(ctx context.Context, dir, label string, perFile int, named bool) (*featureSet, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.File(dir, "a folder that can be written, as Options.Features", err)
	}
	s := &featureSet{dim: r.cfg.EmbedDim, named: named}
	n := r.data.Len()
	files := (n + perFile - 1) / perFile
	lo, hi := shard.Range(files, r.o.Shard, r.o.Shards)
	meter := r.o.Meter(label, int64(n), "images")
	defer meter.Done()
	for i := lo; i < hi; i++ {
		first, end := i*perFile, min((i+1)*perFile, n)
		path := filepath.Join(dir, storedName(r.key, i))
		if err := s.load(path, r.key); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				r.o.Log.Warn("cannot use the stored features; encoding the images again", "file", path, "error", fault.Line(err))
			}
			if err := r.encodeTo(ctx, path, storedPlace{i, files}, first, end); err != nil {
				return nil, err
			}
			if err := s.load(path, r.key); err != nil {
				return nil, err
			}
		}
		if len(s.skipped) > r.o.MaxBad {
			return nil, fault.Inputf("%s: too many images do not decode (%d, Options.MaxBad allows %d); the first is %s: %s", fault.Name(r.o.Data), len(s.skipped), r.o.MaxBad, fault.Name(s.skipped[0].Key), s.skipped[0].Reason)
		}
		meter.Add(int64(end - first))
	}
	if r.o.Shards > 1 {
		return s, nil
	}
	if len(s.labels) == 0 {
		return nil, fault.Inputf("%s: no image decodes", fault.Name(r.o.Data))
	}
	return s, s.keep()
}

// keep reads the features of a set that is not too large into memory.
func (s *featureSet) keep() error {
	if int64(len(s.labels))*int64(s.dim)*4 > keptBytes {
		return nil
	}
	rows := make([]float32, len(s.labels)*s.dim)
	if err := s.Read(rows, 0, len(s.labels)); err != nil {
		return err
	}
	s.rows = rows
	return nil
}

// encodeTo writes the features of images first to end.
func (r *run) encodeTo(ctx context.Context, path string, at storedPlace, first, end int) error {
	enc, err := r.encoder()
	if err != nil {
		return err
	}
	ids := make([]int, end-first)
	for i := range ids {
		ids[i] = first + i
	}
	var out stored
	dim, pixels := r.cfg.EmbedDim, 3*r.pre.Size*r.pre.Size
	_, err = load(ctx, r.data, ids, min(r.o.Batch, len(ids)), pixels, r.o.Workers, func(b *batchOf) error {
		rows, err := enc.Images(ctx, b.pixels[:len(b.ids)*pixels], len(b.ids))
		if err != nil {
			return err
		}
		for i, id := range b.ids {
			if b.got[i].Label < 0 {
				return fault.Inputf("%s: %s has no label; a probe needs one per image%s", fault.Name(r.o.Data), fault.Name(b.got[i].Key), b.got[i].because())
			}
			if b.bad[i] != nil {
				out.skipped = append(out.skipped, Skipped{id, b.got[i].Key, fault.Line(b.bad[i])})
				continue
			}
			f := rows[i*dim : (i+1)*dim]
			if !normalize(f) {
				return fault.Inputf("%s: the vision tower's output is zero or not finite; check the weights, or use Options.DType fp32", fault.Name(b.got[i].Key))
			}
			out.rows, out.labels, out.keys = append(out.rows, f...), append(out.labels, int64(b.got[i].Label)), append(out.keys, b.got[i].Key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.write(path, r.key, at, dim)
}

// stored is what a file of features holds.
type stored struct {
	rows    []float32 // [images,dim]
	labels  []int64
	keys    []string
	skipped []Skipped
}

// storedPlace is file i of n of a set's.
type storedPlace struct{ i, n int }

func (p storedPlace) String() string { return fmt.Sprintf("%d/%d", p.i, p.n) }

func storedName(key string, i int) string { return fmt.Sprintf("%.32s-%05d.safetensors", key, i) }

func (s stored) write(path, key string, at storedPlace, dim int) error {
	keys, err := json.Marshal(append([]string{}, s.keys...))
	if err != nil {
		return err
	}
	bad, err := json.Marshal(append([]Skipped{}, s.skipped...))
	if err != nil {
		return err
	}
	n, data, ints := int64(len(s.labels)), tensorfile.EncodeFloat32s(s.rows), tensorfile.EncodeInt64s(s.labels)
	return tensorfile.WriteFile(path, []tensorfile.Tensor{
		{Info: tensorfile.Info{Name: "features", DType: tensorfile.F32, Shape: []int64{n, int64(dim)}}, Data: data},
		{Info: tensorfile.Info{Name: "labels", DType: tensorfile.I64, Shape: []int64{n}}, Data: ints},
	}, map[string]string{
		featuresKey: key, featuresPart: at.String(), "evatool.keys": string(keys), "evatool.skipped": string(bad),
		"evatool.digest": digest(slices.Concat(data, ints, keys, bad)),
	})
}

// Metadata of a file of features: what it is of, and which of the set's files.
const (
	featuresKey  = "evatool.features"
	featuresPart = "evatool.part"
)

// load adds a file's labels, if its contents are what was written.
func (s *featureSet) load(path, key string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	if err := fault.RegularFile(path, "features"); err != nil {
		return err
	}
	f, err := tensorfile.OpenFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	features, ok := findTensor(f, "features")
	meta := f.Metadata()
	if meta[featuresKey] != key || !ok || features.DType != tensorfile.F32 || len(features.Shape) != 2 || features.Shape[1] != int64(s.dim) {
		return fault.Inputf("%s: holds features of another model or of other data", fault.Name(path))
	}
	labels, err := tensorfile.Int64s(f, "labels")
	if err != nil {
		return err
	}
	data, err := tensorfile.ReadAll(f, "features")
	if err != nil {
		return err
	}
	var bad []Skipped
	var keys []string
	words := meta["evatool.keys"] + meta["evatool.skipped"]
	if digest(slices.Concat(data, tensorfile.EncodeInt64s(labels), []byte(words))) != meta["evatool.digest"] || int64(len(labels)) != features.Shape[0] ||
		json.Unmarshal([]byte(meta["evatool.keys"]), &keys) != nil || len(keys) != len(labels) || json.Unmarshal([]byte(meta["evatool.skipped"]), &bad) != nil {
		return fault.Inputf("%s: its contents do not match its digest; remove it and run the probe again", fault.Name(path))
	}
	s.files = append(s.files, storedFile{path, len(s.labels), len(labels)})
	for _, l := range labels {
		s.labels = append(s.labels, int(l))
	}
	s.skipped = append(s.skipped, bad...)
	if s.named {
		s.keys = append(s.keys, keys...)
	}
	return nil
}

// indices are the places of the rows in the data, where skipped images count too.
func (s *featureSet) indices() []int {
	bad := map[int]bool{}
	for _, b := range s.skipped {
		bad[b.Index] = true
	}
	list := make([]int, 0, len(s.labels))
	for i := 0; len(list) < len(s.labels); i++ {
		if !bad[i] {
			list = append(list, i)
		}
	}
	return list
}

func (s *featureSet) Len() int { return len(s.labels) }
func (s *featureSet) Dim() int { return s.dim }

// Read implements logistic.Rows.
func (s *featureSet) Read(dst []float32, lo, hi int) error {
	if s.rows != nil {
		copy(dst, s.rows[lo*s.dim:hi*s.dim])
		return nil
	}
	for _, f := range s.files {
		from, to := max(lo, f.first), min(hi, f.first+f.n)
		if from >= to {
			continue
		}
		if err := f.read(dst[(from-lo)*s.dim:(to-lo)*s.dim], (from-f.first)*s.dim); err != nil {
			return err
		}
	}
	return nil
}

// read reads values of the file's features.
func (f storedFile) read(dst []float32, at int) error {
	file, err := tensorfile.OpenFile(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	from, offset, ok := file.Extent("features")
	if !ok {
		return fault.Inputf("%s: its features are gone; run the probe again", fault.Name(f.path))
	}
	b := make([]byte, 4*len(dst))
	if _, err := from.ReadAt(b, offset+4*int64(at)); err != nil {
		return fault.File(f.path, "the features that were there at the start", err)
	}
	tensorfile.FloatDecoder(tensorfile.F32)(dst, b)
	return nil
}

// picked are rows of several sets, as one.
type picked struct {
	sets   []*featureSet
	places []place
}

type place struct{ set, row int32 }

func (p picked) Len() int { return len(p.places) }
func (p picked) Dim() int { return p.sets[0].dim }

func (p picked) Read(dst []float32, lo, hi int) error {
	dim := p.Dim()
	for lo < hi {
		at, n := p.places[lo], 1
		for lo+n < hi && p.places[lo+n] == (place{at.set, at.row + int32(n)}) {
			n++
		}
		if err := p.sets[at.set].Read(dst[:n*dim], int(at.row), int(at.row)+n); err != nil {
			return err
		}
		dst, lo = dst[n*dim:], lo+n
	}
	return nil
}

// label is the class of row i.
func (p picked) label(i int) int { return p.sets[p.places[i].set].labels[p.places[i].row] }

// all are all rows of sets.
func all(sets ...*featureSet) picked {
	p := picked{sets: sets}
	for i, s := range sets {
		for row := range s.Len() {
			p.places = append(p.places, place{int32(i), int32(row)})
		}
	}
	return p
}
