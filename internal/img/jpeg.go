package img

import (
	"errors"
	"unsafe"

	"github.com/evatool/evatool/internal/fault"
)

// The JPEG decoder gives the bytes of libjpeg-turbo 2.1 as PIL drives it:
// accurate integer IDCT, fancy upsampling, its tables of colour conversion, its
// recovery from damaged entropy-coded data, and PIL's refusal of truncated
// files. Names follow libjpeg where a rule comes from there.

// Markers.
const (
	mSOF0 = 0xC0
	mSOF1 = 0xC1
	mSOF2 = 0xC2
	mDHT  = 0xC4
	mRST0 = 0xD0
	mSOI  = 0xD8
	mEOI  = 0xD9
	mSOS  = 0xDA
	mDQT  = 0xDB
	mDNL  = 0xDC
	mDRI  = 0xDD
	mAPP0 = 0xE0
	mCOM  = 0xFE
	mTEM  = 0x01
)

// maxScans bounds the work that a small progressive file can ask for.
const maxScans = 500

// errTruncated is the end of the data where libjpeg asks for more.
var errTruncated = errors.New("JPEG image is truncated; fetch the file again")

func badJPEG(format string, args ...any) error {
	return fault.Inputf("JPEG image: "+format+"; fetch the file again", args...)
}

// otherJPEG refuses a file that is whole, but of a rare kind.
func otherJPEG(format string, args ...any) error {
	return fault.Inputf("JPEG image: "+format+" not supported; save the image as a baseline JPEG or as PNG", args...)
}

// otherCoding says what the unsupported frame markers stand for.
var otherCoding = map[byte]string{
	0xC3: "lossless coding is", 0xC5: "hierarchical coding is", 0xC6: "hierarchical coding is", 0xC7: "hierarchical coding is",
	0xC9: "arithmetic coding is", 0xCA: "arithmetic coding is", 0xCB: "arithmetic coding is",
	0xCD: "arithmetic coding is", 0xCE: "arithmetic coding is", 0xCF: "arithmetic coding is",
}

// component is one colour plane.
type component struct {
	id, h, v, tq  int
	dcTable       int
	acTable       int
	wBlocks       int // blocks that hold pixels
	hBlocks       int
	width, height int     // pixels before upsampling
	coefStride    int     // blocks to a row of coef
	coef          []block // of a file with several scans
	// plane is the last two rows of MCUs: 16*v rows of wBlocks*8 samples.
	plane   *[]byte   // from the pool
	out     [4][]byte // rows of blocks of the current MCUs
	quant   [64]int16
	latched bool // quant has been set, at the component's first scan
	// bits is how many low bits of a coefficient are unknown, in zigzag order,
	// -1 for all; bitsBefore is the same without the last scan.
	bits, bitsBefore [64]int8
}

// block is 8 x 8 coefficients in natural order.
type block [64]int16

type jpegDecoder struct {
	data   []byte
	pos    int
	marker byte // read but not handled; 0 for none
	// missing is how many bytes of the current segment the file does not have.
	missing int
	acc     uint64
	n       int // valid low bits of acc

	w, h           int
	progressive    bool
	sawSOI, sawSOF bool
	comp           []component
	maxH, maxV     int
	quant          [4]*[64]uint16
	dc, ac         [4]*huffman
	restart        int
	nextRestart    byte
	jfif, adobe    bool
	transform      byte

	scan             []*component // of the current scan
	ss, se, ah, al   int
	insufficientData bool
	err              error
	eobRun           int
	pred             [4]int32
	exact, fast      bool // see replay
	scans            int  // begun, of a file with several
	lastGood         int  // the last row of MCUs of the last scan that had data
	out              *jpegOutput
}

// naturalOrder is the zigzag; its length lets an index be masked.
var naturalOrder = [128]byte{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
	12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
	58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
	// Damaged data can run past the block.
	63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
}

// jpegModes are PIL's modes by number of components.
var jpegModes = map[int]string{1: "L", 3: "RGB", 4: "CMYK"}

// openJPEG reads the headers.
func openJPEG(data []byte) (*Picture, error) {
	d, err := newJPEG(data)
	if err != nil {
		return nil, err
	}
	p := &Picture{Mode: jpegModes[len(d.comp)], W: d.w, H: d.h}
	if d.progressive || len(d.scan) < len(d.comp) {
		for i := range d.comp {
			p.cost += 128 * int64(d.comp[i].blocks())
		}
	}
	p.decode = func(want span, to sink) error {
		if d == nil { // not the first time
			if d, err = newJPEG(data); err != nil {
				return err
			}
		}
		first := d
		d = nil
		b := newBands(p, want.lo, to)
		defer b.close()
		err := first.decode(b, want)
		b.flush()
		return err
	}
	return p, nil
}

