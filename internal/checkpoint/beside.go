package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// beside is what the files beside the weights say about them.
type beside struct {
	file   string       // the file with the architecture, or empty
	config *arch.Config // nil: no file
	pixels bool         // whether file states the preprocessing too

	processor string // transformers' file with the preprocessing, or empty
	data      []byte // its content, whose meaning depends on the model's image size
}

const (
	openCLIPConfig = "open_clip_config.json"
	hfConfig       = "config.json"
)

// look reads the configuration beside the weights; of two, that of the library
// whose names the weights have. In a folder any architecture file counts; beside a
// single file, only one that clearly belongs to it.
func (in *Input) look(dir string, folder bool) error {
	hf := isHF(in.Tensors())
	names := []string{openCLIPConfig, hfConfig}
	if hf {
		names = []string{hfConfig, openCLIPConfig}
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		b, ok, err := readBeside(path, maxConfig)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		kind, isCLIP := configKind(b)
		if act, ok := towerAct(b); ok && name == hfConfig {
			if folder {
				in.act = act // of one tower, not of a model
			}
			continue
		}
		if !folder && name == hfConfig && (kind != "clip" && kind != "siglip" || !hf) || !isCLIP && name == hfConfig {
			continue
		}
		c, err := parseConfig(path, b)
		if err != nil {
			return err
		}
		in.beside.file, in.beside.config, in.beside.pixels = path, c, arch.DescribesPixels(b)
		if err := in.beside.tokenizer(dir, kind == "clip"); err != nil {
			return err
		}
		break
	}
	if in.beside.pixels || !hf && in.beside.config != nil && !folder {
		return nil
	}
	return in.beside.findProcessor(dir, hf || folder)
}

// readBeside reads a file that need not exist.
func readBeside(path string, limit int64) (b []byte, ok bool, err error) {
	switch b, err = fault.ReadFile(path, "a file that belongs to the weights (JSON)", limit); {
	case err == nil:
		return b, true, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	}
	return nil, false, err
}

// parseConfig reads the configuration in the file path and the config.json of the
// text model that it names: in the folder of that name, or beside the file.
func parseConfig(path string, data []byte) (*arch.Config, error) {
	var model []byte
	if name := arch.TextModel(data); name != "" {
		dir := filepath.Dir(path)
		for _, d := range []string{name, filepath.Join(dir, name), dir} {
			b, ok, err := readBeside(filepath.Join(d, hfConfig), maxConfig)
			if err != nil {
				return nil, err
			}
			if ok && arch.IsTextModel(b) {
				model = b
				break
			}
		}
	}
	c, err := arch.ParseText(data, model)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// isHF reports whether the names are transformers', even among other tensors.
func isHF(tensors []tensorfile.Info) bool {
	if f, _ := recognise(tensors); f != nil {
		return f == hfCLIP || f == hfEVA || f == hfSigLIP || slices.Contains(hfTowers, f)
	}
	return slices.ContainsFunc(tensors, func(t tensorfile.Info) bool { return strings.HasSuffix(t.Name, hfCLIP.has[0]) })
}

// configKind returns the model_type of a config.json, and whether the file
// describes a CLIP-like model at all: timm's, for example, does not.
func configKind(b []byte) (modelType string, isCLIP bool) {
	var o map[string]json.RawMessage
	if json.Unmarshal(b, &o) != nil {
		return "", true // arch.Parse reports what is wrong
	}
	json.Unmarshal(o["model_type"], &modelType)
	for _, k := range []string{"model_type", "model_cfg", "vision_cfg", "text_cfg", "vision_config", "text_config", "vision_layers"} {
		isCLIP = isCLIP || o[k] != nil
	}
	return modelType, isCLIP
}

// towerAct is the activation in the configuration of one of transformers' towers.
func towerAct(b []byte) (act string, ok bool) {
	var c struct {
		ModelType string `json:"model_type"`
		Act       string `json:"hidden_act"`
	}
	err := json.Unmarshal(b, &c)
	return c.Act, err == nil && (c.ModelType == "clip_text_model" || c.ModelType == "clip_vision_model")
}

// findProcessor reads transformers' preprocessing, and keeps it if wanted.
func (s *beside) findProcessor(dir string, wanted bool) error {
	for _, name := range []string{"processor_config.json", "preprocessor_config.json"} {
		path := filepath.Join(dir, name)
		b, ok, err := readBeside(path, maxConfig)
		if err != nil {
			return err
		}
		if ok && wanted && (name == "preprocessor_config.json" || arch.HasProcessor(b)) {
			s.processor, s.data = path, b
			return nil
		}
	}
	return nil
}

// tokenizer notes in the configuration whether the folder's tokenizer is not
// CLIP's. Transformers takes the one in the folder; OpenCLIP takes the one that its
// configuration names, which is there if the folder is that repository.
func (s *beside) tokenizer(dir string, hf bool) error {
	named := s.config.Text.Tokenizer
	if !hf && (named == "" || strings.Contains(named, " with ")) {
		return nil
	}
	what, found, err := folderTokenizer(dir)
	switch {
	case err != nil:
		return err
	case found && what == "":
		s.config.Text.Tokenizer = ""
	case found && hf:
		s.config.Text.Tokenizer = what
	}
	return nil
}

// maxTokenizer is larger than any file of CLIP's tokenizer, in bytes.
const maxTokenizer = 16 << 20

// vocabularies are files of tokenizers that are not CLIP's.
var vocabularies = []string{"vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"}

// folderTokenizer says which tokenizer a folder has; empty: CLIP's BPE.
func folderTokenizer(dir string) (what string, found bool, err error) {
	class := ""
	if b, ok, err := readBeside(filepath.Join(dir, "tokenizer_config.json"), maxTokenizer); err != nil {
		return "", false, err
	} else if ok {
		var c struct {
			Class string `json:"tokenizer_class"`
		}
		if err := json.Unmarshal(b, &c); err != nil {
			return "", false, fault.Inputf("%s: %w", filepath.Join(dir, "tokenizer_config.json"), err)
		}
		class = c.Class
	}
	switch strings.TrimSuffix(class, "Fast") {
	case "", "CLIPTokenizer", "PreTrainedTokenizer", "TokenizersBackend":
	default:
		return class, true, nil
	}
	for _, f := range []struct {
		name string
		same func([]byte) string
	}{{"tokenizer.json", bpe.Same}, {"vocab.json", bpe.SameVocabulary}} {
		path := filepath.Join(dir, f.name)
		if st, err := os.Stat(path); err == nil && st.Size() > maxTokenizer {
			return fmt.Sprintf("%s (%d bytes)", path, st.Size()), true, nil
		}
		b, ok, err := readBeside(path, maxTokenizer)
		switch {
		case err != nil:
			return "", false, err
		case ok:
			if what = f.same(b); what != "" {
				what = fmt.Sprintf("%s (%s)", path, what)
			}
			return what, true, nil
		}
	}
	for _, name := range vocabularies {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name), true, nil
		}
	}
	return "", class != "", nil
}
