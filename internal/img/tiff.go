package img

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"slices"

	"golang.org/x/image/ccitt"
	"golang.org/x/image/tiff/lzw"

	"github.com/evatool/evatool/internal/fault"
)

// Tags of a TIFF directory (TIFF 6.0).
const (
	tiffWidth        = 256
	tiffHeight       = 257
	tiffBits         = 258
	tiffCompression  = 259
	tiffPhotometric  = 262
	tiffFillOrder    = 266
	tiffStripOffsets = 273
	tiffOrientation  = 274
	tiffSamples      = 277
	tiffRows         = 278
	tiffStripBytes   = 279
	tiffPlanar       = 284
	tiffT4           = 292
	tiffPredictor    = 317
	tiffColors       = 320
	tiffTileWidth    = 322
	tiffTileHeight   = 323
	tiffTileOffsets  = 324
	tiffTileBytes    = 325
	tiffExtra        = 338
	tiffSampleFormat = 339
)

// tiffDefaults are the values of the tags that need not be there. All tags of
// tiffDefaults and tiffLists are read, others not.
var tiffDefaults = map[uint16]int{
	tiffWidth: 0, tiffHeight: 0, tiffBits: 1, tiffCompression: 1, tiffPhotometric: 0, tiffFillOrder: 1, tiffOrientation: 1,
	tiffSamples: 1, tiffRows: 1 << 31, tiffPlanar: 1, tiffT4: 0, tiffPredictor: 1, tiffTileWidth: 0, tiffTileHeight: 0,
	tiffExtra: -1, tiffSampleFormat: 1,
}

var tiffLists = []uint16{tiffStripOffsets, tiffStripBytes, tiffColors, tiffTileOffsets, tiffTileBytes}

// tiffFile is the first directory of a file.
type tiffFile struct {
	data  []byte
	order binary.ByteOrder
	tags  map[uint16][]int
}

func badTIFF(format string, args ...any) error {
	return fault.Inputf("TIFF image: "+format+"; fetch the file again", args...)
}

func otherTIFF(format string, args ...any) error {
	return fault.Inputf("TIFF image: "+format+" not supported; save it as PNG", args...)
}

// get is the first value of a tag.
func (t *tiffFile) get(tag uint16) int {
	if v := t.tags[tag]; len(v) > 0 {
		return v[0]
	}
	return tiffDefaults[tag]
}

// readTIFF reads the first directory.
func readTIFF(data []byte) (*tiffFile, error) {
	short := badTIFF("it is truncated")
	if len(data) < 8 {
		return nil, short
	}
	t := &tiffFile{data: data, order: binary.LittleEndian, tags: map[uint16][]int{}}
	if data[0] == 'M' {
		t.order = binary.BigEndian
	}
	at := int(t.order.Uint32(data[4:]))
	if at+2 > len(data) {
		return nil, short
	}
	n := int(t.order.Uint16(data[at:]))
	if at+2+12*n > len(data) {
		return nil, short
	}
	for e := range slices.Chunk(data[at+2:at+2+12*n], 12) {
		tag := t.order.Uint16(e)
		size := map[uint16]int{1: 1, 3: 2, 4: 4}[t.order.Uint16(e[2:])]
		_, single := tiffDefaults[tag]
		if size == 0 || t.tags[tag] != nil || !single && !slices.Contains(tiffLists, tag) {
			continue
		}
		count, v := int(t.order.Uint32(e[4:])), e[8:]
		if count*size > 4 {
			from := int(t.order.Uint32(v))
			if from+count*size > len(data) {
				return nil, short
			}
			v = data[from:]
		}
		values := make([]int, count)
		for i := range values {
			switch size {
			case 1:
				values[i] = int(v[i])
			case 2:
				values[i] = int(t.order.Uint16(v[2*i:]))
			case 4:
				values[i] = int(t.order.Uint32(v[4*i:]))
			}
		}
		t.tags[tag] = values
	}
	return t, nil
}

// tiffKind is what PIL tells the kinds of pixels by.
type tiffKind struct{ photometric, bits, samples, extra int }

// tiffModes are PIL's modes of the kinds that are read. Premultiplied alpha
// (extra 1) is divided out.
var tiffModes = func() map[tiffKind]string {
	m := map[tiffKind]string{{1, 8, 2, 2}: "LA", {5, 8, 4, -1}: "CMYK"}
	for _, grey := range []int{0, 1} {
		m[tiffKind{grey, 1, 1, -1}], m[tiffKind{grey, 16, 1, -1}] = "1", "I;16"
		for _, depth := range []int{2, 4, 8} {
			m[tiffKind{grey, depth, 1, -1}] = "L"
		}
	}
	for _, depth := range []int{1, 2, 4, 8} {
		m[tiffKind{3, depth, 1, -1}] = "P"
	}
	for _, depth := range []int{8, 16} {
		m[tiffKind{2, depth, 3, -1}], m[tiffKind{2, depth, 4, 0}] = "RGB", "RGBX"
		for _, extra := range []int{-1, 1, 2} {
			m[tiffKind{2, depth, 4, extra}] = "RGBA"
		}
	}
	return m
}()

