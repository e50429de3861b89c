package img

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zlib"

	"github.com/evatool/evatool/internal/fault"
)

// image/png is not enough: it gives whole pictures only, 16-bit ones in 8 bytes
// a pixel, and is strict where PIL is not.

func badPNG(format string, args ...any) error {
	return fault.Inputf("PNG image: "+format+"; fetch the file again", args...)
}

// pngFile is what the chunks before the pixels say.
type pngFile struct {
	w, h        int
	depth, kind byte
	interlaced  bool
	bits        int // to a pixel
	pixels      pngPixels
	palette     []byte
}

// pngKind is bit depth and colour type.
type pngKind struct{ depth, kind byte }

// pngModes are PIL's modes, and how many samples a pixel has in the file.
var pngModes = map[pngKind]struct {
	mode    string
	samples int
}{
	{1, 0}: {"1", 1}, {2, 0}: {"L", 1}, {4, 0}: {"L", 1}, {8, 0}: {"L", 1}, {16, 0}: {"I", 1},
	{8, 2}: {"RGB", 3}, {16, 2}: {"RGB", 3},
	{1, 3}: {"P", 1}, {2, 3}: {"P", 1}, {4, 3}: {"P", 1}, {8, 3}: {"P", 1},
	{8, 4}: {"LA", 2}, {16, 4}: {"RGBA", 2},
	{8, 6}: {"RGBA", 4}, {16, 6}: {"RGBA", 4},
}

// chunkLetters are what PIL takes for the name of a chunk.
const chunkLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

// openPNG reads the chunks before the pixels. PIL is strict there and not after
// it: it does not mind the checksums of the pixels, a missing end, or a palette
// that is not needed, cut short or missing. 16-bit grey is mode I, other 16-bit
// samples keep their high byte.
func openPNG(data []byte) (*Picture, error) {
	f := &pngFile{}
	for at := 8; f.pixels.data == nil; {
		if at+8 > len(data) {
			return nil, badPNG("it is truncated")
		}
		n, kind := int(binary.BigEndian.Uint32(data[at:])), string(data[at+4:at+8])
		if kind == "IDAT" {
			f.pixels = pngPixels{data: data[at+8:], left: n}
			break
		}
		next := at + 12 + n
		if next > len(data) {
			return nil, badPNG("it is truncated")
		}
		if crc32.ChecksumIEEE(data[at+4:next-4]) != binary.BigEndian.Uint32(data[next-4:]) {
			return nil, badPNG("chunk %q has a wrong checksum", kind)
		}
		if kind == "IEND" {
			return nil, badPNG("it has no pixels")
		}
		if strings.Trim(kind, chunkLetters) != "" {
			return nil, badPNG("bad chunk name %q", kind)
		}
		if err := f.chunk(kind, data[at+8:next-4]); err != nil {
			return nil, err
		}
		at = next
	}
	k, ok := pngModes[pngKind{f.depth, f.kind}]
	if !ok {
		return nil, badPNG("samples of %d bits do not go with colour type %d", f.depth, f.kind)
	}
	f.bits = int(f.depth) * k.samples
	p := &Picture{Mode: k.mode, W: f.w, H: f.h}
	if p.Mode == "P" {
		p.palette = padPalette(f.palette)
	}
	if f.interlaced {
		p.cost = int64(f.w) * int64(f.h+1) / 2 * int64(sampleBytes(p.Mode))
	}
	p.decode = func(want span, to sink) error { return f.decode(p, want, to) }
	return p, checkSize("PNG", f.w, f.h)
}

func (f *pngFile) chunk(kind string, b []byte) error {
	need := 0
	switch kind {
	case "IHDR":
		if len(b) < 13 {
			return badPNG("bad header of %d bytes", len(b))
		}
		if b[11] != 0 {
			return badPNG("unknown filter method %d", b[11])
		}
		w, h := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		f.w, f.h = int(w), int(h)
		f.depth, f.kind, f.interlaced = b[8], b[9], b[12] != 0
	case "PLTE":
		f.palette = b[:min(len(b)/3, 256)*3]
	case "tRNS":
		switch {
		case f.kind == 0:
			need = 2
		case f.kind == 2:
			need = 6
		}
	case "gAMA":
		need = 4
	case "sRGB":
		need = 1
	case "pHYs":
		need = 9
	}
	if len(b) < need {
		return badPNG("bad chunk %q of %d bytes", kind, len(b))
	}
	return nil
}

// pngPixels reads the bytes of the IDAT chunks, one after another.
type pngPixels struct {
	data []byte
	left int // of the current chunk
}

