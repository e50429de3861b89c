package tokenjson

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// added are tokens that are looked for in a text, by their first byte, the
// longest first.
type added struct {
	by [256][]pattern
}

type pattern struct {
	text  string
	token addedToken
}

func (a *added) add(text string, t addedToken) {
	a.by[text[0]] = append(a.by[text[0]], pattern{text, t})
}

func (a *added) sort() {
	for _, list := range a.by {
		slices.SortStableFunc(list, func(x, y pattern) int { return cmp.Compare(len(y.text), len(x.text)) })
	}
}

// cut calls f with the tokens in text and with what is between them (id -1) and
// where that begins.
func (a *added) cut(text string, f func(id int32, part string, at int)) {
	from := 0
	for at := 0; at < len(text); {
		i := slices.IndexFunc(a.by[text[at]], func(p pattern) bool { return strings.HasPrefix(text[at:], p.text) })
		if i < 0 {
			at++
			continue
		}
		p := a.by[text[at]][i]
		start, stop := at, at+len(p.text)
		at = stop
		if p.token.SingleWord && (wordAtEnd(text[:start]) || wordAtStart(text[stop:])) {
			continue
		}
		if p.token.LStrip {
			start = max(len(strings.TrimRightFunc(text[:start], unicode.IsSpace)), from)
		}
		if p.token.RStrip {
			stop = len(text) - len(strings.TrimLeftFunc(text[stop:], unicode.IsSpace))
		}
		if start >= stop { // white space that the one before has taken
			continue
		}
		if from < start {
			f(-1, text[from:start], from)
		}
		f(int32(p.token.ID), "", start)
		from = stop
	}
	if from < len(text) {
		f(-1, text[from:], from)
	}
}

func wordAtEnd(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func wordAtStart(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// isWord is \w of Rust's regular expressions.
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}

func validUTF8(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
