package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tokenjson"
)

// Tokenizer turns texts into token ids. It may be used from many goroutines.
type Tokenizer interface {
	Encode(text string) []int32                   // not padded and not truncated
	Tokens(dst []int32, text string, context int) // into dst[:context], padded or cut
}

// ErrNoTokenizer is in the error of Texts where the folder has none and the
// configuration names a repository of the hub that does.
var ErrNoTokenizer = errors.New("the tokenizer is missing")

// Texts is the model's tokenizer: CLIP's BPE, or that of the tokenizer.json in
// dir, empty for the weights' folder.
func (m *Model) Texts(dir string) (Tokenizer, error) {
	err := m.Config.CheckTexts()
	if err == nil {
		return bpe.New(), nil
	}
	if dir == "" {
		dir = filepath.Dir(m.file)
	}
	name, how := m.Config.OtherTokenizer()
	if name == arch.SigLIPTokenizer {
		return m.siglipTexts(dir)
	}
	clean := bpe.Cleaner(how)
	if !repository.MatchString(name) || slices.Contains(vocabularies, path.Base(name)) || clean == nil || m.Config.Text.Layers == 0 {
		return nil, err
	}
	file := filepath.Join(dir, "tokenizer.json")
	data, ok, err := readBeside(file, tokenjson.MaxFile)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.As(fault.Input, fmt.Errorf("%w: texts need the tokenizer.json of %s beside the weights; images work without it, and so do tokens made elsewhere (Options.Tensors of embed)", ErrNoTokenizer, fault.Name(name)))
	}
	f, err := readTokenizerFiles(dir)
	if err != nil {
		return nil, err
	}
	known := knownTokenizers[name] // where its files leave out what its class has
	f.Class, f.Pad = cmp.Or(f.Class, known.Class), cmp.Or(f.Pad, known.Pad)
	if f.Pad == "" && (m.Config.PoolsLast() || m.Config.IgnoresPadding()) {
		return nil, fault.Inputf("%s: the padding token is not stated, and this model sees it; put the tokenizer_config.json of %s beside this file", file, fault.Name(name))
	}
	o := tokenjson.Options{Pad: string(f.Pad), Clean: clean, ExactScores: slices.Contains(rebuilt, f.Class)}
	if k := m.Config.Text.TokenizerKwargs; k != nil {
		o.Blank = k.StripSep
	}
	if f.Class == nllbClass {
		// The class sets these, whatever the file has: a repository older than the
		// class as it is now has the code behind the text.
		code, eos := cmp.Or(f.Language, "eng_Latn"), cmp.Or(string(f.EOS), "</s>")
		o.Around = &[2][]string{{code}, {eos}}
		if f.Legacy {
			o.Around = &[2][]string{{}, {eos, code}}
		}
	}
	return m.parseTokenizer(file, data, o)
}

// parseTokenizer reads a tokenizer.json of a vocabulary that the model has.
func (m *Model) parseTokenizer(file string, data []byte, o tokenjson.Options) (Tokenizer, error) {
	t, err := tokenjson.Parse(data, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if n := m.Config.Text.VocabSize; int(t.Largest()) >= n {
		return nil, fault.Inputf("%s: has the token %d, but the model's vocabulary ends at %d; give the model's own tokenizer.json", file, t.Largest(), n-1)
	}
	return t, nil
}

// repository is a name on the hub. What a folder of transformers has instead is
// refused: how texts are cleaned before it depends on the class and the version.
var repository = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[\w.-]+$`)

// tokenizerFiles is what the files beside a tokenizer.json say of it.
type tokenizerFiles struct {
	Class    string    `json:"tokenizer_class"`
	Pad      tokenName `json:"pad_token"`
	EOS      tokenName `json:"eos_token"`
	Language string    `json:"src_lang"`
	Legacy   bool      `json:"legacy_behaviour"`
	Side     string    `json:"padding_side"`
	Lower    *bool     `json:"do_lower_case"`
}

// tokenName is a token, as a text or as an object with its content.
type tokenName string

func (t *tokenName) UnmarshalJSON(b []byte) error {
	var s string
	var o struct {
		Content string `json:"content"`
	}
	if json.Unmarshal(b, &s) == nil {
		*t = tokenName(s)
	} else if json.Unmarshal(b, &o) == nil {
		*t = tokenName(o.Content)
	}
	return nil // whatever else says nothing
}

// nllbClass sets the language's code in front of a text.
const nllbClass = "NllbTokenizer"

// rebuilt are classes of Unigram tokenizers that transformers makes anew of a
// tokenizer.json, whose scores it reads as Python does.
var rebuilt = []string{"XLMRobertaTokenizer", "T5Tokenizer"}

// knownTokenizers are class and padding of repositories whose files may not say them.
var knownTokenizers = map[string]tokenizerFiles{
	arch.BERT:                                     {Class: "BertTokenizer", Pad: "[PAD]"},
	arch.TokenizerRepository("roberta-base"):      {Class: "RobertaTokenizer", Pad: "<pad>"},
	arch.TokenizerRepository("xlm-roberta-base"):  {Class: "XLMRobertaTokenizer", Pad: "<pad>"},
	arch.TokenizerRepository("xlm-roberta-large"): {Class: "XLMRobertaTokenizer", Pad: "<pad>"},
	"facebook/nllb-200-distilled-600M":            {Class: nllbClass, Pad: "<pad>"},
	"facebook/nllb-200-distilled-1.3B":            {Class: nllbClass, Pad: "<pad>"},
}

// readTokenizerFiles reads them; the first that says something counts.
func readTokenizerFiles(dir string) (f tokenizerFiles, err error) {
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		path := filepath.Join(dir, name)
		b, ok, err := readBeside(path, maxTokenizer)
		if err != nil {
			return f, err
		}
		if !ok {
			continue
		}
		one := f
		if err := json.Unmarshal(b, &one); err != nil {
			return f, fault.Inputf("%s: %w", path, err)
		}
		one.Pad, one.EOS = cmp.Or(one.Pad, f.Pad), cmp.Or(one.EOS, f.EOS)
		f = one
	}
	f.Class = strings.TrimSuffix(f.Class, "Fast")
	return f, nil
}
