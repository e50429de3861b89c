package arch

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/img"
)

// Preprocess is how an image is prepared for the model: a resize, then a centre crop
// or a border if the mode needs one, then (x/255 − Mean)/Std.
type Preprocess struct {
	// Size is the side, in pixels, of the square that the model takes. In a
	// configuration it is 0 and means the model's image size.
	Size          int        `json:"size,omitempty"`
	Mean          [3]float32 `json:"mean"`
	Std           [3]float32 `json:"std"`
	Interpolation string     `json:"interpolation"`
	ResizeMode    string     `json:"resize_mode"`          // shortest, longest, squash or none
	FillColor     int        `json:"fill_color,omitempty"` // of the border that longest and none may leave, 0 to 255

	// Only transformers' processors do these:
	Resize [2]int `json:"resize,omitzero"`      // height and width to resize to, if not Size
	Floor  bool   `json:"crop_floor,omitempty"` // a half pixel in the crop's offset rounds down, not to even
}

// The resize modes: OpenCLIP's three, and none.
const (
	Shortest = "shortest" // the shorter side to Size, then a centre crop
	Longest  = "longest"  // the longer side to Size, then a border
	Squash   = "squash"   // both sides to Size, whatever the image's shape
	NoResize = "none"     // a centre crop or a border, without a resize
)

var (
	resizeModes    = []string{Shortest, Longest, Squash, NoResize}
	interpolations = []string{"bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"}
)

// presets are the usual statistics under the names that OpenCLIP and timm use.
var presets = map[string]Preprocess{
	"openai":    preset(CLIPMean, CLIPStd),
	"inception": preset([3]float32{0.5, 0.5, 0.5}, [3]float32{0.5, 0.5, 0.5}),
	"imagenet":  preset([3]float32{0.485, 0.456, 0.406}, [3]float32{0.229, 0.224, 0.225}),
}

func preset(mean, std [3]float32) Preprocess {
	return Preprocess{Mean: mean, Std: std, Interpolation: "bicubic", ResizeMode: Shortest}
}

// OpenAIPreprocess is the preprocessing of OpenAI's models, and the default of
// OpenCLIP and EVA-CLIP. Its Size is 0.
func OpenAIPreprocess() Preprocess { return presets["openai"] }

// Preprocess returns the model's preprocessing, with Size filled in.
func (c *Config) Preprocess() Preprocess {
	p := OpenAIPreprocess()
	if c.Pixels != nil {
		p = *c.Pixels
	}
	p.Size = c.Vision.ImageSize
	return p
}

// Steps returns p for package img, which has the same names for filters and modes.
func (p Preprocess) Steps() img.Preprocess {
	return img.Preprocess{Size: p.Size, Filter: img.Filters[p.Interpolation], Mean: p.Mean, Std: p.Std,
		Mode: img.Modes[p.ResizeMode], Resize: p.Resize, Floor: p.Floor, Fill: byte(p.FillColor)}
}

// SetPreprocess makes p the model's preprocessing; its Size is ignored.
func (c *Config) SetPreprocess(p Preprocess) {
	p.Size = 0
	c.Pixels = &p
	if p == OpenAIPreprocess() {
		c.Pixels = nil
	}
}

// String is p in the words that With takes, without Size.
func (p Preprocess) String() string {
	var b strings.Builder
	for _, s := range []struct {
		key string
		v   [3]float32
	}{{"mean", p.Mean}, {"std", p.Std}} {
		fmt.Fprintf(&b, "%s=%v,%v,%v,", s.key, s.v[0], s.v[1], s.v[2])
	}
	fmt.Fprintf(&b, "interpolation=%s,resize=%s", p.Interpolation, p.ResizeMode)
	if p.FillColor != 0 {
		fmt.Fprintf(&b, ",fill=%d", p.FillColor)
	}
	if p.Resize != [2]int{} {
		fmt.Fprintf(&b, " (to %d×%d)", p.Resize[0], p.Resize[1])
	}
	return b.String()
}

