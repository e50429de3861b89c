package convert

import (
	"encoding/json"
	"time"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Report is what Run did. It is written beside the output as OUT.report.json.
type Report struct {
	Output     string       `json:"output"`
	Source     []SourceFile `json:"source"`
	Container  string       `json:"container"`
	Family     string       `json:"family"` // of the names in the source
	Layout     string       `json:"layout"` // of the names in the output
	Config     string       `json:"config"` // the architecture's published name, custom, or empty: unknown
	Recognised string       `json:"recognised"`
	TensorsIn  int          `json:"tensors_in"`
	TensorsOut int          `json:"tensors_out"`
	Dropped    []Dropped    `json:"dropped"` // source tensors that are not in the output
	Ignored    []Dropped    `json:"ignored"` // files that were not read
	Renamed    int          `json:"renamed"`
	Cast       int          `json:"cast"`
	Resized    []Resized    `json:"resized"`
	Tensors    []Tensor     `json:"tensors"`
	Other      []OtherEntry `json:"other"` // what the source holds besides tensors; none of it is executed
	Warnings   []string     `json:"warnings"`
	Files      []OutputFile `json:"files"`
	ConfigFile string       `json:"config_file,omitempty"` // transformers' config.json beside the output
	// BesideFiles lists the files that transformers needs beside the output.
	BesideFiles []string `json:"beside_files,omitempty"`
	Seconds     float64  `json:"seconds"`
	Bytes       int64    `json:"bytes"`    // of tensors in the output
	PeakRSS     int64    `json:"peak_rss"` // bytes
	Verified    bool     `json:"verified"` // read back and compared with the source, every byte
	DryRun      bool     `json:"dry_run,omitempty"`
	Plan        []string `json:"plan,omitempty"` // of a dry run, one line per tensor
}

// SourceFile is a file that was read.
type SourceFile struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// OutputFile is a file that was written.
type OutputFile struct {
	File string `json:"file"`
	Size int64  `json:"size"`
}

// Dropped is a tensor or file of the source that was left out.
type Dropped struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Resized is a tensor that was interpolated to another grid.
type Resized struct {
	Name   string  `json:"name"`
	From   []int64 `json:"from"`
	To     []int64 `json:"to"`
	Method string  `json:"method"`
}

// Tensor is one output tensor.
type Tensor struct {
	Name   string   `json:"name"`
	From   []string `json:"from"`
	DType  string   `json:"dtype"`
	Shape  []int64  `json:"shape"`
	SHA256 string   `json:"sha256"` // of its bytes: little-endian, row-major
}

// OtherEntry is something in a source file that is not a tensor.
type OtherEntry struct {
	Path  string `json:"path"`
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// newReport starts a report from the plan.
func newReport(in *checkpoint.Input, p *checkpoint.Plan, output string) *Report {
	r := &Report{
		Output: output, Container: in.Container, Family: p.Family, Layout: p.Layout, Config: p.Name, Recognised: p.Recognised,
		TensorsIn: len(in.Tensors()), TensorsOut: len(p.Items), Dropped: dropped(p.Dropped), Ignored: dropped(in.Ignored),
		Renamed: p.Renamed, Cast: p.Cast, Resized: resized(p.Resized), Other: others(in.Other), Warnings: p.Warnings,
	}
	for _, it := range p.Items {
		r.Bytes += it.Out.NumBytes()
	}
	return r
}

func dropped(list []checkpoint.Dropped) []Dropped {
	return each(list, func(d checkpoint.Dropped) Dropped { return Dropped(d) })
}

func resized(list []checkpoint.Resized) []Resized {
	return each(list, func(r checkpoint.Resized) Resized { return Resized(r) })
}

func others(list []checkpoint.Entry) []OtherEntry {
	return each(list, func(e checkpoint.Entry) OtherEntry { return OtherEntry(e) })
}

// each maps f over a list; the result is never nil, as JSON readers expect lists.
func each[A, B any](list []A, f func(A) B) []B {
	out := make([]B, len(list))
	for i, a := range list {
		out[i] = f(a)
	}
	return out
}

// lines lists what a dry run would write, one line per tensor.
func lines(p *checkpoint.Plan) []string {
	return each(p.Items, (*checkpoint.Item).String)
}

func (r *Report) finish(start time.Time) {
	r.Seconds = time.Since(start).Seconds()
	r.PeakRSS = runlog.PeakRSS()
	// JSON readers expect lists, not null.
	r.Source, r.Tensors = notNil(r.Source), notNil(r.Tensors)
	r.Warnings, r.Files = notNil(r.Warnings), notNil(r.Files)
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// shapeOf is t's shape, which JSON shows as a list even for a scalar.
func shapeOf(t tensorfile.Info) []int64 { return notNil(t.Shape) }

// mustIndent encodes v, which holds only what JSON can express, as indented JSON.
func mustIndent(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err)
	}
	return b
}

// mustJSON is mustIndent on one line.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
