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

// Tokenizer turns texts into token ids. It is safe for concurrent use.
type Tokenizer interface {
	Encode(text string) []int32                   // neither padded nor truncated
	Tokens(dst []int32, text string, context int) // into dst[:context], padded or cut
}

// ErrNoTokenizer is wrapped by the error of Texts if the folder has no tokenizer
// and the configuration names a repository of the hub that does.
var ErrNoTokenizer = errors.New("the tokenizer is missing")

// Texts returns the model's tokenizer: CLIP's BPE, or that of the tokenizer.json
// in dir; an empty dir is the weights' folder.
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
	known := knownTokenizers[name] // for what its files leave out
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
		// present class has the code after the text.
		code, eos := cmp.Or(f.Language, "eng_Latn"), cmp.Or(string(f.EOS), "</s>")
		o.Around = &[2][]string{{code}, {eos}}
		if f.Legacy {
			o.Around = &[2][]string{{}, {eos, code}}
		}
	}
	return m.parseTokenizer(file, data, o)
}

// parseTokenizer reads a tokenizer.json, whose vocabulary must fit the model's.
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

// repository matches a name on the hub. Anything else, as transformers' folders
// have it, is refused: how texts are cleaned then depends on the class and version.
var repository = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[\w.-]+$`)

// tokenizerFiles is what the files beside a tokenizer.json say about it.
type tokenizerFiles struct {
	Class    string    `json:"tokenizer_class"`
	Pad      tokenName `json:"pad_token"`
	EOS      tokenName `json:"eos_token"`
	Language string    `json:"src_lang"`
	Legacy   bool      `json:"legacy_behaviour"`
	Side     string    `json:"padding_side"`
	Lower    *bool     `json:"do_lower_case"`
}

// tokenName is a token: in JSON a string, or an object with its content.
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
	return nil // anything else counts as absent
}

// nllbClass puts the language's code before a text.
const nllbClass = "NllbTokenizer"

// rebuilt are classes of Unigram tokenizers that transformers rebuilds from a
// tokenizer.json, reading the scores as Python does.
var rebuilt = []string{"XLMRobertaTokenizer", "T5Tokenizer"}

// knownTokenizers are the class and padding of repositories whose files may not
// state them.
var knownTokenizers = map[string]tokenizerFiles{
	arch.BERT:                                     {Class: "BertTokenizer", Pad: "[PAD]"},
	arch.TokenizerRepository("roberta-base"):      {Class: "RobertaTokenizer", Pad: "<pad>"},
	arch.TokenizerRepository("xlm-roberta-base"):  {Class: "XLMRobertaTokenizer", Pad: "<pad>"},
	arch.TokenizerRepository("xlm-roberta-large"): {Class: "XLMRobertaTokenizer", Pad: "<pad>"},
	"facebook/nllb-200-distilled-600M":            {Class: nllbClass, Pad: "<pad>"},
	"facebook/nllb-200-distilled-1.3B":            {Class: nllbClass, Pad: "<pad>"},
}

// readTokenizerFiles reads the files beside the tokenizer.json in dir.
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
