package eval

import (
	"context"

	"github.com/evatool/evatool/internal/fault"
)

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
				return fault.Inputf("text %.80q: the text tower gives no finite vector; check the weights, or Options.DType fp32", f.texts()[p.text])
			}
		}
	}
	return nil
}
