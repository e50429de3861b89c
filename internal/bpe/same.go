package bpe

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"strings"
)

// The special tokens as vocabularies write them.
const (
	startText = "<|startoftext|>"
	endText   = "<|endoftext|>"
)

// merges are CLIP's, each "left right", best first.
func merges() (list []string) {
	z, err := gzip.NewReader(bytes.NewReader(mergesGz))
	if err != nil {
		panic(fmt.Sprintf("merges.txt.gz: %v", err)) // embedded and tested
	}
	for in := bufio.NewScanner(z); in.Scan(); {
		list = append(list, in.Text())
	}
	return list
}

// Same says how a tokenizer.json differs from CLIP's BPE, in kind, tokens and
// their numbers, or merges; empty when it does not.
func Same(tokenizerJSON []byte) string {
	var t struct {
		Model struct {
			Type   string            `json:"type"`
			Vocab  json.RawMessage   `json:"vocab"`
			Merges []json.RawMessage `json:"merges"`
		} `json:"model"`
	}
	if err := json.Unmarshal(tokenizerJSON, &t); err != nil {
		return fmt.Sprintf("not readable: %v", err)
	}
	// Old files leave the type out.
	if t.Model.Type != "BPE" && t.Model.Type != "" {
		return "its type is " + t.Model.Type
	}
	if why := SameVocabulary(t.Model.Vocab); why != "" {
		return why
	}
	want := merges()
	if len(t.Model.Merges) != len(want) {
		return fmt.Sprintf("%d merges, where CLIP has %d", len(t.Model.Merges), len(want))
	}
	for i, raw := range t.Model.Merges {
		var merge string
		var pair []string // as newer files write it
		if json.Unmarshal(raw, &merge) != nil && json.Unmarshal(raw, &pair) == nil {
			merge = strings.Join(pair, " ")
		}
		if merge != want[i] {
			return fmt.Sprintf("merge %d is %.40q, not CLIP's", i, merge)
		}
	}
	return ""
}

// SameVocabulary says how a vocab.json differs from CLIP's BPE; empty when it
// does not.
func SameVocabulary(vocabJSON []byte) string {
	var vocab map[string]int32
	if err := json.Unmarshal(vocabJSON, &vocab); err != nil {
		return "its vocabulary is not that of a BPE"
	}
	if len(vocab) != VocabSize {
		return fmt.Sprintf("%d tokens, where CLIP has %d", len(vocab), VocabSize)
	}
	differs := func(token string, id int32) bool {
		got, ok := vocab[token]
		return !ok || got != id
	}
	for i, b := range byteOrder() {
		if s := string(byteRune(b)); differs(s, int32(i)) || differs(s+"</w>", int32(256+i)) {
			return fmt.Sprintf("a different id for %q", s)
		}
	}
	for i, m := range merges() {
		if token := strings.Replace(m, " ", "", 1); differs(token, int32(512+i)) {
			return fmt.Sprintf("a different id for %.40q", token)
		}
	}
	if differs(startText, Start) || differs(endText, End) {
		return "different special tokens"
	}
	return ""
}
