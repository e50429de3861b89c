package arch

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// processor is an image processor of transformers with that library's
// defaults: resize, centre crop, rescale, normalise.
type processor struct {
	Size        extent  `json:"size"`
	Crop        extent  `json:"crop_size"`
	Resample    int     `json:"resample"` // Pillow's number of a filter
	DoResize    bool    `json:"do_resize"`
	DoCrop      bool    `json:"do_center_crop"`
	DoRescale   bool    `json:"do_rescale"`
	Rescale     float64 `json:"rescale_factor"`
	DoNormalize bool    `json:"do_normalize"`
	ToSquare    bool    `json:"default_to_square"` // whether a size of one number is a square

	mean, std [3]float64
}

// extent is a size: a shorter side, or height and width; 0 is not given.
type extent struct{ shorter, height, width int }

// processors are the known kinds, which differ only in their defaults.
var processors = map[string]processor{
	"CLIP":   withStatistics("openai", processor{Size: extent{shorter: 224}, Crop: square(224), Resample: 3, DoCrop: true}),
	"Bit":    withStatistics("openai", processor{Size: extent{shorter: 224}, Crop: square(224), Resample: 3, DoCrop: true}),
	"ViT":    withStatistics("inception", processor{Size: square(224), Resample: 2, ToSquare: true}),
	"Siglip": withStatistics("inception", processor{Size: square(224), Resample: 3, ToSquare: true}),
}

func square(n int) extent { return extent{height: n, width: n} }

func withStatistics(preset string, p processor) processor {
	p.DoResize, p.DoRescale, p.DoNormalize, p.Rescale = true, true, true, 1./255
	for c := range 3 {
		p.mean[c], p.std[c] = float64(presets[preset].Mean[c]), float64(presets[preset].Std[c])
	}
	return p
}

// filters are indexed by Pillow's numbers.
var filters = []string{"nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"}

// processorNeutral are keys without an effect on an image's pixels. do_convert_rgb is
// one of them: evatool always converts, and without it transformers takes only RGB.
var processorNeutral = []string{
	"image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "_valid_processor_keys", "do_convert_rgb",
	"input_data_format", "device", "return_tensors", "disable_grouping", "image_seq_length", "auto_map", "_name_or_path", "transformers_version",
}

// isProcessor reports whether an object is a processor's configuration.
func isProcessor(o object) bool {
	for _, k := range []string{"image_processor_type", "feature_extractor_type", "do_resize", "do_normalize", "image_mean", "image_std", "do_center_crop", "crop_size", "resample"} {
		if o[k] != nil {
			return true
		}
	}
	return false
}

// parseProcessor reads a preprocessor_config.json for a model that takes squares of
// size pixels. One that produces anything else is refused.
func parseProcessor(o object, size int) (Preprocess, error) {
	p, err := processorFor(o)
	if err != nil {
		return Preprocess{}, err
	}
	for _, k := range processorNeutral {
		delete(o, k)
	}
	if raw := o["data_format"]; raw != nil {
		if s := strings.Trim(string(raw), `"`); s != "null" && s != "channels_first" {
			return Preprocess{}, fmt.Errorf("data_format is %s; want channels_first", raw)
		}
		delete(o, "data_format")
	}
	for _, k := range []string{"do_pad", "use_square_size"} {
		if raw := o[k]; raw != nil && string(raw) != "null" && string(raw) != "false" {
			return Preprocess{}, fmt.Errorf("%s is %s, which is not supported", k, raw)
		}
		delete(o, k)
	}
	for _, s := range []struct {
		key string
		dst *[3]float64
	}{{"image_mean", &p.mean}, {"image_std", &p.std}} {
		if raw := o[s.key]; raw != nil {
			if err := perChannel(s.dst, raw); err != nil {
				return Preprocess{}, fmt.Errorf("%s is %s; want one number or three", s.key, raw)
			}
			delete(o, s.key)
		}
	}
	// What a size of one number means depends on default_to_square.
	if raw := o["default_to_square"]; raw != nil && !isNull(raw) {
		if err := json.Unmarshal(raw, &p.ToSquare); err != nil {
			return Preprocess{}, fmt.Errorf("default_to_square is %s; want true or false", raw)
		}
	}
	for _, s := range []struct {
		key    string
		dst    *extent
		square bool
	}{{"size", &p.Size, p.ToSquare}, {"crop_size", &p.Crop, true}} {
		if raw := o[s.key]; raw != nil && !isNull(raw) {
			if err := s.dst.parse(raw, s.square); err != nil {
				return Preprocess{}, fmt.Errorf("%s is %s: %w", s.key, raw, err)
			}
		}
		delete(o, s.key)
	}
	if err := section(o, "", &p); err != nil {
		return Preprocess{}, err
	}
	return p.preprocess(size)
}

