package bpe

import (
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// fixText is ftfy.fix_text with its default options, line by line.
func fixText(s string) string {
	var out strings.Builder
	entities := true // until a "<" shows that the text is HTML itself
	for line := range strings.Lines(s) {
		for line != "" {
			segment := firstRunes(line, maxSegment)
			line = line[len(segment):]
			entities = entities && !strings.Contains(segment, "<")
			out.WriteString(fixSegment(segment, entities))
		}
	}
	return out.String()
}

// maxSegment is how many characters ftfy looks at together.
const maxSegment = 1_000_000

func firstRunes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

func fixSegment(s string, entities bool) string {
	if !fixable(s, entities) {
		return s
	}
	return fixAll(s, entities)
}

// fixAll repeats the steps until they change nothing.
func fixAll(s string, entities bool) string {
	for range maxRounds {
		before := s
		if entities {
			s = unescapeStrict(s)
		}
		s = fixEncoding(s)
		s, _ = controlsTo1252(s, false)
		s = simple().Replace(s)
		s = lineBreaks.Replace(s)
		s = terminalEscape.ReplaceAllString(s, "")
		s = nfc(removeControls(s))
		if s == before {
			break
		}
	}
	return s
}

// fixable is false for text that no step changes, as one pass tells.
func fixable(s string, entities bool) bool {
	clues, last := clues(), uint8(0)
	for _, r := range s {
		if r == '&' && entities {
			return true
		}
		clue := clues.of(r)
		if clue&(alone|changed) != 0 || clue != 0 && last != 0 && (clue|last)&strange != 0 {
			return true
		}
		last = clue
	}
	return !norm.NFC.IsNormalString(s)
}

// simple replaces ligatures, then full and half width forms, then curly quotes;
// none of them yields a character of a later kind but "ʼ".
var simple = sync.OnceValue(func() *strings.Replacer { return strings.NewReplacer(simplePairs()...) })

func simplePairs() []string {
	pairs := []string{
		"Ĳ", "IJ", "ĳ", "ij", "ŉ", "'n", "Ǳ", "DZ", "ǲ", "Dz", "ǳ", "dz",
		"Ǆ", "DŽ", "ǅ", "Dž", "ǆ", "dž", "Ǉ", "LJ", "ǈ", "Lj", "ǉ", "lj", "Ǌ", "NJ", "ǋ", "Nj", "ǌ", "nj",
		"ﬀ", "ff", "ﬁ", "fi", "ﬂ", "fl", "ﬃ", "ffi", "ﬄ", "ffl", "ﬅ", "ſt", "ﬆ", "st",
		"\u3000", " ",
		"ʼ", "'", "‘", "'", "’", "'", "‚", "'", "‛", "'",
		"“", `"`, "”", `"`, "„", `"`, "‟", `"`,
	}
	for r := rune(0xff01); r < 0xfff0; r++ {
		if c := string(r); norm.NFKC.String(c) != c {
			pairs = append(pairs, c, norm.NFKC.String(c))
		}
	}
	return pairs
}

var lineBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u2028", "\n", "\u2029", "\n", "\u0085", "\n")

var terminalEscape = regexp.MustCompile(`\x1b\[[\p{Nd};]*[a-zA-Z]`)

// removeControls drops control characters that show nothing.
func removeControls(s string) string {
	return strings.Map(func(r rune) rune {
		if control(r) {
			return -1
		}
		return r
	}, s)
}

func control(r rune) bool {
	switch {
	case r < utf8.RuneSelf && (r < 0x09 || r == 0x0b || r >= 0x0e && r < 0x20 || r == 0x7f),
		r >= 0x206a && r <= 0x206f, r == 0xfeff, r >= 0xfff9 && r <= 0xfffc:
		return true
	}
	return false
}
