package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
	"github.com/evatool/evatool/internal/runlog"
)

// RetrievalOptions say what is searched.
type RetrievalOptions struct {
	// Model is what is searched with; what follows is as in OpenOptions.
	Model, Config, Key   string
	Preprocess           string
	Backend              string
	DeviceCount, Threads int
	DType                string
	CompileCache         string
	// Opened is a model that is open already, instead of all these; it stays open.
	Opened *Model

	Set         string // flickr30k, coco or csv
	Data        string
	Split       string // of a Karpathy file; "" is test
	ImageColumn string
	// CaptionColumn is the caption's column of a list.
	CaptionColumn string

	Batch, Workers int    // as in Options
	Limit          int    // search among the first N images only; 0: all
	MaxBad         int    // images that may fail to decode
	Out            string // folder of result.json; "": none

	Log   *slog.Logger // nil: silent
	Meter Meters       // nil: none
}

func (o *RetrievalOptions) opening() OpenOptions {
	return OpenOptions{o.Config, o.Key, o.Preprocess, o.Backend, o.DeviceCount, o.Threads, o.DType, o.Batch, o.Workers, o.CompileCache, o.Log}
}

// RetrievalResult is the outcome of Retrieval.
type RetrievalResult struct {
	Set         string            `json:"set"`
	Model       ModelInfo         `json:"model"`
	Source      string            `json:"source"`
	Images      int               `json:"images"`
	Captions    int               `json:"captions"`
	ImageToText Recall            `json:"image_to_text"`
	TextToImage Recall            `json:"text_to_image"`
	Skipped     []Skipped         `json:"skipped"`
	Published   []PublishedFigure `json:"published"`
	Seconds     float64           `json:"seconds"`
	Backend     string            `json:"backend"`
	DType       string            `json:"dtype"`
	Versions    map[string]string `json:"versions"`
}

// Recall is the share of N queries whose right answer is among the best k.
type Recall struct {
	R1     float64    `json:"r1"`
	R5     float64    `json:"r5"`
	R10    float64    `json:"r10"`
	Hits1  int        `json:"hits1"`
	Hits5  int        `json:"hits5"`
	Hits10 int        `json:"hits10"`
	N      int        `json:"n"`
	CI95   [2]float64 `json:"ci95_r1"`
}

// check finds what is wrong with the options before anything is opened.
func (o *RetrievalOptions) check() error {
	if o.Set != "flickr30k" && o.Set != "coco" && o.Set != "csv" {
		return fault.Usagef("retrieval %q: want flickr30k, coco or csv", o.Set)
	}
	if st, err := os.Stat(o.Out); o.Out != "" && err == nil && !st.IsDir() {
		return fault.Envf("%s: is a file; Options.Out wants a folder", o.Out)
	}
	if o.Out != "" {
		if err := atomicfile.Folder(o.Out, []string{resultFile}, append(dataset.Local(o.Data), o.Model, o.Config)); err != nil {
			return err
		}
	}
	return cmp.Or(checkCounts(o.Batch, o.Workers, o.Limit, o.MaxBad), checkModel(o.Opened, o.Model, o.opening()))
}

// Retrieval scores both directions: for an image any of its captions is right,
// and every caption is a query for its image.
func Retrieval(ctx context.Context, o RetrievalOptions) (_ *RetrievalResult, err error) {
	defer fault.Public(ctx, &err)
	if err := o.check(); err != nil {
		return nil, err
	}
	return withModel(ctx, o.Opened, o.Model, o.opening(), func(ctx context.Context, m *Model) (*RetrievalResult, error) {
		return retrieval(ctx, m, o)
	})
}

func retrieval(ctx context.Context, m *Model, o RetrievalOptions) (*RetrievalResult, error) {
	start := time.Now()
	if err := textTower(m.file.Config, m.file.Path); err != nil {
		return nil, err
	}
	s, err := openCaptioned(ctx, o, m.pixels())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	n := calls(cmp.Or(o.Batch, m.o.Batch), m.o.DType, s.Len(), math.MaxInt)
	enc, free, err := m.runner(ctx, m.file.Config, n)
	if err != nil {
		return nil, err
	}
	defer free()
	res, err := retrieve(ctx, enc, s, feed{n.Images, n.Texts, cmp.Or(o.Workers, m.o.Workers), o.Limit, o.MaxBad, o.Meter})
	if err != nil {
		return nil, err
	}
	res.Set, res.Source = o.Set, o.Data
	res.Model = m.info()
	res.Backend, res.DType, res.Versions = m.backend(), m.o.DType, runlog.Versions()
	if o.Limit == 0 && cocoFile(o) == "" { // the published figures are of Karpathy's split
		for _, f := range published.Find(m.file.Name, o.Set) {
			res.Published = append(res.Published, PublishedFigure{f.Config, f.Weights, f.Metric, f.Value, f.Source})
		}
	}
	res.Seconds = time.Since(start).Seconds()
	if o.Out == "" {
		return res, nil
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, fault.File(o.Out, "a folder that can be written, as Options.Out", err)
	}
	return res, atomicfile.WriteJSON(filepath.Join(o.Out, resultFile), res)
}

