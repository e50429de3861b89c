package trainer

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/yamlfile"
)

// Recipe is everything that determines the result of a run.
type Recipe struct {
	Model             any          `yaml:"model"` // a name, a config JSON file, or the config itself
	Init              Init         `yaml:"init,omitempty"`
	Data              []Source     `yaml:"data"`
	Lanes             int          `yaml:"lanes,omitempty"`    // of streams: readers that the rows of a batch are assigned to; 0: chosen by the batch
	Captions          []string     `yaml:"captions,omitempty"` // templates with {}, one drawn per sample
	Image             Image        `yaml:"image"`
	Augment           Augment      `yaml:"augment,omitempty"`
	Batch             int          `yaml:"batch"`                  // global
	MicroBatch        int          `yaml:"micro_batch"`            // per device; 0: batch / devices
	Accumulation      string       `yaml:"accumulation,omitempty"` // of a batch in parts: residuals, recompute, or what fits (auto or empty)
	Comm              Comm         `yaml:"comm,omitempty"`         // between the processes of a job
	Samples           int64        `yaml:"samples,omitempty"`
	Steps             int64        `yaml:"steps"` // samples / batch when absent
	WarmupSteps       int64        `yaml:"warmup_steps"`
	Optimizer         Optimizer    `yaml:"optimizer"`
	LR                LR           `yaml:"lr"`
	LayerDecay        LayerDecay   `yaml:"layer_decay"`
	PatchDropout      float64      `yaml:"patch_dropout"`
	DropPath          float64      `yaml:"drop_path"`
	Precision         string       `yaml:"precision"`
	GradCheckpointing bool         `yaml:"grad_checkpointing"`
	ZeroStage         int          `yaml:"zero_stage"`
	Seed              int64        `yaml:"seed"`
	MaxBad            float64      `yaml:"max_bad"` // fraction of samples that may be unreadable
	Checkpoint        Checkpoint   `yaml:"checkpoint"`
	Eval              []Evaluation `yaml:"eval,omitempty"`

	dir     string // of the recipe file
	bundled string // its name if it comes with the program
}

// Init says where the initial weights come from; empty means random.
type Init struct {
	Model  string `yaml:"model,omitempty"`  // a whole model
	Vision string `yaml:"vision,omitempty"` // an EVA vision tower
	Text   string `yaml:"text,omitempty"`   // a CLIP text tower
	Skip   Skip   `yaml:"skip,omitempty"`   // what stays as initialised
}

// Skip lists globs of the names of tensors in the towers' files that are not loaded;
// nil is EVA-CLIP's list, an empty one is none.
type Skip []string

// IsZero tells the YAML encoder that only nil may be left out.
func (s Skip) IsZero() bool { return s == nil }

// Source is one data set of the mix.
type Source struct {
	Source  string  `yaml:"source,omitempty"`
	Tensors string  `yaml:"tensors,omitempty"` // ready batches, replayed in order
	Image   string  `yaml:"image,omitempty"`   // column of a table
	Caption string  `yaml:"caption,omitempty"` // column of a table
	Weight  float64 `yaml:"weight,omitempty"`
	Read    string  `yaml:"read,omitempty"` // stream or random; empty: stream above 1,000 tars
	// MissingShards says what happens when a tar of a stream cannot be read: error
	// (also when empty), or skip, with which other samples of the same windows take
	// the place of its samples.
	MissingShards string `yaml:"missing_shards,omitempty"`
	// Count may be headers: the samples of a stream are then counted by reading
	// through its tars, however many there are on remote storage.
	Count string `yaml:"count,omitempty"`
}

// Image is the model's input size and the random resized crop.
type Image struct {
	Size  int        `yaml:"size"`
	Scale [2]float64 `yaml:"scale,flow"`
	Ratio [2]float64 `yaml:"ratio,flow"`
}

// Augment is what may happen to a picture besides the crop.
type Augment struct {
	HFlip float64 `yaml:"hflip"` // probability
}

// Optimizer is the update rule.
type Optimizer struct {
	Name         string     `yaml:"name"` // lamb, lamb-deepspeed, adamw
	Betas        [2]float64 `yaml:"betas,flow"`
	Eps          float64    `yaml:"eps"`
	WeightDecay  float64    `yaml:"weight_decay"`
	ClipGradNorm float64    `yaml:"clip_grad_norm"` // 0: off
}

// LR are the peak learning rates of the three groups.
type LR struct {
	Vision float64 `yaml:"vision"`
	Text   float64 `yaml:"text"`
	Other  float64 `yaml:"other"`
}

