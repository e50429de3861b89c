package browsertest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLook: a good page has no faults, and every kind of fault is found.
func TestLook(t *testing.T) {
	if Find() == "" {
		t.Skip(Missing)
	}
	b := New(t)
	dir := t.TempDir()
	const dot = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
	sound := `<h1>A page</h1><p>words</p><img src="` + dot + `" alt="a dot">
<figure class="chart"><div class="plot"><svg viewBox="0 0 10 10" width="100" height="50" role="img" aria-label="a line"><path class="s0" fill="none" stroke="#0072b2" d="M0 0L10 10"/></svg></div>
<details><summary>Figures</summary><div style="overflow-x:auto" tabindex="0" role="region" aria-label="table"><table><tr><th scope="col">step</th><th scope="col">` + "a wide table, a wide table, a wide table, a wide table, a wide table" + `</th></tr><tr><td>1</td><td style="white-space:nowrap">` + strings.Repeat("1 ", 300) + `</td></tr></table></div></details></figure>`
	for _, c := range []struct{ name, from, to, fault string }{
		{"sound", "", "", ""},
		{"a wide table", `style="overflow-x:auto"`, ``, "wide, the window 420"},
		{"outside on the left", `<p>`, `<p style="margin-left:-30px">`, "outside of the window"},
		{"console", "<h1>", "<script>console.error('oh')</script><h1>", `console: error "oh"`},
		{"exception", "<h1>", "<script>nothing()</script><h1>", "exception: "},
		{"a missing picture", dot, "gone.png", "a picture is not loaded: a dot"},
		{"a file beside it", "<h1>", `<link rel="stylesheet" href="style.css"><h1>`, "loads another file"},
		{"a picture without words", `alt="a dot"`, ``, "a picture without words"},
		{"a drawing without words", `aria-label="a line"`, ``, "a drawing without words"},
		{"a chart without figures", `td`, `th scope="row"`, "a chart without its figures"},
		{"a cut label", `<p>`, `<p style="width:20px;overflow:hidden;white-space:nowrap">`, "cut: words"},
		{"a label outside of its drawing", `</svg>`, `<text x="9" y="5" font-size="12">label</text></svg>`, "cut: label"},
		{"small text", `<p>`, `<p style="font-size:9px">`, "text of 9.0 pixels: words"},
		{"text in a smaller scale", `<p>`, `<p style="transform:scale(.6)">`, "text of 9.6 pixels: words"},
		{"a drawing that shrinks its text", `</svg>`, `<text x="1" y="5" font-size="2">l</text></svg>`, "text of 10.0 pixels: l"},
		{"pale text", `<p>`, `<p style="color:#888">`, "light: contrast 3.54: words"},
		{"dark text on dark", `<p>`, `<p style="color:#555">`, "dark: contrast"},
		{"a pale curve", `stroke="#0072b2"`, `stroke="#e8e8e8"`, "a curve that is hard to see"},
		{"a curve outside of its plot", `L10 10`, `L30 10`, "a curve leaves its plot"},
		{"a broken word", `<p>words`, `<p style="width:30px;overflow-wrap:anywhere">benchmark`, "broken inside a word: benchmark"},
		{"texts on one another", `<p>words</p>`, `<p>words</p><p style="margin-top:-34px">other</p>`, "one text on another: "},
		{"no heads", `th scope="col"`, `td`, "a table without heads"},
		{"out of the keyboard's reach", `tabindex="0"`, `tabindex="-1"`, "scrolls, but not by the keyboard"},
		{"skipped by Tab", `<p>words`, `<p tabindex="0" onfocus="this.blur()">words`, "keyboard: Tab reaches"},
		{"no focus to be seen", `<summary>`, `<summary style="outline:none">`, "the focus cannot be seen: Figures"},
		{"nothing opens", `<summary>`, `<summary onclick="event.preventDefault()">`, "Enter does not open: Figures"},
		{"no language", `<html lang="en">`, `<html>`, "no language"},
		{"no viewport", `<meta name="viewport" content="width=device-width">`, ``, "no viewport"},
		{"two titles", `<p>`, `<h1>Another</h1><p>`, "not one title"},
	} {
		text := `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"><title>A page</title>` + sound
		broken := strings.ReplaceAll(text, c.from, c.to)
		if c.from != "" && broken == text {
			t.Fatalf("%s: the page has no %s", c.name, c.from)
		}
		path := filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-")+" #1.html")
		if err := os.WriteFile(path, []byte(broken), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := b.Look(path)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(p.Faults, "\n")
		if c.fault == "" && all != "" || !strings.Contains(all, c.fault) {
			t.Errorf("%s: want %q, got\n%s", c.name, c.fault, all)
		}
		if c.name == "sound" && (p.Title != "A page" || p.Texts < 4 || p.Charts != 1 || p.Tables != 1 || p.Pictures != 1 || p.Stops != 2) {
			t.Errorf("seen: %+v", p)
		}
	}
}
