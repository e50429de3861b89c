// Package torchfile reads PyTorch checkpoints without Python and without
// executing anything: zip archives (torch >= 1.6), legacy files, legacy tar
// files and TorchScript archives.
//
// A checkpoint is opened in three steps: find the container, take the
// inventory (names, dtypes, shapes, strides, file offsets; no tensor bytes),
// and stream single tensors on demand.
package torchfile

import (
	"io"
	"os"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Options choose what Open takes from the file.
type Options struct {
	// Key is the path of the state dict inside the file, such as "state_dict"
	// or "a/b". Empty: the first of model, module and state_dict, else the
	// top level.
	Key string
}

// Entry is something in the file that is not a tensor: an epoch, an argument,
// an optimizer setting. It is inert: only shown, never used.
type Entry struct {
	Path  string // like "optimizer/param_groups/0/lr"
	Kind  string // Python's type name, such as "int" or "argparse.Namespace"
	Value string // short text form
}

// Checkpoint is an opened PyTorch file, seen as its state dict.
type Checkpoint struct{}

var _ tensorfile.Source = (*Checkpoint)(nil)

// Open reads the inventory of the checkpoint at path. The container is
// recognised by its content, not by its name.
func Open(path string, opt Options) (*Checkpoint, error) {
	return nil, fault.Envf("%s: reading PyTorch files (key %q) is not there yet", path, opt.Key)
}

// Container is "torch-zip", "torch-legacy", "torch-tar" or "torchscript".
func (c *Checkpoint) Container() string { return "" }

// StateDictKey is the path of the state dict in the file, "" for the top level.
func (c *Checkpoint) StateDictKey() string { return "" }

// StripPrefix is the prefix taken off the names ("module." or "").
func (c *Checkpoint) StripPrefix() string { return "" }

// AllTensors lists every tensor of the file under its path, such as
// "optimizer/state/0/exp_avg", those of the state dict included.
func (c *Checkpoint) AllTensors() []tensorfile.Info { return nil }

// Other lists what is not a tensor.
func (c *Checkpoint) Other() []Entry { return nil }

// Tensors lists the state dict in file order.
func (c *Checkpoint) Tensors() []tensorfile.Info { return nil }

// Open streams a tensor of the state dict.
func (c *Checkpoint) Open(name string) (io.ReadCloser, error) {
	return nil, fault.Inputf("tensor %q: no such tensor", name)
}

// Extent says where a tensor's bytes lie as one run in the file, when they do.
func (c *Checkpoint) Extent(string) (*os.File, int64, bool) { return nil, 0, false }

// Metadata is nil: PyTorch files have none.
func (c *Checkpoint) Metadata() map[string]string { return nil }

// Close closes the file.
func (c *Checkpoint) Close() error { return nil }
