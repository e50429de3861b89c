package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/torchfile"
)

// input is an opened checkpoint: one file or the shards of one.
type input struct {
	tensorfile.Source
	container   string
	key, prefix string            // where the state dict was, what was taken off its names
	files       []string          // every file with tensors
	all         []tensorfile.Info // every tensor of the files, by path
	other       []OtherEntry      // what is not a tensor
	config      *arch.Config      // from a config.json beside the weights
	ignored     []Dropped         // files that are not read, and why
	inDict      map[string]bool   // paths of the state dict's tensors, made on demand
}

func (in *input) inventory() *inventory {
	return &inventory{tensors: in.Tensors(), metadata: in.Metadata(), config: in.config}
}

const wantCheckpoint = "a checkpoint (.pt, .pth, .bin, .safetensors, .tar, an index.json, a Hugging Face or DeepSpeed folder)"

// openInput opens what the user names: a file, a folder, or several files that
// together hold one model. key is the path of the state dict, or empty.
func openInput(paths []string, key string) (in *input, err error) {
	if len(paths) == 0 {
		return nil, fault.Usagef("no source; give %s", wantCheckpoint)
	}
	in = &input{}
	defer func() {
		if err != nil && in != nil && in.Source != nil {
			in.Source.Close()
		}
	}()
	if len(paths) > 1 {
		return in, in.openSeveral(paths, key)
	}
	path := paths[0]
	st, err := os.Stat(path)
	if err != nil {
		return in, fault.File(path, wantCheckpoint, err)
	}
	if st.IsDir() {
		if path, err = in.choose(path); err != nil {
			return in, err
		}
	}
	if strings.HasSuffix(path, ".index.json") {
		in.Source, err = tensorfile.OpenShards(path, func(p string) (tensorfile.Source, error) { return in.openFile(p, key) })
		in.container = "hf-sharded-" + map[bool]string{true: "safetensors", false: "bin"}[in.container == "safetensors"]
	} else {
		in.Source, err = in.openFile(path, key)
	}
	if err != nil {
		return in, err
	}
	return in, in.sidecar(filepath.Dir(path), st.IsDir())
}

// openFile opens one file and adds to in what it says.
func (in *input) openFile(path, key string) (tensorfile.Source, error) {
	if err := fault.RegularFile(path, wantCheckpoint); err != nil {
		return nil, err
	}
	if isDistributed(path) {
		return nil, distributed(filepath.Dir(path))
	}
	in.files = append(in.files, path)
	st, err := isSafetensors(path)
	if err != nil {
		return nil, err
	}
	if st {
		if key != "" {
			return nil, fault.Usagef("%s: a safetensors file has no wrappers; leave --key out", path)
		}
		f, err := tensorfile.OpenFile(path)
		if err != nil {
			return nil, err
		}
		in.container = "safetensors"
		in.all = append(in.all, f.Tensors()...)
		return f, nil
	}
	c, err := torchfile.Open(path, torchfile.Options{Key: key})
	if err != nil {
		return nil, err
	}
	in.container, in.key, in.prefix = c.Container(), c.StateDictKey(), c.StripPrefix()
	in.all = append(in.all, c.AllTensors()...)
	for _, e := range c.Other() {
		in.other = append(in.other, OtherEntry{e.Path, e.Kind, e.Value})
	}
	return c, nil
}

// isSafetensors looks at the content, and at the name where that is unclear.
func isSafetensors(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fault.File(path, wantCheckpoint, err)
	}
	defer f.Close()
	if strings.HasSuffix(path, ".safetensors") {
		return true, nil
	}
	head := make([]byte, 9)
	if _, err := io.ReadFull(f, head); err != nil {
		return false, nil
	}
	// A header of less than 4 GB starts at byte 8; no PyTorch file looks so.
	return head[8] == '{' && bytes.Equal(head[4:8], make([]byte, 4)), nil
}

// folderFiles are the weights that a folder may hold, best first.
var folderFiles = []string{
	"model.safetensors.index.json", "model.safetensors", "open_clip_model.safetensors.index.json", "open_clip_model.safetensors",
	"pytorch_model.bin.index.json", "pytorch_model.bin", "open_clip_pytorch_model.bin.index.json", "open_clip_pytorch_model.bin",
}

const deepspeedModel = "mp_rank_00_model_states.pt"

