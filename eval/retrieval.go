package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/published"
	"github.com/evatool/evatool/internal/runlog"
)

// RetrievalOptions say what is searched.
type RetrievalOptions struct {
	// Model is what is searched with; OpenOptions say how it is opened.
	Model string
	OpenOptions
	// Opened is a model that is already open, instead of all these; it stays open.
	Opened *Model

	Set         string // flickr30k, coco or csv
	Data        string
	Split       string // of a Karpathy file; "" is test
	ImageColumn string
	// CaptionColumn is the caption's column of a list.
	CaptionColumn string

	Limit         int    // search among N images only, at equal distances; 0: all
	MaxBad        int    // images that may fail to decode
	Shard, Shards int    // part i of n, as in Options; a part has features and no recalls
	Out           string // folder of result.json, rows.csv, report.html and the journal; "": none
	Fresh         bool   // start again even when Out holds a part of the same run
	Force         bool   // as in Options

	Meter Meters // nil: none
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
	MeanRecall1 float64           `json:"mean_recall1"` // mean of both directions' recall at 1
	MeanCI95    [2]float64        `json:"ci95_mean_recall1"`
	Shard       *ShardInfo        `json:"shard,omitempty"`
	N           int               `json:"n"`            // images of all parts, skipped ones too
	Of          int               `json:"of,omitempty"` // as in DataInfo
	Fingerprint string            `json:"fingerprint"`
	Layout      string            `json:"layout"`
	Key         string            `json:"key"`
	Skipped     []Skipped         `json:"skipped"`
	Published   []PublishedFigure `json:"published"`
	NotCompared string            `json:"not_compared,omitempty"` // as in Result
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
		return fault.Envf("%s: is a file; Options.Out must be a folder", o.Out)
	}
	if o.Out != "" {
		if err := atomicfile.Folder(o.Out, []string{resultFile, rowsFile, reportFile, journalFile}, append(dataset.Local(o.Data), o.Model, o.Config)); err != nil {
			return err
		}
	}
	return cmp.Or(checkCounts(o.Batch, o.Workers, o.Limit, o.MaxBad), checkPart(o.Shard, o.Shards), checkModel(o.Opened, o.Model, o.OpenOptions))
}

// Retrieval scores both directions: for an image any of its captions is right,
// and every caption is a query for its image.
func Retrieval(ctx context.Context, o RetrievalOptions) (_ *RetrievalResult, err error) {
	defer fault.Public(ctx, &err)
	if err := o.check(); err != nil {
		return nil, err
	}
	res, err := withModel(ctx, o.Opened, o.Model, o.OpenOptions, func(ctx context.Context, m *Model) (*RetrievalResult, error) {
		return retrieval(ctx, m, o)
	})
	return res, swapped(err, o.Data)
}

func retrieval(ctx context.Context, m *Model, o RetrievalOptions) (*RetrievalResult, error) {
	r := retrievalRun(ctx, m, o)
	defer r.release()
	return r.retrieve(ctx, o)
}

// retrievalRun is a retrieval with an open model.
func retrievalRun(ctx context.Context, m *Model, o RetrievalOptions) *run {
	r := &run{o: o.scoring().on(m).defaults(), cfg: m.file.Config, pre: m.pixels(), model: m.info(), backend: m.backend(), arithmetic: m.arithmetic()}
	r.texts, r.words = max(r.o.Batch, textBatch), m.textTokens
	r.open = func(cfg *arch.Config, dtype string) (encoder, func(), error) {
		lo, hi := r.bounds()
		return m.runner(ctx, cfg, calls(r.o.Batch, dtype, hi-lo, math.MaxInt))
	}
	return r
}

// scoring are the options of the run that keeps the features.
func (o *RetrievalOptions) scoring() Options {
	return Options{
		Benchmark: o.Set, Data: o.Data, Model: o.Model, OpenOptions: o.OpenOptions, Limit: o.Limit, MaxBad: o.MaxBad,
		Shard: o.Shard, Shards: o.Shards, Out: o.Out, Fresh: o.Fresh, Force: o.Force, Meter: o.Meter,
	}
}

// captioned opens the images and captions.
func (r *run) captioned(ctx context.Context, o RetrievalOptions) (err error) {
	if err := r.readsTexts(ctx, o.Model); err != nil {
		return err
	}
	r.w = prompts{name: o.Set, metric: dataset.MeanRecall1, kind: retrieving}
	if r.data, err = openCaptioned(ctx, o, r.pre); err != nil {
		return err
	}
	if err = r.settle(ctx); err != nil {
		r.data.Close()
	}
	return err
}

