package img

import (
	"bytes"
	"strings"
	"testing"
)

// The expected values are those of PIL's PpmImagePlugin.
func TestPNM(t *testing.T) {
	for _, c := range []struct {
		file, mode string
		want       []byte // as RGB
	}{
		{"P6\n2 1\n255\n\x01\x02\x03\xfd\xfe\xff", "RGB", []byte{1, 2, 3, 253, 254, 255}},
		{"P5 # a comment 9\n1#x\n 2 255\n\x07\x08", "L", []byte{7, 7, 7, 8, 8, 8}},
		{"P6 1 1 2 \x01\x02\x03", "RGB", []byte{128, 255, 255}}, // 127.5 to the even 128, and no more than 255
		{"P5 1 1 1000 \x00\x7b", "I", []byte{255, 255, 255}},
		{"P6 1 1 65535 \x00\x80\x00\x81\xff\xff", "RGB", []byte{0, 1, 255}},
	} {
		im, err := Decode([]byte(c.file))
		if err != nil {
			t.Errorf("%q: %v", c.file, err)
			continue
		}
		if got := im.RGB().Pix; im.Mode != c.mode || !bytes.Equal(got, c.want) {
			t.Errorf("%q: mode %s, %v; want %s, %v", c.file, im.Mode, got, c.mode, c.want)
		}
	}
}

func TestPNMDamage(t *testing.T) {
	for _, file := range []string{"P5", "P5 1", "P6 1 1 255", "P6 1 1 255\n\x01\x02", "P5 0 1 255\n", "P5 1 1 0\n\x01", "P5 1 1 65536\n\x01\x01",
		"P5 9999999999 9999999999 255\n", "P5 99999999999 1 255\n", "P5 -1 1 255\n\x01", "P5 1 1 # no end", "P6 99999 99999 255\n"} {
		if _, err := Decode([]byte(file)); err == nil || !strings.HasPrefix(err.Error(), "PPM image") {
			t.Errorf("%q: %v, want an error", file, err)
		}
	}
}
