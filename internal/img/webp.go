package img

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"image"
	"io"
	"strings"

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

// riffChunks gives the chunks of data, which must be whole, until each says stop.
func riffChunks(data []byte, each func(c chunk) error) error {
	for len(data) >= 8 {
		n := int64(binary.LittleEndian.Uint32(data[4:]))
		if n > int64(len(data)-8) {
			return badWebP("chunk %q is truncated", data[:4])
		}
		id := "" // of a kind that does not matter
		for _, known := range [...]string{"VP8X", "VP8 ", "VP8L", "ALPH", "ANMF"} {
			if string(data[:4]) == known {
				id = known
			}
		}
		if err := each(chunk{id, data[8 : 8+n]}); err != nil {
			return err
		}
		data = data[min(int64(len(data)), 8+n+n&1):]
	}
	return nil
}

// frame is the first picture of a WebP file and where it lies on the canvas.
type frame struct {
	x, y         int
	animated     bool
	alpha, image *chunk // ALPH; VP8 or VP8L
}

func (f *frame) find(c chunk) {
	switch {
	case c.id == "ALPH" && f.alpha == nil && f.image == nil:
		f.alpha = &c
	case (c.id == "VP8 " || c.id == "VP8L") && f.image == nil:
		f.image = &c
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

// openWebP finds the first frame of a WebP file, on its canvas: mode RGBA where
// the file says that it has alpha, else RGB.
func openWebP(data []byte) (*Picture, error) {
	size := int64(binary.LittleEndian.Uint32(data[4:]))
	if size > int64(len(data)-8) || size < 12 {
		return nil, badWebP("the file has %d of %d bytes", len(data)-8, size)
	}
	var f, still frame // of an animation frame, and beside them
	var canvas []byte  // VP8X
	first := true
	err := riffChunks(data[12:8+size], func(c chunk) error {
		switch {
		case first && c.id == "VP8X":
			if canvas = c.data; len(c.data) < 10 {
				return badWebP("VP8X chunk of %d bytes is too short", len(c.data))
			}
		case c.id == "ANMF" && canvas != nil && f.image == nil:
			if len(c.data) < 16 {
				return badWebP("animation frame of %d bytes is too short", len(c.data))
			}
			f.x, f.y, f.animated = 2*uint24(c.data), 2*uint24(c.data[3:]), true
			return riffChunks(c.data[16:], func(c chunk) error {
				f.find(c)
				return nil
			})
		default:
			still.find(c)
		}
		first = false
		return nil
	})
	if err != nil {
		return nil, err
	}
	if still.image != nil {
		f = still
	}
	if f.image == nil {
		return nil, badWebP("it has no picture")
	}
	w, h, alpha, err := f.image.size()
	if err != nil {
		return nil, err
	}
	p := &Picture{Mode: "RGB", W: w, H: h}
	if canvas != nil {
		alpha = canvas[0]&0x10 != 0
		p.W, p.H = uint24(canvas[4:])+1, uint24(canvas[7:])+1
	}
	if alpha {
		p.Mode = "RGBA"
	}
	if err := checkSize("WebP", p.W, p.H); err != nil {
		return nil, err
	}
	// Only a frame of an animation may be smaller than the canvas.
	fits := f.x+w <= p.W && f.y+h <= p.H && (f.animated || w == p.W && h == p.H)
	if w == 0 || h == 0 || !fits {
		return nil, badWebP("a picture of %d x %d at %d, %d does not fit the canvas of %d x %d", w, h, f.x, f.y, p.W, p.H)
	}
	p.cost = 4 * int64(w) * int64(h) // of VP8L, and of VP8 with what its reader holds
	if alpha {
		p.cost = 7 * int64(w) * int64(h) // VP8's alpha is unpacked as a VP8L picture
	}
	p.decode = func(want span, to sink) error {
		src, err := webp.Decode(f.still(w, h))
		if err != nil {
			return badWebP("%w", err)
		}
		b := newBands(p, want.lo, to)
		defer b.close()
		c := channels[p.Mode]
		paint := newPaint(src, w, h)
		for y := want.lo; y < want.hi; y++ {
			row := b.next()
			if w < p.W || y < f.y || y >= f.y+h {
				clear(row)
			}
			if y >= f.y && y < f.y+h {
				paint(row[f.x*c:][:w*c], y-f.y, c)
			}
		}
		b.flush()
		return nil
	}
	return p, nil
}

// still is the frame as a file of its own.
func (f *frame) still(w, h int) io.Reader {
	size := 4
	parts := []io.Reader{nil}
	add := func(id string, data []byte) {
		head := binary.LittleEndian.AppendUint32([]byte(id), uint32(len(data)))
		parts = append(parts, bytes.NewReader(head), bytes.NewReader(data), bytes.NewReader(make([]byte, len(data)&1)))
		size += 8 + len(data) + len(data)&1
	}
	if f.alpha != nil && f.image.id == "VP8 " {
		w, h := w-1, h-1
		add("VP8X", []byte{0x10, 0, 0, 0, byte(w), byte(w >> 8), byte(w >> 16), byte(h), byte(h >> 8), byte(h >> 16)})
		add("ALPH", f.alpha.data)
	}
	add(f.image.id, f.image.data)
	parts[0] = strings.NewReader("RIFF" + string(binary.LittleEndian.AppendUint32(nil, uint32(size))) + "WEBP")
	return bufio.NewReader(io.MultiReader(parts...))
}

// newPaint gives the rows of a decoded frame of w x h pixels, c samples to a pixel.
func newPaint(src image.Image, w, h int) func(dst []byte, y, c int) {
	var alpha *image.NYCbCrA
	s, ok := src.(*image.YCbCr)
	switch v := src.(type) {
	case *image.NRGBA:
		return func(dst []byte, y, c int) {
			row := v.Pix[y*v.Stride:]
			if c == 4 {
				copy(dst, row)
				return
			}
			for x := range w {
				copy(dst[3*x:3*x+3], row[4*x:])
			}
		}
	case *image.NYCbCrA:
		s, ok, alpha = &v.YCbCr, true, v
	}
	if !ok {
		return func([]byte, int, int) {}
	}
	cw, ch := (w+1)/2, (h+1)/2
	u, v := make([]byte, w+1), make([]byte, w+1)
	return func(dst []byte, y, c int) {
		near := y / 2
		far := max(0, min(ch-1, near-1+2*(y&1)))
		webpUpsample(u, s.Cb[near*s.CStride:][:cw], s.Cb[far*s.CStride:][:cw])
		webpUpsample(v, s.Cr[near*s.CStride:][:cw], s.Cr[far*s.CStride:][:cw])
		row := s.Y[y*s.YStride:]
		for x := range w {
			webpToRGB(dst[c*x:], row[x], u[x], v[x])
		}
		if c != 4 {
			return
		}
		for x := range w {
			dst[4*x+3] = 0xFF
			if alpha != nil {
				dst[4*x+3] = alpha.A[y*alpha.AStride+x]
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
