package bpe

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func golden(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "tokenizer", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type goldenStrings struct {
	Strings []struct {
		Text string  `json:"text"`
		IDs  []int32 `json:"ids"`
	} `json:"strings"`
}

func readStrings(t testing.TB, name string) (g goldenStrings) {
	t.Helper()
	if err := json.Unmarshal(golden(t, name), &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// rows reads the only tensor of a safetensors file: [n, context] int64.
func rows(t *testing.T, name string, context int) [][]int32 {
	t.Helper()
	data := golden(t, name)
	header := binary.LittleEndian.Uint64(data)
	values := make([]int64, (len(data)-8-int(header))/8)
	if err := binary.Read(bytes.NewReader(data[8+header:]), binary.LittleEndian, values); err != nil {
		t.Fatal(err)
	}
	var out [][]int32
	for row := range slices.Chunk(values, context) {
		ids := make([]int32, context)
		for i, v := range row {
			ids[i] = int32(v)
		}
		out = append(out, ids)
	}
	return out
}

func TestGoldenStrings(t *testing.T) {
	tok := New()
	for _, name := range []string{"strings.json", "ftfy_sensitive.json", "hard.json"} {
		g := readStrings(t, name)
		if len(g.Strings) == 0 {
			t.Fatal(name, "is empty")
		}
		for _, s := range g.Strings {
			for range 2 { // the second time from the cache
				// The goldens of very long texts are truncated.
				got := make([]int32, 77)
				tok.Tokens(got, s.Text, 77)
				want := append(slices.Clone(s.IDs), make([]int32, 77)...)[:77]
				if !slices.Equal(got, want) {
					t.Errorf("%s: %.80q\n got %v\nwant %v", name, s.Text, got, want)
				}
				if full := tok.Encode(s.Text); len(s.IDs) < 77 && !slices.Equal(full, s.IDs) {
					t.Errorf("%s: Encode(%.80q) = %v, want %v", name, s.Text, full, s.IDs)
				}
			}
		}
	}
}

func TestGoldenRows(t *testing.T) {
	texts := readStrings(t, "strings.json").Strings
	var short struct {
		Rows []int `json:"row_index_into_strings"`
	}
	if err := json.Unmarshal(golden(t, "tokens_context16.json"), &short); err != nil {
		t.Fatal(err)
	}
	all := make([]int, len(texts))
	for i := range all {
		all[i] = i
	}
	tok := New()
	for _, tt := range []struct {
		file    string
		context int
		index   []int
	}{{"tokens.safetensors", 77, all}, {"tokens_context16.safetensors", 16, short.Rows}} {
		want := rows(t, tt.file, tt.context)
		if len(want) != len(tt.index) {
			t.Fatalf("%s: %d rows, want %d", tt.file, len(want), len(tt.index))
		}
		got := make([]int32, tt.context)
		for i, row := range want {
			tok.Tokens(got, texts[tt.index[i]].Text, tt.context)
			if !slices.Equal(got, row) {
				t.Errorf("%s: row %d, %.60q\n got %v\nwant %v", tt.file, i, texts[tt.index[i]].Text, got, row)
			}
		}
	}
}
