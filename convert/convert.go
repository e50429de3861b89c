// Package convert turns CLIP checkpoints as their authors published them into
// safetensors.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//
//		"github.com/evatool/evatool/convert"
//	)
//
//	func main() {
//		r, err := convert.Run(context.Background(), convert.Options{
//			Sources: []string{"EVA02_CLIP_B_psz16_s8B.pt"},
//			Output:  "b16.safetensors",
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		fmt.Println(r.Family, r.Config, r.TensorsOut, r.Verified)
//	}
//
// Run reads the container without executing anything, recognises the key family
// and the architecture, plans every output tensor before it reads a byte, streams
// in constant memory, and verifies the result by reading it back. Init builds a
// starting model from two towers; Inspect and Diff list and compare files.
package convert

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
)

// Options are the options of Run. The zero value of every field but Sources and
// Output is its default.
type Options struct {
	Sources []string // files, one folder, or the name of a model (see eval.Open); several files are shards of one model
	Output  string   // the safetensors file to write
	Config  string   // architecture name or JSON file; empty: recognised
	Layout  string   // eva (default), openclip, hf, source
	// Preprocess is how images are prepared for the model: openai, inception,
	// imagenet, mean=…,std=…,interpolation=…,resize=…, or a JSON file; empty: as
	// is known of the weights.
	Preprocess string
	Key        string // path of the state dict inside a wrapper, such as a/b
	Prefix     string // take only the tensors with this prefix, such as "model.", and strip it

	DType    string // keep (default), fp32, fp16, bf16
	Saturate bool   // clamp values that overflow fp16 instead of failing

	ImageSize int    // new input size in pixels; 0: unchanged
	Resize    string // eva (default), clip-rei, openclip

	ShardSize int64    // split the output into files with at most this many bytes of tensors; 0: one file
	Include   []string // globs over tensor names; empty: all
	Exclude   []string // globs over tensor names
	DryRun    bool     // plan only
	Force     bool     // overwrite

	Offline    bool   // use the cache only for named models; HF_HUB_OFFLINE=1 does the same
	ModelCache string // folder of fetched models; "": HF_HUB_CACHE, or huggingface_hub's default

	Progress func(done, total int64) // bytes written so far; called from several goroutines; may be nil
	Log      *slog.Logger            // may be nil
}

// files finds the files of models given as paths or names.
func files(ctx context.Context, o hub.Options, names ...string) ([]string, error) {
	paths := make([]string, len(names))
	for i, name := range names {
		f, err := hub.Find(ctx, name, o)
		if err != nil {
			return nil, err
		}
		paths[i] = f.Path
	}
	return paths, nil
}

// Run converts a checkpoint and reports what it did. The output is complete and
// verified, or absent.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	defer fault.Public(ctx, &err)
	start := time.Now()
	po := checkpoint.PlanOptions{ConfigName: o.Config, Preprocess: o.Preprocess, Layout: o.Layout, DType: o.DType, Resize: o.Resize,
		ImageSize: o.ImageSize, Include: o.Include, Exclude: o.Exclude}
	if err := po.Check(); err != nil {
		return nil, err
	}
	if o.ShardSize < 0 {
		return nil, fault.Usagef("Options.ShardSize %d: want a positive size, or 0 for one file", o.ShardSize)
	}
	if !o.DryRun {
		if err := checkTarget(o.Output, o.Force, append(slices.Clone(o.Sources), o.Config)); err != nil {
			return nil, err
		}
	}
	if o.Sources, err = files(ctx, hub.Options{Cache: o.ModelCache, Offline: o.Offline, Log: o.Log}, o.Sources...); err != nil {
		return nil, err
	}
	in, err := checkpoint.Open(o.Sources, o.Key)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if !o.DryRun {
		if err := checkShards(o, in.Files); err != nil {
			return nil, err
		}
	}
	if err := in.Under(o.Prefix); err != nil {
		return nil, checkpoint.About(o.Sources, err)
	}
	p, err := in.Plan(po)
	if in.HashTells(p, err) {
		if _, err := in.Hash(ctx); err != nil {
			return nil, err
		}
		p, err = in.Plan(po)
	}
	if err != nil {
		return nil, checkpoint.About(o.Sources, err)
	}
	if p.Assumed != "" {
		p.Warnings = append(p.Warnings, p.Assumed)
	}
	beside, paths, err := filesBeside(p, o)
	if err != nil {
		return nil, err
	}
	r := newReport(in, p, o.Output)
	if r.BesideFiles = paths; len(paths) > 0 {
		r.ConfigFile = paths[0]
	}
	for _, w := range p.Warnings {
		if o.Log != nil {
			o.Log.Warn(w)
		}
	}
	if o.DryRun {
		r.DryRun, r.Plan = true, lines(p)
		r.Source, err = sizes(in.Files)
		r.finish(start)
		return r, err
	}
	t := &transfer{sources: in.Files, items: p.Items, saturate: o.Saturate, progress: o.Progress, keep: !o.Force}
	if err := t.write(ctx, in, p, o, beside, r, start); err != nil {
		return nil, checkpoint.About(o.Sources, err)
	}
	return r, nil
}

