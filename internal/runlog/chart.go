package runlog

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Series is one curve; X ascends, and values of Y that are not finite are left out.
type Series struct {
	Name string
	X, Y []float64
}

// Level is a constant to compare curves with, such as chance.
type Level struct {
	Name string
	Y    float64
}

// LineChart is a chart of curves over a shared x axis. Equal curves are drawn as one
// with all their names; one that partly coincides with another is drawn dashed.
// Noisy draws long curves as running means over the pale curves themselves.
type LineChart struct {
	Title, XLabel, YLabel string
	Series                []Series
	Levels                []Level
	Noisy                 bool
}

// BarChart is a chart of horizontal bars from zero.
type BarChart struct {
	Title string
	Unit  string // "%" or "s"
	Bars  []Bar
}

// Bar is a bar of a chart, with an optional interval. Aside marks one to compare with:
// a published value, or chance.
type Bar struct {
	Label    string
	Value    float64
	Interval *[2]float64
	Aside    bool
}

const (
	maxPoints = 1500 // drawn of a curve
	dotPoints = 40   // a curve of no more has a dot at each
	noisyFrom = 60   // points from which a curve gets a running mean
	tableRows = 16   // of the figures of a curve
	tickCount = 6
	colours   = 6
	plotSize  = 1000 // units of a plot's SVG each way; it is stretched to its box
	// wideInterval is the share of the axis above which intervals would hide the bars
	// and are given only as figures.
	wideInterval = 0.4
)

// lineView is a line chart as the template draws it: axes and names are HTML, so
// that they keep their size in a narrow window; the SVG holds only the curves.
type lineView struct {
	Title, XLabel, YLabel string
	Label                 string // what the curves show, in words
	Width                 int    // characters of the longest y label
	Grid                  []float64
	X, Y                  []tick
	Curves                []curveView
	Legend                bool
	Name                  string   // of the table of figures
	Head                  []string // some of the figures
	Rows                  [][]cell
}

type tick struct {
	At   float64 // percentage of the axis, from the left or from the top
	Text string
}

type curveView struct {
	Name, Class, Path string
	Pale              string // the curve itself, where Path is its running mean
	Dots              []dot
}

type dot struct{ Path, Text string }

func (c LineChart) view() *lineView {
	series, levels := together(c.Series), sameLevels(c.Levels)
	var xs, ys []float64
	for _, s := range series {
		xs, ys = append(xs, s.X...), append(ys, s.Y...)
	}
	for _, l := range levels {
		ys = append(ys, l.Y)
	}
	x0, x1 := span(xs)
	y0, y1 := span(ys)
	yt := ticks(y0, y1)
	y0, y1 = math.Min(y0, yt[0]), math.Max(y1, yt[len(yt)-1])
	px := func(x float64) float64 { return (x - x0) / (x1 - x0) }
	py := func(y float64) float64 { return 1 - (y-y0)/(y1-y0) }

	v := &lineView{Title: c.Title, Name: c.Title, XLabel: c.XLabel, YLabel: c.YLabel, Label: c.words(series, levels)}
	for i, text := range tickTexts(yt) {
		v.Y = append(v.Y, tick{percentOf(py(yt[i])), text})
		v.Grid = append(v.Grid, math.Round(plotSize*py(yt[i])))
		v.Width = max(v.Width, len([]rune(text)))
	}
	steps := !slices.ContainsFunc(xs, func(x float64) bool { return x != math.Trunc(x) })
	xt := slices.DeleteFunc(ticks(x0, x1), func(t float64) bool { return t < x0 || t > x1 || steps && t != math.Trunc(t) })
	for i, text := range tickTexts(xt) {
		v.X = append(v.X, tick{percentOf(px(xt[i])), text})
	}
	lines := slices.Clone(series)
	for i, s := range series {
		if n := max(5, len(s.X)/50) | 1; c.Noisy && len(s.X) >= noisyFrom {
			lines[i].Y = runningMean(s.Y, n)
			v.XLabel = c.XLabel + " (pale: each; line: running mean)"
		}
	}
	path := func(s curve) string {
		var b strings.Builder
		every := max(1, (len(s.X)+maxPoints-1)/maxPoints)
		for j := range s.X {
			if (j%every == 0 || j == len(s.X)-1) && finite(s.Y[j]) {
				letter := "L"
				if b.Len() == 0 {
					letter = "M"
				}
				fmt.Fprintf(&b, "%s%.1f %.1f", letter, plotSize*px(s.X[j]), plotSize*py(s.Y[j]))
			}
		}
		return b.String()
	}
	dashes := dashed(lines, (y1-y0)/150)
	for i, s := range series {
		cv := curveView{Name: s.Name, Class: fmt.Sprintf("s%d", s.place%colours), Path: path(lines[i])}
		if d := max(dashes[i], min(s.place/colours, 3)); d > 0 {
			cv.Class += fmt.Sprintf(" d%d", d)
		}
		if &lines[i].Y[0] != &s.Y[0] {
			cv.Pale = path(s)
		}
		for j := range s.X {
			if len(s.X) <= dotPoints && finite(s.Y[j]) {
				at := fmt.Sprintf("M%.1f %.1fh0", plotSize*px(s.X[j]), plotSize*py(s.Y[j]))
				cv.Dots = append(cv.Dots, dot{at, fmt.Sprintf("%s, %s %s: %s", s.Name, c.XLabel, whole(s.X[j]), num(s.Y[j]))})
			}
		}
		v.Curves = append(v.Curves, cv)
	}
	for i, l := range levels {
		y := plotSize * py(l.Y)
		v.Curves = append(v.Curves, curveView{l.Name + ": " + num(l.Y), fmt.Sprintf("level l%d", i%3), fmt.Sprintf("M0 %.1fH%d", y, plotSize), "", nil})
	}
	v.Legend = len(v.Curves) > 1 || len(c.Series) > 1
	v.Head, v.Rows = c.table(series)
	return v
}

