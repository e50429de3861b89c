package tokenjson

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// byteLevel is the pre-tokenizer of GPT-2 and RoBERTa: words with the blank in
// front of them, whose bytes become characters that can be seen.
type byteLevel struct {
	prefix bool // a blank in front of what has none
	words  bool // else a piece stays whole
}

// contractions are pieces of their own, the first that fits.
var contractions = []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}

func (b byteLevel) split(pieces []string, _ bool) (out []string) {
	for _, p := range pieces {
		if b.prefix && p != "" && !strings.HasPrefix(p, " ") {
			p = " " + p
		}
		for p != "" {
			n := len(p)
			if b.words {
				n = byteWord(p)
			}
			out = append(out, visible(p[:n]))
			p = p[n:]
		}
	}
	return out
}

// byteWord is the length of the word that s begins with:
// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func byteWord(s string) int {
	for _, c := range contractions {
		if strings.HasPrefix(s, c) {
			return len(c)
		}
	}
	blank := 0
	if strings.HasPrefix(s, " ") {
		blank = 1
	}
	for _, kind := range []func(rune) bool{isLetter, isNumber, isSign} {
		if rest := strings.TrimLeftFunc(s[blank:], kind); len(rest) < len(s)-blank {
			return len(s) - len(rest)
		}
	}
	// White space, whose last belongs to the word that follows.
	n := len(s) - len(strings.TrimLeftFunc(s, unicode.IsSpace))
	if _, last := utf8.DecodeLastRuneInString(s[:n]); n < len(s) && last < n {
		n -= last
	}
	return n
}

func isLetter(r rune) bool { return unicode.IsLetter(r) || unicode.Is(newerLetters, r) }

func isNumber(r rune) bool { return unicode.IsNumber(r) || unicode.Is(newerNumbers, r) }

func isSign(r rune) bool { return !unicode.IsSpace(r) && !isLetter(r) && !isNumber(r) }

// visible has a character for every byte of s: its own in Latin-1 where that can
// be seen, else one of those that follow Latin-1.
func visible(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(byteRunes[s[i]])
	}
	return b.String()
}

var byteRunes = func() (runes [256]rune) {
	next := rune(256)
	for i := range runes {
		if r := rune(i); r >= '!' && r <= '~' || r >= '¡' && r <= '¬' || r >= '®' {
			runes[i] = r
		} else {
			runes[i] = next
			next++
		}
	}
	return runes
}()

// newerLetters and newerNumbers are what the library's Unicode 16 has beyond Go's
// 15, read off it character by character.
var newerLetters = &unicode.RangeTable{
	R16: []unicode.Range16{{0x1c89, 0x1c8a, 1}, {0xa7cb, 0xa7cd, 1}, {0xa7da, 0xa7dc, 1}},
	R32: []unicode.Range32{
		{0x105c0, 0x105f3, 1}, {0x10d4a, 0x10d65, 1}, {0x10d6f, 0x10d85, 1}, {0x10ec2, 0x10ec4, 1}, {0x11380, 0x11389, 1}, {0x1138b, 0x1138b, 1},
		{0x1138e, 0x1138e, 1}, {0x11390, 0x113b5, 1}, {0x113b7, 0x113b7, 1}, {0x113d1, 0x113d1, 1}, {0x113d3, 0x113d3, 1}, {0x11bc0, 0x11be0, 1},
		{0x13460, 0x143fa, 1}, {0x16100, 0x1611d, 1}, {0x16d40, 0x16d6c, 1}, {0x18cff, 0x18cff, 1}, {0x1e5d0, 0x1e5ed, 1}, {0x1e5f0, 0x1e5f0, 1},
		{0x2ebf0, 0x2ee5d, 1},
	},
}

var newerNumbers = &unicode.RangeTable{
	R32: []unicode.Range32{
		{0x10d40, 0x10d49, 1}, {0x116d0, 0x116e3, 1}, {0x11bf0, 0x11bf9, 1}, {0x16130, 0x16139, 1}, {0x16d70, 0x16d79, 1}, {0x1ccf0, 0x1ccf9, 1},
		{0x1e5f1, 0x1e5fa, 1},
	},
}