// write writes the output of a plan, the files beside it and the report.
func (t *transfer) write(ctx context.Context, in *checkpoint.Input, p *checkpoint.Plan, o Options, beside []small, r *Report, start time.Time) error {
	defer t.discard()
	hidden := make([]string, len(in.Files))
	for i := range hidden {
		hidden[i] = strings.Repeat("0", 64)
	}
	t.metadata = p.Metadata(hidden)
	if err := t.create(o.Output, o.ShardSize); err != nil {
		return err
	}
	stamps, err := stamp(in.Files)
	if err != nil {
		return err
	}
	if err := t.run(ctx); err != nil {
		return err
	}
	r.Source = t.hashed
	var sums []string
	for _, s := range r.Source {
		sums = append(sums, s.SHA256)
	}
	metadata := p.Metadata(sums)
	for _, f := range t.files {
		if err := f.rewriteHeader(metadata); err != nil {
			return err
		}
	}
	for i, s := range stamps {
		if now, err := os.Stat(in.Files[i]); err != nil || now.Size() != s.Size() || !now.ModTime().Equal(s.ModTime()) {
			return digest.Changed(in.Files[i])
		}
	}
	r.Tensors, r.Bytes, r.Files = t.tensors(), t.total, t.outputs()
	r.Verified = true
	r.finish(start)
	return t.commit(append(beside, reportFile(o.Output, r))...)
}

// stamp remembers the size and time of files, to notice a change.
func stamp(files []string) ([]fs.FileInfo, error) {
	var out []fs.FileInfo
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return nil, fault.File(f, checkpoint.Want, err)
		}
		out = append(out, st)
	}
	return out, nil
}

// checkTarget refuses to overwrite an existing file.
func checkTarget(path string, force bool, sources []string) error {
	if path == "" {
		return fault.Usagef("no output; give Options.Output OUT.safetensors")
	}
	if filepath.Ext(path) != ".safetensors" {
		return fault.Usagef("%s: the output is a safetensors file; give a name that ends in .safetensors", path)
	}
	names := []string{path, indexName(path), reportFile(path, nil).path}
	for _, name := range names[:2] {
		if err := atomicfile.Target(name); err != nil {
			return err
		}
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	if err := atomicfile.Folder(filepath.Dir(path), names, sources); err != nil {
		return err
	}
	for _, name := range []string{path, indexName(path)} {
		if _, err := os.Lstat(name); err == nil && !force {
			return fault.Usagef("%s exists; Options.Force overwrites it", name)
		}
	}
	return nil
}

// checkShards refuses to overwrite an input file, which may lie in a folder that
// was given as the source.
func checkShards(o Options, files []string) error {
	stem := strings.TrimSuffix(filepath.Base(o.Output), ".safetensors")
	shard := regexp.MustCompile("^" + regexp.QuoteMeta(stem) + `-\d{5}-of-\d{5}\.safetensors$`)
	dir, err := os.Stat(filepath.Dir(o.Output))
	if err != nil {
		return fault.File(filepath.Dir(o.Output), "the folder of the output", err)
	}
	out, _ := os.Stat(o.Output)
	for _, f := range files {
		in, err := os.Stat(f)
		if err != nil {
			return fault.File(f, checkpoint.Want, err)
		}
		if out != nil && os.SameFile(in, out) {
			return fault.Usagef("%s: is the input %s, which the output would replace; choose another output", o.Output, f)
		}
		if beside, err := os.Stat(filepath.Dir(f)); err == nil && os.SameFile(beside, dir) && o.ShardSize > 0 && shard.MatchString(filepath.Base(f)) {
			return fault.Usagef("%s is a shard of the source, which the shards of %s would overwrite; choose another output", f, o.Output)
		}
	}
	return nil
}

func sizes(files []string) ([]SourceFile, error) {
	var out []SourceFile
	infos, err := stamp(files)
	for i, st := range infos {
		out = append(out, SourceFile{File: files[i], Size: st.Size()})
	}
	return out, err
}

// reportFile is a report as the file OUT.report.json of OUT.safetensors.
func reportFile(output string, report any) small {
	return small{strings.TrimSuffix(output, ".safetensors") + ".report.json", append(mustIndent(report), '\n')}
}

// Error is implemented by every error of this package; errors.As finds it:
//
//	var e convert.Error
//	if errors.As(err, &e) && e.Kind() == convert.KindInput { … }
type Error interface {
	error
	Kind() string
}

// The kinds of errors. errors.Is also finds the context's error in that of an
// interrupted call.
const (
	KindUsage       = "usage"       // an option, or a call that makes no sense
	KindInput       = "input"       // a file, a checkpoint, a tensor
	KindEnvironment = "environment" // no such backend, no space, no permission
	KindCheck       = "check"       // a requested check failed
	KindInterrupted = "interrupted" // the context ended
)
