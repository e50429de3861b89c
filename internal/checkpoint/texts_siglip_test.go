package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// With the tokenizer.json of a folder that transformers wrote for SigLIP, texts have
// the tokens of its AutoTokenizer.
func TestSiglipTexts(t *testing.T) {
	var want struct {
		Context    int
		At         []int
		Tokenizers map[string]struct {
			Tokenizer json.RawMessage
			Config    json.RawMessage `json:"tokenizer_config"`
			Pad       int32
			IDs       [][]int32
		}
	}
	var cases struct{ Strings []string }
	readPacked(t, "siglip", &want)
	readPacked(t, "cases", &cases)
	if len(want.Tokenizers) != 3 || len(want.At) < 1500 {
		t.Fatalf("%d tokenizers, %d strings", len(want.Tokenizers), len(want.At))
	}
	c, _ := arch.Named("ViT-B-16-SigLIP")
	c.Text.Tokenizer, c.Text.TokenizerKwargs = arch.SigLIPTokenizer, nil
	m := &Model{Config: c}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, k := range want.Tokenizers {
		write("tokenizer.json", string(k.Tokenizer))
		write("tokenizer_config.json", string(k.Config))
		tok, err := m.Texts(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, row, wrong := make([]int32, want.Context), make([]int32, want.Context), 0
		for i, ids := range k.IDs {
			for j := range row {
				row[j] = k.Pad
			}
			copy(row, ids)
			if tok.Tokens(got, cases.Strings[want.At[i]], want.Context); !slices.Equal(got, row) {
				if wrong++; wrong < 4 {
					t.Errorf("%s: %+q:\n%v\nwant\n%v", name, cases.Strings[want.At[i]], got, row)
				}
			}
		}
		if wrong > 0 {
			t.Errorf("%s: %d of %d strings differ", name, wrong, len(k.IDs))
		}
	}
	for _, bad := range []struct{ config, want string }{
		{`{"tokenizer_class": "GemmaTokenizerFast"}`, "padding_side"},
		{`{"tokenizer_class": "BertTokenizer"}`, "the class BertTokenizer"},
		{`{"tokenizer_class": "SiglipTokenizer", "do_lower_case": false}`, "do_lower_case"},
		{`{"tokenizer_class": "PreTrainedTokenizerFast"}`, "the padding token is not stated"},
	} {
		write("tokenizer_config.json", bad.config)
		if _, err := m.Texts(dir); err == nil || !strings.Contains(err.Error(), bad.want) || fault.Code(err) != int(fault.Input) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", bad.config, err)
		}
	}
	os.Remove(filepath.Join(dir, "tokenizer.json"))
	write("spiece.model", "x")
	if _, err := m.Texts(dir); err == nil || !strings.Contains(err.Error(), "spiece.model") || fault.Code(err) != int(fault.Input) {
		t.Errorf("without a tokenizer.json: %v", err)
	}
}
