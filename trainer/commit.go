package trainer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// A checkpoint of a job of several processes, format 2, is written by all of them:
// process i writes its part of the moments (optimizer-i-of-N.safetensors, tensors
// NAME[lo:hi] that are runs of flattened ones), process 0 the model, or each a piece
// of a large model. It counts once process 0 has written state.json, with the
// hashes of all files, and renamed the folder.

// modelPieceBytes is the size above which the model is written in pieces.
var modelPieceBytes int64 = 2 << 30

const (
	formatWhole = 1
	formatParts = 2
	modelIndex  = modelFile + ".index.json"
)

// partFile is one file of a process's part of a checkpoint.
type partFile struct {
	name string
	list []tensorfile.Tensor
	meta map[string]string
	text []byte // instead of tensors
}

// partSnapshot is that part, on the host.
type partSnapshot struct {
	state savedState
	files []partFile
}

// partWriter is a part being written.
type partWriter struct {
	s    *partSnapshot
	sums map[string]string
	done chan error
	over atomic.Bool
	stop context.CancelFunc // ends a wait for disk space
}

// snapshot copies the process's part of the state to the host.
func (k *remote) snapshot(state savedState, recipe []byte) (*partSnapshot, error) {
	rank, ranks, devices := k.world.Rank(), k.world.Size(), k.m.dev.N()
	state.Format, state.Processes, state.SHA256 = formatParts, ranks, map[string]string{}
	s := &partSnapshot{state: state}
	optimizer := partFile{name: fmt.Sprintf("optimizer-%d-of-%d.safetensors", rank, ranks)}
	for _, b := range k.buckets {
		for _, from := range []struct {
			f field
			a *device.Array
		}{{fieldM, b.m}, {fieldV, b.v}} {
			flat, err := from.a.Float32s()
			if err != nil {
				return nil, err
			}
			for _, e := range b.pieces {
				lo, hi := e.own(rank, devices)
				if lo == hi {
					continue
				}
				own := make([]float32, 0, hi-lo)
				for d := range devices {
					at := d*b.width + e.at
					own = append(own, flat[at:at+min(e.width, hi-lo-len(own))]...)
				}
				name := fmt.Sprintf("%s[%d:%d]", k.m.slot(from.f, e.param).name, lo, hi)
				optimizer.list = append(optimizer.list, float32Tensor(name, own, int64(hi-lo)))
			}
		}
	}
	if rank == 0 {
		rng, err := k.m.state.rng.Fetch()
		if err != nil {
			return nil, err
		}
		for _, one := range []struct {
			f field
			t *tensors.Tensor
		}{{fieldRNG, rng}, {fieldScale, tensors.FromScalar(k.scale)}, {fieldCounts, tensors.FromFlatDataAndDimensions(k.counts[:], numCounts)}} {
			sl := k.m.slot(one.f, 0)
			info := tensorfile.Info{Name: sl.name, DType: fileTypes[sl.dtype]}
			for _, d := range sl.dims {
				info.Shape = append(info.Shape, int64(d))
			}
			if err := one.t.ConstBytes(func(b []byte) {
				optimizer.list = append(optimizer.list, tensorfile.Tensor{Info: info, Data: slices.Clone(b)})
			}); err != nil {
				return nil, err
			}
		}
		s.files = append(s.files, partFile{name: recipeFile, text: recipe})
	}
	s.files = append(s.files, optimizer)
	return s, k.modelPart(s)
}

// modelPart adds the process's part of the model: all of it on process 0, or a piece
// of a large model.
func (k *remote) modelPart(s *partSnapshot) error {
	var total int64
	all := k.m.cfg.Params()
	for _, p := range all {
		total += paramBytes(p)
	}
	rank, ranks := k.world.Rank(), 1
	if total > modelPieceBytes {
		ranks = k.world.Size()
	}
	owner := make([]int, len(all)) // of each parameter
	var at int64
	for i, p := range all {
		owner[i] = int(at * int64(ranks) / total)
		at += paramBytes(p)
	}
	var owners []int // those that have any
	for _, o := range owner {
		if !slices.Contains(owners, o) {
			owners = append(owners, o)
		}
	}
	name := func(owner int) string {
		if ranks == 1 {
			return modelFile
		}
		return fmt.Sprintf("model-%05d-of-%05d.safetensors", slices.Index(owners, owner)+1, len(owners))
	}
	file := partFile{name: name(rank), meta: checkpoint.ModelMetadata(k.m.cfg)}
	weights := map[string]string{}
	for i, a := range k.m.weights() {
		weights[all[i].Name] = name(owner[i])
		if owner[i] != rank {
			continue
		}
		v, err := a.Float32s()
		if err != nil {
			return err
		}
		file.list = append(file.list, float32Tensor(all[i].Name, v, all[i].Shape...))
	}
	if len(file.list) > 0 {
		s.files = append(s.files, file)
	}
	if rank == 0 && ranks > 1 {
		text, err := json.MarshalIndent(map[string]any{"metadata": map[string]any{"total_size": total}, "weight_map": weights}, "", " ")
		if err != nil {
			return err
		}
		s.files = append(s.files, partFile{name: modelIndex, text: append(text, '\n')})
	}
	return nil
}