// openCaptioned opens images with captions, one sample per image.
func openCaptioned(ctx context.Context, o RetrievalOptions, p arch.Preprocess) (source, error) {
	var ds dataset.Dataset
	var err error
	if file := cocoFile(o); file != "" {
		ds, err = dataset.Open(ctx, file, dataset.Options{Kind: dataset.COCO})
	} else if o.Set == "csv" || !hasKarpathy(o) {
		ds, err = dataset.Open(ctx, o.Data, dataset.Options{
			ImageColumn: o.ImageColumn, CaptionColumn: o.CaptionColumn, CaptionLines: true, GroupCaptions: true,
		})
	} else {
		ds, err = openKarpathy(o.Data, o.Set, o.Split)
	}
	if err != nil {
		return nil, err
	}
	return newPictures(ds, p), nil
}

// cocoFile is COCO's own captions file: the one that is given, or the only one
// for validation in a folder of COCO without Karpathy's. "" when there is none.
func cocoFile(o RetrievalOptions) string {
	file := o.Data
	if st, err := os.Stat(o.Data); err == nil && st.IsDir() {
		if _, err := os.Stat(filepath.Join(o.Data, "dataset_"+o.Set+".json")); err == nil {
			return ""
		}
		var found []string
		for _, sub := range []string{".", "annotations"} {
			more, _ := filepath.Glob(filepath.Join(o.Data, sub, "captions_val*.json"))
			found = append(found, more...)
		}
		if len(found) != 1 {
			return ""
		}
		file = found[0]
	}
	if !strings.EqualFold(filepath.Ext(file), ".json") {
		return ""
	}
	if b, err := os.ReadFile(file); err != nil || !dataset.IsCOCO(b) {
		return ""
	}
	return file
}

// hasKarpathy says whether the data is a Karpathy file or a folder without
// tars. CLIP_benchmark's tars of the two sets have the captions inside.
func hasKarpathy(o RetrievalOptions) bool {
	if strings.HasSuffix(o.Data, ".json") {
		return true
	}
	if _, err := os.Stat(filepath.Join(o.Data, "dataset_"+o.Set+".json")); err == nil {
		return true
	}
	for _, pattern := range []string{"*.tar", "*/*.tar"} {
		if tars, _ := filepath.Glob(filepath.Join(o.Data, pattern)); len(tars) > 0 {
			return false
		}
	}
	st, err := os.Stat(o.Data)
	return err == nil && st.IsDir()
}

// retrieve encodes everything and ranks both ways.
func retrieve(ctx context.Context, enc encoder, s source, f feed) (*RetrievalResult, error) {
	images, skipped, err := embedImages(ctx, enc, s, f)
	if err != nil {
		return nil, err
	}
	var texts []string
	var owner []int // row of the image of each caption
	for i, captions := range images.captions {
		if len(captions) == 0 {
			return nil, fault.Inputf("%s: has no caption; retrieval needs one per image", fault.Name(images.key(i)))
		}
		for _, t := range captions {
			texts = append(texts, t)
			owner = append(owner, i)
		}
	}
	width := enc.Config().Text.ContextLength
	tokens := make([]int32, len(texts)*width)
	tok := bpe.New()
	for i, t := range texts {
		tok.Tokens(tokens[i*width:(i+1)*width], t, width)
	}
	captions, err := embedTokens(ctx, enc, tokens, len(texts), f)
	if err != nil {
		return nil, err
	}
	captions.keys = texts
	a, err := images.unit()
	if err != nil {
		return nil, err
	}
	b, err := captions.unit()
	if err != nil {
		return nil, err
	}
	res := &RetrievalResult{Images: a.n(), Captions: b.n(), Skipped: skipped, Published: []PublishedFigure{}}
	mine := make([][]int, a.n())
	for j, i := range owner {
		mine[i] = append(mine[i], j)
	}
	res.ImageToText = recall(a, b, func(i int) []int { return mine[i] })
	res.TextToImage = recall(b, a, func(j int) []int { return owner[j : j+1] })
	return res, nil
}

