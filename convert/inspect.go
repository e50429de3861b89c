package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/tensorfile"
)

// InspectOptions are the options of Inspect.
type InspectOptions struct {
	Key    string // path of the state dict inside a wrapper
	Prefix string // list only the tensors with this prefix, and strip it
	Hash   bool   // hash every tensor; otherwise no tensor bytes are read

	Offline    bool         // as in Options
	ModelCache string       // as in Options
	Log        *slog.Logger // may be nil
}

// Inspection is what a checkpoint holds.
type Inspection struct {
	File         string            `json:"file"`
	Container    string            `json:"container"`
	Family       string            `json:"family"` // of the names; empty: unknown
	Config       string            `json:"config"` // published name, custom, or empty: unknown
	Recognised   string            `json:"recognised"`
	Preprocess   json.RawMessage   `json:"preprocess,omitempty"` // of images, if the file holds a model
	Warnings     []string          `json:"warnings"`
	StateDictKey *string           `json:"state_dict_key"` // null: the file is the state dict
	StripPrefix  string            `json:"strip_prefix"`
	Tensors      []InspectedTensor `json:"tensors"`
	Outside      []InspectedTensor `json:"outside"` // tensors outside the state dict, such as optimizer state
	Other        []OtherEntry      `json:"other"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Files        []string          `json:"files"`
	Ignored      []Dropped         `json:"ignored"`
}

// InspectedTensor is a tensor of the state dict.
type InspectedTensor struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	Bytes  int64   `json:"bytes"`
	SHA256 string  `json:"sha256,omitempty"`
}

func inspected(t tensorfile.Info) InspectedTensor {
	return InspectedTensor{Name: t.Name, DType: string(t.DType), Shape: shapeOf(t), Bytes: t.NumBytes()}
}

// Inspect lists the contents of a checkpoint, given as a path or a name (see
// eval.Open).
func Inspect(ctx context.Context, path string, o InspectOptions) (_ *Inspection, err error) {
	defer fault.Public(ctx, &err)
	paths, err := files(ctx, hub.Options{Cache: o.ModelCache, Offline: o.Offline, Log: o.Log}, path)
	if err != nil {
		return nil, err
	}
	path = paths[0]
	in, err := checkpoint.Open(paths, o.Key)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := in.Under(o.Prefix); err != nil {
		return nil, checkpoint.About([]string{path}, err)
	}
	r := &Inspection{
		File: path, Container: in.Container, StripPrefix: in.Prefix,
		Other: others(in.Other), Metadata: in.Metadata(), Files: in.Files, Ignored: dropped(in.Ignored),
		Tensors: []InspectedTensor{},
	}
	if in.Key != "" {
		r.StateDictKey = &in.Key
	}
	id := in.Identify()
	r.Family, r.Config, r.Recognised, r.Warnings = id.Family, id.Config, id.How, notNil(id.Warnings)
	if id.Preprocess != nil {
		r.Preprocess = mustJSON(id.Preprocess)
	}
	for _, t := range in.Tensors() {
		it := inspected(t)
		if o.Hash {
			if it.SHA256, err = hashTensor(ctx, in, t); err != nil {
				return nil, checkpoint.About([]string{path}, err)
			}
		}
		r.Tensors = append(r.Tensors, it)
	}
	r.Outside = each(in.Outside(), inspected)
	return r, nil
}

func hashTensor(ctx context.Context, src tensorfile.Source, t tensorfile.Info) (string, error) {
	r, err := src.Open(t.Name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, ctxReader{ctx, r}, make([]byte, min(chunkSize, t.NumBytes()+1))); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ctxReader stops reading when its context ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
