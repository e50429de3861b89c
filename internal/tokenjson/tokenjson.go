// Package tokenjson is the tokenizer of a tokenizer.json, the file of Hugging
// Face's tokenizers library: WordPiece of BERT's kind, BPE of bytes as RoBERTa has
// it, Unigram and BPE with the normalizers and pre-tokenizers that sentencepiece's
// models become there. The ids equal that library's. What it does not know is an
// error, never ignored.
package tokenjson

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// MaxFile is more than any published tokenizer.json takes, in bytes.
const MaxFile = 128 << 20

// maxID bounds the ids of tokens.
const maxID = 1 << 24

// Tokenizer turns text into token ids. It may be used from many goroutines.
type Tokenizer struct {
	clean     func(string) string
	pad       int32
	blank     int32 // becomes 0 in Tokens; -1: none
	added     added // found in the text as it is
	normal    added // found in the normalised text
	normalize []normalizer
	split     []splitter
	model     model
	before    []int32 // of the post-processor
	after     []int32
	largest   int32
	whole     bool // sentencepiece's way
	key       string
}

// Key is equal for equal files that are read alike: a hash of the file and of the
// options without Clean.
func (t *Tokenizer) Key() string { return t.key }

// model cuts a piece of text into tokens.
type model interface {
	appendTokens(ids []int32, piece string) []int32
}

// Options say what a tokenizer.json leaves open.
type Options struct {
	// Pad is the token that fills the context, a name such as </s> or <pad>.
	Pad string
	// Blank replaces the last of the tokens around a text by 0 wherever it occurs:
	// OpenCLIP's strip_sep_token.
	Blank bool
	// Clean is applied to a text first; nil: nothing.
	Clean func(string) string
	// Around are the names of the tokens before and after a text; nil: those of the
	// file's post-processor.
	Around *[2][]string
	// Lower lower-cases texts before the file's normalizer.
	Lower bool
	// ExactScores takes Unigram's scores as they are written; without it they are
	// rounded as the library reads them, which decides between paths of tokens that
	// are equal but for that.
	ExactScores bool
	// SentencePiece is for a file whose text sentencepiece itself would cut, not the
	// library: the whole, with the longest pieces normalized and scores added in
	// single precision. What the file has between normalizer and model does not count.
	SentencePiece bool
}

// Parse reads a tokenizer.json.
func Parse(data []byte, o Options) (*Tokenizer, error) {
	t, err := parse(data, o)
	if err != nil {
		return nil, fault.As(fault.Input, err)
	}
	around := ""
	if o.Around != nil {
		around = fmt.Sprintf("%q", *o.Around)
	}
	t.key = fmt.Sprintf("%x %q %s %t %t %t %t", sha256.Sum256(data), o.Pad, around, o.Blank, o.Lower, o.ExactScores, o.SentencePiece)
	return t, nil
}

type object struct {
	Type string `json:"type"`
	raw  json.RawMessage
}

func (o *object) UnmarshalJSON(b []byte) error {
	var t struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	o.Type, o.raw = t.Type, slices.Clone(b)
	return nil
}

// addedToken is one that is found before the model sees the text.
type addedToken struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

