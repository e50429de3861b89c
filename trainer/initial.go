package trainer

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/tensorfile"
)

// initial is where the weights of a run from scratch come from.
type initial struct {
	source tensorfile.Source // nil: random
	files  []string
	closer io.Closer
}

func (in *initial) close() {
	if in.closer != nil {
		in.closer.Close()
	}
}

// openInit opens what the recipe's init names, a whole model or two towers, unless
// the weights come from a checkpoint.
func (r *run) openInit(ctx context.Context, o Options, b *beginning) error {
	if b.from.state != nil {
		return nil
	}
	var in Init
	find := func() (err error) {
		in, err = r.findInit(ctx, hub.Options{Cache: o.ModelCache, Offline: o.Offline, ToRun: true, Log: r.log})
		return err
	}
	if err := r.inTurn(find); err != nil {
		return err
	}
	cfg, err := r.recipe.config()
	if err != nil {
		return err
	}
	switch {
	case in.Model != "":
		m, err := checkpoint.OpenModel(ctx, in.Model, checkpoint.ModelOptions{Config: cfg})
		if err != nil {
			return r.misfit(ctx, in.Model, err)
		}
		for _, w := range m.Warnings {
			r.log.Warn("init.model: " + w)
		}
		b.init = initial{m.Source, []string{in.Model}, m}
	case in.Vision != "" || in.Text != "":
		s, err := checkpoint.OpenStart(checkpoint.StartOptions{
			Config: cfg, Vision: in.Vision, Text: in.Text, Skip: in.Skip, Seed: uint64(r.recipe.Seed),
		})
		if err != nil {
			return fault.Because(fault.Kind(fault.Code(err)), err, "init: %s", optionField.ReplaceAllStringFunc(err.Error(), initKey))
		}
		for _, w := range s.Warnings {
			r.log.Warn(w)
		}
		r.log.Info("initial weights", "loaded", len(s.Loaded), "resized", len(s.Resized), "random", len(s.Random))
		b.init = initial{s.Source, s.Files, s}
	}
	return nil
}

// initKeys are the recipe's keys for the fields that package checkpoint names.
var initKeys = map[string]string{"vision": "init.vision", "text": "init.text", "skip": "init.skip", "config": "model"}

// initKey is the key for a field, which stays if there is none.
func initKey(field string) string { return cmp.Or(initKeys[inRecipe(field)], field) }

// findInit returns the recipe's init as paths; names are fetched. A run that is only
// checked fetches nothing: what is not in the cache, or is a bundled recipe's
// placeholder, is then left out.
func (r *run) findInit(ctx context.Context, o hub.Options) (Init, error) {
	out := r.recipe.Init
	online := !hub.Offline(o)
	if o.Offline = o.Offline || r.dry; r.dry && r.recipe.placeholders("init") {
		for _, name := range []string{out.Model, out.Vision, out.Text} {
			if path := r.recipe.path(name); name != "" && !exists(path) {
				r.unchecked("init", "%s is a placeholder of %s; set init to your own model", name, r.recipe.bundled)
				return Init{}, nil
			}
		}
	}
	for _, in := range []struct {
		key  string
		name *string
	}{{"model", &out.Model}, {"vision", &out.Vision}, {"text", &out.Text}} {
		f, err := hub.Find(ctx, r.recipe.path(*in.name), o)
		if r.dry && online && fault.Code(err) == int(fault.Environment) {
			r.unchecked("init."+in.key, "%s is fetched when the run starts", *in.name)
			return Init{}, nil
		}
		if err != nil {
			return out, fmt.Errorf("init.%s: %w", in.key, err)
		}
		*in.name = f.Path
	}
	return out, nil
}

// values returns the initial weights of a parameter: from a source that holds exactly
// the model's, or random ones.
func (in *initial) values(cfg *arch.Config, seed int64) func(p arch.Param) ([]float32, error) {
	return func(p arch.Param) ([]float32, error) {
		if in.source == nil {
			return checkpoint.RandomTensor(cfg, p, uint64(seed)), nil
		}
		v, err := tensorfile.Float32s(in.source, p.Name)
		if err != nil {
			return nil, fmt.Errorf("init: %w", checkpoint.About(in.files, err))
		}
		if i := notANumber(v); i >= 0 {
			return nil, fault.Inputf("init: %s: tensor %s: value %d of %d is %v before the first step; the file is damaged: give another", strings.Join(in.files, ", "), p.Name, i, len(v), v[i])
		}
		return v, nil
	}
}

// notANumber is the index of the first value that is not finite, -1 if there is none.
func notANumber(v []float32) int {
	for i, x := range v {
		if x-x != 0 {
			return i
		}
	}
	return -1
}

// misfit explains why init.model cannot be used; err is from opening it as the
// recipe's architecture.
func (r *run) misfit(ctx context.Context, path string, err error) error {
	m, unread := checkpoint.OpenModel(ctx, path, checkpoint.ModelOptions{})
	if unread != nil {
		return fmt.Errorf("init.model: %w", err)
	}
	defer m.Close()
	if have, want := m.Preprocess.Size, r.recipe.Image.Size; have != want {
		return fault.Inputf("init.model: %s: takes images of %d pixels, but the recipe's model takes %d; evatool convert %s --image-size %d -o FILE makes one that fits", path, have, want, path, want)
	}
	what, _, _ := strings.Cut(fault.Line(err), "; ")
	return fault.Inputf("init.model: %s; the file has another architecture than the recipe's model: change model, or give init.vision and init.text", what)
}