// skip goes to the next byte and says whether there is one.
func (r *pngPixels) skip() bool {
	for r.left == 0 {
		if len(r.data) < 12 || string(r.data[8:12]) != "IDAT" {
			return false
		}
		r.left = int(binary.BigEndian.Uint32(r.data[4:]))
		r.data = r.data[12:]
	}
	return len(r.data) > 0
}

func (r *pngPixels) Read(b []byte) (int, error) {
	if !r.skip() {
		return 0, io.EOF
	}
	n := copy(b, r.data[:min(r.left, len(r.data))])
	r.data, r.left = r.data[n:], r.left-n
	return n, nil
}

func (f *pngFile) decode(p *Picture, want span, to sink) error {
	in := f.pixels
	z, err := inflate(bufio.NewReader(&in))
	if err != nil {
		return pngError(err)
	}
	defer z.free()
	r := &pngRows{in: z, bpp: (f.bits + 7) / 8}
	b := newBands(p, 0, to)
	defer b.close()
	if f.interlaced {
		err = f.interlace(p, r, b)
	} else {
		r.start((f.w*f.bits + 7) / 8)
		for y := 0; y < f.h && err == nil; y++ {
			if err = r.next(); err == nil {
				f.unpack(b, r.row())
			}
		}
	}
	if err != nil {
		return pngError(err)
	}
	b.flush()
	if err := z.end(); err != nil {
		return pngError(err)
	}
	return nil
}

// inflater is a zlib reader, from a pool.
type inflater struct {
	io.ReadCloser
}

var inflaters sync.Pool

func inflate(r io.Reader) (*inflater, error) {
	z, ok := inflaters.Get().(*inflater)
	if !ok {
		first, err := zlib.NewReader(r)
		return &inflater{first}, err
	}
	return z, z.ReadCloser.(zlib.Resetter).Reset(r, nil)
}

// free gives z back, whatever it has read.
func (z *inflater) free() error {
	inflaters.Put(z)
	return nil
}

// end is an error if the data ends here with a wrong checksum, or is damaged:
// that is what PIL's zlib sees. It does not ask whether there is more data, and
// an absent checksum is no error.
func (z *inflater) end() error {
	var more [1]byte
	var corrupt flate.CorruptInputError
	if _, err := z.Read(more[:]); errors.Is(err, zlib.ErrChecksum) || errors.As(err, &corrupt) {
		return err
	}
	return nil
}

func pngError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badPNG("it is truncated")
	}
	return badPNG("%w", err)
}

// unpack makes the next row of the picture.
func (f *pngFile) unpack(b *bands, src []byte) {
	if b.im.Mode == "I" {
		f.samples(nil, b.nextInt(), src)
	} else {
		f.samples(b.next(), nil, src)
	}
}

// samples makes a row of samples in PIL's mode from a row of the file.
func (f *pngFile) samples(dst []byte, ints []int32, src []byte) {
	switch {
	case f.depth == 8:
		copy(dst, src)
	case f.depth < 8:
		mask := byte(1<<f.depth - 1)
		scale := byte(1)
		if f.kind == 0 {
			scale = 255 / mask
		}
		per := 8 / int(f.depth)
		for x := range dst {
			shift := 8 - int(f.depth)*(x%per+1)
			dst[x] = src[x/per] >> shift & mask * scale
		}
	case f.kind == 0:
		for x := range ints {
			ints[x] = int32(src[2*x])<<8 | int32(src[2*x+1])
		}
	case f.kind == 4:
		for x := range len(dst) / 4 {
			v := src[4*x]
			dst[4*x], dst[4*x+1], dst[4*x+2], dst[4*x+3] = v, v, v, src[4*x+2]
		}
	default:
		highBytes(dst, src)
	}
}

// highBytes takes the first byte of each pair.
func highBytes(dst, src []byte) {
	src = src[:2*len(dst)]
	for len(dst) >= 8 {
		a, b := binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:])
		binary.LittleEndian.PutUint64(dst, squeeze(a)|squeeze(b)<<32)
		dst, src = dst[8:], src[16:]
	}
	for i := range dst {
		dst[i] = src[2*i]
	}
}

// squeeze is bytes 0, 2, 4 and 6 of v, side by side.
func squeeze(v uint64) uint64 {
	v &= 0x00FF00FF00FF00FF
	v = (v | v>>8) & 0x0000FFFF0000FFFF
	return (v | v>>16) & 0xFFFFFFFF
}

// pngRows undoes the filters of rows.
type pngRows struct {
	in        io.Reader
	bpp       int // bytes to the same sample of the pixel before
	cur, prev []byte
}