// newJPEG reads up to the first scan.
func newJPEG(data []byte) (*jpegDecoder, error) {
	d := &jpegDecoder{data: data}
	sos, err := d.readMarkers()
	if err != nil {
		return nil, err
	}
	if !sos {
		return nil, badJPEG("it has no image data")
	}
	return d, d.setup()
}

// decode puts the rows of want into b.
func (d *jpegDecoder) decode(b *bands, want span) error {
	d.allocate()
	defer d.release()
	d.startOutput(b, want)
	if !d.progressive {
		d.useStandardTables()
	}
	if len(d.scan) < len(d.comp) || d.progressive {
		return d.readScans()
	}
	err := d.readOnly()
	if err != nil && errors.Is(err, errTruncated) && !d.exact && d.restart == 0 {
		again, err := newJPEG(d.data)
		if err != nil {
			return err
		}
		again.exact = true
		return again.decode(b, span{max(want.lo, min(d.out.y, want.hi)), want.hi}) // without the rows that are there
	}
	return err
}

// readOnly reads the scan of a file that has one.
func (d *jpegDecoder) readOnly() error {
	if err := d.readScan(true); err != nil {
		return err
	}
	// What follows must be sound as far as it goes.
	sos, err := d.readMarkers()
	if sos {
		return badJPEG("it has a second scan after the full picture")
	}
	if errors.Is(err, errTruncated) && (d.exact || d.restart != 0) {
		return nil // all pixels are there
	}
	return err
}

// readScans reads all scans of a file that has several.
func (d *jpegDecoder) readScans() error {
	total := 0
	for i := range d.comp {
		total += d.comp[i].blocks()
	}
	mem, free := Scratch(total * int(unsafe.Sizeof(block{})))
	defer free()
	coef := unsafe.Slice((*block)(unsafe.Pointer(&mem[0])), total)
	for i := range d.comp {
		c := &d.comp[i]
		c.coefStride = roundUp(c.wBlocks, c.h)
		c.coef, coef = coef[:c.blocks()], coef[c.blocks():]
		for k := range c.bits {
			c.bits[k], c.bitsBefore[k] = -1, -1
		}
	}
	for n := 1; ; n++ {
		d.scans = n
		if n > maxScans {
			return badJPEG("it has more than %d scans", maxScans)
		}
		if err := d.readScan(false); err != nil {
			return err
		}
		sos, err := d.readMarkers()
		if err != nil {
			return err
		}
		if !sos {
			break
		}
	}
	smooths := d.progressive && d.smooths()
	for mcu := range divUp(d.h, d.maxV*8) {
		for i := range d.comp {
			c := &d.comp[i]
			for y := mcu * c.v; y < min(mcu*c.v+c.v, c.hBlocks); y++ {
				if smooths {
					d.smoothRow(c, y)
					continue
				}
				out := c.blockRow(y)
				for x, row := 0, c.coef[y*c.coefStride:][:c.wBlocks]; x < len(row); x++ {
					idct(out[x*8:], c.wBlocks*8, &row[x], &c.quant)
				}
			}
		}
		d.emit(mcu+1, false)
	}
	return nil
}

// blocks is how many blocks the component's coefficients have.
func (c *component) blocks() int { return roundUp(c.wBlocks, c.h) * roundUp(c.hBlocks, c.v) }

func roundUp(n, m int) int { return (n + m - 1) / m * m }

func divUp(n, m int) int { return (n + m - 1) / m }

// setup checks the frame and lays out the planes (initial_setup).
func (d *jpegDecoder) setup() error {
	if d.w > 65500 || d.h > 65500 {
		return badJPEG("%d x %d pixels is over the limit of 65500 a side", d.w, d.h)
	}
	if err := checkSize("JPEG", d.w, d.h); err != nil {
		return err
	}
	for i := range d.comp {
		c := &d.comp[i]
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 {
			return badJPEG("bad sampling factors %d x %d", c.h, c.v)
		}
		d.maxH, d.maxV = max(d.maxH, c.h), max(d.maxV, c.v)
	}
	for i := range d.comp {
		c := &d.comp[i]
		if d.maxH%c.h != 0 || d.maxV%c.v != 0 {
			return otherJPEG("fractional sampling %d x %d of %d x %d is", c.h, c.v, d.maxH, d.maxV)
		}
		c.wBlocks, c.hBlocks = divUp(d.w*c.h, d.maxH*8), divUp(d.h*c.v, d.maxV*8)
		c.width, c.height = divUp(d.w*c.h, d.maxH), divUp(d.h*c.v, d.maxV)
	}
	return nil
}

