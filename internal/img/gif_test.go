package img

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// editFile applies the edits of a case of broken_gif.txt; see make_broken_gif.py.
func editFile(t testing.TB, data []byte, edits string) []byte {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	data = bytes.Clone(data)
	for _, e := range strings.Split(edits, ",") {
		i := strings.IndexAny(e[1:], ":+-") + 1
		switch {
		case e[0] == '^':
			data = data[:min(len(data), number(e[1:]))]
		case e[0] == '+':
			v, _ := hex.DecodeString(e[i+1:])
			data = append(data, bytes.Repeat(v, number(e[1:i]))...)
		case e[i] == ':':
			if at := number(e[:i]); at < len(data) {
				v, _ := hex.DecodeString(e[i+1:])
				data[at] = v[0]
			}
		case e[i] == '+':
			at := min(number(e[:i]), len(data))
			v, _ := hex.DecodeString(e[i+1:])
			data = append(data[:at:at], append(v, data[at:]...)...)
		default:
			at := min(number(e[:i]), len(data))
			data = append(data[:at:at], data[min(len(data), at+number(e[i+1:])):]...)
		}
	}
	return data
}

// TestBrokenGIF wants Pillow's verdict on thousands of damaged files, and its
// pixels where it shows any.
func TestBrokenGIF(t *testing.T) {
	f, err := os.Open(filepath.Join(fixtures, "broken_gif.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seeds, cases, wrong := map[string][]byte{}, 0, 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		switch w[0] {
		case "seed":
			if seeds[w[1]], err = hex.DecodeString(w[2]); err != nil {
				t.Fatal(err)
			}
		case "case":
			cases++
			got, want := "refused", strings.Join(w[3:], " ")
			p, err := Parse(editFile(t, seeds[w[1]], w[2]))
			if err == nil && p.W*p.H <= 200_000 {
				var c *RGB
				if c, err = p.RGB(); err == nil {
					got = fmt.Sprintf("%s %d %d %s", p.Mode, p.W, p.H, hash(c.Pix)[:16])
				}
			}
			if got != want {
				if wrong++; wrong <= 20 {
					t.Errorf("%s, %s: %s (%v), Pillow has %s", w[1], w[2], got, err, want)
				}
			}
			if err != nil {
				checkError(t, lines.Text(), err)
			}
		}
	}
	if err := lines.Err(); err != nil || cases < 2000 {
		t.Fatalf("%d cases, want at least 2000 (%v)", cases, err)
	}
	if wrong > 0 {
		t.Errorf("%d of %d differ", wrong, cases)
	}
}
