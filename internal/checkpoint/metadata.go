package checkpoint

import (
	"encoding/json"
	"maps"
	"path/filepath"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/runlog"
)

// The metadata keys with which a model file describes itself.
const (
	metaConfig     = "evatool.config"     // the architecture, JSON
	metaModel      = "evatool.model"      // its published name, or empty
	metaPreprocess = "evatool.preprocess" // size, mean, std, interpolation, JSON
	metaSource     = "evatool.source"     // file name and SHA-256, JSON; a list for shards
	metaVersion    = "evatool.version"
	metaActivation = "evatool.activation" // assumed: the source does not record it
)

// ModelMetadata is the __metadata__ with which a safetensors file describes
// itself. Everything that writes a model file uses it.
func ModelMetadata(c *arch.Config) map[string]string {
	m := map[string]string{
		"format":       "pt", // required by transformers
		metaConfig:     string(c.JSON()),
		metaPreprocess: string(mustJSON(c.Preprocess())),
		metaModel:      "",
		metaVersion:    runlog.Version,
	}
	if name := canonicalName(c); name != Custom {
		m[metaModel] = name
	}
	return m
}

type sourceNote struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

func sourceNotes(files, sums []string) (notes []sourceNote) {
	for i, f := range files {
		notes = append(notes, sourceNote{filepath.Base(f), sums[i]})
	}
	return notes
}

// Metadata describes the output of a plan. sums are the SHA-256 of the input's
// files.
func (p *Plan) Metadata(sums []string) map[string]string {
	m := map[string]string{"format": "pt", metaVersion: runlog.Version}
	switch {
	case p.Layout == "source":
		maps.Copy(m, p.in.Metadata())
	case p.Config != nil:
		m = ModelMetadata(p.Config)
		if p.guessed {
			m[metaActivation] = "assumed"
		}
	default:
		m[metaModel] = p.Name
	}
	notes := sourceNotes(p.in.Files, sums)
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
