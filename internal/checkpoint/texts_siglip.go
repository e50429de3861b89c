package checkpoint

import (
	"cmp"
	"path/filepath"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tokenjson"
)

// siglipTexts is transformers' tokenizer for a SiglipModel: its class determines
// how a text is cleaned, the tokenizer.json in dir the rest.
func (m *Model) siglipTexts(dir string) (Tokenizer, error) {
	file := filepath.Join(dir, "tokenizer.json")
	data, ok, err := readBeside(file, tokenjson.MaxFile)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, fault.Inputf("texts need a tokenizer.json beside the weights (a spiece.model alone will not do); images work without it, and so do tokens made elsewhere (Options.Tensors of embed)")
	}
	f, err := readTokenizerFiles(dir)
	if err != nil {
		return nil, err
	}
	o := tokenjson.Options{Pad: string(f.Pad)}
	side := cmp.Or(f.Side, "right")
	switch f.Class {
	case "", "SiglipTokenizer":
		if f.Lower != nil && !*f.Lower {
			return nil, fault.Inputf("%s: do_lower_case false in its tokenizer_config.json is not supported", file)
		}
		eos := cmp.Or(string(f.EOS), "</s>")
		o.SentencePiece = true
		o.Clean, o.Around, o.Pad = bpe.Cleaner("siglip"), &[2][]string{{}, {eos}}, cmp.Or(o.Pad, "</s>")
	case "GemmaTokenizer", "Siglip2Tokenizer":
		side, o.Pad = cmp.Or(f.Side, "left"), cmp.Or(o.Pad, "<pad>")
		o.Lower = f.Class == "Siglip2Tokenizer"
	case "PreTrainedTokenizer", "TokenizersBackend":
	default:
		return nil, fault.Inputf("%s: its tokenizer_config.json names the class %s, which is not supported; want SiglipTokenizer, GemmaTokenizer or Siglip2Tokenizer", file, fault.Name(f.Class))
	}
	switch {
	case side != "right":
		return nil, fault.Inputf("%s: padding_side %s is not supported; want right", file, fault.Name(side))
	case o.Pad == "":
		return nil, fault.Inputf("%s: the padding token is not stated, and this model sees it; put the tokenizer_config.json beside this file", file)
	}
	return m.parseTokenizer(file, data, o)
}
