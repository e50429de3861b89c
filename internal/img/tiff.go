package img

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"slices"

	"golang.org/x/image/ccitt"
	"golang.org/x/image/tiff/lzw"

	"github.com/evatool/evatool/internal/fault"
)

// x/image/tiff is not enough: it does not read orientations, planes, CMYK, the
// other order of bits and half of the depths (TestOwnReaders), and gives whole
// pictures only.

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
	tags  map[uint16]tiffTag
	kind  tiffKind
	mode  string
	w, h  int // as stored
}

// tiffTag is a list of values, which stay in the file.
type tiffTag struct {
	order binary.ByteOrder
	n     int
	size  int // bytes of each
	v     []byte
}

func (t tiffTag) at(i int) int {
	if t.size == 2 {
		return int(t.order.Uint16(t.v[2*i:]))
	}
	return int(t.order.Uint32(t.v[4*i:]))
}

func badTIFF(format string, args ...any) error {
	return fault.Inputf("TIFF image: "+format+"; fetch the file again", args...)
}

func otherTIFF(format string, args ...any) error {
	return fault.Inputf("TIFF image: "+format+" not supported; save the image as PNG", args...)
}

// get is the first value of a tag.
func (t *tiffFile) get(tag uint16) int {
	if v := t.tags[tag]; v.n > 0 {
		return v.at(0)
	}
	return tiffDefaults[tag]
}

