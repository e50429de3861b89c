package bpe

import (
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// The tables and the order of the repairs below are those of ftfy 6.3 (Robyn
// Speer, Apache-2.0): text that looks like UTF-8 decoded as something else is
// decoded again, correctly.

// categories are the characters that mojibake consists of, as the inside of a
// regular expression's class.
var categories = map[string]string{
	"common":            "\u00a0\u00ad´·–-―’…",
	"c1":                "\u0080-\u009f",
	"bad":               "¤¦¨ª¬¯¸ºƒˆˇ˘˛˜†‡‰⌐◊\ufffd",
	"law":               "§¶",
	"currency":          "¢£¥₧€",
	"start_punctuation": "¡©«¿΄΅‘‚“„•‹\uf8ff",
	"end_punctuation":   "®»˝”›™",
	"numeric":           "±-³µ¹¼-¾×÷⁄№∂∆∏∑√∞∩∫≈≠≡≤≥",
	"kaomoji":           "°Ò-ÖÙ-Üò-öø-üŌŐŪŲ",
	"upper_accented":    "À-ÑØÜÝĀĂĄĆČĎĐĒĖĘĚĞĢĪİĶĹĻĽŁŃŅŇŒŘŚŞŠŢŤŮŰŸŹŻŽҐ",
	"lower_accented":    "ß-ñüāăąćčďđēėęěğģīįķĺļľłœŕśşšťźżžґﬁﬂ",
	"upper_common":      "ÞΆΈ-ΊΌΎΏΑ-ΫЁ-Я",
	"lower_common":      "ά-ωа-џ",
	"box":               "│┌┐┘├┤┬┼═-╬▀▄█▌▐-▓",
}

// pythonSpace and pythonWord are \s and \w of a Python pattern, inside a class.
const (
	pythonSpace = `\t-\r\x1c-\x20\x{85}\p{Z}`
	pythonWord  = `\p{L}\p{N}_`
)

// unlikely are sequences of characters that text hardly has and mojibake does;
// <name> stands for a category, <…> may hold several.
var unlikely = []string{
	`[<c1>]`,
	`[<bad lower_accented upper_accented box start_punctuation end_punctuation currency numeric law>][<bad>]`,
	`[a-zA-Z][<lower_common upper_common>][<bad>]`,
	`[<bad>][<lower_accented upper_accented box start_punctuation end_punctuation currency numeric law>]`,
	`[<lower_accented lower_common box end_punctuation currency numeric>][<upper_accented>]`,
	`[<box end_punctuation currency numeric>][<lower_accented>]`,
	`[<lower_accented box end_punctuation>][<currency>]`,
	`[` + pythonSpace + `][<upper_accented>][<currency>]`,
	`[<upper_accented box>][<numeric law>]`,
	`[<lower_accented upper_accented box currency end_punctuation>][<start_punctuation>][<numeric>]`,
	`[<lower_accented upper_accented currency numeric box law>][<end_punctuation>][<start_punctuation>]`,
	`[<currency numeric box>][<start_punctuation>]`,
	`[a-z][<upper_accented>][<start_punctuation currency>]`,
	`[<box>][<kaomoji>]`,
	`[<lower_accented upper_accented currency numeric start_punctuation end_punctuation law>][<box>]`,
	`[<box>][<end_punctuation>]`,
	`[<lower_accented upper_accented>][<start_punctuation end_punctuation>][` + pythonWord + `]`,
	`[Œœ][^A-Za-z]`,
	`[<upper_accented>]°`,
	`[ÂÃÎÐ][€œŠš¢£Ÿž` + "\u00a0\u00ad" + `®©°·»<start_punctuation end_punctuation>–—´]`,
	`×[²³]`,
	`[ØÙ][<common currency bad numeric start_punctuation>ŸŠ®°µ»][ØÙ][<common currency bad numeric start_punctuation>ŸŠ®°µ»]`,
	`à[²µ¹¼½¾]`,
	`√[±∂†≠®™´≤≥¥µø]`,
	`≈[°¢]`,
	`‚Ä[ìîïòôúùû†°¢π]`,
	`‚[âó][àä°ê]`,
	`вЂ`,
	`[ВГРС][<c1 bad start_punctuation end_punctuation currency>°µ][ВГРС]`,
	`ГўВЂВ.[A-Za-z ]`,
	`Ã[` + "\u00a0" + `¡]`,
	`[a-z][` + pythonSpace + `]?[ÃÂ][ ]`,
	`^[ÃÂ][ ]`,
	`[a-z.,?!<end_punctuation>]Â[ <start_punctuation end_punctuation>]`,
	`β€[™` + "\u00a0" + `Ά` + "\u00ad" + `®°]`,
	`[ΒΓΞΟ][<c1 bad start_punctuation end_punctuation currency>°][ΒΓΞΟ]`,
	`ā€`,
}

var badness = sync.OnceValue(func() *regexp.Regexp {
	names := regexp.MustCompile(`<[a-z1_ ]+>`)
	return regexp.MustCompile(names.ReplaceAllStringFunc(strings.Join(unlikely, "|"), func(m string) string {
		out := ""
		for _, name := range strings.Fields(m[1 : len(m)-1]) {
			out += categories[name]
		}
		return out
	}))
})

// What a character means for the repairs.
const (
	alone   = 1 << iota // suspicious by itself
	strange             // suspicious beside a character of a category
	known               // in a category of letters
	changed             // replaced or dropped whatever stands beside it
)

// meanings are those of the characters below U+10000; others have none.
type meanings [1 << 16]uint8

func (m *meanings) of(r rune) uint8 {
	if r < rune(len(m)) {
		return m[r]
	}
	return 0
}

var clues = sync.OnceValue(func() *meanings {
	m := new(meanings)
	for name, chars := range categories {
		clue := uint8(strange)
		switch name {
		case "c1":
			clue = alone
		case "common", "kaomoji", "upper_common", "lower_common":
			clue = known
		}
		for r := range runesOf(chars) {
			m[r] |= clue
		}
	}
	for _, r := range "ŒœÂÃЂ" {
		m[r] |= alone
	}
	pairs := simplePairs()
	for i := 0; i < len(pairs); i += 2 {
		r, _ := utf8.DecodeRuneInString(pairs[i])
		m[r] |= changed
	}
	for r := range rune(len(m)) {
		if r >= 0x80 && r <= 0x9f || control(r) {
			m[r] |= changed
		}
	}
	for _, r := range "\x1b\r\u2028\u2029" {
		m[r] |= changed
	}
	return m
})

// runesOf expands the inside of a class.
func runesOf(class string) map[rune]bool {
	out := map[rune]bool{}
	in := []rune(class)
	for i := 0; i < len(in); i++ {
		if i+2 < len(in) && in[i+1] == '-' {
			for r := in[i]; r <= in[i+2]; r++ {
				out[r] = true
			}
			i += 2
			continue
		}
		out[in[i]] = true
	}
	return out
}

// suspicious is false for text that badness cannot match, which is most: every
// sequence above has a character that is alone, or two neighbours of the
// categories, one of them strange.
func suspicious(s string) bool {
	clues, last := clues(), uint8(0)
	for _, r := range s {
		clue := clues.of(r)
		if clue&alone != 0 || clue != 0 && last != 0 && (clue|last)&strange != 0 {
			return true
		}
		last = clue
	}
	return false
}

func isBad(s string) bool { return suspicious(s) && badness().MatchString(s) }

// codec is an encoding with one byte a character.
type codec struct {
	name   string
	sloppy bool // unused bytes are characters of Latin-1, byte 0x1a is U+FFFD
	encode map[rune]byte
}

func newCodec(name string, table *charmap.Charmap, sloppy bool) codec {
	c := codec{name, sloppy, map[rune]byte{}}
	for b := 0x80; b < 0x100; b++ {
		r := rune(b)
		if table != nil {
			r = table.DecodeByte(byte(b))
		}
		if r == utf8.RuneError {
			r = rune(b)
		}
		c.encode[r] = byte(b)
	}
	for b := range 0x80 {
		c.encode[rune(b)] = byte(b)
	}
	if sloppy {
		delete(c.encode, 0x1a)
		c.encode[utf8.RuneError] = 0x1a
	}
	return c
}

// codecs are the encodings that mojibake comes from, likeliest first.
var codecs = sync.OnceValue(func() []codec {
	return []codec{
		newCodec("latin-1", nil, false),
		newCodec("windows-1252", charmap.Windows1252, true),
		newCodec("windows-1251", charmap.Windows1251, true),
		newCodec("windows-1250", charmap.Windows1250, true),
		newCodec("windows-1253", charmap.Windows1253, true),
		newCodec("windows-1254", charmap.Windows1254, true),
		newCodec("windows-1257", charmap.Windows1257, true),
		newCodec("iso-8859-2", charmap.ISO8859_2, false),
		newCodec("macroman", charmap.Macintosh, false),
		newCodec("cp437", charmap.CodePage437, false),
	}
})

// bytesOf encodes s; ok is false when a character has no byte.
func (c codec) bytesOf(s string) (b []byte, ok bool) {
	b = make([]byte, 0, len(s))
	for _, r := range s {
		x, ok := c.encode[r]
		if !ok {
			return nil, false
		}
		b = append(b, x)
	}
	return b, true
}

// maxRounds bounds repairs that could go back and forth.
const maxRounds = 100

func fixEncoding(s string) string {
	for range maxRounds {
		fixed := fixEncodingOnce(s)
		if fixed == s {
			break
		}
		s = fixed
	}
	return s
}

func fixEncodingOnce(s string) string {
	if !isBad(s) {
		return s
	}
	latin1 := false
	for _, c := range codecs() {
		b, ok := c.bytesOf(s)
		if !ok {
			continue
		}
		latin1 = latin1 || c.name == "latin-1"
		if c.name != "macroman" {
			b = restoreA0(b)
		}
		if c.sloppy {
			b = replaceLossy(b)
		}
		if fixed, ok := decode(b); ok {
			return fixed
		}
	}
	if fixed := fixEmbedded(s); fixed != s {
		return fixed
	}
	if latin1 {
		// Latin-1 with control characters that were Windows-1252.
		if fixed, ok := controlsTo1252(s, true); ok && fixed != s {
			return fixed
		}
	}
	fixed, _ := controlsTo1252(s, false)
	return fixed
}

// controlsTo1252 reads U+0080..U+009F as Windows-1252. ok is false when strict
// and a byte is not used there.
func controlsTo1252(s string, strict bool) (fixed string, ok bool) {
	ok = true
	fixed = strings.Map(func(r rune) rune {
		if r < 0x80 || r > 0x9f {
			return r
		}
		w := windows1252[r-0x80]
		ok = ok && (!strict || w != r)
		return w
	}, s)
	return fixed, ok
}

// decode reads UTF-8, or when byte 0xed or 0xc0 is there its variants: CESU-8
// surrogate pairs and Java's zero.
func decode(b []byte) (string, bool) {
	var out []byte
	for i := 0; i < len(b); {
		switch {
		case b[i] == 0xc0 && i+1 < len(b) && (b[i+1] == 0x80 || b[i+1] == '\n' && i+2 == len(b)):
			out = append(out, 0)
			i += 2
		case isCESU8(b[i:]):
			r := rune(b[i+1]&0x0f)<<16 + rune(b[i+2]&0x3f)<<10 + rune(b[i+4]&0x0f)<<6 + rune(b[i+5]&0x3f) + 0x10000
			out = utf8.AppendRune(out, r)
			i += 6
		default:
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size < 2 {
				return "", false
			}
			out = append(out, b[i:i+size]...)
			i += size
		}
	}
	return string(out), true
}

func isCESU8(b []byte) bool {
	in := func(i int, lo, hi byte) bool { return b[i] >= lo && b[i] <= hi }
	return len(b) >= 6 && b[0] == 0xed && in(1, 0xa0, 0xaf) && in(2, 0x80, 0xbf) && b[3] == 0xed && in(4, 0xb0, 0xbf) && in(5, 0x80, 0xbf)
}

// Byte patterns, on bytes written as the characters of Latin-1.
var (
	// UTF-8 whose byte 0xa0 became a space.
	alteredUTF8 = regexp.MustCompile(`[\x{c2}\x{c3}\x{c5}\x{ce}\x{d0}\x{d9}][ ]` +
		`|[\x{e2}\x{e3}][ ][\x{80}-\x{84}\x{86}-\x{9f}\x{a1}-\x{bf}]` +
		`|[\x{e0}-\x{e3}][\x{80}-\x{84}\x{86}-\x{9f}\x{a1}-\x{bf}][ ]` +
		`|\x{f0}[ ][\x{80}-\x{bf}][\x{80}-\x{bf}]` +
		`|\x{f0}[\x{80}-\x{bf}][ ][\x{80}-\x{bf}]` +
		`|\x{f0}[\x{80}-\x{bf}][\x{80}-\x{bf}][ ]`)
	// UTF-8 of which bytes were lost: 0x1a stands for them, or one "?".
	lossyUTF8 = regexp.MustCompile(`[\x{c2}-\x{df}]\x1a` +
		`|[\x{c2}-\x{c3}][?]` +
		`|\x{ed}[\x{a0}-\x{af}][\x1a?]\x{ed}[\x{b0}-\x{bf}][\x1a?\x{80}-\x{bf}]` +
		`|\x{ed}[\x{a0}-\x{af}][\x1a?\x{80}-\x{bf}]\x{ed}[\x{b0}-\x{bf}][\x1a?]` +
		`|[\x{e0}-\x{ef}][\x1a?][\x1a\x{80}-\x{bf}]` +
		`|[\x{e0}-\x{ef}][\x1a\x{80}-\x{bf}][\x1a?]` +
		`|[\x{f0}-\x{f4}][\x1a?][\x1a\x{80}-\x{bf}][\x1a\x{80}-\x{bf}]` +
		`|[\x{f0}-\x{f4}][\x1a\x{80}-\x{bf}][\x1a?][\x1a\x{80}-\x{bf}]` +
		`|[\x{f0}-\x{f4}][\x1a\x{80}-\x{bf}][\x1a\x{80}-\x{bf}][\x1a?]` +
		`|\x1a`)
)

func latin1String(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func latin1Bytes(s string) []byte {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}

// restoreA0 puts back 0xa0 where a space stands for it.
func restoreA0(b []byte) []byte {
	s := latin1String(b)
	if !alteredUTF8.MatchString(s) {
		return b
	}
	return latin1Bytes(alteredUTF8.ReplaceAllStringFunc(aGraveWords(s), func(m string) string {
		return strings.ReplaceAll(m, " ", "\u00a0")
	}))
}

// aGraveWords keeps the space after a whole word "à", except where a
// Portuguese word goes on.
func aGraveWords(s string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, "Ã ")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		word := true
		for _, next := range []string{" ", "quele", "quela", "quilo", "s "} {
			word = word && !strings.HasPrefix(after, next)
		}
		if word {
			out.WriteString("Ã\u00a0 ")
		} else {
			out.WriteString("Ã ")
		}
		s = after
	}
}

