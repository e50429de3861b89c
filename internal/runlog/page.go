package runlog

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// Page is a self-contained HTML report: no script, no external file, charts as
// HTML and inline SVG and pictures as data URIs, so that it can be mailed. It
// works in windows of 320 pixels and more, light and dark, by mouse and keyboard.
type Page struct {
	Title, Subtitle string
	blocks          []block
	section         string
}

type block struct {
	Kind    string
	Text    string
	Name    string // name of a scrolling box
	Head    []string
	Rows    [][]cell
	Stats   []Stat
	Figures []Figure
	Line    *lineView
	Bars    *barView
}

// cell is a cell of a table; Number sets it flush right.
type cell struct {
	Text   string
	Number bool
}

// Class is the cell's CSS class: a short text stays on one line, a long one does not
// become a narrow column.
func (c cell) Class() string {
	switch {
	case c.Number:
		return "n"
	case len(c.Text) > longText:
		return "long"
	case len(c.Text) <= shortText:
		return "short"
	}
	return ""
}

const shortText, longText = 24, 30 // characters

// Stat is one key figure.
type Stat struct{ Label, Value, Note string }

// Figure is a picture with a caption and a few lines, such as the best guesses of a
// model, marked as right if Good and else as wrong.
type Figure struct {
	PNG     []byte
	Caption string
	Lines   []string
	Good    bool
}

// URI is the picture as a data URI.
func (f Figure) URI() template.URL {
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(f.PNG))
}

// NewPage starts a page.
func NewPage(title, subtitle string) *Page { return &Page{Title: title, Subtitle: subtitle} }

// Section starts a section.
func (p *Page) Section(title string) {
	p.section = title
	p.add(block{Kind: "section", Text: title})
}

// Note adds a paragraph.
func (p *Page) Note(text string) { p.add(block{Kind: "note", Text: text}) }

// Pre adds preformatted text.
func (p *Page) Pre(text string) { p.add(block{Kind: "pre", Text: text}) }

// Stats adds a row of key figures.
func (p *Page) Stats(s ...Stat) { p.add(block{Kind: "stats", Stats: s}) }

// Table adds a table; columns of figures are set flush right. A nil head makes a
// list of names and values.
func (p *Page) Table(head []string, rows [][]string) {
	if head == nil {
		p.add(block{Kind: "list", Rows: cells(nil, rows)})
		return
	}
	p.add(block{Kind: "table", Head: head, Rows: cells(head, rows)})
}

// figures matches the cells of a column of figures: 12.5, -3 %, 1.5 to 2, 3 of 40.
var figures = regexp.MustCompile(`^[-+−]?[0-9][0-9.,e+-]*( ?[%×x])?( (to|of) [-+−]?[0-9][0-9.,e+-]*)?$`)

// cells returns the rows; columns that hold nothing but figures are numbers.
func cells(head []string, rows [][]string) [][]cell {
	number := make([]bool, len(head))
	for i := range number {
		for _, r := range rows {
			if i < len(r) && r[i] != "" {
				if number[i] = figures.MatchString(r[i]); !number[i] {
					break
				}
			}
		}
	}
	var out [][]cell
	for _, r := range rows {
		line := make([]cell, max(len(r), len(head)))
		for i, text := range r {
			line[i] = cell{text, i < len(number) && number[i]}
		}
		out = append(out, line)
	}
	return out
}

// Images adds a grid of pictures.
func (p *Page) Images(f []Figure) { p.add(block{Kind: "images", Figures: f}) }

// Line adds a line chart.
func (p *Page) Line(c LineChart) { p.add(block{Kind: "line", Line: c.view()}) }

// Bars adds a bar chart.
func (p *Page) Bars(c BarChart) { p.add(block{Kind: "bars", Bars: c.view()}) }

func (p *Page) add(b block) {
	b.Name = p.section
	if b.Name == "" {
		b.Name = p.Title
	}
	p.blocks = append(p.blocks, b)
}

// Blocks is for the template.
func (p *Page) Blocks() []block { return p.blocks }

// Names are short names for files or folders: the last part of each path, and the
// whole path where several end alike.
func Names(paths []string) []string {
	names, alike := make([]string, len(paths)), map[string]int{}
	for i, p := range paths {
		names[i] = filepath.Base(filepath.Clean(p))
		alike[names[i]]++
	}
	for i, p := range paths {
		if alike[names[i]] > 1 || names[i] == "." {
			names[i] = filepath.Clean(p)
		}
	}
	return names
}

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"soft": soft,
	"headClass": func(rows [][]cell, i int, text string) string {
		class := ""
		if len(rows) > 0 && i < len(rows[0]) && rows[0][i].Number {
			class = "n"
		}
		if len(text) > longText {
			class += " long"
		}
		return class
	},
}).Parse(pageHTML))

// soft lets a long name, such as a file's, break after punctuation and nowhere else.
func soft(text string) template.HTML {
	var b strings.Builder
	for word := range strings.SplitAfterSeq(text, " ") {
		from := 0
		if len(word) > 16 {
			for _, at := range signs.FindAllStringIndex(word, -1) {
				b.WriteString(template.HTMLEscapeString(word[from:at[1]]) + "<wbr>")
				from = at[1]
			}
		}
		b.WriteString(template.HTMLEscapeString(word[from:]))
	}
	return template.HTML(b.String())
}

var signs = regexp.MustCompile(`[-_./,:=@+]+`)

// WriteFile writes the page to path, whole or not at all.
func (p *Page) WriteFile(path string) error {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.WriteFile(path, []byte(fault.Escape(b.String())))
}
