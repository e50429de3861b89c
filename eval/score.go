package eval

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// images encodes the images todo and ranks the classes for each.
func (r *run) images(ctx context.Context, todo []int, bad []entry, j *journal) (map[int]entry, error) {
	out := make(map[int]entry, len(todo))
	if err := r.tooBad(bad); err != nil {
		return nil, err
	}
	if len(todo) == 0 {
		return out, nil
	}
	var c *classifier // of a set with classes
	if !r.w.fromFeatures() && r.head == nil {
		var err error
		if c, err = r.classifier(ctx); err != nil {
			return nil, err
		}
	}
	enc, err := r.encoder()
	if err != nil {
		return nil, err
	}
	meter := r.o.Meter("images", int64(len(todo)), "images")
	defer meter.Done()
	start := time.Now()
	pixels := 3 * r.pre.Size * r.pre.Size
	batch := min(r.o.Batch, len(todo))
	spent, err := load(ctx, r.data, todo, batch, pixels, r.o.Workers, func(b *batchOf) error {
		began := time.Now()
		features, err := enc.Images(ctx, b.pixels[:len(b.ids)*pixels], len(b.ids))
		r.seconds.Device += time.Since(began).Seconds()
		if err != nil {
			return err
		}
		entries, err := r.rank(b, c, features)
		if err != nil {
			return err
		}
		if err := r.readTexts(ctx, enc, entries); err != nil {
			return err
		}
		if err := j.append(entries); err != nil {
			return err
		}
		for _, e := range entries {
			out[e.Index] = e
			if e.Bad != "" {
				bad = append(bad, e)
			}
		}
		meter.Add(int64(len(entries)))
		return r.tooBad(bad)
	})
	r.seconds.Decode, r.seconds.Wait = spent.decode, spent.wait
	r.seconds.Images = time.Since(start).Seconds()
	r.seen = len(todo)
	return out, err
}

// tooBad fails the run when more images than MaxBad do not decode.
func (r *run) tooBad(bad []entry) error {
	if len(bad) <= r.o.MaxBad {
		return nil
	}
	return fault.Inputf("%s: too many images do not decode (%d, Options.MaxBad allows %d); the first is %s: %s", r.o.Data, len(bad), r.o.MaxBad, bad[0].Key, bad[0].Bad)
}

