package trainer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// A checkpoint is a folder step-N that is complete or absent. It holds
// model.safetensors (a model file), optimizer.safetensors (the rest of the
// state), recipe.yaml and state.json.
const (
	checkpointDir = "checkpoints"
	modelFile     = "model.safetensors"
	optimizerFile = "optimizer.safetensors"
	stateFile     = "state.json"
	temporary     = ".tmp-"
)

// savedState is state.json.
type savedState struct {
	Format    int               `json:"format"`
	Processes int               `json:"processes,omitempty"` // that wrote it, in format 2
	Step      int64             `json:"step"`
	Samples   int64             `json:"samples"`           // the position: with the seed it determines which example is next
	Sources   []int64           `json:"sources,omitempty"` // samples that each source has given
	Data      []string          `json:"data,omitempty"`    // fingerprints of the sources
	Recipe    string            `json:"recipe"`            // SHA-256 of the recipe without what may change
	Bad       int64             `json:"bad_samples"`
	Parts     string            `json:"accumulation,omitempty"`   // what parts did: with accumulation: auto they keep doing so
	Gaps      []gap             `json:"missing_shards,omitempty"` // pieces of tars that the run leaves out
	SHA256    map[string]string `json:"sha256"`
}

// snapshot is the whole state on the host.
type snapshot struct {
	slots   []slot
	vals    []*tensors.Tensor
	frozen  []arch.Param
	buffers [][]float32
	cfg     *arch.Config
	state   savedState
	recipe  []byte
}

// snapshot copies the state to the host.
func (m *machine) snapshot() (*snapshot, error) {
	s := &snapshot{slots: m.slots(), frozen: m.frozen, cfg: m.cfg}
	for _, a := range m.arrays() {
		t, err := a.Fetch()
		if err != nil {
			return nil, err
		}
		s.vals = append(s.vals, t)
	}
	for _, a := range m.buffers {
		v, err := a.Float32s()
		if err != nil {
			return nil, err
		}
		s.buffers = append(s.buffers, v)
	}
	return s, nil
}

var fileTypes = map[dtypes.DType]tensorfile.DType{
	dtypes.Float32: tensorfile.F32, dtypes.Int32: tensorfile.I32, dtypes.Uint64: tensorfile.U64,
}

// entries are the tensors of one of the two files.
func (s *snapshot) entries(file string) (out []tensorfile.Tensor, err error) {
	add := func(info tensorfile.Info, t *tensors.Tensor) {
		err = errors.Join(err, t.ConstBytes(func(b []byte) {
			out = append(out, tensorfile.Tensor{Info: info, Data: b})
		}))
	}
	for i, sl := range s.slots {
		if sl.file != file {
			continue
		}
		info := tensorfile.Info{Name: sl.name, DType: fileTypes[sl.dtype]}
		for _, d := range sl.dims {
			info.Shape = append(info.Shape, int64(d))
		}
		add(info, s.vals[i])
	}
	if file == modelFile {
		for i, p := range s.frozen {
			add(tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape},
				tensors.FromFlatDataAndDimensions(s.buffers[i], intDims(p.Shape)...))
		}
	}
	return out, err
}

// saver writes checkpoints in the background, one at a time. When the disk is full
// it waits and tries again: the run pauses, and nothing is lost.
type saver struct {
	dir  string // run folder
	keep int
	log  *slog.Logger

	busy chan error  // of the write in progress, nil if there is none
	part *partWriter // of a job of several processes
	last atomic.Pointer[string]

	waiting func(int32) // called with +1 when a write starts to wait for space, −1 when it stops; may be nil

	// open and retry are how files are created and how often to try; tests replace them.
	open  func(path string) (io.WriteCloser, error)
	retry time.Duration
}

func newSaver(dir string, keep int, log *slog.Logger) *saver {
	return &saver{dir: dir, keep: keep, log: log, retry: 5 * time.Second, open: func(path string) (io.WriteCloser, error) {
		f, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		return syncedFile{f}, nil
	}}
}

type syncedFile struct{ *os.File }

