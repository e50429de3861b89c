// Package torchfile reads PyTorch checkpoints without Python and without
// executing anything: zip archives (torch >= 1.6), legacy files, legacy tar
// files and TorchScript archives.
//
// A checkpoint is read in three steps: find the container, take the inventory
// (names, dtypes, shapes, strides, file offsets; no tensor bytes), and stream
// single tensors on demand. Pickles are checked opcode by opcode before a virtual
// machine builds inert values from them: a class that is not on the allow-list is
// an error.
package torchfile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nlpodyssey/gopickle/types"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Options choose what Open takes from the file.
type Options struct {
	// Key is the path of the state dict inside the file, such as "state_dict" or
	// "a/b". Empty: the first of model, module and state_dict, repeatedly as long
	// as there is one; without any, the top level.
	Key string
}

// Entry is something in the file that is not a tensor: an epoch, an argument, an
// optimizer setting. It is shown, never used.
type Entry struct {
	Path  string // like "optimizer/param_groups/0/lr"
	Kind  string // Python's type name, such as "int" or "argparse.Namespace"
	Value string // as short text
}

// Left is an entry of the state dict that is no tensor, but holds what may be weights.
type Left struct {
	Name   string
	Reason string // such as "a numpy.ndarray, not a tensor"
}

// Checkpoint is an opened PyTorch file, as a source of its state dict's tensors.
// It is safe for concurrent use.
type Checkpoint struct {
	path      string
	f         *os.File // nil when not opened from a path
	container string
	key       string
	prefix    string
	swap      bool // big-endian
	tensors   []named
	index     map[string]*tensor
	all       []named
	other     []Entry
	left      []Left
}

var _ tensorfile.Source = (*Checkpoint)(nil)

const want = "a PyTorch checkpoint"

// Open reads the inventory of the checkpoint at path. The container is recognised
// by its content, not by its name.
func Open(path string, opt Options) (*Checkpoint, error) {
	if err := fault.RegularFile(path, want); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.File(path, want, err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fault.File(path, want, err)
	}
	c, err := open(raw{r: f, f: f, size: st.Size()}, path, opt)
	if err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// OpenReaderAt is Open over anything that can be read at offsets; name is used
// in errors. Closing the Checkpoint does not close r.
func OpenReaderAt(r io.ReaderAt, size int64, name string, opt Options) (*Checkpoint, error) {
	return open(raw{r: r, size: size}, name, opt)
}

// open finds the container, reads its objects and takes the inventory.
func open(f raw, path string, opt Options) (*Checkpoint, error) {
	c := &Checkpoint{path: path, f: f.f}
	root, err := c.load(f)
	if err == nil {
		err = c.take(root, opt)
	}
	if err != nil {
		return nil, fault.As(fault.Input, fmt.Errorf("%s: %w", path, err))
	}
	return c, nil
}

// load returns the file's top object.
func (c *Checkpoint) load(f raw) (any, error) {
	head := make([]byte, min(f.size, 512))
	if err := fill(f.r, head, 0); err != nil {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte(sigLocal)):
		return c.loadZip(f)
	case len(head) > 262 && string(head[257:262]) == "ustar":
		c.container = "torch-tar"
		return openTar(f)
	case len(head) > 0 && head[0] == 0x80, bytes.HasPrefix(head, []byte("L119547037146038801333356L\n")):
		c.container = "torch-legacy"
		return openLegacy(f)
	}
	return nil, fmt.Errorf("%s; give a PyTorch (.pt, .pth, .bin) or safetensors file", notTorch(head, f.size))
}

// notTorch says what a file is instead of a PyTorch file.
func notTorch(head []byte, size int64) string {
	if what := tensorfile.Mistaken(head, size); what != "" {
		return what
	}
	if len(head) > 8 && head[8] == '{' {
		return "a safetensors file"
	}
	return "not a checkpoint that evatool knows"
}

// loadZip reads a zip archive: data.pkl, and storages in data/KEY.
func (c *Checkpoint) loadZip(f raw) (any, error) {
	a, err := openZip(f.r, f.f, f.size)
	if err != nil {
		return nil, err
	}
	root, err := a.root()
	if err != nil {
		return nil, err
	}
	if c.swap, err = a.bigEndian(root); err != nil {
		return nil, err
	}
	c.container = "torch-zip"
	v := &vm{script: a.isScript(root)}
	if v.script {
		c.container = "torchscript-zip"
	}
	v.storage = func(id *types.Tuple) (*storage, error) {
		s, key, err := parseStorage(id)
		if err != nil {
			return nil, err
		}
		if s.blob = a.members[root+"data/"+key]; s.blob == nil {
			return nil, ownf("storage %.60q is not in the archive; the file is incomplete", key)
		}
		// Types that safetensors lacks are refused later, with the tensor's name.
		known := s.typ.elem == "" || elemTypes[s.typ.elem].st != ""
		if n := s.elems * s.typ.size(); known && n != s.blob.size {
			return nil, ownf("storage %q has %d bytes, but %d elements of %s need %d; the file is damaged", key, s.blob.size, s.elems, s.typ.name, n)
		}
		return s, nil
	}
	data := a.members[root+"data.pkl"]
	if data.size > maxPickle {
		return nil, fmt.Errorf("data.pkl has %d bytes, expected at most %d", data.size, maxPickle)
	}
	// Read all of it, so that a wrong checksum shows before anything is built.
	pickled, err := data.bytes(maxPickle)
	if err != nil {
		return nil, err
	}
	top, _, err := v.next(bufio.NewReader(bytes.NewReader(pickled)))
	return top, err
}

