package runlog

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
)

// Page is a self-contained HTML report: no script, no external file, charts as
// inline SVG and pictures as data URIs, so that it can be mailed.
type Page struct {
	Title, Subtitle string
	blocks          []block
}

type block struct {
	Kind    string
	Text    string
	Head    []string
	Rows    [][]string
	Stats   []Stat
	Figures []Figure
	SVG     template.HTML
}

// Stat is one key figure.
type Stat struct{ Label, Value, Note string }

// Figure is a picture with a caption and a few lines, such as the best
// guesses of a model; Good colours its frame.
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

// Series is one curve.
type Series struct {
	Name string
	X, Y []float64
}

// LineChart is a chart of curves over a shared x axis.
type LineChart struct {
	Title, XLabel, YLabel string
	Series                []Series
}

// BarChart is a chart of horizontal bars. Lo and Hi, when given, draw an
// interval on each bar; Marks draws a tick (a published value, say) where it
// is not NaN.
type BarChart struct {
	Title  string
	Labels []string
	Values []float64
	Lo, Hi []float64
	Marks  []float64
	Unit   string
}

// NewPage starts a page.
func NewPage(title, subtitle string) *Page { return &Page{Title: title, Subtitle: subtitle} }

// Section starts a section.
func (p *Page) Section(title string) { p.add(block{Kind: "section", Text: title}) }

// Note adds a paragraph.
func (p *Page) Note(text string) { p.add(block{Kind: "note", Text: text}) }

// Pre adds preformatted text.
func (p *Page) Pre(text string) { p.add(block{Kind: "pre", Text: text}) }

// Stats adds a row of key figures.
func (p *Page) Stats(s ...Stat) { p.add(block{Kind: "stats", Stats: s}) }

// Table adds a table; cells that look like numbers are set flush right. A nil
// head makes a list of names and values.
func (p *Page) Table(head []string, rows [][]string) {
	p.add(block{Kind: "table", Head: head, Rows: rows})
}

// Images adds a grid of pictures.
func (p *Page) Images(f []Figure) { p.add(block{Kind: "images", Figures: f}) }

// Line adds a line chart.
func (p *Page) Line(c LineChart) { p.add(block{Kind: "svg", Text: c.Title, SVG: c.svg()}) }

// Bars adds a bar chart.
func (p *Page) Bars(c BarChart) { p.add(block{Kind: "svg", Text: c.Title, SVG: c.svg()}) }

func (p *Page) add(b block) { p.blocks = append(p.blocks, b) }

// Blocks is for the template.
func (p *Page) Blocks() []block { return p.blocks }

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"numeric": func(s string) bool {
		s = strings.TrimRight(s, " %×x")
		_, err := strconv.ParseFloat(s, 64)
		return err == nil
	},
}).Parse(pageHTML))

// WriteFile writes the page to path, whole or not at all.
func (p *Page) WriteFile(path string) error {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.WriteFile(path, []byte(fault.Escape(b.String())))
}

// palette holds colours that stay apart for colour-blind readers (Okabe, Ito).
var palette = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

const (
	chartW, chartH               = 760, 300
	padL, padR, padT, padB       = 58, 16, 12, 42
	plotW, legendH, legendW      = chartW - padL - padR, 24, 150
	barH, barLabelW, barValueW   = 22, 200, 110
	barPlotW                     = chartW - barLabelW - barValueW
	maxPoints                    = 1500
	tickCount                    = 6
	fontAttr                     = `font-size="12" fill="currentColor"`
	gridAttr                     = `stroke="currentColor" stroke-opacity=".15"`
	intervalAttr, publishedColor = `stroke="currentColor" stroke-width="1.5"`, "#d55e00"
)

