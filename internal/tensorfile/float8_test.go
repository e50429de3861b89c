package tensorfile

import (
	"encoding/hex"
	"math"
	"os"
	"strings"
	"testing"
)

// eachFloat8 gives the golden casts: type, target type, elements of the 256 codes.
func eachFloat8(t *testing.T, f func(from, to DType, want []byte)) {
	t.Helper()
	text, err := os.ReadFile("testdata/float8.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if w[0] == "#" {
			continue
		}
		want, err := hex.DecodeString(w[2])
		if err != nil {
			t.Fatal(err)
		}
		f(DType(w[0]), DType(w[1]), want)
		n++
	}
	if n != 15 {
		t.Fatalf("%d lines in the goldens", n)
	}
}

func TestFloat8(t *testing.T) {
	eachFloat8(t, func(from, to DType, want []byte) {
		if to != F32 {
			return
		}
		for code := range 256 {
			b := []byte{byte(code)}
			w := math.Float32frombits(le.Uint32(want[4*code:]))
			var v [1]float32
			FloatDecoder(from)(v[:], b)
			for _, got := range []float64{float64(v[0]), NumberDecoder(from)(b)} {
				// The bits of a NaN do not matter; the sign of a zero does.
				if w != w && got != got {
					continue
				}
				if got != float64(w) || math.Signbit(got) != math.Signbit(float64(w)) {
					t.Errorf("%s code %#02x is %v, want %v", from, code, got, w)
				}
			}
		}
	})
}

// The error about what a failed download left says what it is.
func TestMistaken(t *testing.T) {
	for content, want := range map[string]string{
		"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n": "Git LFS pointer",
		"\ufeff\n<!DOCTYPE html><html></html>":                                "HTML",
		`{"error":"Repository not found"}`:                                    "error message",
		"PK\x03\x04and so on":                                                 "torch.save",
		"":                                                                    "empty file",
		strings.Repeat("\x00", 100):                                           "zero bytes",
		// A file that is cut off, whose header is as long as '<' is in ASCII.
		"<\x00\x00\x00\x00\x00\x00\x00" + `{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}      `: "cut off",
		// Valid, except for a type that is read elsewhere.
		"\x3a\x00\x00\x00\x00\x00\x00\x00" + `{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}     ` + "\x00": "smaller than a byte",
	} {
		_, err := OpenReaderAt(strings.NewReader(content), int64(len(content)), "a.safetensors")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "a.safetensors: ") {
			t.Errorf("%.20q: %v, want %q", content, err, want)
		}
		if want == "smaller than a byte" && strings.Contains(err.Error(), "not a valid") {
			t.Errorf("a valid file is called invalid: %v", err)
		}
	}
}
