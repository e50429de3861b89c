package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"

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
var ErrNoTokenizer = errors.New("its tokenizer is not there")

// Texts is the model's tokenizer: CLIP's BPE, or that of the tokenizer.json in
// dir, empty for the weights' folder.
func (m *Model) Texts(dir string) (Tokenizer, error) {
	err := m.Config.CheckTexts()
	if err == nil {
		return bpe.New(), nil
	}
	name, how := m.Config.OtherTokenizer()
	clean := bpe.Cleaner(how)
	if !repository.MatchString(name) || slices.Contains(vocabularies, path.Base(name)) || clean == nil || m.Config.Text.Layers == 0 {
		return nil, err
	}
	if dir == "" {
		dir = filepath.Dir(m.file)
	}
	file := filepath.Join(dir, "tokenizer.json")
	data, ok, err := readBeside(file, tokenjson.MaxFile)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.As(fault.Input, fmt.Errorf("%w: texts need the tokenizer.json of %s beside the weights; images work without, and tokens made elsewhere (Options.Tensors of embed)", ErrNoTokenizer, fault.Name(name)))
	}
	pad, err := padding(dir)
	if err != nil {
		return nil, err
	}
	if pad == "" && name == arch.BERT {
		pad = "[PAD]" // its class's default, which its files leave out
	}
	if pad == "" && m.Config.PoolsLast() {
		return nil, fault.Inputf("%s: what fills a short text is not said, and the model sees it; put the tokenizer_config.json of %s beside it", file, fault.Name(name))
	}
	kwargs := m.Config.Text.TokenizerKwargs
	t, err := tokenjson.Parse(data, tokenjson.Options{Pad: pad, Blank: kwargs != nil && kwargs.StripSep, Clean: clean})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if n := m.Config.Text.VocabSize; int(t.Largest()) >= n {
		return nil, fault.Inputf("%s: has the token %d, but the model's vocabulary is %d; it is another model's", file, t.Largest(), n)
	}
	return t, nil
}

// repository is a name on the hub. What a folder of transformers has instead is
// refused: how texts are cleaned before it depends on the class and the version.
var repository = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[\w.-]+$`)

// padding is the name of the padding token, by the files beside a tokenizer.json;
// empty where none says it.
func padding(dir string) (string, error) {
	for _, name := range []string{"tokenizer_config.json", "special_tokens_map.json"} {
		path := filepath.Join(dir, name)
		b, ok, err := readBeside(path, maxTokenizer)
		if err != nil {
			return "", err
		}
		if !ok {
			continue
		}
		var f struct {
			Pad json.RawMessage `json:"pad_token"`
		}
		if err := json.Unmarshal(b, &f); err != nil {
			return "", fault.Inputf("%s: %w", path, err)
		}
		var token struct {
			Content string `json:"content"`
		}
		if len(f.Pad) == 0 || json.Unmarshal(f.Pad, &token.Content) != nil && json.Unmarshal(f.Pad, &token) != nil {
			continue
		}
		if token.Content != "" {
			return token.Content, nil
		}
	}
	return "", nil
}