// retrieve keeps the features of all images and captions, and ranks both ways.
func (r *run) retrieve(ctx context.Context, o RetrievalOptions) (*RetrievalResult, error) {
	r.start = time.Now()
	if err := r.captioned(ctx, o); err != nil {
		return nil, err
	}
	defer r.data.Close()
	entries, err := r.entries(ctx)
	if err != nil {
		return nil, err
	}
	res := &RetrievalResult{
		Set: o.Set, Model: r.model, Source: fault.Masked(o.Data), N: len(r.scored), Of: r.limited(), Fingerprint: r.data.Fingerprint(), Layout: r.data.Describe(), Key: r.key,
		Backend: r.backend, DType: r.o.DType, Versions: runlog.Versions(), Published: []PublishedFigure{},
	}
	if r.o.Shards > 1 {
		lo, hi := r.bounds()
		res.Shard = &ShardInfo{r.o.Shard, r.o.Shards, lo, hi}
	}
	ranks, err := res.count(entries)
	if err != nil {
		return nil, err
	}
	res.publish()
	res.Seconds = time.Since(r.start).Seconds()
	if o.Out == "" {
		return res, nil
	}
	return res, res.write(o.Out, ranks)
}

// publish compares the result with what was published, or says why not: only
// Karpathy's whole split is compared.
func (res *RetrievalResult) publish() {
	res.Published, res.NotCompared = []PublishedFigure{}, ""
	list := retrievalFigures(res.Model, res.Set)
	if len(list) == 0 {
		return
	}
	switch {
	case res.Shard != nil:
		res.NotCompared = fmt.Sprintf("part %d of %d of the images", res.Shard.Index, res.Shard.Count)
	case strings.HasPrefix(res.Layout, string(dataset.COCO)):
		res.NotCompared = "COCO's own captions, while published figures are of Karpathy's split"
	case strings.Contains(res.Layout, ofSplit): // COCO's has as many images as test
		_, split, _ := strings.Cut(res.Layout, ofSplit)
		res.NotCompared = "the split " + split + ", while published figures are of test"
	default:
		res.NotCompared = otherImages(res.Set, res.N)
	}
	if res.NotCompared == "" {
		res.Published = list
	}
}

// retrievalFigures are those of the model's weights, or of its architecture, in
// the order of the metrics: R@1, R@5, R@10 of either direction.
func retrievalFigures(model ModelInfo, set string) []PublishedFigure {
	list := []PublishedFigure{}
	metrics := []string{"image_to_text_r1", "image_to_text_r5", "image_to_text_r10", "text_to_image_r1", "text_to_image_r5", "text_to_image_r10", dataset.MeanRecall1}
	for _, f := range ofWeights(published.Find(model.Config, set), model.Weights) {
		list = append(list, PublishedFigure{f.Config, f.Weights, f.Metric, f.Value, f.Source})
	}
	at := func(metric string) int {
		if i := slices.Index(metrics, metric); i >= 0 {
			return i
		}
		return len(metrics)
	}
	slices.SortStableFunc(list, func(a, b PublishedFigure) int {
		return cmp.Or(cmp.Compare(a.Weights, b.Weights), cmp.Compare(at(a.Metric), at(b.Metric)), cmp.Compare(a.Source, b.Source))
	})
	return list
}