// rank turns a batch's features into entries, on all cores.
func (r *run) rank(b *batchOf, c *classifier, features []float32) ([]entry, error) {
	out := make([]entry, len(b.ids))
	errs := make([]error, len(b.ids))
	var wg sync.WaitGroup
	workers := min(r.o.Workers, len(b.ids))
	for w := range workers {
		wg.Go(func() {
			dim := r.cfg.EmbedDim
			logits := make([]float32, len(r.w.names))
			for i := w; i < len(b.ids); i += workers {
				out[i], errs[i] = r.entry(b, i, c, features[i*dim:(i+1)*dim], logits)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r *run) entry(b *batchOf, i int, c *classifier, feature, logits []float32) (entry, error) {
	s := b.got[i]
	e := entry{row: row{Index: b.ids[i], Key: s.Key}}
	if err := r.labels(s, &e); err != nil {
		return e, err
	}
	if b.bad[i] != nil {
		e.Bad = fault.Line(b.bad[i])
		return e, nil
	}
	if !normalize(feature) {
		return e, fault.Inputf("%s: the vision tower's output is zero or not finite; check the weights, or use Options.DType fp32", s.Key)
	}
	if r.head != nil {
		r.head.answer(&e.row, feature)
		r.see(&e, func(class int) float64 { return r.head.logit(class, feature) })
		return e, nil
	}
	if c == nil {
		e.Found = &found{Image: slices.Clone(feature), Captions: s.Captions, Questions: s.Questions}
		return e, nil
	}
	c.logits(logits, feature)
	e.rank(logits)
	r.see(&e, func(class int) float64 { return float64(logits[class]) })
	if r.w.kind == dataset.MultiLabel {
		e.Scores = slices.Clone(logits)
	}
	return e, nil
}

// labels fills in the true labels of a sample.
func (r *run) labels(s sample, e *entry) (err error) {
	switch {
	case r.w.kind == dataset.MultiLabel:
		e.Label = -1
		e.Meta, err = r.several(s)
		return err
	case r.w.kind == retrieving && len(s.Captions) == 0:
		return fault.Inputf("%s: has no caption; retrieval needs one per image%s", fault.Name(s.Key), s.because())
	case r.w.fromFeatures():
		return nil
	}
	if g := r.w.group; g != nil {
		if g.Column >= len(s.Meta) || s.Meta[g.Column] < 0 {
			return fault.Inputf("%s: %s has the metadata %v; want its %s (0 or more) as number %d of a .npy member beside it", r.o.Data, fault.Name(s.Key), s.Meta, g.Name, g.Column)
		}
		e.Meta = s.Meta
	}
	e.Label, err = r.label(s)
	return err
}

// several lists the classes of an image that may have more than one.
func (r *run) several(s sample) (classes []int, err error) {
	if len(s.Meta) != len(r.w.names) {
		return nil, fault.Inputf("%s: %s has %d labels for %d classes; want a .npy member with 0 or 1 for each class", r.o.Data, fault.Name(s.Key), len(s.Meta), len(r.w.names))
	}
	for c, yes := range s.Meta {
		switch yes {
		case 1:
			classes = append(classes, c)
		case 0:
		default:
			return nil, fault.Inputf("%s: %s has %d for class %d; want 0 or 1", r.o.Data, fault.Name(s.Key), yes, c)
		}
	}
	return classes, nil
}

// classifier builds the class matrix, or takes it from the cache.
func (r *run) classifier(ctx context.Context) (*classifier, error) {
	start := time.Now()
	defer func() { r.seconds.Classifier = time.Since(start).Seconds() - r.seconds.Load }()
	if len(r.o.Classifiers) > 0 {
		return meanClassifier(r.o.Classifiers, r.cfg.EmbedDim, len(r.w.names))
	}
	tok, err := r.tokenizer(ctx)
	if err != nil {
		return nil, err
	}
	parts := append([]string{"classifier 1", r.model.SHA256, string(r.cfg.JSON()), r.o.DType, r.arithmetic}, r.w.key()...)
	parts = append(parts, r.tokens(tok)...)
	key := contentKey(parts...)
	return cachedClassifier(cacheFile(r.o.Cache, key), key, r.cfg.EmbedDim, len(r.w.names), r.o.Log, func(part partial) (*classifier, error) {
		enc, err := r.encoder()
		if err != nil {
			return nil, err
		}
		meter := r.o.Meter("classes", int64(r.w.count()), "prompts")
		defer meter.Done()
		return buildClassifier(ctx, enc, tok, r.w, r.texts, meter, part)
	})
}

// tokens tell a tokenizer from others by what it makes of the prompts, or by its
// file: that lies beside the weights and may be another one tomorrow. CLIP's own is
// none.
func (r *run) tokens(tok checkpoint.Tokenizer) (parts []string) {
	if _, clip := tok.(*bpe.Tokenizer); clip {
		return nil
	}
	parts = append(parts, "tokens")
	if file, ok := tok.(interface{ Key() string }); ok && r.w.fromFeatures() {
		return append(parts, file.Key()) // the texts come with the pictures
	}
	for _, name := range r.w.names {
		for _, text := range r.w.texts(name) {
			parts = append(parts, fmt.Sprint(tok.Encode(text)))
		}
	}
	return parts
}

// found is what a set that is scored from features keeps of an image: its
// feature, and those of the texts that came with it.
type found struct {
	Image     vector     `json:"v"`
	Captions  []string   `json:"c,omitempty"`
	Questions []question `json:"q,omitempty"`
	Texts     vector     `json:"t,omitempty"` // [texts,dim], of the captions or of the questions' texts
}

// texts are those that have a feature each.
func (f *found) texts() []string {
	if len(f.Questions) == 0 {
		return f.Captions
	}
	var out []string
	for _, q := range f.Questions {
		out = append(out, q.Texts...)
	}
	return out
}

// text is the feature of text i.
func (f *found) text(i int) []float32 {
	dim := len(f.Image)
	return f.Texts[i*dim : (i+1)*dim]
}

// whole says whether the features are all there, dim values each.
func (f *found) whole(dim int) bool {
	return f != nil && len(f.Image) == dim && len(f.Texts) == dim*len(f.texts())
}

// readTexts encodes the texts of entries.
func (r *run) readTexts(ctx context.Context, enc encoder, entries []entry) error {
	type place struct{ entry, text int }
	var places []place
	for i := range entries {
		f := entries[i].Found
		if f == nil {
			continue
		}
		n := len(f.texts())
		f.Texts = make(vector, n*len(f.Image))
		for t := range n {
			places = append(places, place{i, t})
		}
	}
	if len(places) == 0 {
		return nil
	}
	width := enc.Config().Text.ContextLength
	tok, err := r.tokenizer(ctx)
	if err != nil {
		return err
	}
	for lo := 0; lo < len(places); lo += r.texts {
		part := places[lo:min(lo+r.texts, len(places))]
		tokens := make([]int32, len(part)*width)
		for i, p := range part {
			tok.Tokens(tokens[i*width:(i+1)*width], entries[p.entry].Found.texts()[p.text], width)
		}
		rows, err := enc.Texts(ctx, tokens, len(part))
		if err != nil {
			return err
		}
		for i, p := range part {
			f := entries[p.entry].Found
			v := f.text(p.text)
			if copy(v, rows[i*len(v):]); !normalize(v) {
				return fault.Inputf("text %.80q: the text tower's output is zero or not finite; check the weights, or use Options.DType fp32", f.texts()[p.text])
			}
		}
	}
	return nil
}
