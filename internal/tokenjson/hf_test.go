package tokenjson

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/evatool/evatool/internal/bpe"
)

// 8,000 strings, half of them hostile, have the tokens that OpenCLIP's HFTokenizer
// makes of them with RoBERTa's, XLM-RoBERTa's and NLLB's tokenizers.
func TestHF(t *testing.T) {
	var want struct {
		Context    int
		Tokenizers map[string]struct {
			Tokenizer   json.RawMessage
			IDs, French [][]int32
		}
	}
	if err := json.Unmarshal(unpack(t, "hf.json.gz"), &want); err != nil {
		t.Fatal(err)
	}
	c := readCases(t)
	if len(want.Tokenizers) != 3 {
		t.Fatal(len(want.Tokenizers))
	}
	for name, k := range want.Tokenizers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Pad: "<pad>", Clean: bpe.Cleaner("whitespace"), ExactScores: true}
			if name == "nllb" {
				o.Around = &[2][]string{{"eng_Latn"}, {"</s>"}}
			}
			check := func(o Options, ids [][]int32) {
				tok, err := Parse(k.Tokenizer, o)
				if err != nil {
					t.Fatal(err)
				}
				wrong := 0
				got, row := make([]int32, want.Context), make([]int32, want.Context)
				for i, w := range ids {
					for j := range row {
						row[j] = 1 // <pad>
					}
					copy(row, w)
					if tok.Tokens(got, c.Strings[i], want.Context); !slices.Equal(got, row) {
						if wrong++; wrong < 4 {
							t.Errorf("%+q:\n%v\nwant\n%v", c.Strings[i], got, row)
						}
					}
				}
				if wrong > 0 {
					t.Errorf("%d of %d strings differ", wrong, len(ids))
				}
			}
			if len(k.IDs) != len(c.Strings) {
				t.Fatalf("%d strings", len(k.IDs))
			}
			check(o, k.IDs)
			if k.French != nil {
				o.Around[0][0] = "fra_Latn"
				check(o, k.French)
				if _, err := Parse(k.Tokenizer, Options{Around: &[2][]string{{"xxx_Latn"}, {}}}); err == nil {
					t.Error("a language that it does not have is taken")
				}
			}
		})
	}
}

// Pieces of GPT-2's pattern where its look-ahead and the order of its parts show.
func TestByteLevel(t *testing.T) {
	for text, want := range map[string][]string{
		"a  b":       {"a", "Ġ", "Ġb"},
		"a \n b":     {"a", "ĠĊ", "Ġb"},
		"a\n\nb":     {"a", "Ċ", "Ċ", "b"},
		"it's 'll  ": {"it", "'s", "Ġ'", "ll", "ĠĠ"},
		"x3 ½—é":     {"x", "3", "ĠÂ½", "âĢĶ", "Ã©"},
	} {
		if got := (byteLevel{words: true}).split([]string{text}, true); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := (byteLevel{prefix: true}).split([]string{"a b", " c"}, true); !slices.Equal(got, []string{"ĠaĠb", "Ġc"}) {
		t.Errorf("with a blank in front, whole: %q", got)
	}
	// White space in front of the first word is nothing that a blank belongs to.
	if got := (byteLevel{prefix: true, words: true}).split(words{}.split([]string{"\na b"}, true), true); !slices.Equal(got, []string{"Ġa", "Ġb"}) {
		t.Errorf("after a cut at white space: %q", got)
	}
}

// Added tokens that take the white space around them, as the library tokenizers
// finds them.
func TestAddedStrips(t *testing.T) {
	const file = `{"added_tokens": [%s], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, " ": 7, "\n": 8}, "merges": []}}`
	for _, c := range []struct {
		tokens, text string
		want         []int32
	}{
		{`{"id": 9, "content": "\n\n", "lstrip": true, "rstrip": true}`, "a\n\n\n\n\nb", []int32{0, 9, 1}},
		{`{"id": 9, "content": "\n\n", "lstrip": true, "rstrip": true}`, "\n\n \n\nc", []int32{9, 2}},
		{`{"id": 9, "content": "x", "rstrip": true}, {"id": 10, "content": "y", "lstrip": true}`, "ax  y b", []int32{0, 9, 10, 7, 1}},
		{`{"id": 9, "content": "x", "rstrip": true}, {"id": 10, "content": " y"}`, "ax yb", []int32{0, 9, 10, 1}},
		{`{"id": 9, "content": "x", "rstrip": true}`, "ax \n b", []int32{0, 9, 1}},
	} {
		tok, err := Parse(fmt.Appendf(nil, file, c.tokens), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode(c.text); !slices.Equal(got, c.want) {
			t.Errorf("%s in %q: %v, want %v", c.tokens, c.text, got, c.want)
		}
	}
}