// openCaptioned opens images with captions, one sample per image.
func openCaptioned(ctx context.Context, o RetrievalOptions, p arch.Preprocess) (source, error) {
	var ds dataset.Dataset
	var err error
	if file := cocoFile(o); file != "" {
		ds, err = dataset.Open(ctx, file, dataset.Options{Kind: dataset.COCO})
	} else if hub, ok := hubCaptions[o.Set]; ok && hub.there(o.Data) {
		ds, err = openHub(o.Data, hub)
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
	if _, ok := ds.(*karpathy); !ok && o.Split != "" && o.Split != "test" {
		ds.Close()
		return nil, fault.Usagef("Options.Split %s: only Karpathy's JSON file has splits, and this is %s; give the data of that split alone, and leave it out", fault.Name(o.Split), fault.Name(ds.Describe()))
	}
	return newPictures(ds, p), nil
}

// ofSplit stands before the split of a Karpathy file, if it is not test, in what
// describes the data.
const ofSplit = ", split "

// hubSet is how a repository of the hub has pictures and captions.
type hubSet struct{ table, folder string }

// hubCaptions are the repositories that DataComp takes its retrieval sets from:
// nlphuji/flickr_1k_test_image_text_retrieval, and mscoco_2014_5k_….
var hubCaptions = map[string]hubSet{
	"flickr30k": {"test_1k_flickr.csv", "images_flickr_1k_test"},
	"coco":      {"test_5k_mscoco_2014.csv", "images_mscoco_2014_5k_test"},
}

func (h hubSet) there(dir string) bool {
	_, _, err := hubFiles(dir, h.table, h.folder)
	return err == nil
}

// openHub reads such a table: a picture's file name and the list of its captions.
func openHub(dir string, h hubSet) (dataset.Dataset, error) {
	file, pictures, err := hubFiles(dir, h.table, h.folder)
	if err != nil {
		return nil, err
	}
	rows, err := readColumns(file, "filename", "raw|caption|captions|sentences")
	if err != nil {
		return nil, err
	}
	k := &karpathy{name: h.table}
	for i, r := range rows {
		captions, ok := dataset.StringList(r[1])
		if !ok || len(captions) == 0 {
			return nil, fault.Inputf("%s: row %d: captions %.80q: want a list of texts", fault.Name(file), i+1, r[1])
		}
		path, err := findPicture(pictures, h.folder, r[0])
		if err != nil {
			return nil, err
		}
		k.images = append(k.images, karpathyImage{path: path, captions: captions})
	}
	return k, nil
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

// captionAt is a caption and its row.
type captionAt struct {
	row  int
	text string
}

// nearly says whether two features differ by rounding alone, at most.
func nearly(a, b []float32) bool {
	var length, apart float64
	for i, v := range a {
		length += float64(v) * float64(v)
		apart += float64(v-b[i]) * float64(v-b[i])
	}
	return apart <= 1e-8*length // half precision differs by more, and so do other texts
}

// count ranks all captions for every image and all images for every caption. A
// part is only counted, as it lacks the candidates of the other parts.
func (res *RetrievalResult) count(entries []entry) ([]imageRanks, error) {
	res.Skipped = []Skipped{}
	images, captions := &features{}, &features{}
	var mine [][]int // rows of an image's captions
	var owner []int  // row of a caption's image
	var ranks []imageRanks
	first := map[string]captionAt{}
	for _, e := range entries {
		if e.Bad != "" {
			res.Skipped = append(res.Skipped, Skipped{e.Index, e.Key, e.Bad})
			continue
		}
		images.dim, captions.dim = len(e.Found.Image), len(e.Found.Image)
		images.rows = append(images.rows, e.Found.Image...)
		captions.rows = append(captions.rows, e.Found.Texts...)
		own := make([]int, len(e.Found.Captions))
		for i, text := range e.Found.Captions {
			own[i] = len(owner)
			owner = append(owner, len(mine))
			// The last bits of a feature depend on its place in a batch: captions
			// that are the same to the model, of which one counts, tie exactly all
			// the same. Most tokenizers ignore case and the width of spaces.
			key := strings.ToLower(strings.Join(strings.Fields(text), " "))
			f, again := first[key]
			if !again {
				first[key] = captionAt{own[i], text}
			} else if mine, its := captions.row(own[i]), captions.row(f.row); text == f.text || nearly(mine, its) {
				copy(mine, its)
			}
		}
		mine = append(mine, own)
		ranks = append(ranks, imageRanks{index: e.Index, key: e.Key})
	}
	res.Images, res.Captions = len(mine), len(owner)
	if res.Shard != nil {
		return nil, nil
	}
	if len(mine) == 0 {
		return nil, fault.Inputf("no image decodes; the first is %s: %s", res.Skipped[0].Key, res.Skipped[0].Reason)
	}
	for i, rank := range bestRanks(images, captions, func(i int) []int { return mine[i] }) {
		ranks[i].image = rank
	}
	for j, rank := range bestRanks(captions, images, func(j int) []int { return owner[j : j+1] }) {
		ranks[owner[j]].captions = append(ranks[owner[j]].captions, rank)
	}
	res.tally(ranks)
	return ranks, nil
}

// imageRanks are the places, from 0, of the best right answers: of an image's
// captions among all captions, and of the image among all for each caption.
type imageRanks struct {
	index    int
	key      string
	image    int
	captions []int
}

// tally fills in the recalls.
func (res *RetrievalResult) tally(ranks []imageRanks) {
	var toText, toImage []int
	for _, r := range ranks {
		toText, toImage = append(toText, r.image), append(toImage, r.captions...)
	}
	res.ImageToText, res.TextToImage = recallOf(toText), recallOf(toImage)
	// An image and its captions are drawn together: each image's share of both
	// recalls is one value.
	shares := make([]float64, len(ranks))
	perImage := float64(len(toImage)) / float64(max(1, len(ranks)))
	for i, r := range ranks {
		if r.image < 1 {
			shares[i] = 0.5
		}
		for _, rank := range r.captions {
			if rank < 1 {
				shares[i] += 0.5 / perImage
			}
		}
	}
	_, res.MeanCI95 = meanInterval(shares)
	res.MeanRecall1 = (res.ImageToText.R1 + res.TextToImage.R1) / 2
}

func recallOf(ranks []int) Recall {
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
	r.CI95 = Wilson(r.Hits1, r.N)
	return r
}

// ranksHead is the header of a retrieval's rows.csv.
var ranksHead = []string{"index", "key", "rank", "caption_ranks"}

func ranksRecords(ranks []imageRanks) [][]string {
	records := [][]string{ranksHead}
	for _, r := range ranks {
		records = append(records, []string{strconv.Itoa(r.index), fault.Name(r.key), strconv.Itoa(r.image), spaced(r.captions)})
	}
	return records
}

// write writes rows.csv, report.html and, last, result.json.
func (res *RetrievalResult) write(dir string, ranks []imageRanks) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fault.File(dir, "a folder that can be written, as Options.Out", err)
	}
	if err := writeCSV(filepath.Join(dir, rowsFile), ranksRecords(ranks)); err != nil {
		return err
	}
	if err := writeRetrievalReport(dir, res, ranks); err != nil {
		return err
	}
	return atomicfile.WriteJSON(filepath.Join(dir, resultFile), res)
}