// replaceLossy puts U+FFFD where bytes of a character were lost.
func replaceLossy(b []byte) []byte {
	s := latin1String(b)
	if !lossyUTF8.MatchString(s) {
		return b
	}
	return latin1Bytes(lossyUTF8.ReplaceAllString(s, "\u00ef\u00bf\u00bd"))
}

// Characters that the bytes of UTF-8 become in those encodings.
var (
	firstOf2     = runesOf("Â-ßĀĂĆČĎĐĒĖĘĚĞĢĪİĶĹĻŁŃŅŇŌŐŘŚŞŠŢŪŮŰŲŹŻŽΒ-ΡΣ-ίВ-Я")
	firstOf3     = runesOf("à-ïāăąćčďēėęěģīįķĺļŕźΰ-οа-п")
	firstOf4     = runesOf("ðóđğšπσру")
	continuation = runesOf(" –-―‘-‚“-„•…" + strictContinuation)
	strict       = runesOf(strictContinuation)
)

const strictContinuation = "\u0080-¿ÆØæøĄąĽľŁłŒœŖŗŚśŞ-šŤťŸ-žƒˆˇ˘˛-˝΄-ΆΈ-ΊΌΎΏЁ-ЌЎЏё-ќўџҐґ†‡‰‹›€№™"

