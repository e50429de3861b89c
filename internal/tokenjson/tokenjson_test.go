package tokenjson

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
)

const dir = "../../testdata/tokenizerjson/"

func unpack(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type cases struct {
	Tokenizers []string             `json:"tokenizers"`
	Strings    []string             `json:"strings"`
	IDs        map[string][][]int32 `json:"ids"`
	Canonical  []string             `json:"canonical"`
}

func readCases(t testing.TB) (c cases) {
	t.Helper()
	if err := json.Unmarshal(unpack(t, "cases.json.gz"), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Strings) != 8000 || len(c.Tokenizers) < 5 || len(c.Canonical) != 1000 {
		t.Fatalf("%d strings, %d tokenizers", len(c.Strings), len(c.Tokenizers))
	}
	return c
}

// The ids of 8,000 strings, half of them hostile, are the tokenizers library's.
func TestIDs(t *testing.T) {
	c := readCases(t)
	for _, name := range c.Tokenizers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok, err := Parse(unpack(t, name+".json.gz"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			wrong := 0
			for i, s := range c.Strings {
				if got := tok.Encode(s); !slices.Equal(got, c.IDs[name][i]) {
					if wrong++; wrong < 4 {
						t.Errorf("%q: %v, want %v", s, got, c.IDs[name][i])
					}
				}
			}
			if wrong > 0 {
				t.Errorf("%d of %d strings differ", wrong, len(c.Strings))
			}
		})
	}
}

// OpenCLIP's canonical cleaning, on hostile strings.
func TestCanonical(t *testing.T) {
	c := readCases(t)
	clean := bpe.Cleaner("canonicalize")
	for i, s := range c.Strings[7000:] {
		if got := clean(s); got != c.Canonical[i] {
			t.Errorf("%q: %q, want %q", s, got, c.Canonical[i])
		}
	}
}

// A text that is too long keeps what goes around it; a short one is padded.
func TestTokens(t *testing.T) {
	tok, err := Parse(unpack(t, "unigram.json.gz"), Options{Pad: "</s>", Clean: bpe.Cleaner("canonicalize")})
	if err != nil {
		t.Fatal(err)
	}
	all := tok.Encode("A photo, of: a cat!")
	if n := len(all); n < 5 || !slices.Equal(all, tok.Encode("a photo of a cat")) || all[n-1] != 1 {
		t.Fatal(all)
	}
	dst := make([]int32, 32)
	tok.Tokens(dst, "A photo, of: a cat!", 32)
	if !slices.Equal(dst[:len(all)], all) || slices.ContainsFunc(dst[len(all):], func(id int32) bool { return id != 1 }) {
		t.Error(dst)
	}
	tok.Tokens(dst, "a photo of a cat", 4)
	if !slices.Equal(dst[:4], append(slices.Clone(all[:3]), 1)) {
		t.Error(dst[:4])
	}
	if tok.Largest() != 2500 {
		t.Error(tok.Largest())
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                               "not a tokenizer.json",
		`{}`:                               "no model",
		`{"model": {"type": "WordLevel"}}`: "WordLevel",
		`{"model": {"type": "WordPiece"}}`: "max_input_chars_per_word is 0",
		`{"model": {"type": "WordPiece", "max_input_chars_per_word": 9, "unk_token": "u"}}`:   "unk_token \"u\"",
		`{"model": {"type": "WordPiece", "max_input_chars_per_word": 9, "vocab": {"u": -1}}}`: "the id -1",
		`{"model": {"type": "Unigram"}}`:                                                                                                                                "0 tokens",
		`{"model": {"type": "Unigram", "vocab": [["a", 1]], "unk_id": 1}}`:                                                                                              "unk_id is 1 of 1",
		`{"model": {"type": "Unigram", "vocab": [["a", 1]]}}`:                                                                                                           "no unk_id",
		`{"model": {"type": "BPE", "vocab": {"a": -1}}}`:                                                                                                                "the id -1",
		`{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]}}`:                                                                                              "not all in the vocabulary",
		`{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}}`:                                                                                              "want two",
		`{"model": {"type": "BPE", "vocab": {"a": 0}, "dropout": 0.1}}`:                                                                                                 "dropout",
		`{"model": {"type": "BPE", "vocab": {}}, "normalizer": {"type": "Nmt"}}`:                                                                                        "normalizer: \"Nmt\"",
		`{"model": {"type": "BPE", "vocab": {}}, "normalizer": {"type": "Replace", "pattern": {"Regex": "(a|b)"}, "content": ""}}`:                                      "regular expression",
		`{"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": {"type": "Digits"}}`:                                                                                  "Digits",
		`{"model": {"type": "BPE", "vocab": {}}, "post_processor": {"type": "BertProcessing"}}`:                                                                         "cls or sep",
		`{"model": {"type": "BPE", "vocab": {}}, "post_processor": {"type": "TemplateProcessing", "single": []}}`:                                                       "0 texts",
		`{"model": {"type": "BPE", "vocab": {}}, "added_tokens": [{"id": 99999999, "content": "x"}]}`:                                                                   "99999999",
		`{"model": {"type": "BPE", "vocab": {}}, "normalizer": {"type": "Strip", "strip_left": true}, "added_tokens": [{"id": 1, "content": " ", "normalized": true}]}`: "leaves nothing",
		`{"model": {"type": "BPE", "vocab": {}}, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}`:                                            "a trie of",
		`{"model": {"type": "BPE", "vocab": {}}, "normalizer": ` + strings.Repeat(`{"type": "Sequence", "normalizers": [`, 20) + strings.Repeat(`]}`, 20) + `}`:         "deep",
	} {
		_, err := Parse([]byte(text), Options{})
		if err == nil || !strings.Contains(err.Error(), want) || fault.Code(err) != int(fault.Input) {
			t.Errorf("%.80s: %v; want %q", text, err, want)
		}
	}
	if _, err := Parse(unpack(t, "bpe.json.gz"), Options{Pad: "nothing"}); err == nil {
		t.Error("a padding that is no token is taken")
	}
}

// FuzzParse reads damaged files, and cuts text by those that are taken.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["▁a", -1.5], ["b", -2]]}, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}}`), "a b ab")
	f.Add([]byte(`{"model": {"type": "BPE", "unk_token": "u", "byte_fallback": true, "fuse_unk": true, "vocab": {"u": 0, "a": 1, "b": 2, "ab": 3, "<0x41>": 4}, "merges": ["a b"]},
		"added_tokens": [{"id": 5, "content": "x y", "lstrip": true, "rstrip": true}, {"id": 6, "content": "b", "normalized": true, "single_word": true}],
		"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "Precompiled", "precompiled_charsmap": "CAAAAAAEAAAAAAAAYQA="}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "_"}]},
		"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
		"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "u"}}], "special_tokens": {"u": {"ids": [0]}}}}`), "Ab  x y A\xff")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		tok, err := Parse(data, Options{Clean: bpe.Cleaner("whitespace")})
		if err != nil {
			return
		}
		for _, id := range tok.Encode(text) {
			if id < 0 || id > tok.Largest() {
				t.Fatalf("id %d, the largest is %d", id, tok.Largest())
			}
		}
		tok.Tokens(make([]int32, 3), text, 3)
	})
}
