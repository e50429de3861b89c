package bpe

import (
	"html"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

var charref = regexp.MustCompile(`&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)`)

// unescape is Python's html.unescape.
func unescape(s string) string {
	if !strings.Contains(s, "&") {
		return s
	}
	return charref.ReplaceAllStringFunc(s, func(m string) string {
		if m[1] == '#' {
			return numeric(m[2:])
		}
		name := m[1:]
		if c, ok := entity(name); ok {
			return c
		}
		// The longest name without a semicolon that this begins with.
		runes := []rune(name)
		for n := len(runes) - 1; n > 1; n-- {
			if c, ok := entity(string(runes[:n])); ok {
				return c + string(runes[n:])
			}
		}
		return m
	})
}

// newer are the two names of HTML 5 that package html does not have.
var newer = map[string]string{"nGt;": "≫\u20d2", "nLt;": "≪\u20d2"}

// entity is the character of an HTML 5 name, written with its semicolon or, if
// the name may, without.
func entity(name string) (string, bool) {
	if c, ok := newer[name]; ok {
		return c, true
	}
	for i := range len(name) {
		if c := name[i]; c >= utf8.RuneSelf || c == ';' && i != len(name)-1 {
			return "", false
		}
	}
	c := html.UnescapeString("&" + name)
	if strings.HasPrefix(c, "&") && (len(c) > 1 || name == "") {
		return "", false
	}
	if !strings.HasSuffix(name, ";") {
		// Names without a semicolon are one Latin-1 character; anything longer
		// is a shorter name with its rest.
		return c, utf8.RuneCountInString(c) == 1
	}
	if strings.HasSuffix(c, ";") && name != "semi;" {
		return "", false // a name without semicolon, and the rest of this one
	}
	return c, true
}

// numeric decodes "1234;" or "x12ab;" as HTML 5 does.
func numeric(s string) string {
	s = strings.TrimSuffix(s, ";")
	base := 10
	if s[0] == 'x' || s[0] == 'X' {
		s, base = s[1:], 16
	}
	n, err := strconv.ParseUint(s, base, 64)
	switch {
	case err != nil || n > utf8.MaxRune || n >= 0xd800 && n <= 0xdfff || n == 0:
		return "\ufffd"
	case n == 0x0d:
		return "\r"
	case n >= 0x80 && n <= 0x9f:
		return string(windows1252[n-0x80])
	case n < 0x20 && n != 0x09 && n != 0x0a && n != 0x0c || n == 0x7f || n >= 0xfdd0 && n <= 0xfdef || n&0xfffe == 0xfffe:
		return ""
	}
	return string(rune(n))
}

// windows1252 are the characters of bytes 0x80..0x9f; the unused ones stay.
var windows1252 = []rune("€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ")

var reference = regexp.MustCompile(`&#?[0-9A-Za-z]{1,24};`)

var upperCase = cases.Upper(language.Und)

// unescapeStrict is ftfy's unescape_html: entities that end in a semicolon, and
// lower-case names written in capitals.
func unescapeStrict(s string) string {
	if !strings.Contains(s, "&") {
		return s
	}
	return reference.ReplaceAllStringFunc(s, func(m string) string {
		if m[1] == '#' {
			if out := unescape(m); !strings.Contains(out, ";") {
				return out
			}
			return m
		}
		if c, ok := entity(m[1:]); ok {
			return c
		}
		name := m[1:]
		if name == strings.ToUpper(name) && unescape(m) == m {
			if c, ok := entity(strings.ToLower(name)); ok {
				return upperCase.String(c)
			}
		}
		return m
	})
}
