package trainer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// Recipe is everything that decides about the result of a run.
type Recipe struct {
	Model             any          `yaml:"model"` // a name, a config JSON file, or the config itself
	Init              Init         `yaml:"init,omitempty"`
	Data              []Source     `yaml:"data"`
	Captions          []string     `yaml:"captions,omitempty"` // templates with {}, one drawn per sample
	Image             Image        `yaml:"image"`
	Augment           Augment      `yaml:"augment,omitempty"`
	Batch             int          `yaml:"batch"`       // global
	MicroBatch        int          `yaml:"micro_batch"` // per device; 0: batch / devices
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

	dir string // where the recipe file lies
}

// Init says where the weights come from; empty means random.
type Init struct {
	Model  string   `yaml:"model,omitempty"`  // a whole model
	Vision string   `yaml:"vision,omitempty"` // an EVA vision tower
	Text   string   `yaml:"text,omitempty"`   // a CLIP text tower
	Skip   []string `yaml:"skip,omitempty"`   // globs of names that stay as initialised
}

// Source is one data set of the mix.
type Source struct {
	Source  string  `yaml:"source,omitempty"`
	Tensors string  `yaml:"tensors,omitempty"` // ready batches, replayed in order
	Image   string  `yaml:"image,omitempty"`   // column of a table
	Caption string  `yaml:"caption,omitempty"` // column of a table
	Weight  float64 `yaml:"weight,omitempty"`
}

// Image is the model's input size and the random resized crop.
type Image struct {
	Size  int        `yaml:"size"`
	Scale [2]float64 `yaml:"scale,flow"`
	Ratio [2]float64 `yaml:"ratio,flow"`
}

// Augment is what else may happen to a picture.
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

// Checkpoint says how often the state is saved and how many stay.
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
	ClassNames string `yaml:"classnames,omitempty"` // file, for benchmark folder
	Templates  string `yaml:"templates,omitempty"`  // file, for benchmark folder
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
// "a.b=v" settings to it and checks it. A relative path in it is looked up
// from the working directory, then from the recipe's folder.
func LoadRecipe(path string, sets ...string) (*Recipe, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		b, ok := bundled(path)
		if !ok {
			return nil, fault.File(path, "a recipe (bundled: "+strings.Join(Bundled(), ", ")+")", err)
		}
		return ParseRecipe(path, b, sets...)
	}
	return ParseRecipe(path, text, sets...)
}

// ParseRecipe is LoadRecipe for a recipe in memory; name is for messages.
func ParseRecipe(name string, text []byte, sets ...string) (*Recipe, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fault.Usagef("%s: %s", name, yamlError(err))
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil, fault.Usagef("%s: is empty; want a recipe, as evatool train --help shows", name)
	}
	if len(file.Docs) > 1 {
		return nil, fault.Usagef("%s: want one YAML mapping, found %d documents", name, len(file.Docs))
	}
	if err := checkKeys(name, file.Docs[0].Body, reflect.TypeFor[Recipe](), ""); err != nil {
		return nil, err
	}
	r := defaults()
	if err := yaml.UnmarshalWithOptions(text, r, yaml.Strict()); err != nil {
		return nil, fault.Usagef("%s: %s", name, yamlError(err))
	}
	for _, s := range sets {
		if r, err = r.set(s); err != nil {
			return nil, err
		}
	}
	r.dir = filepath.Dir(name)
	if err := r.check(name); err != nil {
		return nil, err
	}
	return r, nil
}

