// Package browsertest opens reports in a headless Chromium and lists what would
// trouble a reader: in windows of a phone, a tablet and a desktop, light and dark,
// with a mouse or only a keyboard.
package browsertest

import (
	"context"
	_ "embed"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Missing says how to get a browser.
const Missing = "no Chromium: reports are not opened in a browser (to get it: apt-get install chromium)"

// widths are those of a phone, a tablet and a desktop, in pixels.
var widths = []int64{420, 800, 1400}

// tooLong bounds the time for one page.
const tooLong = 2 * time.Minute

var (
	//go:embed look.js
	look string
	//go:embed keys.js
	keys string
)

// Find is the path of Chromium, "" if there is none.
func Find() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Browser is one process, started with the first page.
type Browser struct {
	mu  sync.Mutex
	t   testing.TB
	ctx context.Context // of its one tab, nil before it starts
}

// New returns a browser that ends with the test t.
func New(t testing.TB) *Browser { return &Browser{t: t} }

// Page is what was seen of a page.
type Page struct {
	Title  string
	Faults []string
	// How much was looked at.
	Texts, Charts, Tables, Pictures, Stops int
}

func (b *Browser) start() error {
	if b.ctx != nil {
		return nil
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(Find()), chromedp.UserDataDir(b.t.TempDir()),
		chromedp.Flag("disable-smooth-scrolling", true), chromedp.Flag("hide-scrollbars", false))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	all, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(all)
	if err := chromedp.Do(ctx); err != nil {
		cancel()
		stop()
		return fmt.Errorf("%s does not start: %w", Find(), err)
	}
	b.t.Cleanup(func() {
		chromedp.Cancel(ctx) // waits, so that its folder can be removed
		cancel()
		stop()
	})
	b.ctx = ctx
	return nil
}

// Look opens the page at path and looks at it.
func (b *Browser) Look(path string) (*Page, error) {
	b.mu.Lock() // the keyboard goes to one page
	defer b.mu.Unlock()
	if err := b.start(); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(b.ctx, tooLong)
	defer cancel()
	v := &view{page: &Page{}, ctx: ctx, where: (&url.URL{Scheme: "file", Path: filepath.ToSlash(abs)}).String()}
	err = chromedp.Listen(ctx, v.hear)
	if err == nil {
		err = v.open()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.page.Faults = append(v.page.Faults, v.said...)
	return v.page, nil
}

// view is a page in a tab.
type view struct {
	page  *Page
	ctx   context.Context
	where string
	mu    sync.Mutex
	said  []string
}

func (v *view) open() error {
	if _, err := chromedp.Call(v.ctx, network.Enable, network.EnableParams{}); err != nil {
		return err
	}
	err := chromedp.Do(v.ctx, chromedp.Navigate(v.where))
	if err != nil {
		return err
	}
	if v.page.Title, err = chromedp.Run(v.ctx, chromedp.Title()); err != nil {
		return err
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, w := range widths {
			if err := v.look(w, scheme, ""); err != nil {
				return err
			}
		}
	}
	if err := v.keyboard(); err != nil {
		return err
	}
	for _, w := range widths { // with all that folds unfolded
		if err := v.look(w, "light", `document.querySelectorAll("details").forEach(d => d.open = true);`); err != nil {
			return err
		}
	}
	return nil
}

// hear records what the page logs and requests while it is open.
func (v *view) hear(event any) {
	text := ""
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		text = "console: " + string(e.Type)
		for _, a := range e.Args {
			text += " " + string(a.Value)
		}
	case *runtime.EventExceptionThrown:
		text = "exception: " + e.ExceptionDetails.Text
	case *log.EventEntryAdded:
		text = "log: " + e.Entry.Text
	case *network.EventRequestWillBeSent:
		if e.Request.URL != v.where && !strings.HasPrefix(e.Request.URL, "data:") {
			text = "loads another file: " + e.Request.URL
		}
	}
	if text != "" {
		v.mu.Lock()
		v.said = append(v.said, text)
		v.mu.Unlock()
	}
}

// look lays out the page for a window and returns what look.js finds.
func (v *view) look(width int64, scheme, before string) error {
	if err := v.resize(width, scheme); err != nil {
		return err
	}
	found, err := chromedp.Run(v.ctx, chromedp.Evaluate[struct {
		Faults []string `json:"faults"`
		Seen   struct {
			Texts    int `json:"texts"`
			Charts   int `json:"charts"`
			Tables   int `json:"tables"`
			Pictures int `json:"pictures"`
		} `json:"seen"`
	}](before+look))
	for _, f := range found.Faults {
		v.page.Faults = append(v.page.Faults, fmt.Sprintf("%d px, %s: %s", width, scheme, f))
	}
	s := found.Seen
	v.page.Texts, v.page.Charts, v.page.Tables, v.page.Pictures = s.Texts, s.Charts, s.Tables, s.Pictures
	return err
}

func (v *view) resize(width int64, scheme string) error {
	_, err := chromedp.Call(v.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 900, DeviceScaleFactor: 1})
	if err == nil {
		_, err = chromedp.Call(v.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	}
	return err
}

// keyboard walks through the page with Tab in a narrow window, unfolds with Enter,
// and scrolls what is wider than its box with an arrow key.
func (v *view) keyboard() error {
	type place struct {
		At       int     `json:"at"`
		Of       int     `json:"of"`
		Name     string  `json:"name"`
		Seen     bool    `json:"seen"`
		Summary  bool    `json:"summary"`
		Wide     bool    `json:"wide"`
		Scrolled float64 `json:"scrolled"`
	}
	if err := v.resize(widths[0], "light"); err != nil {
		return err
	}
	press := func(key string) (place, error) {
		if err := chromedp.Do(v.ctx, chromedp.KeyEvent(key)); err != nil {
			return place{}, err
		}
		return chromedp.Run(v.ctx, chromedp.Evaluate[place](keys))
	}
	of := 0
	met := map[int]bool{}
	fault := func(format string, args ...any) {
		v.page.Faults = append(v.page.Faults, "keyboard: "+fmt.Sprintf(format, args...))
	}
	for range 1000 {
		now, err := press(kb.Tab)
		if err != nil {
			return err
		}
		of = now.Of
		if now.At < 0 || met[now.At] { // out of the page, or around
			break
		}
		met[now.At] = true
		if !now.Seen {
			fault("the focus cannot be seen: %s", now.Name)
		}
		if now.Summary {
			if now, err = press(kb.Enter); err != nil {
				return err
			}
			if now.Summary {
				fault("Enter does not open: %s", now.Name)
			}
		}
		for try := 0; now.Wide && now.Scrolled == 0; try++ {
			if try == 20 {
				fault("the arrow does not move: %s", now.Name)
				break
			}
			time.Sleep(20 * time.Millisecond)
			if now, err = press(kb.ArrowRight); err != nil {
				return err
			}
		}
	}
	v.page.Stops = len(met)
	if len(met) < of {
		fault("Tab reaches %d of %d", len(met), of)
	}
	return nil
}
