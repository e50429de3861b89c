package dataset

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/evatool/evatool/internal/fault"
)

// Benchmark is a named classification set: what CLIP is asked and how the
// answers are counted. Class names and templates are those of OpenAI's CLIP and
// CLIP_benchmark; data/README.md has the origins.
type Benchmark struct {
	Name       string   `json:"name"`
	Title      string   `json:"title"`
	ClassNames []string `json:"classes"`
	Templates  []string `json:"templates"` // "{c}" stands for the class name
	// Folders are the folder names of the classes in class order (WordNet ids for
	// the ImageNet sets), nil when folders are named after the classes.
	Folders []string `json:"folders,omitempty"`
	// Subset maps a class to its ImageNet-1k index; nil when the set is not a
	// subset.
	Subset []int `json:"-"`
	// Groups are the ImageNet-1k classes that each ObjectNet class covers.
	Groups [][]int `json:"-"`
	// Metric is the number that publications report.
	Metric string `json:"metric"`
	// Kind is empty for a set of one label a picture, or MultiLabel, or Choice.
	Kind string `json:"kind,omitempty"`
	// Group says what the groups are where Metric is that of the worst one.
	Group *Group `json:"group,omitempty"`
	// Also are further lists of names of the classes: what data sets call them,
	// as folders, in label columns, in lists of their own. An entry may be
	// empty.
	Also [][]string `json:"also,omitempty"`
	// Partial says that the data also has folders of other classes, which do not count.
	Partial bool   `json:"-"`
	Source  string `json:"source"` // where the data comes from
}

// Group is a column of the metadata members: whole numbers from 0.
type Group struct {
	Name   string `json:"name"` // what the numbers stand for, such as region
	Column int    `json:"column"`
}

// Labels are the names that a dataset's folders or label column may use, in
// class order: what Options.ClassNames wants.
func (b Benchmark) Labels() []string {
	if b.Folders != nil {
		return b.Folders
	}
	return b.ClassNames
}

// Synonyms are the other lists of names of the same classes: what Options.Also
// wants.
func (b Benchmark) Synonyms() [][]string {
	if b.Folders != nil {
		return append([][]string{b.ClassNames}, b.Also...)
	}
	return b.Also
}

var (
	//go:embed data/benchmarks.json
	benchmarksJSON []byte
	//go:embed data/imagenet-classnames.txt
	classnamesText string
	//go:embed data/imagenet-lemmas.txt
	lemmasText string
	//go:embed data/imagenet-templates.txt
	templatesText string
	//go:embed data/imagenet-a-wnids.txt
	imagenetAText string
	//go:embed data/imagenet-o-wnids.txt
	imagenetOText string
	//go:embed data/imagenet-r-wnids.txt
	imagenetRText string
	//go:embed data/objectnet.tsv
	objectnetText string
)

// The metrics of Benchmark.Metric.
const (
	Top1           = "top1"
	MeanPerClass   = "mean_per_class"
	F1Macro        = "f1_macro"         // mean over the classes that have images of F1
	WorstGroupTop1 = "worst_group_top1" // lowest top-1 of the groups that have images
	WorstGroupTop5 = "worst_group_top5"
	MAP            = "map"             // mean over the classes of average precision
	TextAccuracy   = "text_accuracy"   // every picture's own caption scores highest
	GroupAccuracy  = "group_accuracy"  // and every caption's own picture
	MeanOverParts  = "mean_over_parts" // of TextAccuracy
	Jaccard1012    = "jaccard_10_12"   // mean of questions with ten candidates or more
	MeanRecall1    = "mean_recall1"    // mean of both directions' recall at 1
)

// The kinds of Benchmark.Kind.
const (
	MultiLabel = "multilabel" // pictures with several classes
	Choice     = "choice"     // between captions, or between pictures
)

// imagenetSets are the sets that ask for ImageNet classes.
var imagenetSets = []struct{ name, title, wnids, source string }{
	{"imagenet", "ImageNet-1k validation", wnidsText, "image-net.org, ILSVRC2012_img_val.tar with the development kit's ground truth; or folders by WordNet id"},
	{"imagenet-v2", "ImageNet-V2 matched frequency", wnidsText, "imagenetv2.org, matched-frequency (folders 0..999)"},
	{"imagenet-sketch", "ImageNet-Sketch", wnidsText, "github.com/HaohanWang/ImageNet-Sketch"},
	{"imagenet-a", "ImageNet-A", imagenetAText, "github.com/hendrycks/natural-adv-examples, imagenet-a.tar"},
	{"imagenet-o", "ImageNet-O", imagenetOText, "github.com/hendrycks/natural-adv-examples, imagenet-o.tar"},
	{"imagenet-r", "ImageNet-R", imagenetRText, "github.com/hendrycks/imagenet-r, imagenet-r.tar"},
}