func (f syncedFile) Close() error {
	if err := f.Sync(); err != nil {
		f.File.Close()
		return err
	}
	return f.File.Close()
}

// start starts to write s and returns; it waits for the write before it.
func (v *saver) start(ctx context.Context, s *snapshot) error {
	if err := v.wait(); err != nil {
		return err
	}
	v.busy = make(chan error, 1)
	go func() { v.busy <- v.patiently(ctx, "checkpoint", func() error { return v.write(s) }) }()
	return nil
}

// wait waits for the write in progress.
func (v *saver) wait() error {
	if v.busy == nil {
		return nil
	}
	err := <-v.busy
	v.busy = nil
	return err
}

// patiently repeats fn while the disk is full, until ctx ends: the error is then a
// stopped.
func (v *saver) patiently(ctx context.Context, what string, fn func() error) error {
	said := false
	defer func() {
		if said && v.waiting != nil {
			v.waiting(-1)
		}
	}()
	for {
		err := fn()
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			return err
		}
		if !said {
			v.log.Error("the disk is full: the run waits until there is space; Ctrl-C stops it at its newest checkpoint", "writing", what, "folder", v.dir, "newest", v.from())
			said = true
			if v.waiting != nil {
				v.waiting(1)
			}
		}
		select {
		case <-ctx.Done():
			return stopped{fmt.Sprintf("%s: no space for the %s; once there is some, the same command", v.dir, what), v.from, ctx.Err()}
		case <-time.After(v.retry):
		}
	}
}

// newest is the path of the newest complete checkpoint, or "".
func (v *saver) newest() string {
	if p := v.last.Load(); p != nil {
		return *p
	}
	return ""
}

// from says where a run would resume.
func (v *saver) from() string {
	if p := v.newest(); p != "" {
		return p
	}
	return "the start (there is no checkpoint yet)"
}

func (v *saver) write(s *snapshot) error {
	root := filepath.Join(v.dir, checkpointDir)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fault.File(root, "a folder for checkpoints", err)
	}
	name := fmt.Sprintf("step-%d", s.state.Step)
	tmp := filepath.Join(root, temporary+name)
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	err := v.fill(tmp, s)
	if err != nil {
		os.RemoveAll(tmp)
		return fmt.Errorf("checkpoint %s: %w", filepath.Join(root, name), err)
	}
	return v.complete(tmp, name)
}

// complete gives the folder of a written checkpoint its final name.
func (v *saver) complete(tmp, name string) error {
	root := filepath.Dir(tmp)
	final := filepath.Join(root, name)
	err := atomicfile.SyncDir(tmp)
	if err == nil && exists(final) { // the run was resumed from an older one
		err = os.Rename(final, filepath.Join(root, temporary+"old-"+name))
	}
	if err == nil {
		err = os.Rename(tmp, final)
	}
	if err == nil {
		err = atomicfile.SyncDir(root)
	}
	if err != nil {
		os.RemoveAll(tmp)
		return fmt.Errorf("checkpoint %s: %w", final, err)
	}
	v.last.Store(&final)
	return v.prune(root, final)
}

