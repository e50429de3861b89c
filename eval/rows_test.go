package eval

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Names that a terminal would obey are quoted in the cells of a CSV.
func TestCellsAreNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.csv")
	if err := writeCSV(path, [][]string{{"plain, 猫", "\x1b[2Jgone", "txt\u202egpj"}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); strings.ContainsAny(s, "\x1b\u202e") || !strings.Contains(s, "plain, 猫") || !strings.Contains(s, `\u202e`) {
		t.Errorf("%q", s)
	}
}
