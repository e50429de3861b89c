package trainer

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed recipes/*.yaml
var recipeFiles embed.FS

// Bundled lists the names of the recipes that come with the program.
func Bundled() []string {
	entries, err := recipeFiles.ReadDir("recipes")
	if err != nil {
		panic(err) // embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// bundled is the text of a recipe that comes with the program.
func bundled(name string) ([]byte, bool) {
	text, err := recipeFiles.ReadFile(path.Join("recipes", name+".yaml"))
	return text, err == nil
}

// missingData adds to an error about the data of a recipe that comes with the
// program where they are to be had.
func (r *Recipe) missingData(err error) error {
	if r.bundled == "" || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if strings.HasPrefix(r.bundled, "emoji-") {
		return fmt.Errorf("%w; the pictures of %s lie in evatool's source: run it in a clone of https://github.com/evatool/evatool, or see evatool demo, which carries them", err, r.bundled)
	}
	return fmt.Errorf("%w; %s names data that you have to bring; set data.0.source=YOURS", err, r.bundled)
}
