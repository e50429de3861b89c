package trainer

import (
	"context"
	"fmt"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/tensorfile"
)

// findInit finds the files of the recipe's init, which are paths or names of
// models; names are fetched.
func (r *run) findInit(ctx context.Context, o hub.Options) error {
	r.init = r.recipe.Init
	for _, in := range []struct {
		key  string
		name *string
	}{{"model", &r.init.Model}, {"vision", &r.init.Vision}, {"text", &r.init.Text}} {
		f, err := hub.Find(ctx, r.recipe.path(*in.name), o)
		if err != nil {
			return fmt.Errorf("init.%s: %w", in.key, err)
		}
		*in.name = f.Path
	}
	return nil
}

// startWeights fills a fresh machine as the recipe's init says: a whole model,
// two towers, or random.
func (r *run) startWeights(ctx context.Context) error {
	in, cfg, seed := r.init, r.machine.cfg, uint64(r.recipe.Seed)
	switch {
	case in.Model != "":
		path := in.Model
		m, err := checkpoint.OpenModel(ctx, path, checkpoint.ModelOptions{Config: cfg})
		if err != nil {
			return r.misfit(ctx, path, err)
		}
		defer m.Close()
		for _, w := range m.Warnings {
			r.log.Warn("init.model: " + w)
		}
		return r.startFrom(m.Source, path)
	case in.Vision != "" || in.Text != "":
		s, err := checkpoint.OpenStart(checkpoint.StartOptions{
			Config: cfg, Vision: in.Vision, Text: in.Text, Skip: in.Skip, Seed: seed,
		})
		if err != nil {
			return fmt.Errorf("init: %w", err)
		}
		defer s.Close()
		for _, w := range s.Warnings {
			r.log.Warn(w)
		}
		r.log.Info("start", "loaded", len(s.Loaded), "resized", len(s.Resized), "random", len(s.Random))
		return r.startFrom(s.Source, s.Files...)
	}
	return r.machine.start(func(p arch.Param) ([]float32, error) {
		return checkpoint.RandomTensor(cfg, p, seed), nil
	})
}

// startFrom takes the weights from a source that has exactly the model's, read
// from files.
func (r *run) startFrom(src tensorfile.Source, files ...string) error {
	return r.machine.start(func(p arch.Param) ([]float32, error) {
		v, err := tensorfile.Float32s(src, p.Name)
		if err != nil {
			return nil, fmt.Errorf("init: %w", checkpoint.About(files, err))
		}
		if i := notANumber(v); i >= 0 {
			return nil, fault.Inputf("init: %s: tensor %s: value %d of %d is %v before any step; the file is broken, give another", strings.Join(files, ", "), p.Name, i, len(v), v[i])
		}
		return v, nil
	})
}

// notANumber is where the first value that is not finite stands, -1 for nowhere.
func notANumber(v []float32) int {
	for i, x := range v {
		if x-x != 0 {
			return i
		}
	}
	return -1
}

// misfit explains why init.model cannot be the start: err is what its opening
// as the recipe's architecture said.
func (r *run) misfit(ctx context.Context, path string, err error) error {
	m, unread := checkpoint.OpenModel(ctx, path, checkpoint.ModelOptions{})
	if unread != nil {
		return fmt.Errorf("init.model: %w", err)
	}
	defer m.Close()
	if have, want := m.Preprocess.Size, r.recipe.Image.Size; have != want {
		return fault.Inputf("init.model: %s: takes pictures of %d pixels, the recipe's model %d; evatool convert %s --image-size %d -o FILE makes one that fits", path, have, want, path, want)
	}
	what, _, _ := strings.Cut(fault.Line(err), "; ")
	return fault.Inputf("init.model: %s; the recipe's model is another architecture than the file's: change model, or give vision and text towers", what)
}