// processorFor finds the kind by its class name, such as CLIPImageProcessor,
// CLIPImageProcessorFast or CLIPFeatureExtractor. A file without one is CLIP's.
func processorFor(o object) (processor, error) {
	for _, key := range []string{"image_processor_type", "feature_extractor_type"} {
		raw := o[key]
		if raw == nil || isNull(raw) {
			continue
		}
		var name string
		if err := json.Unmarshal(raw, &name); err != nil {
			return processor{}, fmt.Errorf("%s is %s; want a name", key, raw)
		}
		kind := name
		for _, s := range []string{"Fast", "Pil", "ImageProcessor", "FeatureExtractor"} {
			kind = strings.TrimSuffix(kind, s)
		}
		p, ok := processors[kind]
		if !ok {
			return p, fmt.Errorf("%s %s is not supported; want CLIPImageProcessor, or that of Bit, Siglip or ViT", key, name)
		}
		return p, nil
	}
	return processors["CLIP"], nil
}

// parse reads 224, [224, 224], {"shortest_edge": 224} or {"height": …, "width": …}.
func (e *extent) parse(raw json.RawMessage, toSquare bool) error {
	*e = extent{}
	var n int
	if json.Unmarshal(raw, &n) == nil {
		if *e = square(n); !toSquare {
			*e = extent{shorter: n}
		}
		return e.check()
	}
	var list []int
	if json.Unmarshal(raw, &list) == nil {
		if len(list) != 2 {
			return fmt.Errorf("want height and width")
		}
		*e = extent{height: list[0], width: list[1]}
		return e.check()
	}
	o, err := decodeObject(raw)
	if err != nil {
		return err
	}
	var sides struct {
		Shorter *int `json:"shortest_edge"`
		Height  *int `json:"height"`
		Width   *int `json:"width"`
	}
	if err := section(o, "", &sides); err != nil {
		return err
	}
	switch {
	case sides.Shorter != nil && sides.Height == nil && sides.Width == nil:
		e.shorter = *sides.Shorter
	case sides.Shorter == nil && sides.Height != nil && sides.Width != nil:
		e.height, e.width = *sides.Height, *sides.Width
	default:
		return fmt.Errorf("want shortest_edge, or height and width")
	}
	return e.check()
}

func (e *extent) check() error {
	for _, n := range []int{e.shorter, e.height, e.width} {
		if n < 0 || n > 1<<13 || *e == (extent{}) {
			return fmt.Errorf("want 1 to 8192 pixels")
		}
	}
	if e.shorter == 0 && (e.height == 0 || e.width == 0) {
		return fmt.Errorf("want 1 to 8192 pixels")
	}
	return nil
}

// perChannel reads one number for all channels, or three; null leaves dst as it is.
func perChannel(dst *[3]float64, raw json.RawMessage) error {
	var one *float64
	if json.Unmarshal(raw, &one) == nil {
		if one != nil {
			*dst = [3]float64{*one, *one, *one}
		}
		return nil
	}
	var list []float64
	if err := json.Unmarshal(raw, &list); err != nil || len(list) != 3 {
		return fmt.Errorf("want three numbers")
	}
	*dst = [3]float64(list)
	return nil
}