// recall ranks all of found for every query. Among equal scores the lower
// index comes first.
func recall(queries, found *features, right func(q int) []int) Recall {
	ranks := make([]int, queries.n())
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			scores := make([]float32, found.n())
			for q := w; q < len(ranks); q += workers {
				v := queries.rows[q*queries.dim : (q+1)*queries.dim]
				for i := range scores {
					scores[i] = float32(dot(v, found.rows[i*found.dim:(i+1)*found.dim]))
				}
				ranks[q] = bestRank(scores, right(q))
			}
		})
	}
	wg.Wait()
	r := Recall{N: len(ranks)}
	for _, rank := range ranks {
		if rank < 1 {
			r.Hits1++
		}
		if rank < 5 {
			r.Hits5++
		}
		if rank < 10 {
			r.Hits10++
		}
	}
	r.R1, r.R5, r.R10 = ratio(r.Hits1, r.N), ratio(r.Hits5, r.N), ratio(r.Hits10, r.N)
	r.CI95 = wilson(r.Hits1, r.N)
	return r
}

// bestRank is the place, from 0, of the best of the right answers.
func bestRank(scores []float32, right []int) int {
	best := right[0]
	for _, i := range right[1:] {
		if scores[i] > scores[best] || scores[i] == scores[best] && i < best {
			best = i
		}
	}
	rank := 0
	for i, s := range scores {
		if s > scores[best] || s == scores[best] && i < best {
			rank++
		}
	}
	return rank
}

// karpathy is one split of Karpathy's annotation of Flickr30k or COCO.
type karpathy struct {
	images []karpathyImage
	name   string
}

type karpathyImage struct {
	path     string
	captions []string
}

// openKarpathy reads dataset_flickr30k.json or dataset_coco.json and finds the
// images beside it, in the folders that the two sets use.
func openKarpathy(dir, set, split string) (*karpathy, error) {
	if split == "" {
		split = "test"
	}
	name := "dataset_" + set + ".json"
	file := filepath.Join(dir, name)
	if strings.HasSuffix(dir, ".json") {
		file, dir = dir, filepath.Dir(dir)
	}
	b, err := readFile(file, "Karpathy's "+name)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Images []struct {
			FilePath, FileName, Split string
			Sentences                 []struct{ Raw string }
		}
	}
	if !utf8.Valid(b) { // encoding/json would take it
		return nil, fault.Inputf("%s: not UTF-8; write the captions as UTF-8", file)
	}
	// Names match without regard to case: filepath, filename.
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fault.Inputf("%s: not a Karpathy file: %w", file, err)
	}
	k := &karpathy{name: name}
	for _, im := range doc.Images {
		if im.Split != split {
			continue
		}
		path, err := findPicture(dir, im.FilePath, im.FileName)
		if err != nil {
			return nil, err
		}
		e := karpathyImage{path: path}
		for _, s := range im.Sentences {
			e.captions = append(e.captions, s.Raw)
		}
		k.images = append(k.images, e)
	}
	if len(k.images) == 0 {
		return nil, fault.Inputf("%s: no images of the split %q", file, split)
	}
	return k, nil
}

func findPicture(dir, sub, name string) (string, error) {
	for _, d := range []string{sub, "", "images", "flickr30k-images", "flickr30k_images"} {
		for _, spelled := range []string{name, norm.NFC.String(name), norm.NFD.String(name)} { // macOS decomposes names
			p := filepath.Join(dir, d, spelled)
			if _, err := os.Stat(p); err == nil {
				return p, nil
			}
		}
	}
	return "", fault.Inputf("%s: the image %s is in none of %s, images, flickr30k-images", fault.Name(dir), fault.Name(name), fault.Name(filepath.Join(".", sub)))
}

func (k *karpathy) Len() int          { return len(k.images) }
func (k *karpathy) Classes() []string { return nil }
func (k *karpathy) Describe() string  { return k.name }
func (k *karpathy) Close() error      { return nil }

func (k *karpathy) Fingerprint() string {
	var parts []string
	for _, im := range k.images {
		parts = append(append(parts, im.path), im.captions...)
	}
	return contentKey(parts...)
}

func (k *karpathy) Read(i int) (dataset.Example, error) {
	ex, err := fileSet{k.images[i].path}.Read(0)
	ex.Index, ex.Captions = i, k.images[i].captions
	return ex, err
}