// readTIFF reads the first directory.
func readTIFF(data []byte) (*tiffFile, error) {
	short := badTIFF("it is truncated")
	if len(data) < 8 {
		return nil, short
	}
	t := &tiffFile{data: data, order: binary.LittleEndian, tags: map[uint16]tiffTag{}}
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
		tag, kind := t.order.Uint16(e), t.order.Uint16(e[2:])
		if _, single := tiffDefaults[tag]; !single && !slices.Contains(tiffLists, tag) {
			continue
		}
		size := map[uint16]int{3: 2, 4: 4, 8: 2, 9: 4}[kind] // whole numbers; negative ones are too large for anything
		if size == 0 {
			return nil, otherTIFF("tag %d of type %d is", tag, kind)
		}
		count, v := int(t.order.Uint32(e[4:])), e[8:]
		if count*size > 4 {
			from := int(t.order.Uint32(v))
			if from+count*size > len(data) {
				return nil, short
			}
			v = data[from:]
		}
		v = v[:count*size]
		// Readers do not agree on which one counts.
		if first, ok := t.tags[tag]; ok && (first.size != size || !bytes.Equal(first.v, v)) {
			return nil, badTIFF("it has tag %d twice", tag)
		}
		t.tags[tag] = tiffTag{t.order, count, size, v}
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

// openTIFF reads the first directory. Unlike in other formats, the orientation is
// applied, as PIL does.
func openTIFF(data []byte) (*Picture, error) {
	t, err := readTIFF(data)
	if err != nil {
		return nil, err
	}
	t.w, t.h = t.get(tiffWidth), t.get(tiffHeight)
	if err := checkSize("TIFF", t.w, t.h); err != nil {
		return nil, err
	}
	t.kind = tiffKind{t.get(tiffPhotometric), t.get(tiffBits), t.get(tiffSamples), t.get(tiffExtra)}
	t.mode = tiffModes[t.kind]
	depths := t.tags[tiffBits]
	for i := range min(depths.n, 1<<16) { // a count has 16 bits
		if depths.at(i) != depths.at(0) {
			t.mode = ""
		}
	}
	if t.mode == "" || t.get(tiffSampleFormat) != 1 {
		return nil, otherTIFF("samples of %d bits, %d to a pixel, photometric %d, format %d are", t.kind.bits, t.kind.samples, t.kind.photometric, t.get(tiffSampleFormat))
	}
	blocks, err := t.layout()
	if err != nil {
		return nil, err
	}
	p := &Picture{Mode: t.mode, W: t.w, H: t.h}
	if t.mode == "P" {
		c := t.tags[tiffColors] // all reds, all greens, all blues, of 16 bits
		n := c.n / 3
		p.palette = padPalette(nil)
		for i := range min(n, 256) {
			p.palette[3*i], p.palette[3*i+1], p.palette[3*i+2] = byte(c.at(i)>>8), byte(c.at(n+i)>>8), byte(c.at(2*n+i)>>8)
		}
	}
	o := t.get(tiffOrientation)
	if o >= 5 && o <= 8 {
		p.W, p.H = t.h, t.w
	}
	p.cost = blocks.cost()
	if o >= 3 && o <= 8 {
		p.cost += int64(t.w) * int64(t.h) * int64(t.stored())
	}
	p.decode = func(_ span, to sink) error {
		b := newBands(p, 0, to)
		defer b.close()
		t := *t
		t.mode = b.im.Mode
		if err := t.turned(o, blocks, b); err != nil {
			return err
		}
		b.flush()
		return nil
	}
	return p, nil
}

// tiffBlocks is how the pixels are cut into strips or tiles.
type tiffBlocks struct {
	t              *tiffFile
	w, h           int // of a block
	across, down   int
	planes         int
	samples        int // to a pixel of a plane
	stride         int // bytes to a row of a block
	tiled          bool
	offsets, sizes tiffTag
}

func (t *tiffFile) layout() (*tiffBlocks, error) {
	l := &tiffBlocks{t: t, w: t.w, h: min(t.get(tiffRows), t.h), planes: 1, samples: t.kind.samples}
	l.offsets, l.sizes = t.tags[tiffStripOffsets], t.tags[tiffStripBytes]
	if l.tiled = t.get(tiffTileWidth) > 0; l.tiled {
		l.w, l.h = t.get(tiffTileWidth), t.get(tiffTileHeight)
		l.offsets, l.sizes = t.tags[tiffTileOffsets], t.tags[tiffTileBytes]
	}
	if err := checkSize("TIFF", l.w, l.h); err != nil {
		return nil, err
	}
	if t.get(tiffPlanar) == 2 {
		l.planes, l.samples = t.kind.samples, 1
	}
	l.across, l.down = divUp(t.w, l.w), divUp(t.h, l.h)
	if n := l.across * l.down * l.planes; l.offsets.n < n || l.sizes.n < n {
		return nil, badTIFF("it names %d of %d strips", min(l.offsets.n, l.sizes.n), n)
	}
	l.stride = divUp(l.w*l.samples*t.kind.bits, 8)
	return l, nil
}

// cost is what each needs: a band of rows where blocks lie side by side.
func (l *tiffBlocks) cost() int64 {
	if l.across == 1 {
		return 0
	}
	return int64(min(l.h, l.t.h)) * int64(l.t.w) * int64(l.t.kind.samples*divUp(l.t.kind.bits, 8))
}

// each gives the rows in the order of the file's pixels, unpacked to a byte for
// a sample, or two of those that have 16 bits.
func (l *tiffBlocks) each(row func(src []byte)) error {
	t := l.t
	wide := divUp(t.kind.bits, 8)
	n := t.w * t.kind.samples * wide
	height := 1
	if l.across > 1 {
		height = min(l.h, t.h)
	}
	band, free := Scratch(n * height)
	defer free()
	in := make([]*tiffReader, l.planes)
	for down := range l.down {
		rows := min(l.h, t.h-down*l.h)
		for x := range l.across {
			for p := range in {
				var err error
				if in[p], err = l.open((p*l.down+down)*l.across+x, rows, in[p]); err != nil {
					return err
				}
			}
			width := min(l.w, t.w-x*l.w)
			for y := range rows {
				line := band[y%height*n+x*l.w*t.kind.samples*wide:]
				for p, r := range in {
					src, err := r.next()
					if err != nil {
						return err
					}
					if l.planes == 1 {
						t.spread(line[:width*l.samples*wide], src, 1)
					} else {
						t.spread(line[p*wide:(width*l.planes)*wide], src, l.planes)
					}
				}
				if l.across == 1 {
					row(line[:n])
				}
			}
			for _, r := range in {
				if err := r.end(); err != nil {
					return err
				}
			}
		}
		if l.across > 1 {
			for y := range rows {
				row(band[y*n : (y+1)*n])
			}
		}
	}
	return nil
}

// spread unpacks samples and places them step samples apart.
func (t *tiffFile) spread(dst, src []byte, step int) {
	switch bits := t.kind.bits; {
	case bits >= 8 && step == 1:
		copy(dst, src)
	case bits == 8:
		for i, v := range src[:divUp(len(dst), step)] {
			dst[i*step] = v
		}
	case bits == 16:
		for i := range divUp(len(dst)/2, step) {
			dst[2*i*step], dst[2*i*step+1] = src[2*i], src[2*i+1]
		}
	default:
		mask := byte(1<<bits - 1)
		scale := byte(1)
		if t.mode != "P" {
			scale = 255 / mask
		}
		for i := range divUp(len(dst), step) {
			bit := i * bits
			dst[i*step] = src[bit/8] >> (8 - bits - bit%8) & mask * scale
		}
	}
}

// stored is the bytes of a pixel in the picture's mode, 16-bit grey in two.
func (t *tiffFile) stored() int {
	if t.mode == "I;16" {
		return 2
	}
	return channels[t.mode]
}

// pixels makes a row of each in the picture's mode, 16-bit grey in native order;
// for mode L that is clipped, as on the way to RGB.
func (t *tiffFile) pixels(dst, src []byte) {
	big := t.order == binary.BigEndian
	switch {
	case t.kind.bits == 16 && t.mode == "L":
		for i := range dst {
			dst[i] = byte(min(255, t.order.Uint16(src[2*i:])))
		}
		return
	case t.mode == "I;16":
		for i := 0; i < len(dst); i += 2 {
			binary.NativeEndian.PutUint16(dst[i:], t.order.Uint16(src[i:]))
		}
		return
	case t.kind.bits == 16 && big:
		highBytes(dst, src)
	case t.kind.bits == 16:
		if len(dst) > 0 {
			highBytes(dst[:len(dst)-1], src[1:])
			dst[len(dst)-1] = src[len(src)-1]
		}
	default:
		copy(dst, src)
	}
	switch {
	case t.kind.extra == 1 && t.mode == "RGBA":
		clearTransparent(dst)
		unpremultiply(dst, 4)
	case t.kind.photometric == 0 && t.mode != "P": // white is 0; PIL leaves 16 bits as they are
		for i, v := range dst {
			dst[i] = ^v
		}
	}
}

// put stores pixels as the next row.
func (t *tiffFile) put(b *bands, src []byte) {
	if t.mode != "I;16" {
		copy(b.next(), src)
		return
	}
	dst := b.nextInt()
	for i := range dst {
		dst[i] = int32(binary.NativeEndian.Uint16(src[2*i:]))
	}
}

// turned undoes orientation o, from 1 to 8.
func (t *tiffFile) turned(o int, l *tiffBlocks, b *bands) error {
	c := t.stored()
	n := t.w * c
	if o < 3 || o > 8 {
		line := make([]byte, n)
		return l.each(func(src []byte) {
			t.pixels(line, src)
			if o == 2 {
				mirror(line, c)
			}
			t.put(b, line)
		})
	}
	all, free := Scratch(n * t.h)
	defer free()
	y := 0
	err := l.each(func(src []byte) {
		t.pixels(all[y*n:(y+1)*n], src)
		y++
	})
	if err != nil {
		return err
	}
	// Which of the axes run backwards.
	left, up := o == 3 || o == 7 || o == 8, o == 3 || o == 4 || o == 6 || o == 7
	if o < 5 {
		for y := range t.h {
			if up {
				y = t.h - 1 - y
			}
			line := all[y*n : (y+1)*n]
			if left {
				mirror(line, c)
			}
			t.put(b, line)
		}
		return nil
	}
	// Some columns at a time, so that every cache line is fetched once.
	columns := max(1, min(64, t.w, 4<<20/(t.h*c)))
	lines := make([]byte, columns*t.h*c)
	for x0 := 0; x0 < t.w; x0 += columns {
		k := min(columns, t.w-x0)
		from := x0
		if left {
			from = t.w - x0 - k
		}
		const rows = 32
		for y0 := 0; y0 < t.h; y0 += rows {
			r := min(rows, t.h-y0)
			for i := range k {
				at, step := y0*n+(from+i)*c, n
				if left {
					at = y0*n + (from+k-1-i)*c
				}
				if up {
					at, step = at+(t.h-1-2*y0)*n, -n
				}
				column(lines[(i*t.h+y0)*c:][:r*c], all, at, step, c)
			}
		}
		for i := range k {
			t.put(b, lines[i*t.h*c:(i+1)*t.h*c])
		}
	}
	return nil
}

// column fills dst with pixels of c bytes that lie step bytes apart, from at on.
func column(dst, src []byte, at, step, c int) {
	switch c {
	case 1:
		for i := range dst {
			dst[i] = src[at]
			at += step
		}
	case 2:
		for i := 0; i < len(dst); i += 2 {
			*(*[2]byte)(dst[i:]) = [2]byte(src[at:])
			at += step
		}
	default:
		for i := 0; i < len(dst); i += c {
			copy(dst[i:i+c], src[at:])
			at += step
		}
	}
}

// mirror turns a row of pixels of c bytes around.
func mirror(row []byte, c int) {
	for l, r := 0, len(row)-c; l < r; l, r = l+c, r-c {
		for i := range c {
			row[l+i], row[r+i] = row[r+i], row[l+i]
		}
	}
}

// tiffReader gives the rows of a strip or tile.
type tiffReader struct {
	l     *tiffBlocks
	src   []byte    // of an uncompressed block
	r     io.Reader // of others
	close func() error
	row   []byte
	delta bool // rows are differences
	more  int  // rows of the block that next has not given
}

// open begins block i, of which rows are wanted, after the block of last.
func (l *tiffBlocks) open(i, rows int, last *tiffReader) (*tiffReader, error) {
	t, at, n := l.t, l.offsets.at(i), l.sizes.at(i)
	if at+n > len(t.data) {
		return nil, badTIFF("it is truncated")
	}
	if l.tiled {
		rows = l.h // a tile at the edge is whole
	}
	b := &tiffReader{l: l, src: t.data[at : at+n], more: rows}
	if last != nil {
		b.row = last.row
	}
	return b, b.open(rows)
}

func (b *tiffReader) open(rows int) error {
	t, src := b.l.t, b.src
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
	b.src = nil
	var r io.Reader = bytes.NewReader(src)
	switch {
	case c == 1:
		if len(src) < b.l.stride*rows {
			return badTIFF("it is truncated")
		}
		b.src = src
		return nil
	case fax:
		if c == 3 && t.get(tiffT4)&1 != 0 || t.get(tiffBits) != 1 {
			return otherTIFF("two-dimensional group 3 codes are")
		}
		format := map[int]ccitt.SubFormat{3: ccitt.Group3, 4: ccitt.Group4}[c]
		b.r = ccitt.NewReader(r, order, format, b.l.w, rows, &ccitt.Options{Invert: true}) // as TIFF has it, white is 0
	case c == 5:
		l := lzw.NewReader(r, lzw.MSB, 8)
		b.r, b.close = l, l.Close
	case c == 8 || c == 32946:
		z, err := inflate(r)
		if err != nil {
			return tiffError(err)
		}
		b.r, b.close = z, z.free
	case c == 32773:
		b.r = &packBits{src: src}
	default:
		return otherTIFF("compression %d is", c)
	}
	if b.row == nil {
		b.row = make([]byte, b.l.stride)
	}
	p := t.get(tiffPredictor)
	if p == 1 || c != 5 && c != 8 && c != 32946 {
		return nil
	}
	if b.delta = true; p != 2 || t.kind.bits < 8 {
		return otherTIFF("predictor %d of %d-bit samples is", p, t.kind.bits)
	}
	return nil
}

func tiffError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badTIFF("it is truncated")
	}
	return badTIFF("%w", err)
}

