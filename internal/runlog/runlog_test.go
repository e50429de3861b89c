package runlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMetricsResumeDropsLaterAndTornLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	rows := "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2}\n{\"step\":3,\"loss\":1}\n{\"st"
	for _, c := range []struct {
		name string
		keep int64
		want string
	}{
		{"resume at 2", 2, "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2}\n{\"step\":9}\n"},
		{"resume at the end", 3, "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2}\n{\"step\":3,\"loss\":1}\n{\"step\":9}\n"},
		{"new run", -1, "{\"step\":9}\n"},
	} {
		if err := os.WriteFile(path, []byte(rows), 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := OpenMetrics(path, c.keep)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Write(map[string]int{"step": 9}); err != nil {
			t.Fatal(err)
		}
		m.Close()
		got, _ := os.ReadFile(path)
		if string(got) != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// The expected bytes are those that TensorBoard's own writer produces for the
// same event.
func TestEventsFrame(t *testing.T) {
	dir := t.TempDir()
	e, err := OpenEvents(dir)
	if err != nil {
		t.Fatal(err)
	}
	e.now = func() time.Time { return time.Unix(1, 0) }
	if err := e.Scalar("loss", 7, 0.5); err != nil {
		t.Fatal(err)
	}
	e.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	b, _ := os.ReadFile(files[0])
	var events [][]byte
	for len(b) > 0 {
		n := binary.LittleEndian.Uint64(b)
		if got, want := binary.LittleEndian.Uint32(b[8:]), maskedCRC(b[:8]); got != want {
			t.Fatalf("length checksum %08x, want %08x", got, want)
		}
		data := b[12 : 12+n]
		if got, want := binary.LittleEndian.Uint32(b[12+n:]), maskedCRC(data); got != want {
			t.Fatalf("data checksum %08x, want %08x", got, want)
		}
		events = append(events, data)
		b = b[16+n:]
	}
	if len(events) != 2 || !bytes.HasSuffix(events[0], []byte("\x1a\x0dbrain.Event:2")) {
		t.Fatalf("events %q", events)
	}
	want := "\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x10\x07\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f"
	if string(events[1]) != want {
		t.Errorf("got  %q\nwant %q", events[1], want)
	}
	for in, want := range map[string]uint32{strings.Repeat("\x00", 8): 0x07980329, "evatool": 0x2b847bcb} {
		if got := maskedCRC([]byte(in)); got != want { // TensorBoard's masked_crc32c
			t.Errorf("maskedCRC(%q) = %08x, want %08x", in, got, want)
		}
	}
}

func TestPageIsOneFileAndEscapes(t *testing.T) {
	p := NewPage("T <script>", "sub")
	p.Section("S")
	p.Note("a < b")
	p.Stats(Stat{"top-1", "12 %", "± 1"})
	p.Table([]string{"class", "n"}, [][]string{{"<b>", "1.5"}})
	p.Line(LineChart{Title: "loss", XLabel: "step", YLabel: "nats", Series: []Series{{"train", []float64{0, 1, 2}, []float64{3, math.NaN(), 1}}, {"none", nil, nil}}, Levels: []Level{{"chance", 2}}})
	p.Bars(BarChart{Title: "acc", Bars: []Bar{{Label: "a<", Value: 50, Interval: &[2]float64{40, 60}}, {Label: "chance", Value: 1, Aside: true}}, Unit: "%"})
	p.Images([]Figure{{PNG: []byte{1, 2}, Caption: "cat", Lines: []string{"dog 3"}, Good: true}})
	path := filepath.Join(t.TempDir(), "r.html")
	if err := p.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	s := string(b)
	for _, bad := range []string{"<script", "http://", "https://", "NaN", "Inf", "ZgotmplZ", "<b>"} {
		if bad == "<b>" && strings.Count(s, "<b>") == 1 { // the key figure's own tag
			continue
		}
		if strings.Contains(s, bad) {
			t.Errorf("page contains %q", bad)
		}
	}
	for _, want := range []string{`d="M0.0 0.0L1000.0 1000.0"`, "loss by step. train: 3 at 0, 1 at 2, between 1 and 3. chance: 2.", "40.00 to 60.00", "data:image/png;base64,AQI=", `class="n">1.5`, "a&lt;", `class="pic good"`} {
		if !strings.Contains(s, want) {
			t.Errorf("page lacks %q", want)
		}
	}
}

func TestTicksCoverTheRange(t *testing.T) {
	for _, r := range [][2]float64{{0, 1}, {-3.2, 7.9}, {1e-6, 2e-6}, {0, 300}, {4.99, 5.01}} {
		ts := ticks(r[0], r[1])
		if len(ts) < 3 || len(ts) > 12 || ts[0] > r[0] || ts[len(ts)-1] < r[1] {
			t.Errorf("ticks(%v) = %v", r, ts)
		}
	}
}

// Values that differ only by rounding have an axis too.
func TestCurvesOfOneValue(t *testing.T) {
	for _, v := range []float64{0, 0.5347593582887701, -1e-30, 1e300} {
		c := LineChart{Series: []Series{{"a", []float64{1, 2}, []float64{v, math.Nextafter(v, 2)}}}}
		if v := c.view(); len(v.Y) < 3 || len(v.Y) > 12 {
			t.Errorf("%+v", v.Y)
		}
	}
}

func TestTickTexts(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   string
	}{
		{0, 1, "0 0.2 0.4 0.6 0.8 1.0"}, {0, 5e-4, "0 1e-4 2e-4 3e-4 4e-4 5e-4"}, {0, 0.002, "0 0.0005 0.0010 0.0015 0.0020"},
		{1, 60000, "0 10k 20k 30k 40k 50k 60k"}, {0, 3e6, "0 0.5M 1.0M 1.5M 2.0M 2.5M 3.0M"}, {-1, 1, "-1.0 -0.5 0 0.5 1.0"},
	} {
		if got := strings.Join(tickTexts(ticks(c.lo, c.hi)), " "); got != c.want {
			t.Errorf("%g to %g: %s, want %s", c.lo, c.hi, got, c.want)
		}
	}
}

// Equal curves are drawn as one, and one that coincides with another is dashed; the
// colour depends on the place in the chart.
func TestCurvesDoNotHideEachOther(t *testing.T) {
	x := []float64{0, 1, 2, 3}
	v := LineChart{XLabel: "step", Series: []Series{
		{"a", x, []float64{1, 2, 3, 4}}, {"none", nil, nil}, {"b", x, []float64{1, 2, 3, 4}}, {"c", x, []float64{1, 2, 0, 0}}, {"d", x, []float64{4, 1, 0, 1}},
	}}.view()
	var got []string
	for _, c := range v.Curves {
		got = append(got, c.Name+": "+c.Class)
	}
	if want := "a = b: s0, c: s3 d1, d: s4 d2"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if len(v.Head) != 4 || len(v.Rows) != 4 || v.Rows[3][2].Text != "0" {
		t.Errorf("figures: %v %v", v.Head, v.Rows)
	}
	for i := range 8 {
		v := LineChart{Series: make([]Series, 8)}
		v.Series[i] = Series{"x", x, x}
		if want := fmt.Sprintf("s%d", i%colours); !strings.HasPrefix(v.view().Curves[0].Class, want) || i >= colours != strings.Contains(v.view().Curves[0].Class, " d") {
			t.Errorf("series %d: %s", i, v.view().Curves[0].Class)
		}
	}
}

// A noisy curve is its running mean over the pale curve; a short one stays as it is.
func TestNoisyCurves(t *testing.T) {
	var s Series
	for i := range 200 {
		s.X, s.Y = append(s.X, float64(i)), append(s.Y, float64(2+i%2))
	}
	s.Y[7] = math.NaN()
	v := LineChart{XLabel: "step", Series: []Series{s, {"short", s.X[:50], s.Y[:50]}}, Noisy: true}.view()
	if v.Curves[0].Pale == "" || v.Curves[0].Pale == v.Curves[0].Path || v.Curves[1].Pale != "" || !strings.HasPrefix(v.XLabel, "step (pale") {
		t.Errorf("%q %+v", v.XLabel, v.Curves)
	}
	if got := runningMean([]float64{1, 2, 3, math.NaN(), 5}, 3); got[0] != 1.5 || got[1] != 2 || got[2] != 2.5 || got[3] != 4 || got[4] != 5 {
		t.Error(got)
	}
}

// Intervals wider than their bars are given only as figures.
func TestWideIntervals(t *testing.T) {
	for half, drawn := range map[float64]bool{5: true, 15: true, 30: false} {
		c := BarChart{Unit: "%"}
		for v := 40.; v < 60; v++ {
			c.Bars = append(c.Bars, Bar{Label: "x", Value: v, Interval: &[2]float64{v - half, v + half}})
		}
		if v := c.view(); v.Drawn != drawn || v.Bars[0].Interval == "" || v.Bars[0].Length != 40 {
			t.Errorf("half a width of %g: drawn %v; %+v", half, v.Drawn, v.Bars[0])
		}
	}
}

func TestColumnsOfFigures(t *testing.T) {
	rows := cells([]string{"a", "b", "c", "d", "e", "f"}, [][]string{{"x", "1", "1.5 %", "-1.50 to 2.00", "3 of 40", ""}, {"2", "", "2 %", "", "1e-05", "2 files"}})
	got := ""
	for _, c := range rows[0] {
		got += fmt.Sprint(c.Number, " ")
	}
	if got != "false true true true true false " {
		t.Error(got)
	}
}

func TestSoft(t *testing.T) {
	if got := soft("a<b open_clip_pytorch_model.bin x-y"); got != "a&lt;b open_<wbr>clip_<wbr>pytorch_<wbr>model.<wbr>bin x-y" {
		t.Error(got)
	}
}

func TestProgressIsSilentWithoutTerminal(t *testing.T) {
	var b bytes.Buffer
	for _, s := range []*Screen{nil, NewScreen(&b)} {
		p := NewProgress(s, "x", 10, "B")
		p.Add(3)
		p.Done()
		p.Done()
	}
	if b.Len() != 0 {
		t.Errorf("wrote %q within the first 30 s", b.String())
	}
}

// What a browser or a terminal would obey is escaped in every part of a page.
func TestPageEscapes(t *testing.T) {
	const hostile = "a\x1b[2J\u202eb"
	p := NewPage(hostile, hostile)
	p.Section(hostile)
	p.Note(hostile)
	p.Pre(hostile)
	p.Stats(Stat{hostile, hostile, hostile})
	p.Table([]string{hostile}, [][]string{{hostile}})
	p.Images([]Figure{{Caption: hostile, Lines: []string{hostile}}})
	p.Bars(BarChart{Title: hostile, Bars: []Bar{{Label: hostile, Value: 1}}})
	p.Line(LineChart{Title: hostile, XLabel: hostile, YLabel: hostile, Series: []Series{{hostile, []float64{1}, []float64{1}}}, Levels: []Level{{hostile, 2}}})
	path := filepath.Join(t.TempDir(), "report.html")
	if err := p.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); strings.ContainsAny(s, "\x1b\u202e") || !strings.Contains(s, `\u202e`) {
		t.Error("control or bidirectional characters in the page")
	}
}

func TestLogMasksPasswords(t *testing.T) {
	var b strings.Builder
	NewLogger(&b, false, false).Info("reading", "source", "https://me:secret@h/x.tar")
	if s := b.String(); strings.Contains(s, "secret") || !strings.Contains(s, "https://me:xxxxx@h/x.tar") {
		t.Error(s)
	}
}
