package tokenjson

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// splitter cuts pieces further. first says that the first piece begins the text.
type splitter interface {
	split(pieces []string, first bool) []string
}

func parseSplitter(o *object, depth int) ([]splitter, error) {
	if o == nil {
		return nil, nil
	}
	var p struct {
		Parts       []object `json:"pretokenizers"`
		Replacement string   `json:"replacement"`
		AddPrefix   *bool    `json:"add_prefix_space"`
		Words       *bool    `json:"use_regex"`
		Scheme      string   `json:"prepend_scheme"`
		Split       *bool    `json:"split"`
		Pattern     pattern2 `json:"pattern"`
		Behavior    string   `json:"behavior"`
		Invert      bool     `json:"invert"`
	}
	if err := json.Unmarshal(o.raw, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Type, err)
	}
	switch o.Type {
	case "Sequence":
		return sequence(p.Parts, depth, parseSplitter)
	case "ByteLevel":
		return []splitter{byteLevel{prefix: p.AddPrefix == nil || *p.AddPrefix, words: p.Words == nil || *p.Words}}, nil
	case "BertPreTokenizer":
		return []splitter{bertWords{}}, nil
	case "WhitespaceSplit":
		return []splitter{words{}}, nil
	case "Metaspace":
		m := metaspace{mark: p.Replacement, scheme: "always", split1: p.Split == nil || *p.Split}
		if p.AddPrefix != nil && !*p.AddPrefix {
			m.scheme = "never"
		}
		if p.Scheme != "" {
			m.scheme = p.Scheme
		}
		if utf8.RuneCountInString(m.mark) != 1 || m.scheme != "always" && m.scheme != "first" && m.scheme != "never" {
			return nil, fmt.Errorf("metaspace: replacement %.40q, prepend_scheme %.40q; want one character, and always, first or never", m.mark, m.scheme)
		}
		return []splitter{m}, nil
	case "Split":
		if p.Pattern.String == nil || *p.Pattern.String == "" || p.Invert {
			return nil, fmt.Errorf("split: want a pattern that is a string, and no invert")
		}
		d := delimiter{*p.Pattern.String, p.Behavior}
		switch d.behavior {
		case "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext":
			return []splitter{d}, nil
		}
		return nil, fmt.Errorf("split: behavior %.40q is not supported", p.Behavior)
	}
	return nil, fmt.Errorf("%.40q is not supported", o.Type)
}

// words cuts at white space.
type words struct{}

func (words) split(pieces []string, first bool) (out []string) {
	for i, p := range pieces {
		if i == 0 && first && strings.TrimLeftFunc(p, unicode.IsSpace) != p {
			out = append(out, "") // what follows does not begin the text
		}
		out = append(out, strings.FieldsFunc(p, unicode.IsSpace)...)
	}
	return out
}

// metaspace makes spaces visible and begins each piece with one.
type metaspace struct {
	mark, scheme string
	split1       bool
}

func (m metaspace) split(pieces []string, first bool) (out []string) {
	for i, p := range pieces {
		p = strings.ReplaceAll(p, " ", m.mark)
		if p != "" && !strings.HasPrefix(p, m.mark) && (m.scheme == "always" || m.scheme == "first" && first && i == 0) {
			p = m.mark + p
		}
		if m.split1 {
			out = append(out, delimiter{m.mark, "MergedWithNext"}.split([]string{p}, false)...)
		} else {
			out = append(out, p)
		}
	}
	return out
}

// delimiter cuts at a text.
type delimiter struct{ text, behavior string }

func (d delimiter) split(pieces []string, _ bool) (out []string) {
	for _, p := range pieces {
		out = append(out, d.cut(p)...)
	}
	return out
}

func (d delimiter) cut(s string) (out []string) {
	// between and delimiters in turn
	var parts []string
	var is []bool
	for s != "" {
		i := strings.Index(s, d.text)
		if i < 0 {
			parts, is = append(parts, s), append(is, false)
			break
		}
		if i > 0 {
			parts, is = append(parts, s[:i]), append(is, false)
		}
		parts, is = append(parts, d.text), append(is, true)
		s = s[i+len(d.text):]
	}
	for i, p := range parts {
		after := i > 0 && is[i-1] // a delimiter before
		switch {
		case d.behavior == "Isolated":
			out = append(out, p)
		case d.behavior == "Removed":
			if !is[i] {
				out = append(out, p)
			}
		case d.behavior == "MergedWithPrevious" && is[i] && !after && len(out) > 0:
			out[len(out)-1] += p
		case d.behavior == "MergedWithNext" && after && !is[i]:
			out[len(out)-1] += p
		default:
			out = append(out, p)
		}
	}
	return out
}
