package eval

import (
	"fmt"

	"github.com/evatool/evatool/internal/arch"
)

// Result is result.json.
type Result struct {
	Benchmark string     `json:"benchmark"`
	Kind      string     `json:"kind,omitempty"` // multilabel or choice; absent: one label a picture
	Model     ModelInfo  `json:"model"`
	Data      DataInfo   `json:"data"`
	Shard     *ShardInfo `json:"shard,omitempty"`

	Top1     float64 `json:"top1"`
	Top5     float64 `json:"top5"`
	Correct1 int     `json:"correct1"`
	Correct5 int     `json:"correct5"`
	N        int     `json:"n"` // images scored, without the skipped ones
	CI95     CI95    `json:"ci95"`
	// MeanPerClass is the mean over the classes that have images of their top-1.
	MeanPerClass float64 `json:"mean_per_class"`
	Metric       string  `json:"metric"` // what the benchmark reports
	Value        float64 `json:"value"`  // of Metric
	// Ties counts the images whose best logit several classes share; for choices
	// the questions, and for several labels the images, whose rank a tie decides.
	Ties int `json:"ties"`

	// Group and Groups are of sets that report their worst group.
	Group  *GroupInfo `json:"group,omitempty"`
	Groups []GroupRow `json:"groups,omitempty"`
	// Choice is of sets that ask to choose; Top1 counts the questions that are
	// right as a whole, N all of them.
	Choice *ChoiceScore `json:"choice,omitempty"`

	Skipped   []Skipped  `json:"skipped"`
	Published *Published `json:"published"` // null when none is known, or none for the same images and words
	// NotCompared says why the result is not compared with a published figure, where there is one.
	NotCompared string `json:"not_compared,omitempty"`
	// Words says what is not the benchmark's own: other class names, other templates.
	Words     string      `json:"words,omitempty"`
	Diagnosis []Finding   `json:"diagnosis"`
	PerClass  []ClassRow  `json:"per_class"`
	Confused  []Confusion `json:"confused"`

	ImagesPerSecond float64           `json:"images_per_second"`
	Seconds         Seconds           `json:"seconds"`
	Backend         string            `json:"backend"`
	DType           string            `json:"dtype"`
	Decoder         string            `json:"decoder"`
	PeakRSS         int64             `json:"peak_rss,omitempty"`
	Versions        map[string]string `json:"versions"`
	Key             string            `json:"key"` // hash of model, data, words and preprocessing

	rightAt map[int]bool // which images or questions are right, by index; one of five where the metric counts these
}

// ModelInfo names the scored model.
type ModelInfo struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Config string `json:"config"` // the architecture's name, "" when it has none
	// Weights are the tags of the published weights that the file is, by its hash
	// or its name; none when neither says it.
	Weights    []string   `json:"weights,omitempty"`
	Preprocess Preprocess `json:"preprocess"`
}

// Preprocess is what a picture goes through before the model: a resize, a crop
// or border where the mode asks for it, and (value/255 − Mean) / Std per channel.
type Preprocess struct {
	Size          int        `json:"size,omitempty"` // pixels
	Mean          [3]float32 `json:"mean"`
	Std           [3]float32 `json:"std"`
	Interpolation string     `json:"interpolation"`        // bicubic, bilinear, nearest, lanczos, box or hamming
	ResizeMode    string     `json:"resize_mode"`          // shortest, longest, squash or none
	FillColor     int        `json:"fill_color,omitempty"` // of a border, 0 to 255
	Resize        [2]int     `json:"resize,omitzero"`      // height and width before the crop where that is not Size
	Floor         bool       `json:"crop_floor,omitempty"` // half a pixel of the crop's offset rounds down, not to even
}

// prompts says what happens to a picture's size.
func (p Preprocess) prompts() string {
	h, w := p.Size, p.Size
	if p.Resize != [2]int{} {
		h, w = p.Resize[0], p.Resize[1]
	}
	switch p.ResizeMode {
	case arch.Longest:
		return fmt.Sprintf("longer side to %d (%s), border of %d", p.Size, p.Interpolation, p.FillColor)
	case arch.Squash:
		return fmt.Sprintf("squashed to %d×%d (%s), centre crop to %d", h, w, p.Interpolation, p.Size)
	case arch.NoResize:
		return fmt.Sprintf("centre crop to %d", p.Size)
	}
	return fmt.Sprintf("shorter side to %d (%s), centre crop to %d", h, p.Interpolation, p.Size)
}

