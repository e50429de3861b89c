package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// maxSources bounds a brace list, so that a slip such as {0..999999999} is an
// error, not a machine out of memory.
const maxSources = 1 << 20

// expand writes out every {000..012} and {a,b} of a source, as a shell would,
// and splits at "::".
func expand(src string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(src, "::") {
		names, err := expandOne(part, maxSources-len(out))
		if err != nil {
			return nil, fault.Inputf("%s: %v", fault.Name(src), err)
		}
		if out == nil {
			out = names
			continue
		}
		out = append(out, names...)
	}
	return out, nil
}

// Local lists the files and folders of this machine that a source names.
func Local(src string) []string {
	names, err := expand(src)
	if err != nil {
		return nil // opening it says why
	}
	return slices.DeleteFunc(names, func(n string) bool { return strings.Contains(n, "://") })
}

func expandOne(s string, limit int) ([]string, error) {
	open := strings.IndexByte(s, '{')
	if open < 0 {
		return []string{s}, nil
	}
	end, depth := -1, 0
	var cuts []int // commas of this brace, not of a nested one
	for i := open; i < len(s) && end < 0; i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				end = i
			}
		case ',':
			if depth == 1 {
				cuts = append(cuts, i)
			}
		}
	}
	if end < 0 {
		return nil, fmt.Errorf("brace list without its closing }; write x-{000..012}.tar or x-{a,b}.tar")
	}
	var choices []string
	if len(cuts) == 0 {
		var err error
		if choices, err = numbers(s[open+1:end], limit); err != nil {
			return nil, err
		}
	} else {
		from := open + 1
		for _, cut := range append(cuts, end) {
			sub, err := expandOne(s[from:cut], limit)
			if err != nil {
				return nil, err
			}
			choices = append(choices, sub...)
			from = cut + 1
		}
	}
	rest, err := expandOne(s[end+1:], limit)
	if err != nil {
		return nil, err
	}
	if len(choices)*len(rest) > limit {
		return nil, fmt.Errorf("brace list of more than %d names", maxSources)
	}
	out := make([]string, 0, len(choices)*len(rest))
	for _, c := range choices {
		for _, r := range rest {
			out = append(out, s[:open]+c+r)
		}
	}
	return out, nil
}

// numbers is the list of a..b, zero-padded when either end is.
func numbers(s string, limit int) ([]string, error) {
	left, right, ok := strings.Cut(s, "..")
	lo, err1 := strconv.Atoi(left)
	hi, err2 := strconv.Atoi(right)
	if !ok || err1 != nil || err2 != nil || lo < 0 || hi < 0 {
		return nil, fmt.Errorf("brace list {%s}: want {first..last} or {a,b}", s)
	}
	if lo > hi {
		return nil, fmt.Errorf("brace list {%s}: the first number is above the last", s)
	}
	if hi-lo >= limit {
		return nil, fmt.Errorf("brace list of more than %d names", maxSources)
	}
	width := 0
	if left[0] == '0' || right[0] == '0' {
		width = max(len(left), len(right))
	}
	out := make([]string, 0, hi-lo+1)
	for n := lo; n <= hi; n++ {
		out = append(out, fmt.Sprintf("%0*d", width, n))
	}
	return out, nil
}