// runningMean is, for each value, the mean of the finite ones among the n around it.
func runningMean(y []float64, n int) []float64 {
	out := make([]float64, len(y))
	for i := range y {
		sum, count := 0.0, 0
		for _, v := range y[max(0, i-n/2):min(len(y), i+n/2+1)] {
			if finite(v) {
				sum, count = sum+v, count+1
			}
		}
		out[i] = sum / float64(count)
	}
	return out
}

// words describe the curves for readers who cannot see them.
func (c LineChart) words(series []curve, levels []Level) string {
	said := []string{c.Title + " by " + c.XLabel}
	for _, s := range series {
		lo, hi := extent(s.Y)
		first := slices.IndexFunc(s.Y, finite)
		last := len(s.Y) - 1
		for !finite(s.Y[last]) {
			last--
		}
		said = append(said, fmt.Sprintf("%s: %s at %s, %s at %s, between %s and %s", s.Name, num(s.Y[first]), whole(s.X[first]), num(s.Y[last]), whole(s.X[last]), num(lo), num(hi)))
	}
	for _, l := range levels {
		said = append(said, l.Name+": "+num(l.Y))
	}
	return strings.Join(said, ". ") + "."
}

// table gives the curves at some places of the x axis, including the first and the
// last.
func (c LineChart) table(series []curve) (head []string, rows [][]cell) {
	head = []string{c.XLabel}
	var xs []float64
	for _, s := range series {
		head, xs = append(head, s.Name), append(xs, s.X...)
	}
	slices.Sort(xs)
	xs = slices.Compact(xs)
	n := min(tableRows, len(xs))
	for k := range n {
		x := xs[0]
		if n > 1 {
			x = xs[k*(len(xs)-1)/(n-1)]
		}
		row := []cell{{whole(x), true}}
		for _, s := range series {
			text := ""
			i, exact := slices.BinarySearch(s.X, x)
			if !exact {
				i-- // the last value before it
			}
			if i >= 0 && x <= s.X[len(s.X)-1] && finite(s.Y[i]) {
				text = num(s.Y[i])
			}
			row = append(row, cell{text, true})
		}
		rows = append(rows, row)
	}
	return head, rows
}

// curve is a series and its place among those of the chart, which determines its
// colour: a run has one colour on all charts of a page, even if some lack its curve.
type curve struct {
	Series
	place int
}

// together leaves out series without a value and merges equal ones.
func together(list []Series) (out []curve) {
	same := func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }
	for i, s := range list {
		if !slices.ContainsFunc(s.Y, finite) {
			continue
		}
		if k := slices.IndexFunc(out, func(o curve) bool { return slices.Equal(o.X, s.X) && slices.EqualFunc(o.Y, s.Y, same) }); k >= 0 {
			out[k].Name += " = " + s.Name
		} else {
			out = append(out, curve{s, i})
		}
	}
	return out
}

func sameLevels(list []Level) (out []Level) {
	for _, l := range list {
		i := slices.IndexFunc(out, func(o Level) bool { return o.Y == l.Y })
		if i < 0 {
			out = append(out, l)
		} else {
			out[i].Name += " = " + l.Name
		}
	}
	return out
}

// dashed gives each curve that is within near of an earlier one at a tenth of its
// points or more its own dash pattern: the curve below shows between the dashes.
func dashed(series []curve, near float64) []int {
	out := make([]int, len(series))
	for i, s := range series {
		for k, o := range series[:i] {
			on := 0
			for j, x := range s.X {
				if at, ok := slices.BinarySearch(o.X, x); ok && math.Abs(o.Y[at]-s.Y[j]) <= near {
					on++
				}
			}
			if on > 0 && 10*on >= len(s.X) {
				out[i] = max(out[i], min(out[k]+1, 3))
			}
		}
	}
	return out
}

