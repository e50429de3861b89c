package checkpoint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/torchfile"
)

// Input is an opened checkpoint: one file or the shards of one. Its tensors
// are those of the state dict.
type Input struct {
	tensorfile.Source
	Container string
	Key       string    // path of the state dict in the file; empty: the file is the state dict
	Prefix    string    // prefix that was stripped from its names
	Files     []string  // every file with tensors
	Other     []Entry   // what is not a tensor
	Ignored   []Dropped // files that are not read, and why

	all    []tensorfile.Info // every tensor of the files, by path
	beside beside            // what the files beside the weights say
	sha256 string            // of the file, if it is only one and the hash is known

	left    []Dropped // entries of the state dict that hold numbers, but are no tensors
	missing string    // the shards that were not given, or empty
	act     string    // the activation that a tower's config.json states, or empty
	outside []Dropped // tensors that Under left out
}

// Entry is something in a checkpoint that is not a tensor.
type Entry struct{ Path, Kind, Value string }

func (in *Input) inventory() *inventory {
	inv := &inventory{tensors: in.Tensors(), metadata: in.Metadata(), beside: in.beside, sha256: in.sha256}
	if len(in.Files) > 0 {
		inv.path = in.Files[0]
	}
	return inv
}

// Want describes what Open takes, for messages.
const Want = "a checkpoint (.pt, .pth, .bin, .safetensors, .tar, an index.json, or a folder of evatool train, Hugging Face or DeepSpeed)"

// Open opens a file, a folder, or several files that together hold one model. key
// is the path of the state dict in a wrapper, or empty. No tensor bytes are read.
func Open(paths []string, key string) (in *Input, err error) {
	if len(paths) == 0 {
		return nil, fault.Usagef("no source; give %s", Want)
	}
	in = &Input{}
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
		return in, fault.File(path, Want, err)
	}
	if st.IsDir() {
		if path, err = in.choose(path); err != nil {
			return in, err
		}
	}
	if strings.HasSuffix(path, ".index.json") {
		in.Source, err = tensorfile.OpenShards(path, func(p string) (tensorfile.Source, error) { return in.openFile(p, key) })
		in.Container = "hf-sharded-" + map[bool]string{true: "safetensors", false: "bin"}[in.Container == "safetensors"]
	} else {
		in.Source, err = in.openFile(path, key)
	}
	if err != nil {
		return in, err
	}
	return in, in.look(filepath.Dir(path), st.IsDir())
}

// openFile opens one file and adds its contents to in.
func (in *Input) openFile(path, key string) (tensorfile.Source, error) {
	if err := fault.RegularFile(path, Want); err != nil {
		return nil, err
	}
	if isDistributed(path) {
		return nil, distributed(filepath.Dir(path))
	}
	in.Files = append(in.Files, path)
	in.missing = missingShards(in.Files)
	st, err := isSafetensors(path)
	if err != nil {
		return nil, err
	}
	if st {
		if key != "" {
			return nil, fault.Usagef("%s: a safetensors file has no nested state dict; leave out Options.Key", path)
		}
		f, err := tensorfile.OpenFile(path)
		if err != nil {
			return nil, err
		}
		in.Container = "safetensors"
		in.all = append(in.all, f.Tensors()...)
		return f, nil
	}
	c, err := torchfile.Open(path, torchfile.Options{Key: key})
	if err != nil {
		return nil, err
	}
	in.Container, in.Key, in.Prefix = c.Container(), c.StateDictKey(), c.StripPrefix()
	in.all = append(in.all, c.AllTensors()...)
	for _, l := range c.Left() {
		in.left = append(in.left, Dropped(l))
	}
	for _, e := range c.Other() {
		in.Other = append(in.Other, Entry{e.Path, e.Kind, e.Value})
	}
	return c, nil
}

// isSafetensors goes by the file's extension, or else by its content.
func isSafetensors(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fault.File(path, Want, err)
	}
	defer f.Close()
	if strings.HasSuffix(path, ".safetensors") {
		return true, nil
	}
	head := make([]byte, 9)
	if _, err := io.ReadFull(f, head); err != nil {
		return false, nil
	}
	// A header of less than 4 GB starts at byte 8; no PyTorch file looks like this.
	return head[8] == '{' && bytes.Equal(head[4:8], make([]byte, 4)), nil
}

// folderFiles are the weights that a folder may hold, best first.
var folderFiles = []string{
	"model.safetensors.index.json", "model.safetensors", "open_clip_model.safetensors.index.json", "open_clip_model.safetensors",
	"pytorch_model.bin.index.json", "pytorch_model.bin", "open_clip_pytorch_model.bin.index.json", "open_clip_pytorch_model.bin",
}

