package bpe

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Classes of characters in CLIP's pattern
//
//	<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+
const (
	letter = iota
	number
	space
	other
)

var asciiClass = func() (t [utf8.RuneSelf]uint8) {
	for i := range t {
		t[i] = slowClass(rune(i))
	}
	return t
}()

func class(r rune) uint8 {
	if r < utf8.RuneSelf {
		return asciiClass[r]
	}
	return slowClass(r)
}

// ypogegrammeni is a mark whose upper case is a letter: when case is ignored it
// is neither in the class of letters nor outside of it, and no part of the
// pattern matches.
const ypogegrammeni = '\u0345'

func slowClass(r rune) uint8 {
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case isSpace(r), r == ypogegrammeni:
		return space
	}
	return other
}

// firstWord is the length of the first match of the pattern in cleaned text, or
// with skip of what no part of the pattern matches.
func firstWord(s string) (n int, skip bool) {
	switch s[0] {
	case '<':
		for _, special := range []string{"<start_of_text>", "<end_of_text>"} {
			if n := foldedPrefix(s, special); n > 0 {
				return n, false
			}
		}
	case '\'':
		for _, suffix := range []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
			if n := foldedPrefix(s, suffix); n > 0 {
				return n, false
			}
		}
	}
	first, n := utf8.DecodeRuneInString(s)
	c := class(first)
	if c == number || c == space {
		return n, c == space
	}
	for n < len(s) {
		r, size := rune(s[n]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[n:])
		}
		if class(r) != c {
			break
		}
		n += size
	}
	return n, false
}

// longS is the one character that lower-casing keeps but case-insensitive
// matching takes for an ASCII letter.
const longS = "ſ"

// foldedPrefix is the length of prefix at the start of s with "ſ" taken for
// "s", 0 when it is not there.
func foldedPrefix(s, prefix string) int {
	n := 0
	for i := range len(prefix) {
		switch {
		case n < len(s) && s[n] == prefix[i]:
			n++
		case prefix[i] == 's' && strings.HasPrefix(s[n:], longS):
			n += len(longS)
		default:
			return 0
		}
	}
	return n
}