// take takes the inventory of the file and chooses the state dict.
func (c *Checkpoint) take(root any, opt Options) error {
	w := &walker{open: map[any]bool{}, script: c.container == "torchscript-zip"}
	if err := w.walk("", root, 0); err != nil {
		return err
	}
	c.all, c.other = w.tensors, w.other
	var err error
	if c.container == "torchscript-zip" {
		if opt.Key != "" {
			return fault.Usagef("Options.Key %s: a TorchScript archive is one module; leave it out", opt.Key)
		}
		c.tensors, err = scripted("", root, nil, 0)
	} else {
		var state any
		if state, c.key, err = stateDict(root, opt.Key); err == nil {
			c.tensors, err = flat(state)
			c.left = c.leftOf(state)
		}
		c.prefix = strip(c.tensors)
	}
	if err != nil {
		return err
	}
	if len(c.tensors) == 0 {
		where, advice := "at the top level", "give the model's checkpoint"
		if c.key != "" {
			where = fmt.Sprintf("under %q", c.key)
		}
		if c.container == "torchscript-zip" {
			advice = "a frozen module keeps its tensors in its code: save it before torch.jit.freeze"
		}
		if p := places(c.all); p != "" {
			advice = "there are some under " + p + ": choose one with Options.Key"
		}
		return fmt.Errorf("no tensors %s; %s", where, advice)
	}
	if err := accept(c.tensors); err != nil {
		return err
	}
	c.index = make(map[string]*tensor, len(c.tensors))
	for _, t := range c.tensors {
		c.index[t.name] = t.tensor
	}
	return nil
}

// Container is "torch-zip", "torch-legacy", "torch-tar" or "torchscript-zip".
func (c *Checkpoint) Container() string { return c.container }

// StateDictKey is the path of the state dict in the file, "" for the top level.
func (c *Checkpoint) StateDictKey() string { return c.key }

// StripPrefix is the prefix stripped from the names ("module." or "").
func (c *Checkpoint) StripPrefix() string { return c.prefix }

// AllTensors lists every tensor of the file, including those of the state dict,
// under its path, such as "optimizer/state/0/exp_avg".
func (c *Checkpoint) AllTensors() []tensorfile.Info { return infos(c.all) }

// Left lists the entries of the state dict that are left out although they are or
// hold arrays of numbers.
func (c *Checkpoint) Left() []Left { return c.left }

// Other lists what is not a tensor.
func (c *Checkpoint) Other() []Entry { return c.other }

// Tensors lists the state dict in file order.
func (c *Checkpoint) Tensors() []tensorfile.Info { return infos(c.tensors) }

func infos(tensors []named) []tensorfile.Info {
	out := make([]tensorfile.Info, len(tensors))
	for i, t := range tensors {
		out[i] = t.info(t.name)
	}
	return out
}

// Open streams a tensor of the state dict: contiguous, row-major, little-endian,
// whatever its strides and the file's byte order. If a checksum does not match, the
// stream ends in an error.
func (c *Checkpoint) Open(name string) (io.ReadCloser, error) {
	t, ok := c.index[name]
	if !ok {
		return nil, fault.Inputf("%s: no tensor %q; `evatool inspect` lists them", c.path, name)
	}
	r, err := t.open(c.swap)
	if err != nil {
		return nil, c.failed(name, err)
	}
	return io.NopCloser(&faultReader{r, c, name}), nil
}

func (c *Checkpoint) failed(name string, err error) error {
	return fault.As(fault.Input, fmt.Errorf("%s: tensor %q: %w", c.path, name, err))
}

// faultReader names the file and tensor in read errors.
type faultReader struct {
	r    io.Reader
	c    *Checkpoint
	name string
}

func (r *faultReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = r.c.failed(r.name, err)
	}
	return n, err
}

// open streams the tensor's elements.
func (t *tensor) open(swap bool) (io.Reader, error) {
	size := int64(t.dtype.Size())
	n := t.info("").NumBytes()
	if n == 0 {
		return strings.NewReader(""), nil
	}
	var r io.Reader
	dims := simplify(t.shape, t.stride)
	if contiguous(dims) {
		var err error
		if r, err = t.stor.blob.span(t.stor.base+t.offset*size, n); err != nil {
			return nil, err
		}
	} else {
		at, err := t.stor.blob.random()
		if err != nil {
			return nil, err
		}
		length := t.stor.blob.size - t.stor.base
		r = newGather(io.NewSectionReader(at, t.stor.base, length), length, t.offset, size, gatherOut, dims)
	}
	if swap && size > 1 {
		r = &swapper{r: r, size: int(size)}
	}
	return r, nil
}

func contiguous(dims []dim) bool {
	return len(dims) == 0 || len(dims) == 1 && dims[0].src == 1
}

// Extent returns where a tensor's bytes lie as one run in the file, if they do.
// Reading them there skips the checksum.
func (c *Checkpoint) Extent(name string) (*os.File, int64, bool) {
	t, ok := c.index[name]
	if !ok || c.f == nil {
		return nil, 0, false
	}
	b := t.stor.blob
	if b.f == nil || b.deflated || (c.swap && t.dtype.Size() > 1) || !contiguous(simplify(t.shape, t.stride)) {
		return nil, 0, false
	}
	return b.f, b.off + t.stor.base + t.offset*int64(t.dtype.Size()), true
}

// Metadata is nil: PyTorch files have none.
func (c *Checkpoint) Metadata() map[string]string { return nil }

// Close closes the file.
func (c *Checkpoint) Close() error {
	if c.f == nil {
		return nil
	}
	return c.f.Close()
}
