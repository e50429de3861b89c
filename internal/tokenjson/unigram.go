package tokenjson

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

func parseModel(o *object, how Options) (model, map[string]int32, error) {
	switch o.Type {
	case "Unigram":
		return parseUnigram(o.raw, how)
	case "BPE":
		return parseBPE(o.raw)
	case "WordPiece":
		return parseWordPiece(o.raw)
	}
	return nil, nil, fmt.Errorf("%.40q is not supported; Unigram, BPE and WordPiece are", o.Type)
}

// unigram finds the tokens of the largest total score, as sentencepiece does.
type unigram struct {
	tokens  []string // sorted
	ids     []int32  // of tokens
	scores  []float64
	byText  map[string]int32
	unk     int32 // -1: none
	unkCost float64
	single  bool        // sums are in single precision
	bytes   *[256]int32 // nil: what is not known is unk
}

// scored is a token and its score, ["▁the", -3.2].
type scored struct {
	text  string
	score json.Number
}

func (s *scored) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&s.text, &s.score})
}

// rustFloat reads a number as serde_json does, which rounds twice: ties between
// paths of tokens depend on the last bit.
func rustFloat(s string) (float64, error) {
	exact, err := strconv.ParseFloat(s, 64)
	digits, exponent, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(s, "-")), "e")
	whole, fraction, _ := strings.Cut(digits, ".")
	e, eerr := strconv.Atoi(cmp.Or(exponent, "0"))
	if err != nil || eerr != nil {
		return exact, err
	}
	var n uint64
	for i, c := range whole + fraction {
		d := uint64(c - '0')
		if n > (math.MaxUint64-d)/10 { // the rest is left out
			e += max(0, len(whole)-i)
			break
		}
		n = 10*n + d
		if i >= len(whole) {
			e--
		}
	}
	if e < -300 || e > 300 {
		return exact, nil
	}
	f := float64(n)
	if e < 0 {
		f /= math.Pow10(-e)
	} else {
		f *= math.Pow10(e)
	}
	if strings.HasPrefix(s, "-") {
		f = -f
	}
	return f, nil
}

// unkPenalty is how far below the worst token an unknown character scores.
const unkPenalty = 10

func parseUnigram(raw []byte, how Options) (model, map[string]int32, error) {
	var p struct {
		Unk          *int64   `json:"unk_id"`
		Vocab        []scored `json:"vocab"`
		ByteFallback bool     `json:"byte_fallback"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, nil, fmt.Errorf("unigram: %w", err)
	}
	if len(p.Vocab) == 0 || len(p.Vocab) > maxID {
		return nil, nil, fmt.Errorf("unigram: %d tokens; want 1 to %d", len(p.Vocab), maxID)
	}
	u := &unigram{byText: make(map[string]int32, len(p.Vocab)), unk: -1}
	lowest := math.Inf(1)
	scores := make([]float64, len(p.Vocab))
	for i, v := range p.Vocab {
		u.byText[v.text] = int32(i) // of several the last counts
		var err error
		if scores[i], err = strconv.ParseFloat(string(v.score), 64); err == nil && !how.ExactScores && !how.SentencePiece {
			scores[i], err = rustFloat(string(v.score))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("unigram: %.40q has the score %.40q; want a number", v.text, v.score)
		}
		lowest = min(lowest, scores[i])
	}
	u.unkCost, u.single = lowest-unkPenalty, how.SentencePiece
	if p.Unk != nil {
		if *p.Unk < 0 || *p.Unk >= int64(len(p.Vocab)) {
			return nil, nil, fmt.Errorf("unigram: unk_id is %d of %d tokens", *p.Unk, len(p.Vocab))
		}
		u.unk = int32(*p.Unk)
	}
	for text, id := range u.byText {
		control := u.single && scores[id] == 0 // sentencepiece finds none in a text
		if text != "" && !control {
			u.tokens = append(u.tokens, text)
		}
	}
	slices.Sort(u.tokens)
	for _, text := range u.tokens {
		id := u.byText[text]
		u.ids, u.scores = append(u.ids, id), append(u.scores, scores[id])
	}
	if p.ByteFallback {
		u.bytes = byteTokens(u.byText)
	}
	if u.unk < 0 && u.bytes == nil {
		return nil, nil, fmt.Errorf("unigram: no unk_id; a character that is not in the vocabulary would have no token")
	}
	return u, u.byText, nil
}

// byteTokens are the tokens <0x00> to <0xFF>; -1 where there is none.
func byteTokens(vocab map[string]int32) *[256]int32 {
	var t [256]int32
	for b := range t {
		id, ok := vocab[fmt.Sprintf("<0x%02X>", b)]
		if t[b] = id; !ok {
			t[b] = -1
		}
	}
	return &t
}

// appendBytes appends the byte tokens of s, if all of them exist.
func appendBytes(ids []int32, t *[256]int32, s string) ([]int32, bool) {
	for i := range len(s) {
		if t[s[i]] < 0 {
			return ids, false
		}
	}
	for i := range len(s) {
		ids = append(ids, t[s[i]])
	}
	return ids, true
}

type node struct {
	score float64
	from  int // -1: not reached
	id    int32
}

func (u *unigram) appendTokens(ids []int32, s string) []int32 {
	best := make([]node, len(s)+1)
	for i := range best {
		best[i].from = -1
	}
	reach := func(to, from int, score float64, id int32) {
		if u.single {
			score = float64(float32(score))
		}
		if n := &best[to]; n.from < 0 || score > n.score {
			*n = node{score, from, id}
		}
	}
	for at := 0; at < len(s); {
		_, size := utf8.DecodeRuneInString(s[at:])
		single := false
		lo, hi := 0, len(u.tokens)
		for n := 1; at+n <= len(s); n++ {
			// The tokens that begin with s[at:at+n].
			c := s[at+n-1]
			lo += search(u.tokens[lo:hi], n-1, c, false)
			hi = lo + search(u.tokens[lo:hi], n-1, c, true)
			if lo == hi {
				break
			}
			if len(u.tokens[lo]) == n {
				reach(at+n, at, u.scores[lo]+best[at].score, u.ids[lo])
				single = single || n == size
			}
		}
		if !single {
			reach(at+size, at, u.unkCost+best[at].score, u.unk)
		}
		at += size
	}
	// Unknown characters beside each other are one.
	type span struct{ lo, hi int }
	var spans []span
	fused := false
	for end := len(s); end > 0; end = best[end].from {
		n := best[end]
		if unknown := n.id == u.unk; unknown && fused {
			spans[len(spans)-1].lo = n.from
		} else {
			spans = append(spans, span{n.from, end})
			fused = unknown
		}
	}
	for _, sp := range slices.Backward(spans) {
		text := s[sp.lo:sp.hi]
		if id, ok := u.byText[text]; ok {
			ids = append(ids, id)
			continue
		}
		if u.bytes != nil {
			var ok bool
			if ids, ok = appendBytes(ids, u.bytes, text); ok {
				continue
			}
		}
		if u.unk >= 0 {
			ids = append(ids, u.unk)
		}
	}
	return ids
}

// search is the number of tokens, which have their first n bytes in common, whose
// byte n is below c, or c too.
func search(tokens []string, n int, c byte, too bool) int {
	lo, hi := 0, len(tokens)
	for lo < hi {
		mid := (lo + hi) / 2
		if t := tokens[mid]; len(t) <= n || t[n] < c || too && t[n] == c {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}