// next is the next row, packed as in the file.
func (b *tiffReader) next() ([]byte, error) {
	b.more--
	if b.src != nil {
		row := b.src[:b.l.stride]
		b.src = b.src[b.l.stride:]
		return row, nil
	}
	if _, err := io.ReadFull(b.r, b.row); err != nil {
		return nil, tiffError(err)
	}
	if b.delta {
		b.undo()
	}
	return b.row, nil
}

// end reads the rows of a tile that lie below the picture, which must be there,
// and the checksum.
func (b *tiffReader) end() error {
	for b.r != nil && b.more > 0 {
		if _, err := b.next(); err != nil {
			return err
		}
	}
	if z, ok := b.r.(*inflater); ok {
		if err := z.end(); err != nil {
			return tiffError(err)
		}
	}
	if b.close != nil {
		return b.close()
	}
	return nil
}

// undo adds up the differences of a row.
func (b *tiffReader) undo() {
	row, n, order := b.row, b.l.samples, b.l.t.order
	if b.l.t.kind.bits == 8 {
		for i := n; i < len(row); i++ {
			row[i] += row[i-n]
		}
		return
	}
	for i := 2 * n; i+1 < len(row); i += 2 {
		order.PutUint16(row[i:], order.Uint16(row[i:])+order.Uint16(row[i-2*n:]))
	}
}

// packBits undoes Apple's run-length code.
type packBits struct {
	src  []byte
	copy int // literal bytes to come
	run  int // repetitions of src[0] to come
}

func (p *packBits) Read(b []byte) (n int, err error) {
	for n < len(b) {
		switch {
		case p.run > 0:
			k := min(p.run, len(b)-n)
			for i := range k {
				b[n+i] = p.src[0]
			}
			if p.run -= k; p.run == 0 {
				p.src = p.src[1:]
			}
			n += k
		case p.copy > 0:
			k := copy(b[n:], p.src[:min(p.copy, len(p.src))])
			if k == 0 {
				return n, io.EOF
			}
			p.src, p.copy, n = p.src[k:], p.copy-k, n+k
		case len(p.src) < 2:
			return n, io.EOF
		default:
			k := int(int8(p.src[0]))
			p.src = p.src[1:]
			if k >= 0 {
				p.copy = k + 1
			} else if k > -128 {
				p.run = 1 - k
			}
		}
	}
	return n, nil
}

// clearTransparent blacks out pixels without alpha.
func clearTransparent(pix []byte) {
	for i := 0; i < len(pix); i += 4 {
		if pix[i+3] == 0 {
			clear(pix[i : i+3])
		}
	}
}