const deepspeedModel = "mp_rank_00_model_states.pt"

// choose finds the weights in a Hugging Face or DeepSpeed folder.
func (in *Input) choose(dir string) (string, error) {
	tag, err := fault.ReadFile(filepath.Join(dir, "latest"), "DeepSpeed's pointer file", 4096)
	switch {
	case err == nil:
		t := strings.TrimSpace(string(tag))
		if t == "" || !filepath.IsLocal(t) {
			return "", fault.Inputf("%s says %q, which is not the name of a folder; give the checkpoint's folder itself", filepath.Join(dir, "latest"), t)
		}
		return in.deepspeed(filepath.Join(dir, t))
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, deepspeedModel)); err == nil {
		return in.deepspeed(dir)
	}
	if isDistributed(filepath.Join(dir, ".metadata")) {
		return "", distributed(dir)
	}
	if isRun(dir) {
		return finalModel(dir)
	}
	var there []string
	for _, name := range folderFiles {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			there = append(there, name)
		}
	}
	if len(there) > 0 {
		return in.best(dir, there), nil
	}
	return "", fault.Inputf("%s: no weights here; want %s, or DeepSpeed's latest; or give the files themselves", dir, strings.Join(folderFiles, ", "))
}

// isRun reports whether a folder is that of a training run.
func isRun(dir string) bool {
	for _, name := range []string{"run.json", "metrics.jsonl"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// finalModel is the model that a training left in its run folder.
func finalModel(dir string) (string, error) {
	path := filepath.Join(dir, "final.safetensors")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	next := "finish the run"
	if saved, _ := filepath.Glob(filepath.Join(dir, "checkpoints", "step-*", "model.safetensors")); len(saved) > 0 {
		newest := slices.MaxFunc(saved, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
		next += ", or give one of its checkpoints, such as " + filepath.Dir(newest)
	}
	return "", fault.Inputf("%s: the folder of a training run without a final.safetensors yet; %s", dir, next)
}

// best is the first of a folder's files that holds a whole CLIP model: in timm's
// repositories the image tower alone lies beside it.
func (in *Input) best(dir string, names []string) string {
	chosen := 0
	if len(names) > 1 {
		chosen = max(0, slices.IndexFunc(names, func(n string) bool { return isWhole(filepath.Join(dir, n)) }))
	}
	for i, n := range names {
		if i != chosen {
			in.Ignored = append(in.Ignored, Dropped{n, names[chosen] + " is read instead"})
		}
	}
	return filepath.Join(dir, names[chosen])
}

// isWhole reports whether a file has the names of both towers. One that cannot be
// read counts as whole, so that its error is the one shown.
func isWhole(path string) bool {
	var in Input
	src, err := in.openFile(path, "")
	if strings.HasSuffix(path, ".index.json") {
		src, err = tensorfile.OpenShards(path, func(p string) (tensorfile.Source, error) { return in.openFile(p, "") })
	}
	if err != nil {
		return true
	}
	defer src.Close()
	m, err := mapToEVA(&inventory{tensors: src.Tensors()})
	return err == nil && m.alone() == "" && len(m.unknown) == 0
}

// isDistributed reports whether a file is a piece of a torch.distributed.checkpoint.
func isDistributed(path string) bool {
	if filepath.Base(path) == ".metadata" {
		pieces, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.distcp"))
		_, err := os.Stat(path)
		return err == nil && len(pieces) > 0
	}
	return strings.HasSuffix(path, ".distcp")
}

func distributed(dir string) error {
	return fault.Inputf("%s: a sharded torch.distributed checkpoint (.metadata and *.distcp) is not supported; merge it into one file first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch %s model.pt", dir, dir)
}

func (in *Input) deepspeed(dir string) (string, error) {
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
			return "", fault.Inputf("%s: %s: weights partitioned over ranks are not supported; gather them with DeepSpeed's zero_to_fp32.py first", dir, name)
		case strings.HasSuffix(name, "_optim_states.pt"):
			in.Ignored = append(in.Ignored, Dropped{name, "optimizer state of DeepSpeed ZeRO, not weights"})
		}
	}
	if model == "" {
		return "", fault.Inputf("%s: no %s here; give the folder that holds it", dir, deepspeedModel)
	}
	return model, nil
}

// maxConfig is the largest configuration that is read, in bytes.
const maxConfig = 1 << 20

func (in *Input) openSeveral(paths []string, key string) error {
	j := &joined{of: map[string]tensorfile.Source{}}
	in.Source = j
	for _, p := range paths {
		src, err := in.openFile(p, key)
		if err != nil {
			return err
		}
		j.files = append(j.files, src)
		for _, t := range src.Tensors() {
			if j.of[t.Name] != nil {
				return fault.Inputf("%s: tensor %s is in an earlier file too; several sources must be the shards of one model", p, t.Name)
			}
			j.of[t.Name] = src
			j.tensors = append(j.tensors, t)
		}
	}
	return in.look(filepath.Dir(paths[0]), false)
}

// Outside lists the tensors outside the state dict, such as optimizer state, by
// their paths.
func (in *Input) Outside() (out []tensorfile.Info) {
	if len(in.all) == len(in.Tensors()) {
		return nil
	}
	prefix := in.Key
	if prefix != "" {
		prefix += "/"
	}
	inside := map[string]bool{}
	for _, t := range in.Tensors() {
		inside[prefix+in.Prefix+t.Name] = true
		inside[prefix+t.Name] = true
	}
	for _, t := range in.all {
		if !inside[t.Name] {
			out = append(out, t)
		}
	}
	return out
}

// Identity is what the names and shapes of a checkpoint say about it.
type Identity struct {
	Family     string           // of the names; empty: unknown
	Config     string           // published name of the architecture, Custom, or empty
	How        string           // how it was found, or why it was not
	Preprocess *arch.Preprocess // nil: not a model
	Warnings   []string
}

// Identify recognises the key family and the architecture.
func (in *Input) Identify() (id Identity) {
	m, err := mapToEVA(in.inventory())
	if err == nil {
		err = m.foreign()
	}
	if err != nil {
		id.How = fault.Line(err)
		return id
	}
	id.Family = m.family.name
	a, err := identify(m, in.inventory(), PlanOptions{})
	if err != nil {
		id.How = fault.Line(err)
		return id
	}
	id.Config, id.How, id.Warnings = a.name, a.how, a.warnings
	if a.config != nil {
		p := a.config.Preprocess()
		id.Preprocess = &p
	}
	if a.assumed != "" {
		id.Warnings = append(id.Warnings, a.assumed)
	}
	return id
}

// AsNamed returns the tensors under their own names.
func (in *Input) AsNamed() (items []*Item) {
	for _, t := range in.Tensors() {
		it := asNamed(t)
		it.from = in
		items = append(items, it)
	}
	return items
}

// InEVA returns the tensors in EVA's layout, whatever the architecture; ok is
// false if they are not a CLIP model's.
func (in *Input) InEVA() (items []*Item, ok bool) {
	m, err := mapToEVA(in.inventory())
	if err != nil || len(m.unknown) > 0 {
		return nil, false
	}
	for _, it := range m.items {
		it.from = in
	}
	return m.items, true
}

// joined is several sources as one.
type joined struct {
	files   []tensorfile.Source
	tensors []tensorfile.Info
	of      map[string]tensorfile.Source
}

func (j *joined) Tensors() []tensorfile.Info { return j.tensors }

func (j *joined) Metadata() map[string]string { return j.files[0].Metadata() }

func (j *joined) Open(name string) (io.ReadCloser, error) {
	if j.of[name] == nil {
		return nil, fault.Inputf("no tensor %s in the %d files", name, len(j.files))
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
	for _, p := range j.files {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// shardName is Hugging Face's name for part i of n.
var shardName = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin|pt|pth)$`)

// missingShards says which shards of a model are not among the files, going by
// their names; empty if none is missing.
func missingShards(files []string) string {
	have, want := map[string]bool{}, map[string]int{}
	for _, f := range files {
		m := shardName.FindStringSubmatch(filepath.Base(f))
		if m == nil {
			return ""
		}
		n, _ := strconv.Atoi(m[3])
		want[filepath.Join(filepath.Dir(f), m[1])] = n
		have[m[2]] = true
	}
	if len(want) != 1 {
		return ""
	}
	var lack []string
	for name, n := range want {
		for i := 1; i <= n && len(lack) < 4; i++ {
			if !have[fmt.Sprintf("%05d", i)] {
				lack = append(lack, fmt.Sprintf("shard %d of %d of %s", i, n, name))
			}
		}
	}
	switch len(lack) {
	case 0:
		return ""
	case 1:
		return lack[0] + " is missing"
	}
	return strings.Join(lack, ", ") + " are missing"
}