// preprocess is the processor as a Preprocess for a model of the given image size.
func (p *processor) preprocess(size int) (Preprocess, error) {
	var out Preprocess
	if p.Resample < 0 || p.Resample >= len(filters) {
		return out, fmt.Errorf("resample is %d; want 0 to %d, Pillow's filters", p.Resample, len(filters)-1)
	}
	out.Interpolation = filters[p.Resample]
	got := ""
	switch {
	case p.DoCrop:
		if p.Crop != square(size) {
			got = "a crop of " + p.Crop.String()
		}
	case !p.DoResize:
		got = "neither a resize nor a crop"
	case p.Size != square(size):
		got = "a resize to " + p.Size.String() + " without a crop"
	}
	if got != "" {
		return out, fmt.Errorf("%s does not give the %d×%d pixels that the model takes", got, size, size)
	}
	switch {
	case !p.DoResize:
		out.ResizeMode, out.Floor = NoResize, true
	case p.Size.shorter > 0:
		out.ResizeMode, out.Floor = Shortest, true
		if n := p.Size.shorter; n != size {
			out.Resize = [2]int{n, n}
		}
	default:
		out.ResizeMode = Squash
		if p.Size != square(size) {
			out.Resize, out.Floor = [2]int{p.Size.height, p.Size.width}, true
		}
	}
	// (x·rescale − mean)/std is (x/255 − Mean)/Std with these.
	scale, mean, std := 1., p.mean, p.std
	if p.DoRescale {
		scale = p.Rescale
	}
	if !p.DoNormalize {
		mean, std = [3]float64{}, [3]float64{1, 1, 1}
	}
	if scale != 1./255 {
		for c := range 3 {
			mean[c] /= 255 * scale
			std[c] /= 255 * scale
		}
	}
	for c := range 3 {
		out.Mean[c], out.Std[c] = float32(mean[c]), float32(std[c])
	}
	return out, out.check()
}

func (e extent) String() string {
	if e.shorter > 0 {
		return fmt.Sprintf("a shorter side of %d", e.shorter)
	}
	return fmt.Sprintf("%d×%d", e.height, e.width)
}

// Processor returns p, including its Size, as a preprocessor_config.json for
// transformers' CLIPImageProcessor; if that cannot do it, why says what it lacks. Its
// crop of an odd margin begins half a pixel before torchvision's.
func (p Preprocess) Processor() (content []byte, why string) {
	type sides map[string]int
	resize := p.Resize
	if resize == [2]int{} {
		resize = [2]int{p.Size, p.Size}
	}
	o := map[string]any{
		"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": true,
		"do_resize": p.ResizeMode != NoResize, "resample": slices.Index(filters, p.Interpolation),
		"do_center_crop": true, "crop_size": sides{"height": p.Size, "width": p.Size},
		"do_rescale": true, "rescale_factor": 1. / 255,
		"do_normalize": true, "image_mean": p.Mean, "image_std": p.Std,
	}
	switch {
	case p.ResizeMode == Longest, p.FillColor != 0:
		return nil, "a border around the picture"
	case p.ResizeMode == Shortest && resize[0] == resize[1]:
		o["size"] = sides{"shortest_edge": resize[0]}
	case p.ResizeMode == Squash:
		o["size"] = sides{"height": resize[0], "width": resize[1]}
		o["do_center_crop"] = p.Resize != [2]int{}
	case p.ResizeMode != NoResize:
		return nil, "a resize to unequal sides"
	}
	content, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return nil, err.Error() // a number that JSON cannot represent
	}
	return append(content, '\n'), ""
}

// HasProcessor reports whether a processor_config.json describes an image processor;
// if it does not, preprocessor_config.json counts.
func HasProcessor(data []byte) bool {
	o, err := decodeObject(data)
	return err == nil && o["image_processor"] != nil
}