// bestRanks ranks all of found for every query. Among equal scores the lower
// index comes first.
func bestRanks(queries, found *features, right func(q int) []int) []int {
	ranks := make([]int, queries.n())
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			scores := make([]float32, found.n())
			for q := w; q < len(ranks); q += workers {
				v := queries.row(q)
				for i := range scores {
					scores[i] = float32(dot(v, found.row(i)))
				}
				ranks[q] = bestRank(scores, right(q))
			}
		})
	}
	wg.Wait()
	return ranks
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
			Sentences                 []struct{ Raw *string }
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
	if split != "test" {
		k.name += ofSplit + split
	}
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
			if s.Raw == nil {
				return nil, fault.Inputf("%s: image %s has a sentence without \"raw\"; give the file as Karpathy published it", fault.Name(file), fault.Name(im.FileName))
			}
			e.captions = append(e.captions, *s.Raw)
		}
		k.images = append(k.images, e)
	}
	if len(k.images) == 0 {
		return nil, fault.Inputf("%s: no images in the split %q; give another Options.Split", file, split)
	}
	return k, nil
}

// findPicture looks for a picture below dir: in sub, dir itself, the folders
// that the sets use, and more.
func findPicture(dir, sub, name string, more ...string) (string, error) {
	if name == "" || !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", fault.Inputf("%s: picture %.80q: want the name of a file in this folder", fault.Name(dir), name)
	}
	for _, d := range append([]string{sub, "", "images", "flickr30k-images", "flickr30k_images"}, more...) {
		for _, spelled := range []string{name, norm.NFC.String(name), norm.NFD.String(name)} { // macOS decomposes names
			p := filepath.Join(dir, d, spelled)
			if _, err := os.Stat(p); err == nil {
				return p, nil
			}
		}
	}
	return "", fault.Inputf("%s: image %s not found in %s, images or flickr30k-images", fault.Name(dir), fault.Name(name), fault.Name(filepath.Join(".", sub)))
}

func (k *karpathy) Len() int          { return len(k.images) }
func (k *karpathy) Classes() []string { return nil }
func (k *karpathy) Describe() string  { return k.name }
func (k *karpathy) Close() error      { return nil }

// Sizes implements dataset.Sized.
func (k *karpathy) Sizes(context.Context) (sizes []int64) {
	for _, im := range k.images {
		size := int64(-1)
		if st, err := os.Stat(im.path); err == nil {
			size = st.Size()
		}
		sizes = append(sizes, size)
	}
	return sizes
}

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
