package checkpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

func base(path string) string { return filepath.Base(path) }

// setPixels decides the preprocessing. The first that states one counts: the user,
// the configuration (if given), the file, the files beside it, the table of
// published weights, the architecture if all of its weights take the same. Else it
// is OpenAI's, which is right for OpenAI's files and EVA-CLIP's, and which assumed
// reports for others.
func (a *architecture) setPixels(m *mapping, inv *inventory, o PlanOptions, given bool) error {
	p, from, err := a.knownPixels(inv)
	known := p
	if o.Preprocess != "" && wholePreprocess(o.Preprocess) {
		if err != nil {
			from = "" // whatever it means, it is replaced
		}
		return a.askedPixels(o, known, from)
	}
	switch {
	case given:
		if now := a.config.Preprocess(); err == nil && from != "" && p != now && o.Preprocess == "" {
			a.warnings = append(a.warnings, fmt.Sprintf("the configuration in use (%s) prepares images with %s, but %s says %s", a.how, now, from, p))
		}
		p = a.config.Preprocess()
	case err != nil:
		return err
	case from == "" && a.config.Pixels != nil:
		p = a.config.Preprocess() // all published weights of the architecture take it
	case from == "":
		p = arch.OpenAIPreprocess()
		if evidence, _ := origin(m, inv); evidence != openAI && !a.config.IsEVA() {
			a.assumed = assumed
		}
	}
	a.config.SetPreprocess(p)
	if o.Preprocess != "" {
		return a.askedPixels(o, known, from)
	}
	return nil
}

const assumed = "nothing states how images are prepared for these weights, so OpenAI's way is assumed (its mean and std, bicubic, the shorter side resized, a centre crop); some need another, such as mean and std 0.5 for ViT-L-14/laion2b_s32b_b82k: give preprocess openai|inception|imagenet|FILE.json|mean=…,std=…,interpolation=…,resize=…, or put the open_clip_config.json or preprocessor_config.json beside the file"

// knownPixels returns the preprocessing that the weights' own sources state, and
// which of them does; from is empty if none does.
func (a *architecture) knownPixels(inv *inventory) (p arch.Preprocess, from string, err error) {
	size := a.config.Vision.ImageSize
	if own := inv.metadata[metaPreprocess]; own != "" {
		if p, err = arch.ParsePreprocess([]byte(own), size); err != nil {
			err = fmt.Errorf("the file's own %s: %w", metaPreprocess, err)
		}
		return p, "the file", err
	}
	b := &inv.beside
	if b.pixels {
		p = b.config.Preprocess()
		p.Size = size
		return p, b.file, nil
	}
	if b.processor != "" {
		if p, err = arch.ParsePreprocess(b.data, size); err != nil {
			err = fault.As(fault.Input, fmt.Errorf("%s: %w; set the preprocessing with Options.Preprocess", b.processor, err))
		}
		return p, b.processor, err
	}
	if w, _, _ := inv.weights(a.config); w != nil {
		p = arch.OpenAIPreprocess()
		p.Size = size
		p, err = p.With(w.Preprocess)
		return p, "the table of published weights, for " + w.Name() + ",", err
	}
	return p, "", nil
}

// wholePreprocess reports whether s replaces the preprocessing entirely.
func wholePreprocess(s string) bool {
	first, _, _ := strings.Cut(s, ",")
	if _, err := (arch.Preprocess{Interpolation: "bicubic", ResizeMode: arch.Shortest, Std: [3]float32{1, 1, 1}}).With(first); err == nil {
		return !strings.Contains(first, "=")
	}
	return !strings.Contains(s, "=")
}

// askedPixels applies the user's preprocessing, and warns if from, where it is not
// empty, knows another.
func (a *architecture) askedPixels(o PlanOptions, known arch.Preprocess, from string) error {
	c := a.config
	size := c.Vision.ImageSize
	if o.ImageSize != 0 {
		size = o.ImageSize
	}
	p, err := ReadPreprocess(c.Preprocess(), o.Preprocess, size)
	if err != nil {
		return err
	}
	if from != "" && o.ImageSize == 0 && p != known {
		a.warnings = append(a.warnings, fmt.Sprintf("images are prepared as asked, with %s, but %s says %s", p, from, known))
	}
	a.assumed = ""
	c.SetPreprocess(p)
	return nil
}

// ReadPreprocess returns now changed as s says, which is words or the path of a
// JSON file. size is the model's image size in pixels.
func ReadPreprocess(now arch.Preprocess, s string, size int) (arch.Preprocess, error) {
	_, missing := os.Stat(s)
	if missing == nil || strings.HasSuffix(s, ".json") {
		data, err := fault.ReadFile(s, "an image preprocessing (JSON)", maxConfig)
		if err != nil {
			return now, err
		}
		p, err := arch.ParsePreprocess(data, size)
		if err != nil {
			return p, fmt.Errorf("%s: %w", s, err)
		}
		return p, nil
	}
	now.Size = size
	p, err := now.With(s)
	if err != nil {
		return p, fault.As(fault.Usage, fmt.Errorf("Options.Preprocess %w", err))
	}
	return p, nil
}