// start begins a picture, or a pass, with rows of n bytes.
func (r *pngRows) start(n int) {
	if cap(r.cur) < n+1 {
		r.cur, r.prev = make([]byte, n+1), make([]byte, n+1)
	}
	r.cur, r.prev = r.cur[:n+1], r.prev[:n+1]
	clear(r.cur)
}

func (r *pngRows) row() []byte { return r.cur[1:] }

// next reads a row.
func (r *pngRows) next() error {
	r.cur, r.prev = r.prev, r.cur
	if _, err := io.ReadFull(r.in, r.cur); err != nil {
		return err
	}
	cur, prev, bpp := r.cur[1:], r.prev[1:], r.bpp
	prev = prev[:len(cur)]
	switch r.cur[0] {
	case 0:
	case 1:
		for i := bpp; i < len(cur); i++ {
			cur[i] += cur[i-bpp]
		}
	case 2:
		for i, v := range prev {
			cur[i] += v
		}
	case 3:
		for i := range min(bpp, len(cur)) {
			cur[i] += prev[i] / 2
		}
		for i := bpp; i < len(cur); i++ {
			cur[i] += byte((int(cur[i-bpp]) + int(prev[i])) / 2)
		}
	case 4:
		for i := range min(bpp, len(cur)) {
			cur[i] += prev[i]
		}
		paeth(cur, prev, bpp)
	default:
		return badPNG("a row has the unknown filter %d", r.cur[0])
	}
	return nil
}

// paeth undoes the filter of that name, sample by sample, so that the values to
// the left stay in registers.
func paeth(cur, prev []byte, bpp int) {
	for s := range min(bpp, len(cur)) {
		a, c := int(cur[s]), int(prev[s])
		for i := s + bpp; i < len(cur); i += bpp {
			b := int(prev[i])
			pa, pb := b-c, a-c
			pc := pa + pb
			pa, pb, pc = max(pa, -pa), max(pb, -pb), max(pc, -pc)
			best := c
			if pb <= pc {
				best = b
			}
			if pa <= pb && pa <= pc {
				best = a
			}
			a, c = int(byte(best+int(cur[i]))), b
			cur[i] = byte(a)
		}
	}
}

// pngPasses are the first column and row and the steps of Adam7.
var pngPasses = [7][4]int{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}

// interlace reads the seven passes. The last one has the odd rows, in order;
// so only the even ones are kept.
func (f *pngFile) interlace(p *Picture, r *pngRows, b *bands) error {
	c, even := channels[p.Mode], (f.h+1)/2
	kept, free := Scratch(f.w * even * sampleBytes(p.Mode))
	defer free()
	ints := unsafe.Slice((*int32)(unsafe.Pointer(&kept[0])), len(kept)/4)
	line, lineInts := make([]byte, f.w*c), make([]int32, 0)
	if c == 0 {
		lineInts = make([]int32, f.w)
	}
	for _, pass := range pngPasses[:6] {
		x0, y0, dx, dy := pass[0], pass[1], pass[2], pass[3]
		n := (f.w - x0 + dx - 1) / dx
		if n <= 0 {
			continue
		}
		r.start((n*f.bits + 7) / 8)
		for y := y0; y < f.h; y += dy {
			if err := r.next(); err != nil {
				return err
			}
			at := y/2*f.w + x0
			if c == 0 {
				f.samples(nil, lineInts[:n], r.row())
				for i, v := range lineInts[:n] {
					ints[at+i*dx] = v
				}
				continue
			}
			f.samples(line[:n*c], nil, r.row())
			spread(kept[at*c:], line[:n*c], c, dx)
		}
	}
	r.start((f.w*f.bits + 7) / 8)
	for y := range f.h {
		if y&1 == 0 {
			if c == 0 {
				copy(b.nextInt(), ints[y/2*f.w:])
			} else {
				copy(b.next(), kept[y/2*f.w*c:])
			}
			continue
		}
		if err := r.next(); err != nil {
			return err
		}
		f.unpack(b, r.row())
	}
	return nil
}

// spread puts pixels of c bytes dx pixels apart.
func spread(dst, src []byte, c, dx int) {
	switch c {
	case 1:
		for i, v := range src {
			dst[i*dx] = v
		}
	case 4:
		for i := range len(src) / 4 {
			*(*[4]byte)(dst[4*i*dx:]) = [4]byte(src[4*i:])
		}
	default:
		for i := range len(src) / c {
			copy(dst[c*i*dx:c*i*dx+c], src[c*i:])
		}
	}
}

// padPalette is p as 256 triples, a grey ramp where p ends, as PIL has it.
func padPalette(p []byte) []byte {
	out := make([]byte, 768)
	for i := range out {
		out[i] = byte(i / 3)
	}
	copy(out, p)
	return out
}