func paramBytes(p arch.Param) int64 {
	n := int64(4)
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// float32Tensor shares the memory of v, which must not change afterwards.
func float32Tensor(name string, v []float32, shape ...int64) tensorfile.Tensor {
	return tensorfile.Tensor{Info: tensorfile.Info{Name: name, DType: tensorfile.F32, Shape: shape}, Data: dtypes.UnsafeByteSliceFromAny(v)}
}

// prepare creates the folder that the parts of a checkpoint are written to.
func (v *saver) prepare(ctx context.Context, step int64) error {
	tmp := v.unfinished(step)
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	return v.patiently(ctx, "checkpoint", func() error {
		if err := os.MkdirAll(tmp, 0o755); err != nil {
			return fault.File(tmp, "a folder for checkpoints", err)
		}
		return nil
	})
}

// unfinished is the folder of a checkpoint that is being written.
func (v *saver) unfinished(step int64) string {
	return filepath.Join(v.dir, checkpointDir, fmt.Sprintf("%sstep-%d", temporary, step))
}

// startPart starts to write a part into the prepared folder.
func (v *saver) startPart(ctx context.Context, s *partSnapshot) {
	p := &partWriter{s: s, sums: map[string]string{}, done: make(chan error, 1)}
	v.part = p
	ctx, p.stop = context.WithCancel(ctx)
	dir := v.unfinished(s.state.Step)
	go func() {
		err := v.patiently(ctx, "checkpoint", func() error {
			for _, f := range s.files {
				path := filepath.Join(dir, f.name)
				if f.text != nil {
					if err := v.file(path, func(w io.Writer) error { _, err := w.Write(f.text); return err }); err != nil {
						return err
					}
					if f.name == modelIndex {
						p.sums[f.name] = sha256Of(f.text)
					}
					continue
				}
				sum, err := v.tensors(path, slices.Clone(f.list), f.meta)
				if err != nil {
					return err
				}
				p.sums[f.name] = sum
			}
			return nil
		})
		p.over.Store(true)
		p.done <- err
	}()
}

// written reports whether a part was started and is done, successfully or not.
func (v *saver) written() bool { return v.part != nil && v.part.over.Load() }

// partDone waits for the part in progress.
func (v *saver) partDone() (*partSnapshot, map[string]string, error) {
	p := v.part
	v.part = nil
	err := <-p.done
	p.stop()
	return p.s, p.sums, err
}

// publish turns the parts that all processes have written into a checkpoint.
func (v *saver) publish(ctx context.Context, s *partSnapshot) error {
	dir := v.unfinished(s.state.Step)
	text, err := json.MarshalIndent(s.state, "", " ")
	if err != nil {
		return err
	}
	if err := v.patiently(ctx, "checkpoint", func() error {
		return v.file(filepath.Join(dir, stateFile), func(w io.Writer) error {
			_, err := w.Write(append(text, '\n'))
			return err
		})
	}); err != nil {
		return err
	}
	return v.complete(dir, fmt.Sprintf("step-%d", s.state.Step))
}

func sha256Of(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// modelHash identifies the model of a checkpoint, in one file or several.
func (s *savedState) modelHash() string {
	if sum, ok := s.SHA256[modelFile]; ok {
		return sum
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.SHA256)) {
		if strings.HasPrefix(name, "model") {
			fmt.Fprintln(&text, name, s.SHA256[name])
		}
	}
	return sha256Of([]byte(text.String()))
}

// pieceAt is a run of a flattened tensor in a file.
type pieceAt struct {
	lo, hi int
	file   *checkpointFile
	name   string
}

// moments are the optimizer's part of a checkpoint, in one file or several.
type moments struct {
	dir   string
	files []*checkpointFile
	runs  map[string][]pieceAt
}

func (m *moments) close() {
	for _, f := range m.files {
		f.Close()
	}
}

func (m *moments) add(f *checkpointFile) {
	m.files = append(m.files, f)
	for name, info := range f.infos {
		n := 1
		for _, d := range info.Shape {
			n *= int(d)
		}
		of, r := name, pieceAt{0, n, f, name}
		if open := strings.LastIndexByte(name, '['); open > 0 && strings.HasSuffix(name, "]") {
			lo, hi, _ := strings.Cut(name[open+1:len(name)-1], ":")
			a, err1 := strconv.Atoi(lo)
			b, err2 := strconv.Atoi(hi)
			if err1 == nil && err2 == nil && a >= 0 && b-a == n {
				of, r.lo, r.hi = name[:open], a, b
			}
		}
		m.runs[of] = append(m.runs[of], r)
	}
	for _, list := range m.runs {
		slices.SortFunc(list, func(a, b pieceAt) int { return cmp.Compare(a.lo, b.lo) })
	}
}

// has reports whether the parts hold a complete float32 tensor of size elements.
func (m *moments) has(name string, size int) bool {
	at := 0
	for _, r := range m.runs[name] {
		if r.lo != at || r.file.infos[r.name].DType != tensorfile.F32 {
			return false
		}
		at = r.hi
	}
	return at == size
}

// read fills dst with elements starting at lo.
func (m *moments) read(name string, dst []float32, lo int) error {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(dst))), 4*len(dst))
	for _, r := range m.runs[name] {
		from, to := max(lo, r.lo), min(lo+len(dst), r.hi)
		if from >= to {
			continue
		}
		out := bytes[4*(from-lo) : 4*(to-lo)]
		if f, at, ok := r.file.Extent(r.name); ok {
			if _, err := f.ReadAt(out, at+4*int64(from-r.lo)); err != nil {
				return fault.Inputf("%s: tensor %s: %w", r.file.path, r.name, err)
			}
			continue
		}
		raw, err := tensorfile.ReadAll(r.file, r.name)
		if err != nil {
			return err
		}
		copy(out, raw[4*(from-r.lo):])
	}
	return nil
}