// set returns r with the setting "a.b=v"; list items are numbers.
func (r *Recipe) set(s string) (*Recipe, error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return nil, fault.Usagef("--set %s: want KEY=VALUE, such as lr.vision=1e-4", s)
	}
	var v any
	if err := yaml.Unmarshal([]byte(value), &v); err != nil {
		return nil, fault.Usagef("--set %s: value: %s", s, yamlError(err))
	}
	text, err := yaml.Marshal(r)
	if err != nil {
		return nil, err
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	if tree, err = setPath(tree, strings.Split(key, "."), v); err != nil {
		return nil, fault.Usagef("--set %s: %w", s, err)
	}
	if text, err = yaml.Marshal(tree); err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fault.Usagef("--set %s: %s", s, yamlError(err))
	}
	if err := checkKeys("--set "+s, file.Docs[0].Body, reflect.TypeFor[Recipe](), ""); err != nil {
		return nil, err
	}
	out := defaults()
	if err := yaml.UnmarshalWithOptions(text, out, yaml.Strict()); err != nil {
		_, what, _ := strings.Cut(yamlError(err), ": ") // the line is not one of the user's
		return nil, fault.Usagef("--set %s: %s", s, what)
	}
	// steps and samples say the same thing: the last one given holds.
	switch key {
	case "steps":
		out.Samples = 0
	case "samples":
		out.Steps = 0
	}
	return out, nil
}

func setPath(tree any, path []string, v any) (any, error) {
	if len(path) == 0 {
		return v, nil
	}
	switch t := tree.(type) {
	case nil:
		sub, err := setPath(nil, path[1:], v)
		return map[string]any{path[0]: sub}, err
	case map[string]any:
		sub, err := setPath(t[path[0]], path[1:], v)
		t[path[0]] = sub
		return t, err
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i > len(t) {
			return nil, fmt.Errorf("%q is not an item of a list of %d", path[0], len(t))
		}
		if i == len(t) {
			t = append(t, nil)
		}
		t[i], err = setPath(t[i], path[1:], v)
		return t, err
	}
	return nil, fmt.Errorf("%q has no keys", path[0])
}

// wrongType is what the decoder says about a value: what it is and what it
// should be.
var wrongType = regexp.MustCompile(`^cannot unmarshal (\S+) into Go (?:struct field \S+|value) of type (\w+)`)

// yamlError is the first line of a parser's message: "[line:column] what".
func yamlError(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if pos, msg, ok := strings.Cut(rest, "] "); ok {
			l, _, _ := strings.Cut(pos, ":")
			if m := wrongType.FindStringSubmatch(msg); m != nil {
				msg = fmt.Sprintf("found %s, want %s", m[1], strings.TrimSuffix(m[2], "64"))
			}
			return "line " + l + ": " + msg
		}
	}
	return line
}

// checkKeys finds a key that the type does not have and names the nearest one.
func checkKeys(name string, n ast.Node, t reflect.Type, at string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, kv := range n.Values {
			if err := checkKey(name, kv, t, at); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		return checkKey(name, n, t, at)
	case *ast.SequenceNode:
		// The decoder would keep the default for what is missing.
		if t.Kind() == reflect.Array && len(n.Values) != t.Len() {
			return fault.Usagef("%s: %s: a list of %d; want %d numbers", place(name, n), strings.TrimSuffix(at, "."), len(n.Values), t.Len())
		}
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
			return nil
		}
		for i, v := range n.Values {
			if err := checkKeys(name, v, t.Elem(), fmt.Sprintf("%s%d.", at, i)); err != nil {
				return err
			}
		}
	case *ast.StringNode: // the decoder would not name the key
		want := ""
		switch t.Kind() {
		case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64:
			want = "a number"
		case reflect.Bool:
			want = "true or false"
		}
		if _, err := strconv.ParseFloat(n.Value, 64); want != "" && err != nil {
			return fault.Usagef("%s: %s: %q is a string; want %s", place(name, n), strings.TrimSuffix(at, "."), n.Value, want)
		}
	case *ast.FloatNode: // the decoder would cut the fraction off
		if (t.Kind() == reflect.Int || t.Kind() == reflect.Int64) && n.Value != math.Trunc(n.Value) {
			return fault.Usagef("%s: %s: %v is not a whole number", place(name, n), strings.TrimSuffix(at, "."), n.Value)
		}
	}
	return nil
}