// barView is a bar chart as the template draws it; lengths are percentages.
type barView struct {
	Title string
	Bars  []barRow
	Drawn bool // whether intervals are drawn, or only given as figures
}

type barRow struct {
	Label, Value, Interval string
	Length, From, Over     float64
	Aside                  bool
}

func (c BarChart) view() *barView {
	top := 0.0
	var widths []float64
	for _, b := range c.Bars {
		top = math.Max(top, b.Value)
		if b.Interval != nil {
			top = math.Max(top, b.Interval[1])
			widths = append(widths, b.Interval[1]-b.Interval[0])
		}
	}
	switch {
	case top <= 0:
		top = 1
	case c.Unit == "%" && top > 50:
		top = math.Max(top, 100)
	}
	v := &barView{Title: c.Title}
	if slices.Sort(widths); len(widths) > 0 {
		v.Drawn = widths[len(widths)/2] <= wideInterval*top
	}
	at := func(x float64) float64 { return percentOf(math.Max(0, x) / top) }
	for _, b := range c.Bars {
		row := barRow{Label: b.Label, Value: num(b.Value) + " " + c.Unit, Length: at(b.Value), Aside: b.Aside}
		if c.Unit == "%" {
			row.Value = fmt.Sprintf("%.2f %%", b.Value)
		}
		if i := b.Interval; i != nil {
			row.From, row.Over = at(i[0]), at(i[1])-at(i[0])
			row.Interval = fmt.Sprintf("%.2f to %.2f", i[0], i[1])
		}
		v.Bars = append(v.Bars, row)
	}
	return v
}

// HasIntervals reports whether any bar has an interval.
func (v *barView) HasIntervals() bool {
	return slices.ContainsFunc(v.Bars, func(b barRow) bool { return b.Interval != "" })
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func percentOf(share float64) float64 { return math.Round(1e4*share) / 100 }

// extent is the smallest and the largest finite value.
func extent(values []float64) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if finite(v) {
			lo, hi = math.Min(lo, v), math.Max(hi, v)
		}
	}
	return lo, hi
}

// span is the range of an axis, never empty.
func span(values []float64) (lo, hi float64) {
	lo, hi = extent(values)
	if lo > hi {
		return 0, 1
	}
	if hi-lo <= max(1e-300, 1e-9*math.Abs(lo), 1e-9*math.Abs(hi)) { // no axis tells them apart
		d := math.Abs(lo) / 10
		if d < 1e-300 {
			d = 0.5
		}
		return lo - d, hi + d
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

// tickTexts formats the values of an axis with as many digits as distinguish them,
// large ones in thousands, millions or billions.
func tickTexts(values []float64) []string {
	top, step := 0.0, math.Inf(1)
	for i, v := range values {
		top = math.Max(top, math.Abs(v))
		if i > 0 {
			step = math.Min(step, v-values[i-1])
		}
	}
	unit, by := "", 1.0
	switch {
	case top >= 1e12 || top > 0 && top < 1e-3:
		var out []string
		for _, v := range values {
			text := strconv.FormatFloat(v, 'e', -1, 64)
			if math.Abs(v) < step/2 {
				text = "0"
			} else if digits := max(0, int(math.Floor(math.Log10(math.Abs(v))+1e-9)-math.Floor(math.Log10(step)+1e-9))); digits < 10 && len(values) > 1 {
				text = strconv.FormatFloat(v, 'e', digits, 64)
			}
			out = append(out, strings.NewReplacer("e-0", "e-", "e+0", "e", "e+", "e").Replace(text))
		}
		return out
	case top >= 1e9:
		unit, by = "G", 1e9
	case top >= 1e6:
		unit, by = "M", 1e6
	case top >= 1e4:
		unit, by = "k", 1e3
	}
	decimals := 0
	if !math.IsInf(step, 1) {
		decimals = max(0, int(math.Ceil(-math.Log10(step/by)-1e-9)))
	}
	var out []string
	for _, v := range values {
		text := strconv.FormatFloat(v/by, 'f', decimals, 64)
		if strings.Trim(text, "-0.") == "" {
			out = append(out, "0")
		} else {
			out = append(out, text+unit)
		}
	}
	return out
}

// num formats a value with four significant digits.
func num(v float64) string {
	a := math.Abs(v)
	if a != 0 && (a < 1e-3 || a >= 1e7) {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	decimals := 0
	if a != 0 {
		decimals = max(0, 3-int(math.Floor(math.Log10(a))))
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// whole formats a place on the x axis: a step, or a number of images.
func whole(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