// With returns p changed as words say: the name of a preset (openai, inception,
// imagenet), and mean=, std=, interpolation=, resize= and fill=, separated by commas.
// A mean or std is one number for all channels, or three, as in
// "mean=0.5,std=0.2,0.3,0.2,resize=squash".
func (p Preprocess) With(words string) (Preprocess, error) {
	var lists [2][]float32 // of mean and std
	list := -1             // the one that w may continue
	for _, w := range strings.Split(words, ",") {
		w = strings.TrimSpace(w)
		key, value, ok := strings.Cut(w, "=")
		if !ok && list >= 0 {
			if err := appendNumber(&lists[list], w); err == nil {
				continue
			}
		}
		list = -1
		switch named, known := presets[w]; {
		case known:
			named.Size = p.Size
			p = named
		case !ok:
			return p, fault.Usagef("%q: want openai, inception, imagenet, a .json file, or key=value with mean, std, interpolation, resize, fill", w)
		case key == "mean" || key == "std":
			list = slices.Index([]string{"mean", "std"}, key)
			lists[list] = nil
			if err := appendNumber(&lists[list], value); err != nil {
				return p, fault.Usagef("%s: want numbers, such as %s=0.5 or %s=0.48,0.46,0.41", w, key, key)
			}
		case key == "interpolation":
			p.Interpolation = value
		case key == "resize":
			p.ResizeMode, p.Resize, p.Floor = value, [2]int{}, false
		case key == "fill":
			n, err := strconv.Atoi(value)
			if err != nil {
				n = -1 // check reports it
			}
			p.FillColor = n
		default:
			return p, fault.Usagef("%s: no such key; want mean, std, interpolation, resize, fill", w)
		}
	}
	for i, to := range []*[3]float32{&p.Mean, &p.Std} {
		key := []string{"mean", "std"}[i]
		switch l := lists[i]; len(l) {
		case 0:
		case 1:
			*to = [3]float32{l[0], l[0], l[0]}
		case 3:
			*to = [3]float32(l)
		default:
			return p, fault.Usagef("%s has %d numbers; want one for all channels, or three", key, len(l))
		}
	}
	if err := p.check(); err != nil {
		return p, fault.Usagef("%s: %v", words, err)
	}
	return p, nil
}

func appendNumber(to *[]float32, s string) error {
	v, err := strconv.ParseFloat(s, 32)
	*to = append(*to, float32(v))
	return err
}

// check refuses a preprocessing that cannot be carried out.
func (p *Preprocess) check() error {
	for c := range 3 {
		for _, v := range []float32{p.Mean[c], p.Std[c]} {
			if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
				return fmt.Errorf("mean %v, std %v; want finite numbers", p.Mean, p.Std)
			}
		}
		if p.Std[c] == 0 {
			return fmt.Errorf("std is %v; a standard deviation must not be 0", p.Std)
		}
	}
	switch {
	case !slices.Contains(interpolations, p.Interpolation):
		return fmt.Errorf("interpolation %q; want %s", p.Interpolation, strings.Join(interpolations, ", "))
	case !slices.Contains(resizeModes, p.ResizeMode):
		return fmt.Errorf("resize_mode %q; want %s", p.ResizeMode, strings.Join(resizeModes, ", "))
	case p.FillColor < 0 || p.FillColor > 255:
		return fmt.Errorf("fill_color %d; want 0 to 255", p.FillColor)
	case p.Resize != [2]int{} && (p.Resize[0] < 1 || p.Resize[1] < 1 || p.Resize[0] > 1<<13 || p.Resize[1] > 1<<13):
		return fmt.Errorf("resize %v; want height and width, 1 to 8192 pixels", p.Resize)
	case p.Resize != [2]int{} && (p.ResizeMode == Longest || p.ResizeMode == NoResize || p.ResizeMode == Shortest && p.Resize[0] != p.Resize[1]):
		return fmt.Errorf("resize %v cannot be combined with resize_mode %q", p.Resize, p.ResizeMode)
	}
	return nil
}

