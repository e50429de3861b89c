// Package img turns image files into the pixels that PIL and torchvision give,
// bit for bit, and crops them for a model.
//
// The reference is Pillow 9.4 with libjpeg-turbo 2.1: its modes, its refusal of
// truncated files, its bicubic resize.
package img

import (
	"bytes"
	"fmt"
	"os"

	"github.com/evatool/evatool/internal/fault"
)

// Picture is an image file whose headers have been read. Its pixels are decoded
// when they are asked for, row by row where the format allows, so that a crop of
// a large picture takes little memory. The file's bytes must not change. One
// goroutine at a time may use a Picture.
type Picture struct {
	Format string // JPEG, PNG, WEBP, GIF, BMP, TIFF or PPM
	Mode   string // PIL's; see Image
	W, H   int
	Budget *Budget // nil: the process's, of DefaultMemory bytes

	palette []byte
	narrow  bool // RGB is all that is wanted: 16-bit grey may come as mode L, clipped
	// cost is about what decode takes at its peak, in bytes, the file and the
	// result apart.
	cost int64
	// decode gives the rows of want, and may give others, in order from the top.
	// It reads the whole file: an error anywhere is an error of the picture.
	decode func(want span, to sink) error
}

// sink takes the rows of a picture from row y on: b.H whole rows in the
// picture's mode. b is the decoder's again after the call.
type sink func(y int, b *Image)

// maxFile is the largest image file that Open reads, in bytes.
const maxFile = 1 << 30

