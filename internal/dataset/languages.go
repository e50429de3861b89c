package dataset

import (
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// languages are names of ImageNet's classes and templates by people other than
// OpenAI: languages/LICENSE, from CLIP_benchmark.
//
//go:embed data/languages/*.json
var languages embed.FS

// Languages lists the languages besides English that ImageNet's classes have
// names in, as CLIP_benchmark calls them.
var Languages = []string{"ar", "cn", "it", "jp"}

// Language gives b's classes and templates in a language; "" and "en" are those
// it has.
func (b Benchmark) Language(language string) (Benchmark, error) {
	if language == "" || language == "en" {
		return b, nil
	}
	if !slices.Contains(Languages, language) {
		return b, fault.Usagef("Options.Language %.40q: want en, %s", language, strings.Join(Languages, ", "))
	}
	if len(b.ClassNames) == 0 || len(b.Folders) != len(b.ClassNames) || !slices.Equal(Wnids(), b.Folders) && b.Subset == nil {
		return b, fault.Usagef("Options.Language %s: there are names for ImageNet's classes only, not for %s", language, b.Name)
	}
	text, err := languages.ReadFile("data/languages/" + language + ".json")
	var words struct{ Classes, Templates []string }
	if err == nil {
		err = json.Unmarshal(text, &words)
	}
	if err != nil || len(words.Classes) != len(Wnids()) {
		panic(fmt.Sprintf("data/languages/%s.json: %v", language, err)) // embedded and tested
	}
	b.Also = append([][]string{b.ClassNames}, b.Also...)
	b.ClassNames, b.Templates = words.Classes, words.Templates
	if b.Subset != nil {
		b.ClassNames = nil
		for _, i := range b.Subset {
			b.ClassNames = append(b.ClassNames, words.Classes[i])
		}
	}
	return b, nil
}
