package img

import (
	"bytes"
	"encoding/binary"
	"image"

	"golang.org/x/image/webp"

	"github.com/evatool/evatool/internal/fault"
)

func badWebP(format string, args ...any) error {
	return fault.Inputf("WebP image: "+format+"; fetch the file again", args...)
}

// chunk is a RIFF chunk.
type chunk struct {
	id   string
	data []byte
}

// riffChunks splits data, which must be whole.
func riffChunks(data []byte) ([]chunk, error) {
	var chunks []chunk
	for len(data) >= 8 {
		n := int64(binary.LittleEndian.Uint32(data[4:]))
		if n > int64(len(data)-8) {
			return nil, badWebP("chunk %q is truncated", data[:4])
		}
		chunks = append(chunks, chunk{string(data[:4]), data[8 : 8+n]})
		data = data[min(int64(len(data)), 8+n+n&1):]
	}
	return chunks, nil
}

// frame is the first picture of a WebP file and where it lies on the canvas.
type frame struct {
	x, y         int
	animated     bool
	alpha, image *chunk // ALPH; VP8 or VP8L
}

func (f *frame) find(chunks []chunk) {
	for i, c := range chunks {
		switch {
		case c.id == "ALPH" && f.alpha == nil && f.image == nil:
			f.alpha = &chunks[i]
		case (c.id == "VP8 " || c.id == "VP8L") && f.image == nil:
			f.image = &chunks[i]
		}
	}
}

