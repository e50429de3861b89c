package bpe

import (
	"encoding/json"
	"strings"
	"testing"
)

// tokenizerJSON is CLIP's as the tokenizers library writes it, changed.
func tokenizerJSON(t *testing.T, change func(vocab map[string]int, model map[string]any)) []byte {
	t.Helper()
	vocab := map[string]int{startText: Start, endText: End}
	for i, b := range byteOrder() {
		vocab[string(byteRune(b))], vocab[string(byteRune(b))+"</w>"] = i, 256+i
	}
	var pairs [][]string
	for i, m := range merges() {
		l, r, _ := strings.Cut(m, " ")
		vocab[l+r] = 512 + i
		pairs = append(pairs, []string{l, r})
	}
	model := map[string]any{"type": "BPE", "vocab": vocab, "merges": pairs}
	if change != nil {
		change(vocab, model)
	}
	b, err := json.Marshal(map[string]any{"version": "1.0", "model": model})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSame(t *testing.T) {
	for name, change := range map[string]func(vocab map[string]int, model map[string]any){
		"pairs":   nil,
		"strings": func(_ map[string]int, m map[string]any) { m["merges"] = merges() },
		"no type": func(_ map[string]int, m map[string]any) { delete(m, "type") },
	} {
		if why := Same(tokenizerJSON(t, change)); why != "" {
			t.Errorf("%s: %s", name, why)
		}
	}
	for want, change := range map[string]func(vocab map[string]int, model map[string]any){
		"49409 tokens":             func(v map[string]int, _ map[string]any) { v["<sks>"] = VocabSize },
		"a different id for \"a\"": func(v map[string]int, _ map[string]any) { v["a"], v["b"] = v["b"], v["a"] },
		"special tokens":           func(v map[string]int, _ map[string]any) { delete(v, endText); v["</s>"] = End },
		"WordPiece":                func(_ map[string]int, m map[string]any) { m["type"] = "WordPiece" },
		"merge 0":                  func(_ map[string]int, m map[string]any) { l := merges(); l[0], l[1] = l[1], l[0]; m["merges"] = l },
		"not that of a BPE":        func(_ map[string]int, m map[string]any) { m["vocab"] = [][]any{{"a", -1.5}} },
		"0 merges":                 func(_ map[string]int, m map[string]any) { delete(m, "merges") },
	} {
		if why := Same(tokenizerJSON(t, change)); !strings.Contains(why, want) {
			t.Errorf("%q; want %q", why, want)
		}
	}
}