// Benchmarks lists the known sets: the ImageNet family first, the others by
// name.
var Benchmarks = sync.OnceValue(func() []Benchmark {
	names := strings.Split(strings.TrimSpace(classnamesText), "\n")
	templates := strings.Split(strings.TrimSpace(templatesText), "\n")
	var all []Benchmark
	for _, s := range imagenetSets {
		b := Benchmark{Name: s.name, Title: s.title, Templates: templates, Folders: strings.Fields(s.wnids), Metric: Top1, Source: s.source}
		b.Also = make([][]string, len(imagenetLists()))
		for _, wnid := range b.Folders {
			i, _ := slices.BinarySearch(Wnids(), wnid)
			b.ClassNames = append(b.ClassNames, names[i])
			b.Subset = append(b.Subset, i)
			for k, list := range imagenetLists() {
				b.Also[k] = append(b.Also[k], list[i])
			}
		}
		if len(b.Folders) == len(names) {
			b.Subset = nil
		}
		all = append(all, b)
	}
	all = append(all, objectnet(templates))
	var rest []Benchmark
	dec := json.NewDecoder(bytes.NewReader(benchmarksJSON))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rest); err != nil {
		panic(fmt.Sprintf("data/benchmarks.json: %v", err)) // embedded and tested
	}
	return append(all, rest...)
})

// imagenetLists are the other names in use for the ImageNet classes: the first lemma
// of each synset, as torchvision does, and all of them, as the development kit
// and Hugging Face do.
var imagenetLists = sync.OnceValue(func() [][]string {
	all := strings.Split(strings.TrimSpace(lemmasText), "\n")
	var first []string
	for _, lemmas := range all {
		one, _, _ := strings.Cut(lemmas, ", ")
		first = append(first, one)
	}
	return [][]string{first, all}
})

// imagenetSpelling finds ImageNet's classes by any of their names.
var imagenetSpelling = sync.OnceValue(func() *spelling {
	names := strings.Split(strings.TrimSpace(classnamesText), "\n")
	return newSpelling(names, append([][]string{Wnids()}, imagenetLists()...))
})

// objectnet has the 113 classes that ImageNet has too, asked by ObjectNet's own
// names in lower case, as CLIP_benchmark does.
func objectnet(templates []string) Benchmark {
	b := Benchmark{Name: "objectnet", Partial: true, Title: "ObjectNet, 113 classes", Templates: templates, Metric: Top1, Source: "objectnet.dev, objectnet-1.0/images"}
	for line := range strings.Lines(objectnetText) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		b.Folders = append(b.Folders, f[0])
		b.ClassNames = append(b.ClassNames, f[1])
		var group []int
		for _, s := range strings.Fields(f[2]) {
			i, _ := strconv.Atoi(s)
			group = append(group, i)
		}
		b.Groups = append(b.Groups, group)
	}
	return b
}

// LookupBenchmark finds a set by name. "_" and "-" are the same, and
// CLIP_benchmark's names such as imagenet1k, imagenetv2 or vtab/pets are known.
func LookupBenchmark(name string) (Benchmark, bool) {
	key := strings.NewReplacer("_", "-").Replace(strings.ToLower(name))
	for _, prefix := range []string{"wds/", "vtab/", "wilds/", "fairness/", "misc/", "retrieval/"} {
		key = strings.TrimPrefix(key, prefix)
	}
	if part, ok := strings.CutPrefix(key, "sugar-crepe/"); ok {
		key = "sugarcrepe-" + part
	}
	if alias, ok := aliases[key]; ok {
		key = alias
	}
	for _, b := range Benchmarks() {
		if b.Name == key {
			return b, true
		}
	}
	return Benchmark{}, false
}

// aliases are the other names of the sets.
var aliases = map[string]string{
	"imagenet1k":                 "imagenet",
	"imagenet-1k":                "imagenet",
	"imagenetv2":                 "imagenet-v2",
	"fgvc":                       "fgvc-aircraft",
	"dsprites-label-orientation": "dsprites-orientation",
	"dsprites-label-x-position":  "dsprites-x-position",
	"sugar-crepe":                "sugarcrepe",
	"smallnorb-label-azimuth":    "smallnorb-azimuth",
	"smallnorb-label-elevation":  "smallnorb-elevation",
}

// Prompt puts a class name into a template: "{c}" or "{}" stands for it.
func Prompt(template, class string) string {
	return strings.NewReplacer("{c}", class, "{}", class).Replace(template)
}

// CheckTemplates refuses a template without a place for the class name.
func CheckTemplates(where string, templates []string) error {
	for i, t := range templates {
		if !strings.Contains(t, "{c}") && !strings.Contains(t, "{}") {
			return fault.Inputf("%s: template %d, %.80q, has no place for the class name; write {c} where it goes", where, i+1, t)
		}
	}
	return nil
}