// fixEmbedded repairs the parts of s that look like UTF-8 read wrongly, each by
// itself.
func fixEmbedded(s string) string {
	in := []rune(s)
	var out strings.Builder
	for i := 0; i < len(in); {
		end := i
		if i == 0 || !strict[in[i-1]] {
			end = sequences(in, i)
		}
		if end == i {
			out.WriteRune(in[i])
			i++
			continue
		}
		part := string(in[i:end])
		if len(part) < len(s) && isBad(part) {
			part = fixEncoding(part)
		}
		out.WriteString(part)
		i = end
	}
	return out.String()
}

// sequences is where the UTF-8 sequences that begin at i end.
func sequences(in []rune, i int) int {
	for i < len(in) {
		n := 0
		for _, form := range []struct {
			first map[rune]bool
			more  int
		}{{firstOf2, 1}, {firstOf3, 2}, {firstOf4, 3}} {
			if n == 0 && form.first[in[i]] && continues(in[i+1:], form.more) {
				n = 1 + form.more
			}
		}
		if n == 0 {
			break
		}
		i += n
	}
	return i
}

func continues(in []rune, n int) bool {
	if len(in) < n {
		return false
	}
	for _, r := range in[:n] {
		if !continuation[r] {
			return false
		}
	}
	return true
}