// LayerDecay multiplies the learning rate once per layer below the top.
type LayerDecay struct {
	Vision float64 `yaml:"vision"`
	Text   float64 `yaml:"text"`
}

// Checkpoint says how often the state is saved and how many checkpoints are kept.
type Checkpoint struct {
	EverySteps int64 `yaml:"every_steps"` // 0: only at the end and when stopped
	Keep       int   `yaml:"keep"`
}

// Evaluation is a zero-shot benchmark scored during the run and at its end.
type Evaluation struct {
	EverySteps int64  `yaml:"every_steps"` // 0: only at the end
	Benchmark  string `yaml:"benchmark"`
	Data       string `yaml:"data"`
	Limit      int    `yaml:"limit,omitempty"`
	ClassNames string `yaml:"classnames,omitempty"` // file, as eval.Options.ClassNamesFile
	Templates  string `yaml:"templates,omitempty"`  // file, as eval.Options.TemplatesFile
}

func defaults() *Recipe {
	return &Recipe{
		Image:       Image{Scale: [2]float64{0.9, 1}, Ratio: [2]float64{0.75, 4.0 / 3}},
		WarmupSteps: 2000,
		Optimizer:   Optimizer{Name: "lamb", Betas: [2]float64{0.9, 0.98}, Eps: 1e-6, WeightDecay: 0.05, ClipGradNorm: 5},
		LR:          LR{Vision: 2e-4, Text: 2e-5, Other: 5e-4},
		LayerDecay:  LayerDecay{Vision: 1, Text: 1},
		Precision:   "fp32",
		ZeroStage:   1,
		Seed:        4096,
		MaxBad:      0.01,
		Checkpoint:  Checkpoint{EverySteps: 1000, Keep: 3},
	}
}

// LoadRecipe reads a recipe file, or a bundled recipe by its name, applies
// "a.b=v" settings to it and checks it. A relative path in a recipe is looked up
// in the working directory, then in the recipe's folder.
func LoadRecipe(path string, sets ...string) (_ *Recipe, err error) {
	defer fault.Public(context.Background(), &err)
	want := "a recipe"
	if fault.RegularFile(path, want) != nil {
		if text, ok := bundled(path); ok {
			r, err := ParseRecipe(path, text, sets...)
			if err == nil {
				r.bundled = path
			}
			return r, err
		}
		want += ", or the name of a bundled one (" + strings.Join(Bundled(), ", ") + ")"
	}
	text, err := fault.ReadFile(path, want, yamlfile.MaxBytes)
	if err != nil {
		return nil, err
	}
	return ParseRecipe(path, text, sets...)
}

// ParseRecipe is LoadRecipe for a recipe in memory; name is used in messages, and
// its folder for relative paths.
func ParseRecipe(name string, text []byte, sets ...string) (_ *Recipe, err error) {
	defer fault.Public(context.Background(), &err)
	r := defaults()
	if err := yamlfile.Decode(name, text, r); err != nil {
		return nil, err
	}
	for _, s := range sets {
		if err := r.set(s); err != nil {
			return nil, err
		}
	}
	r.dir = filepath.Dir(name)
	if err := r.check(name); err != nil {
		return nil, err
	}
	return r, nil
}

// RecipeKeys are the keys of a recipe as a setting spells them: lr.vision,
// data.0.source.
func RecipeKeys() []string { return yamlfile.Keys(defaults()) }

// set changes r by the setting "a.b=v"; list items are numbers.
func (r *Recipe) set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return fault.Usagef("setting %s: want KEY=VALUE, such as lr.vision=1e-4", s)
	}
	for _, k := range scalars(key, value) {
		if err := yamlfile.Set("setting "+s, r, defaults(), k, value); err != nil {
			return err
		}
	}
	// steps and samples determine each other: the one given last counts.
	switch {
	case key == "steps" && r.Steps != 0:
		r.Samples = 0
	case key == "samples" && r.Samples != 0:
		r.Steps = 0
	}
	return nil
}

// scalars are the keys that a setting changes: a single number for lr or
// layer_decay applies to every group.
func scalars(key, value string) []string {
	if _, err := strconv.ParseFloat(value, 64); err != nil {
		return []string{key}
	}
	switch key {
	case "lr":
		return []string{"lr.vision", "lr.text", "lr.other"}
	case "layer_decay":
		return []string{"layer_decay.vision", "layer_decay.text"}
	}
	return []string{key}
}

