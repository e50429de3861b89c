package trainer

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/runlog"
)

// Check makes the checks of a run's start that need no device, and returns
// everything that it would be refused for: the host's memory, data, starting
// weights and evaluations. It writes nothing. Options.Hosts may be the number of
// hosts of a job that is planned.
func Check(ctx context.Context, recipe *Recipe, o Options) (problems []error) {
	found := func(err error) {
		if err != nil {
			fault.Public(ctx, &err)
			problems = append(problems, err)
		}
	}
	hosts := 1
	if n, err := strconv.Atoi(o.Hosts); err == nil && n > 0 {
		hosts, o.Hosts = n, "off"
	}
	r := &run{hosts: hosts, recipe: recipe, log: runlog.Discard(), bad: newBadSamples("", recipe.MaxBad, 0, runlog.Discard())}
	found(o.check())
	cfg, err := recipe.config()
	if err != nil {
		found(err)
		return problems
	}
	if recipe.kept(cfg) == 0 && !cfg.IsResNet() {
		found(fault.Usagef("patch_dropout %v keeps none of %d patches", recipe.PatchDropout, cfg.Tokens()-1))
	}
	_, err = r.openData(ctx, recipe.Steps, o.fakes.reading)
	found(err)
	if r.pairs != nil {
		r.pairs.close()
	}
	found(r.checkInit(ctx))
	found(r.checkEvaluations(ctx))
	return problems
}

// checkInit opens what the recipe starts from; a model's name has to be one,
// and is fetched when the run starts.
func (r *run) checkInit(ctx context.Context) error {
	in := r.recipe.Init
	cfg, err := r.recipe.config()
	for key, name := range map[string]string{"model": in.Model, "vision": in.Vision, "text": in.Text} {
		if is, err := hub.IsName(r.recipe.path(name)); is || err != nil {
			if err != nil {
				err = fmt.Errorf("init.%s: %w", key, err)
			}
			return err
		}
	}
	switch {
	case err != nil:
		return err
	case in.Model != "":
		path := r.recipe.path(in.Model)
		m, err := checkpoint.OpenModel(ctx, path, checkpoint.ModelOptions{Config: cfg})
		if err != nil {
			return r.misfit(ctx, path, err)
		}
		return m.Close()
	case in.Vision != "" || in.Text != "":
		s, err := checkpoint.OpenStart(checkpoint.StartOptions{
			Config: cfg, Vision: r.recipe.path(in.Vision), Text: r.recipe.path(in.Text), Skip: in.Skip, Seed: uint64(r.recipe.Seed),
		})
		if err != nil {
			return fmt.Errorf("init: %w", err)
		}
		return s.Close()
	}
	return nil
}

// Placeholders reports whether the recipe is a bundled one of a paper whose
// data nobody has named yet: then there is nothing to check.
func (r *Recipe) Placeholders() bool {
	if r.bundled == "" || strings.HasPrefix(r.bundled, "emoji-") {
		return false
	}
	text, _ := bundled(r.bundled)
	plain, err := ParseRecipe(r.bundled, text)
	return err == nil && reflect.DeepEqual(plain.Data, r.Data)
}
