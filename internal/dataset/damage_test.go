package dataset

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// A damaged tar is an error or other samples, never a crash or a huge buffer.
func TestDamagedTars(t *testing.T) {
	dir := t.TempDir()
	whole := tarBytes(t, []entry{
		{"a.jpg", "image"}, {"a.txt", "caption"}, {"a.json", `{"caption": "x", "label": 1}`},
		{strings.Repeat("long/", 40) + "b.png", strings.Repeat("y", 700)}, {strings.Repeat("long/", 40) + "b.cls", "3"},
		{"c.webp", "z"},
	})
	rng := rand.New(rand.NewPCG(5, 5))
	opened := 0
	for round := range 500 {
		bad := bytes.Clone(whole)
		for range 1 + rng.IntN(4) {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
		if rng.IntN(4) == 0 {
			bad = bad[:rng.IntN(len(bad))]
		}
		d, err := Open(context.Background(), write(t, filepath.Join(dir, fmt.Sprintf("%d.tar", round)), string(bad)), Options{})
		if err != nil {
			continue
		}
		opened++
		for i := range d.Len() {
			d.Read(i)
		}
	}
	if opened == 0 {
		t.Error("no damaged tar could be opened: the test shows nothing")
	}
}

// A file that shrinks or changes after it was indexed is an error of that
// sample.
func TestChangedTar(t *testing.T) {
	name := writeTar(t, filepath.Join(t.TempDir(), "x.tar"), []entry{{"a.jpg", "image"}, {"a.txt", "caption"}, {"b.jpg", "other"}, {"b.txt", "text"}})
	d, err := Open(context.Background(), name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string]string{"cut": "x", "overwritten": strings.Repeat("no tar", 2000)} {
		write(t, name, data)
		if _, err := d.Read(1); err == nil || !strings.Contains(err.Error(), "changed since the run started") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCancelledContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, l := range layouts[:6] {
		if _, err := Open(ctx, l.write(t, t.TempDir()), l.options); err == nil && strings.Contains(l.name, "tar") {
			t.Errorf("%s: opened in spite of the cancelled context", l.name)
		}
	}
}
