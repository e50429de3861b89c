package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// elsewhere matches paths outside the tree that a page may name: those that commands
// write, and users' own.
var elsewhere = regexp.MustCompile(`^(runs|bin|dist|out|photos|crops|coco|checkpoints|shards|a|b|visual|text)/`)

// TestPagesNameWhatIsThere: every link between the pages, and every path in
// code style that begins with a folder of the repository, exists.
func TestPagesNameWhatIsThere(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var top []string
	for _, e := range entries {
		top = append(top, e.Name())
	}
	links := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	code := regexp.MustCompile("`([^`\n]+)`")
	fence := regexp.MustCompile("(?s)```.*?```")
	seen := 0
	for _, page := range append(pages, more...) {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text := fence.ReplaceAllString(string(b), "")
		check := func(said, path string) {
			seen++
			if found, err := filepath.Glob(path); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which is not there", page, said)
			}
		}
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(m[1], "://") {
				check(m[1], filepath.Join(filepath.Dir(page), m[1]))
			}
		}
		for _, m := range code.FindAllStringSubmatch(text, -1) {
			word, _, more := strings.Cut(m[1], " ")
			first, _, deep := strings.Cut(word, "/")
			switch {
			case more || elsewhere.MatchString(word):
			case deep && slices.Contains(top, first):
				check(word, word)
			case strings.HasSuffix(word, ".go") || strings.HasSuffix(word, "_test.go"):
				// A file whose folder the sentence names.
				if !strings.Contains(word, "*") && !somewhere(word) {
					t.Errorf("%s names %s, which does not exist", page, word)
				}
			}
		}
	}
	if seen < 60 {
		t.Errorf("only %d links and paths seen", seen)
	}
}

// somewhere reports whether a file of this name is in the tree.
func somewhere(name string) bool {
	for _, depth := range []string{"", "*/", "*/*/", "*/*/*/"} {
		if found, _ := filepath.Glob(depth + name); len(found) > 0 {
			return true
		}
	}
	return false
}

// TestTrainingPageIsRun: the commands on docs/training.md that one machine can
// run are those of a script.
func TestTrainingPageIsRun(t *testing.T) {
	page, err := os.ReadFile("docs/training.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/script/fork.txtar")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("(?m)^evatool .*$").FindAllString(string(page), -1)
	if len(commands) < 5 {
		t.Errorf("only %q on the page", commands)
	}
	for _, c := range commands {
		if !strings.Contains(string(script), "\n"+c+"\n") {
			t.Errorf("no script runs %s", c)
		}
	}
}
