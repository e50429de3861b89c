package trainer

import (
	"embed"
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