// Open reads the headers of the image file at path; its errors name the file.
func Open(path string) (*Picture, error) {
	if err := fault.RegularFile(path, "an image"); err != nil {
		return nil, err
	}
	if st, err := os.Stat(path); err == nil && st.Size() > maxFile {
		return nil, fault.Inputf("%s: %d bytes, over the limit of %d for an image; give an image", path, st.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.File(path, "an image", err)
	}
	p, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Parse reads the headers of a JPEG, PNG, WebP, GIF, BMP, TIFF, PGM or PPM file,
// recognised by its first bytes. Of an animation it takes the first frame. EXIF
// orientation is not applied.
func Parse(data []byte) (p *Picture, err error) {
	if len(data) == 0 {
		return nil, fault.Inputf("image is empty (0 bytes); fetch the file again")
	}
	for _, f := range formats {
		if !f.match(data) {
			continue
		}
		defer catch(f.name, &err)
		if p, err = f.open(data); err != nil {
			return nil, fault.As(fault.Input, err)
		}
		p.Format = f.name
		if p.W > maxWidth {
			return nil, fault.Inputf("%s image is %d pixels wide, over the limit of %d; make it smaller", p.Format, p.W, maxWidth)
		}
		if rows := 24 * int64(p.W); rows > 1<<20 { // of the file, of the picture, as RGB
			p.cost += rows
		}
		return p, nil
	}
	return nil, fault.Inputf("not an image that evatool can read%s; use JPEG, PNG, WebP, GIF, BMP, TIFF or PPM", looksLike(data))
}

// catch makes a panic an error: the libraries' decoders are not ours to vouch for.
func catch(format string, err *error) {
	if r := recover(); r != nil {
		*err = fault.Inputf("%s image is damaged: %v; fetch the file again", format, r)
	}
}

// rows decodes within the budget.
func (p *Picture) rows(want span, to sink) (err error) {
	defer p.Budget.take(p.cost)()
	defer catch(p.Format, &err)
	return fault.As(fault.Input, p.decode(want, to))
}

// Image is the whole picture in its own mode.
func (p *Picture) Image() (*Image, error) {
	im := &Image{Format: p.Format, Mode: p.Mode, W: p.W, H: p.H, Palette: p.palette}
	n := p.W * channels[p.Mode]
	if n == 0 {
		im.Int = make([]int32, p.W*p.H)
	} else {
		im.Pix = make([]byte, n*p.H)
	}
	err := p.rows(span{0, p.H}, func(y int, b *Image) {
		if n == 0 {
			copy(im.Int[y*p.W:], b.Int)
		} else {
			copy(im.Pix[y*n:], b.Pix)
		}
	})
	if err != nil {
		return nil, err
	}
	return im, nil
}

// Rows gives PIL's convert("RGB") to each, in bands of whole rows from the top;
// y is the first row of a band. The pixels are each's for the call only.
func (p *Picture) Rows(each func(y int, band *RGB)) error {
	return p.rgbRows(span{0, p.H}, each)
}

func (p *Picture) rgbRows(want span, each func(y int, band *RGB)) error {
	p.narrow = true
	defer func() { p.narrow = false }()
	var buf *[]byte
	defer func() {
		if buf != nil {
			recycle(buf)
		}
	}()
	return p.rows(want, func(y int, b *Image) {
		c := &RGB{b.W, b.H, b.Pix}
		if convert := toRGB[b.Mode]; convert != nil {
			if buf == nil {
				buf = buffer(b.H*b.W*3 + min(b.W*3, bandBytes))
			}
			if need := b.W * b.H * 3; cap(*buf) < need {
				*buf = make([]byte, need)
			}
			c.Pix = (*buf)[:b.W*b.H*3]
			convert(c.Pix, b)
		}
		each(y, c)
	})
}

// RGB is the whole picture as PIL's convert("RGB").
func (p *Picture) RGB() (*RGB, error) {
	out := &RGB{p.W, p.H, make([]byte, p.W*p.H*3)}
	err := p.Rows(func(y int, b *RGB) { copy(out.Pix[y*p.W*3:], b.Pix) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Crop is the evaluation transform: a square of pre.Size pixels.
func (p *Picture) Crop(pre Preprocess) (*RGB, error) {
	if pre.Direct {
		im, err := p.Image()
		if err != nil {
			return nil, err
		}
		return pre.Crop(im), nil
	}
	c := pre.Cropper(p.W, p.H)
	if err := p.rgbRows(c.r.rows, c.Add); err != nil {
		return nil, err
	}
	return c.Done(), nil
}

// RandomResizedCrop cuts b out of the picture and resizes the cut to
// size x size, as torchvision's resized_crop does on a PIL image.
func (p *Picture) RandomResizedCrop(b Box, size int) (*RGB, error) {
	r := newResizer(Bicubic, b.W, b.H, 3, whole(b.W, b.H), size, size, span{0, size}, span{0, size})
	c := &Cropper{r: r, x: b.X, y: b.Y}
	if err := p.rgbRows(span{b.Y + r.rows.lo, b.Y + r.rows.hi}, c.Add); err != nil {
		return nil, err
	}
	return c.Done(), nil
}

// Cropper makes the evaluation transform's square of a picture whose rows come
// one after another.
type Cropper struct {
	r         *resizer
	x, y      int // of the source's corner
	size      int // the side of the square where r's result gets a border, else 0
	left, top int // of the border
	fill      byte
}

// Cropper is Crop for a picture of w x h pixels whose rows come later.
func (p Preprocess) Cropper(w, h int) *Cropper {
	rw, rh := p.scaled(w, h)
	xs, left := p.centre(rw)
	ys, top := p.centre(rh)
	c := &Cropper{r: newResizer(p.Filter, w, h, 3, whole(w, h), rw, rh, xs, ys)}
	if rw < p.Size || rh < p.Size {
		c.size, c.left, c.top, c.fill = p.Size, left, top, p.Fill
	}
	return c
}

// Add takes the next rows, as Picture.Rows gives them.
func (c *Cropper) Add(y int, b *RGB) {
	pix := b.Pix[:cap(b.Pix)] // the vector code may read past the rows
	if skip := c.y - y; skip > 0 {
		if skip >= b.H {
			return
		}
		pix = pix[skip*b.W*3:]
		c.r.add(0, pix[c.x*3:], b.W*3, b.H-skip)
		return
	}
	c.r.add(y-c.y, pix[c.x*3:], b.W*3, b.H)
}

// Done is the square; all rows have come.
func (c *Cropper) Done() *RGB {
	out := &RGB{c.r.xs.hi - c.r.xs.lo, c.r.ys.hi - c.r.ys.lo, c.r.out}
	if c.size > 0 {
		return out.bordered(c.size, c.left, c.top, c.fill)
	}
	return out
}

// bands gathers the rows that a decoder makes one by one.
type bands struct {
	to   sink
	im   Image // the band; im.H rows are full
	y    int   // its first row
	most int   // rows
	n    int   // samples to a row
	buf  *[]byte
}

// bandBytes is about what a band holds: it should stay in a processor's cache.
const bandBytes = 1 << 16

// newBands gathers rows of p from y on.
func newBands(p *Picture, y int, to sink) *bands {
	b := &bands{to: to, y: y, n: p.W * channels[p.Mode]}
	b.im = Image{Format: p.Format, Mode: p.Mode, W: p.W, Palette: p.palette}
	if p.narrow && p.Mode == "I;16" {
		b.im.Mode, b.n = "L", p.W
	}
	size := p.W * sampleBytes(b.im.Mode)
	// Fours of rows, for the resizer's vector code.
	b.most = min(max(4, bandBytes/size&^3), p.H)
	if size > 1<<20 {
		b.most = 1
	}
	if b.n == 0 {
		b.n = p.W
		b.im.Int = make([]int32, 0, b.most*p.W)
	} else {
		b.buf = buffer(b.most*b.n + min(b.n, bandBytes)) // room for the resizer to read past the rows
		b.im.Pix = (*b.buf)[:0]
	}
	return b
}

// next is the next row, to be filled before the next call.
func (b *bands) next() []byte {
	if b.im.H == b.most {
		b.flush()
	}
	at := len(b.im.Pix)
	b.im.Pix = b.im.Pix[:at+b.n]
	b.im.H++
	return b.im.Pix[at:]
}

// nextInt is next for the modes of 32-bit samples.
func (b *bands) nextInt() []int32 {
	if b.im.H == b.most {
		b.flush()
	}
	at := len(b.im.Int)
	b.im.Int = b.im.Int[:at+b.n]
	b.im.H++
	return b.im.Int[at:]
}

func (b *bands) flush() {
	if b.im.H > 0 {
		b.to(b.y, &b.im)
	}
	b.y += b.im.H
	b.im.H, b.im.Pix, b.im.Int = 0, b.im.Pix[:0], b.im.Int[:0]
}

func (b *bands) close() {
	if b.buf != nil {
		recycle(b.buf)
	}
}

// Decoder is what reports name as the decoder of pictures: the code of this
// package.
const Decoder = "go"

// MaxPixels is the largest width x height that Decode accepts: the size at
// which PIL raises DecompressionBombError.
const MaxPixels = 2 * 89478485

// maxWidth keeps the rows that are in use at a time, up to 32 bytes a column,
// within DefaultMemory.
const maxWidth = 1 << 24

// Image is a decoded image in PIL's mode.
type Image struct {
	Format string // JPEG, PNG, WEBP, GIF, BMP, TIFF or PPM
	Mode   string // 1, L, LA, P, RGB, RGBA, RGBX, CMYK, I or I;16
	W, H   int
	// Pix is interleaved samples, row by row; mode 1 has a byte of 0 or 255 per
	// pixel. Modes I and I;16 use Int instead.
	Pix []byte
	Int []int32
	// Palette is RGB triples of mode P, 256 of them.
	Palette []byte
}

// RGB is 8-bit RGB, interleaved, row by row.
type RGB struct {
	W, H int
	Pix  []byte
}

// format is one file type: how it starts, what reads it.
type format struct {
	name  string
	match func(data []byte) bool
	open  func(data []byte) (*Picture, error)
}

func prefix(p ...string) func([]byte) bool {
	return func(data []byte) bool {
		for _, s := range p {
			if bytes.HasPrefix(data, []byte(s)) {
				return true
			}
		}
		return false
	}
}

var formats = []format{
	{"JPEG", prefix("\xff\xd8\xff"), openJPEG},
	{"PNG", prefix("\x89PNG\r\n\x1a\n"), openPNG},
	{"WEBP", isWebP, openWebP},
	{"GIF", prefix("GIF87a", "GIF89a"), openGIF},
	{"BMP", prefix("BM"), openBMP},
	{"TIFF", prefix("II*\x00", "MM\x00*"), openTIFF},
	{"PPM", prefix("P5", "P6"), openPNM},
}

// Decode reads a whole picture. See Parse.
func Decode(data []byte) (*Image, error) {
	p, err := Parse(data)
	if err != nil {
		return nil, err
	}
	return p.Image()
}

// checkSize refuses empty images and decompression bombs.
func checkSize(format string, w, h int) error {
	if w <= 0 || h <= 0 {
		return fault.Inputf("%s image is %d x %d pixels, which is empty; fetch the file again", format, w, h)
	}
	if int64(w)*int64(h) > MaxPixels {
		return fault.Inputf("%s image is %d x %d pixels, over the limit of %d; make it smaller", format, w, h, MaxPixels)
	}
	return nil
}
