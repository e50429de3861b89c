package tokenjson

import (
	"encoding/json"
	"slices"
	"testing"
)

// 8,000 strings, half of them hostile, have the tokens that the library tokenizers
// gives them by WordPiece.
func TestWordPiece(t *testing.T) {
	var want struct {
		Strings    []string
		Tokenizers []struct {
			JSON  json.RawMessage
			Every int
			IDs   [][]int32
		}
	}
	if err := json.Unmarshal(unpack(t, "wordpiece.json.gz"), &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Strings) != 8000 || len(want.Tokenizers) != 4 {
		t.Fatalf("%d strings, %d tokenizers", len(want.Strings), len(want.Tokenizers))
	}
	for i, k := range want.Tokenizers {
		w, err := Parse(k.JSON, Options{})
		if err != nil {
			t.Fatal(err)
		}
		wrong := 0
		for j, ids := range k.IDs {
			if s := want.Strings[j*k.Every]; !slices.Equal(w.Encode(s), ids) {
				if wrong++; wrong < 4 {
					t.Errorf("tokenizer %d: %+q\n%v\nwant\n%v", i, s, w.Encode(s), ids)
				}
			}
		}
		if wrong > 0 {
			t.Errorf("tokenizer %d: %d strings differ", i, wrong)
		}
	}
}

// OpenCLIP's strip_sep_token: the token after a text is 0, cut off or not, also
// where the text has it.
func TestBlank(t *testing.T) {
	const file = `{"added_tokens": [{"id": 2, "content": "[CLS]"}, {"id": 3, "content": "[SEP]"}],
		"normalizer": {"type": "BertNormalizer", "clean_text": true, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"},
		"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
		"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[UNK]": 1, "a": 4, "##b": 5}}}`
	tok, err := Parse([]byte(file), Options{Blank: true})
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]int32, 6)
	for text, want := range map[string][]int32{
		"AB b":          {2, 4, 5, 1, 0, 0},
		"a[SEP]a":       {2, 4, 0, 4, 0, 0},
		"a a a a a a a": {2, 4, 4, 4, 4, 0},
	} {
		if tok.Tokens(dst, text, 6); !slices.Equal(dst, want) {
			t.Errorf("%q: %v, want %v", text, dst, want)
		}
	}
}
