package bpe

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean is what CLIP does before it splits a text: ftfy.fix_text, HTML entities
// decoded twice, white space folded, Python's lower case.
func clean(s string) string {
	if plain(s) {
		return lowerFolded(s)
	}
	s = fixText(strings.ToValidUTF8(s, "\ufffd"))
	s = unescape(unescape(s))
	return lower(strings.Join(strings.FieldsFunc(s, isSpace), " "))
}

// plain reports that s is ASCII that no fix changes.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c == '&' || c < ' ' && c != '\t' && c != '\n' || c == 0x7f {
			return false
		}
	}
	return true
}

// lowerFolded is lower case with white space folded, for plain text.
func lowerFolded(s string) string {
	// Most texts need nothing done.
	done := len(s) == 0 || s[0] > ' ' && s[len(s)-1] > ' '
	for i := 0; done && i < len(s); i++ {
		c := s[i]
		done = c >= ' ' && (c < 'A' || c > 'Z') && (c != ' ' || s[i-1] != ' ')
	}
	if done {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		switch {
		case c > ' ':
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			out = append(out, c)
		case len(out) > 0 && out[len(out)-1] != ' ':
			out = append(out, ' ')
		}
	}
	if len(out) > 0 && out[len(out)-1] == ' ' {
		out = out[:len(out)-1]
	}
	return string(out)
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}

// lower is Python's str.lower: final sigma and the dotted capital I have rules
// of their own.
func lower(s string) string {
	if !strings.ContainsAny(s, "Σİ") {
		return strings.ToLower(s)
	}
	in := []rune(s)
	out := make([]rune, 0, len(in)+1)
	for i, r := range in {
		switch {
		case r == 'İ':
			out = append(out, 'i', '\u0307')
		case r == 'Σ' && finalSigma(in, i):
			out = append(out, 'ς')
		default:
			out = append(out, unicode.ToLower(r))
		}
	}
	return string(out)
}

// finalSigma: a cased letter before and none after, ignoring those that case
// ignores (Unicode's Final_Sigma).
func finalSigma(s []rune, i int) bool {
	before := i - 1
	for before >= 0 && caseIgnorable(s[before]) {
		before--
	}
	after := i + 1
	for after < len(s) && caseIgnorable(s[after]) {
		after++
	}
	return before >= 0 && cased(s[before]) && (after == len(s) || !cased(s[after]))
}

func cased(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Uppercase, unicode.Other_Lowercase)
}

func caseIgnorable(r rune) bool {
	return unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk) || strings.ContainsRune(wordBreakIgnorable, r)
}

// wordBreakIgnorable are the characters of word break class MidLetter,
// MidNumLet and Single_Quote.
const wordBreakIgnorable = "'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a"

// Cleaner is what OpenCLIP calls a way of cleaning a text before it is split:
// lower (CLIP's), whitespace (the same without lower case) or canonicalize
// (without punctuation too); siglip is what transformers' SiglipTokenizer does.
// It is nil for other names.
func Cleaner(name string) func(string) string {
	return map[string]func(string) string{"lower": clean, "whitespace": whitespace, "canonicalize": canonicalize, "siglip": siglip}[name]
}

// fixed is ftfy.fix_text with HTML entities decoded twice.
func fixed(s string) string {
	if plain(s) {
		return s
	}
	return unescape(unescape(fixText(strings.ToValidUTF8(s, "\ufffd"))))
}

func whitespace(s string) string {
	return strings.Join(strings.FieldsFunc(fixed(s), isSpace), " ")
}

// siglip is lower case without ASCII punctuation, behind the mark of a word's
// beginning; that mark in the text is a space.
func siglip(s string) string {
	const mark = "▁"
	s = lower(mark + strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), mark, " "))
	s = strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z') {
			return -1
		}
		return r
	}, s)
	words := strings.FieldsFunc(s, isSpace)
	return strings.Join(words, " ")
}

// canonicalize is big_vision's, by way of OpenCLIP: ASCII punctuation goes, an
// underscore is a space.
func canonicalize(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '_':
			return ' '
		case r > ' ' && r < 0x7f && !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'):
			return -1
		}
		return r
	}, fixed(s))
	return strings.Join(strings.FieldsFunc(lower(s), isSpace), " ")
}