func checkKey(name string, kv *ast.MappingValueNode, t reflect.Type, at string) error {
	if t.Kind() != reflect.Struct {
		return nil // a value of the wrong type is the decoder's error; a config is arch's
	}
	key := kv.Key.GetToken().Value
	var known []string
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if tag == "" {
			continue
		}
		if tag == key {
			return checkKeys(name, kv.Value, f.Type, at+key+".")
		}
		known = append(known, tag)
	}
	where := place(name, kv.Key)
	if near := nearest(key, known); near != "" {
		return fault.Usagef("%s: unknown key %s%s; did you mean %s%s?", where, at, key, at, near)
	}
	return fault.Usagef("%s: unknown key %s%s; known: %s", where, at, key, strings.Join(known, ", "))
}

// place is where a node stands: a line, or the setting that made it.
func place(name string, n ast.Node) string {
	if strings.HasPrefix(name, "--set ") {
		return name
	}
	return fmt.Sprintf("%s: line %d", name, n.GetToken().Position.Line)
}

// nearest is the word with the smallest edit distance, if that is small.
func nearest(word string, words []string) string {
	best, found := 1+len(word)/2, ""
	for _, w := range words {
		if d := editDistance(word, w); d < best {
			best, found = d, w
		}
	}
	return found
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, row[j]+1, prev+1)
		}
	}
	return row[len(b)]
}