// config is the architecture that the recipe names.
func (r *Recipe) config() (*arch.Config, error) {
	c, err := r.architecture()
	if err != nil {
		return nil, err
	}
	if why := c.Trains(); why != "" {
		return nil, fault.Usagef("evatool does not train a model of this kind: %s", why)
	}
	return c, nil
}

func (r *Recipe) architecture() (*arch.Config, error) {
	switch m := r.Model.(type) {
	case string:
		if c, ok := arch.Named(m); ok {
			return c, nil
		}
		path := r.path(m)
		if _, err := os.Stat(path); err != nil {
			return nil, fault.Usagef("%q is neither a known architecture nor a config JSON file; evatool models --architectures lists the names", m)
		}
		text, err := fault.ReadFile(path, "a model's config JSON", 1<<20)
		if err != nil {
			return nil, err
		}
		c, err := arch.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
		return c, nil
	default:
		text, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		return arch.Parse(text)
	}
}

// path looks up a relative path in the working directory, then in the recipe's
// folder.
func (r *Recipe) path(p string) string {
	if p == "" || filepath.IsAbs(p) || strings.Contains(p, "://") || r.dir == "" || r.dir == "." {
		return p
	}
	exists := func(p string) bool {
		if i := strings.IndexAny(p, "{*?["); i >= 0 {
			p = p[:i] + "*"
		}
		found, err := filepath.Glob(p)
		return err == nil && len(found) > 0
	}
	if joined := filepath.Join(r.dir, p); !exists(p) && exists(joined) {
		return joined
	}
	return p
}

// YAML is the resolved recipe: every key, defaults included.
func (r *Recipe) YAML() []byte {
	text, err := yamlfile.Encode(r)
	if err != nil {
		panic(err) // a recipe that was parsed can be written
	}
	return text
}

// identity is a hash over the keys that determine the result.
func (r *Recipe) identity() string {
	tree := r.decisive()
	b, err := json.Marshal(canonical(tree)) // keys sorted
	if err != nil {
		panic(err) // check refuses what JSON cannot hold
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// freeKeys are the keys that a resumed run may change.
var freeKeys = []string{"checkpoint", "eval", "max_bad"}

// decisive returns the recipe's values by key, without the free ones.
func (r *Recipe) decisive() map[string]any {
	tree := yamlfile.Tree(r)
	for _, k := range freeKeys {
		delete(tree, k)
	}
	sources, _ := tree["data"].([]any)
	for _, s := range sources {
		if s, ok := s.(map[string]any); ok {
			delete(s, "missing_shards")
			delete(s, "count")
			if s["read"] == readRandom { // the same as without the key
				delete(s, "read")
			}
		}
	}
	return tree
}

// canonical is tree as the identity spells it: a number written with an exponent
// and no point, such as 1e-06, counts as text. It was once read that way, and the
// identities of old runs must stay valid.
func canonical(tree any) any {
	switch t := tree.(type) {
	case map[string]any:
		for k, v := range t {
			t[k] = canonical(v)
		}
	case []any:
		for i, v := range t {
			t[i] = canonical(v)
		}
	case float64:
		if s := strconv.FormatFloat(t, 'g', -1, 64); strings.Contains(s, "e") && !strings.Contains(s, ".") {
			return s
		}
	}
	return tree
}

// readRecipe is the recipe.yaml of a run folder.
func readRecipe(path string) (*Recipe, error) {
	text, err := fault.ReadFile(path, "the recipe of a run", yamlfile.MaxBytes)
	if err != nil {
		return nil, err
	}
	r := defaults()
	return r, yamlfile.Decode(path, text, r)
}

//go:embed recipes/*.yaml
var recipeFiles embed.FS

// Bundled lists the names of the recipes that come with the program.
func Bundled() []string {
	entries, err := recipeFiles.ReadDir("recipes")
	if err != nil {
		panic(err) // embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// bundled is the text of a recipe that comes with the program.
func bundled(name string) ([]byte, bool) {
	text, err := recipeFiles.ReadFile(path.Join("recipes", name+".yaml"))
	return text, err == nil
}

// missingData adds to an error about missing data of a bundled recipe where to get
// the data.
func (r *Recipe) missingData(err error) error {
	if r.bundled == "" || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if strings.HasPrefix(r.bundled, "emoji-") {
		return fmt.Errorf("%w; the pictures of %s are in evatool's source tree: run it in a clone of https://github.com/evatool/evatool, or try evatool demo, which includes them", err, r.bundled)
	}
	return fmt.Errorf("%w; %s needs your own data; set data.0.source=SRC", err, r.bundled)
}