// allocate makes the planes.
func (d *jpegDecoder) allocate() {
	for i := range d.comp {
		c := &d.comp[i]
		c.plane = buffer(c.wBlocks * 8 * c.v * 16)
	}
}

// release gives the planes back.
func (d *jpegDecoder) release() {
	for i := range d.comp {
		recycle(d.comp[i].plane)
	}
}

// readByte reads one byte.
func (d *jpegDecoder) readByte() (byte, error) {
	if d.pos >= len(d.data) {
		return 0, errTruncated
	}
	d.pos++
	return d.data[d.pos-1], nil
}

// segment reads a marker's parameters, as far as they are there.
func (d *jpegDecoder) segment() ([]byte, error) {
	if d.pos+2 > len(d.data) {
		return nil, errTruncated
	}
	n := int(d.data[d.pos])<<8 | int(d.data[d.pos+1])
	if n < 2 {
		if d.marker == mDHT || d.marker == mDQT {
			return nil, badJPEG("bad tables of %d bytes", n)
		}
		// libjpeg reads on past the length.
		n = 2
	}
	end := min(d.pos+n, len(d.data))
	d.missing = d.pos + n - end
	s := d.data[d.pos+2 : end]
	d.pos = end
	return s, nil
}

// short is err, unless the segment is cut: libjpeg waits for the rest, having
// refused what is wrong before.
func (d *jpegDecoder) short(err error) error {
	if d.missing > 0 {
		return errTruncated
	}
	return err
}

// nextMarker finds the next marker, skipping what is not one.
func (d *jpegDecoder) nextMarker() error {
	for {
		for {
			c, err := d.readByte()
			if err != nil {
				return err
			}
			if c == 0xFF {
				break
			}
		}
		c := byte(0xFF)
		for c == 0xFF {
			var err error
			if c, err = d.readByte(); err != nil {
				return err
			}
		}
		if c != 0 {
			d.marker = c
			return nil
		}
	}
}

// readMarkers reads up to a start of scan (true) or the end of the image.
func (d *jpegDecoder) readMarkers() (sos bool, err error) {
	for {
		if d.marker == 0 {
			if err := d.nextMarker(); err != nil {
				return false, err
			}
		}
		m := d.marker
		switch {
		case m == mEOI:
			d.marker = 0
			if d.sawSOF && d.maxH == 0 {
				return false, badJPEG("it ends before its image data")
			}
			return false, nil
		case m == mSOI:
			if d.sawSOI {
				return false, badJPEG("it starts twice")
			}
			d.sawSOI = true
		case m >= mRST0 && m <= mRST0+7, m == mTEM && d.maxH > 0: // PIL refuses TEM before the first scan
		default:
			read, ok := segments[m]
			if coding := otherCoding[m]; coding != "" {
				return false, otherJPEG("%s", coding)
			}
			if !ok {
				return false, badJPEG("it has a marker %#x", m)
			}
			s, err := d.segment()
			if err != nil {
				return false, err
			}
			if err := read(d, s, m); err != nil {
				return false, err
			}
			if d.missing > 0 {
				return false, errTruncated
			}
		}
		d.marker = 0
		if m == mSOS {
			return true, nil
		}
	}
}

type segmentReader = func(d *jpegDecoder, s []byte, m byte) error

// segments says how the markers with parameters are read.
var segments = func() map[byte]segmentReader {
	skip := func(*jpegDecoder, []byte, byte) error { return nil }
	t := map[byte]segmentReader{
		mSOF0: (*jpegDecoder).readSOF, mSOF1: (*jpegDecoder).readSOF, mSOF2: (*jpegDecoder).readSOF,
		mDHT: (*jpegDecoder).readDHT, mSOS: (*jpegDecoder).readSOS, mDQT: (*jpegDecoder).readDQT, mDRI: (*jpegDecoder).readDRI,
		mDNL: skip, mCOM: skip,
	}
	for m := byte(mAPP0); m <= mAPP0+15; m++ {
		t[m] = skip
	}
	t[mAPP0] = func(d *jpegDecoder, s []byte, _ byte) error {
		d.jfif = d.jfif || len(s) >= 14 && string(s[:5]) == "JFIF\x00"
		return nil
	}
	t[mAPP0+14] = func(d *jpegDecoder, s []byte, _ byte) error {
		if len(s) >= 12 && string(s[:5]) == "Adobe" {
			d.adobe, d.transform = true, s[11]
		}
		return nil
	}
	return t
}()