func (c LineChart) svg() template.HTML {
	x0, x1 := span(c.Series, func(s Series) []float64 { return s.X })
	y0, y1 := span(c.Series, func(s Series) []float64 { return s.Y })
	yt := ticks(y0, y1)
	y0, y1 = math.Min(y0, yt[0]), math.Max(y1, yt[len(yt)-1])
	top := padT
	if len(c.Series) > 1 {
		top += legendH
	}
	plotH := chartH - top - padB
	px := func(x float64) float64 { return padL + plotW*(x-x0)/(x1-x0) }
	py := func(y float64) float64 { return float64(top) + float64(plotH)*(1-(y-y0)/(y1-y0)) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartW, chartH, template.HTMLEscapeString(c.Title))
	for _, t := range yt {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" %s/><text x="%d" y="%.1f" text-anchor="end" %s>%s</text>`,
			padL, chartW-padR, py(t), py(t), gridAttr, padL-6, py(t)+4, fontAttr, num(t))
	}
	for _, t := range ticks(x0, x1) {
		if t >= x0 && t <= x1 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" %s>%s</text>`, px(t), chartH-padB+16, fontAttr, num(t))
		}
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" %s>%s</text>`, padL+plotW/2, chartH-6, fontAttr, template.HTMLEscapeString(c.XLabel))
	fmt.Fprintf(&b, `<text transform="translate(13 %d) rotate(-90)" text-anchor="middle" %s>%s</text>`, top+plotH/2, fontAttr, template.HTMLEscapeString(c.YLabel))
	for i, s := range c.Series {
		col := palette[i%len(palette)]
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.8" points="`, col)
		step := max(1, (len(s.X)+maxPoints-1)/maxPoints)
		for j := 0; j < len(s.X); j += step {
			if finite(s.Y[j]) {
				fmt.Fprintf(&b, "%.1f,%.1f ", px(s.X[j]), py(s.Y[j]))
			}
		}
		b.WriteString(`"/>`)
		if len(s.X) <= 40 {
			for j := range s.X {
				if finite(s.Y[j]) {
					fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s</title></circle>`, px(s.X[j]), py(s.Y[j]), col, num(s.X[j]), num(s.Y[j]))
				}
			}
		}
		if len(c.Series) > 1 {
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/><text x="%d" y="%d" %s>%s</text>`,
				padL+legendW*i, 2, col, padL+legendW*i+15, 11, fontAttr, template.HTMLEscapeString(s.Name))
		}
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

func (c BarChart) svg() template.HTML {
	top := 0.0
	for _, vs := range [][]float64{c.Values, c.Hi, c.Marks} {
		for _, v := range vs {
			if finite(v) {
				top = math.Max(top, v)
			}
		}
	}
	if top == 0 {
		top = 1
	}
	px := func(v float64) float64 { return barLabelW + barPlotW*math.Max(0, v)/top }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartW, barH*len(c.Values)+4, template.HTMLEscapeString(c.Title))
	for i, v := range c.Values {
		y := barH * i
		mid := float64(y) + barH/2
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" %s>%s</text>`, barLabelW-8, y+15, fontAttr, template.HTMLEscapeString(clip(c.Labels[i], 30)))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`, barLabelW, y+4, math.Max(0.5, px(v)-barLabelW), barH-8, palette[0])
		end := px(v)
		if i < len(c.Lo) && i < len(c.Hi) {
			fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8" %s/>`, px(c.Lo[i]), mid, px(c.Hi[i]), px(c.Lo[i]), mid-4, px(c.Hi[i]), mid-4, intervalAttr)
			end = math.Max(end, px(c.Hi[i]))
		}
		if i < len(c.Marks) && finite(c.Marks[i]) {
			fmt.Fprintf(&b, `<path d="M%.1f %dv%d" stroke="%s" stroke-width="3"><title>%s</title></path>`, px(c.Marks[i]), y+2, barH-4, publishedColor, num(c.Marks[i]))
			end = math.Max(end, px(c.Marks[i]))
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" %s>%s%s</text>`, end+8, y+15, fontAttr, num(v), template.HTMLEscapeString(c.Unit))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func span(series []Series, of func(Series) []float64) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, s := range series {
		for _, v := range of(s) {
			if finite(v) {
				lo, hi = math.Min(lo, v), math.Max(hi, v)
			}
		}
	}
	if lo > hi {
		return 0, 1
	}
	if lo == hi {
		return lo - 0.5, hi + 0.5
	}
	return lo, hi
}

// ticks returns round values that cover [lo, hi].
func ticks(lo, hi float64) []float64 {
	raw := (hi - lo) / tickCount
	mag := math.Pow(10, math.Floor(math.Log10(raw)))
	step := mag
	for _, m := range []float64{1, 2, 5, 10} {
		if step = m * mag; step >= raw {
			break
		}
	}
	var out []float64
	for i := math.Floor(lo / step); i*step < hi+step*0.999; i++ {
		out = append(out, i*step)
	}
	return out
}

func num(v float64) string {
	if a := math.Abs(v); a != 0 && (a < 1e-3 || a >= 1e6) {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64)
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