// decodeTIFF reads the first page. Unlike other formats its orientation counts,
// as it does for PIL.
func decodeTIFF(data []byte) (*Image, error) {
	t, err := readTIFF(data)
	if err != nil {
		return nil, err
	}
	im := &Image{W: t.get(tiffWidth), H: t.get(tiffHeight)}
	if err := checkSize("TIFF", im.W, im.H); err != nil {
		return nil, err
	}
	kind := tiffKind{t.get(tiffPhotometric), t.get(tiffBits), t.get(tiffSamples), t.get(tiffExtra)}
	im.Mode = tiffModes[kind]
	depths := t.tags[tiffBits]
	if slices.ContainsFunc(depths, func(b int) bool { return b != depths[0] }) || t.get(tiffSampleFormat) != 1 {
		im.Mode = ""
	}
	if im.Mode == "" {
		return nil, otherTIFF("samples of %d bits, %d to a pixel, photometric %d, format %d are", kind.bits, kind.samples, kind.photometric, t.get(tiffSampleFormat))
	}
	if im.Mode == "I;16" {
		im.Int = make([]int32, im.W*im.H)
	} else {
		im.Pix = make([]byte, im.W*im.H*kind.samples)
	}
	if err := t.blocks(im, kind); err != nil {
		return nil, err
	}
	switch {
	case im.Mode == "P":
		p := t.tags[tiffColors] // all reds, all greens, all blues, of 16 bits
		n := len(p) / 3
		im.Palette = padPalette(nil)
		for i := range min(n, 256) {
			im.Palette[3*i], im.Palette[3*i+1], im.Palette[3*i+2] = byte(p[i]>>8), byte(p[n+i]>>8), byte(p[2*n+i]>>8)
		}
	case kind.extra == 1 && im.Mode == "RGBA":
		clearTransparent(im.Pix)
		unpremultiply(im.Pix, 4)
	case kind.photometric == 0: // white is 0; PIL leaves 16 bits as they are
		for i, v := range im.Pix {
			im.Pix[i] = ^v
		}
	}
	im.orient(t.get(tiffOrientation))
	return im, nil
}

// blocks reads the strips or tiles.
func (t *tiffFile) blocks(im *Image, kind tiffKind) error {
	w, h := im.W, min(t.get(tiffRows), im.H)
	offsets, sizes := t.tags[tiffStripOffsets], t.tags[tiffStripBytes]
	tiled := t.get(tiffTileWidth) > 0
	if tiled {
		w, h = t.get(tiffTileWidth), t.get(tiffTileHeight)
		offsets, sizes = t.tags[tiffTileOffsets], t.tags[tiffTileBytes]
	}
	if err := checkSize("TIFF", w, h); err != nil {
		return err
	}
	planes, perPixel := 1, kind.samples
	if t.get(tiffPlanar) == 2 {
		planes, perPixel = kind.samples, 1
	}
	across, down := divUp(im.W, w), divUp(im.H, h)
	if n := across * down * planes; len(offsets) < n || len(sizes) < n {
		return badTIFF("it names %d of %d strips", min(len(offsets), len(sizes)), n)
	}
	for i := range across * down * planes {
		plane, x, y := i/(across*down), i%across*w, i/across%down*h
		rows := h
		if !tiled {
			rows = min(h, im.H-y)
		}
		if offsets[i]+sizes[i] > len(t.data) {
			return badTIFF("it is truncated")
		}
		stride := divUp(w*perPixel*kind.bits, 8)
		pix, err := t.unpack(t.data[offsets[i]:offsets[i]+sizes[i]], w, rows, stride*rows)
		if err != nil {
			return err
		}
		if err := t.undoPredictor(pix, stride, perPixel, kind.bits); err != nil {
			return err
		}
		for r := range min(rows, im.H-y) {
			t.row(im, kind, pix[r*stride:(r+1)*stride], ((y+r)*im.W+x)*kind.samples+plane, min(w, im.W-x)*perPixel, planes)
		}
	}
	return nil
}

// row stores n samples from at on, every step-th.
func (t *tiffFile) row(im *Image, kind tiffKind, src []byte, at, n, step int) {
	if kind.bits == 8 && step == 1 {
		copy(im.Pix[at:at+n], src)
		return
	}
	mask := byte(1<<kind.bits - 1)
	scale := byte(1)
	if im.Mode != "P" && kind.bits < 8 {
		scale = 255 / mask
	}
	high := 0 // the byte of 16 bits that counts more
	if t.order == binary.LittleEndian {
		high = 1
	}
	for i := range n {
		switch {
		case im.Int != nil:
			im.Int[at] = int32(t.order.Uint16(src[2*i:]))
		case kind.bits == 16:
			im.Pix[at] = src[2*i+high]
		case kind.bits == 8:
			im.Pix[at] = src[i]
		default:
			bit := i * kind.bits
			im.Pix[at] = src[bit/8] >> (8 - kind.bits - bit%8) & mask * scale
		}
		at += step
	}
}

