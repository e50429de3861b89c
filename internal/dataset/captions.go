package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// captionText is a caption's text. One that is not UTF-8, or is UTF-16 taken
// for it, is an error: it would be noise to train on.
func captionText(s string) (string, error) {
	switch {
	case strings.HasPrefix(s, "\xff\xfe"), strings.HasPrefix(s, "\xfe\xff"):
		return "", errors.New("the caption is UTF-16; write captions as UTF-8")
	case !utf8.ValidString(s):
		at := 0
		for {
			r, n := utf8.DecodeRuneInString(s[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		return "", fmt.Errorf("the caption is not UTF-8: byte 0x%02x at position %d; write captions as UTF-8", s[at], at)
	case strings.IndexByte(s, 0) >= 0:
		return "", errors.New("the caption holds NUL characters, as UTF-16 does; write captions as UTF-8")
	}
	return strings.TrimPrefix(s, "\ufeff"), nil
}

// oneCaption is a text as one caption, however many lines it has; none when it
// is blank.
func oneCaption(s string) ([]string, error) {
	s, err := captionText(s)
	if err != nil {
		return nil, err
	}
	if s = strings.TrimSpace(strings.ReplaceAll(s, "\n", " ")); s == "" {
		return nil, nil
	}
	return []string{s}, nil
}

// captionLines is the text of a caption file with one caption per line.
func captionLines(s string) ([]string, error) {
	s, err := captionText(s)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.SplitSeq(strings.ReplaceAll(s, "\r", "\n"), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}

// captionList is a list of captions.
func captionList(many []string) ([]string, error) {
	var out []string
	for _, s := range many {
		one, err := oneCaption(s)
		if err != nil {
			return nil, err
		}
		out = append(out, one...)
	}
	return out, nil
}

// listCell reads a cell that is a list of strings as JSON, Python or numpy
// write it: ["a", "b"], ['a', "it's"], ['a' 'b'].
func listCell(cell string) ([]string, bool) {
	s := strings.TrimSpace(cell)
	if !strings.HasPrefix(s, `["`) && !strings.HasPrefix(s, `['`) || !strings.HasSuffix(s, "]") {
		return nil, false
	}
	var many []string
	if json.Unmarshal([]byte(s), &many) == nil {
		return many, true
	}
	rest := s[1:]
	for {
		rest = strings.TrimLeft(rest, " \t\r\n,")
		if rest == "]" {
			return many, true
		}
		item, after, ok := pythonString(rest)
		if !ok {
			return nil, false
		}
		many, rest = append(many, item), after
	}
}

// pythonString reads the string literal that s begins with.
func pythonString(s string) (text, rest string, ok bool) {
	if s == "" || s[0] != '"' && s[0] != '\'' {
		return "", "", false
	}
	quote := s[0]
	var b strings.Builder
	for rest = s[1:]; rest != ""; {
		if rest[0] == quote {
			return b.String(), rest[1:], true
		}
		if rest[0] != '\\' {
			b.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		// Python's escapes are Go's, except that either quote may be escaped.
		if len(rest) > 1 && (rest[1] == '"' || rest[1] == '\'') {
			b.WriteByte(rest[1])
			rest = rest[2:]
			continue
		}
		r, _, tail, err := strconv.UnquoteChar(rest, 0)
		if err != nil {
			return "", "", false
		}
		b.WriteRune(r) // \xe9 is the character, not the byte
		rest = tail
	}
	return "", "", false
}

// StringList reads a cell that is a list of strings, as JSON or Python write it.
func StringList(cell string) ([]string, bool) { return listCell(cell) }