func (d *jpegDecoder) readSOF(s []byte, m byte) error {
	if d.sawSOF && (len(s) >= 6 || d.missing == 0) {
		return badJPEG("it has two frames")
	}
	if len(s) < 6 || len(s) != 6+3*int(s[5]) {
		return d.short(badJPEG("bad frame header of %d bytes", len(s)))
	}
	if s[0] != 8 {
		return otherJPEG("%d-bit samples are", s[0])
	}
	d.h, d.w = int(s[1])<<8|int(s[2]), int(s[3])<<8|int(s[4])
	if n := s[5]; n != 1 && n != 3 && n != 4 {
		return otherJPEG("%d components are", n)
	}
	d.sawSOF, d.progressive = true, m == mSOF2
	for s = s[6:]; len(s) > 0; s = s[3:] {
		d.comp = append(d.comp, component{id: int(s[0]), h: int(s[1] >> 4), v: int(s[1] & 15), tq: int(s[2])})
	}
	return checkSize("JPEG", d.w, d.h)
}

func (d *jpegDecoder) readSOS(s []byte, _ byte) error {
	if !d.sawSOF {
		return badJPEG("a scan comes before the frame header")
	}
	if len(s) < 1 {
		return d.short(badJPEG("bad scan header of no bytes"))
	}
	if n := len(s) + d.missing; s[0] < 1 || s[0] > 4 || n != 4+2*int(s[0]) {
		return badJPEG("bad scan header of %d bytes", n)
	}
	d.scan = d.scan[:0]
	for i := range int(s[0]) {
		if 2+2*i >= len(s) {
			return errTruncated
		}
		c := d.scanComponent(int(s[1+2*i]))
		if c == nil {
			return badJPEG("a scan names component %d, which is missing or named twice", s[1+2*i])
		}
		c.dcTable, c.acTable = int(s[2+2*i]>>4), int(s[2+2*i]&15)
		d.scan = append(d.scan, c)
	}
	if d.missing > 0 {
		return errTruncated
	}
	p := s[len(s)-3:]
	d.ss, d.se, d.ah, d.al = int(p[0]), int(p[1]), int(p[2]>>4), int(p[2]&15)
	d.nextRestart = 0
	return nil
}

func (d *jpegDecoder) scanComponent(id int) *component {
search:
	for i := range d.comp {
		if d.comp[i].id != id {
			continue
		}
		for _, c := range d.scan {
			if c == &d.comp[i] {
				continue search
			}
		}
		return &d.comp[i]
	}
	return nil
}

func (d *jpegDecoder) readDQT(s []byte, _ byte) error {
	for len(s) > 0 {
		wide, n := s[0]>>4 != 0, s[0]&15
		size := 64
		if wide {
			size = 128
		}
		if n > 3 {
			return badJPEG("bad quantization table %d", n)
		}
		if len(s) < 1+size {
			return d.short(badJPEG("bad quantization table %d", n))
		}
		if d.quant[n] == nil {
			d.quant[n] = new([64]uint16)
		}
		t := d.quant[n]
		for i := range t {
			if wide {
				t[naturalOrder[i]] = uint16(s[1+2*i])<<8 | uint16(s[2+2*i])
			} else {
				t[naturalOrder[i]] = uint16(s[1+i])
			}
		}
		s = s[1+size:]
	}
	return nil
}

func (d *jpegDecoder) readDRI(s []byte, _ byte) error {
	if n := len(s) + d.missing; n != 2 {
		return badJPEG("bad restart interval of %d bytes", n)
	}
	if d.missing > 0 {
		return errTruncated
	}
	d.restart = int(s[0])<<8 | int(s[1])
	return nil
}

func (d *jpegDecoder) readDHT(s []byte, _ byte) error {
	for len(s) > 16 {
		index, count := s[0], 0
		for _, n := range s[1:17] {
			count += int(n)
		}
		cut := count > len(s)-17
		if count > 256 || count > len(s)-17+d.missing || !cut && index&^0x10 > 3 {
			return badJPEG("bad Huffman table %#x", index)
		}
		if cut {
			return errTruncated
		}
		tables := &d.dc
		if index&0x10 != 0 {
			tables = &d.ac
		}
		if tables[index&3] == nil {
			tables[index&3] = new(huffman)
		}
		tables[index&3].set(s[1:17], s[17:17+count])
		s = s[17+count:]
	}
	if len(s) != 0 {
		return d.short(badJPEG("%d bytes too many in the Huffman tables", len(s)))
	}
	return nil
}
