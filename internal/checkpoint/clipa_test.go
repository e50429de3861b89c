package checkpoint

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
)

// CLIPA's texts are tokenized by the WordPiece beside its weights, without the token
// after them and padded with 0, which no file need state.
func TestCLIPATexts(t *testing.T) {
	f, err := os.Open("../../testdata/tokenizerjson/wordpiece.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Strings    []string
		Tokenizers []struct {
			JSON json.RawMessage
			IDs  [][]int32
		}
	}
	if err := json.NewDecoder(z).Decode(&all); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), all.Tokenizers[0].JSON, 0o644); err != nil {
		t.Fatal(err)
	}
	c, _ := arch.Named("ViT-L-14-CLIPA")
	tok, err := (&Model{Config: c}).Texts(dir)
	if err != nil {
		t.Fatal(err)
	}
	plain := func(s string) bool { // nothing to clean
		return len(s) > 20 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz ") == "" && !strings.Contains(s, "  ")
	}
	at := slices.IndexFunc(all.Strings, plain)
	want := make([]int32, 32)
	copy(want, all.Tokenizers[0].IDs[at])
	for i, id := range want {
		if id == 3 { // [SEP]
			want[i] = 0
		}
	}
	got := make([]int32, 32)
	if tok.Tokens(got, all.Strings[at], 32); !slices.Equal(got, want) || slices.Max(got) < 5 {
		t.Errorf("%q: %v, want %v", all.Strings[at], got, want)
	}
	if name, clean := c.OtherTokenizer(); name != arch.BERT || clean != "whitespace" {
		t.Errorf("%s, %s", name, clean)
	}
}
