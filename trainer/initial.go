package trainer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// startWeights fills a fresh machine as the recipe's init says: a whole model,
// two towers, or random. dir is the run folder.
func (r *run) startWeights(ctx context.Context) error {
	in := r.recipe.Init
	config := filepath.Join(r.out, configFile)
	if err := os.WriteFile(config, append(r.machine.cfg.JSON(), '\n'), 0o644); err != nil {
		return fault.As(fault.Environment, err)
	}
	switch {
	case in.Model != "":
		return r.startFrom(ctx, r.recipe.path(in.Model), config)
	case in.Vision != "" || in.Text != "":
		start := filepath.Join(r.out, "init.safetensors")
		report, err := convert.Init(ctx, convert.InitOptions{
			Config: config, Vision: r.recipe.path(in.Vision), Text: r.recipe.path(in.Text), Skip: in.Skip,
			Seed: uint64(r.recipe.Seed), Output: start, Force: true, Log: r.log,
		})
		if err != nil {
			return fmt.Errorf("init: %w", err)
		}
		r.log.Info("start", "loaded", len(report.Loaded), "resized", len(report.Resized), "random", len(report.Random))
		return r.startFrom(ctx, start, config)
	}
	return r.machine.start(func(p arch.Param) ([]float32, error) {
		return convert.RandomTensor(r.machine.cfg, p, uint64(r.recipe.Seed)), nil
	})
}

func (r *run) startFrom(ctx context.Context, path, config string) error {
	m, err := convert.OpenModel(ctx, path, convert.ModelOptions{Config: config})
	if err != nil {
		return r.misfit(ctx, path, err)
	}
	defer m.Close()
	shapes := map[string][]int64{}
	for _, t := range m.Source.Tensors() {
		shapes[t.Name] = t.Shape
	}
	return r.machine.start(func(p arch.Param) ([]float32, error) {
		s, ok := shapes[p.Name]
		if !ok || fmt.Sprint(s) != fmt.Sprint(p.Shape) {
			return nil, fault.Inputf("%s: %s is %v, the recipe's model needs %v; give a model of this architecture, or vision and text towers", path, p.Name, s, p.Shape)
		}
		return tensorfile.Float32s(m.Source, p.Name)
	})
}

// misfit explains why init.model cannot be the start: err is what its opening
// as the recipe's architecture said.
func (r *run) misfit(ctx context.Context, path string, err error) error {
	m, unread := convert.OpenModel(ctx, path, convert.ModelOptions{})
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
