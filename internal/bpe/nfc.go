package bpe

import (
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// nfc is Unicode's NFC. So is package norm's, except that it puts U+034F into
// runs of more than 30 marks.
func nfc(s string) string {
	const joiner = "\u034f"
	out := norm.NFC.String(s)
	if strings.Count(out, joiner) == strings.Count(s, joiner) {
		return out
	}
	var all []rune
	class := func(r rune) uint8 { return norm.NFD.PropertiesString(string(r)).CCC() }
	for _, r := range s {
		if d := norm.NFD.PropertiesString(string(r)).Decomposition(); d != nil {
			all = append(all, []rune(string(d))...)
		} else {
			all = append(all, []rune(norm.NFD.String(string(r)))...) // Hangul
		}
	}
	for lo := 0; lo < len(all); lo++ {
		hi := lo
		for hi < len(all) && class(all[hi]) != 0 {
			hi++
		}
		slices.SortStableFunc(all[lo:hi], func(a, b rune) int { return int(class(a)) - int(class(b)) })
		lo = hi
	}
	composed := all[:0:0]
	starter, last := -1, uint8(0) // place of the last starter, class of what came after it
	for _, r := range all {
		c := class(r)
		if starter >= 0 && (last < c || starter == len(composed)-1) {
			pair := norm.NFC.String(string(composed[starter]) + string(r))
			if utf8.RuneCountInString(pair) == 1 {
				composed[starter], _ = utf8.DecodeRuneInString(pair)
				continue
			}
		}
		if last = c; c == 0 {
			starter = len(composed)
		}
		composed = append(composed, r)
	}
	return string(composed)
}
