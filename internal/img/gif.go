package img

import (
	"encoding/binary"

	"github.com/evatool/evatool/internal/fault"
)

// image/gif is not enough: PIL shows the frame on the screen, enlarges the screen
// for a frame that extends beyond it, takes codes as they come from damaged data,
// and has an opinion on what a damaged file still shows (TestOwnReaders).

func badGIF(format string, args ...any) error {
	return fault.Inputf("GIF image: "+format+"; fetch the file again", args...)
}

// gifReader reads what comes before the pixels, as PIL does: what does not end
// the search for a frame is skipped.
type gifReader struct {
	data []byte
	at   int
	err  error
}

func (r *gifReader) next(n int) []byte {
	if r.err != nil || n > len(r.data)-r.at {
		r.err = badGIF("it is truncated")
		return make([]byte, n)
	}
	r.at += n
	return r.data[r.at-n : r.at]
}

// block reads a data block of up to 255 bytes. The last one of the file may be
// short; nil stands for the end of a list.
func (r *gifReader) block() []byte {
	if r.at >= len(r.data) || r.data[r.at] == 0 {
		r.at = min(r.at+1, len(r.data))
		return nil
	}
	from := r.at + 1
	r.at = min(from+int(r.data[r.at]), len(r.data))
	return r.data[from:r.at]
}

// gifPalette reads a colour table; nil stands for the grey ramp, which PIL
// leaves out. Indices beyond the table, which damaged data can have, are black,
// as in Pillow since 10.1.
func (r *gifReader) gifPalette(flags byte) []byte {
	p := r.next(3 << (flags&7 + 1))
	for i, v := range p {
		if int(v) != i/3 {
			return append(p[:len(p):len(p)], make([]byte, 768-len(p))...)
		}
	}
	return nil
}

// gifFrame is the first frame and where it lies on the screen.
type gifFrame struct {
	x, y, w, h int
	interlaced bool
	fill       byte // the index of what the frame does not cover
	bits       byte // of the first codes, less one
	data       []byte
}

// openGIF finds the first frame, on the whole screen: what it does not cover has
// the transparent index, or 0. Mode P, or L without a palette.
func openGIF(data []byte) (*Picture, error) {
	r := &gifReader{data: data}
	head := r.next(13)
	p := &Picture{Mode: "P", W: int(binary.LittleEndian.Uint16(head[6:])), H: int(binary.LittleEndian.Uint16(head[8:]))}
	if head[10]&0x80 != 0 {
		p.palette = r.gifPalette(head[10])
	}
	f := &gifFrame{}
	for r.err == nil {
		switch r.next(1)[0] {
		case '!':
			r.extension(f)
		case ',':
			return p, f.open(r, p)
		case ';':
			return nil, badGIF("it has no picture")
		}
	}
	return nil, r.err
}

// extension skips an extension, but for the transparent index.
func (r *gifReader) extension(f *gifFrame) {
	kind := r.next(1)[0]
	b := r.block()
	switch {
	case kind == 0xF9 && b != nil:
		if len(b) < 3 || b[0]&1 != 0 && len(b) < 4 {
			r.err = badGIF("bad control block of %d bytes", len(b))
		} else if b[0]&1 != 0 {
			f.fill = b[3]
		}
	case kind == 0xFE: // a comment ends with its first empty block
		for b != nil {
			b = r.block()
		}
		return
	case kind == 0xFF && len(b) >= 11 && string(b[:11]) == "NETSCAPE2.0":
		r.block()
	}
	// PIL looks for the end of the list after an empty first block, too.
	for r.block() != nil {
		continue
	}
}

func (f *gifFrame) open(r *gifReader, p *Picture) error {
	d := r.next(9)
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(d[at:])) }
	f.x, f.y, f.w, f.h = u16(0), u16(2), u16(4), u16(6)
	p.W, p.H = max(p.W, f.x+f.w), max(p.H, f.y+f.h)
	if d[8]&0x80 != 0 {
		// A grey ramp of the frame's own does not replace the screen's colours:
		// PIL leaves it out, and then finds those.
		if own := r.gifPalette(d[8]); own != nil {
			p.palette = own
		}
	}
	if p.palette == nil {
		p.Mode = "L"
	}
	f.interlaced, f.bits = d[8]&0x40 != 0, r.next(1)[0]
	f.data = r.data[r.at:]
	switch {
	case r.err != nil:
		return r.err
	case f.w == 0 || f.h == 0:
		return badGIF("bad frame of %d x %d pixels", f.w, f.h)
	case f.bits > 12:
		return badGIF("bad code size of %d bits", f.bits)
	}
	if f.interlaced {
		p.cost = int64(f.w) * int64(f.h)
	}
	p.decode = func(_ span, to sink) error { return f.decode(p, to) }
	return checkSize("GIF", p.W, p.H)
}