func (v *saver) fill(dir string, s *snapshot) error {
	s.state.Format, s.state.SHA256 = formatWhole, map[string]string{}
	for _, name := range []string{modelFile, optimizerFile} {
		var meta map[string]string
		if name == modelFile {
			meta = checkpoint.ModelMetadata(s.cfg)
		}
		list, err := s.entries(name)
		if err != nil {
			return err
		}
		sum, err := v.tensors(filepath.Join(dir, name), list, meta)
		if err != nil {
			return err
		}
		s.state.SHA256[name] = sum
	}
	if err := v.file(filepath.Join(dir, recipeFile), func(w io.Writer) error {
		_, err := w.Write(s.recipe)
		return err
	}); err != nil {
		return err
	}
	text, err := json.MarshalIndent(s.state, "", " ")
	if err != nil {
		return err
	}
	return v.file(filepath.Join(dir, stateFile), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// tensors writes a safetensors file and returns its SHA-256.
func (v *saver) tensors(path string, list []tensorfile.Tensor, meta map[string]string) (sum string, err error) {
	err = v.file(path, func(w io.Writer) error {
		sum, err = writeTensors(w, list, meta)
		return err
	})
	return sum, err
}

func writeTensors(w io.Writer, list []tensorfile.Tensor, meta map[string]string) (string, error) {
	slices.SortStableFunc(list, func(a, b tensorfile.Tensor) int { return b.DType.Size() - a.DType.Size() })
	infos := make([]tensorfile.Info, len(list))
	for i := range list {
		infos[i] = list[i].Info
	}
	sum, b := sha256.New(), bufio.NewWriterSize(w, 1<<20)
	out, err := tensorfile.NewWriter(io.MultiWriter(b, sum), infos, meta)
	if err != nil {
		return "", err
	}
	for _, t := range list {
		if err := out.Next(t.Info, bytes.NewReader(t.Data)); err != nil {
			return "", err
		}
	}
	if err := errors.Join(out.Close(), b.Flush()); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (v *saver) file(path string, fill func(w io.Writer) error) error {
	f, err := v.open(path)
	if err != nil {
		return atomicfile.Explain(path, err)
	}
	return atomicfile.Explain(path, errors.Join(fill(f), f.Close()))
}

// model writes a model file, which appears under its name complete or not at all.
func (v *saver) model(path string, s *snapshot) error {
	list, err := s.entries(modelFile)
	if err != nil {
		return err
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := writeTensors(f, list, checkpoint.ModelMetadata(s.cfg)); err != nil {
		return err
	}
	return f.Commit()
}

// prune removes the oldest checkpoints, those that the run went back behind when it
// was resumed from an older one, and what a killed run left behind. newest is the one
// just written.
func (v *saver) prune(root, newest string) error {
	list, err := listCheckpoints(v.dir)
	if err != nil {
		return err
	}
	end := 1 + slices.IndexFunc(list, func(c checkpointAt) bool { return c.path == newest })
	if end == 0 {
		return fmt.Errorf("%s: gone since it was written; another program has changed %s", newest, root)
	}
	for _, c := range slices.Concat(list[:max(0, end-v.keep)], list[end:]) {
		// Rename first: a checkpoint is complete or absent.
		gone := filepath.Join(root, temporary+filepath.Base(c.path))
		if err := os.Rename(c.path, gone); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

type checkpointAt struct {
	step int64
	path string
}

// listCheckpoints returns the complete checkpoints of a run folder, oldest first.
func listCheckpoints(dir string) ([]checkpointAt, error) {
	root := filepath.Join(dir, checkpointDir)
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.File(root, "a folder of checkpoints", err)
	}
	var out []checkpointAt
	for _, e := range entries {
		if n, ok := strings.CutPrefix(e.Name(), "step-"); ok {
			if step, err := strconv.ParseInt(n, 10, 64); err == nil {
				out = append(out, checkpointAt{step, filepath.Join(root, e.Name())})
			}
		}
	}
	slices.SortFunc(out, func(a, b checkpointAt) int { return cmp.Compare(a.step, b.step) })
	return out, nil
}

// readState reads and checks state.json.
func readState(path string) (*savedState, error) {
	file := filepath.Join(path, stateFile)
	text, err := fault.ReadFile(file, "a checkpoint of evatool train", 16<<20)
	if err != nil {
		return nil, lost(file, err)
	}
	return parseState(file, text)
}

// lost explains the error of a checkpoint's file that is not there: a checkpoint
// appears complete.
func lost(file string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Because(fault.Input, err, "%s: missing; resume from an older checkpoint with Options.Resume", fault.Name(file))
	}
	return err
}

// orOlder names, in the error of a checkpoint that is damaged, the next older one of
// its run.
func orOlder(path string, err error) error {
	if err == nil || fault.Code(err) != int(fault.Input) {
		return err
	}
	list, _ := listCheckpoints(filepath.Join(path, "..", ".."))
	older := ""
	for _, c := range list {
		if filepath.Base(c.path) == filepath.Base(path) {
			break
		}
		if exists(filepath.Join(c.path, stateFile)) {
			older = c.path
		}
	}
	if older == "" {
		return err
	}
	return fmt.Errorf("%w (the next older one is %s)", err, fault.Name(older))
}

// parseState parses the text of a state.json; file is used in messages.
func parseState(file string, text []byte) (*savedState, error) {
	var s savedState
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fault.Inputf("%s: %w; resume from an older checkpoint with Options.Resume", file, err)
	}
	if s.Format != formatWhole && s.Format != formatParts {
		return nil, fault.Inputf("%s: format %d, but this evatool reads only %d and %d; use the version that wrote the checkpoint", file, s.Format, formatWhole, formatParts)
	}
	if max(s.Step, s.Samples, s.Bad) > maxSamples || min(s.Step, s.Samples, s.Bad) < 0 {
		return nil, fault.Inputf("%s: step %d, samples %d, bad_samples %d: impossible values; resume from an older checkpoint with Options.Resume", file, s.Step, s.Samples, s.Bad)
	}
	return &s, nil
}

// restore loads a checkpoint into the machine and verifies the files' hashes.
func (m *machine) restore(path string, s *savedState) error {
	if m.remote != nil {
		return m.remote.restore(path, s)
	}
	model, opt, err := m.openCheckpoint(path, s, 0, 1)
	if err != nil {
		return err
	}
	defer model.Close()
	defer opt.close()
	err = m.putState(func(sl slot) (*tensors.Tensor, error) {
		if sl.file == modelFile {
			return model.read(sl)
		}
		return opt.slot(sl)
	})
	if err != nil {
		return err
	}
	return m.putFrozen(func(p arch.Param) ([]float32, error) { return tensorfile.Float32s(model, p.Name) })
}

// sameModel refuses a checkpoint of another architecture than the recipe's: shapes
// alone do not tell all architectures apart.
func (m *machine) sameModel(c *checkpointFile) error {
	text, ok := c.Metadata()["evatool.config"]
	if !ok {
		return nil
	}
	there, err := arch.Parse([]byte(text))
	if err != nil {
		return fmt.Errorf("%s: metadata evatool.config: %w", c.path, err)
	}
	if bytes.Equal(there.JSON(), m.cfg.JSON()) {
		return nil
	}
	before, now := map[string]any{}, map[string]any{}
	for to, text := range map[*map[string]any][]byte{&before: there.JSON(), &now: m.cfg.JSON()} {
		var tree any
		if err := json.Unmarshal(text, &tree); err != nil {
			return err
		}
		flatten(*to, "", tree)
	}
	return fault.Usagef("model: the checkpoint %s has another architecture: %s; a resumed run or a fork must keep the model", filepath.Dir(c.path), differences(before, now)[0])
}

// checkpointFile is one of a checkpoint's two tensor files.
type checkpointFile struct {
	tensorfile.Source
	path  string
	infos map[string]tensorfile.Info
}

func (c *checkpointFile) read(sl slot) (*tensors.Tensor, error) {
	info, ok := c.infos[sl.name]
	if !ok || info.DType != fileTypes[sl.dtype] || !slices.Equal(intDims(info.Shape), sl.dims) {
		return nil, fault.Inputf("%s: tensor %s is missing or has the wrong type or shape; the checkpoint is of another model: give one of this model with Options.Resume", c.path, sl.name)
	}
	raw, err := tensorfile.ReadAll(c, sl.name)
	if err != nil {
		return nil, err
	}
	t := tensors.FromShape(sl.shape())
	return t, t.MutableBytes(func(b []byte) { copy(b, raw) })
}

func checkHash(path, want string) error {
	got, _, err := digest.File(context.Background(), path, "a file of the checkpoint")
	if err != nil {
		return lost(path, err)
	}
	if got != want {
		return fault.Inputf("%s: damaged (its SHA-256 is %.12s…, not %.12s… as written); resume from an older checkpoint with Options.Resume", path, got, want)
	}
	return nil
}