// DataInfo names the images.
type DataInfo struct {
	Source  string `json:"source"`
	N       int    `json:"n"`            // images of all shards, skipped ones too
	Of      int    `json:"of,omitempty"` // images of the data, where Options.Limit takes N of them
	Classes int    `json:"classes"`
	// ClassesWithImages counts the classes of the images that were scored.
	ClassesWithImages int `json:"classes_with_images"`
	Templates         int `json:"templates"`
	// Prompts counts the texts that the class vectors are made of; of prompts by
	// class Templates is 0.
	Prompts  int    `json:"prompts,omitempty"`
	Language string `json:"language,omitempty"` // of ImageNet's names where that was given
	// Classifiers are the hashes of the class matrices that were averaged, instead
	// of prompts.
	Classifiers []string `json:"classifiers,omitempty"`
	Layout      string   `json:"layout"`
	Fingerprint string   `json:"fingerprint"`
}

// ShardInfo says which rows [Lo,Hi) of the data a result covers.
type ShardInfo struct {
	Index int `json:"index"`
	Count int `json:"count"`
	Lo    int `json:"lo"`
	Hi    int `json:"hi"`
}

// CI95 holds 95 % intervals: Wilson's, and for the mean over the classes the
// normal one over the classes' binomial variances.
type CI95 struct {
	Top1         [2]float64 `json:"top1"`
	Top5         [2]float64 `json:"top5"`
	MeanPerClass [2]float64 `json:"mean_per_class"`
	// Value is of Result.Value: of a worst group Wilson's, of F1 and average
	// precision the 2.5 and 97.5 percentiles of a bootstrap over the images.
	Value [2]float64 `json:"value"`
}

// GroupInfo says what the groups of a set are, and which is the worst.
type GroupInfo struct {
	Name   string `json:"name"`
	Column int    `json:"column"` // of the metadata member
	Worst  int    `json:"worst"`
}

// Skipped is an image that does not decode.
type Skipped struct {
	Index  int    `json:"index"`
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// Published is what was published for the model on the benchmark.
type Published struct {
	Figure
	// Others are further figures, such as re-evaluations by third parties.
	Others []Figure `json:"others,omitempty"`
}

// Figure is one published figure.
type Figure struct {
	Value   float64 `json:"value"`
	Weights string  `json:"weights"`
	Source  string  `json:"source"`
	// InsideCI says whether the figure lies in the run's 95 % interval.
	InsideCI bool `json:"inside_ci"`
}

// Finding is what one usual cause changes on a sample of the images.
type Finding struct {
	Cause   string `json:"cause"`
	Text    string `json:"text"`
	N       int    `json:"n"`
	Before  int    `json:"before"` // correct without the change
	After   int    `json:"after"`
	Suspect bool   `json:"suspect"` // the change helps beyond chance
}

// ClassRow is one line of the per-class table.
type ClassRow struct {
	ID      int    `json:"id"`
	Name    string `json:"name"`
	N       int    `json:"n"`
	Correct int    `json:"correct"`
	Top5    int    `json:"correct5"`
	// AP is the average precision of a set of several labels.
	AP *float64 `json:"average_precision,omitempty"`
}

// Confusion counts how often images of one class were taken for another.
type Confusion struct {
	Label         int    `json:"label"`
	Predicted     int    `json:"predicted"`
	LabelName     string `json:"label_name"`
	PredictedName string `json:"predicted_name"`
	N             int    `json:"n"`
}

// Seconds says where the time went. Decode adds up the decoding goroutines.
type Seconds struct {
	Load       float64 `json:"load"`
	Classifier float64 `json:"classifier"`
	Images     float64 `json:"images"` // from the first image read to the last ranked
	Decode     float64 `json:"decode"`
	Wait       float64 `json:"wait"` // for decoded images
	Device     float64 `json:"device"`
	Total      float64 `json:"total"`
}