// unpack decompresses a block of w x h pixels to n bytes.
func (t *tiffFile) unpack(src []byte, w, h, n int) ([]byte, error) {
	c := t.get(tiffCompression)
	fax := c == 3 || c == 4
	order := ccitt.MSB
	if t.get(tiffFillOrder) == 2 {
		order = ccitt.LSB
		if !fax {
			src = slices.Clone(src)
			for i, b := range src {
				src[i] = bits.Reverse8(b)
			}
		}
	}
	var r io.Reader = bytes.NewReader(src)
	var err error
	switch {
	case c == 1:
		if len(src) < n {
			return nil, badTIFF("it is truncated")
		}
		return src, nil
	case fax:
		if c == 3 && t.get(tiffT4)&1 != 0 || t.get(tiffBits) != 1 {
			return nil, otherTIFF("two-dimensional group 3 codes are")
		}
		format := map[int]ccitt.SubFormat{3: ccitt.Group3, 4: ccitt.Group4}[c]
		r = ccitt.NewReader(r, order, format, w, h, &ccitt.Options{Invert: true}) // as TIFF has it, white is 0
	case c == 5:
		l := lzw.NewReader(r, lzw.MSB, 8)
		defer l.Close()
		r = l
	case c == 8 || c == 32946:
		r, err = zlib.NewReader(r)
	case c == 32773:
		r = bytes.NewReader(packBits(src, n))
	default:
		return nil, otherTIFF("compression %d is", c)
	}
	out := make([]byte, n)
	if err == nil {
		_, err = io.ReadFull(r, out)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, badTIFF("it is truncated")
	}
	if err != nil {
		return nil, badTIFF("%w", err)
	}
	return out, nil
}

// packBits undoes Apple's run-length code, up to n bytes.
func packBits(src []byte, n int) []byte {
	var out []byte
	for len(src) > 1 && len(out) < n {
		k := int(int8(src[0]))
		switch {
		case k >= 0:
			k = min(k+1, len(src)-1)
			out = append(out, src[1:1+k]...)
			src = src[1+k:]
		case k > -128:
			out = append(out, bytes.Repeat(src[1:2], 1-k)...)
			src = src[2:]
		default:
			src = src[1:]
		}
	}
	return out
}

// undoPredictor adds up horizontal differences.
func (t *tiffFile) undoPredictor(pix []byte, stride, perPixel, depth int) error {
	c, p := t.get(tiffCompression), t.get(tiffPredictor)
	if p == 1 || c != 5 && c != 8 && c != 32946 {
		return nil
	}
	if p != 2 || depth < 8 {
		return otherTIFF("predictor %d of %d-bit samples is", p, depth)
	}
	for row := range slices.Chunk(pix, stride) {
		if depth == 8 {
			for i := perPixel; i < len(row); i++ {
				row[i] += row[i-perPixel]
			}
			continue
		}
		for i := 2 * perPixel; i < len(row); i += 2 {
			t.order.PutUint16(row[i:], t.order.Uint16(row[i:])+t.order.Uint16(row[i-2*perPixel:]))
		}
	}
	return nil
}

// clearTransparent blacks out pixels without alpha.
func clearTransparent(pix []byte) {
	for i := 0; i < len(pix); i += 4 {
		if pix[i+3] == 0 {
			clear(pix[i : i+3])
		}
	}
}

// orient undoes a TIFF orientation of 2 to 8.
func (im *Image) orient(o int) {
	if o < 2 || o > 8 {
		return
	}
	w, h := im.W, im.H
	turned := o >= 5
	if turned {
		w, h = h, w
	}
	c := 1
	if im.Int == nil {
		c = channels[im.Mode]
	}
	pix, ints := make([]byte, len(im.Pix)), make([]int32, len(im.Int))
	for y := range h {
		for x := range w {
			sx, sy := x, y
			if turned {
				sx, sy = y, x
			}
			// Which of the source's axes run backwards.
			if o == 2 || o == 3 || o == 7 || o == 8 {
				sx = im.W - 1 - sx
			}
			if o == 3 || o == 4 || o == 6 || o == 7 {
				sy = im.H - 1 - sy
			}
			from, to := sy*im.W+sx, y*w+x
			if im.Int != nil {
				ints[to] = im.Int[from]
			} else {
				copy(pix[to*c:to*c+c], im.Pix[from*c:])
			}
		}
	}
	im.W, im.H, im.Pix = w, h, pix
	if im.Int != nil {
		im.Int, im.Pix = ints, nil
	}
}
