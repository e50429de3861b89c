// Package yamlfile reads a small YAML file into a struct, strictly: an unknown
// key, a value of the wrong type or a key given twice is an error that names its
// line and, for a name that is nearly right, the right one. The file is not
// trusted: its cost is bounded before anything is built from it.
//
//	var r struct {
//		Batch int `yaml:"batch"`
//	}
//	err := yamlfile.Decode("recipe.yaml", text, &r) // recipe.yaml: line 3: unknown key bacth; did you mean batch?
//	err = yamlfile.Set(&r, "batch", "128")
//
// Fields are matched by their yaml tags alone. Types may be structs, pointers,
// slices, arrays, maps with string keys, strings, numbers, booleans and any.
// Every error is a usage error (internal/fault).
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"github.com/evatool/evatool/internal/fault"
)

// Limits of a file. A node takes about 2 kB while the library parses it, and
// every node comes with one of the marks, so a file within these limits takes
// less than 200 MB.
const (
	MaxBytes = 1 << 20
	maxMarks = 100_000
	maxDepth = 32
	maxNodes = 200_000 // visited, aliases followed
)

// marks are the characters that begin a node or separate two.
const marks = ",:[{-?&*!"

// parse returns the one mapping, list or scalar of text, or nil if there is none.
// Only here does the YAML library read, and a panic of it becomes an error.
func parse(text []byte) (_ *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the YAML library failed: %s; simplify the YAML", clean(fmt.Sprint(p)))
		}
	}()
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("%d bytes; such a file may have at most %d", len(text), MaxBytes)
	}
	n := 0
	for _, m := range []byte(marks) {
		n += bytes.Count(text, []byte{m})
	}
	if n > maxMarks {
		return nil, fmt.Errorf("too many entries: more than %d of the characters %s", maxMarks, marks)
	}
	l, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, err
	}
	var doc, more yaml.Node
	if err := l.Load(&doc); err == io.EOF {
		return nil, nil
	} else if err != nil {
		return nil, syntax(text, err)
	}
	if err := l.Load(&more); err == nil {
		return nil, fmt.Errorf("line %d: a second document begins here; want only one", more.Line)
	} else if err != io.EOF {
		return nil, syntax(text, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// syntax is the library's error as "line L, column C: what".
func syntax(text []byte, err error) error {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		return errors.New(clean(err.Error()))
	}
	what, at := e.Message, e.Mark
	if e.ContextMsg != "" {
		what = e.ContextMsg + ": " + what
		// Where the construct began helps; the end of the file does not.
		if e.ContextMark.Line > 0 {
			at = e.ContextMark
		}
	}
	if at.Line < 1 {
		return errors.New(clean(what))
	}
	if last := 1 + bytes.Count(bytes.TrimRight(text, "\r\n"), []byte("\n")); at.Line > last {
		return fmt.Errorf("line %d, at the end of the file: %s", last, clean(what))
	}
	return fmt.Errorf("line %d, column %d: %s", at.Line, at.Column, clean(what))
}

// clean is s, shortened, as a message may show it.
func clean(s string) string { return fault.Name(short(s)) }

func short(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

func usage(name string, err error) error {
	if err == nil {
		return nil
	}
	return fault.Usagef("%s: %w", name, err)
}
