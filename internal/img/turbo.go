package img

import (
	"bytes"
	"embed"
	"sync"
)

// library is a libjpeg-turbo that was found at run time.
type library struct {
	name string
	// decode gives the image, or nil where the library found anything wrong or
	// unusual in the file; the decoder in Go has the last word on those.
	decode func(data []byte) *Image
}

// opener looks for a library; nil means that it is not there.
type opener func() *library

// probes are small JPEGs of the kinds that libraries differ in.
//
//go:embed probe/*.jpg
var probes embed.FS

// turbo is the first library that is there and gives the pixels of the decoder
// in Go; nil without one. Where there is vector code the decoder in Go is
// faster (benchmarks/pixels), and none is looked for.
var turbo = sync.OnceValue(func() *library {
	if haveAVX2 {
		return nil
	}
	for _, open := range openers {
		if l := open(); l != nil && l.exact() {
			return l
		}
	}
	return nil
})

// exact compares the library with the decoder in Go: older versions and other
// libjpegs upsample differently.
func (l *library) exact() bool {
	files, err := probes.ReadDir("probe")
	if err != nil {
		return false
	}
	for _, f := range files {
		data, err := probes.ReadFile("probe/" + f.Name())
		if err != nil {
			return false
		}
		got, want := l.decode(data), (*Image)(nil)
		if want, err = DecodeGo(data); err != nil || got == nil || got.Mode != want.Mode || !bytes.Equal(got.Pix, want.Pix) {
			return false
		}
	}
	return true
}

// JPEGDecoder names what decodes JPEG here: a libjpeg-turbo library or "go".
// Both give the same pixels.
func JPEGDecoder() string {
	if l := turbo(); l != nil {
		return l.name
	}
	return "go"
}

func decodeJPEG(data []byte) (*Image, error) {
	if l := turbo(); l != nil && otherCoding[frameMarker(data)] == "" {
		if im := l.decode(data); im != nil {
			im.Decoder = l.name
			return im, nil
		}
	}
	return DecodeGo(data)
}

// frameMarker is the first start of frame of a JPEG, or 0. A library may read
// more kinds than the decoder in Go; the same files are to be read everywhere.
func frameMarker(data []byte) byte {
	for at := 2; at+4 <= len(data) && data[at] == 0xFF; {
		m := data[at+1]
		switch {
		case m == 0xFF: // a fill byte
			at++
			continue
		case m >= 0xC0 && m <= 0xCF && m != 0xC4 && m != 0xC8 && m != 0xCC:
			return m
		}
		at += 2 + int(data[at+2])<<8 + int(data[at+3])
	}
	return 0
}

// jpegModes are PIL's modes by number of components.
var jpegModes = map[int]string{1: "L", 3: "RGB", 4: "CMYK"}

// newJPEGImage is an empty image of n components, nil where PIL has no mode or
// the size is out of bounds.
func newJPEGImage(w, h, n int) *Image {
	mode, ok := jpegModes[n]
	if !ok || w > 65500 || h > 65500 || checkSize("JPEG", w, h) != nil {
		return nil
	}
	return &Image{Mode: mode, W: w, H: h, Pix: make([]byte, w*h*n)}
}

// invertCMYK: PIL takes every CMYK file as Adobe's.
func (im *Image) invertCMYK() {
	if im.Mode != "CMYK" {
		return
	}
	for i, v := range im.Pix {
		im.Pix[i] = ^v
	}
}