// ParsePreprocess reads the preprocessing in a file for a model whose image size is
// size pixels: OpenCLIP's preprocess_cfg, alone or in an open_clip_config.json, or a
// processor of transformers (preprocessor_config.json, processor_config.json). What
// the file leaves out is its library's default.
func ParsePreprocess(data []byte, size int) (Preprocess, error) {
	p, err := parsePreprocess(data, size)
	if err != nil {
		return p, fault.Inputf("preprocessing: %w", err)
	}
	return p, nil
}

func parsePreprocess(data []byte, size int) (p Preprocess, err error) {
	o, err := decodeObject(data)
	if err != nil {
		return p, err
	}
	switch {
	case o["image_processor"] != nil:
		if o, err = subsection(o, "image_processor"); err == nil {
			p, err = parseProcessor(o, size)
		}
	case o["preprocess_cfg"] != nil || o["model_cfg"] != nil:
		var cfg object
		if raw := o["preprocess_cfg"]; raw != nil && !isNull(raw) {
			if cfg, err = subsection(o, "preprocess_cfg"); err != nil {
				return p, err
			}
		}
		p, err = parseOpenCLIPPreprocess(cfg)
	case isProcessor(o):
		p, err = parseProcessor(o, size)
	default:
		p, err = parseOpenCLIPPreprocess(o)
	}
	p.Size = size
	return p, err
}

// DescribesPixels reports whether the configuration of an architecture also states
// the preprocessing. OpenCLIP's for a repository does, even by leaving it out.
func DescribesPixels(data []byte) bool {
	o, err := decodeObject(data)
	return err == nil && (o["model_cfg"] != nil || o["preprocess_cfg"] != nil && !isNull(o["preprocess_cfg"]))
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// ParseStored reads a model file's own configuration and, if the file has it
// separately, its preprocessing, which takes precedence.
func ParseStored(config, preprocess []byte) (*Config, error) {
	if len(preprocess) == 0 {
		return Parse(config)
	}
	o, err := decodeObject(config)
	if err != nil {
		return nil, fault.Inputf("model configuration: %w", err)
	}
	delete(o, "preprocess_cfg")
	without, err := json.Marshal(o)
	if err != nil {
		return nil, fault.Inputf("model configuration: %w", err)
	}
	c, err := Parse(without)
	if err != nil {
		return nil, err
	}
	p, err := ParsePreprocess(preprocess, c.Vision.ImageSize)
	if err != nil {
		return nil, err
	}
	c.SetPreprocess(p)
	return c, nil
}

// parseOpenCLIPPreprocess reads a preprocess_cfg.
func parseOpenCLIPPreprocess(o object) (Preprocess, error) {
	const where = "preprocess_cfg."
	p := OpenAIPreprocess()
	if err := dropNeutral(o, where); err != nil {
		return p, err
	}
	// The model's image size counts, as in OpenCLIP.
	delete(o, "size")
	for _, s := range []struct {
		key string
		dst *[3]float32
	}{{"mean", &p.Mean}, {"std", &p.Std}} {
		if raw, ok := o[s.key]; ok {
			delete(o, s.key)
			if err := channels(s.dst, raw); err != nil {
				return p, fmt.Errorf("%s%s: %w", where, s.key, err)
			}
		}
	}
	if raw, ok := o["interpolation"]; ok && string(raw) == `"random"` {
		o["interpolation"] = json.RawMessage(`"bicubic"`) // random is for training
	}
	if err := section(o, where, &p); err != nil {
		return p, err
	}
	p.Size = 0
	if err := p.check(); err != nil {
		return p, fmt.Errorf("%s%w", where, err)
	}
	return p, nil
}

// channels reads three numbers; null leaves dst as it is.
func channels(dst *[3]float32, raw json.RawMessage) error {
	var list []float32
	if err := json.Unmarshal(raw, &list); err != nil || !isNull(raw) && len(list) != 3 {
		return fmt.Errorf("%s: want three numbers", raw)
	}
	if len(list) == 3 {
		*dst = [3]float32(list)
	}
	return nil
}
