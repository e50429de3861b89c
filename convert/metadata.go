package convert

import (
	"encoding/json"
	"maps"
	"path/filepath"

	"github.com/evatool/evatool/internal/arch"
)

// The keys with which a model file describes itself.
const (
	metaConfig     = "evatool.config"     // the architecture, JSON
	metaModel      = "evatool.model"      // its published name, or empty
	metaPreprocess = "evatool.preprocess" // size, mean, std, interpolation, JSON
	metaSource     = "evatool.source"     // file name and SHA-256, JSON; a list for shards
	metaVersion    = "evatool.version"
)

// ModelMetadata is the __metadata__ that makes a safetensors file describe
// itself; everything that writes a model file uses it.
func ModelMetadata(c *arch.Config) map[string]string {
	m := map[string]string{
		"format":       "pt", // what transformers asks for
		metaConfig:     string(c.JSON()),
		metaPreprocess: string(mustJSON(c.Preprocess())),
		metaModel:      "",
		metaVersion:    version(),
	}
	if name := canonicalName(c); name != custom {
		m[metaModel] = name
	}
	return m
}

type sourceNote struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// metadata describes the output of a plan. sums are the hashes of the input's
// files.
func (p *plan) metadata(in *input, sums []string) map[string]string {
	m := map[string]string{"format": "pt", metaVersion: version()}
	switch {
	case p.layout == "source":
		maps.Copy(m, in.Metadata())
	case p.config != nil:
		m = ModelMetadata(p.config)
	default:
		m[metaModel] = p.name
	}
	var notes []sourceNote
	for i, f := range in.files {
		notes = append(notes, sourceNote{filepath.Base(f), sums[i]})
	}
	m[metaSource] = string(mustJSON(notes))
	if len(notes) == 1 {
		m[metaSource] = string(mustJSON(notes[0]))
	}
	return m
}

// mustJSON encodes a value of strings, numbers and structs of them, which
// cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