// check completes the recipe and refuses what cannot be meant.
func (r *Recipe) check(name string) error {
	bad := func(key, format string, args ...any) error {
		return fault.Usagef("%s: %s: %s", name, key, fmt.Sprintf(format, args...))
	}
	if r.Model == nil || r.Model == "" {
		return bad("model", "missing; give a name (evatool models lists them), a config JSON file or the config itself")
	}
	if len(r.Data) == 0 {
		return bad("data", "missing; give a list such as [{source: \"shards/{0000..0099}.tar\"}]")
	}
	if key := notFinite(reflect.ValueOf(r).Elem(), ""); key != "" {
		return bad(key, "is not a finite number")
	}
	weighted := 0
	for i, s := range r.Data {
		key := fmt.Sprintf("data.%d", i)
		switch {
		case (s.Source == "") == (s.Tensors == ""):
			return bad(key, "give either source or tensors")
		case s.Tensors != "" && len(r.Data) > 1:
			return bad(key, "tensors are replayed in order and do not mix with other sources")
		case s.Weight < 0:
			return bad(key+".weight", "%v is negative", s.Weight)
		case s.Weight > 0:
			weighted++
		}
	}
	if weighted != 0 && weighted != len(r.Data) {
		return bad("data", "%d of %d sources have a weight; give all of them one, or none (then they mix by size)", weighted, len(r.Data))
	}
	for i, c := range r.Captions {
		if !strings.Contains(c, "{}") {
			return bad(fmt.Sprintf("captions.%d", i), "%q has no {} for the caption", c)
		}
	}
	if r.Batch < 1 {
		return bad("batch", "%d; give the number of pairs of one step, over all devices", r.Batch)
	}
	if r.MicroBatch < 0 {
		return bad("micro_batch", "%d is negative", r.MicroBatch)
	}
	switch {
	case r.Steps < 0 || r.Samples < 0:
		return bad("steps", "negative")
	case r.Steps == 0 && r.Samples == 0:
		return bad("samples", "missing; give samples or steps")
	case r.Steps == 0:
		r.Steps = max(1, r.Samples/int64(r.Batch))
	case r.Samples != 0 && r.Samples/int64(r.Batch) != r.Steps:
		return bad("steps", "%d steps of %d are not %d samples; give one of the two", r.Steps, r.Batch, r.Samples)
	}
	if r.WarmupSteps < 0 {
		return bad("warmup_steps", "%d is negative", r.WarmupSteps)
	}
	if r.WarmupSteps > r.Steps {
		return bad("warmup_steps", "%d is more than all %d steps", r.WarmupSteps, r.Steps)
	}
	o := r.Optimizer
	if _, ok := optimizers[o.Name]; !ok {
		return bad("optimizer.name", "%q; known: lamb, lamb-deepspeed, adamw", o.Name)
	}
	for i, b := range o.Betas {
		if b < 0 || b >= 1 {
			return bad("optimizer.betas", "beta %d is %v; want 0 ≤ beta < 1", i+1, b)
		}
	}
	if o.Eps <= 0 || o.WeightDecay < 0 || o.ClipGradNorm < 0 {
		return bad("optimizer", "eps must be positive, weight_decay and clip_grad_norm not negative")
	}
	for key, v := range map[string]float64{"lr.vision": r.LR.Vision, "lr.text": r.LR.Text, "lr.other": r.LR.Other} {
		if v < 0 {
			return bad(key, "%v is negative", v)
		}
	}
	for key, v := range map[string]float64{"layer_decay.vision": r.LayerDecay.Vision, "layer_decay.text": r.LayerDecay.Text} {
		if v <= 0 || v > 1 {
			return bad(key, "%v; want 0 < decay ≤ 1", v)
		}
	}
	for key, v := range map[string]float64{"patch_dropout": r.PatchDropout, "drop_path": r.DropPath} {
		if v < 0 || v >= 1 {
			return bad(key, "%v; want 0 ≤ p < 1", v)
		}
	}
	if r.Augment.HFlip < 0 || r.Augment.HFlip > 1 || r.MaxBad < 0 || r.MaxBad > 1 {
		return bad("augment.hflip, max_bad", "want a fraction between 0 and 1")
	}
	switch r.Precision {
	case "fp32", "bf16", "fp16":
	default:
		return bad("precision", "%q; known: fp32, bf16, fp16", r.Precision)
	}
	if r.ZeroStage != 0 && r.ZeroStage != 1 {
		return bad("zero_stage", "%d; known: 0, 1", r.ZeroStage)
	}
	s := r.Image
	if s.Scale[0] <= 0 || s.Scale[0] > s.Scale[1] || s.Scale[1] > 1 || s.Ratio[0] <= 0 || s.Ratio[0] > s.Ratio[1] {
		return bad("image", "scale %v, ratio %v; want 0 < low ≤ high, and scale at most 1", s.Scale, s.Ratio)
	}
	if r.Checkpoint.EverySteps < 0 || r.Checkpoint.Keep < 1 {
		return bad("checkpoint", "every_steps must not be negative, keep at least 1")
	}
	for i, e := range r.Eval {
		if e.Benchmark == "" || e.Data == "" || e.EverySteps < 0 || e.Limit < 0 {
			return bad(fmt.Sprintf("eval.%d", i), "give benchmark, data and every_steps, such as {every_steps: 1000, benchmark: imagenet, data: DIR}")
		}
	}
	if r.Init.Model != "" && (r.Init.Vision != "" || r.Init.Text != "") {
		return bad("init", "give either a whole model, or vision and text")
	}
	cfg, err := r.Config()
	if err != nil {
		return fault.Usagef("%s: model: %v", name, err)
	}
	size := cfg.Preprocess().Size
	if r.Image.Size == 0 {
		r.Image.Size = size
	}
	if r.Image.Size != size {
		return bad("image.size", "%d, but the model takes %d", r.Image.Size, size)
	}
	return nil
}

// notFinite is the key, below at, of the first number that is infinite or not
// a number; empty when there is none.
func notFinite(v reflect.Value, at string) (key string) {
	switch v.Kind() {
	case reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return at
		}
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && key == ""; i++ {
			key = notFinite(v.Index(i), fmt.Sprintf("%s.%d", at, i))
		}
	case reflect.Struct:
		for i := 0; i < v.NumField() && key == ""; i++ {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			key = notFinite(v.Field(i), strings.TrimPrefix(at+"."+name, "."))
		}
	}
	return key
}

// Config is the architecture that the recipe names.
func (r *Recipe) Config() (*arch.Config, error) {
	switch m := r.Model.(type) {
	case string:
		if c, ok := arch.Named(m); ok {
			return c, nil
		}
		text, err := os.ReadFile(r.path(m))
		if err != nil {
			return nil, fault.Usagef("%q is neither a known architecture nor a config JSON file; evatool models lists the names", m)
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

// path looks a relative path up from the working directory, then from the
// recipe's folder.
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
	var b bytes.Buffer
	if err := yaml.NewEncoder(&b, yaml.IndentSequence(true)).Encode(r); err != nil {
		panic(err) // a recipe that was parsed can be written
	}
	return b.Bytes()
}
