package tokenjson

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

type normalizer func(string) string

// deepest bounds nested sequences.
const deepest = 16

// sequence is what the parts of a Sequence are, one after the other.
func sequence[T any](parts []object, depth int, parse func(o *object, depth int) ([]T, error)) (all []T, err error) {
	if depth == deepest {
		return nil, fmt.Errorf("sequences are nested more than %d deep", depth)
	}
	for i := range parts {
		one, err := parse(&parts[i], depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, one...)
	}
	return all, nil
}

func (how Options) normalizers(o *object, depth int) ([]normalizer, error) {
	if o == nil {
		return nil, nil
	}
	var p struct {
		Normalizers []object        `json:"normalizers"`
		Pattern     pattern2        `json:"pattern"`
		Content     string          `json:"content"`
		Prepend     string          `json:"prepend"`
		Charsmap    json.RawMessage `json:"precompiled_charsmap"`
		Left        bool            `json:"strip_left"`
		Right       bool            `json:"strip_right"`
	}
	if err := json.Unmarshal(o.raw, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Type, err)
	}
	switch o.Type {
	case "Sequence":
		return sequence(p.Normalizers, depth, how.normalizers)
	case "BertNormalizer":
		n, err := parseBertNormalizer(o.raw)
		return []normalizer{n}, err
	case "Lowercase":
		return []normalizer{lower}, nil
	case "Replace":
		n, err := p.Pattern.replace(p.Content)
		return []normalizer{n}, err
	case "Prepend":
		return []normalizer{func(s string) string {
			if s == "" {
				return s
			}
			return p.Prepend + s
		}}, nil
	case "Strip":
		return []normalizer{func(s string) string {
			if p.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if p.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}}, nil
	case "Precompiled":
		if len(p.Charsmap) == 0 || string(p.Charsmap) == "null" {
			return nil, nil
		}
		var b []byte // base64 in JSON
		if err := json.Unmarshal(p.Charsmap, &b); err != nil {
			return nil, fmt.Errorf("precompiled: %w", err)
		}
		c, err := newCharsmap(b)
		if err != nil {
			return nil, fmt.Errorf("precompiled: %w", err)
		}
		if how.SentencePiece {
			return []normalizer{c.normalizeLongest}, nil
		}
		return []normalizer{c.normalize}, nil
	}
	return nil, fmt.Errorf("%.40q is not supported", o.Type)
}

// pattern2 is a text, or a regular expression of those that are known.
type pattern2 struct {
	String *string
	Regex  *string
}

// regexes mean the same to Go's package and to Oniguruma.
var regexes = map[string]bool{" {2,}": true, " +": true, `\s+`: true}

func (p pattern2) replace(with string) (normalizer, error) {
	switch {
	case p.String != nil && *p.String != "":
		return func(s string) string { return strings.ReplaceAll(s, *p.String, with) }, nil
	case p.Regex != nil && regexes[*p.Regex]:
		re := regexp.MustCompile(strings.ReplaceAll(*p.Regex, `\s`, `[\s\v\x{85}\p{Z}]`))
		return func(s string) string { return re.ReplaceAllLiteralString(s, with) }, nil
	case p.Regex != nil:
		return nil, fmt.Errorf("replace: the regular expression %.40q is not supported", *p.Regex)
	}
	return nil, fmt.Errorf("replace: no pattern")
}

// lower is the lower case of each character, whatever is around it.
func lower(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		if r == 'İ' {
			b.WriteString("i\u0307")
			continue
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// charsmap is sentencepiece's precompiled normalization: a double-array trie
// whose values are places in text.
type charsmap struct {
	trie []uint32
	text string
}

func newCharsmap(b []byte) (*charsmap, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%d bytes; want a trie", len(b))
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n%4 != 0 || n == 0 || 4+n > uint64(len(b)) {
		return nil, fmt.Errorf("a trie of %d bytes does not fit in %d", n, len(b))
	}
	c := &charsmap{trie: make([]uint32, n/4), text: string(b[4+n:])}
	for i := range c.trie {
		c.trie[i] = binary.LittleEndian.Uint32(b[4+4*i:])
	}
	if !utf8.ValidString(c.text) {
		return nil, fmt.Errorf("the replacements are not UTF-8")
	}
	return c, nil
}

// entries calls f with what the entries that s begins with become and their
// length, the shortest first, until it says that it is enough.
func (c *charsmap) entries(s string, f func(text string, n int) bool) {
	offset := func(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
	node := offset(c.trie[0])
	for i := range len(s) {
		b := uint32(s[i])
		if b == 0 {
			break
		}
		node ^= b
		if node >= uint32(len(c.trie)) {
			return
		}
		unit := c.trie[node]
		if unit&(1<<31|0xff) != b {
			return
		}
		node ^= offset(unit)
		if node >= uint32(len(c.trie)) {
			return
		}
		if unit>>8&1 == 1 {
			at := uint64(c.trie[node] & (1<<31 - 1))
			if at > uint64(len(c.text)) {
				return
			}
			text, _, _ := strings.Cut(c.text[at:], "\x00")
			if f(text, i+1) {
				return
			}
		}
	}
}

// transform is what the first entry that s begins with becomes. As in the
// library, it stands for all of s.
func (c *charsmap) transform(s string) (text string, ok bool) {
	c.entries(s, func(t string, _ int) bool {
		text, ok = t, true
		return true
	})
	return text, ok
}

// normalizeLongest replaces the longest entry at each place, as sentencepiece
// itself does.
func (c *charsmap) normalizeLongest(s string) string {
	var b strings.Builder
	for s != "" {
		_, n := utf8.DecodeRuneInString(s)
		text := s[:n]
		c.entries(s, func(t string, length int) bool {
			text, n = t, length
			return false
		})
		b.WriteString(text)
		s = s[n:]
	}
	return b.String()
}

// normalize looks up each grapheme cluster of less than six bytes, else its
// characters.
func (c *charsmap) normalize(s string) string {
	var b strings.Builder
	state := -1
	for s != "" {
		var g string
		g, s, _, state = uniseg.FirstGraphemeClusterInString(s, state)
		if len(g) < 6 {
			if t, ok := c.transform(g); ok {
				b.WriteString(t)
				continue
			}
		}
		for i, r := range g {
			part := g[i : i+utf8.RuneLen(r)]
			if t, ok := c.transform(part); ok {
				part = t
			}
			b.WriteString(part)
		}
	}
	return b.String()
}
