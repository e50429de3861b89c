package tokenjson

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"strings"
)

// pairs merges pairs of tokens, the earliest in the list of merges first.
type pairs struct {
	vocab  map[string]int32
	merges map[[2]int32]merge
	unk    int32 // -1: none
	fuse   bool  // unknown characters beside each other are one
	bytes  *[256]int32
	whole  bool // a piece that is a token is one, whatever the merges
}

type merge struct{ rank, id int32 }

func parseBPE(raw []byte) (model, map[string]int32, error) {
	var p struct {
		Dropout      *float64          `json:"dropout"`
		Unk          *string           `json:"unk_token"`
		Prefix       *string           `json:"continuing_subword_prefix"`
		Suffix       *string           `json:"end_of_word_suffix"`
		Fuse         bool              `json:"fuse_unk"`
		ByteFallback bool              `json:"byte_fallback"`
		Ignore       bool              `json:"ignore_merges"`
		Vocab        map[string]int64  `json:"vocab"`
		Merges       []json.RawMessage `json:"merges"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, nil, fmt.Errorf("BPE: %w", err)
	}
	if p.Prefix != nil && *p.Prefix != "" || p.Suffix != nil && *p.Suffix != "" || p.Dropout != nil && *p.Dropout != 0 {
		return nil, nil, fmt.Errorf("BPE: continuing_subword_prefix, end_of_word_suffix and dropout are not supported")
	}
	if len(p.Merges) > maxID {
		return nil, nil, fmt.Errorf("BPE: %d merges; want at most %d", len(p.Merges), maxID)
	}
	b := &pairs{vocab: make(map[string]int32, len(p.Vocab)), merges: make(map[[2]int32]merge, len(p.Merges)), unk: -1, fuse: p.Fuse, whole: p.Ignore}
	for text, id := range p.Vocab {
		if id < 0 || id > maxID {
			return nil, nil, fmt.Errorf("BPE: %.40q has the id %d; want 0 to %d", text, id, maxID)
		}
		b.vocab[text] = int32(id)
	}
	for i, m := range p.Merges {
		left, right, err := mergeOf(m)
		if err != nil {
			return nil, nil, fmt.Errorf("BPE: merge %d: %w", i, err)
		}
		l, okL := b.vocab[left]
		r, okR := b.vocab[right]
		id, ok := b.vocab[left+right]
		if !okL || !okR || !ok {
			return nil, nil, fmt.Errorf("BPE: merge %d, %.40q and %.40q: not all in the vocabulary", i, left, right)
		}
		b.merges[[2]int32{l, r}] = merge{int32(i), id}
	}
	if p.Unk != nil {
		id, ok := b.vocab[*p.Unk]
		if !ok {
			return nil, nil, fmt.Errorf("BPE: unk_token %.40q is not in the vocabulary", *p.Unk)
		}
		b.unk = id
	}
	if p.ByteFallback {
		b.bytes = byteTokens(b.vocab)
	}
	return b, b.vocab, nil
}

// mergeOf reads "a b" or ["a", "b"].
func mergeOf(raw json.RawMessage) (left, right string, err error) {
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		if len(list) != 2 {
			return "", "", fmt.Errorf("%d tokens; want two", len(list))
		}
		return list[0], list[1], nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", "", err
	}
	left, right, ok := strings.Cut(s, " ")
	if !ok || strings.Contains(right, " ") {
		return "", "", fmt.Errorf("%.40q: want two tokens", s)
	}
	return left, right, nil
}

// symbol is a token of a piece, in a list whose members disappear.
type symbol struct {
	id         int32
	prev, next int32 // -1: none
	gone       bool
}

// candidate is a pair that may be merged, at its left symbol.
type candidate struct {
	merge
	at int32
}

type queue []candidate

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].rank < q[j].rank || q[i].rank == q[j].rank && q[i].at < q[j].at
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(candidate)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// characters are the tokens of a piece before any merge.
func (b *pairs) characters(s string) []int32 {
	var ids []int32
	pending := false // an unknown character that is not yet written
	flush := func() {
		if pending {
			ids = append(ids, b.unk)
			pending = false
		}
	}
	for i, r := range s {
		c := s[i : i+len(string(r))]
		if id, ok := b.vocab[c]; ok {
			flush()
			ids = append(ids, id)
			continue
		}
		if b.bytes != nil {
			var ok bool
			if ids, ok = appendBytes(ids, b.bytes, c); ok {
				continue // as in the original, in front of a pending one
			}
		}
		if b.unk >= 0 {
			if !b.fuse {
				flush()
			}
			pending = true
		}
	}
	flush()
	return ids
}

func (b *pairs) appendTokens(ids []int32, s string) []int32 {
	if id, ok := b.vocab[s]; ok && b.whole {
		return append(ids, id)
	}
	chars := b.characters(s)
	list := make([]symbol, len(chars))
	var q queue
	for i, id := range chars {
		list[i] = symbol{id: id, prev: int32(i - 1), next: int32(i + 1)}
		if i > 0 {
			if m, ok := b.merges[[2]int32{chars[i-1], id}]; ok {
				q = append(q, candidate{m, int32(i - 1)})
			}
		}
	}
	if len(list) == 0 {
		return ids
	}
	list[len(list)-1].next = -1
	heap.Init(&q)
	offer := func(left, right int32) {
		if m, ok := b.merges[[2]int32{list[left].id, list[right].id}]; ok {
			heap.Push(&q, candidate{m, left})
		}
	}
	for len(q) > 0 {
		c := heap.Pop(&q).(candidate)
		l := &list[c.at]
		if l.gone || l.next < 0 {
			continue
		}
		r := &list[l.next]
		if m, ok := b.merges[[2]int32{l.id, r.id}]; !ok || m.id != c.id {
			continue
		}
		l.id, l.next, r.gone = c.id, r.next, true
		if l.next >= 0 {
			list[l.next].prev = c.at
			offer(c.at, l.next)
		}
		if l.prev >= 0 {
			offer(l.prev, c.at)
		}
	}
	for i := int32(0); i >= 0; i = list[i].next {
		ids = append(ids, list[i].id)
	}
	return ids
}