// slot is a whole array of the state.
func (m *moments) slot(sl slot) (*tensors.Tensor, error) {
	size := sl.shape().Size()
	if sl.dtype == dtypes.Float32 {
		if !m.has(sl.name, size) {
			return nil, m.missing(sl.name)
		}
		flat := make([]float32, size)
		if err := m.read(sl.name, flat, 0); err != nil {
			return nil, err
		}
		return tensors.FromFlatDataAndDimensions(flat, sl.dims...), nil
	}
	if list := m.runs[sl.name]; len(list) == 1 {
		return list[0].file.read(sl)
	}
	return nil, m.missing(sl.name)
}

func (m *moments) missing(name string) error {
	return fault.Inputf("%s: tensor %s is missing or has the wrong type or shape; the checkpoint is of another model: give one of this model with Options.Resume", m.dir, name)
}

// openCheckpoint opens the files of a checkpoint. Process rank of ranks checks
// the hashes of its share of them.
func (m *machine) openCheckpoint(path string, s *savedState, rank, ranks int) (model *checkpointFile, opt *moments, err error) {
	names := slices.Sorted(maps.Keys(s.SHA256))
	for i, name := range names {
		if filepath.Base(name) != name {
			return nil, nil, fault.Inputf("%s: names the file %q; want the name of a file in the same folder", filepath.Join(path, stateFile), name)
		}
		if i%ranks == rank {
			if err := checkHash(filepath.Join(path, name), s.SHA256[name]); err != nil {
				return nil, nil, err
			}
		}
	}
	wrap := func(name string, open func(path string) (tensorfile.Source, error)) (*checkpointFile, error) {
		file := filepath.Join(path, name)
		src, err := open(file)
		if err != nil {
			return nil, err
		}
		c := &checkpointFile{Source: src, path: file, infos: map[string]tensorfile.Info{}}
		for _, t := range src.Tensors() {
			c.infos[t.Name] = t
		}
		return c, nil
	}
	one := func(path string) (tensorfile.Source, error) { return tensorfile.OpenFile(path) }
	opt = &moments{dir: path, runs: map[string][]pieceAt{}}
	defer func() {
		if err != nil {
			opt.close()
			if model != nil {
				model.Close()
			}
		}
	}()
	name, open := modelFile, one
	if _, ok := s.SHA256[modelFile]; !ok && s.SHA256[modelIndex] != "" {
		name, open = modelIndex, tensorfile.OpenSharded
	}
	if model, err = wrap(name, open); err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "optimizer") {
			f, err := wrap(name, one)
			if err != nil {
				return nil, nil, err
			}
			opt.add(f)
		}
	}
	return model, opt, m.sameModel(model)
}

// restore loads a checkpoint, however many processes wrote it.
func (k *remote) restore(path string, s *savedState) error {
	m := k.m
	model, opt, err := m.openCheckpoint(path, s, k.world.Rank(), k.world.Size())
	if err != nil {
		return err
	}
	defer model.Close()
	defer opt.close()
	if err := m.putState(func(sl slot) (*tensors.Tensor, error) {
		if sl.file == modelFile {
			return model.read(sl)
		}
		return opt.slot(sl)
	}); err != nil {
		return err
	}
	scale, err := m.state.scale.Float32s()
	if err != nil {
		return err
	}
	counts, err := opt.slot(m.slot(fieldCounts, 0))
	if err != nil {
		return err
	}
	k.scale, k.counts = scale[0], [numCounts]int32(tensors.MustCopyFlatData[int32](counts))
	for i := range m.params {
		for _, f := range []field{fieldM, fieldV} {
			if sl := m.slot(f, i); !opt.has(sl.name, sl.shape().Size()) {
				return opt.missing(sl.name)
			}
		}
	}
	if err := k.putShards(func(f field, i int, dst []float32, lo int) error {
		return opt.read(m.slot(f, i).name, dst, lo)
	}); err != nil {
		return err
	}
	return m.putFrozen(func(p arch.Param) ([]float32, error) { return tensorfile.Float32s(model, p.Name) })
}
