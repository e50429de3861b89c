package convert

import (
	"context"
	"log/slog"
	"time"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
)

// InitOptions are the options of Init. Checkpoints are paths or names (see
// eval.Open).
type InitOptions struct {
	Config string   // architecture name or JSON file
	Vision string   // checkpoint for the vision tower; empty: not loaded
	Text   string   // checkpoint for the text tower; empty: not loaded
	Base   string   // model for the tensors of neither tower file; empty: they are drawn from Seed
	Skip   []string // globs of tensors that are not loaded; nil: DefaultSkip
	Resize string   // eva (default), clip-rei, openclip
	Seed   uint64
	Output string
	Force  bool

	Offline    bool   // as in Options
	ModelCache string // as in Options

	Log *slog.Logger // may be nil
}

// DefaultSkip is the skip list of the recipe. Globs match names as they are in
// the vision file (so head.* is the head of a bare tower, not the projection
// visual.head of a CLIP checkpoint), names within the text tower, and those of the
// eva layout.
var DefaultSkip = checkpoint.DefaultSkip

// InitReport says where every tensor of the starting model comes from.
type InitReport struct {
	Output   string       `json:"output"`
	Config   string       `json:"config"`
	Loaded   []string     `json:"loaded"` // from the towers, resized ones included
	Resized  []Resized    `json:"resized"`
	Skipped  []Dropped    `json:"skipped"` // in the files, but not loaded
	FromBase []string     `json:"from_base"`
	Random   []string     `json:"random"`
	Source   []SourceFile `json:"source"`
	Tensors  []Tensor     `json:"tensors"`
	Warnings []string     `json:"warnings"`
	Seconds  float64      `json:"seconds"`
	Verified bool         `json:"verified"` // read back and compared with the sources
}

// Init builds the starting CLIP model of the recipe from an EVA vision tower and a
// CLIP text tower; tensors in neither come from Base or are drawn from Seed. All
// tensors of the output are F32.
func Init(ctx context.Context, o InitOptions) (_ *InitReport, err error) {
	defer fault.Public(ctx, &err)
	start := time.Now()
	so := checkpoint.StartOptions{ConfigName: o.Config, Vision: o.Vision, Text: o.Text, Base: o.Base,
		Skip: o.Skip, Resize: o.Resize, Seed: o.Seed}
	if err := so.Check(); err != nil {
		return nil, err
	}
	if err := checkTarget(o.Output, o.Force, []string{o.Vision, o.Text, o.Base}); err != nil {
		return nil, err
	}
	paths, err := files(ctx, hub.Options{Cache: o.ModelCache, Offline: o.Offline, Log: o.Log}, o.Vision, o.Text, o.Base)
	if err != nil {
		return nil, err
	}
	so.Vision, so.Text, so.Base = paths[0], paths[1], paths[2]
	s, err := checkpoint.OpenStart(so)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r := &InitReport{
		Output: o.Output, Config: s.Name, Loaded: notNil(s.Loaded), Resized: resized(s.Resized), Skipped: dropped(s.Skipped),
		FromBase: notNil(s.FromBase), Random: notNil(s.Random), Source: []SourceFile{}, Warnings: notNil(s.Warnings),
	}
	if err := r.write(ctx, s, o.Force, start); err != nil {
		return nil, err
	}
	for _, w := range s.Warnings {
		if o.Log != nil {
			o.Log.Warn(w)
		}
	}
	return r, nil
}

// write writes the model.
func (r *InitReport) write(ctx context.Context, s *checkpoint.Start, force bool, start time.Time) error {
	var sums []string
	for _, f := range s.Files {
		sum, size, err := digest.File(ctx, f, checkpoint.Want)
		if err != nil {
			return err
		}
		r.Source = append(r.Source, SourceFile{f, size, sum})
		sums = append(sums, sum)
	}
	t := &transfer{items: s.Items, metadata: s.Metadata(sums), keep: !force}
	defer t.discard()
	if err := t.create(r.Output, 0); err != nil {
		return err
	}
	if err := t.run(ctx); err != nil {
		return err
	}
	r.Verified, r.Tensors = true, t.tensors()
	r.Seconds = time.Since(start).Seconds()
	return t.commit(reportFile(r.Output, r))
}