// choose finds the weights in a folder of Hugging Face or DeepSpeed.
func (in *input) choose(dir string) (string, error) {
	tag, err := os.ReadFile(filepath.Join(dir, "latest"))
	switch {
	case err == nil:
		t := strings.TrimSpace(string(tag))
		if t == "" || !filepath.IsLocal(t) {
			return "", fault.Inputf("%s says %q, which names no folder; give the checkpoint's folder itself", filepath.Join(dir, "latest"), t)
		}
		return in.deepspeed(filepath.Join(dir, t))
	case !errors.Is(err, fs.ErrNotExist):
		return "", fault.File(filepath.Join(dir, "latest"), "DeepSpeed's pointer file", err)
	}
	if _, err := os.Stat(filepath.Join(dir, deepspeedModel)); err == nil {
		return in.deepspeed(dir)
	}
	if isDistributed(filepath.Join(dir, ".metadata")) {
		return "", distributed(dir)
	}
	for _, name := range folderFiles {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fault.Inputf("%s: no weights here; expected %s, or DeepSpeed's latest; or name the files themselves", dir, strings.Join(folderFiles, ", "))
}

// isDistributed says whether a file is a piece of a torch.distributed.checkpoint.
func isDistributed(path string) bool {
	if filepath.Base(path) == ".metadata" {
		pieces, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.distcp"))
		_, err := os.Stat(path)
		return err == nil && len(pieces) > 0
	}
	return strings.HasSuffix(path, ".distcp")
}

func distributed(dir string) error {
	return fault.Inputf("%s: a checkpoint of torch.distributed, in pieces (.metadata and *.distcp), which is not supported; make one file of it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch %s model.pt", dir, dir)
}

func (in *input) deepspeed(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fault.File(dir, "a DeepSpeed checkpoint", err)
	}
	model := ""
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == deepspeedModel:
			model = filepath.Join(dir, name)
		case strings.HasPrefix(name, "mp_rank_") && strings.HasSuffix(name, "_model_states.pt"),
			strings.HasPrefix(name, "zero_pp_rank_") && strings.HasSuffix(name, "_model_states.pt"):
			return "", fault.Inputf("%s: %s: the weights are partitioned over ranks, which is not supported; gather them with DeepSpeed's zero_to_fp32.py first", dir, name)
		case strings.HasSuffix(name, "_optim_states.pt"):
			in.ignored = append(in.ignored, Dropped{name, "optimizer state of DeepSpeed ZeRO, no weights"})
		}
	}
	if model == "" {
		return "", fault.Inputf("%s: no %s here; give the folder that holds it", dir, deepspeedModel)
	}
	return model, nil
}

// sidecar reads the configuration beside the weights. In a folder any
// architecture file counts, beside a single file only one that is clearly its.
func (in *input) sidecar(dir string, folder bool) error {
	for _, name := range []string{"open_clip_config.json", "config.json"} {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var kind struct {
			ModelType string `json:"model_type"`
		}
		if json.Unmarshal(b, &kind) != nil {
			continue
		}
		if !folder && (name == "config.json") != (kind.ModelType == "clip") {
			continue
		}
		if !folder && kind.ModelType == "clip" && !slices.ContainsFunc(in.Tensors(), func(t tensorfile.Info) bool { return t.Name == hfCLIP.has[0] }) {
			continue
		}
		c, err := arch.Parse(b)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		in.config = c
		return nil
	}
	return nil
}

func (in *input) openSeveral(paths []string, key string) error {
	j := &joined{of: map[string]tensorfile.Source{}}
	in.Source = j
	for _, p := range paths {
		src, err := in.openFile(p, key)
		if err != nil {
			return err
		}
		j.parts = append(j.parts, src)
		for _, t := range src.Tensors() {
			if j.of[t.Name] != nil {
				return fault.Inputf("%s: tensor %s is in an earlier file too; several sources must be the shards of one model", p, t.Name)
			}
			j.of[t.Name] = src
			j.tensors = append(j.tensors, t)
		}
	}
	return in.sidecar(filepath.Dir(paths[0]), false)
}

// joined is several sources as one.
type joined struct {
	parts   []tensorfile.Source
	tensors []tensorfile.Info
	of      map[string]tensorfile.Source
}

func (j *joined) Tensors() []tensorfile.Info { return j.tensors }

func (j *joined) Metadata() map[string]string { return j.parts[0].Metadata() }

func (j *joined) Open(name string) (io.ReadCloser, error) {
	if j.of[name] == nil {
		return nil, fault.Inputf("no tensor %s in the %d files", name, len(j.parts))
	}
	return j.of[name].Open(name)
}

func (j *joined) Extent(name string) (*os.File, int64, bool) {
	if j.of[name] == nil {
		return nil, 0, false
	}
	return j.of[name].Extent(name)
}

func (j *joined) Close() error {
	var errs []error
	for _, p := range j.parts {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
