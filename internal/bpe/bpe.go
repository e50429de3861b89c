// Package bpe is the CLIP tokenizer: text is cleaned (mojibake, HTML entities,
// white space, case), split into words, and each word into byte pairs. The
// result equals that of OpenAI's and OpenCLIP's tokenizers with ftfy installed.
package bpe

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// The special tokens and the number of tokens.
const (
	Start     = 49406
	End       = 49407
	VocabSize = 49408
)

// merges.txt.gz has the 48,894 merges of OpenAI's bpe_simple_vocab_16e6.txt
// (MIT) that CLIP uses, one "left right" per line, best first.
//
//go:embed merges.txt.gz
var mergesGz []byte

// Tokenizer turns text into token ids. It may be used from many goroutines.
type Tokenizer struct {
	v     *vocabulary
	cache [cacheSlots]atomic.Pointer[word]
	seed  maphash.Seed
}

// vocabulary numbers the tokens: 256 bytes, 256 bytes at the end of a word, the
// merges in their order, the two special ones.
type vocabulary struct {
	bytes [256]int32           // token of a byte; +256 at the end of a word
	rank  map[[2]int32]int32   // token that a pair becomes; less is earlier
	words map[string]([]int32) // the special tokens, which are not split
}

// word is a cached word: lower-case text in, tokens out.
type word struct {
	text string
	ids  []int32
}

const (
	cacheSlots  = 1 << 16
	cacheLength = 64 // longer words are not kept
)

var load = sync.OnceValue(func() *vocabulary {
	z, err := gzip.NewReader(bytes.NewReader(mergesGz))
	if err != nil {
		panic(fmt.Sprintf("merges.txt.gz: %v", err)) // embedded and tested
	}
	v := &vocabulary{rank: make(map[[2]int32]int32, VocabSize), words: map[string][]int32{
		"<start_of_text>": {Start},
		"<end_of_text>":   {End},
	}}
	ids := make(map[string]int32, VocabSize)
	for i, b := range byteOrder() {
		v.bytes[b] = int32(i)
		s := string(byteRune(b))
		ids[s], ids[s+"</w>"] = int32(i), int32(256+i)
	}
	next := int32(512)
	in := bufio.NewScanner(z)
	for in.Scan() {
		left, right, _ := strings.Cut(in.Text(), " ")
		v.rank[[2]int32{ids[left], ids[right]}] = next
		ids[left+right] = next
		next++
	}
	if in.Err() != nil || next != Start {
		panic(fmt.Sprintf("merges.txt.gz: %d tokens, %v", next, in.Err()))
	}
	return v
})

// byteOrder lists the bytes in the order of their tokens: those that Latin-1
// prints first.
func byteOrder() []byte {
	var printed, other []byte
	for b := range 256 {
		if prints(byte(b)) {
			printed = append(printed, byte(b))
		} else {
			other = append(other, byte(b))
		}
	}
	return append(printed, other...)
}

func prints(b byte) bool { return b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae }

// byteRune is the character that stands for a byte in the merges.
func byteRune(b byte) rune {
	if prints(b) {
		return rune(b)
	}
	n := rune(0)
	for c := range b {
		if !prints(c) {
			n++
		}
	}
	return 256 + n
}

// New returns the tokenizer with CLIP's vocabulary.
func New() *Tokenizer { return &Tokenizer{v: load(), seed: maphash.MakeSeed()} }

// Encode returns the token ids of text, start and end included, not padded and
// not truncated.
func (t *Tokenizer) Encode(text string) []int32 {
	return append(t.append(make([]int32, 1, 24), text, int(^uint(0)>>1)), End)
}

// Tokens writes the ids of text into dst[:context]: padded with 0, truncated
// with the end token last. context is at least 2.
func (t *Tokenizer) Tokens(dst []int32, text string, context int) {
	dst = dst[:context]
	ids := append(t.append(dst[:1:context], text, context), End)
	if len(ids) > context {
		ids = ids[:context]
		ids[context-1] = End
	}
	clear(dst[copy(dst, ids):])
}

// append writes Start to ids[0] and appends the tokens of text, at least limit
// in all if there are that many.
func (t *Tokenizer) append(ids []int32, text string, limit int) []int32 {
	ids[0] = Start
	text = clean(text)
	for text != "" && len(ids) < limit {
		n, skip := firstWord(text)
		if !skip {
			ids = t.appendWord(ids, text[:n])
		}
		text = text[n:]
	}
	return ids
}

func (t *Tokenizer) appendWord(ids []int32, s string) []int32 {
	if len(s) > cacheLength {
		return append(ids, t.v.split(s)...)
	}
	slot := &t.cache[maphash.String(t.seed, s)%cacheSlots]
	w := slot.Load()
	if w == nil || w.text != s {
		s = strings.Clone(s) // s is part of a longer text
		w = &word{s, t.v.split(s)}
		slot.Store(w)
	}
	return append(ids, w.ids...)
}

// split merges the bytes of a word: the pair of the lowest rank again and
// again, everywhere it occurs.
func (v *vocabulary) split(s string) []int32 {
	if ids, ok := v.words[s]; ok {
		return ids
	}
	ids := make([]int32, len(s))
	for i := range len(s) {
		ids[i] = v.bytes[s[i]]
	}
	ids[len(s)-1] += 256
	if len(ids) > cacheLength {
		return v.mergeLong(ids)
	}
	return v.merge(ids)
}

// merge scans the whole word for each merge, which is best for short words.
func (v *vocabulary) merge(ids []int32) []int32 {
	for len(ids) > 1 {
		best := int32(VocabSize)
		var pair [2]int32
		for i := range len(ids) - 1 {
			p := [2]int32{ids[i], ids[i+1]}
			if r, ok := v.rank[p]; ok && r < best {
				best, pair = r, p
			}
		}
		if best == VocabSize {
			break
		}
		out := ids[:0]
		for i := 0; i < len(ids); i++ {
			if i+1 < len(ids) && ids[i] == pair[0] && ids[i+1] == pair[1] {
				out = append(out, best)
				i++
			} else {
				out = append(out, ids[i])
			}
		}
		ids = out
	}
	return ids
}