func (c *chunk) size() (w, h int, alpha bool, err error) {
	d := c.data
	switch {
	case c.id == "VP8 " && len(d) >= 10:
		return int(binary.LittleEndian.Uint16(d[6:]) & 0x3fff), int(binary.LittleEndian.Uint16(d[8:]) & 0x3fff), false, nil
	case c.id == "VP8L" && len(d) >= 5:
		v := binary.LittleEndian.Uint32(d[1:])
		return int(v&0x3fff) + 1, int(v>>14&0x3fff) + 1, v>>28&1 != 0, nil
	}
	return 0, 0, false, badWebP("chunk %q of %d bytes is too short", c.id, len(d))
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// isWebP is PIL's test.
func isWebP(data []byte) bool {
	if len(data) < 16 || string(data[:4]) != "RIFF" || string(data[8:12]) != "WEBP" {
		return false
	}
	id := string(data[12:16])
	return id == "VP8 " || id == "VP8L" || id == "VP8X"
}

// decodeWebP reads the first frame of a WebP file, on its canvas: mode RGBA
// where the file says that it has alpha, else RGB.
func decodeWebP(data []byte) (*Image, error) {
	size := int64(binary.LittleEndian.Uint32(data[4:]))
	if size > int64(len(data)-8) || size < 12 {
		return nil, badWebP("the file has %d of %d bytes", len(data)-8, size)
	}
	chunks, err := riffChunks(data[12 : 8+size])
	if err != nil {
		return nil, err
	}
	var f frame
	f.find(chunks)
	extended := len(chunks) > 0 && chunks[0].id == "VP8X"
	if extended && len(chunks[0].data) < 10 {
		return nil, badWebP("VP8X chunk of %d bytes is too short", len(chunks[0].data))
	}
	for _, c := range chunks {
		if c.id != "ANMF" || !extended || f.image != nil {
			continue
		}
		if len(c.data) < 16 {
			return nil, badWebP("animation frame of %d bytes is too short", len(c.data))
		}
		inner, err := riffChunks(c.data[16:])
		if err != nil {
			return nil, err
		}
		f.x, f.y = 2*uint24(c.data), 2*uint24(c.data[3:])
		f.animated = true
		f.find(inner)
	}
	if f.image == nil {
		return nil, badWebP("it has no picture")
	}
	w, h, alpha, err := f.image.size()
	if err != nil {
		return nil, err
	}
	im := &Image{Mode: "RGB", W: w, H: h}
	if extended {
		x := chunks[0].data
		alpha = x[0]&0x10 != 0
		im.W, im.H = uint24(x[4:])+1, uint24(x[7:])+1
	}
	if alpha {
		im.Mode = "RGBA"
	}
	if err := checkSize("WebP", im.W, im.H); err != nil {
		return nil, err
	}
	// Only a frame of an animation may be smaller than the canvas.
	fits := f.x+w <= im.W && f.y+h <= im.H && (f.animated || w == im.W && h == im.H)
	if w == 0 || h == 0 || !fits {
		return nil, badWebP("a picture of %d x %d at %d, %d does not fit the canvas of %d x %d", w, h, f.x, f.y, im.W, im.H)
	}
	src, err := webp.Decode(bytes.NewReader(f.still(w, h)))
	if err != nil {
		return nil, badWebP("%w", err)
	}
	im.Pix = make([]byte, im.W*im.H*channels[im.Mode])
	im.paint(src, f.x, f.y, w, h)
	return im, nil
}

// still is the frame as a file of its own.
func (f *frame) still(w, h int) []byte {
	var body []byte
	add := func(id string, data []byte) {
		body = append(body, id...)
		body = binary.LittleEndian.AppendUint32(body, uint32(len(data)))
		body = append(body, data...)
		if len(data)&1 != 0 {
			body = append(body, 0)
		}
	}
	if f.alpha != nil && f.image.id == "VP8 " {
		w, h := w-1, h-1
		add("VP8X", []byte{0x10, 0, 0, 0, byte(w), byte(w >> 8), byte(w >> 16), byte(h), byte(h >> 8), byte(h >> 16)})
		add("ALPH", f.alpha.data)
	}
	add(f.image.id, f.image.data)
	out := append([]byte("RIFF"), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(out[4:], uint32(len(body)+4))
	out = append(out, "WEBP"...)
	return append(out, body...)
}

// paint puts a decoded frame on the canvas.
func (im *Image) paint(src image.Image, fx, fy, w, h int) {
	c := channels[im.Mode]
	var alpha func(y int) []byte
	s, ok := src.(*image.YCbCr)
	switch v := src.(type) {
	case *image.NRGBA:
		for y := range h {
			row := v.Pix[y*v.Stride:]
			dst := im.Pix[((fy+y)*im.W+fx)*c:]
			for x := range w {
				copy(dst[c*x:c*x+c], row[4*x:])
			}
		}
	case *image.NYCbCrA:
		s, ok = &v.YCbCr, true
		alpha = func(y int) []byte { return v.A[y*v.AStride:] }
	}
	if !ok {
		return
	}
	cw, ch := (w+1)/2, (h+1)/2
	u, v := make([]byte, w+1), make([]byte, w+1)
	for y := range h {
		near := y / 2
		far := max(0, min(ch-1, near-1+2*(y&1)))
		webpUpsample(u, s.Cb[near*s.CStride:][:cw], s.Cb[far*s.CStride:][:cw])
		webpUpsample(v, s.Cr[near*s.CStride:][:cw], s.Cr[far*s.CStride:][:cw])
		dst := im.Pix[((fy+y)*im.W+fx)*c:]
		row := s.Y[y*s.YStride:]
		for x := range w {
			webpToRGB(dst[c*x:], row[x], u[x], v[x])
		}
		if c != 4 {
			continue
		}
		for x := range w {
			dst[4*x+3] = 0xFF
			if alpha != nil {
				dst[4*x+3] = alpha(y)[x]
			}
		}
	}
}

// webpUpsample is libwebp's fancy upsampling of one row of chroma: dst has room
// for 2*len(near)+1 samples at most, as many are written as fit.
func webpUpsample(dst, near, far []byte) {
	last := len(near) - 1
	dst[0] = byte((3*int(near[0]) + int(far[0]) + 2) >> 2)
	for i := range last {
		nl, n, fl, f := int(near[i]), int(near[i+1]), int(far[i]), int(far[i+1])
		sum := nl + n + fl + f + 8
		dst[2*i+1] = byte(((sum+2*(n+fl))>>3 + nl) >> 1)
		dst[2*i+2] = byte(((sum+2*(nl+f))>>3 + n) >> 1)
	}
	dst[2*last+1] = byte((3*int(near[last]) + int(far[last]) + 2) >> 2)
}

// webpToRGB is libwebp's conversion from studio-range YUV.
func webpToRGB(dst []byte, y, u, v byte) {
	l := int32(y) * 19077 >> 8
	cb, cr := int32(u), int32(v)
	dst[0] = clamp((l + cr*26149>>8 - 14234) >> 6)
	dst[1] = clamp((l - cb*6419>>8 - cr*13320>>8 + 8708) >> 6)
	dst[2] = clamp((l + cb*33050>>8 - 17685) >> 6)
}