func (f *gifFrame) decode(p *Picture, to sink) error {
	b := newBands(p, 0, to)
	defer b.close()
	blank := func(n int) {
		for range n {
			row := b.next()
			for i := range row {
				row[i] = f.fill
			}
		}
	}
	frame := func() []byte {
		if f.w < p.W {
			blank(1)
			return b.im.Pix[len(b.im.Pix)-p.W+f.x:][:f.w]
		}
		return b.next()
	}
	codes := newGIFCodes(f.data, f.bits)
	blank(f.y)
	if !f.interlaced {
		for range f.h {
			if err := codes.read(frame()); err != nil {
				return err
			}
		}
	} else {
		whole, free := Scratch(f.w * f.h)
		defer free()
		for _, pass := range [][2]int{{0, 8}, {4, 8}, {2, 4}, {1, 2}} {
			for y := pass[0]; y < f.h; y += pass[1] {
				if err := codes.read(whole[y*f.w : (y+1)*f.w]); err != nil {
					return err
				}
			}
		}
		for y := range f.h {
			copy(frame(), whole[y*f.w:])
		}
	}
	blank(p.H - f.y - f.h)
	b.flush()
	return nil
}

// gifCodes undoes GIF's LZW. Where the data is damaged it does what PIL's
// decoder does, which reads the file in pieces: past the end code, and past the
// end of the blocks, it goes on as long as there is another piece.
type gifCodes struct {
	data  []byte
	at    int // in data
	limit int // the end of the pieces read so far
	left  int // bytes of the current block
	acc   uint32
	n     int // valid low bits of acc

	bits        byte
	clear, next int
	size        int // bits of a code
	first       bool
	last        int     // the code before
	head        byte    // its first index
	prefix      []int16 // of every code: the code of all indices but the last
	suffix      []byte  // and the last
	stack       []byte  // indices that do not fit the row that was asked for
	buf         []byte
}

// gifPiece is how much of a file PIL reads at a time.
const gifPiece = 1 << 16

const gifTable = 1 << 12

func newGIFCodes(data []byte, bits byte) *gifCodes {
	c := &gifCodes{data: data, bits: bits, clear: 1 << bits,
		prefix: make([]int16, gifTable), suffix: make([]byte, gifTable), buf: make([]byte, gifTable)}
	c.reset()
	return c
}

func (c *gifCodes) reset() {
	c.next, c.size, c.first = c.clear+2, int(c.bits)+1, true
}

// need makes n bytes from at on readable.
func (c *gifCodes) need(n int) error {
	for c.limit-c.at < n {
		if c.limit >= len(c.data) {
			return badGIF("it is truncated")
		}
		c.limit = min(c.limit+gifPiece, len(c.data))
	}
	return nil
}

// code reads the next code.
func (c *gifCodes) code() (int, error) {
	for c.n < c.size {
		if c.left == 0 {
			// A block is used when all of it is there; an empty one ends nothing.
			if err := c.need(1); err != nil {
				return 0, err
			}
			n := int(c.data[c.at])
			if err := c.need(n + 1); err != nil {
				return 0, err
			}
			c.left = n
			c.at++
			continue
		}
		c.acc |= uint32(c.data[c.at]) << c.n
		c.at++
		c.left--
		c.n += 8
	}
	v := int(c.acc) & (1<<c.size - 1)
	c.acc >>= c.size
	c.n -= c.size
	return v, nil
}

// read fills row.
func (c *gifCodes) read(row []byte) error {
	for {
		n := copy(row, c.stack)
		row, c.stack = row[n:], c.stack[n:]
		if len(row) == 0 {
			return nil
		}
		v, err := c.code()
		if err != nil {
			return err
		}
		switch {
		case v == c.clear:
			c.reset()
		case v == c.clear+1: // the end, with pixels missing
			if c.limit >= len(c.data) {
				return badGIF("it is truncated")
			}
			c.limit = min(c.limit+gifPiece, len(c.data))
		case c.first:
			if v > c.clear {
				return badGIF("it is damaged: code %d comes first", v)
			}
			c.first, c.last, c.head = false, v, byte(v)
			c.buf[gifTable-1] = c.head
			c.stack = c.buf[gifTable-1:]
		default:
			if err := c.expand(v); err != nil {
				return err
			}
		}
	}
}

// expand puts the indices of code v on the stack and learns a new code.
func (c *gifCodes) expand(v int) error {
	bad := badGIF
	if v > c.next {
		return bad("it is damaged: code %d of %d", v, c.next)
	}
	at, k := gifTable, v
	if v == c.next { // the code that is learned now: the last one and its first index
		at--
		c.buf[at] = c.head
		k = c.last
	}
	for k >= c.clear {
		if at <= 1 || k >= gifTable {
			return bad("it is damaged: code %d is too long", v)
		}
		at--
		c.buf[at] = c.suffix[k]
		k = int(c.prefix[k])
	}
	at--
	c.head = byte(k)
	c.buf[at] = c.head
	c.stack = c.buf[at:]
	if c.next < gifTable {
		c.prefix[c.next], c.suffix[c.next] = int16(c.last), c.head
		if c.next == 1<<c.size-1 && c.size < 12 {
			c.size++
		}
		c.next++
	}
	c.last = v
	return nil
}
