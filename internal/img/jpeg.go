package img

import (
	"bytes"
	"image/jpeg"

	"github.com/evatool/evatool/internal/fault"
)

// JPEGDecoder names what decodes JPEG here: a libjpeg-turbo library or "go".
func JPEGDecoder() string { return "go" }

func decodeJPEG(data []byte) (*Image, error) {
	src, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("JPEG image: %w; fetch the file again", err)
	}
	b := src.Bounds()
	im := &Image{Mode: "RGB", W: b.Dx(), H: b.Dy()}
	for y := range im.H {
		for x := range im.W {
			r, g, b, _ := src.At(x, y).RGBA()
			im.Pix = append(im.Pix, byte(r>>8), byte(g>>8), byte(b>>8))
		}
	}
	return im, nil
}