func parse(data []byte, o Options) (*Tokenizer, error) {
	var f struct {
		Added         []addedToken `json:"added_tokens"`
		Normalizer    *object      `json:"normalizer"`
		PreTokenizer  *object      `json:"pre_tokenizer"`
		PostProcessor *object      `json:"post_processor"`
		Model         *object      `json:"model"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("not a tokenizer.json: %w", err)
	}
	if f.Model == nil {
		return nil, fmt.Errorf("not a tokenizer.json: it has no model")
	}
	t := &Tokenizer{clean: o.Clean, blank: -1, whole: o.SentencePiece}
	var err error
	if t.normalize, err = o.normalizers(f.Normalizer, 0); err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	if o.Lower {
		t.normalize = append([]normalizer{lower}, t.normalize...)
	}
	if t.split, err = parseSplitter(f.PreTokenizer, 0); err != nil {
		return nil, fmt.Errorf("pre_tokenizer: %w", err)
	}
	var ids map[string]int32
	if t.model, ids, err = parseModel(f.Model, o); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	for _, id := range ids {
		t.largest = max(t.largest, id)
	}
	named := map[string]int32{}
	for _, a := range f.Added {
		if a.ID < 0 || a.ID > maxID {
			return nil, fmt.Errorf("added_tokens: %.40q has the id %d; want 0 to %d", a.Content, a.ID, maxID)
		}
		if a.Content == "" {
			continue
		}
		named[a.Content] = int32(a.ID)
		t.largest = max(t.largest, int32(a.ID))
		if a.Normalized {
			content := t.normalized(a.Content)
			if content == "" { // which would be found everywhere
				return nil, fmt.Errorf("added_tokens: the normalizer leaves nothing of %.40q; set its normalized to false", a.Content)
			}
			t.normal.add(content, a)
		} else {
			t.added.add(a.Content, a)
		}
	}
	t.added.sort()
	t.normal.sort()
	if t.before, t.after, err = parsePost(f.PostProcessor); err != nil {
		return nil, fmt.Errorf("post_processor: %w", err)
	}
	token := func(name string) (id int32, ok bool) {
		if id, ok = named[name]; !ok {
			id, ok = ids[name]
		}
		return id, ok
	}
	if o.Around != nil {
		for i, dst := range []*[]int32{&t.before, &t.after} {
			*dst = nil
			for _, name := range o.Around[i] {
				id, ok := token(name)
				if !ok {
					return nil, fmt.Errorf("the special token %.40q is not in the vocabulary", name)
				}
				*dst = append(*dst, id)
			}
		}
	}
	for _, id := range slices.Concat(t.before, t.after) {
		t.largest = max(t.largest, id)
	}
	if o.Blank {
		if len(t.after) != 1 {
			return nil, fmt.Errorf("post_processor: %d tokens after a text; want one, to be blanked", len(t.after))
		}
		t.blank = t.after[0]
	}
	if o.Pad != "" {
		id, ok := token(o.Pad)
		if !ok {
			return nil, fmt.Errorf("the padding token %.40q is not in the vocabulary", o.Pad)
		}
		t.pad = id
	}
	return t, nil
}

// parsePost reads a TemplateProcessing, BERT's or RoBERTa's: the tokens before and after a text.
func parsePost(o *object) (before, after []int32, err error) {
	if o == nil {
		return nil, nil, nil
	}
	switch o.Type {
	case "TemplateProcessing":
	case "BertProcessing", "RobertaProcessing":
		return parseBertPost(o.raw)
	default:
		return nil, nil, fmt.Errorf("%.40q is not supported; TemplateProcessing, BertProcessing and RobertaProcessing are", o.Type)
	}
	var p struct {
		Single []map[string]struct {
			ID string `json:"id"`
		} `json:"single"`
		Special map[string]struct {
			IDs []int64 `json:"ids"`
		} `json:"special_tokens"`
	}
	if err := json.Unmarshal(o.raw, &p); err != nil {
		return nil, nil, err
	}
	seen := 0
	for _, part := range p.Single {
		for kind, v := range part {
			switch {
			case kind == "Sequence" && v.ID == "A":
				seen++
			case kind == "SpecialToken":
				s, ok := p.Special[v.ID]
				if !ok {
					return nil, nil, fmt.Errorf("%.40q is not among special_tokens", v.ID)
				}
				for _, id := range s.IDs {
					if id < 0 || id > maxID {
						return nil, nil, fmt.Errorf("%.40q has the id %d; want 0 to %d", v.ID, id, maxID)
					}
					if seen == 0 {
						before = append(before, int32(id))
					} else {
						after = append(after, int32(id))
					}
				}
			default:
				return nil, nil, fmt.Errorf("%.40q in single is not supported", kind)
			}
		}
	}
	if seen != 1 {
		return nil, nil, fmt.Errorf("single has %d texts; want one", seen)
	}
	return before, after, nil
}

// parseBertPost reads a BertProcessing or a RobertaProcessing: one token before and one after a text.
func parseBertPost(raw json.RawMessage) (before, after []int32, err error) {
	var p struct {
		CLS, Sep bertToken
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, nil, err
	}
	for _, t := range []bertToken{p.CLS, p.Sep} {
		if t.text == "" || t.id < 0 || t.id > maxID {
			return nil, nil, fmt.Errorf("cls or sep is %.40q with the id %d; want a token and 0 to %d", t.text, t.id, maxID)
		}
	}
	return []int32{int32(p.CLS.id)}, []int32{int32(p.Sep.id)}, nil
}

// bertToken is a token and its id, ["[CLS]", 101].
type bertToken struct {
	text string
	id   int64
}

func (t *bertToken) UnmarshalJSON(b []byte) error {
	id := int64(-1)
	err := json.Unmarshal(b, &[]any{&t.text, &id})
	t.id = id
	return err
}

// Largest is the largest id that a text can have.
func (t *Tokenizer) Largest() int32 { return max(t.largest, t.pad) }

// Encode returns the ids of text with those that go around it, not padded and not
// truncated.
func (t *Tokenizer) Encode(text string) []int32 {
	return append(t.text(slices.Clone(t.before), text), t.after...)
}

// Tokens writes the ids of text into dst[:context]: its first ones where there
// are too many, with those that go around it, padded at the end.
func (t *Tokenizer) Tokens(dst []int32, text string, context int) {
	dst = dst[:context]
	ids := t.text(slices.Clone(t.before), text)
	ids = ids[:max(0, min(len(ids), context-len(t.after)))]
	ids = append(ids, t.after...)
	n := copy(dst, ids)
	for i := n; i < context; i++ {
		dst[i] = t.pad
	}
	for i, id := range dst {
		if id == t.blank {
			dst[i] = 0
		}
	}
}

func (t *Tokenizer) text(ids []int32, text string) []int32 {
	if t.clean != nil {
		text = t.clean(text)
	}
	text = validUTF8(text)
	if t.whole {
		return t.sentence(ids, text)
	}
	t.added.cut(text, func(id int32, part string, at int) {
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		t.normal.cut(t.normalized(part), func(id int32, piece string, in int) {
			if id >= 0 {
				ids = append(ids, id)
				return
			}
			pieces := []string{piece}
			first := at == 0 && in == 0
			for _, s := range t.split {
				pieces = s.split(pieces, first)
			}
			for _, p := range pieces {
				if p != "" {
					ids = t.model.appendTokens(ids, p)
				}
			}
		})
	})
	return ids
}

// sentence cuts text as sentencepiece does for transformers: whole, behind an
// unknown token's name, whose pieces are taken off again.
func (t *Tokenizer) sentence(ids []int32, text string) []int32 {
	const front, mark = "<unk>", "▁"
	words := strings.FieldsFunc(t.normalized(front+text), func(r rune) bool { return r == ' ' })
	all := t.model.appendTokens(nil, strings.Join(words, mark))
	return append(ids, all[min(len(all), len(t.model.appendTokens(nil, front))):]...)
}

func (t *Tokenizer) normalized(s string) string {
	for _, n := range t.normalize {
		s = n(s)
	}
	return s
}
