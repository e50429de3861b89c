package runlog

import (
	"bytes"
	"encoding/binary"
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
	p.Line(LineChart{Title: "loss", XLabel: "step", YLabel: "loss", Series: []Series{
		{"train", []float64{0, 1, 2}, []float64{3, math.NaN(), 1}}, {"flat", []float64{0, 2}, []float64{2, 2}}}})
	p.Bars(BarChart{Title: "acc", Labels: []string{"a<"}, Values: []float64{50}, Lo: []float64{40}, Hi: []float64{60}, Marks: []float64{55}, Unit: " %"})
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
	for _, want := range []string{"<polyline", "data:image/png;base64,AQI=", `class="n">1.5`, "a&lt;", `class="good"`} {
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
	p.Bars(BarChart{Title: hostile, Labels: []string{hostile}, Values: []float64{1}})
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
