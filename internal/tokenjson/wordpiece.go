package tokenjson

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// wordPiece makes of each word the longest pieces of the vocabulary from the left,
// or the unknown token.
type wordPiece struct {
	vocab   map[string]int32
	unknown int32
	prefix  string
	longest int // characters of a word
}

func parseWordPiece(raw json.RawMessage) (model, map[string]int32, error) {
	var f struct {
		Unknown string           `json:"unk_token"`
		Prefix  string           `json:"continuing_subword_prefix"`
		Longest int              `json:"max_input_chars_per_word"`
		Vocab   map[string]int64 `json:"vocab"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, nil, err
	}
	if f.Longest < 1 {
		return nil, nil, fmt.Errorf("max_input_chars_per_word is %d; want 1 or more", f.Longest)
	}
	w := &wordPiece{vocab: map[string]int32{}, prefix: f.Prefix, longest: f.Longest}
	for text, id := range f.Vocab {
		if id < 0 || id > maxID {
			return nil, nil, fmt.Errorf("%.40q has the id %d; want 0 to %d", text, id, maxID)
		}
		w.vocab[text] = int32(id)
	}
	id, ok := w.vocab[f.Unknown]
	if !ok {
		return nil, nil, fmt.Errorf("unk_token %.40q is not in the vocabulary", f.Unknown)
	}
	w.unknown = id
	return w, w.vocab, nil
}

func (w *wordPiece) appendTokens(ids []int32, word string) []int32 {
	if utf8.RuneCountInString(word) > w.longest {
		return append(ids, w.unknown)
	}
	first := len(ids)
	for from := 0; from < len(word); {
		prefix := ""
		if from > 0 {
			prefix = w.prefix
		}
		to := len(word)
		for to > from {
			if id, ok := w.vocab[prefix+word[from:to]]; ok {
				ids = append(ids, id)
				break
			}
			_, size := utf8.DecodeLastRuneInString(word[from:to])
			to -= size
		}
		if to == from {
			return append(ids[:first], w.unknown)
		}
		from = to
	}
	return ids
}

// bertWords cuts at white space, and makes of every punctuation mark a piece.
type bertWords struct{}

func (bertWords) split(pieces []string, _ bool) (out []string) {
	for _, p := range pieces {
		from := 0
		add := func(to int) {
			if to > from {
				out = append(out, p[from:to])
			}
		}
		for i, r := range p {
			switch size := utf8.RuneLen(r); {
			case unicode.Is(unicode.White_Space, r):
				add(i)
				from = i + size
			case isBertPunct(r):
				add(i)
				out = append(out, p[i:i+size])
				from = i + size
			}
		}
		add(len(p))
	}
	return out
}

func isBertPunct(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= '!' && r <= '/' || r >= ':' && r <= '@' || r >= '[' && r <= '`' || r >= '{' && r <= '~'
	}
	return unicode.Is(bertPunct, r)
}

// bertNormalizer is the library's: control characters go, white space becomes
// blanks, Chinese characters become words, accents go, capitals become lower case.
type bertNormalizer struct {
	clean, chinese, accents, lower bool // accents: they go
}

func parseBertNormalizer(raw json.RawMessage) (normalizer, error) {
	var f struct {
		Clean     bool  `json:"clean_text"`
		Chinese   bool  `json:"handle_chinese_chars"`
		Accents   *bool `json:"strip_accents"`
		Lowercase bool  `json:"lowercase"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	b := bertNormalizer{f.Clean, f.Chinese, f.Lowercase, f.Lowercase}
	if f.Accents != nil {
		b.accents = *f.Accents
	}
	return b.normalize, nil
}

func (n bertNormalizer) normalize(text string) string {
	var b strings.Builder
	for _, r := range text {
		if n.clean {
			switch {
			case r == 0, r == 0xfffd:
				continue
			case r == '\t', r == '\n', r == '\r':
				r = ' '
			case unicode.Is(bertControl, r):
				continue
			case unicode.Is(unicode.White_Space, r):
				r = ' '
			}
		}
		if n.chinese && isChinese(r) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(r)
	}
	text = b.String()
	if n.accents {
		text = strings.Map(func(r rune) rune {
			if unicode.Is(bertMark, r) {
				return -1
			}
			return r
		}, norm.NFD.String(text))
	}
	if n.lower {
		text = bertLower(text)
	}
	return text
}

// isChinese is the library's test for a Chinese character, its slip in the range
// of extension E included.
func isChinese(r rune) bool {
	return r >= 0x4e00 && r <= 0x9fff || r >= 0x3400 && r <= 0x4dbf || r >= 0x20000 && r <= 0x2a6df || r >= 0x2a700 && r <= 0x2b81f ||
		r >= 0x2b920 && r <= 0x2ceaf || r >= 0xf900 && r <= 0xfaff || r >= 0x2f800 && r <= 0x2fa1f
}

// newerLower are the capitals of Unicode 16 and 17 and how far their small letters
// are, which Go does not know yet.
var newerLower = []struct{ from, to, by rune }{
	{0x1c89, 0x1c89, 1}, {0xa7cb, 0xa7cb, 0x264 - 0xa7cb}, {0xa7cc, 0xa7cc, 1}, {0xa7ce, 0xa7ce, 1}, {0xa7d2, 0xa7d2, 1}, {0xa7d4, 0xa7d4, 1},
	{0xa7da, 0xa7da, 1}, {0xa7dc, 0xa7dc, 0x19b - 0xa7dc}, {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 27},
}

// bertLower is lower with those.
func bertLower(text string) string {
	return strings.Map(func(r rune) rune {
		for _, n := range newerLower {
			if r >= n.from && r <= n.to {
				return r + n.by
			}
		}
		return r
	}, lower(text))
}
